"""New items in the catalogue of a trained model, from the table to the lists."""

import shutil

import numpy as np
import polars as pl
import pytest
import torch
from tiny_run import copy_run, tiny_home

from genrec import Recommender
from genrec.artifacts import read_manifest, verify_artifact, write_manifest
from genrec.artifacts.marks import without_stamp
from genrec.cli import main
from genrec.errors import ArtifactError, ConfigError, DataError
from genrec.pipeline.catalogue import Added, add_new_items
from genrec.tokenizers import ItemIndex

NEW = pl.DataFrame(
    {
        "item_id": ["n1", "n2", "n3"],
        "title": ["Lantern of space", "Orchard of garden", "Comet of river"],
        "genres": ["space adventure", "garden cooking", "river crime"],
    }
)


@pytest.fixture(scope="module")
def model():
    return tiny_home() / "run" / "model"


@pytest.fixture(scope="module")
def larger(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("larger")
    NEW.write_csv(folder / "new.csv")
    assert add_new_items(model, folder / "new.csv", folder / "model").items == 3
    return folder / "model"


def refused(model, tmp_path, frame):
    frame.write_parquet(tmp_path / "new.parquet")
    with pytest.raises((ArtifactError, ConfigError, DataError)) as caught:
        add_new_items(model, tmp_path / "new.parquet", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    return str(caught.value)


def test_old_items_keep_number_identifier_and_probability(model, larger):
    before, after = Recommender.from_pretrained(model), Recommender.from_pretrained(larger)
    assert after.item_ids == [*before.item_ids, "n1", "n2", "n3"]
    assert torch.equal(after.model.item_codes[:40], before.model.item_codes)
    histories = [["i00", "i01"], [], ["i30", "i31", "i32"]]
    old = [f"i{number:02d}" for number in range(40)]
    exact = before.decoding.model_copy(update={"num_beams": 200})
    ours = after.recommend(histories, k=40, exclude_seen=False, allowed=old, decoding=exact)
    theirs = before.recommend(histories, k=40, exclude_seen=False, decoding=exact)
    assert ours.ids == theirs.ids
    np.testing.assert_array_equal(ours.scores, theirs.scores)


def test_new_items_are_named_like_the_old_item_with_the_same_words(larger):
    """Each new item repeats the words of an old one, so that all codes before the suffix must be equal."""
    index = ItemIndex.load(larger / "tokenizer")
    for new, old in (("n1", "i00"), ("n2", "i12"), ("n3", "i23")):
        rows = [index.item_ids.index(name) for name in (new, old)]
        assert index.codes[rows[0], :-1].tolist() == index.codes[rows[1], :-1].tolist()


def test_new_items_are_recommended_and_may_stand_in_histories(larger):
    recommender = Recommender.from_pretrained(larger)
    found = recommender.recommend([["i01", "i02"]], k=43, exclude_seen=False)
    assert {"n1", "n2", "n3"} <= set(found.ids[0])
    assert found.titles[0][found.ids[0].index("n2")] == "Orchard of garden"
    assert len(recommender.recommend([["n1", "i01"]], k=5).ids[0]) == 5
    assert recommender.select_items("genres = 'river crime'")[-1] == "n3"


def test_the_folder_is_whole_and_says_where_it_comes_from(model, larger):
    manifest, source = verify_artifact(larger, "model"), read_manifest(model)
    assert manifest.inputs["model"] == source.fingerprint
    assert manifest.inputs["dataset"] == source.inputs["dataset"]
    assert (manifest.config["added_items"], manifest.counts["items"]) == (3, 43)
    assert manifest.config["recommender"] == source.config["recommender"]
    assert verify_artifact(larger / "tokenizer", "tokenizer").counts["items"] == 43
    card = (larger / "README.md").read_text()
    assert card.startswith(without_stamp((model / "README.md").read_text()))
    assert "3 items of `new.csv` were named by the encoder and the tokenizer" in card


def test_items_may_be_added_again(larger, tmp_path, capsys):
    pl.DataFrame({"item_id": ["m1"], "genres": ["winter romance"]}).write_csv(tmp_path / "more.csv")
    command = ["add-items", "--model", larger, "--items", tmp_path / "more.csv", "--out", tmp_path / "model"]
    assert main([str(part) for part in command]) == 0
    shown = capsys.readouterr().out
    assert "a trained recommender (depth)" in shown
    assert "1 new items, 0 of them share a semantic ID with another" in shown
    assert read_manifest(tmp_path / "model").config["added_items"] == 4
    assert Recommender.from_pretrained(tmp_path / "model").titles[-2:] == ["Comet of river", "m1"]


def test_items_that_nothing_is_known_of_are_counted(model, tmp_path, caplog):
    pl.DataFrame({"item_id": ["n1"], "title": ["☂"], "color": ["red"]}).write_csv(tmp_path / "new.csv")
    assert add_new_items(model, tmp_path / "new.csv", tmp_path / "out").items == 1
    assert "1 new items have nothing that the encoder knows" in caplog.text
    assert "columns that the model's items do not have are left out: color" in caplog.text


def test_more_items_than_suffixes_share_identifiers(model, tmp_path):
    many = pl.DataFrame({"item_id": [f"n{n}" for n in range(12)], "title": ["Lantern of space"] * 12})
    many.with_columns(genres=pl.lit("space adventure")).write_csv(tmp_path / "new.csv")
    added = add_new_items(model, tmp_path / "new.csv", tmp_path / "out")
    index = ItemIndex.load(tmp_path / "out" / "tokenizer")
    semantic_ids = [index.semantic_id(item) for item in range(52)]
    assert added == Added(12, sum(semantic_ids.count(semantic_ids[item]) > 1 for item in range(40, 52)))
    assert added.sharing > 0
    recommender = Recommender.from_pretrained(tmp_path / "out")
    assert len(set(recommender.recommend([["i00"]], k=52, exclude_seen=False).ids[0])) == 52


def test_items_of_the_catalogue_are_refused(model, tmp_path):
    frame = pl.DataFrame({"item_id": ["n1", "i03", "i04"], "title": ["a", "b", "c"]})
    told = refused(model, tmp_path, frame)
    assert "2 items are in the model's catalogue already, such as 'i03'" in told
    assert "rows 2, 3" in told


def test_columns_of_another_kind_are_refused(model, tmp_path):
    told = refused(model, tmp_path, NEW.with_columns(genres=pl.lit([["a"]])))
    assert "the column 'genres' is List" in told
    assert "expected: String, as in the model's items" in told


def test_items_without_words_are_refused_with_their_rows(model, tmp_path):
    told = refused(model, tmp_path, pl.DataFrame({"item_id": ["n1", "n2"], "title": ["Comet", None]}))
    assert "item 'n2' has no text" in told


def test_models_that_score_items_are_refused(tmp_path):
    told = refused(tiny_home() / "run" / "baselines" / "sasrec", tmp_path, NEW)
    assert "'sasrec' learns a score for every item, and has none for new ones" in told
    assert "train again with the new items" in told


def test_the_model_itself_is_never_written(model, tmp_path):
    NEW.write_parquet(tmp_path / "new.parquet")
    with pytest.raises(ConfigError, match="is read by this command"):
        add_new_items(model, tmp_path / "new.parquet", model)


def resigned_without_encoder(folder):
    """A model folder as it is where the encoder is too large to travel with it."""
    shutil.rmtree(folder / "encoder")
    manifest = read_manifest(folder)
    manifest.files = {name: record for name, record in manifest.files.items() if not name.startswith("encoder/")}
    write_manifest(folder, manifest)
    return folder


def test_an_encoder_that_is_elsewhere_is_named(tmp_path, larger):
    run = copy_run(tmp_path / "run")
    model = resigned_without_encoder(run / "model")
    NEW.write_csv(tmp_path / "new.csv")
    with pytest.raises(ArtifactError, match="there is no feature encoder") as caught:
        add_new_items(model, tmp_path / "new.csv", tmp_path / "out")
    assert "--features FOLDER" in str(caught.value)
    add_new_items(model, tmp_path / "new.csv", tmp_path / "out", features=run / "features")
    ours, theirs = (ItemIndex.load(folder / "tokenizer").fingerprint for folder in (tmp_path / "out", larger))
    assert ours == theirs
    other = ["embed", "--dataset", run / "dataset", "--out", tmp_path / "features", "--set", "dim=4"]
    assert main([str(part) for part in [*other, "--set", "min_items=1"]]) == 0
    with pytest.raises(ArtifactError, match="these features are not those that the model was trained with"):
        add_new_items(model, tmp_path / "new.csv", tmp_path / "out", features=tmp_path / "features")
