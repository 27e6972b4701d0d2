import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from genrec.errors import ArtifactError
from genrec.tokenizers.index import ItemIndex


def make_index(**changes: object) -> ItemIndex:
    parts: dict = {
        "codes": np.array([[0, 1], [2, 0], [2, 1]], dtype=np.int64),
        "level_sizes": (3, 2),
        "item_ids": ["a", "b", "c"],
        **changes,
    }
    return ItemIndex(**parts)


def test_an_index_knows_its_catalogue() -> None:
    index = make_index()
    assert (index.num_items, index.num_levels, index.kind) == (3, 2, "sequence")
    assert index.codes.dtype == np.int32
    assert index.semantic_id(1) == (2, 0)
    assert index.trie is index.trie
    assert index.trie.num_leaves == 3
    with pytest.raises(ValueError, match="read-only"):
        index.codes[0, 0] = 1


def test_saved_and_loaded_index_is_the_same(tmp_path: Path) -> None:
    codes = np.array([[0, 1, 4], [2, 0, -1], [1, -1, -1]])
    index = ItemIndex(codes, (3, 2, 5), ["x", "new\nline", "7"], "sequence")
    index.save(tmp_path)
    again = ItemIndex.load(tmp_path)
    np.testing.assert_array_equal(again.codes, codes)
    assert (again.level_sizes, again.item_ids, again.kind) == ((3, 2, 5), ["x", "new\nline", "7"], "sequence")
    assert again.fingerprint == index.fingerprint
    assert again.semantic_id(1) == (2, 0)
    assert pl.read_parquet(tmp_path / "codes.parquet").columns == ["item_id", "code_0", "code_1", "code_2"]


@pytest.mark.parametrize(
    "change",
    [
        {"codes": np.array([[0, 1], [2, 1], [2, 0]])},
        {"level_sizes": (4, 2)},
        {"item_ids": ["a", "b", "d"]},
        {"item_ids": ["ab", "", "c"]},
        {"kind": "set"},
    ],
)
def test_fingerprint_changes_with_every_part(change: dict) -> None:
    assert make_index().fingerprint == make_index().fingerprint
    assert make_index(**change).fingerprint != make_index().fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"codes": np.array([[0, 1], [3, 0], [2, 1]])},
            "code 3 at level 0 of item 1\n  where: row 1\n  expected: codes 0 to 2",
        ),
        ({"codes": np.array([[0, 1], [-1, -1], [2, 1]])}, "code -1 at level 0 of item 1"),
        ({"codes": np.array([[0, -2], [1, 1], [2, 1]])}, "code -2 at level 1 of item 0"),
        (
            {"codes": np.array([[0, 0, 1], [0, -1, 1], [2, 1, 0]]), "level_sizes": (3, 2, 2)},
            "code 1 at level 2 of item 1",
        ),
        ({"codes": np.array([[0, 1], [0, -1], [2, 1]])}, "the semantic ID of item 1 is the beginning of another"),
        ({"codes": np.array([[0.0, 1], [1, 0], [2, 1]])}, "codes are float64"),
        ({"codes": np.array([0, 1, 2])}, "of shape \\(3,\\)"),
        ({"codes": np.zeros((0, 2), int), "item_ids": []}, "at least one item"),
        ({"level_sizes": (3, 2, 2)}, "codes have 2 levels but there are 3 level sizes"),
        ({"item_ids": ["a", "b"]}, "codes have 3 rows but there are 2 item ids"),
        ({"item_ids": ["a", "b", "a"]}, "item id 'a' is 2 times\n  where: rows 0, 2 \\(2 in all\\)"),
        ({"kind": "tree"}, "the kind of an item index is 'tree'"),
    ],
)
def test_what_cannot_be_an_index_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        make_index(**change)


def damage_codes(folder: Path) -> None:
    (folder / "codes.parquet").write_bytes(b"PAR1 nothing")


def remove_codes(folder: Path) -> None:
    (folder / "codes.parquet").unlink()


def change_codes(folder: Path) -> None:
    table = pl.read_parquet(folder / "codes.parquet")
    table.with_columns(code_1=1 - pl.col("code_1")).write_parquet(folder / "codes.parquet")


def empty_cell(folder: Path) -> None:
    table = pl.read_parquet(folder / "codes.parquet")
    table.with_columns(code_1=pl.lit(None, dtype=pl.Int32)).write_parquet(folder / "codes.parquet")


def rename_column(folder: Path) -> None:
    pl.read_parquet(folder / "codes.parquet").rename({"code_1": "second"}).write_parquet(folder / "codes.parquet")


def empty_description(folder: Path) -> None:
    (folder / "index.json").write_text(json.dumps({"kind": "sequence"}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_codes, "codes.parquet is unreadable"),
        (remove_codes, "codes.parquet is missing"),
        (change_codes, "codes.parquet and index.json do not belong together"),
        (empty_cell, "codes.parquet has empty cells"),
        (rename_column, "codes.parquet has the columns item_id, code_0, second"),
        (empty_description, "index.json is not an item index"),
    ],
)
def test_damaged_folders_are_refused(tmp_path: Path, damage: object, message: str) -> None:
    make_index().save(tmp_path)
    damage(tmp_path)
    with pytest.raises(ArtifactError, match=message):
        ItemIndex.load(tmp_path)


def test_priority_is_kept_and_orders_the_items_of_a_leaf(tmp_path):
    codes = np.array([[0, 0], [1, 0], [0, 0]], dtype=np.int32)
    index = ItemIndex(codes, (2, 1), ["a", "b", "c"], priority=np.array([1, 0, 0], dtype=np.int32))
    index.save(tmp_path)
    loaded = ItemIndex.load(tmp_path)
    assert loaded.fingerprint == index.fingerprint != ItemIndex(codes, (2, 1), ["a", "b", "c"]).fingerprint
    assert loaded.trie.leaf_items.tolist() == [2, 0, 1]
