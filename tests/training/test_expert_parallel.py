"""Experts that are spread over processes learn what one process learns, stop, go on, and are saved as one model."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from expert_worker import STOP, recommender, run, sessions
from process_worker import QUICK
from safetensors.numpy import load_file
from safetensors.torch import load_model
from tiny_training import settings

from genrec.distributed.launch import Launch
from genrec.errors import ConfigError
from genrec.models import load_recommender
from genrec.training.strategies.expert_parallel import check_experts

ROOT = Path(__file__).resolve().parents[2]
STEPS = 54


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that two and four processes did, and next to it what one does."""
    folder = tmp_path_factory.mktemp("experts")
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    variables = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    worker = [sys.executable, str(Path(__file__).with_name("expert_worker.py")), str(folder)]
    done = subprocess.run(worker, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUICK.items():
            patch.setattr(name, value)
        run(folder / "one")
        run(folder / "one-bias", recommender(balance="bias"), epochs=1)
        run(folder / "one-sessions", sessions(), epochs=1)
    return folder


def outcomes(folder: Path, name: str, size: int = 2) -> list[Any]:
    """What each process said of a run."""
    return [json.loads((folder / f"rank-{rank}-of-{size}.json").read_text())[name] for rank in range(size)]


def records(folder: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [record for record in lines if "loss" in record]


@pytest.mark.parametrize(
    ("name", "expected", "steps"),
    [
        ("spread", "one", STEPS),
        ("stopped", "one", STEPS),
        ("groups", "one", 9),
        ("again", "one", 9),
        ("ddp", "one", 9),
        ("bias", "one-bias", 9),
        ("sessions", "one-sessions", 8),
        ("sessions-spread", "one-sessions", 8),
    ],
)
def test_losses_norms_and_loads_are_those_of_one_process(folder: Path, name: str, expected: str, steps: int):
    """Spread over two, over two of four, with layers that compute again, and where every process has all experts.

    Sessions have one to three items, of which one process has more than the other.
    """
    found, known = records(folder / name), records(folder / expected)[:steps]
    assert len(found) == steps
    for ours, theirs in zip(found, known, strict=True):
        for key in ("loss", "grad_norm", "expert_load", "expert_entropy"):
            np.testing.assert_allclose(ours[key], theirs[key], atol=1e-5, err_msg=f"{key} at {ours['step']}")
    assert max(record["grad_norm"] for record in known) > 0.5


def test_checkpoints_are_those_of_one_process(folder: Path):
    for file in ("model", "optimizer"):
        found, expected = (
            load_file(folder / name / f"checkpoint-{STEPS}/{file}.safetensors") for name in ("spread", "one")
        )
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], value, atol=1e-5, err_msg=key)


def test_stopped_and_taken_up_it_is_the_run_that_never_stopped(folder: Path):
    for found in outcomes(folder, "stopped"):
        assert found["what"] == f"training was stopped by SIGTERM at step {STOP} and saved"
        assert found["exit_code"] == 143
    for file in ("model", "optimizer", "random", "random-1"):
        name = f"checkpoint-{STEPS}/{file}.safetensors"
        assert (folder / "spread" / name).read_bytes() == (folder / "stopped" / name).read_bytes()


def test_one_process_goes_on_where_two_stopped(folder: Path):
    result = run(folder / "one-goes-on", epochs=6)
    assert result.notes == [f"continuing from checkpoint-{STOP} of {STEPS} steps"]
    losses = [[record["loss"] for record in records(folder / name)] for name in ("one-goes-on", "one")]
    np.testing.assert_allclose(*losses, atol=1e-5)


def test_the_model_folder_is_a_whole_model(folder: Path):
    saved, one = load_recommender(folder / "model"), recommender()
    best = json.loads((folder / "one" / f"checkpoint-{STEPS}" / "state.json").read_text())["run"]["best_step"]
    load_model(one, folder / "one" / f"checkpoint-{best}" / "model.safetensors")
    items, lengths = torch.tensor([[3, 8, 1], [4, 0, 0]]), torch.tensor([3, 1])
    with torch.no_grad():
        assert float(saved(items, lengths).loss) == pytest.approx(float(one.eval()(items, lengths).loss), abs=1e-5)


@pytest.mark.parametrize(("name", "size"), [("unsynchronized", 2), ("apart", 4)])
def test_gradients_that_differ_are_noticed(folder: Path, name: str, size: int):
    """Those of what all hold, and those of experts that two processes of four hold."""
    for found in outcomes(folder, name, size):
        assert found["what"].endswith("the gradients of the processes differ after they were synchronized")
        assert found["exit_code"] == 2


@pytest.mark.parametrize(
    ("launch", "parts", "message", "fix"),
    [
        (Launch(4, "ddp", True), 3, "4 processes cannot share experts in groups of 3", "start a multiple of 3"),
        (Launch(), 2, "1 processes cannot share experts in groups of 2", "start a multiple of 2 processes"),
        (Launch(4, "fsdp2", True), 2, "training.expert_parallel 2 does not go with fsdp2", "ddp.yaml"),
        (Launch(4, "deepspeed", True), 2, "training.expert_parallel 2 does not go with deepspeed", "ddp.yaml"),
    ],
)
def test_processes_that_cannot_share_experts_are_refused(launch: Launch, parts: int, message: str, fix: str):
    with pytest.raises(ConfigError, match=message) as caught:
        launch.check(settings(expert_parallel=parts), {})
    assert fix in caught.value.fix
    assert caught.value.exit_code == 2


def test_experts_that_cannot_be_shared_are_refused():
    with pytest.raises(ConfigError, match="4 experts cannot be divided among 3 processes") as caught:
        check_experts(recommender(), 3)
    assert caught.value.expected == "a divisor of recommender.experts, 4"
    dense = {"experts": 0, "shared_experts": 0, "z_loss_weight": 0.0}
    with pytest.raises(ConfigError, match=r"training\.expert_parallel is 2 and the model has no experts"):
        check_experts(recommender(**dense), 2)
    check_experts(recommender(**dense), 1)
