"""A loss or a gradient that is no number: nothing is learned from it, and what led there is written down."""

import math
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed

from genrec.artifacts import write_json
from genrec.errors import NonFiniteLossError
from genrec.training.batches import EpochBatches, WindowDataset

LAST_LOSSES = 20


class Losses:
    """The losses of the last updates; reading them waits for the device, so it is done where one is wanted only."""

    def __init__(self) -> None:
        self._last: deque[Tensor | float] = deque(maxlen=LAST_LOSSES)

    def add(self, loss: Tensor | float) -> None:
        """Note the loss of one more update."""
        self._last.append(loss)

    def values(self) -> list[float]:
        """The last losses, oldest first."""
        return [float(loss) for loss in self._last]


def any_rank(bad: Tensor) -> bool:
    """Whether a bool scalar is true in any process; all of them must ask."""
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return bool(bad)
    found = bad.to(torch.int32).reshape(1)
    distributed.all_reduce(found, op=distributed.ReduceOp.MAX)
    return bool(found)


def users_of_update(batches: EpochBatches, dataset: WindowDataset, step: int) -> np.ndarray:
    """Dense users whose windows this process, or with alignment any of them, saw in an update, int64, each once.

    Args:
        batches: At the epoch of the update.
        dataset: The windows.
        step: Number of the update, from 1.
    """
    rows = batches.rows_of_update((step - 1) % batches.updates)
    # Alignment puts the rows of pairs and prompts after the windows.
    return np.unique(dataset.windows.users[rows[rows < len(dataset.windows)]])


def save_diagnosis(
    folder: Path, facts: dict[str, Any], users: np.ndarray, name_users: Callable[[np.ndarray], list[str]] | None
) -> Path:
    """Write ``diagnosis-step-STEP-rank-RANK.json``.

    Args:
        folder: Where.
        facts: ``step``, ``rank``, and whatever else is known; numbers that are none are written as words.
        users: Dense users of the update.
        name_users: Gives the external ids of dense users; None where they are unknown.

    Raises:
        ArtifactError: If the disk is full or not writable.
    """
    path = folder / f"diagnosis-step-{facts['step']}-rank-{facts['rank']}.json"
    known = {"users": users.tolist(), "user_ids": None if name_users is None else name_users(users)}
    write_json(path, {key: _in_words(value) for key, value in (facts | known).items()})
    return path


def non_finite_error(facts: dict[str, Any], diagnosis: Path, skipped: int, section: str) -> NonFiniteLossError:
    """What to say where training stops before a spoilt update.

    Args:
        facts: ``step``, ``epoch``, ``learning_rate``, ``loss`` and ``grad_norm``.
        diagnosis: What was saved.
        skipped: Updates that were left out before.
        section: Of the recipe: ``training`` or ``alignment.training``.
    """
    loss, norm, step = facts["loss"], facts["grad_norm"], facts["step"]
    what = f"the loss became {loss}" if not math.isfinite(loss) else f"the gradient norm became {norm}"
    before = f" ({skipped} updates were left out before it)" if skipped else ""
    return NonFiniteLossError(
        f"{what} at step {step}{before}",
        where=f"step {step} (epoch {facts['epoch']:.3g}), learning rate {facts['learning_rate']:.3g};"
        f" users and losses are in {diagnosis}",
        expected="a finite loss; the update was not applied",
        fix=f"lower {section}.learning_rate, raise {section}.warmup_ratio, or set {section}.precision=fp32; then"
        f" {'train' if section == 'training' else 'align'} into another folder; or look at those users, and leave out"
        f" up to N such updates with {section}.skip_nonfinite={skipped + 10}",
    )


def _in_words(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    if isinstance(value, list):
        return [_in_words(inner) for inner in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
