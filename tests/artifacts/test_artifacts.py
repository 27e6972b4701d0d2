"""Folders of stages: whole or not at all, and proved by their manifest."""

import errno
import hashlib
import json
import math
import os

import numpy as np
import pytest

from genrec import __version__
from genrec.artifacts import (
    Manifest,
    environment,
    file_sha256,
    fingerprint,
    folders,
    git_commit,
    overwriting,
    read_json,
    read_manifest,
    reporting_write_errors,
    verify_artifact,
    write_artifact,
    write_file,
    write_json,
    write_manifest,
)
from genrec.errors import ArtifactError, ConfigError


def write_sample(target, text="hello", **settings):
    with write_artifact(target, "features", config=settings, inputs={"dataset": "abc"}, seed=5) as folder:
        (folder.path / "inner").mkdir()
        (folder.path / "inner" / "a.txt").write_text(text)
        folder.counts["items"] = 3


def write_until(target, failure):
    with write_artifact(target, "features") as folder:
        (folder.path / "a.txt").write_text("half")
        failure()


def write_file_until(target, failure):
    with write_file(target) as path:
        path.write_text("half")
        failure()


def interrupted():
    raise KeyboardInterrupt


def full_disk(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_a_folder_says_what_it_is_and_proves_it(tmp_path):
    write_sample(tmp_path / "out", width=4)
    manifest = verify_artifact(tmp_path / "out", "features")
    assert (manifest.stage, manifest.config, manifest.inputs) == ("features", {"width": 4}, {"dataset": "abc"})
    assert (manifest.seed, manifest.counts) == (5, {"items": 3})
    assert manifest.versions["genrec"] == __version__
    record = manifest.files["inner/a.txt"]
    assert (record.size, record.sha256) == (5, hashlib.sha256(b"hello").hexdigest())
    assert leftovers(tmp_path) == []


def test_equal_folders_have_equal_fingerprints_and_different_ones_do_not(tmp_path):
    write_sample(tmp_path / "a", width=4)
    write_sample(tmp_path / "b", width=4)
    write_sample(tmp_path / "c", width=5)
    write_sample(tmp_path / "d", text="other", width=4)
    prints = [read_manifest(tmp_path / name).fingerprint for name in "abcd"]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_a_failure_leaves_the_target_as_it_was(tmp_path):
    write_sample(tmp_path / "out", text="first")
    with pytest.raises(KeyboardInterrupt):
        write_until(tmp_path / "out", interrupted)
    assert (tmp_path / "out" / "inner" / "a.txt").read_text() == "first"
    verify_artifact(tmp_path / "out")
    assert leftovers(tmp_path) == []


def test_an_interruption_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write_until(tmp_path / "out", interrupted)
    assert list(tmp_path.iterdir()) == []


def test_replacing_a_folder_leaves_no_old_file_behind(tmp_path):
    write_sample(tmp_path / "out")
    with overwriting(), write_artifact(tmp_path / "out", "tokenizer") as folder:
        (folder.path / "b.txt").write_text("b")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["b.txt", "manifest.json"]
    assert verify_artifact(tmp_path / "out").stage == "tokenizer"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: (folder / "inner" / "a.txt").write_text("jello"),
            "inner/a.txt was changed after it was written",
        ),
        (lambda folder: (folder / "inner" / "a.txt").write_text("longer than before"), "inner/a.txt was changed"),
        (lambda folder: (folder / "inner" / "a.txt").unlink(), "inner/a.txt is missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "has no manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json is not readable JSON"),
        (lambda folder: (folder / "manifest.json").write_text('{"files": 3}'), "manifest.json is not a manifest"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json is not a manifest"),
    ],
)
def test_damage_is_found_and_named(tmp_path, damage, message):
    write_sample(tmp_path / "out")
    damage(tmp_path / "out")
    with pytest.raises(ArtifactError, match=message.replace("(", r"\(")) as caught:
        verify_artifact(tmp_path / "out")
    assert str(tmp_path / "out") in str(caught.value)


def test_a_folder_of_another_stage_is_refused(tmp_path):
    write_sample(tmp_path / "out")
    with pytest.raises(ArtifactError, match="holds a features") as caught:
        read_manifest(tmp_path / "out", "model")
    assert "expected: a model" in str(caught.value)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"there is no folder .*nowhere"):
        read_manifest(tmp_path / "nowhere", "model")


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    with write_file(tmp_path / "deep" / "a.txt") as path:
        path.write_text("one")
        assert not (tmp_path / "deep" / "a.txt").exists()
    with pytest.raises(KeyboardInterrupt):
        write_file_until(tmp_path / "deep" / "a.txt", interrupted)
    assert (tmp_path / "deep" / "a.txt").read_text() == "one"
    assert leftovers(tmp_path / "deep") == []


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    with pytest.raises(ArtifactError, match=r"the disk is full while writing .*out"):
        write_until(tmp_path / "out", full_disk)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_at_the_last_sync_leaves_the_old_folder(tmp_path, monkeypatch):
    write_sample(tmp_path / "out", text="first")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(ArtifactError, match="the disk is full"):
        write_sample(tmp_path / "out", text="second")
    monkeypatch.undo()
    assert (tmp_path / "out" / "inner" / "a.txt").read_text() == "first"
    verify_artifact(tmp_path / "out")
    assert leftovers(tmp_path) == []


def test_a_rename_that_fails_puts_the_old_folder_back(tmp_path, monkeypatch):
    write_sample(tmp_path / "out", text="first")
    rename = os.rename

    def fails_on_new(source, target):
        if str(source).endswith(".part"):
            raise OSError(errno.EACCES, "Permission denied")
        rename(source, target)

    # A file system that cannot exchange two folders in one step.
    monkeypatch.setattr(folders, "_exchange", lambda one, other: False)
    monkeypatch.setattr(os, "rename", fails_on_new)
    with pytest.raises(ArtifactError, match="cannot be written"):
        write_sample(tmp_path / "out", text="second")
    assert (tmp_path / "out" / "inner" / "a.txt").read_text() == "first"
    assert leftovers(tmp_path) == []


def test_a_place_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"is below .*file, which is a file"):
        write_sample(tmp_path / "file" / "out")
    with pytest.raises(ArtifactError, match="cannot be written"):
        write_json(tmp_path / "file" / "a.json", {})


def test_a_folder_is_not_replaced_by_a_file(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(ConfigError, match="is not a file"):
        write_json(tmp_path / "a.json", {})
    assert leftovers(tmp_path) == []


def test_all_refusals_of_the_system_name_the_target_but_what_is_missing(tmp_path):
    with (
        pytest.raises(ArtifactError, match=r"cannot be written: .*Input/output error"),
        reporting_write_errors(tmp_path),
    ):
        raise OSError(errno.EIO, "odd")
    with pytest.raises(FileNotFoundError), reporting_write_errors(tmp_path):
        (tmp_path / "input.csv").read_text()


def test_json_is_written_as_numbers_or_null(tmp_path):
    value = {"a": float("nan"), "b": [math.inf, 1.5, np.float32(0.5)], "c": {"d": np.int64(3)}, "title": "Amélie"}
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"a": None, "b": [None, 1.5, 0.5], "c": {"d": 3}, "title": "Amélie"}
    assert "Amélie" in text
    assert read_json(tmp_path / "a.json")["b"] == [None, 1.5, 0.5]


@pytest.mark.parametrize(("text", "message"), [(None, "a.json is missing"), ("{", "a.json is not readable JSON")])
def test_unreadable_json_is_named(tmp_path, text, message):
    if text is not None:
        (tmp_path / "a.json").write_text(text)
    with pytest.raises(ArtifactError, match=message):
        read_json(tmp_path / "a.json")


def test_a_fingerprint_does_not_depend_on_the_order_of_keys():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": "1"})


def test_the_hash_of_a_file_larger_than_a_block(tmp_path):
    data = os.urandom(3 * (1 << 20) + 17)
    (tmp_path / "big").write_bytes(data)
    assert file_sha256(tmp_path / "big") == hashlib.sha256(data).hexdigest()


def test_the_environment_names_what_computes():
    assert {"python", "genrec", "torch", "numpy", "polars"} <= environment().keys()
    commit = git_commit()
    assert commit is None or len(commit) == 40


def test_a_manifest_survives_its_json():
    manifest = Manifest(stage="model", config={"a": 1})
    assert Manifest.model_validate_json(manifest.model_dump_json()).fingerprint == manifest.fingerprint


def test_every_changed_bit_of_a_manifest_is_found(tmp_path):
    write_sample(tmp_path / "out", note="ä")
    path = tmp_path / "out" / "manifest.json"
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        with pytest.raises(ArtifactError, match=r"manifest\.json"):
            read_manifest(tmp_path / "out")
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ArtifactError, match=r"manifest\.json"):
            read_manifest(tmp_path / "out")
    path.write_bytes(whole)
    assert read_manifest(tmp_path / "out").config == {"note": "ä"}


def test_a_manifest_without_a_seal_is_refused(tmp_path):
    write_sample(tmp_path / "out")
    manifest = read_manifest(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_text(manifest.model_dump_json(indent=2) + "\n")
    with pytest.raises(ArtifactError, match=r"manifest\.json has no seal"):
        read_manifest(tmp_path / "out")
    write_manifest(tmp_path / "out", manifest)
    assert verify_artifact(tmp_path / "out") == manifest
