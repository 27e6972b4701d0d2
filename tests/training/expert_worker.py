"""What two and then four processes do in the tests of experts that are spread over them: several short runs.

    python expert_worker.py FOLDER

The outcome of each run, as each process saw it, is in ``FOLDER/rank-R-of-N.json``.
"""

import json
import os
import shutil
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from process_worker import QUICK, outcome, without_wrapper
from rich.console import Console
from tiny_training import NUM_ITEMS, TinyData, settings
from torch import distributed, nn
from torch.multiprocessing import start_processes

from genrec.config import DecodingConfig, RecommenderConfig
from genrec.distributed.world import World
from genrec.models import build_recommender
from genrec.models.layers.moe import expert_layers
from genrec.tokenizers.index import ItemIndex
from genrec.training import TrainingResult, train_recommender
from genrec.training.strategies.expert_parallel import ExpertParallel

# Constant steps, so that a shorter run is the beginning of a longer one; gradients are clipped in all of them.
PLAN: dict[str, Any] = {"epochs": 6, "batch_size": 4, "gradient_accumulation_steps": 2, "scheduler": "constant"}
PLAN |= {"learning_rate": 2e-3, "warmup_ratio": 0.0, "max_grad_norm": 0.5, "save_steps": 20}
STOP = 7


def recommender(**changes: Any) -> nn.Module:
    """Every layer has experts and draws nothing."""
    torch.manual_seed(7)
    sizes = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "max_history": 5, "dropout": 0.0, "depth_dropout": 0.0}
    experts = {"experts": 4, "shared_experts": 1, "balance_weight": 0.1, "z_loss_weight": 0.01}
    codes = np.stack(np.unravel_index(np.arange(NUM_ITEMS), (4, 5)), axis=1).astype(np.int32)
    index = ItemIndex(codes, (4, 5), [str(item) for item in range(NUM_ITEMS)])
    config = RecommenderConfig(name="depth", use_features=False, **{**sizes, **experts, **changes})
    model = build_recommender(config, num_items=NUM_ITEMS, index=index)
    # A start of zeros after a norm has a gradient next to which all others vanish.
    nn.init.normal_(model.get_parameter("start"))
    # Scores that are nearly equal would let rounding choose another expert.
    for layer in expert_layers(model.modules()):
        nn.init.normal_(layer.router)
    return model


def sessions() -> nn.Module:
    """Writes sessions of one to three items; experts are in its decoder."""
    torch.manual_seed(7)
    sizes = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "head_size": 8, "feed_forward_size": 16}
    values = {"session_size": 3, "targets": "last", "max_history": 5, "dropout": 0.0, "experts": 4}
    codes = np.stack(np.unravel_index(np.arange(NUM_ITEMS), (4, 5)), axis=1).astype(np.int32)
    index = ItemIndex(codes, (4, 5), [str(item) for item in range(NUM_ITEMS)])
    config = RecommenderConfig(name="seq2seq", z_loss_weight=0.01, **sizes, **values)
    model = build_recommender(config, num_items=NUM_ITEMS, index=index)
    for layer in expert_layers(model.modules()):
        nn.init.normal_(layer.router)
    return model


def quality(model: nn.Module) -> dict[str, float]:
    """Small experts are good ones; all of them are there."""
    layers = expert_layers(model.modules())
    assert all(len(layer.first) == len(layer.second) == 4 for layer in layers)
    return {"quality": -float(sum(layer.first.square().sum() for layer in layers))}


def run(folder: Path, model: nn.Module | None = None, **changes: Any) -> TrainingResult:
    """Train the model of these tests, with experts spread over two processes where there are several."""
    parts = min(World.current().size, 2)
    config = settings(**{**PLAN, "expert_parallel": parts, **changes})
    quiet = Console(quiet=True)
    model = recommender() if model is None else model
    return train_recommender(model, TinyData(), config, DecodingConfig(), folder, validate=quality, console=quiet)


def stopping() -> nn.Module:
    """A signal for the last process alone, in the first micro-batch of an update."""
    model, calls = recommender(), []

    def count(*_: Any) -> None:
        calls.append(None)
        if len(calls) == 2 * STOP - 1 and World.current().rank == World.current().size - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    model.register_forward_hook(count)
    return model


def apart(init: Any) -> Any:
    """Spread experts, but forget that other processes hold the same ones."""

    def wrong(self: ExpertParallel, *arguments: Any) -> None:
        init(self, *arguments)
        self.peers, _ = distributed.new_subgroups(1)

    return wrong


def two(folder: Path) -> dict[str, Any]:
    model = recommender()
    found = {"spread": outcome(lambda: run(folder / "spread", model))}
    if World.current().is_main:
        model.save_pretrained(folder / "model")
    found["ddp"] = outcome(lambda: run(folder / "ddp", expert_parallel=1, epochs=1))
    found["again"] = outcome(lambda: run(folder / "again", epochs=1, gradient_checkpointing=True))
    found["bias"] = outcome(lambda: run(folder / "bias", recommender(balance="bias"), epochs=1))
    found["sessions"] = outcome(lambda: run(folder / "sessions", sessions(), expert_parallel=1, epochs=1))
    found["sessions-spread"] = outcome(
        lambda: run(folder / "sessions-spread", sessions(), epochs=1, gradient_checkpointing=True)
    )
    found["stopped"] = outcome(lambda: run(folder / "stopped", stopping()))
    if World.current().is_main:
        shutil.copytree(folder / "stopped", folder / "one-goes-on")
    found["taken-up"] = outcome(lambda: run(folder / "stopped"))
    with without_wrapper(believed=True):
        found["unsynchronized"] = outcome(lambda: run(folder / "unsynchronized"))
    return found


def four(folder: Path) -> dict[str, Any]:
    found = {"groups": outcome(lambda: run(folder / "groups", epochs=1))}
    with patch.object(ExpertParallel, "__init__", apart(ExpertParallel.__init__)):
        found["apart"] = outcome(lambda: run(folder / "apart"))
    found["not a divisor"] = outcome(lambda: run(folder / "refused", expert_parallel=3))
    return found


def be(rank: int, size: int, folder: Path) -> None:
    """One of the processes, as a launcher would have started it."""
    torch.set_num_threads(1)
    address = {"WORLD_SIZE": size, "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "localhost", "MASTER_PORT": 1}
    os.environ |= {name: str(value) for name, value in address.items()}
    meeting = f"file://{folder / f'meeting-of-{size}'}"
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
    found = (two if size == 2 else four)(folder)
    (folder / f"rank-{rank}-of-{size}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()


def main(folder: Path) -> None:
    for size in (2, 4):
        # Forked, they need not import everything again, which takes longer than the runs.
        start_processes(be, (size, folder), nprocs=size, start_method="fork")


if __name__ == "__main__":
    with ExitStack() as stack:
        for name, value in QUICK.items():
            stack.enter_context(patch(name, value))
        main(Path(sys.argv[1]))
