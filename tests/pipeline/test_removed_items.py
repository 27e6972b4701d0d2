"""Items taken out of the catalogue of a trained model, from the list of ids to the lists of users."""

import numpy as np
import polars as pl
import pytest
from tiny_run import tiny_home

from genrec import Recommender
from genrec.artifacts import read_manifest, verify_artifact
from genrec.cli import main
from genrec.errors import ArtifactError, ConfigError, DataError
from genrec.generation import GenerationRequest, write_lists
from genrec.pipeline.catalogue import add_new_items, remove_known_items
from genrec.tokenizers import ItemIndex
from genrec.tokenizers.trie import build_trie

GONE = ["i03", "i17", "i30", "i31"]


@pytest.fixture(scope="module")
def model():
    return tiny_home() / "run" / "model"


@pytest.fixture(scope="module")
def smaller(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("smaller")
    (folder / "gone.txt").write_text("\n".join([*GONE, GONE[0]]))
    assert remove_known_items(model, folder / "gone.txt", folder / "model") == len(GONE)
    return folder / "model"


def refused(model, tmp_path, names):
    pl.DataFrame({"item_id": names}, schema={"item_id": pl.String}).write_parquet(tmp_path / "gone.parquet")
    with pytest.raises((ArtifactError, ConfigError, DataError)) as caught:
        remove_known_items(model, tmp_path / "gone.parquet", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    return str(caught.value)


def test_lists_are_those_of_the_whole_model_without_the_items(model, smaller):
    before, after = Recommender.from_pretrained(model), Recommender.from_pretrained(smaller)
    kept = [number for number, name in enumerate(before.item_ids) if name not in GONE]
    assert after.item_ids == [before.item_ids[number] for number in kept]
    assert after.titles == [before.titles[number] for number in kept]
    histories = [["i00", "i01"], [], ["i32", "i33", "i10"]]
    exact = before.decoding.model_copy(update={"num_beams": 200})
    ours = after.recommend(histories, k=36, exclude_seen=False, decoding=exact)
    theirs = before.recommend(histories, k=36, exclude_seen=False, blocked=GONE, decoding=exact)
    assert ours.ids == theirs.ids
    np.testing.assert_array_equal(ours.scores, theirs.scores)


def test_identifiers_stay_and_the_trie_is_that_of_what_is_left(model, smaller):
    old, new = ItemIndex.load(model / "tokenizer"), ItemIndex.load(smaller / "tokenizer")
    for number, name in enumerate(new.item_ids):
        assert new.semantic_id(number) == old.semantic_id(old.item_ids.index(name))
    fresh = build_trie(new.codes, new.level_sizes, new.priority)
    for kind in ("child_code", "child_start"):
        for ours, theirs in zip(getattr(new.trie, kind), getattr(fresh, kind), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(new.trie.leaf_items, fresh.leaf_items)


def test_histories_may_still_name_them(model, smaller, tmp_path, caplog):
    write_lists(smaller, GenerationRequest(dataset=tiny_home() / "run" / "dataset"), tmp_path / "lists.parquet")
    assert "4 items that the model does not know are left out" in caplog.text
    lists = pl.read_parquet(tmp_path / "lists.parquet")
    assert lists["user_id"].n_unique() == 60
    assert not set(lists["item_id"]) & set(GONE)


def test_the_folder_is_whole_and_says_where_it_comes_from(model, smaller):
    manifest = verify_artifact(smaller, "model")
    assert manifest.inputs["model"] == read_manifest(model).fingerprint
    assert (manifest.config["removed_items"], manifest.counts["items"]) == (4, 36)
    assert "4 items of `gone.txt` were taken out of the catalogue" in (smaller / "README.md").read_text()


def test_what_is_gone_may_come_back(smaller, tmp_path, capsys):
    items = pl.read_parquet(tiny_home() / "data" / "items.parquet").filter(pl.col("item_id") == "i17")
    items.write_csv(tmp_path / "back.csv")
    add_new_items(smaller, tmp_path / "back.csv", tmp_path / "again")
    (tmp_path / "more.txt").write_text("i00\n")
    places = ["--model", tmp_path / "again", "--items", tmp_path / "more.txt", "--out", tmp_path / "last"]
    assert main(["remove-items", *map(str, places)]) == 0
    assert "1 items removed" in capsys.readouterr().out
    config = read_manifest(tmp_path / "last").config
    assert (config["added_items"], config["removed_items"]) == (1, 5)
    last = Recommender.from_pretrained(tmp_path / "last")
    assert last.item_ids[-1] == "i17"
    assert "i17" in last.recommend([["i10"]], k=36, exclude_seen=False).ids[0]


def test_lists_that_cannot_be_meant_are_refused(model, tmp_path):
    everything = [f"i{number:02d}" for number in range(40)]
    assert "2 items are not in the model's catalogue: 'x', 'y'" in refused(model, tmp_path, ["x", "i00", "y"])
    assert "the list names every item of the model" in refused(model, tmp_path, everything)
    assert "the list names no item" in refused(model, tmp_path, [None])
    sasrec = tiny_home() / "run" / "baselines" / "sasrec"
    assert "learns a score for every item" in refused(sasrec, tmp_path, ["i00"])
    with pytest.raises(ConfigError, match="is read by this command"):
        remove_known_items(model, tmp_path / "gone.parquet", model)
