"""Tables that are read, encoded and written piece by piece are what plain Python makes of their rows at once."""

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from genrec.config import DataConfig
from genrec.data import events, make_dataset, prepare_dataset, readers
from genrec.data.account import REPEATS, TableAccount
from genrec.data.events import as_categories, encode
from genrec.data.readers import read_table
from genrec.data.schema import without_repeats
from genrec.errors import DataError

Row = tuple[str, str, int | None, str]
NAMES = ["user_id", "item_id", "timestamp", "shop"]


def random_rows(count: int, seed: int) -> list[Row]:
    """Rows of few users, items and times, so that many repeat; every eighth without a time."""
    random = np.random.default_rng(seed)
    return [
        (
            f"user {random.integers(15)}",
            f"{random.integers(12):04d}",
            None if number % 8 == 0 else int(random.integers(1_000, 1_009)),
            f"shop {random.integers(2)}",
        )
        for number in range(count)
    ]


def write_shards(folder: Path, rows: list[Row]) -> Path:
    """Three shards of unlike lengths, the first in row groups of ten."""
    folder.mkdir()
    table = pl.DataFrame(rows, schema=NAMES, orient="row")
    for number, part in enumerate((table[:97], table[97:103], table[103:])):
        part.write_parquet(folder / f"part-{number}.parquet", row_group_size=10)
    return folder


def plainly(rows: list[Row], k: int) -> list[Row]:
    """What stays of rows, in the order of the prepared table."""
    seen, kept = set(), []
    for row in rows:
        if row[2] is None or row not in seen:
            kept.append(row)
        seen.add(row)
    while True:
        users, items = Counter(row[0] for row in kept), Counter(row[1] for row in kept)
        left = [row for row in kept if users[row[0]] >= k and items[row[1]] >= k]
        if len(left) == len(kept):
            return sorted(kept, key=lambda row: (row[0], -1 if row[2] is None else row[2]))
        kept = left


@pytest.mark.parametrize("k", [0, 3, 8])
def test_a_prepared_folder_of_shards(tmp_path, monkeypatch, k):
    monkeypatch.setattr(readers, "PIECE_ROWS", 7)
    monkeypatch.setattr(events, "PIECE_ROWS", 11)
    rows = random_rows(160, seed=k)
    config = DataConfig(interactions=str(write_shards(tmp_path / "log", rows)), k_core=k)
    dataset = prepare_dataset(config, tmp_path / "out")
    wanted = plainly(rows, k)
    assert 20 < len(wanted) < len(rows)
    assert dataset.interactions.rows() == wanted
    assert dataset.user_ids == sorted({row[0] for row in wanted})
    assert dataset.item_ids == sorted({row[1] for row in wanted})
    histories = dataset.full()
    for row, name in enumerate(dataset.user_ids):
        assert [dataset.item_ids[item] for item in histories[row]] == [taken[1] for taken in wanted if taken[0] == name]


@pytest.mark.parametrize("size", [1, 4, 5, 9, 23])
def test_the_file_has_the_groups_of_a_table_written_at_once(tmp_path, monkeypatch, size):
    monkeypatch.setattr(events, "PIECE_ROWS", size)
    frame = pl.DataFrame(random_rows(23, seed=1), schema=NAMES, orient="row")
    catalogue = pl.DataFrame({"item_id": frame["item_id"].unique().sort()})
    made = encode(as_categories(frame), catalogue)
    made.table().sink_parquet(tmp_path / "pieces.parquet", row_group_size=size)
    frame.write_parquet(tmp_path / "whole.parquet", row_group_size=size)
    assert pl.read_parquet(tmp_path / "pieces.parquet").equals(frame)
    groups = [pq.ParquetFile(tmp_path / f"{name}.parquet").metadata for name in ("pieces", "whole")]
    sizes = [[part.row_group(group).num_rows for group in range(part.num_row_groups)] for part in groups]
    assert sum(sizes[0]) == 23
    assert sizes[0] == sizes[1]


def test_a_table_that_is_asked_for_less(monkeypatch):
    monkeypatch.setattr(events, "PIECE_ROWS", 4)
    frame = pl.DataFrame(random_rows(23, seed=2), schema=NAMES, orient="row")
    made = encode(as_categories(frame), pl.DataFrame({"item_id": frame["item_id"].unique().sort()}))
    asked = [pl.col("user_id") == frame["user_id"][3], pl.col("timestamp") > 1_002]
    wanted = frame.filter(*asked).select("shop", "item_id")
    assert 0 < wanted.height < 23
    assert made.table().filter(*asked).select("shop", "item_id").collect().equals(wanted)


@pytest.mark.parametrize(
    "shards",
    [
        [{"user_id": ["a", "b"], "item_id": ["1", "2"]}, {"user_id": [7, 8], "item_id": [1, 3]}],
        [{"user_id": [7, 8], "item_id": ["1", "2"]}, {"user_id": ["a", "b"], "item_id": ["1", "2"]}],
        [{"user_id": ["a", "a"], "item_id": [1, 2]}, {"user_id": ["a", None], "item_id": [2, 3]}],
        [{"user_id": ["a", "a"], "item_id": ["1", "2"]}, {"user_id": [None, None], "item_id": ["2", "3"]}],
        [{"user_id": ["a", "a"], "item_id": ["1", "2"]}, {"user_id": ["b", "b"]}],
    ],
)
def test_categories_say_what_the_text_says(tmp_path, shards):
    for number, shard in enumerate(shards):
        pl.DataFrame(shard).write_parquet(tmp_path / f"{number}.parquet")
    wanted = read_table(tmp_path, "interactions")
    found = read_table(tmp_path, "interactions", categories=True)
    texts = ["user_id", "item_id"]
    assert [name for name, dtype in found.schema.items() if isinstance(dtype, pl.Categorical)] == texts
    assert wanted.schema == dict.fromkeys(texts, pl.String())
    assert found.with_columns(pl.col(texts).cast(pl.String)).equals(wanted)


def test_ids_that_come_as_categories(tmp_path):
    frame = pl.DataFrame(random_rows(160, seed=5), schema=NAMES, orient="row")
    items = pl.DataFrame({"item_id": frame["item_id"].unique().sort(descending=True)}).with_columns(
        title=pl.lit("Title")
    )
    plain = make_dataset(frame, items, DataConfig(k_core=0), tmp_path / "plain")
    kinds = {"user_id": pl.Categorical, "item_id": pl.Enum(items["item_id"])}
    coded = make_dataset(
        frame.cast(kinds), items.cast({"item_id": pl.Categorical}), DataConfig(k_core=0), tmp_path / "c"
    )
    assert coded.fingerprint == plain.fingerprint


def test_an_empty_id_is_refused_with_its_row_in_the_whole_table(tmp_path):
    rows = random_rows(160, seed=3)
    rows[101] = ("", *rows[101][1:])
    folder = write_shards(tmp_path / "log", rows)
    with pytest.raises(DataError, match=r"user_id is empty: ''[\s\S]*row 102\b"):
        prepare_dataset(DataConfig(interactions=str(folder)), tmp_path / "out")


@pytest.mark.parametrize("coded", [False, True])
def test_repeats_among_rows_most_of_which_repeat(coded):
    rows = random_rows(5_000, seed=4)
    frame = pl.DataFrame(rows, schema=NAMES, orient="row")
    seen, wanted = set(), []
    for row in rows:
        if row[2] is None or row not in seen:
            wanted.append(row)
        seen.add(row)
    assert len(wanted) < 3_100
    account = TableAccount("interactions")
    assert without_repeats(as_categories(frame) if coded else frame, account).rows() == wanted
    assert account.rows_left_out(REPEATS) == 5_000 - len(wanted)
