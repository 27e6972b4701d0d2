"""Checkpoints: whole or not at all, the newest good one found, the reasons said."""

import errno
import json
import os
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from genrec.errors import ArtifactError, ConfigError
from genrec.training import checkpoints
from genrec.training.checkpoints import CheckpointStore

CONFIG = {"training.epochs": 3, "training.patience": 2}
INPUTS = {"model": "m", "data set": "d"}


def store(folder: Path, config: dict | None = None, inputs: dict | None = None) -> CheckpointStore:
    return CheckpointStore(folder, config or CONFIG, inputs or INPUTS, seed=1)


def save(saved: CheckpointStore, step: int, best: int | None = None) -> None:
    model = nn.Linear(2, 2)
    nn.init.constant_(model.weight, step)
    saved.save(step, model, {"optimizer": {"0.step": torch.tensor(step)}}, {"run": {"best_step": best}})


def test_what_is_saved_comes_back(tmp_path: Path):
    saved = store(tmp_path)
    save(saved, 5, best=5)
    assert store(tmp_path).newest() == (5, [])
    model = nn.Linear(2, 2)
    saved.load_weights(5, model)
    assert model.weight.tolist() == [[5, 5], [5, 5]]
    assert saved.tensors(5, "optimizer")["0.step"] == 5
    assert {path.suffix for path in saved.path(5).iterdir()} == {".json", ".safetensors"}


def test_shared_weights_are_saved_once_and_come_back(tmp_path: Path):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.b.weight = self.a.weight

    model, other = Tied(), Tied()
    store(tmp_path).save(1, model, {}, {"run": {"best_step": None}})
    store(tmp_path).load_weights(1, other)
    assert torch.equal(other.b.weight, model.a.weight)
    assert other.a.weight is other.b.weight


def test_the_last_two_and_the_best_are_kept(tmp_path: Path):
    saved = store(tmp_path)
    for step, best in [(10, 10), (20, 10), (30, 10), (40, 40), (50, 40), (60, 40)]:
        save(saved, step, best)
        assert saved.steps() == {
            10: [10], 20: [10, 20], 30: [10, 20, 30], 40: [10, 30, 40], 50: [40, 50], 60: [40, 50, 60]
        }[step]  # fmt: skip


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_checkpoint_is_skipped_and_named(tmp_path: Path, name: str, damage: str):
    saved = store(tmp_path)
    save(saved, 1)
    save(saved, 2)
    path = saved.path(2) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(bytes(content if damage == "flip" else content[: len(content) // 2]))
    step, skipped = saved.newest()
    assert step == 1
    assert len(skipped) == 1
    assert skipped[0].startswith("skipped checkpoint-2: ")
    assert name in skipped[0]


def test_a_checkpoint_whose_best_is_damaged_is_skipped(tmp_path: Path):
    saved = store(tmp_path)
    for step, best in [(1, 1), (2, 2), (3, 1)]:
        save(saved, step, best)
    (saved.path(1) / "model.safetensors").unlink()
    step, skipped = saved.newest()
    assert step == 2
    assert skipped == [f"skipped checkpoint-3: model.safetensors is missing ({saved.path(1)})"]


def test_what_cannot_be_continued_makes_room(tmp_path: Path):
    saved = store(tmp_path)
    for step in (1, 2):
        save(saved, step)
    saved.discard_after(1)
    assert saved.steps() == [1]
    saved.discard_after(0)
    assert saved.steps() == []


def test_leftovers_of_a_kill_are_removed(tmp_path: Path):
    saved = store(tmp_path)
    save(saved, 1)
    for name in (".checkpoint-2.genrec-12ab34cd.part", ".checkpoint-1.genrec-12ab34cd.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"half")
    assert saved.newest() == (1, [])
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_a_kill_between_going_aside_and_coming_in_loses_nothing(tmp_path: Path):
    saved = store(tmp_path)
    save(saved, 1)
    save(saved, 2)
    saved.path(2).rename(tmp_path / ".checkpoint-2.genrec-12ab34cd.old")
    assert saved.newest() == (2, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-2"]


def test_the_older_is_deleted_only_where_the_new_one_reads_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    saved = store(tmp_path)
    save(saved, 1)
    save(saved, 2)
    real = checkpoints.write_artifact

    @contextmanager
    def on_a_failing_disk(target: Path, *rest: object, **named: object):
        with real(target, *rest, **named) as folder:
            yield folder
        (target / "model.safetensors").write_bytes(b"other than what was written")

    monkeypatch.setattr(checkpoints, "write_artifact", on_a_failing_disk)
    with pytest.raises(ArtifactError, match=r"model\.safetensors was changed"):
        save(saved, 3)
    assert saved.steps() == [1, 2, 3]
    step, skipped = saved.newest()
    assert (step, len(skipped)) == (2, 1)


def test_checkpoints_of_another_program_are_left_alone(tmp_path: Path):
    (tmp_path / "checkpoint-500").mkdir()
    (tmp_path / "checkpoint-500" / "pytorch_model.bin").write_bytes(b"somebody's weeks of work")
    with pytest.raises(ArtifactError, match="checkpoint-500 is no checkpoint of genrec") as caught:
        store(tmp_path).newest()
    assert caught.value.fix == "give another --out"
    assert (tmp_path / "checkpoint-500" / "pytorch_model.bin").is_file()


def test_a_full_disk_leaves_the_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    saved = store(tmp_path)
    save(saved, 1)

    def full(tensors: object, path: Path) -> None:
        Path(path).write_bytes(b"half of it")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(ArtifactError, match=r"disk is full while writing .*checkpoint-2") as caught:
        save(saved, 2)
    assert "free some space" in caught.value.fix
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert saved.newest() == (1, [])


def test_a_full_disk_while_syncing_leaves_the_older_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    saved = store(tmp_path)
    save(saved, 1)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtifactError, match="disk is full"):
        save(saved, 2)
    assert saved.newest() == (1, [])


def test_other_errors_of_safetensors_are_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(tensors: object, path: Path) -> None:
        raise SafetensorError("invalid header")

    monkeypatch.setattr(checkpoints, "save_file", broken)
    with pytest.raises(SafetensorError, match="invalid header"):
        save(store(tmp_path), 1)


def test_changed_settings_are_shown(tmp_path: Path):
    save(store(tmp_path), 1)
    with pytest.raises(ConfigError, match=r"training\.epochs: 3 -> 4") as caught:
        store(tmp_path, {**CONFIG, "training.epochs": 4}).newest()
    assert "patience" not in caught.value.what
    assert "give another --out" in caught.value.fix
    assert store(tmp_path, {**CONFIG, "training.patience": 9}).newest() == (1, [])


@pytest.mark.parametrize("name", ["model", "data set"])
def test_checkpoints_of_another_run_are_refused(tmp_path: Path, name: str):
    save(store(tmp_path), 1)
    with pytest.raises(ArtifactError, match=f"belong to another {name}") as caught:
        store(tmp_path, inputs={**INPUTS, name: "other"}).newest()
    assert "delete the folder" in caught.value.fix


def test_weights_that_do_not_fit_are_refused(tmp_path: Path):
    saved = store(tmp_path)
    save(saved, 1)
    with pytest.raises(ArtifactError, match="weights of checkpoint-1 cannot be loaded") as caught:
        saved.load_weights(1, nn.Linear(3, 3))
    assert "delete this checkpoint" in caught.value.fix


def test_the_manifest_comes_with_hashes(tmp_path: Path):
    saved = store(tmp_path)
    save(saved, 1)
    manifest = json.loads((saved.path(1) / "manifest.json").read_text())
    assert manifest["counts"] == {"step": 1}
    assert set(manifest["files"]) == {"model.safetensors", "optimizer.safetensors", "state.json"}
