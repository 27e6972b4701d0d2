"""Batches of two kinds at once: windows that anchor the model, and pairs or prompts that move it.

Row numbers from W on, the number of windows, mean pairs or prompts; so the order of both is one pure function of (seed,
epoch), and training resumes exactly. Micro-batches and processes divide an update alike: each says what share of it it
holds, so what is learned does not depend on how an update is divided.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from genrec.alignment.preferences import Preferences
from genrec.alignment.prompts import Prompts
from genrec.config import TrainingConfig
from genrec.data.histories import Histories, pad_histories
from genrec.distributed.world import World
from genrec.training.batches import EpochBatches, EpochLoader, WindowDataset, update_rows

Count = Callable[[np.ndarray], int]


class Extra(Protocol):
    """What a batch holds besides its windows."""

    def __len__(self) -> int:
        """How many rows there are."""

    def batch(self, rows: np.ndarray, size: int) -> dict[str, Tensor]:
        """Some rows as tensors, histories cut to ``size`` items."""


@dataclass(frozen=True, eq=False)
class PairRows:
    """Preferences with what the reference says of them.

    Attributes:
        preferences: P rows.
        candidates: Chosen, rejected and any further items, int64 ``[P, C']``, or lists ``[P, C', m]``.
        reference: Their log-probabilities by the reference, float32 ``[P, C']``.
    """

    preferences: Preferences
    candidates: np.ndarray
    reference: np.ndarray

    def __len__(self) -> int:
        return len(self.preferences)

    def batch(self, rows: np.ndarray, size: int) -> dict[str, Tensor]:
        """See :class:`Extra`."""
        arrays = {
            "candidates": self.candidates[rows],
            "reference": self.reference[rows],
            "weights": self.preferences.weights[rows],
        }
        return _history(self.preferences.histories, rows, size) | {
            name: torch.from_numpy(values) for name, values in arrays.items()
        }


@dataclass(frozen=True, eq=False)
class PromptRows:
    """Prompts by number: what they lead to is sampled while training.

    Attributes:
        prompts: P rows.
    """

    prompts: Prompts

    def __len__(self) -> int:
        return len(self.prompts)

    def batch(self, rows: np.ndarray, size: int) -> dict[str, Tensor]:
        """See :class:`Extra`."""
        return _history(self.prompts.histories, rows, size) | {"prompt_rows": torch.from_numpy(rows)}


class MixedRows(NamedTuple):
    """One micro-batch: the rows of its whole update, and which part of them it is.

    Attributes:
        rows: Row numbers of the update, int64.
        part: Number of the micro-batch, from 0.
        parts: Micro-batches of this update.
        size: Windows per micro-batch.
    """

    rows: np.ndarray
    part: int
    parts: int
    size: int


class MixedWindows(WindowDataset):
    """Windows, and after them the rows of something else.

    Several processes are all asked for the same micro-batch, and each gives its part of both kinds of rows. ``shares``
    then says how much of the update's targets and of its other rows that is. Where nothing of a kind is left for a
    micro-batch or a process, another row is read in its place, with a share of 0: its gradients are waited for.

    Args:
        windows: Training samples of the next-item loss.
        size: Longest window.
        extra: What else a batch holds.
        count: Targets of windows of some lengths, int64 ``[B]``.
        world: The processes that share each batch.
        max_history: Longest history of a pair or a prompt; windows are longer.
    """

    def __init__(
        self, windows: Histories, size: int, extra: Extra, count: Count, world: World, *, max_history: int
    ) -> None:
        super().__init__(windows, size)
        self.extra, self.count, self.world, self.max_history = extra, count, world, max_history

    def __getitems__(self, micro_batch: MixedRows) -> dict[str, Tensor]:  # type: ignore[override]
        """The part of a micro-batch that this process learns from."""
        rows, part, parts, size = micro_batch
        first = len(self.windows)
        windows, others = rows[rows < first], rows[rows >= first] - first
        if self.world.size == parts == 1:
            return super().__getitems__(windows) | self.extra.batch(others, self.max_history)
        own_windows = windows[part * size : (part + 1) * size][self.world.rank :: self.world.size]
        own_others = others[part::parts][self.world.rank :: self.world.size]
        lengths = self.windows.lengths
        shares = [self.count(lengths[own_windows]) / self.count(lengths[windows]), len(own_others) / len(others)]
        batch = super().__getitems__(own_windows if len(own_windows) else windows[:1])
        batch |= self.extra.batch(own_others if len(own_others) else others[:1], self.max_history)
        batch["shares"] = torch.tensor(shares, dtype=torch.float64)
        return batch if parts == 1 else batch | {"part": torch.tensor([part, parts])}


class MixedBatches(EpochBatches):
    """The windows of every update are followed by rows from the rest, which are repeated in an order of the epoch.

    What an update sees depends on ``batch_size * accumulation`` only, as with :class:`EpochBatches`.

    Args:
        lengths: Items per window, int64 ``[W]``.
        batch_size: Windows per micro-batch.
        accumulation: Micro-batches per update.
        extra: Rows after the windows.
        share: Extra rows per window of an update; at least one row is in every update.
        seed: Seed of the run.
    """

    def __init__(
        self, lengths: np.ndarray, batch_size: int, accumulation: int, *, extra: int, share: float, seed: int
    ) -> None:
        super().__init__(lengths, batch_size, accumulation, seed)
        self.extra = extra
        self.extra_size = min(max(1, round(share * min(batch_size * accumulation, len(lengths)))), extra)

    def _updates(self) -> Iterator[np.ndarray]:
        order = np.random.default_rng([self.seed, self.epoch, 1]).permutation(self.extra)
        updates = update_rows(self.lengths, self.batch_size * self.accumulation, self.seed, self.epoch)
        for number, rows in enumerate(updates):
            places = np.arange(number * self.extra_size, (number + 1) * self.extra_size) % self.extra
            yield np.concatenate([rows, len(self.lengths) + order[places]])

    def rows_of_update(self, number: int) -> np.ndarray:
        """What all processes see in an update of the epoch, counted from 0: row numbers, int64."""
        return next(islice(self._updates(), number, None))

    def __iter__(self) -> Iterator[MixedRows]:  # type: ignore[override]
        for rows in self._updates():
            parts = -(-(len(rows) - self.extra_size) // self.batch_size)
            yield from (MixedRows(rows, part, parts, self.batch_size) for part in range(parts))


def mixed_loader(
    windows: Histories,
    size: int,
    extra: Extra,
    *,
    count: Count,
    max_history: int,
    training: TrainingConfig,
    share: float,
    seed: int,
) -> EpochLoader:
    """A loader of windows with extra rows, for this process among those that train together.

    Args:
        windows: Training samples of the next-item loss.
        size: Longest window.
        extra: What else a batch holds.
        count: Targets of windows of some lengths, int64 ``[B]``.
        max_history: Longest history of a pair or a prompt; windows are longer.
        training: Windows per micro-batch, of all processes together, micro-batches per update, and loading processes.
        share: Extra rows per window of an update.
        seed: Seed of the run.
    """
    batches = MixedBatches(
        windows.lengths,
        training.batch_size,
        training.gradient_accumulation_steps,
        extra=len(extra),
        share=share,
        seed=seed,
    )
    mixed = MixedWindows(windows, size, extra, count, World.current(), max_history=max_history)
    return EpochLoader(mixed, batches, training.num_workers)


def _history(histories: Histories, rows: np.ndarray, size: int) -> dict[str, Tensor]:
    items, lengths = pad_histories(histories, rows, size)
    return {"histories": torch.from_numpy(items), "history_lengths": torch.from_numpy(lengths)}
