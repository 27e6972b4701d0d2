"""Training samples and their order: windows of users' histories in length-bucketed batches.

One sample is one window of a user's training history. A model that reads ``max_history`` items and learns the next one
gets windows of ``max_history + 1``: the last item is only predicted. One that learns the next m items at once gets
``max_history + m``, so that the longest history has as many to predict as any other. Longer histories are cut into
consecutive windows that do not overlap, counted from the newest item, so every item is a target exactly once; the
oldest window is the short one. The windows are new offsets over the same items: nothing is copied.

The order is a pure function of (seed, epoch). Rows are shuffled, sorted by length within pools of ``POOL`` updates, and
the updates shuffled again: short histories meet short ones (little padding) and every epoch mixes anew. What one
optimizer update sees depends on ``batch_size * accumulation`` only, so 1 x 8 and 8 x 1 see the same users; and so do
one process and several, which divide each batch.
"""

import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler

from genrec.data.histories import Histories, pad_histories
from genrec.distributed.world import World
from genrec.models.base import BackboneSettings

POOL = 64


def window_size(model: nn.Module) -> int:
    """Items in the longest window that a model learns from: what it reads, and what it learns after that at once."""
    settings: Any = getattr(model, "settings", None)
    return int(cast(Any, model).max_history) + (1 if settings is None else int(settings.targets_at_once))


def longer_windows(model: nn.Module) -> dict[str, int]:
    """What checkpoints say of windows for several targets at once; earlier versions cut them like those for one."""
    size = window_size(model)
    return {"items per window": size} if size > int(cast(Any, model).max_history) + 1 else {}


def cut_windows(histories: Histories, size: int) -> Histories:
    """Cut every history into consecutive windows of at most ``size`` items, full ones at the newest end.

    Args:
        histories: Rows of any length; empty rows give no window.
        size: Items per window.

    Returns:
        One row per window over the same item array; a user with several windows occurs several times.
    """
    counts = -(-histories.lengths // size)
    rows = np.repeat(np.arange(len(histories)), counts)
    lengths = np.full(len(rows), size, dtype=np.int64)
    filled = counts > 0
    first = (np.cumsum(counts) - counts)[filled]
    lengths[first] = histories.lengths[filled] - (counts[filled] - 1) * size
    offsets = np.concatenate([histories.offsets[:1], histories.offsets[:1] + np.cumsum(lengths)]).astype(np.int64)
    return replace(histories, users=histories.users[rows], offsets=offsets)


def update_rows(lengths: np.ndarray, size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Divide all rows into updates of ``size`` rows of similar length; a pure function of its arguments.

    Args:
        lengths: Items per row, int64 ``[R]``.
        size: Rows per optimizer update.
        seed: Seed of the run.
        epoch: Number of the epoch, from 0.

    Returns:
        Row numbers of each update, int64 ``[size]``; what is left over is the last one, shorter.
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    full = len(order) // size * size
    order, rest = order[:full], order[full:]
    pool = np.arange(full) // (size * POOL)
    order = order[np.lexsort((lengths[order], pool))].reshape(-1, size)
    updates = list(order[rng.permutation(len(order))])
    if len(rest):
        updates.append(rest[np.argsort(lengths[rest], kind="stable")])
    return updates


class EpochBatches(Sampler[np.ndarray]):
    """Batches of row numbers in the order of the epoch that ``set_epoch`` names.

    Args:
        lengths: Items per row, int64 ``[R]``.
        batch_size: Rows per batch.
        accumulation: Batches per optimizer update.
        seed: Seed of the run.
        world: The processes that share each batch: every one takes its own rows of it, alike in length.
    """

    def __init__(
        self, lengths: np.ndarray, batch_size: int, accumulation: int, seed: int, world: World | None = None
    ) -> None:
        self.lengths, self.batch_size, self.accumulation, self.seed = lengths, batch_size, accumulation, seed
        self.world = world or World()
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    @property
    def updates(self) -> int:
        """Optimizer updates per epoch."""
        return -(-len(self) // self.accumulation)

    def rows_of_update(self, number: int) -> np.ndarray:
        """What this process sees in an update of the epoch, counted from 0: row numbers, int64."""
        first = number * self.accumulation
        return np.concatenate(list(islice(iter(self), first, first + self.accumulation)))

    def __iter__(self) -> Iterator[np.ndarray]:
        for rows in update_rows(self.lengths, self.batch_size * self.accumulation, self.seed, self.epoch):
            for batch in np.split(rows, range(self.batch_size, len(rows), self.batch_size)):
                yield batch[self.world.rank :: self.world.size]


class WindowDataset(Dataset[dict[str, torch.Tensor]]):
    """Windows as padded batches: int64 ``items [B, T]`` and ``lengths [B]``, and what else the model reads of them.

    Args:
        windows: From :func:`cut_windows`.
        size: Longest window.
        settings: Of the model; with None it reads items alone.
    """

    def __init__(self, windows: Histories, size: int, settings: BackboneSettings | None = None) -> None:
        self.windows, self.size, self.settings = windows, size, settings

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return self.__getitems__(np.array([row]))

    def __getitems__(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """A whole batch at once, which spares a Python call per user."""
        items, lengths = pad_histories(self.windows, rows, self.size)
        extras = {} if self.settings is None else self.settings.read_side_inputs(self.windows, rows, self.size)
        return {name: torch.from_numpy(part) for name, part in {"items": items, "lengths": lengths, **extras}.items()}


class EpochLoader(DataLoader[dict[str, torch.Tensor]]):
    """A loader that tells its batch sampler which epoch it is.

    Args:
        dataset: The windows.
        batches: Their order.
        num_workers: Processes that pad batches ahead; they never change the order.
    """

    def __init__(self, dataset: WindowDataset, batches: EpochBatches, num_workers: int) -> None:
        super().__init__(
            dataset,
            batch_sampler=cast("Sampler[list[int]]", batches),
            collate_fn=cast("Callable[[list[Any]], Any]", _unchanged),
            num_workers=num_workers,
            worker_init_fn=_ignore_signals,
            pin_memory=torch.cuda.is_available(),
            # Without a generator of its own a loader draws from the global one, and dropout would depend on it.
            generator=torch.Generator(),
        )
        self.batches = batches

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.batches.set_epoch(epoch)

    def stand_in(self) -> dict[str, torch.Tensor]:
        """A window that weighs nothing, for a process to which a short batch leaves none: the others wait for it."""
        size = cast(WindowDataset, self.dataset).size
        return {"items": torch.zeros(1, size, dtype=torch.int64), "lengths": torch.tensor([size])}


def _unchanged(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return batch


def _ignore_signals(_: int) -> None:
    # Ctrl-C reaches the whole process group; the workers must outlive the step that is being finished.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
