"""Batches of two kinds at once: windows that anchor the model, and pairs or prompts that move it.

Row numbers from W on, the number of windows, mean pairs or prompts; so the order of both is one pure function of (seed,
epoch), and training resumes exactly.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from genrec.alignment.preferences import Preferences
from genrec.alignment.prompts import Prompts
from genrec.data.histories import Histories, pad_histories
from genrec.training.batches import EpochBatches, WindowDataset
from genrec.training.world import World

Count = Callable[[np.ndarray], int]


class Extra(Protocol):
    """What a batch holds beside its windows."""

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


class MixedWindows(WindowDataset):
    """Windows, and behind them the rows of something else.

    Several processes are all asked for the whole batch, and each gives its part of both kinds of rows. ``shares`` then
    says how much of the batch's targets and of its other rows that is. Where nothing of a kind is left for a process,
    another's row stands in, with a share of 0: its gradients are waited for.

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

    def __getitems__(self, rows: np.ndarray) -> dict[str, Tensor]:
        """The part of a batch that this process learns from."""
        first = len(self.windows)
        windows, others = rows[rows < first], rows[rows >= first] - first
        if self.world.size == 1:
            return super().__getitems__(windows) | self.extra.batch(others, self.max_history)
        own_windows, own_others = (part[self.world.rank :: self.world.size] for part in (windows, others))
        lengths = self.windows.lengths
        shares = [self.count(lengths[own_windows]) / self.count(lengths[windows]), len(own_others) / len(others)]
        batch = super().__getitems__(own_windows if len(own_windows) else windows[:1])
        batch |= self.extra.batch(own_others if len(own_others) else others[:1], self.max_history)
        return batch | {"shares": torch.tensor(shares, dtype=torch.float64)}


class MixedBatches(EpochBatches):
    """Every batch of windows is followed by rows from the rest, which go round and round in an order of the epoch.

    Args:
        lengths: Items per window, int64 ``[W]``.
        batch_size: Windows per batch.
        extra: Rows behind the windows.
        share: Extra rows per window of a batch; at least one row is in every batch.
        seed: Seed of the run.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, extra: int, share: float, seed: int) -> None:
        super().__init__(lengths, batch_size, 1, seed)
        self.extra = extra
        self.extra_size = min(max(1, round(share * min(batch_size, len(lengths)))), extra)

    def __iter__(self) -> Iterator[np.ndarray]:
        order = np.random.default_rng([self.seed, self.epoch, 1]).permutation(self.extra)
        for number, rows in enumerate(super().__iter__()):
            places = np.arange(number * self.extra_size, (number + 1) * self.extra_size) % self.extra
            yield np.concatenate([rows, len(self.lengths) + order[places]])


def _history(histories: Histories, rows: np.ndarray, size: int) -> dict[str, Tensor]:
    items, lengths = pad_histories(histories, rows, size)
    return {"histories": torch.from_numpy(items), "history_lengths": torch.from_numpy(lengths)}
