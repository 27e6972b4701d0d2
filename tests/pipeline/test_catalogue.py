"""A trained model on the items of another data set, from the command line to the lists."""

import numpy as np
import polars as pl
import pytest
from tiny_run import tiny_home, write_tables

from genrec import Recommender
from genrec.artifacts import read_json, read_manifest
from genrec.cli import main
from genrec.config import EvaluationConfig
from genrec.data import Dataset
from genrec.errors import ConfigError, DataError
from genrec.features.build import load_encoder
from genrec.generation import GenerationRequest, write_lists
from genrec.pipeline.evaluate import measure
from genrec.tokenizers import ItemTokenizer

RECIPE = """
data: {path: DATA, k_core: 0}
features: {encoder: lexical, dim: 8, min_items: 1}
tokenizer: {name: fsq, num_levels: 3, grid: [4, 3], decoder_layers: 0, epochs: 20, collisions: bucket,
  allow_collapse: true}
recommender: {name: recgpt, hidden_size: 16, num_layers: 1, num_heads: 1, max_history: 10}
training: {epochs: 4, batch_size: 32, learning_rate: 0.01}
decoding: {top_k: 5}
"""


def run(*arguments) -> int:
    return main([str(part) for part in arguments])


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A tiny recgpt model in ``run/model``, and in ``other`` the same users and items under other ids and numbers."""
    folder = tmp_path_factory.mktemp("catalogue")
    data = write_tables(folder / "data")
    (folder / "recgpt.yaml").write_text(RECIPE.replace("DATA", str(data)))
    assert run("run", folder / "recgpt.yaml", "--out", folder / "run", "--until", "model") == 0
    items = pl.read_parquet(data / "items.parquet").sample(fraction=1, shuffle=True, seed=1)
    items.with_columns(pl.format("new-{}", "item_id").alias("item_id")).write_parquet(folder / "items.parquet")
    table = pl.read_csv(data / "interactions.csv").with_columns(pl.format("new-{}", "item_id").alias("item_id"))
    table.write_csv(folder / "interactions.csv")
    tables = ("--interactions", folder / "interactions.csv", "--items", folder / "items.parquet")
    assert run("prepare", *tables, "--out", folder / "other", "--k-core", 0) == 0
    return folder


def lists_of_both(model, home, folder) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Lists for the items of the training and for the same under other names, which must have the same scores."""
    assert run("generate", "--model", model, "--dataset", home / "run" / "dataset", "--out", folder / "old") == 0
    assert run("generate", "--model", model, "--catalogue", home / "other", "--out", folder / "new") == 0
    old, new = (pl.read_parquet(folder / name).sort("user_id", "rank") for name in ("old", "new"))
    assert old["user_id"].to_list() == new["user_id"].to_list()
    np.testing.assert_allclose(new["score"], old["score"], atol=1e-5)
    return old, new


def test_the_same_items_under_other_names_are_recommended_alike(home, tmp_path):
    """Users, items and texts are those of the training under other ids: so must the lists and their scores be."""
    old, new = lists_of_both(home / "run" / "model", home, tmp_path)
    # Items of equal codes have equal scores and are in the order of their numbers, which is another; a list's last
    # item may be equal to one that found no place.
    tied = old["score"].is_duplicated() | new["score"].is_duplicated() | (old["rank"] == old["rank"].max())
    renamed = new["item_id"].str.strip_prefix("new-")
    assert (~tied).sum() > 20
    assert renamed.filter(~tied).to_list() == old["item_id"].filter(~tied).to_list()


def test_neighbors_in_another_catalogue_are_those_of_the_same_texts(home, tmp_path):
    """A model that ranks by neighborhoods: under other names and numbers the same items get the same scores."""
    recipe = RECIPE.replace("DATA", str(home / "data")).replace("max_history: 10", "max_history: 10, item_loss: 1.0")
    (tmp_path / "near.yaml").write_text(recipe.replace("top_k: 5", "top_k: 5, mode: items"))
    assert run("run", tmp_path / "near.yaml", "--out", tmp_path / "run", "--until", "model") == 0
    old, _ = lists_of_both(tmp_path / "run" / "model", home, tmp_path)
    assert old["score"].n_unique() > 20


def test_items_of_another_shop_are_scored_by_their_codes(home, tmp_path):
    """The reference: codes from the folder's own encoder and tokenizer, log-probabilities summed one by one."""
    model = home / "run" / "model"
    shop = pl.DataFrame({"item_id": ["a", "b", "c"], "title": ["space comet", "garden kettle", "river mirror"]})
    shop.write_parquet(tmp_path / "items.parquet")
    rows = [("x", "a", 1), ("x", "b", 2), ("x", "c", 3), ("y", "c", 1), ("y", "a", 2), ("y", "b", 3)]
    table = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    table.write_csv(tmp_path / "log.csv")
    tables = ("--interactions", tmp_path / "log.csv", "--items", tmp_path / "items.parquet")
    assert run("prepare", *tables, "--out", tmp_path / "shop", "--k-core", 0) == 0
    dataset = Dataset.load(tmp_path / "shop")
    recommender = Recommender.from_pretrained(model).with_catalogue(dataset)
    found = recommender.recommend([["b", "a"], ["c"]], k=3, exclude_seen=False)
    vectors = load_encoder(model / "encoder").transform(dataset.items)
    codes = ItemTokenizer.from_pretrained(model / "tokenizer").encode(vectors)
    number = {name: item for item, name in enumerate(dataset.item_ids)}
    for user, history in enumerate([["b", "a"], ["c"]]):
        network = recommender.model
        rows = network.item_codes.new_tensor([[number[name] for name in history]]).long()
        context = network.encode(rows, rows.new_tensor([len(history)]))
        logits = [level.log_softmax(-1)[0].detach().numpy() for level in network.all_code_logits(context)]
        expected = [sum(logits[level][code] for level, code in enumerate(row)) for row in codes]
        for name, score in zip(found.ids[user], found.scores[user], strict=True):
            assert score == pytest.approx(expected[number[name]], abs=1e-5)
    assert recommender.items.columns[:2] == dataset.items.columns[:2]
    assert recommender.select_items("title = 'space comet'") == ["a"]


def test_a_file_of_histories_may_name_the_new_items(home, tmp_path):
    table = pl.DataFrame({"user_id": ["x", "x"], "item_id": ["new-i03", "new-i04"], "timestamp": [1, 2]})
    table.write_csv(tmp_path / "log.csv")
    command = ("generate", "--model", home / "run" / "model", "--catalogue", home / "other", "--histories")
    assert run(*command, tmp_path / "log.csv", "--top-k", 3, "--out", tmp_path / "lists") == 0
    lists = pl.read_parquet(tmp_path / "lists")
    assert lists["user_id"].to_list() == ["x"] * 3
    assert all(name.startswith("new-") for name in lists["item_id"])


def test_popularity_and_interactions_of_the_catalogue_are_not_read(home, tmp_path):
    """Zero-shot: the same items with other interactions give a user the same list."""
    frame = pl.read_csv(home / "interactions.csv").with_columns(pl.col("item_id").shuffle(seed=2))
    frame.write_csv(tmp_path / "log.csv")
    tables = ("--interactions", tmp_path / "log.csv", "--items", home / "items.parquet")
    assert run("prepare", *tables, "--out", tmp_path / "shuffled", "--k-core", 0) == 0
    model = Recommender.from_pretrained(home / "run" / "model")
    lists = [
        model.with_catalogue(Dataset.load(folder)).recommend([["new-i03", "new-i04"]], k=5)
        for folder in (home / "other", tmp_path / "shuffled")
    ]
    np.testing.assert_allclose(lists[0].scores, lists[1].scores, atol=1e-6)


def test_zero_shot_lists_are_measured(home, tmp_path):
    """The reference: recall counted by hand over the lists of the same histories."""
    model, dataset = home / "run" / "model", Dataset.load(home / "other")
    command = ("evaluate", "--model", model, "--dataset", home / "other", "--out", tmp_path / "metrics.json")
    assert run(*command, "--set", "ks=[5]") == 4
    assert run(*command, "--set", "ks=[5]", "--zero-shot") == 0
    histories, targets = dataset.evaluation("test")
    recommender = Recommender.from_pretrained(model).with_catalogue(dataset)
    named = [[dataset.item_ids[item] for item in histories[row]] for row in range(len(histories))]
    found = recommender.recommend(named, k=5, exclude_seen=recommender.decoding.exclude_seen)
    hits = [target in row for row, target in zip(found.items, targets, strict=True)]
    written = read_json(tmp_path / "metrics.json")
    assert written["metrics"]["recall@5"] == pytest.approx(np.mean(hits))
    codes = recommender.model.item_codes.numpy()
    assert len(np.unique(codes, axis=0)) < len(codes)
    assert written["protocol"]["collision_rate"] == pytest.approx(1 - len(np.unique(codes, axis=0)) / len(codes))
    with pytest.raises(ConfigError, match="--zero-shot is for --model"):
        measure(home / "other", "test", EvaluationConfig(), tmp_path / "m", lists=tmp_path / "lists", zero_shot=True)


def test_lists_of_another_catalogue_are_not_continued(home, tmp_path):
    """The catalogue is among what the lists depend on: the model's own and the other have different descriptions."""
    from genrec.generation import Job

    recommender = Recommender.from_pretrained(home / "run" / "model")
    request = GenerationRequest(dataset=home / "other", catalogue=home / "other")
    assert Job.open(recommender, request).description()["catalogue"] == read_manifest(home / "other").fingerprint
    assert Job.open(recommender, GenerationRequest(dataset=home / "run" / "dataset")).description()["catalogue"] is None


def test_models_with_weights_of_single_items_are_refused(home, tmp_path, capsys):
    command = ("generate", "--model", tiny_home() / "run" / "model", "--catalogue", home / "other")
    assert run(*command, "--out", tmp_path / "lists") == 2
    told = capsys.readouterr().err
    assert "'depth' keeps items.ids.weight for every item that it was trained on" in told
    assert "use_ids: false" in told


def test_features_without_a_catalogue_are_refused(home, tmp_path):
    request = GenerationRequest(dataset=home / "run" / "dataset", features=home / "run" / "features")
    with pytest.raises(ConfigError, match="--features is for --catalogue"):
        write_lists(home / "run" / "model", request, tmp_path / "lists")


def test_items_without_words_are_refused_with_their_rows(home, tmp_path):
    pl.DataFrame({"item_id": ["a", "b"], "title": ["space", None]}).write_parquet(tmp_path / "items.parquet")
    rows = {"user_id": ["x", "x", "x"], "item_id": ["a", "b", "a"], "timestamp": [1, 2, 3]}
    pl.DataFrame(rows).write_csv(tmp_path / "log.csv")
    tables = ("--interactions", tmp_path / "log.csv", "--items", tmp_path / "items.parquet")
    assert run("prepare", *tables, "--out", tmp_path / "shop", "--k-core", 0) == 0
    with pytest.raises(DataError, match="missing_text"):
        Recommender.from_pretrained(home / "run" / "model").with_catalogue(Dataset.load(tmp_path / "shop"))
