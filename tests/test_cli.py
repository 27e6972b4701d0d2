"""The command line: verbs, exit codes, streams, and that the verbs one by one make what `genrec run` makes."""

import json
import os
import resource
import runpy
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import polars as pl
import pytest
import torch
from tiny_run import copy_run, tiny_home

from genrec import __version__
from genrec.artifacts import read_manifest
from genrec.cli import main
from genrec.cli.app import THREAD_VARIABLES
from genrec.cli.options import Stage
from genrec.errors import DataError
from genrec.pipeline.stages import STAGES

ROOT = Path(__file__).resolve().parent.parent
VERBS = (
    "run",
    "fetch",
    "prepare",
    "embed",
    "tokenize",
    "compare",
    "compare-tokenizers",
    "train",
    "align",
    "generate",
    "add-items",
    "remove-items",
    "upcycle",
    "evaluate",
    "inspect",
    "doctor",
)


def test_help_names_every_verb(capsys):
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(any(line.split()[:1] == [verb] for line in lines) for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb, capsys):
    assert main([verb, "--help"]) == 0
    assert f"Usage: genrec {verb}" in capsys.readouterr().out


def test_help_is_quick():
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "genrec.cli", "--help"], check=True, capture_output=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    # Half a second of the processor, which does not depend on what else the machine does.
    assert min(times) < 0.5


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evalate"], "No such command 'evalate'"),
        (["run"], "Missing argument"),
        (["run", "x.yaml", "--nothing"], "No such option"),
        (["run", "x.yaml", "--until", "nowhere"], "nowhere"),
        (["prepare", "--interactions", "x.csv"], "Missing option"),
        (["generate", "--model", "m", "--top-k", "many"], "--top-k"),
        (["--threads", "0", "doctor"], "Invalid value for '--threads'"),
    ],
)
def test_a_wrong_command_line_is_usage(arguments, message, capsys):
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.out == ""


def test_an_error_is_a_message_on_the_error_stream_without_traceback(tmp_path, capsys):
    assert main(["inspect", str(tmp_path / "nowhere")]) == 4
    shown = capsys.readouterr()
    assert shown.err.startswith("error: there is no ")
    assert "Traceback" not in shown.err
    assert shown.out == ""


@pytest.mark.parametrize("place", ["before", "after"])
def test_debug_shows_the_traceback_too(place, tmp_path, capsys):
    command = ["inspect", str(tmp_path / "nowhere")]
    assert main(["--debug", *command] if place == "before" else [*command, "--debug"]) == 4
    shown = capsys.readouterr().err
    assert "Traceback (most recent call last)" in shown
    assert "error: there is no " in shown


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (DataError("odd rows"), 3, "odd rows"),
        (MemoryError(), 5, "memory ran out"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"), 5, "memory ran out"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 5, "memory ran out"),
        (KeyboardInterrupt(), 130, "stopped by SIGINT"),
    ],
)
def test_every_kind_of_failure_has_its_exit_code(error, code, message, monkeypatch, capsys):
    def fail():
        raise error

    monkeypatch.setattr("genrec.doctor.examine", fail)
    assert main(["doctor"]) == code
    assert message in capsys.readouterr().err


def test_an_error_of_ours_is_not_hidden(monkeypatch):
    def fail():
        raise RuntimeError("a bug")

    monkeypatch.setattr("genrec.doctor.examine", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["doctor"])


@pytest.mark.parametrize(
    "arguments", [["--threads", "1", "doctor"], ["doctor", "--threads", "1"], ["doctor", "--threads=1"]]
)
def test_threads_are_limited_wherever_the_option_stands(arguments, monkeypatch, capsys):
    for name in THREAD_VARIABLES:
        monkeypatch.setenv(name, "7")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert main(arguments) == 0
        assert {os.environ[name] for name in THREAD_VARIABLES} == {"1"}
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_the_stages_of_the_command_line_are_those_of_the_pipeline():
    assert [stage.value for stage in Stage] == [stage.name for stage in STAGES]


def test_doctor_finds_what_is_needed(capsys):
    assert main(["doctor"]) == 0
    report = capsys.readouterr().out
    assert f"torch {metadata.version('torch')}" in report
    assert "FAIL" not in report


def test_doctor_fails_where_nothing_can_be_written(monkeypatch, capsys):
    def refuse(**_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("genrec.doctor.tempfile.NamedTemporaryFile", refuse)
    assert main(["doctor"]) == 1
    assert "FAIL  writing" in capsys.readouterr().out


def test_verbs_one_by_one_make_what_run_makes(tmp_path, capsys):
    home, run = tiny_home(), tiny_home() / "run"
    data, recipe = home / "data", home / "tiny.yaml"
    dataset, features, tokenizer, model = (tmp_path / name for name in ("dataset", "features", "tokenizer", "model"))
    tables = ["--interactions", str(data / "interactions.csv"), "--items", str(data / "items.parquet")]
    assert main(["prepare", *tables, "--out", str(dataset), "--k-core", "0"]) == 0
    settings = ["--set", "encoder=lexical", "--set", "dim=8", "--set", "min_items=1"]
    assert main(["embed", "--dataset", str(dataset), "--out", str(features), *settings]) == 0
    folders = ["--dataset", str(dataset), "--features", str(features)]
    assert main(["tokenize", str(recipe), *folders, "--out", str(tokenizer)]) == 0
    assert main(["train", str(recipe), *folders, "--tokenizer", str(tokenizer), "--out", str(model)]) == 0
    for name in ("dataset", "features", "tokenizer"):
        ours, theirs = read_manifest(tmp_path / name), read_manifest(run / name)
        assert ours.files == theirs.files, name
    # The same seed, data and threads: the same weights, to the byte.
    weights = "model.safetensors"
    assert read_manifest(model).files[weights] == read_manifest(run / "model").files[weights]
    assert not list(tmp_path.glob("*.checkpoints"))
    lists = tmp_path / "lists.parquet"
    assert main(["generate", "--model", str(model), "--dataset", str(dataset), "--out", str(lists)]) == 0
    assert pl.read_parquet(lists).equals(pl.read_parquet(run / "recommendations.parquet"))
    capsys.readouterr()
    measured = ["evaluate", "--model", str(model), "--dataset", str(dataset), "--out", str(tmp_path / "metrics.json")]
    assert main([*measured, "--set", "ks=[1, 5, 10]"]) == 0
    assert "NDCG@10" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["metrics"] == json.loads((run / "metrics.json").read_text())["metrics"]


def test_generate_reads_a_table_of_histories_and_filters_items(tmp_path, capsys):
    home = tiny_home()
    allowed = [f"i{number:02d}" for number in range(20)]
    (tmp_path / "allow.txt").write_text("\n".join(allowed) + "\n")
    pl.DataFrame({"item_id": allowed[:5]}).write_csv(tmp_path / "block.csv")
    command = ["generate", "--model", str(home / "run" / "model"), "--top-k", "4", "--beams", "20"]
    command += ["--histories", str(home / "data" / "interactions.csv"), "--out", str(tmp_path / "lists.parquet")]
    command += [
        "--allow-items",
        str(tmp_path / "allow.txt"),
        "--block-items",
        str(tmp_path / "block.csv"),
        "--include-seen",
    ]
    assert main(command) == 0
    assert "60 users" in capsys.readouterr().out
    lists = pl.read_parquet(tmp_path / "lists.parquet")
    assert set(lists["item_id"]) <= set(allowed[5:])
    assert lists.group_by("user_id").len()["len"].unique().to_list() == [4]


def test_generate_explains_and_filters_by_a_condition(tmp_path, capsys):
    run = tiny_home() / "run"
    command = ["generate", "--model", str(run / "model"), "--dataset", str(run / "dataset"), "--explain"]
    command += ["--allow-where", "genres IN ('river crime', 'winter romance')", "--unknown-items", "skip"]
    assert main([*command, "--out", str(tmp_path / "lists.parquet")]) == 0
    assert "60 users" in capsys.readouterr().out
    lists = pl.read_parquet(tmp_path / "lists.parquet").drop_nulls("item_id")
    assert {int(name[1:]) // 10 for name in lists["item_id"]} == {2, 3}
    assert (lists["code_log_probs"].list.sum() - lists["score"]).abs().max() < 1e-5


def test_lists_of_another_system_are_measured(tmp_path, capsys):
    run = tiny_home() / "run"
    pl.read_parquet(run / "recommendations.parquet").write_csv(tmp_path / "theirs.csv")
    command = ["evaluate", "--recommendations", str(tmp_path / "theirs.csv"), "--dataset", str(run / "dataset")]
    assert main([*command, "--out", str(tmp_path / "metrics.json")]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["system"], metrics["users"]) == ("theirs.csv", 59)
    # These lists leave out everything that was seen, and the held-out item was: nothing can be hit.
    assert metrics["metrics"]["recall@5"] == 0


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl"])
def test_lists_in_any_format_are_measured_alike(ending, tmp_path, capsys):
    run = tiny_home() / "run"
    command = ["generate", "--model", str(run / "model"), "--dataset", str(run / "dataset"), "--out"]
    measured = {}
    for name in (f"lists{ending}", "lists.parquet"):
        assert main([*command, str(tmp_path / name)]) == 0
        evaluate = ["evaluate", "--recommendations", str(tmp_path / name), "--dataset", str(run / "dataset")]
        assert main([*evaluate, "--out", str(tmp_path / "metrics.json")]) == 0
        measured[name] = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
    assert measured[f"lists{ending}"] == measured["lists.parquet"]
    assert not (tmp_path / f"lists{ending}").read_bytes().startswith(b"PAR1")


@pytest.mark.parametrize("options", [["--out", "lists.xlsx"], ["--out", "lists.csv", "--explain"]])
def test_lists_that_no_file_of_that_name_can_hold_are_refused_before_the_model_is_read(options, tmp_path, capsys):
    options[1] = str(tmp_path / options[1])
    assert main(["generate", "--model", str(tmp_path / "no"), "--dataset", str(tmp_path / "no"), *options]) == 2
    assert list(tmp_path.iterdir()) == []


def test_inspect_says_what_every_folder_is(capsys):
    run = tiny_home() / "run"
    words = {
        "": "a run",
        "dataset": "a prepared data set of 60 users, 40 items",
        "features": "item vectors by lexical: 40 items, 8 numbers each",
        "tokenizer": "an item tokenizer (rqkmeans) that names 40 items",
        "model": "a trained recommender (depth)",
        "recommendations.parquet": "lists for 60 users, up to 5 items each",
        "metrics.json": "a measurement",
    }
    for name, expected in words.items():
        assert main(["inspect", str(run / name)]) == 0
        assert expected in capsys.readouterr().out


def test_inspect_shows_a_user_in_titles(capsys):
    assert main(["inspect", str(tiny_home() / "run"), "--user", "u01"]) == 0
    shown = capsys.readouterr().out
    assert "u01" in shown
    assert " of garden" in shown


def test_inspect_shows_users_of_a_data_set_with_a_model(capsys):
    run = tiny_home() / "run"
    assert main(["inspect", str(run / "model"), "--dataset", str(run / "dataset")]) == 0
    assert capsys.readouterr().out.count("user u") == 3


def test_generation_with_changed_settings_needs_no_training(tmp_path, capsys):
    run = copy_run(tmp_path / "run")
    command = ["run", str(tiny_home() / "tiny.yaml"), "--out", str(run), "--set", "decoding.top_k=3"]
    assert main(command) == 0
    shown = capsys.readouterr().err
    assert "model: fresh" in shown
    assert "generation: its settings or inputs changed" in shown
    assert pl.read_parquet(run / "recommendations.parquet")["rank"].max() == 3


@pytest.mark.parametrize(
    ("script", "verb"),
    [
        ("train_tokenizer", "tokenize"),
        ("train_recommender", "train"),
        ("generate", "generate"),
        ("evaluate", "evaluate"),
    ],
)
def test_scripts_are_the_verbs(script, verb, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"scripts/{script}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "scripts" / f"{script}.py"), run_name="__main__")
    assert ended.value.code == 0
    assert f"Usage: genrec {verb}" in capsys.readouterr().out
