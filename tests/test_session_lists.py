"""Lists as sessions from the command line and from Python, by a model that a run trained to write them."""

import json

import polars as pl
import pytest
from tiny_run import tiny_home, write_recipe

from genrec import Recommender
from genrec.cli import main
from genrec.config import DecodingConfig

SEQ2SEQ = (
    "{name: seq2seq, session_size: 3, hidden_size: 16, num_layers: 1, num_heads: 1, head_size: 16, max_history: 8}"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sessions")
    recipe = write_recipe(folder, tiny_home() / "run" / "dataset")
    options = ["--set", f"recommender={SEQ2SEQ}", "--set", "decoding.mode=session", "--set", "decoding.num_beams=6"]
    options += ["--set", "evaluation.baselines=[]", "--set", "training.epochs=1"]
    assert main(["run", str(recipe), "--out", str(folder / "run"), "--until", "evaluation", *options]) == 0
    return folder / "run"


def test_a_run_trains_validates_and_measures_by_sessions(run):
    assert json.loads((run / "model" / "decoding.json").read_text())["mode"] == "session"
    assert json.loads((run / "metrics.json").read_text())["protocol"]["session_size"] == 3
    lists = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any("ndcg@10" in line.get("validation", {}) for line in lists)


def test_the_command_and_python_write_the_same_sessions(run, tmp_path):
    recommender = Recommender.from_pretrained(run / "model")
    histories = {"u1": ["i00", "i01", "i02"], "u2": ["i39"]}
    rows = [(user, item) for user, items in histories.items() for item in items]
    pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row").write_csv(tmp_path / "log.csv")
    command = ["generate", "--model", str(run / "model"), "--histories", str(tmp_path / "log.csv")]
    assert main([*command, "--out", str(tmp_path / "lists.parquet"), "--explain"]) == 0
    written = pl.read_parquet(tmp_path / "lists.parquet")
    found = recommender.recommend(list(histories.values()), k=5)
    assert written["item_id"].to_list() == [item for items in found.ids for item in items]
    assert written["score"].to_list() == pytest.approx(found.scores.flatten().tolist(), abs=1e-5)
    for user, items in histories.items():
        mine = written.filter(pl.col("user_id") == user)
        assert mine["item_id"].n_unique() == 5
        assert not set(mine["item_id"]) & set(items)
        # A score is the log-probability of the list so far.
        steps = [sum(values) for values in mine["code_log_probs"].to_list()]
        assert mine["score"].to_list() == pytest.approx([sum(steps[: place + 1]) for place in range(5)], abs=1e-4)


def test_how_a_list_is_written_can_be_chosen_for_one_call(run, tmp_path):
    recommender = Recommender.from_pretrained(run / "model")
    points = recommender.recommend([["i00"]], k=3, decoding=DecodingConfig(num_beams=40))
    sessions = recommender.recommend([["i00"]], k=3, decoding=DecodingConfig(num_beams=40, mode="session"))
    assert points.scores[0, 0] == pytest.approx(
        recommender.recommend([["i00"]], k=1, decoding=DecodingConfig(mode="session")).scores[0, 0], abs=1e-5
    )
    assert sessions.scores[0, 2] < points.scores[0, 2]
    command = ["generate", "--model", str(run / "model"), "--dataset", str(tiny_home() / "run" / "dataset")]
    assert main([*command, "--out", str(tmp_path / "two.parquet"), "--session-size", "2"]) == 0
    assert pl.read_parquet(tmp_path / "two.parquet").height == 60 * 5


def test_sessions_that_no_model_can_write_are_refused_before_any_work(tmp_path, capsys):
    recipe = write_recipe(tmp_path, tiny_home() / "data")
    assert main(["run", str(recipe), "--out", str(tmp_path / "run"), "--set", "decoding.mode=session"]) == 2
    assert "this 'depth' model writes single items" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    model = str(tiny_home() / "run" / "model")
    out = ["--out", str(tmp_path / "lists.parquet"), "--session-size", "3"]
    assert main(["generate", "--model", model, "--dataset", str(tiny_home() / "run" / "dataset"), *out]) == 2
    assert "set decoding.mode: beam" in capsys.readouterr().err
