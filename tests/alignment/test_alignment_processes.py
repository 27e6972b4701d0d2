"""Two real processes align a model as one does, stop together, and take up from each other."""

import json
import os
import shutil
import socket
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from alignment_worker import EXPERTS, QUICK, RUNS, SPREAD, STOP, USERS, align
from safetensors.numpy import load_file
from safetensors.torch import save_model
from simulator import World

from genrec.alignment.batches import MixedBatches, MixedRows, MixedWindows, PromptRows
from genrec.alignment.prompts import Prompts
from genrec.data.histories import Histories
from genrec.training.world import World as Processes

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that two processes did, and in ``alone`` what one did at the same time."""
    folder = tmp_path_factory.mktemp("processes")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    world = World(folder / "dataset", users=USERS)
    save_model(world.supervised(epochs=5, dropout=0.0), str(folder / "weights.safetensors"))
    save_model(world.supervised(epochs=5, dropout=0.0, **EXPERTS), str(folder / "experts.safetensors"))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WORLD_SIZE", raising=False)
        for name, value in QUICK.items():
            patch.setattr(name, value)
        workers = start_workers(folder)
        for name in RUNS:
            align(folder, name, f"alone/{name}")
        for name in SPREAD:
            align(folder, name, f"alone-accumulated/{name}", batch_size=2, gradient_accumulation_steps=4)
            align(folder, name, f"alone-experts/{name}", experts=True)
        for worker in workers:
            output, _ = worker.communicate(timeout=600)
            assert worker.returncode == 0, output[-3000:]
        shutil.copytree(folder / "grpo-stopped", folder / "taken-up")
        align(folder, "grpo", "taken-up")
    torch.set_num_threads(threads)
    return folder


def start_workers(folder: Path) -> list[subprocess.Popen[str]]:
    """Two processes that know of each other, as torchrun starts them; its own start takes longer than their work."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    variables = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    variables |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, str(Path(__file__).with_name("alignment_worker.py")), str(folder)]
    return [
        subprocess.Popen(
            command,
            env={**variables, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]


def outcomes(folder: Path, name: str) -> list[Any]:
    """What each process said of a run."""
    return [json.loads((folder / f"rank-{rank}.json").read_text())[name] for rank in range(2)]


def logged(iteration: Path) -> np.ndarray:
    """Losses and gradient norms by update."""
    records = [json.loads(line) for line in (iteration / "metrics.jsonl").read_text().splitlines()]
    return np.array([[record["loss"], record["grad_norm"]] for record in records if "loss" in record])


def assert_equal_runs(found: Path, expected: Path) -> None:
    iterations = sorted(path.name for path in expected.glob("iteration-*"))
    assert sorted(path.name for path in found.glob("iteration-*")) == iterations
    for name in iterations:
        one = logged(expected / name)
        assert len(one) > 4
        assert np.abs(logged(found / name) - one).max() < 1e-5
        weights = load_file(expected / name / "model.safetensors")
        for key, value in load_file(found / name / "model.safetensors").items():
            np.testing.assert_allclose(value, weights[key], atol=2e-5, err_msg=key)
        ours, theirs = (json.loads((run / name / "result.json").read_text()) for run in (found, expected))
        assert ours["start"] == pytest.approx(theirs["start"], abs=1e-5)
        assert [record["validation"] for record in ours["history"]] == [
            pytest.approx(record["validation"], abs=1e-4) for record in theirs["history"]
        ]


@pytest.mark.parametrize("name", sorted(RUNS))
def test_losses_gradients_weights_and_guards_are_those_of_one_process(folder: Path, name: str):
    assert_equal_runs(folder / name, folder / "alone" / name)
    first, second = outcomes(folder, name)
    assert first == second
    assert len(first["steps"]) == RUNS[name].get("iterations", 1)


@pytest.mark.parametrize("name", SPREAD)
@pytest.mark.parametrize("way", ["accumulated", "alone-accumulated"])
def test_gradient_accumulation_learns_what_whole_batches_teach(folder: Path, name: str, way: str):
    assert_equal_runs(folder / way / name, folder / "alone" / name)


@pytest.mark.parametrize("name", SPREAD)
def test_experts_shared_by_two_processes_learn_what_one_process_learns(folder: Path, name: str):
    assert_equal_runs(folder / "experts" / name, folder / "alone-experts" / name)


def test_a_model_without_experts_has_none_to_share(folder: Path):
    for found in outcomes(folder, "no experts"):
        assert found["what"] == "alignment.training.expert_parallel is 2 and the model has no experts"


def test_both_stop_at_the_same_step_and_one_process_takes_up_what_two_began(folder: Path):
    for found in outcomes(folder, "stopped"):
        assert found["what"] == f"training was stopped by SIGTERM at step {STOP} and saved"
    assert_equal_runs(folder / "taken-up", folder / "alone" / "grpo")


def test_processes_that_do_not_divide_the_batch_are_refused(folder: Path):
    for found in outcomes(folder, "odd"):
        assert found["what"] == "alignment.training.batch_size 9 cannot be divided among 2 processes"
        assert "alignment.training.batch_size=8" in found["fix"]


def test_sharded_models_are_refused(folder: Path):
    for found in outcomes(folder, "fsdp2"):
        assert found["what"] == "alignment does not run under fsdp2"
        assert "configs/accelerate/ddp.yaml" in found["fix"]


@pytest.mark.parametrize("accumulation", [1, 2, 3])
@pytest.mark.parametrize("share", [0.01, 0.5, 2.0])
def test_processes_and_micro_batches_divide_both_kinds_of_rows_and_say_how_much_they_have(
    share: float, accumulation: int
):
    windows = Histories.from_lists([[0] * (1 + row % 4) for row in range(10)])
    prompts = PromptRows(Prompts(Histories.from_lists([[row] for row in range(7)]), Histories.from_lists([[]] * 7)))
    batches = MixedBatches(windows.lengths, 3, accumulation, extra=len(prompts), share=share, seed=0)

    def part(rank: int, size: int) -> MixedWindows:
        return MixedWindows(
            windows, 4, prompts, lambda lengths: int(lengths.sum()), Processes(rank, size), max_history=3
        )

    for _, group in groupby(batches, lambda one: one.rows.tobytes()):
        micro_batches = list(group)
        whole = part(0, 1).__getitems__(MixedRows(micro_batches[0].rows, 0, 1, 0))
        parts = [part(rank, 4).__getitems__(one) for one in micro_batches for rank in range(4)]
        shares = np.array([own["shares"].tolist() for own in parts])
        np.testing.assert_allclose(shares.sum(0), 1)
        held = [own["lengths"].sum() for own in parts], [len(own["prompt_rows"]) for own in parts]
        for kind, total in enumerate((whole["lengths"].sum(), len(whole["prompt_rows"]))):
            real = shares[:, kind] > 0
            np.testing.assert_allclose(np.array(held[kind])[real] / total, shares[real, kind])
        there = [own["prompt_rows"] for own, real in zip(parts, shares[:, 1] > 0, strict=True) if real]
        assert sorted(torch.cat(there).tolist()) == sorted(whole["prompt_rows"].tolist())
