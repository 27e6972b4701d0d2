"""One step at the largest batch, to know memory and time before a long run; nothing is written."""

import os
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from genrec.config import TrainingConfig
from genrec.distributed.world import World, number_of
from genrec.errors import ConfigError
from genrec.training.batches import WindowDataset
from genrec.training.checkpoints import KEPT
from genrec.training.log import clock
from genrec.training.memory import Batch, RecoverableStep, is_memory_error, memory_error
from genrec.training.train import TrainingData, make_loader

# The first step fills the optimizer and warms up; the others are timed.
TIMED_STEPS = 2


@dataclass(frozen=True)
class Estimate:
    """What a training run will take.

    Attributes:
        device: Where it ran.
        parameters: Numbers that are trained.
        users: Windows in the largest micro-batch.
        items: Items in its longest window.
        pieces: Into how many pieces it had to be cut to fit.
        memory: Peak in bytes: of this process, or of the accelerator where there is one; None where it is unknown.
        room: Bytes that there are in all; None where that is unknown.
        step_seconds: One update at the largest batch.
        updates: Optimizer updates of all epochs.
        seconds: All updates, validations left out.
        disk: Bytes of all checkpoints that are kept at a time.
    """

    device: str
    parameters: int
    users: int
    items: int
    pieces: int
    memory: int | None
    room: int | None
    step_seconds: float
    updates: int
    seconds: float
    disk: int

    def text(self) -> str:
        """Some lines for people."""
        cut = f", cut into {self.pieces} pieces to fit into memory" if self.pieces > 1 else ""
        room = f" of {_gigabytes(self.room)}" if self.room else ""
        memory = "not reported by this system" if self.memory is None else _gigabytes(self.memory) + room
        return "\n".join(
            [
                f"parameters: {self.parameters:,} on {self.device}",
                f"largest batch: {self.users} users of up to {self.items} items{cut}",
                f"memory at its peak: {memory}",
                f"one update at the largest batch: {self.step_seconds:.3g} s",
                f"all {self.updates:,} updates: about {clock(self.seconds)} (h:mm:ss or m:ss), validations left out",
                f"checkpoints: about {_gigabytes(self.disk)} on disk",
                "nothing was written",
            ]
        )


def dry_run(model: nn.Module, dataset: TrainingData, config: TrainingConfig) -> Estimate:
    """Train on the longest windows for a few steps, and say what all of them will take.

    Args:
        model: As :func:`genrec.training.train_recommender` takes it; it is changed.
        dataset: A prepared data set.
        config: The recipe's section.

    Raises:
        ConfigError: If several processes were started.
        DataError: If there is no training history.
        MemoryExhaustedError: If not even one user at a time fits.
    """
    if number_of("WORLD_SIZE", 1) > 1:
        raise ConfigError(
            "a dry run was started in several processes",
            where="WORLD_SIZE",
            expected="one process: the others would do the same",
            fix="start it without a launcher",
        )
    loader = make_loader(model, dataset, config, World())
    lengths, batches = loader.batches.lengths, loader.batches
    rows = np.argsort(-lengths, kind="stable")[: config.batch_size]
    device = next(model.parameters()).device
    batch = {name: t.to(device) for name, t in cast(WindowDataset, loader.dataset).__getitems__(rows).items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate)
    update = RecoverableStep(model)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        seconds = [
            _timed(update, optimizer, batch, config.precision == "bf16", config.gradient_accumulation_steps)
            for _ in range(1 + TIMED_STEPS)
        ]
    except (RuntimeError, MemoryError) as error:
        if not is_memory_error(error):
            raise
        raise memory_error("training", config.batch_size, 1, validating=False) from error
    step_seconds = float(np.mean(seconds[1:]))
    # Work goes by padded positions: most batches are shorter than the largest one.
    positions = sum(len(part) * int(lengths[part].max()) for part in batches)
    largest = len(rows) * int(lengths[rows[0]]) * config.gradient_accumulation_steps
    state = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    moments = sum(2 * p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return Estimate(
        device=str(device),
        parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        users=len(rows),
        items=int(lengths[rows[0]]),
        pieces=update.pieces,
        memory=_peak_memory(device),
        room=_all_memory(device),
        step_seconds=step_seconds,
        updates=batches.updates * config.epochs,
        seconds=config.epochs * step_seconds * positions / largest,
        # The kept ones, the best, and the one that is being written.
        disk=(KEPT + 2) * (state + moments),
    )


def _timed(
    update: RecoverableStep, optimizer: torch.optim.Optimizer, batch: Batch, half: bool, micro_batches: int
) -> float:
    """Seconds of one update."""
    update.network.train()
    began = time.perf_counter()
    update.begin()
    for _ in range(micro_batches):
        update.add(batch, 1 / micro_batches, partial(_forward_backward, update.network, half))
    torch.nn.utils.clip_grad_norm_(update.network.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _forward_backward(model: nn.Module, half: bool, batch: Batch, share: float) -> Tensor:
    device = batch["lengths"].device.type
    precision: AbstractContextManager[Any] = torch.autocast(device, torch.bfloat16) if half else nullcontext()
    with precision:
        loss: Tensor = model(**batch).loss * share
    loss.backward()
    return loss.detach()


def _peak_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _all_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.1f} MiB"
