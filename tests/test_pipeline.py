"""A run: what it leaves, what it repeats, what it does not, and how it is taken up again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from tiny_run import copy_run, tiny_home, write_recipe, write_tables

from genrec.artifacts import read_manifest, reserve_work_folder, verify_artifact
from genrec.cli import main
from genrec.config import load_recipe
from genrec.data import Dataset
from genrec.errors import ArtifactError, ConfigError
from genrec.models import registry
from genrec.models.families.sasrec import SASRec
from genrec.models.families.seq2seq import Seq2Seq
from genrec.pipeline import resolve
from genrec.pipeline.resolve import baseline_recommender, baseline_training, resolve_recipe
from genrec.pipeline.run import run_recipe
from genrec.pipeline.stage_cache import StageCache, StageRecord, output_fingerprint
from genrec.pipeline.stages import STAGES
from genrec.pipeline.work import Work
from genrec.terminal.console import Terminal

ROOT = Path(__file__).resolve().parent.parent
PROMISED = (
    "dataset/manifest.json",
    "features/embeddings.safetensors",
    "tokenizer/codes.parquet",
    "tokenizer/quality.json",
    "model/config.json",
    "model/model.safetensors",
    "model/tokenizer/codes.parquet",
    "model/items.parquet",
    "model/README.md",
    "recommendations.parquet",
    "metrics.json",
    "metrics.jsonl",
    "report.html",
    "config.yaml",
    "env.json",
)


def run_again(capsys, folder: Path, *options: str, recipe: Path | None = None) -> dict[str, str]:
    """Stages of a second run and what it says of each: ``fresh`` or the reason why it ran."""
    capsys.readouterr()
    assert main(["run", str(recipe or tiny_home() / "tiny.yaml"), "--out", str(folder), *options]) == 0
    told: dict[str, str] = {}
    for line in capsys.readouterr().err.splitlines():
        if line.startswith("["):
            name, _, words = line.partition("] ")[2].partition(": ")
            told.setdefault(name, words.split("  ")[0].split(";")[0])
    return told


def stale(told: dict[str, str]) -> set[str]:
    return {name for name, words in told.items() if words not in ("fresh", "not needed by this recipe")}


@pytest.mark.parametrize("name", PROMISED)
def test_a_run_leaves_what_is_promised(name):
    assert (tiny_home() / "run" / name).stat().st_size > 0


def test_a_run_leaves_no_rubbish():
    run = tiny_home() / "run"
    assert not (run / "checkpoints").exists()
    assert [path for path in run.rglob("*") if path.suffix in (".part", ".old")] == []


def test_every_folder_of_a_run_proves_itself():
    run = tiny_home() / "run"
    for name in ("dataset", "features", "tokenizer", "model", "model/tokenizer", "baselines/sasrec"):
        assert verify_artifact(run / name).files


def test_metrics_stand_beside_the_baselines_with_their_protocol():
    metrics = json.loads((tiny_home() / "run" / "metrics.json").read_text())
    assert set(metrics["baselines"]) == {"popularity", "itemknn", "transition", "sasrec"}
    assert {"recall@5", "ndcg@5", "recall@10", "ndcg@10", "mrr@10", "coverage@10"} <= set(metrics["metrics"])
    protocol = metrics["protocol"]
    assert (protocol["split"], protocol["encoder"], protocol["tokenizer"]) == ("leave-one-out", "lexical", "rqkmeans")
    assert protocol["seeds"] == [42]
    assert metrics["users"] == 59


def test_the_parts_of_a_score_stand_beside_the_whole(tmp_path, capsys):
    out = tmp_path / "run"
    changed = ["recommender.item_loss=1.0", "decoding.item_weight=0.5", "evaluation.baselines=[popularity]"]
    options = [part for setting in changed for part in ("--set", setting)]
    recipe = write_recipe(tmp_path, tiny_home() / "data")
    assert main(["run", str(recipe), "--out", str(out), "--until", "evaluation", *options]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert list(metrics["baselines"]) == ["popularity"]
    assert list(metrics["variants"]) == ["depth, codes only", "depth, item vectors only"]
    parts = [metrics["variants"][f"depth, {part}"] for part in ("codes only", "item vectors only")]
    assert [part["settings"]["decoding"]["item_weight"] for part in parts] == [0, 0]
    assert [part["protocol"]["num_beams"] for part in parts] == [10, None]
    assert len({part["metrics"]["mrr@10"] for part in (*parts, metrics)}) == 3


def test_recommendations_are_full_lists_of_unseen_items():
    run = tiny_home() / "run"
    lists = pl.read_parquet(run / "recommendations.parquet")
    assert lists.columns[:4] == ["user_id", "rank", "item_id", "score"]
    assert lists.group_by("user_id").len()["len"].unique().to_list() == [5]
    assert lists["short_by"].max() == 0
    seen = pl.read_csv(tiny_home() / "data" / "interactions.csv").select("user_id", "item_id")
    assert lists.join(seen, on=["user_id", "item_id"]).height == 0
    assert lists.select(pl.struct("user_id", "item_id").is_duplicated().any()).item() is False


def test_the_resolved_recipe_says_everything_and_means_the_same():
    run = tiny_home() / "run"
    values = yaml.safe_load((run / "config.yaml").read_text())
    assert values["tokenizer"]["collisions"] == "suffix"
    assert values["recommender"]["dropout"] == pytest.approx(0.3)
    again = load_recipe(run / "config.yaml")
    assert resolve_recipe(again) == resolve_recipe(load_recipe(tiny_home() / "tiny.yaml"))


def test_the_environment_is_written_down():
    environment = json.loads((tiny_home() / "run" / "env.json").read_text())
    assert environment["versions"]["torch"]
    assert environment["cores"] >= 1
    assert environment["memory_gib"] > 0


def test_nothing_is_done_twice(tmp_path, capsys):
    run = copy_run(tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    assert stale(run_again(capsys, run)) == set()
    changed = {path.name for path, time_ns in before.items() if path.stat().st_mtime_ns != time_ns}
    assert changed <= {"config.yaml", "env.json", ".genrec"}


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("evaluation.examples=1", {"report"}),
        ("evaluation.bootstrap_samples=20", {"evaluation", "report"}),
        ("decoding.batch_size=7", set()),
        ("training.num_workers=1", set()),
    ],
)
def test_only_what_a_setting_changes_runs_again(setting, expected, tmp_path, capsys):
    run = copy_run(tmp_path / "run")
    assert stale(run_again(capsys, run, "--set", setting)) == expected


def test_a_changed_tokenizer_runs_what_depends_on_it_and_no_baseline(tmp_path, capsys):
    run = copy_run(tmp_path / "run")
    told = run_again(capsys, run, "--set", "tokenizer.codebook_size=5")
    assert stale(told) == {"tokenizer", "model", "evaluation", "generation", "report"}
    assert told["tokenizer"] == "its settings or inputs changed"


def test_other_ks_measure_again_without_training_the_baseline(tmp_path, capsys):
    run = copy_run(tmp_path / "run")
    before = read_manifest(run / "baselines" / "sasrec").fingerprint
    told = run_again(capsys, run, "--set", "evaluation.ks=[1, 3, 10]")
    assert stale(told) == {"baselines", "evaluation", "report"}
    assert read_manifest(run / "baselines" / "sasrec").fingerprint == before
    assert "recall@3" in json.loads((run / "metrics.json").read_text())["metrics"]


def test_changed_data_run_everything(tmp_path, capsys):
    data = write_tables(tmp_path / "data")
    recipe = write_recipe(tmp_path, data)
    command = ["run", str(recipe), "--out", str(tmp_path / "run"), "--until", "features"]
    assert main(command) == 0
    table = pl.read_csv(data / "interactions.csv")
    table.head(table.height - 3).write_csv(data / "interactions.csv")
    capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().err.count("its settings or inputs changed") == 2


def test_data_that_are_equal_in_another_place_are_not_prepared_again(tmp_path, capsys):
    run = copy_run(tmp_path / "run")
    shutil.copytree(tiny_home() / "data", tmp_path / "elsewhere")
    told = run_again(capsys, run, recipe=write_recipe(tmp_path, tmp_path / "elsewhere"))
    assert stale(told) == set()


def test_force_runs_a_fresh_stage(tmp_path, capsys):
    run = copy_run(tmp_path / "run")
    told = run_again(capsys, run, "--force", "generation", "--force", "report")
    assert stale(told) == {"generation", "report"}
    assert told["generation"] == "forced"


@pytest.mark.parametrize(
    ("damage", "stage", "reason"),
    [
        (lambda run: shutil.rmtree(run / "tokenizer"), "tokenizer", "tokenizer is missing"),
        (lambda run: (run / "recommendations.parquet").unlink(), "generation", "recommendations.parquet is missing"),
    ],
)
def test_a_missing_output_is_made_again_and_the_rest_stays(damage, stage, reason, tmp_path, capsys):
    run = copy_run(tmp_path / "run")
    damage(run)
    told = run_again(capsys, run)
    assert told[stage].startswith(reason)
    # What comes out again is the same, so nothing that was made from it is stale.
    assert stale(told) == {stage}


@pytest.mark.parametrize(
    ("name", "stage", "message"),
    [
        ("features/item_ids.json", "features", "was changed since genrec wrote it: item_ids.json"),
        ("metrics.json", "evaluation", "metrics.json was changed since genrec wrote it"),
        ("model/README.md", None, ""),
    ],
)
def test_what_was_changed_is_replaced_by_force_only(name, stage, message, tmp_path, capsys):
    run = copy_run(tmp_path / "run")
    changed = run / name
    changed.write_text("a note of my own")
    capsys.readouterr()
    command = ["run", str(tiny_home() / "tiny.yaml"), "--out", str(run)]
    if stage is not None:
        assert main(command) == 2
        assert message in capsys.readouterr().err
        assert changed.read_text() == "a note of my own"
        assert stale(run_again(capsys, run, "--force", stage)) == {stage}
        assert changed.read_text() != "a note of my own"
    else:
        assert stale(run_again(capsys, run)) == {"report"}
        assert changed.read_text() == "a note of my own"
        assert stale(run_again(capsys, run)) == set()


def test_a_damaged_ledger_counts_as_none(tmp_path):
    (tmp_path / "stages.json").write_text("{half")
    assert StageCache(tmp_path).records == {}
    (tmp_path / "stages.json").write_text('["a"]')
    assert StageCache(tmp_path).records == {}


def test_the_ledger_remembers(tmp_path):
    (tmp_path / "out.txt").write_text("x")
    ledger = StageCache(tmp_path)
    assert ledger.stale_reason("report", "k1") == "not made yet"
    outputs = {"out.txt": output_fingerprint(tmp_path / "out.txt")}
    ledger.finish("report", StageRecord(key="k1", outputs=outputs, seconds=1.0))
    again = StageCache(tmp_path)
    assert again.stale_reason("report", "k1") is None
    assert again.stale_reason("report", "k2") == "its settings or inputs changed"
    (tmp_path / "out.txt").write_text("y")
    assert again.stale_reason("report", "k1") == "out.txt was changed after it was written"


def test_a_second_run_is_kept_out_of_the_folder(tmp_path):
    with (
        reserve_work_folder(tmp_path / "run"),
        pytest.raises(ArtifactError, match="another process is writing"),
        reserve_work_folder(tmp_path / "run"),
    ):
        pass
    with reserve_work_folder(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()


def test_until_stops_there(tmp_path, capsys):
    recipe = write_recipe(tmp_path, tiny_home() / "data")
    assert main(["run", str(recipe), "--out", str(tmp_path / "run"), "--until", "features"]) == 0
    assert sorted(json.loads((tmp_path / "run" / "stages.json").read_text())) == ["dataset", "features"]
    assert "[2/2] features" in capsys.readouterr().err


def test_a_prepared_data_set_is_used_where_it_is(tmp_path):
    prepared = tiny_home() / "run" / "dataset"
    recipe = write_recipe(tmp_path, prepared)
    assert main(["run", str(recipe), "--out", str(tmp_path / "run"), "--until", "features"]) == 0
    assert not (tmp_path / "run" / "dataset").exists()
    features = read_manifest(tmp_path / "run" / "features")
    assert features.inputs["dataset"] == read_manifest(prepared).fingerprint


def test_three_columns_without_item_text_lead_to_lists(tmp_path, capsys):
    """The way of docs/your-own-data.md, with the shipped recipe made small."""
    log, out = tiny_home() / "data" / "interactions.csv", tmp_path / "mine"
    assert main(["prepare", "--interactions", str(log), "--out", str(out), "--k-core", "2"]) == 0
    small = ["features={encoder: lightgcn, dim: 8, epochs: 1}", "tokenizer.codebook_size=4", "training.epochs=1"]
    small += ["recommender.hidden_size=16", "evaluation.baselines=[itemknn]", f"data.path={out}"]
    options = [part for setting in small for part in ("--set", setting)]
    run = tmp_path / "run"
    assert main(["run", str(ROOT / "configs" / "my-data.yaml"), "--out", str(run), *options]) == 0
    lists = pl.read_parquet(run / "recommendations.parquet")
    assert lists["user_id"].n_unique() == Dataset.load(out).num_users
    capsys.readouterr()
    assert main(["inspect", str(run), "--user", lists["user_id"][0]]) == 0
    # Without titles, items are called by their ids.
    assert lists["item_id"][0] in capsys.readouterr().out


def test_an_item_level_recommender_needs_neither_features_nor_identifiers(tmp_path, capsys):
    recipe = write_recipe(tmp_path, tiny_home() / "data")
    changes = ["recommender={name: sasrec, hidden_size: 16, num_heads: 1, num_layers: 1}", "evaluation.baselines=[]"]
    options = [part for change in changes for part in ("--set", change)]
    capsys.readouterr()
    assert main(["run", str(recipe), "--out", str(tmp_path / "run"), *options]) == 0
    assert capsys.readouterr().err.count("not needed by this recipe") == 5
    assert not (tmp_path / "run" / "tokenizer").exists()
    assert not (tmp_path / "run" / "model" / "tokenizer").exists()
    assert pl.read_parquet(tmp_path / "run" / "recommendations.parquet")["user_id"].n_unique() == 60


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("features.encoder=lexicl", "did you mean 'lexical'"),
        ("features.dimension=3", "unknown key dimension"),
        ("tokenizer.name=rqkmean", "did you mean 'rqkmeans'"),
        ("tokenizer.codebok_size=3", "did you mean 'codebook_size'"),
        ("recommender.name=dept", "did you mean 'depth'"),
        ("recommender.hidden=3", "unknown key hidden"),
        ("evaluation.baselines=[popularty]", "there is no baseline 'popularty'"),
        ("evaluation.sasrec={hiden_size: 3}", "did you mean 'hidden_size'"),
        ("evaluation.sasrec_training={epoch: 3}", "did you mean 'epochs'"),
        ("recommender.num_heads=5", "cannot be divided over 5 heads"),
        ("training.metric=recal@10", "training.metric = 'recal@10' cannot select a model"),
        ("evaluation.sasrec_training={metric: loss}", "training.metric = 'loss' cannot select a model"),
    ],
)
def test_every_name_is_checked_before_any_work(setting, message, tmp_path):
    recipe = load_recipe(tiny_home() / "tiny.yaml", [setting])
    with pytest.raises(ConfigError, match=message):
        run_recipe(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_stage_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="there is no stage 'align'"):
        run_recipe(load_recipe(None), tmp_path / "run", until="align")


def test_the_baseline_trains_like_the_recommender_but_for_what_is_said():
    overrides = [
        "training.epochs=9",
        "evaluation.sasrec_training={learning_rate: 5e-4}",
        "evaluation.sasrec={dropout: 0.1}",
    ]
    recipe = load_recipe(None, overrides)
    training = baseline_training(recipe)
    assert (training.epochs, training.learning_rate) == (9, pytest.approx(5e-4))
    assert baseline_recommender(recipe).settings["dropout"] == pytest.approx(0.1)


def test_held_out_items_shape_nothing_that_is_fitted(tmp_path):
    """Poisoning: other test and validation items change no fitted artefact by a byte."""
    home = tiny_home()
    table = pl.read_csv(home / "data" / "interactions.csv").sort("user_id", "timestamp")
    position = pl.int_range(pl.len()).over("user_id")
    held_out = (position >= pl.len().over("user_id") - 2) & (pl.len().over("user_id") >= 3)
    random = np.random.default_rng(0)
    noise = pl.Series([f"i{item:02d}" for item in random.integers(0, 40, table.height)])
    poisoned = table.with_columns(pl.when(held_out).then(noise).otherwise(pl.col("item_id")).alias("item_id"))
    assert poisoned.filter(poisoned["item_id"] != table["item_id"]).height > 50
    data = write_tables(tmp_path / "data")
    poisoned.write_csv(data / "interactions.csv")
    encoders = "[{encoder: lexical, dim: 8, min_items: 1}, {encoder: lightgcn, dim: 4, epochs: 1}]"
    fitted = {}
    for name, source in (("clean", home / "data"), ("poisoned", data)):
        recipe = write_recipe(tmp_path, source)
        options = ["--set", f"features={{encoder: concat, parts: {encoders}}}", "--until", "tokenizer"]
        assert main(["run", str(recipe), "--out", str(tmp_path / name), *options]) == 0
        fitted[name] = {
            stage: {file: part.sha256 for file, part in read_manifest(tmp_path / name / stage).files.items()}
            for stage in ("features", "tokenizer")
        }
        fitted[name]["popularity"] = Dataset.load(tmp_path / name / "dataset").train_popularity().tolist()
    assert fitted["clean"] == fitted["poisoned"]


def test_a_killed_training_is_taken_up_by_the_same_command(tmp_path, capsys):
    """SIGKILL leaves no time to save: what the last checkpoint has is not done again, and the result is the same."""
    recipe = write_recipe(tmp_path, tiny_home() / "data")
    options = ["--set", "training.epochs=6", "--set", "training.patience=6", "--until", "model"]
    assert main(["run", str(recipe), "--out", str(tmp_path / "whole"), *options]) == 0
    command = [sys.executable, "-m", "genrec.cli", "run", str(recipe), "--out", str(tmp_path / "killed"), *options]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env={**os.environ})
    wait_for(lambda: any((tmp_path / "killed").glob("checkpoints/model-*/checkpoint-*/manifest.json")), process)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    assert not (tmp_path / "killed" / "model").exists()
    capsys.readouterr()
    assert main(["run", str(recipe), "--out", str(tmp_path / "killed"), *options]) == 0
    shown = capsys.readouterr().err
    assert "features: fresh" in shown
    assert "continuing from checkpoint-" in shown
    whole, killed = (read_manifest(tmp_path / name / "model").files for name in ("whole", "killed"))
    assert whole["model.safetensors"] == killed["model.safetensors"]


def wait_for(condition, process, seconds: float = 90.0) -> None:
    """Wait until something is there; the process must still be running then."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        assert process.poll() is None, "the process ended too early"
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


def test_a_resolved_recipe_holds_families_and_typed_settings():
    overrides = ["recommender={name: seq2seq, hidden_size: 64}", "evaluation.sasrec={use_features: true}"]
    resolved = resolve_recipe(load_recipe(None, ["data.path=x", *overrides]))
    assert (resolved.recommender.family, resolved.baseline.family) == (Seq2Seq, SASRec)
    assert (resolved.recommender.settings.hidden_size, resolved.recommender.reads_features) == (64, False)
    assert (resolved.needs_semantic_ids, resolved.baseline.reads_features) == (True, True)
    with pytest.raises(FrozenInstanceError):
        resolved.recommender = resolved.baseline


def test_stages_read_settings_that_were_checked_once(monkeypatch, tmp_path):
    """Once a recipe is resolved, no stage's settings or needs validate a section again."""
    resolved = resolve_recipe(load_recipe(tiny_home() / "tiny.yaml"))
    work = Work(resolved, tmp_path / "run", Terminal(stderr=True))

    def refuse(*args, **keywords):
        raise AssertionError("parsed again")

    for module in (registry, resolve):
        monkeypatch.setattr(module, "parse_settings", refuse)
    for stage in STAGES[1:]:
        stage.settings(work)
        assert stage.needed(resolved) in (True, False)
        stage.after(resolved)
