"""What each of two processes does in the tests of alignment in several processes: short runs, one after another.

    alignment_worker.py FOLDER, with WORLD_SIZE, RANK and the rest as torchrun sets them

FOLDER holds ``dataset`` and ``weights.safetensors``; each run leaves its iterations in a folder of its name, and what
it said, as each process saw it, in ``FOLDER/rank-R.json``.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from rich.console import Console
from safetensors.torch import load_model
from simulator import DECODING, World, recipe

from genrec.alignment.align import AlignmentResult, align_recommender
from genrec.alignment.objectives import Objective
from genrec.data import Dataset
from genrec.distributed.world import World as Processes
from genrec.errors import GenrecError

USERS, STOP = 25, 3
SELF_PLAY = {"source": "self-play", "per_user": 1, "per_list": 3, "list_size": 8, "rejected": 2}
RUNS: dict[str, dict[str, Any]] = {
    "sdpo": {"method": "sdpo", "pairs": SELF_PLAY, "share": 0.6, "iterations": 2, "metric": "margin"},
    "kto": {"method": "kto", "pairs": {"source": "explicit", "column": "liked", "good": 1, "bad": 0}, "share": 0.01},
    "grpo": {"method": "grpo", "pairs": {"per_user": 1, "list_size": 6}, "share": 0.6},
}
QUICK: dict[str, Callable[..., Any]] = {
    "genrec.training.train._tracking": lambda *_: [],
    "genrec.artifacts.versions.environment": dict,
    "genrec.artifacts.versions.git_commit": lambda: None,
    "os.fsync": lambda handle: None,
    "gc.collect": lambda *_: 0,
}


def align(folder: Path, name: str, out: str | None = None, **changes: Any) -> AlignmentResult:
    """One of the runs, from the model and the data of the folder."""
    world = World(folder / "dataset", users=USERS, dataset=Dataset.load(folder / "dataset"))
    model = world.supervised(epochs=0, dropout=0.0)
    load_model(model, str(folder / "weights.safetensors"))
    settings = recipe(**{"batch_size": 8, "epochs": 2, "learning_rate": 1e-3, **RUNS[name], **changes})
    with patch("genrec.alignment.setup.load_function", lambda _: world.reward):
        return align_recommender(
            model, world.dataset, settings, DECODING, folder / (out or name), inputs={}, console=Console(quiet=True)
        )


def stopped(folder: Path, name: str) -> dict[str, Any]:
    """A signal for the last process alone, in the forward pass of one update."""
    calls, anchor = [], Objective.anchor

    def counting(self: Objective, *batch: Any) -> Any:
        calls.append(1)
        if len(calls) == STOP and Processes.current().rank == Processes.current().size - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return anchor(self, *batch)

    with patch.object(Objective, "anchor", counting):
        return outcome(lambda: align(folder, name, f"{name}-stopped"))


def outcome(work: Callable[[], AlignmentResult]) -> dict[str, Any]:
    """What came of a run, in JSON."""
    try:
        result = work()
    except GenrecError as error:
        return {"error": type(error).__name__, "what": error.what, "fix": error.fix}
    return {"start": result.start, "best": result.best, "steps": [part.steps for part in result.iterations]}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    found = {name: outcome(lambda name=name: align(folder, name)) for name in RUNS}
    found["stopped"] = stopped(folder, "grpo")
    found["odd"] = outcome(lambda: align(folder, "sdpo", "odd", batch_size=9))
    os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    found["fsdp2"] = outcome(lambda: align(folder, "sdpo", "sharded"))
    (folder / f"rank-{Processes.current().rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    with ExitStack() as stack:
        # What costs more than the runs.
        for target, value in QUICK.items():
            stack.enter_context(patch(target, value))
        main(Path(sys.argv[1]))
