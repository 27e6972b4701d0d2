"""Bad input, end to end: a message that says what is wrong and what to do, an exit code, and nothing half-written."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tiny_run import copy_run, tiny_home, write_recipe

from genrec.cli import main

GOOD = "user_id,item_id,timestamp\n" + "".join(f"u{u},i{(u + s) % 5},{100 + s}\n" for u in range(6) for s in range(4))


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


class Refusal:
    """Runs a command that must fail, and compares the folder before and after."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def __call__(self, code: int, *words: str, command: list[str]) -> str:
        before = listing(self.folder)
        self.capsys.readouterr()
        assert main([str(part) for part in command]) == code
        shown = self.capsys.readouterr().err
        assert "error: " in shown
        assert "Traceback" not in shown
        for word in words:
            assert word in shown
        # What a run says of itself is written before its first stage.
        left = {
            name
            for name in listing(self.folder) - before
            if not re.fullmatch(r"run(/(config.yaml|env.json|.genrec))?", name)
        }
        assert left == set()
        return shown


@pytest.fixture
def refused(tmp_path, capsys):
    return Refusal(tmp_path, capsys)


@pytest.fixture
def prepare(tmp_path, refused):
    """Prepare a table that is given as text or bytes and must be refused."""

    def run(content, *words, code=3, name="log.csv", items=None, options=()):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        command = ["prepare", "--interactions", path, "--out", tmp_path / "out", "--k-core", "0", *options]
        if items is not None:
            (tmp_path / "items.csv").write_text(items)
            command += ["--items", tmp_path / "items.csv"]
        return refused(code, *words, command=command)

    return run


# --- tables ---------------------------------------------------------------------------------------------------------


def test_a_missing_column_names_the_nearest(prepare):
    prepare(GOOD.replace("item_id", "itemid"), "there is no column 'item_id'; the nearest is 'itemid'", "log.csv")


def test_a_timestamp_that_is_no_time_names_its_rows(prepare):
    prepare(GOOD.replace("u1,i1,100", "u1,i1,yesterday"), "timestamp is not a time: 'yesterday'", "row 5")


@pytest.mark.parametrize(("value", "message"), [("-5", "timestamp is negative"), ("nan", "timestamp is not a number")])
def test_negative_and_nan_timestamps_are_refused(value, message, prepare):
    prepare(GOOD.replace("u1,i1,100", f"u1,i1,{value}"), message, "row 5", "what to do")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("timestamp", "1e308", "timestamp is too large for any unit of time"),
        ("timestamp", "9223372036854775808", "timestamp is too large for any unit of time"),
        ("order", "1e30", "order is too large to be exact"),
        ("order", "9223372036854775808", "order is too large to be exact"),
    ],
)
def test_numbers_that_no_column_can_hold_are_refused(column, value, message, prepare):
    table = GOOD.replace("timestamp", column).replace("u1,i1,100", f"u1,i1,{value}")
    prepare(table, message, "row 5", "what to do")


@pytest.mark.parametrize(
    ("name", "mapping", "code", "message"),
    [
        ("Timestamp", "", 3, "there is no column 'timestamp', but 'Timestamp'"),
        (
            "bought_at",
            "{timestamp: boughtat}",
            3,
            "there is no column 'boughtat', which data.columns says is",
        ),
        ("bought_at", "{timestmap: bought_at}", 2, "columns names 'timestmap', which is none of our columns"),
    ],
)
def test_times_that_would_be_lost_to_a_name_are_refused(name, mapping, code, message, prepare):
    options = ["--set", f"columns={mapping}"] if mapping else []
    prepare(GOOD.replace("timestamp", name), message, f"timestamp: {name}", code=code, options=options)


def test_mixed_units_of_time_are_refused(prepare):
    prepare(GOOD.replace("u1,i1,100", "u1,i1,1600000000000"), "timestamp mixes seconds and milliseconds")


def test_an_empty_id_is_refused(prepare):
    prepare(GOOD.replace("u1,i1,100", ",i1,100"), "user_id is empty", "row 5", "an id in every row")


def test_an_empty_file_is_refused(prepare):
    prepare("", "the file is empty")


def test_a_table_without_rows_is_refused(prepare):
    prepare("user_id,item_id,timestamp\n", "the table has no rows")


def test_a_truncated_parquet_file_is_refused(prepare, tmp_path):
    pl.DataFrame({"user_id": ["a"] * 999, "item_id": ["b"] * 999}).write_parquet(tmp_path / "whole.parquet")
    content = (tmp_path / "whole.parquet").read_bytes()
    prepare(content[: len(content) // 2], "the parquet file cannot be read", name="log.parquet")


def test_a_csv_file_that_is_not_utf8_is_refused_with_its_line(prepare):
    prepare(GOOD.replace("i1,100", "café,100").encode("latin-1"), "the file is not UTF-8", "line 6", "iconv")


def test_a_file_of_unknown_format_is_refused(prepare):
    prepare(b"PK\x03\x04", "log.xlsx", name="log.xlsx")


def test_a_missing_file_is_named(refused, tmp_path):
    command = ["prepare", "--interactions", tmp_path / "no.csv", "--out", tmp_path / "out"]
    refused(3, "there is no file", "no.csv", command=command)


def test_interactions_with_unknown_items_are_refused(prepare):
    prepare(GOOD, "1 items of the interactions are not in the items table: 'i4'", items="item_id\ni0\ni1\ni2\ni3\n")


def test_items_in_several_rows_that_differ_are_refused(prepare):
    items = "item_id,title\n" + "".join(f"i{n},x\n" for n in range(5)) + "i0,y\n"
    prepare(GOOD, "1 items occur in several rows that differ, such as 'i0'", "keep one row per item", items=items)


def test_a_catalogue_of_one_item_is_refused(prepare):
    prepare("user_id,item_id\na,x\nb,x\na,x\n", "the catalogue has one item")


def test_a_core_that_nobody_reaches_is_refused(prepare):
    prepare(GOOD, "no interaction is left after the 9-core filter", "lower data.k_core", options=["--k-core", "9"])


def test_a_rating_that_is_no_number_is_refused(prepare):
    content = "user_id,item_id,rating\na,x,good\nb,y,3\n"
    prepare(content, "rating is not a number: 'good'", "row 1", options=["--set", "min_rating=2"])


def test_an_unknown_data_setting_names_the_nearest(prepare):
    prepare(GOOD, "did you mean 'min_rating'?", code=2, options=["--set", "minrating=2"])


def test_duplicates_are_dropped_and_said(tmp_path, capsys):
    (tmp_path / "log.csv").write_text(GOOD + "u1,i1,100\nu1,i1,100\n")
    command = ["prepare", "--interactions", str(tmp_path / "log.csv"), "--out", str(tmp_path / "out"), "--k-core", "0"]
    assert main(command) == 0
    assert "warning: 2 of 26 interactions" in capsys.readouterr().err


def test_users_with_one_item_are_for_training_only(tmp_path, capsys):
    (tmp_path / "log.csv").write_text(GOOD + "lonely,i1,100\n")
    command = ["prepare", "--interactions", str(tmp_path / "log.csv"), "--out", str(tmp_path / "out"), "--k-core", "0"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "training only users | 1 |" in shown
    assert "test: evaluated users | 6 |" in shown


def test_an_unknown_public_data_set_names_the_nearest(refused, tmp_path):
    refused(2, "ml-100k", command=["fetch", "ml-10k", "--out", tmp_path / "x"])


def test_a_folder_that_holds_something_else_is_not_overwritten(refused, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "thesis.tex").write_text("years of work")
    refused(
        2, "that genrec did not write: it holds 'thesis.tex'", command=["fetch", "ml-100k", "--out", tmp_path / "x"]
    )
    assert (tmp_path / "x" / "thesis.tex").read_text() == "years of work"


# --- recipes --------------------------------------------------------------------------------------------------------


@pytest.fixture
def run_refused(refused, tmp_path):
    """Run the tiny recipe with something in it that must be refused before any work."""

    def run(code, *words, options=(), extra="", data=None):
        recipe = write_recipe(tmp_path, data or tiny_home() / "data", extra)
        return refused(code, *words, command=["run", recipe, "--out", tmp_path / "run", *options])

    return run


def test_an_unknown_key_of_a_recipe_names_the_nearest(run_refused):
    run_refused(2, "unknown key alignmnt", "did you mean 'alignment'?", "tiny.yaml", extra="alignmnt: {}\n")


def test_an_unknown_key_of_a_family_names_the_nearest(run_refused):
    run_refused(2, "unknown key codebok_size", "did you mean", options=["--set", "tokenizer.codebok_size=4"])


def test_a_wrong_type_in_yaml_is_shown(run_refused):
    run_refused(2, "training.epochs = 'some' cannot be used", options=["--set", "training.epochs=some"])


def test_a_key_that_stands_twice_is_refused(run_refused):
    run_refused(2, "key 'training' occurs twice", extra="training: {epochs: 1}\n")


def test_a_yaml_bomb_is_refused(refused, tmp_path):
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    refused(2, "aliases (*name) are not accepted", command=["run", tmp_path / "bomb.yaml", "--out", tmp_path / "run"])


def test_a_missing_recipe_is_named(refused, tmp_path):
    refused(2, "there is no recipe", "nothing.yaml", command=["run", tmp_path / "nothing.yaml"])


def test_a_recipe_that_says_nothing_of_data_is_refused(refused, tmp_path):
    (tmp_path / "empty.yaml").write_text("{}\n")
    refused(2, "the data come from nowhere", command=["run", tmp_path / "empty.yaml", "--out", tmp_path / "run"])


def test_a_data_folder_that_is_not_there_is_named(run_refused, tmp_path):
    run_refused(3, "there is no folder", "elsewhere", data=tmp_path / "elsewhere")


def test_a_data_folder_without_tables_is_refused(run_refused, tmp_path):
    (tmp_path / "bare").mkdir()
    run_refused(3, "bare", "interactions", data=tmp_path / "bare")


# --- items and their vectors ----------------------------------------------------------------------------------------


@pytest.fixture
def prepared():
    """The prepared data set of the tiny run."""
    return tiny_home() / "run" / "dataset"


@pytest.fixture
def embed(refused, tmp_path, prepared):
    """Make item vectors with settings that must be refused."""

    def run(code, *words, settings, dataset=None):
        options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        return refused(
            code, *words, command=["embed", "--dataset", dataset or prepared, "--out", tmp_path / "out", *options]
        )

    return run


def test_items_without_text_are_refused_with_the_way_out(embed, tmp_path, capsys):
    (tmp_path / "log.csv").write_text(GOOD)
    folder = tmp_path / "bare"
    assert main(["prepare", "--interactions", str(tmp_path / "log.csv"), "--out", str(folder), "--k-core", "0"]) == 0
    embed(3, "no item has any text", "features.encoder: lightgcn", settings={"encoder": "lexical"}, dataset=folder)


def vectors(path: Path, values: np.ndarray, ids: list[str]) -> Path:
    columns = {f"x{column}": values[:, column] for column in range(values.shape[1])}
    pl.DataFrame({"item_id": ids, **columns}).write_parquet(path)
    return path


@pytest.fixture
def matrix(tmp_path, prepared):
    """40 good vectors of width 4 and the ids of their items."""
    ids = pl.read_parquet(prepared / "items.parquet")["item_id"].to_list()
    return np.random.default_rng(0).normal(size=(len(ids), 4)), ids


def test_vectors_with_nan_name_the_item(embed, tmp_path, matrix):
    values, ids = matrix
    values[7, 2] = np.nan
    path = vectors(tmp_path / "mine.parquet", values, ids)
    embed(3, "a vector holds NaN or infinity", repr(ids[7]), settings={"encoder": "matrix", "path": path})


def test_vectors_of_another_width_are_refused(embed, tmp_path, matrix):
    path = vectors(tmp_path / "mine.parquet", *matrix)
    embed(3, "width", "4", settings={"encoder": "matrix", "path": path, "width": 8})


def test_an_item_without_a_vector_is_named(embed, tmp_path, matrix):
    values, ids = matrix
    path = vectors(tmp_path / "mine.parquet", values[1:], ids[1:])
    embed(3, f"item {ids[0]!r} has no vector", settings={"encoder": "matrix", "path": path})


def test_a_codebook_larger_than_the_catalogue_is_refused(refused, tmp_path, prepared):
    command = [
        "tokenize",
        tiny_home() / "tiny.yaml",
        "--dataset",
        prepared,
        "--features",
        tiny_home() / "run" / "features",
    ]
    words = ("has 99 codes but the 40 items have", "or smaller")
    refused(3, *words, command=[*command, "--out", tmp_path / "out", "--set", "codebook_size=99"])


# --- folders --------------------------------------------------------------------------------------------------------


@pytest.fixture
def run_copy(tmp_path):
    """A finished run that may be damaged."""
    return copy_run(tmp_path / "finished")


def generating(model, tmp_path, *options):
    return [
        "generate",
        "--model",
        model,
        "--dataset",
        tiny_home() / "run" / "dataset",
        "--out",
        tmp_path / "o",
        *options,
    ]


def test_a_missing_model_folder_is_named(refused, tmp_path):
    refused(4, "there is no folder", "nowhere", command=generating(tmp_path / "nowhere", tmp_path))


def test_a_folder_of_another_stage_is_refused(refused, tmp_path, run_copy):
    refused(4, "holds a tokenizer", "expected: a model", command=generating(run_copy / "tokenizer", tmp_path))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer/codes.parquet", "items.parquet", "config.json"])
def test_a_changed_file_of_a_model_is_named(name, refused, tmp_path, run_copy):
    path = run_copy / "model" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    words = (f"{name} was changed after it was written", "SHA-256")
    refused(4, *words, command=generating(run_copy / "model", tmp_path))


def test_a_model_whose_weights_are_gone_is_named(refused, tmp_path, run_copy):
    (run_copy / "model" / "model.safetensors").unlink()
    refused(4, "model.safetensors is missing", command=generating(run_copy / "model", tmp_path))


def resign(folder: Path) -> None:
    """Make the manifest agree with the files again, as somebody who swaps parts of a folder would."""
    from genrec.artifacts import FileRecord, file_sha256, read_manifest, write_manifest

    manifest = read_manifest(folder)
    for name in manifest.files:
        path = folder / name
        manifest.files[name] = FileRecord(size=path.stat().st_size, sha256=file_sha256(path))
    write_manifest(folder, manifest)


def test_a_tokenizer_that_does_not_match_the_model_is_refused(refused, tmp_path, run_copy):
    folders = ["--dataset", run_copy / "dataset", "--features", run_copy / "features", "--out", tmp_path / "other"]
    assert (
        main([str(part) for part in ["tokenize", tiny_home() / "tiny.yaml", *folders, "--set", "codebook_size=5"]]) == 0
    )
    for name in ("codes.parquet", "index.json", "trie.safetensors", "codebooks.safetensors", "config.json"):
        shutil.copy(tmp_path / "other" / name, run_copy / "model" / "tokenizer" / name)
    resign(run_copy / "model")
    words = ("the tokenizer does not match the model", "put back the tokenizer")
    refused(4, *words, command=generating(run_copy / "model", tmp_path))


def test_folders_of_another_data_set_are_refused(refused, tmp_path, run_copy):
    (tmp_path / "log.csv").write_text(GOOD)
    folder = tmp_path / "bare"
    assert main(["prepare", "--interactions", str(tmp_path / "log.csv"), "--out", str(folder), "--k-core", "0"]) == 0
    recipe, out = tiny_home() / "tiny.yaml", ["--out", tmp_path / "out"]
    command = ["tokenize", recipe, "--dataset", folder, "--features", run_copy / "features", *out]
    refused(4, "the features folder does not match the data set", command=command)
    command = ["train", recipe, "--dataset", folder, "--tokenizer", run_copy / "tokenizer", *out]
    refused(4, "the tokenizer folder does not match the data set", command=command)
    command = ["evaluate", "--model", run_copy / "model", "--dataset", folder, *out]
    refused(4, "the data set does not match the model", command=command)


def test_a_model_that_writes_identifiers_needs_a_tokenizer(refused, tmp_path, prepared):
    command = ["train", tiny_home() / "tiny.yaml", "--dataset", prepared, "--out", tmp_path / "out"]
    refused(2, "the recommender 'depth' reads semantic IDs and none were given", "--tokenizer", command=command)


def test_a_place_that_cannot_be_written_is_refused(refused, tmp_path, prepared):
    (tmp_path / "file").write_text("x")
    table = tiny_home() / "data" / "interactions.csv"
    below = f"is below {tmp_path / 'file'}, which is a file"
    refused(2, below, command=["prepare", "--interactions", table, "--out", tmp_path / "file" / "out"])
    command = generating(tiny_home() / "run" / "model", tmp_path / "file")
    refused(2, below, "give another --out", command=command)
    refused(2, below, command=["run", tiny_home() / "tiny.yaml", "--out", tmp_path / "file" / "run"])


@pytest.mark.parametrize("verb", ["prepare", "embed", "generate"])
def test_a_full_disk_leaves_nothing(verb, refused, tmp_path, prepared, monkeypatch):
    def full(_handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = ["--out", tmp_path / "out"]
    command = {
        "prepare": ["prepare", "--interactions", tiny_home() / "data" / "interactions.csv", *out],
        "embed": ["embed", "--dataset", prepared, *out, "--set", "dim=8"],
        "generate": ["generate", "--model", tiny_home() / "run" / "model", "--dataset", prepared, *out],
    }[verb]
    monkeypatch.setattr(os, "fsync", full)
    refused(4, "the disk is full while writing", "free some space", command=command)


def test_inspect_refuses_what_is_not_ours(refused, tmp_path):
    (tmp_path / "holiday").mkdir()
    refused(4, "is nothing that genrec wrote", command=["inspect", tmp_path / "holiday"])
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    refused(4, "cannot be read", command=["inspect", tmp_path / "cut.parquet"])
    (tmp_path / "other.json").write_text("[1, 2]")
    refused(4, "holds no metrics", command=["inspect", tmp_path / "other.json"])
    refused(3, "there is no user 'nobody'", command=["inspect", tiny_home() / "run", "--user", "nobody"])
    refused(
        2, "it is not clear whose users are meant", command=["inspect", tiny_home() / "run" / "model", "--user", "u1"]
    )


# --- lists ----------------------------------------------------------------------------------------------------------


def test_generate_needs_histories_or_a_data_set(refused, tmp_path):
    command = ["generate", "--model", tiny_home() / "run" / "model", "--out", tmp_path / "o"]
    refused(2, "one of --histories and --dataset is needed", command=command)
    table = tiny_home() / "data" / "interactions.csv"
    refused(2, "exactly one", command=generating(tiny_home() / "run" / "model", tmp_path, "--histories", table))


def test_histories_with_unknown_items_are_refused_if_wished(refused, tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id\na,i00\na,mars\n")
    command = ["generate", "--model", tiny_home() / "run" / "model", "--histories", tmp_path / "log.csv"]
    command += ["--out", tmp_path / "o", "--unknown-items", "error"]
    refused(3, "1 items are not in the model's catalogue: 'mars'", "--unknown-items skip", command=command)


def test_a_filter_with_unknown_items_is_refused(refused, tmp_path):
    (tmp_path / "block.txt").write_text("i00\nmars\n")
    command = generating(tiny_home() / "run" / "model", tmp_path, "--block-items", tmp_path / "block.txt")
    refused(3, "1 items are not in the model's catalogue: 'mars'", "the list of items", command=command)
    command = generating(tiny_home() / "run" / "model", tmp_path, "--allow-items", tmp_path / "no.txt")
    refused(3, "the list of items cannot be read", command=command)
    pl.DataFrame({"name": ["i00"]}).write_csv(tmp_path / "names.csv")
    command = generating(tiny_home() / "run" / "model", tmp_path, "--allow-items", tmp_path / "names.csv")
    refused(3, "there is no column 'item_id'", command=command)


def test_a_condition_on_columns_that_the_model_does_not_have_is_refused(refused, tmp_path):
    command = generating(tiny_home() / "run" / "model", tmp_path, "--allow-where", "price < 20")
    refused(2, 'unable to find column "price"', "the columns item_id, title, genres", command=command)


def test_item_scores_cannot_be_explained(refused, tmp_path):
    sasrec = tiny_home() / "run" / "baselines" / "sasrec"
    refused(2, "there is no semantic ID to explain", command=generating(sasrec, tmp_path, "--explain"))


def test_a_device_that_is_not_there_is_refused(refused, tmp_path):
    command = generating(tiny_home() / "run" / "model", tmp_path, "--device", "warp")
    refused(2, "the device 'warp' cannot be used", "expected: cpu", command=command)


def test_lists_of_users_that_nobody_knows_are_refused(refused, tmp_path, prepared):
    pl.DataFrame({"user_id": ["x"], "rank": [1], "item_id": ["i00"]}).write_csv(tmp_path / "theirs.csv")
    command = [
        "evaluate",
        "--dataset",
        prepared,
        "--recommendations",
        tmp_path / "theirs.csv",
        "--out",
        tmp_path / "m.json",
    ]
    refused(3, "the user 'x' is not in the data set", command=command)


def test_evaluate_needs_a_model_or_lists(refused, tmp_path, prepared):
    command = ["evaluate", "--dataset", prepared, "--out", tmp_path / "m.json"]
    refused(2, "one of --model and --recommendations is needed", command=command)


# --- training and signals -------------------------------------------------------------------------------------------


def training(folder: Path, *options) -> list[str]:
    run = tiny_home() / "run"
    folders = ["--dataset", run / "dataset", "--tokenizer", run / "tokenizer", "--features", run / "features"]
    return [str(part) for part in ["train", tiny_home() / "tiny.yaml", *folders, "--out", folder / "model", *options]]


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path, capsys):
    options = [
        "--set",
        "training.learning_rate=1e6",
        "--set",
        "training.max_grad_norm=1e6",
        "--set",
        "training.epochs=9",
    ]
    assert main(training(tmp_path, *options)) == 6
    assert "error: " in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def start(command: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "genrec.cli", *command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def wait_for(condition, process, seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_training_saves_and_the_same_command_goes_on(number, code, tmp_path, capsys):
    command = training(tmp_path, "--set", "training.epochs=200", "--set", "training.patience=200")
    checkpoints = tmp_path / "model.checkpoints"
    process = start(command)
    wait_for(lambda: any(checkpoints.glob("checkpoint-*/manifest.json")), process)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"training was stopped by {number.name}" in told
    assert "run the same command again" in told
    assert "Traceback" not in told
    assert not (tmp_path / "model").exists()
    saved = max(int(path.name.partition("-")[2]) for path in checkpoints.glob("checkpoint-*"))
    assert f"at step {saved} and saved" in told
    assert main([*command, "--set", "training.max_minutes=0.001"]) == 0
    assert f"continuing from checkpoint-{saved}" in capsys.readouterr().err
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert not checkpoints.exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_generating_keeps_what_is_done_and_nothing_half_written(number, code, tmp_path):
    users = [f"u{user}" for user in range(200_000)]
    pl.DataFrame({"user_id": users, "item_id": ["i00"] * len(users)}).write_parquet(tmp_path / "log.parquet")
    command = ["generate", "--model", tiny_home() / "run" / "model", "--histories", tmp_path / "log.parquet"]
    process = start([str(part) for part in [*command, "--out", tmp_path / "out" / "lists.parquet"]])
    parts = tmp_path / "out" / ".lists.parquet.parts"
    wait_for((parts / "commits-0.jsonl").is_file, process)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"error: stopped by {number.name}" in told
    assert "Traceback" not in told
    assert list((tmp_path / "out").iterdir()) == [parts]
    lines = (parts / "commits-0.jsonl").read_text().split("\n")
    made = {f"{json.loads(line)['block']}.parquet" for line in lines if line}
    assert "0.parquet" in made
    assert made <= {path.name for path in parts.iterdir()}
