"""Baselines that follow the links of a history's items to other items, and the search for their best settings.

score(j) = sum over the last n items i of the history of decay ** age(i) * link(i, j), where the newest item has age 0.
What is left of a list is filled with popular items, at score 0.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from pydantic import Field
from scipy import sparse

from genrec.config import Section
from genrec.config.ranges import HistoryLength, Share
from genrec.data.histories import Histories
from genrec.decoding.transitions import history_weights
from genrec.evaluation.baselines.base import Baseline, Popularity
from genrec.evaluation.baselines.sparse_rows import descending
from genrec.evaluation.metrics import find_targets, ranking_metrics

if TYPE_CHECKING:
    from genrec.data import Dataset

TUNING_USERS = 2000
TUNING_K = 10


class ItemGraphSettings(Section):
    """How the items of a history are weighted."""

    decay: Share = Field(0.5, gt=0, description="weight of an item over that of the next newer one")
    last_n: HistoryLength | None = Field(20, description="only this many items of a history count; null takes all")


Settings = TypeVar("Settings", bound=ItemGraphSettings)


class ItemGraph(Baseline):
    """Items linked to those of the history.

    Args:
        links: float32 ``[N, N]``, the strength of each link, at least 0.
        popularity: int ``[N]``, interactions in the training part.
        settings: How it was made and how histories are weighted.
    """

    def __init__(self, links: sparse.csr_array, popularity: np.ndarray, settings: ItemGraphSettings) -> None:
        self.num_items = len(popularity)
        self.links = links
        self._popular = Popularity(popularity)
        self._settings = settings

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that it runs with."""
        return {name: "all" if value is None else value for name, value in self._settings.model_dump().items()}

    def rank(self, histories: Histories, excluded: sparse.csr_array, top_k: int) -> tuple[np.ndarray, np.ndarray]:
        """Lists for a block of rows; see :meth:`Baseline.rank`."""
        decay, last_n = self._settings.decay, self._settings.last_n
        found = history_weights(histories, self.num_items, decay, last_n) @ self.links
        found = (found - found.multiply(excluded)).tocoo()
        linked = found.data > 0
        # Places by popularity instead of items, so that the order breaks ties as it should.
        row, place, score = descending(found.row[linked], self._popular.place[found.col[linked]], found.data[linked])
        column = np.arange(len(row)) - np.searchsorted(row, row)
        row, place, score, column = (part[column < top_k] for part in (row, place, score, column))
        items = np.full((len(histories), top_k), -1, dtype=np.int32)
        scores = np.full(items.shape, -np.inf, dtype=np.float32)
        items[row, column], scores[row, column] = self._popular.order[place], score
        self._fill(histories, excluded, items, scores)
        return items, scores

    def _fill(self, histories: Histories, excluded: sparse.csr_array, items: np.ndarray, scores: np.ndarray) -> None:
        short = np.flatnonzero(items[:, -1] < 0)
        row, column = np.nonzero(items[short] >= 0)
        listed = sparse.coo_array(
            (np.ones(len(row), np.float32), (row, items[short][row, column])), shape=(len(short), self.num_items)
        )
        popular, _ = self._popular.rank(histories.select(short), (excluded[short] + listed).tocsr(), items.shape[1])
        missing = items[short] < 0
        # Free places are at the end, so the n-th free place takes the n-th popular item.
        nth = missing.cumsum(axis=1) - 1
        filled = np.where(missing, np.take_along_axis(popular, np.maximum(nth, 0), axis=1), items[short])
        scores[short] = np.where(missing, np.where(filled >= 0, 0.0, -np.inf), scores[short])
        items[short] = filled


def validation_sample(dataset: "Dataset", seed: int = 0) -> tuple[Histories, Histories]:
    """Histories and held-out items of the validation users, rows aligned; 2000 drawn by seed, if there are more."""
    histories, targets = dataset.evaluation("validation")
    if len(targets) > TUNING_USERS:
        rows = np.sort(np.random.default_rng(seed).choice(len(targets), TUNING_USERS, replace=False))
        histories, targets = histories.select(rows), targets.select(rows)
    return histories, targets


def best_settings(
    dataset: "Dataset",
    first: Settings,
    grid: Mapping[str, tuple[Any, ...]],
    model: Callable[[Settings], ItemGraph],
    *,
    exclude_seen: bool,
    seed: int = 0,
) -> Settings:
    """The settings out of a grid that are best on validation by ndcg@10.

    One setting is moved at a time, from the first ones on, until none improves. Only this choice looks at the
    validation part (2000 users drawn by seed, if there are more). Without validation users the first settings stay.

    Args:
        dataset: A prepared data set.
        first: Where to begin.
        grid: Choices of each setting.
        model: Makes the baseline of some settings from the training part.
        exclude_seen: As in the evaluation to come.
        seed: Draws the validation users.
    """
    histories, targets = validation_sample(dataset, seed)
    values: dict[Settings, float] = {}

    def value_of(settings: Settings) -> float:
        if settings not in values:
            items, _ = model(settings).recommend(histories, top_k=TUNING_K, exclude_seen=exclude_seen)
            found = find_targets(items, targets, dataset.num_items)
            metrics = ranking_metrics(found, len(targets), [TUNING_K])
            values[settings] = float(metrics[f"ndcg@{TUNING_K}"].mean())
        return values[settings]

    best, before = first, None
    while len(targets) and best != before:
        before = best
        for name, choices in grid.items():
            best = max((best, *(best.model_copy(update={name: choice}) for choice in choices)), key=value_of)
    return best
