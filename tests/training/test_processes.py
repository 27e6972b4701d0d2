"""Two real processes train what one trains, stop together, and notice when they do not train together."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from process_worker import STOP, Layered, balanced, run, stop
from safetensors.numpy import load_file

from genrec.distributed.world import World
from genrec.errors import InterruptedRun
from genrec.training.batches import EpochBatches

ROOT = Path(__file__).resolve().parents[2]
STEPS = 27


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that two processes did, and next to it what one does."""
    folder = tmp_path_factory.mktemp("processes")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WORLD_SIZE", raising=False)
        patch.setattr("genrec.training.train._tracking", lambda *_: [])
        run(folder / "one")
        with pytest.raises(InterruptedRun):
            run(folder / "taken-up", Layered(stop))
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    variables = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    worker = str(Path(__file__).with_name("process_worker.py"))
    done = subprocess.run([*torchrun, worker, str(folder)], env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shutil.copytree(folder / "stopped", folder / "stopped-2")
    return folder


def outcomes(folder: Path, name: str) -> list[Any]:
    """What each process said of a run."""
    return [json.loads((folder / f"rank-{rank}.json").read_text())[name] for rank in range(2)]


def logged(folder: Path) -> np.ndarray:
    """Losses and gradient norms by update."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return np.array([[record["loss"], record["grad_norm"]] for record in records if "loss" in record])


def assert_equals_one_process(folder: Path, name: str) -> None:
    assert np.abs(logged(folder / name) - logged(folder / "one")).max() < 1e-5
    last = f"checkpoint-{STEPS}"
    for file in ("model", "optimizer"):
        found, expected = (load_file(folder / run / last / f"{file}.safetensors") for run in (name, "one"))
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], value, atol=2e-5, err_msg=key)
    found, expected = (json.loads((folder / run / last / "state.json").read_text()) for run in (name, "one"))
    assert found["run"]["users"] == expected["run"]["users"]
    assert found["optimizer"] == expected["optimizer"]
    assert found["scheduler"] == expected["scheduler"]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_processes_divide_each_batch_of_one_order(count: int):
    lengths = np.random.default_rng(0).integers(1, 9, size=71)
    whole = EpochBatches(lengths, 8, 2, seed=3)
    parts = [EpochBatches(lengths, 8, 2, 3, World(rank, count)) for rank in range(count)]
    for epoch in (0, 1):
        for batches in (whole, *parts):
            batches.set_epoch(epoch)
        for batch, *shares in zip(whole, *parts, strict=True):
            assert sorted(batch.tolist()) == sorted(np.concatenate(shares).tolist())
            sizes = [len(share) for share in shares]
            assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "taken-up"])
def test_losses_gradients_and_weights_are_those_of_one_process(folder: Path, name: str):
    assert_equals_one_process(folder, name)


def test_the_processes_know_each_other(folder: Path):
    assert outcomes(folder, "world") == [[0, 2, [0, 10], 0], [1, 2, [0, 10], 0]]


def test_experts_are_balanced_by_the_loads_of_all(folder: Path):
    whole, half = balanced(slice(None)), balanced(slice(0, None, 2))
    assert outcomes(folder, "experts") == [whole, whole]
    assert whole != half


def test_a_signal_for_one_stops_all_at_the_same_step(folder: Path):
    for name in ("stopped", "fsdp2"):
        for found in outcomes(folder, name):
            assert found["what"] == f"training was stopped by SIGTERM at step {STOP} and saved"
            assert found["exit_code"] == 143
    for found in outcomes(folder, "fsdp2-again"):
        assert found["notes"] == [f"continuing from checkpoint-{STOP} of {STEPS} steps"]


def test_one_process_takes_up_what_two_began(folder: Path):
    result = run(folder / "stopped-2")
    assert result.notes == [f"continuing from checkpoint-{STOP} of {STEPS} steps"]
    assert_equals_one_process(folder, "stopped-2")


def test_two_that_go_on_are_two_that_never_stopped_with_dropout_of_their_own(folder: Path):
    assert outcomes(folder, "dropout-again")[1]["notes"] == [f"continuing from checkpoint-{STOP} of {STEPS} steps"]
    for file in ("model", "optimizer", "random", "random-1"):
        name = f"checkpoint-{STEPS}/{file}.safetensors"
        assert (folder / "dropout" / name).read_bytes() == (folder / "dropout-again" / name).read_bytes()
    first, second = (
        load_file(folder / "dropout" / f"checkpoint-{STEPS}/{file}.safetensors") for file in ("random", "random-1")
    )
    assert not np.array_equal(first["torch"], second["torch"])


def test_a_loss_that_is_no_number_in_one_stops_all_before_the_update(folder: Path):
    for found in outcomes(folder, "spoilt"):
        assert found["error"] == "NonFiniteLossError"
        assert "at step 2" in found["what"]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("unwrapped", "the model was to be wrapped by ddp and is a Layered"),
        ("unsynchronized", "the gradients of the processes differ after they were synchronized"),
        ("other weights", "the processes start from different weights"),
    ],
)
def test_processes_that_do_not_train_together_are_stopped(folder: Path, name: str, what: str):
    for found in outcomes(folder, name):
        assert found["error"] == "ConfigError"
        assert found["what"] == f"the processes do not train together: {what}"


def test_what_the_leader_cannot_write_ends_all(folder: Path):
    for found in outcomes(folder, "disk full"):
        assert (found["error"], found["what"]) == ("ArtifactError", "the disk is full")


def test_only_the_leader_writes(folder: Path):
    steps = [json.loads(line) for line in (folder / "ddp" / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in steps if "loss" in record] == list(range(1, STEPS + 1))


def test_layers_that_compute_again_change_no_bit(tmp_path: Path):
    plain, again = Layered(dropout=0.3), Layered(dropout=0.3)
    run(tmp_path / "plain", plain)
    run(tmp_path / "again", again, gradient_checkpointing=True)
    for (name, expected), found in zip(plain.named_parameters(), again.parameters(), strict=True):
        assert expected.equal(found), name
    assert all("forward" not in vars(layer) for layer in again.layers)
