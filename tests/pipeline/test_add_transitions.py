"""Transitions next to a trained model: from the data set to the folder, its lists, and other catalogues."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tiny_run import copy_run, tiny_home

from genrec import Recommender
from genrec.artifacts import read_manifest, verify_artifact
from genrec.cli import main
from genrec.config import DataConfig, DecodingConfig
from genrec.data import Dataset, make_dataset
from genrec.decoding import generate_lists
from genrec.decoding.transitions import FILES, Transitions
from genrec.errors import ArtifactError, ConfigError
from genrec.evaluation.baselines import Transition
from genrec.evaluation.metrics import evaluate_lists
from genrec.generation import GenerationRequest, write_lists
from genrec.pipeline.add_transitions import WEIGHTS, add_transitions, fit_transitions
from genrec.pipeline.catalogue import add_new_items, remove_known_items
from genrec.pipeline.model_folder import open_model

HISTORIES = [["i00", "i01"], ["i12", "i13", "i14"], ["i32", "i33", "i10"]]


def run_folder(name: str) -> Path:
    return tiny_home() / "run" / name


def stored(folder: Path) -> Transitions:
    found = Transitions.load(folder, 40)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def linked(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("linked") / "model"
    arguments = ["--model", run_folder("model"), "--dataset", run_folder("dataset"), "--out", out]
    assert main(["add-transitions", *map(str, arguments)]) == 0
    return out


def test_the_folder_holds_the_baseline_of_the_training_part_and_is_sealed(linked):
    baseline, found = Transition.tuned(Dataset.load(run_folder("dataset"))), stored(linked)
    np.testing.assert_array_equal(found.links.toarray(), baseline.links.toarray())
    assert found.settings == baseline.settings
    assert {*FILES} <= set(verify_artifact(linked, "model").files)
    assert read_manifest(linked).config["transitions"] == found.description
    (linked.parent / "changed").mkdir()
    changed = linked.parent / "changed" / "model"
    changed.mkdir()
    for path in linked.rglob("*"):
        if path.is_file():
            (changed / path.relative_to(linked)).parent.mkdir(parents=True, exist_ok=True)
            (changed / path.relative_to(linked)).write_bytes(path.read_bytes())
    (changed / FILES[1]).write_text((changed / FILES[1]).read_text().replace('"weight": ', '"weight": 1'))
    with pytest.raises(ArtifactError):
        open_model(changed)


def test_the_weight_is_the_best_on_validation(linked):
    dataset, trained = Dataset.load(run_folder("dataset")), open_model(linked)
    histories, targets = dataset.evaluation("validation")
    values = []
    for weight in WEIGHTS:
        decoding = trained.decoding.model_copy(update={"transition_weight": weight})
        lists, _ = generate_lists(trained.model, histories, decoding=decoding, top_k=10)
        values.append(evaluate_lists(lists, targets, num_items=40, ks=[10]).metrics["ndcg@10"])
    assert trained.transitions.weight == WEIGHTS[int(np.argmax(values))]
    assert max(values) > values[0]


def test_held_out_items_change_nothing(tmp_path):
    """Only the last two items of each user differ, so links and settings of a given weight are the same bytes."""
    rows = [(f"u{user}", f"i{(user + step) % 12:02d}", step) for user in range(30) for step in range(7)]
    other = [(user, f"i{(int(item[1:]) + 5) % 12:02d}" if time == 6 else item, time) for user, item, time in rows]
    items = pl.DataFrame({"item_id": [f"i{item:02d}" for item in range(12)]})
    found = []
    for name, table in (("one", rows), ("other", other)):
        log = pl.DataFrame(table, schema=["user_id", "item_id", "timestamp"], orient="row")
        dataset = make_dataset(log, items, DataConfig(k_core=0), tmp_path / name)
        model = open_model(run_folder("model")).model
        fit_transitions(model, dataset, DecodingConfig(transition_weight=1.0)).save(tmp_path / name)
        found.append([(tmp_path / name / file).read_bytes() for file in FILES])
    assert found[0] == found[1]


def test_lists_of_every_door_use_them(linked, tmp_path):
    plain, recommender = (Recommender.from_pretrained(folder) for folder in (run_folder("model"), linked))
    alone = recommender.decoding.model_copy(update={"transition_weight": 0.0})
    ours, without = (recommender.recommend(HISTORIES, k=5, decoding=decoding) for decoding in (None, alone))
    theirs = plain.recommend(HISTORIES, k=5)
    assert without.scores.tobytes() == theirs.scores.tobytes()
    assert without.ids == theirs.ids != ours.ids
    write_lists(linked, GenerationRequest(dataset=run_folder("dataset")), tmp_path / "all.parquet")
    dataset = Dataset.load(run_folder("dataset"))
    lists, _ = generate_lists(recommender.model, dataset.full(), decoding=recommender.decoding, top_k=5)
    names = np.array(dataset.item_ids)[lists[np.argsort(dataset.full().users)]]
    written = pl.read_parquet(tmp_path / "all.parquet").group_by("user_id", maintain_order=True).agg("item_id")
    assert dict(written.iter_rows()) == dict(zip(dataset.user_ids, names.tolist(), strict=True))
    write_lists(linked, GenerationRequest(dataset=run_folder("dataset"), explain=True), tmp_path / "why.parquet")
    why = pl.read_parquet(tmp_path / "why.parquet")
    weight = stored(linked).weight
    total = why["code_log_probs"].list.sum() + weight * why["transition_log_prob"]
    np.testing.assert_allclose(total, why["score"], atol=1e-3)


def test_evaluate_measures_lists_with_them(linked, tmp_path):
    arguments = ["--model", linked, "--dataset", run_folder("dataset"), "--out", tmp_path / "metrics.json"]
    assert main(["evaluate", *map(str, arguments)]) == 0
    measured = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
    dataset, trained = Dataset.load(run_folder("dataset")), open_model(linked)
    histories, targets = dataset.evaluation("test")
    lists, _ = generate_lists(trained.model, histories, decoding=trained.decoding, top_k=50)
    assert measured["ndcg@10"] == evaluate_lists(lists, targets, num_items=40, ks=[10]).metrics["ndcg@10"]


def test_two_processes_write_the_lists_of_one(linked, tmp_path):
    rng = np.random.default_rng(0)
    rows = [(f"u{user}", f"i{item:02d}") for user in range(2100) for item in rng.choice(40, 2, replace=False)]
    pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row").write_parquet(tmp_path / "log.parquet")
    asked = {"top_k": 2, "num_beams": 4}
    write_lists(linked, GenerationRequest(histories=tmp_path / "log.parquet", decoding=asked), tmp_path / "one.parquet")
    script = Path(__file__).resolve().parent.parent.parent / "scripts" / "generate.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script]
    command += ["--model", linked, "--histories", tmp_path / "log.parquet", "--out", tmp_path / "two.parquet"]
    done = subprocess.run(
        [*map(str, command), "--top-k", "2", "--beams", "4"],
        capture_output=True, text=True, timeout=200, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "two.parquet").read_bytes() == (tmp_path / "one.parquet").read_bytes()


def test_added_items_have_no_links_and_removed_ones_lose_theirs(linked, tmp_path):
    frame = pl.DataFrame({"item_id": ["new1", "new2"], "title": ["Comet of space", "Kettle of garden"]})
    frame.with_columns(genres=pl.lit("space adventure")).write_parquet(tmp_path / "new.parquet")
    add_new_items(linked, tmp_path / "new.parquet", tmp_path / "larger")
    whole, larger = stored(linked), Transitions.load(tmp_path / "larger", 42)
    np.testing.assert_array_equal(larger.links.toarray(), np.pad(whole.links.toarray(), (0, 2)))
    lists = Recommender.from_pretrained(tmp_path / "larger").recommend([["new1", "i01"], ["new2"]], k=41)
    assert lists.short_by.tolist() == [1, 0]
    (tmp_path / "gone.txt").write_text("i03\ni17\n")
    remove_known_items(linked, tmp_path / "gone.txt", tmp_path / "smaller")
    kept = [item for item in range(40) if item not in (3, 17)]
    smaller = Transitions.load(tmp_path / "smaller", 38)
    np.testing.assert_array_equal(smaller.links.toarray(), whole.links.toarray()[np.ix_(kept, kept)])
    assert Recommender.from_pretrained(tmp_path / "smaller").recommend([["i00"]], k=37).short_by.tolist() == [0]


def test_another_data_set_is_refused(tmp_path):
    log = pl.read_csv(tiny_home() / "data" / "interactions.csv").filter(pl.col("user_id") != "u05")
    items = pl.read_parquet(tiny_home() / "data" / "items.parquet")
    dataset = make_dataset(log, items, DataConfig(k_core=0), tmp_path / "other")
    with pytest.raises(ArtifactError, match="another preparation of these items"):
        add_transitions(run_folder("model"), dataset, tmp_path / "out", "auto")
    assert not (tmp_path / "out").exists()


def test_a_run_adds_them_without_training_again(tmp_path, capsys):
    run = copy_run(tmp_path / "run")
    before = (run / "model" / "manifest.json").read_bytes()
    plain = json.loads((run / "metrics.json").read_text())
    recipe = ["run", str(tiny_home() / "tiny.yaml"), "--out", str(run), "--set", "decoding.transition_weight=auto"]
    assert main(recipe) == 0
    shown = capsys.readouterr().err
    for stage in ("dataset", "features", "tokenizer", "model", "baselines"):
        assert f"{stage}: fresh" in shown
    assert "chosen on validation" in shown
    assert (run / "model" / "manifest.json").read_bytes() == before
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["metrics"] != plain["metrics"]
    assert metrics["variants"]["depth, without transitions"]["metrics"] == plain["metrics"]
    assert metrics["baselines"]["sasrec"]["metrics"] == plain["baselines"]["sasrec"]["metrics"]
    assert main(recipe[:4]) == 0
    assert "model: fresh" in capsys.readouterr().err
    assert json.loads((run / "metrics.json").read_text())["metrics"] == plain["metrics"]


def test_training_with_a_weight_leaves_a_folder_that_uses_them(tmp_path):
    arguments = ["--dataset", run_folder("dataset"), "--tokenizer", run_folder("tokenizer"), "--features"]
    arguments += [run_folder("features"), "--out", tmp_path / "model", "--set", "decoding.transition_weight=2"]
    assert main(["train", str(tiny_home() / "tiny.yaml"), *map(str, arguments)]) == 0
    trained = open_model(tmp_path / "model")
    assert (trained.decoding.transition_weight, trained.transitions.weight) == (2.0, 2.0)
    alone = open_model(run_folder("model"))
    for name, value in alone.model.state_dict().items():
        assert value.equal(trained.model.state_dict()[name]), name


def test_a_weight_without_links_is_a_usage_error(tmp_path, capsys):
    out = tmp_path / "lists.parquet"
    request = GenerationRequest(dataset=run_folder("dataset"), decoding={"transition_weight": 1.0})
    with pytest.raises(ConfigError, match="the model has no transitions"):
        write_lists(run_folder("model"), request, out)
    assert not out.exists()
    arguments = ["--model", run_folder("model"), "--dataset", run_folder("dataset"), "--out", tmp_path / "m"]
    assert main(["add-transitions", *map(str, arguments), "--weight", "much"]) == 2
    assert not (tmp_path / "m").exists()
