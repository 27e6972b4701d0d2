"""Models that read more of histories than items, by the command line and in Python, on one small data set."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from tiny_run import tiny_home

from genrec import Recommender
from genrec.alignment.setup import check_recipe
from genrec.cli import main
from genrec.config import AlignmentConfig, DataConfig, RecommenderConfig, TrainingConfig, load_recipe
from genrec.data import Dataset, Histories, make_dataset, prepare_dataset
from genrec.distributed.world import World
from genrec.errors import ConfigError
from genrec.generation import GenerationRequest, Job
from genrec.models import build_recommender
from genrec.pipeline.resolve import resolve_recipe
from genrec.training.batches import WindowDataset, cut_windows
from genrec.training.memory import PLAIN
from genrec.training.train import make_loader


def train(out: Path, *settings: str, dataset: Path | None = None) -> int:
    run = tiny_home() / "run"
    command = ["train", str(tiny_home() / "tiny.yaml"), "--dataset", str(dataset or run / "dataset"), "--out", str(out)]
    command += ["--features", str(run / "features"), "--tokenizer", str(run / "tokenizer")]
    return main([*command, *(part for text in settings for part in ("--set", text))])


@pytest.fixture(scope="module")
def timed(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("timed") / "model"
    assert train(out, "recommender.use_times=true") == 0
    return out


def lists_of(model: Path, out: Path, *options: object) -> pl.DataFrame:
    assert main(["generate", "--model", str(model), "--out", str(out), *map(str, options)]) == 0
    return pl.read_parquet(out).sort("user_id", "rank")


def test_lists_follow_the_times_of_the_histories(timed, tmp_path):
    log = pl.read_csv(tiny_home() / "data" / "interactions.csv")
    log.write_csv(tmp_path / "log.csv")
    later = log.with_columns(pl.col("timestamp") + 1_000)
    later.write_csv(tmp_path / "later.csv")
    slower = log.with_columns(pl.col("timestamp") * 3 - 3_200_000_000)
    slower.write_csv(tmp_path / "slower.csv")
    log.drop("timestamp").write_csv(tmp_path / "untimed.csv")
    from_dataset = lists_of(timed, tmp_path / "a.parquet", "--dataset", tiny_home() / "run" / "dataset", "--explain")
    assert (from_dataset["code_log_probs"].list.sum() - from_dataset["score"]).abs().max() < 1e-5
    from_table = lists_of(timed, tmp_path / "b.parquet", "--histories", tmp_path / "log.csv")
    assert from_table["score"].to_list() == from_dataset["score"].to_list()
    # Only what lies between two items of a history is read, not how long ago they were.
    moved = lists_of(timed, tmp_path / "b.parquet", "--histories", tmp_path / "later.csv")
    assert moved["score"].to_list() == from_table["score"].to_list()
    for name in ("slower", "untimed"):
        other = lists_of(timed, tmp_path / "b.parquet", "--histories", tmp_path / f"{name}.csv")
        assert other.height == from_table.height
        assert (other["score"] != from_table["score"]).mean() > 0.9


def test_blocks_that_were_made_with_other_times_are_not_kept(timed, tmp_path):
    plain, model = (Recommender.from_pretrained(path) for path in (tiny_home() / "run" / "model", timed))
    log = pl.DataFrame({"user_id": ["a", "a"], "item_id": ["i00", "i01"], "timestamp": [10, 20]})
    log.write_csv(tmp_path / "log.csv")
    log.with_columns(timestamp=pl.Series([10, 900])).write_csv(tmp_path / "other.csv")
    requests = [GenerationRequest(histories=tmp_path / name) for name in ("log.csv", "other.csv")]
    first, second = (Job.open(model, request).description() for request in requests)
    assert {name for name in first if first[name] != second[name]} == {"histories"}
    first, second = (Job.open(plain, request).description() for request in requests)
    assert first == second


def test_lists_in_python_and_of_inspect_are_those_of_the_command(timed, tmp_path, capsys):
    recommender, dataset = Recommender.from_pretrained(timed), Dataset.load(tiny_home() / "run" / "dataset")
    lists = lists_of(timed, tmp_path / "a.parquet", "--dataset", dataset.path).filter(user_id="u07")
    log = dataset.interactions.filter(user_id="u07")
    found = recommender.recommend(log, k=5)
    assert found.ids[0] == lists["item_id"].to_list()
    assert np.allclose(found.scores[0], lists["score"])
    without = recommender.recommend([log["item_id"].to_list()], k=5)
    assert not np.allclose(without.scores, found.scores)
    unknown = recommender.recommend(log.drop("timestamp"), k=5)
    assert np.array_equal(unknown.scores, without.scores)
    capsys.readouterr()
    assert main(["inspect", str(timed), "--dataset", str(dataset.path), "--user", "u07"]) == 0
    shown = capsys.readouterr().out
    assert all(f"{score:.2f}" in shown for score in lists["score"])


def test_measured_on_validation_as_in_training(timed, tmp_path):
    """What validation told while training is what `evaluate` tells of the model that was kept."""
    out = tmp_path / "metrics.json"
    command = ["evaluate", "--model", str(timed), "--dataset", str(tiny_home() / "run" / "dataset"), "--out", str(out)]
    assert main([*command, "--split", "validation", "--set", "ks=[5, 10]", "--set", "bootstrap_samples=0"]) == 0
    best = json.loads((timed / "training.json").read_text())["best_metric"]
    assert json.loads(out.read_text())["metrics"]["ndcg@10"] == pytest.approx(best)


def test_batches_hold_what_is_read_and_can_be_cut(timed):
    model, dataset = Recommender.from_pretrained(timed).model, Dataset.load(tiny_home() / "run" / "dataset")
    windows = cut_windows(dataset.train(), 11)
    batch = WindowDataset(windows, 11, model.settings)[3]
    times = windows.timestamps[windows.offsets[3] : windows.offsets[4]]
    assert batch["time_deltas"].tolist() == [[-1, *np.diff(times)]]
    assert set(batch) == {"items", "lengths", "time_deltas"} < PLAIN
    plain = Recommender.from_pretrained(tiny_home() / "run" / "model").model
    assert set(WindowDataset(windows, 11, plain.settings)[3]) == {"items", "lengths"}
    # A process without users of its own steps with a window of nothing, through all weights.
    loader = make_loader(model.train(), dataset, TrainingConfig(batch_size=8), World())
    model(**loader.stand_in()).loss.backward()
    assert all(weight.grad is not None for weight in model.parameters())


def test_data_without_times_are_refused(tmp_path, capsys):
    log = pl.read_csv(tiny_home() / "data" / "interactions.csv").drop("timestamp")
    items = pl.read_parquet(tiny_home() / "data" / "items.parquet")
    untimed = make_dataset(log, items, DataConfig(k_core=0), tmp_path / "dataset").path
    assert train(tmp_path / "model", "recommender.use_times=true", dataset=untimed) == 2
    message = capsys.readouterr().err
    for part in ("the data set has none", "recommender.use_times", "timestamp", "genrec prepare --interactions FILE"):
        assert part in " ".join(message.split())
    assert not (tmp_path / "model").exists()
    # A whole run says so before it makes vectors and semantic IDs.
    out = tmp_path / "run"
    given = ["--set", f"data={{path: {untimed}}}", "--set", "recommender.use_times=true"]
    assert main(["run", str(tiny_home() / "tiny.yaml"), *given, "--out", str(out)]) == 2
    assert "recommender.use_times" in capsys.readouterr().err
    assert not (out / "features").exists()


def test_alignment_refuses_models_that_read_more_than_items(timed):
    recipe = load_recipe(tiny_home() / "tiny.yaml", ["alignment.method=dpo", "recommender.use_times=true"])
    with pytest.raises(ConfigError, match="items of histories alone, the model also use_times"):
        resolve_recipe(recipe)
    model, dataset = Recommender.from_pretrained(timed).model, Dataset.load(tiny_home() / "run" / "dataset")
    with pytest.raises(ConfigError, match=r"recommender\.use_times: false"):
        check_recipe(AlignmentConfig(method="dpo"), model, dataset)


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Path:
    """A folder with `users.csv`, which lacks one user and has one too many, and the data set prepared with it."""
    home, data = tmp_path_factory.mktemp("people"), tiny_home() / "data"
    tastes = ("space", "garden", "river", "winter")
    rows = [(f"u{user:02d}", tastes[user % 4], 20 + user % 3, user / 7) for user in range(59)]
    columns = ["user_id", "taste", "age", "score"]
    table = pl.DataFrame([*rows, ("nobody", "space", 20, 0.5)], schema=columns, orient="row")
    table.sample(fraction=1.0, shuffle=True, seed=1).write_csv(home / "users.csv")
    command = ["prepare", "--interactions", str(data / "interactions.csv"), "--items", str(data / "items.parquet")]
    command += ["--k-core", "0", "--out", str(home / "dataset"), "--users", str(home / "users.csv")]
    assert main(command) == 0
    return home


@pytest.fixture(scope="module")
def personal(people) -> Path:
    out = people / "model"
    assert train(out, "recommender.use_user_features=true", "training.epochs=6", dataset=people / "dataset") == 0
    return out


def test_the_data_set_holds_the_users_columns_and_is_the_same_otherwise(people):
    plain, known = tiny_home() / "run" / "dataset", people / "dataset"
    ours, theirs = (json.loads((path / "manifest.json").read_text()) for path in (known, plain))
    assert {name for name in ours["files"] if ours["files"][name] != theirs["files"][name]} == {
        "account.json",
        "users.parquet",
    }
    assert set(ours["inputs"]) - set(theirs["inputs"]) == {"users"}
    users = pl.read_parquet(known / "users.parquet")
    assert users.columns == ["user_id", "taste", "age", "score"]
    assert users["user_id"].to_list() == pl.read_parquet(plain / "users.parquet")["user_id"].to_list()
    given = pl.read_csv(people / "users.csv").filter(user_id="u06").row(0)
    assert users.filter(user_id="u06").row(0) == given
    assert users.filter(user_id="u59").row(0) == ("u59", None, None, None)
    assert Dataset.load(plain).profiles is None
    # What has fractions is not read.
    assert Dataset.load(known).profiles.columns == ("taste", "age")


def test_without_a_table_of_users_the_file_is_as_ever(tmp_path):
    written = tiny_home() / "run" / "dataset" / "users.parquet"
    pl.DataFrame({"user_id": pl.read_parquet(written)["user_id"]}).write_parquet(tmp_path / "users.parquet")
    assert (tmp_path / "users.parquet").read_bytes() == written.read_bytes()


def test_lists_follow_what_is_known_of_users(personal, people, tmp_path):
    assert json.loads((personal / "config.json").read_text())["settings"]["user_columns"] == ["taste", "age"]
    log = tiny_home() / "data" / "interactions.csv"
    of_dataset = lists_of(personal, tmp_path / "a.parquet", "--dataset", people / "dataset", "--explain")
    assert (of_dataset["code_log_probs"].list.sum() - of_dataset["score"]).abs().max() < 1e-5
    table = ["--histories", log, "--users", people / "users.csv"]
    assert lists_of(personal, tmp_path / "b.parquet", *table)["score"].to_list() == of_dataset["score"].to_list()
    # Of the user whom the table lacks nothing was known before either.
    strangers = lists_of(personal, tmp_path / "b.parquet", "--histories", log)
    same = strangers["score"] == of_dataset["score"]
    assert strangers.filter(same)["user_id"].unique().to_list() == ["u59"]
    bare = lists_of(personal, tmp_path / "b.parquet", "--dataset", tiny_home() / "run" / "dataset")
    assert bare["score"].to_list() == strangers["score"].to_list()


def test_users_without_a_history_and_values_never_seen_are_answered(personal):
    recommender = Recommender.from_pretrained(personal)
    users = pl.DataFrame({"user_id": ["0", "1", "2"], "taste": ["space", "winter", "unheard of"], "unread": [1, 2, 3]})
    found = recommender.recommend([[], [], [], []], k=5, users=users)
    assert len({tuple(row) for row in found.scores.tolist()}) == 4
    assert np.allclose(found.scores[3], recommender.recommend([[]], k=5).scores[0])
    again = recommender.recommend([[], []], k=5, users=users.head(1).to_dict(as_series=False))
    assert np.allclose(again.scores[0], found.scores[0])


def test_columns_that_are_not_there_are_refused(people, tmp_path, capsys):
    on = "recommender.use_user_features=true"

    def refused(*settings: str, dataset: Path | None = None) -> str:
        capsys.readouterr()
        assert train(tmp_path / "model", on, *settings, dataset=dataset) == 2
        return " ".join(capsys.readouterr().err.split())

    message = refused()
    assert "columns of users and the data set has none" in message
    assert "genrec prepare --users FILE" in message
    message = refused("recommender.user_columns=[taste, score]", dataset=people / "dataset")
    assert "the column 'score' of users and the data set has others" in message
    assert "taste, age" in message


def test_a_table_of_users_that_cannot_be_used_is_refused(people, tmp_path, capsys):
    log = ["--interactions", tiny_home() / "data" / "interactions.csv"]

    def refused(*options: object) -> str:
        capsys.readouterr()
        assert main(["prepare", "--out", str(tmp_path / "out"), *map(str, options)]) == 3
        return " ".join(capsys.readouterr().err.split())

    (tmp_path / "twice.csv").write_text("user_id,age\nu01,3\nu02,4\nu01,5\n")
    assert "1 users occur in several rows that differ, such as 'u01'" in refused(
        *log, "--users", tmp_path / "twice.csv"
    )
    (tmp_path / "nameless.csv").write_text("users,age\nu01,3\n")
    assert "there is no column 'user_id'" in refused(*log, "--users", tmp_path / "nameless.csv")
    assert "there is no file" in refused(*log, "--users", tmp_path / "absent.csv")
    lists = ["generate", "--model", tiny_home() / "run" / "model", "--dataset", people / "dataset"]
    assert main([*map(str, lists), "--users", str(people / "users.csv"), "--out", str(tmp_path / "x.parquet")]) == 2
    assert "--users is for --histories" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="prepared already"):
        prepare_dataset(DataConfig(path=str(people / "dataset"), users=str(people / "users.csv")), tmp_path / "again")


def test_a_scorer_or_a_collaborative_model_that_reads_more_is_refused(tmp_path):
    torch.manual_seed(0)
    settings = {"hidden_size": 16, "num_heads": 1, "use_times": True}
    model = build_recommender(RecommenderConfig(name="sasrec", **settings), num_items=40)
    model.save_pretrained(tmp_path / "sasrec")
    (tmp_path / "sasrec" / "manifest.json").write_text("{}")
    config = RecommenderConfig(name="allmrec", stage="align", collaborative=str(tmp_path / "sasrec"))
    from genrec.models import ItemTexts

    texts = ItemTexts(["a"] * 40, ["a"] * 40)
    features, histories = np.zeros((40, 8), dtype=np.float32), Histories.from_lists([[0, 1]])
    with pytest.raises(ConfigError, match="trained with use_times"):
        build_recommender(config, num_items=40, features=features, texts=texts, histories=histories)
