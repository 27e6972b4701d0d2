"""Histories that end inside a user's training part, with what the user took next: where pairs and samples begin."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from genrec.data.histories import Histories
from genrec.errors import DataError

if TYPE_CHECKING:
    from genrec.data import Dataset


@dataclass(frozen=True, eq=False)
class Prompts:
    """P histories and the items that followed.

    Attributes:
        histories: P rows with at least one item.
        targets: P rows, the next items in their order; empty rows where nothing is known.
    """

    histories: Histories
    targets: Histories

    def __len__(self) -> int:
        return len(self.histories)

    def select(self, rows: np.ndarray) -> "Prompts":
        """Some rows, by number or mask."""
        return Prompts(self.histories.select(rows), self.targets.select(rows))


def training_prompts(
    dataset: "Dataset", *, per_user: int, horizon: int, max_history: int, seed: int, users: int | None = None
) -> Prompts:
    """Cut training histories at a few positions drawn by seed; the held-out parts are never touched.

    Args:
        dataset: Its training part is used.
        per_user: Most cuts of a user; all positions of shorter histories.
        horizon: Most targets after a cut.
        max_history: Most items before a cut.
        seed: Draws the users, and the cuts of each.
        users: Most users, of those with two interactions; all if None.

    Raises:
        DataError: If no user has two training interactions.
    """
    train = dataset.train()
    if users is not None:
        able = np.flatnonzero(train.lengths > 1)
        train = train.select(np.sort(np.random.default_rng(seed).permutation(able)[:users]))
    cuts = [
        _draw(int(length) - 1, per_user, [seed, int(user)])
        for user, length in zip(train.users, train.lengths, strict=True)
    ]
    rows = np.repeat(np.arange(len(train)), [len(part) for part in cuts])
    if not len(rows):
        raise DataError(
            "no user has two interactions in the training part",
            expected="a history and an item after it",
            fix="give more interactions, or lower data.k_core",
        )
    ends = np.concatenate(cuts)
    starts, owners = train.offsets[:-1][rows], train.users[rows]
    known = np.minimum(ends, max_history)
    after = np.minimum(train.lengths[rows] - ends, horizon)
    return Prompts(
        train.slice(owners, starts + ends - known, known),
        train.slice(owners, starts + ends, after),
    )


def seen_items(dataset: "Dataset", users: np.ndarray) -> Histories:
    """Everything in the training part of each of ``users [R]``, one row each."""
    train = dataset.train()
    row_of = np.full(dataset.num_users, -1, dtype=np.int64)
    row_of[train.users] = np.arange(len(train))
    return train.select(row_of[users])


def _draw(positions: int, most: int, seed: list[int]) -> np.ndarray:
    """Ends of histories, 1..positions, ascending."""
    if positions <= most:
        return np.arange(1, max(positions, 0) + 1)
    return np.sort(np.random.default_rng(seed).choice(positions, most, replace=False)) + 1
