"""Baselines that need no training loop: popularity and item-kNN, both fitted on the training part alone.

Lists are exact and full wherever the catalogue allows; ties go to the more popular item, then to the earlier one.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field
from scipy import sparse

from genrec.config import Section
from genrec.config.ranges import Count, HistoryLength, Share, Weight
from genrec.data.histories import Histories
from genrec.errors import ConfigError
from genrec.evaluation.metrics import find_targets, ranking_metrics

if TYPE_CHECKING:
    from genrec.data import Dataset

CELLS_AT_ONCE = 8_000_000
MAX_PAIRS = 50_000_000
TUNING_USERS = 2000
TUNING_K = 10
GRID: dict[str, tuple[Any, ...]] = {
    "shrinkage": (0.0, 10.0, 50.0),
    "neighbours": (50, 100, 200, None),
    "decay": (1.0, 0.8, 0.5, 0.3),
    "last_n": (1, 5, 20, None),
}


class Baseline(ABC):
    """Something that writes a list for every history.

    Attributes:
        name: As in ``evaluation.baselines``.
        num_items: N.
    """

    name: str
    num_items: int

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The settings that it runs with."""

    @abstractmethod
    def rank(self, histories: Histories, excluded: sparse.csr_array, top_k: int) -> tuple[np.ndarray, np.ndarray]:
        """Lists for a block of rows; as :meth:`recommend`, with the excluded items as a float32 0/1 matrix [R, N]."""

    def recommend(
        self, histories: Histories, *, top_k: int, exclude_seen: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best items for every row.

        Args:
            histories: R rows.
            top_k: k.
            exclude_seen: Leave out the items of the row's history.

        Returns:
            Items int32 [R, k] (-1 = none) and scores float32 [R, k] (-inf = none).
        """
        items = np.full((len(histories), top_k), -1, dtype=np.int32)
        scores = np.full((len(histories), top_k), -np.inf, dtype=np.float32)
        step = _rows_at_once(self.num_items)
        for first in range(0, len(histories), step):
            rows = np.arange(first, min(first + step, len(histories)))
            block = histories.select(rows)
            excluded = _item_sets(block, self.num_items)
            if not exclude_seen:
                excluded = sparse.csr_array(excluded.shape, dtype=np.float32)
            items[rows], scores[rows] = self.rank(block, excluded, top_k)
        return items, scores


class Popularity(Baseline):
    """The most popular items of the training part; the score is their number of interactions.

    Args:
        popularity: int [N], interactions in the training part.
    """

    name = "popularity"

    def __init__(self, popularity: np.ndarray) -> None:
        self.num_items = len(popularity)
        self.popularity = np.asarray(popularity)
        self.order = np.argsort(-self.popularity, kind="stable").astype(np.int32)
        self.place = np.argsort(self.order).astype(np.int32)

    @property
    def settings(self) -> dict[str, Any]:
        """There are none."""
        return {}

    def rank(self, histories: Histories, excluded: sparse.csr_array, top_k: int) -> tuple[np.ndarray, np.ndarray]:
        """Lists for a block of rows; see :meth:`Baseline.rank`."""
        # Nobody needs to look further than the number of items that they cannot get.
        width = min(top_k + int(np.diff(excluded.indptr).max(initial=0)), self.num_items)
        free = np.ones((len(histories), width), dtype=bool)
        row, place = np.repeat(np.arange(len(histories)), np.diff(excluded.indptr)), self.place[excluded.indices]
        free[row[place < width], place[place < width]] = False
        free &= free.cumsum(axis=1) <= top_k
        row, place = np.nonzero(free)
        items = np.full((len(histories), top_k), -1, dtype=np.int32)
        scores = np.full(items.shape, -np.inf, dtype=np.float32)
        column = free.cumsum(axis=1)[row, place] - 1
        items[row, column] = self.order[place]
        scores[row, column] = self.popularity[self.order[place]]
        return items, scores


class ItemKNNSettings(Section):
    """How items are compared and histories weighted."""

    neighbours: Count | None = Field(None, description="most similar items kept per item; null keeps all that fit")
    shrinkage: Weight = Field(10.0, description="added to the denominator: doubts similarities of rare items")
    decay: Share = Field(0.5, gt=0, description="weight of an item over that of the next newer one")
    last_n: HistoryLength | None = Field(20, description="only this many items of a history count; null takes all")


class ItemKNN(Baseline):
    """Items that the same users had, weighted by how recent the history's item is (Deshpande and Karypis, 2004).

    similarity(i, j) = users of both / (sqrt(users of i * users of j) + shrinkage), over the sets of users in training;
    score(j) = sum over the last n items i of decay ** age(i) * similarity(i, j), where j is among i's neighbours. What
    is left of a list is filled with popular items, at score 0.

    Args:
        similarity: float32 [N, N], each row's entries from the most similar on.
        popularity: int [N], interactions in the training part.
        settings: How it was made and how histories are weighted.
    """

    name = "itemknn"

    def __init__(self, similarity: sparse.csr_array, popularity: np.ndarray, settings: ItemKNNSettings) -> None:
        self.num_items = len(popularity)
        self.similarity = similarity
        self._popular = Popularity(popularity)
        self._settings = settings

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that it runs with."""
        return {name: "all" if value is None else value for name, value in self._settings.model_dump().items()}

    @classmethod
    def fit(cls, train: Histories, popularity: np.ndarray, settings: ItemKNNSettings) -> "ItemKNN":
        """Compare all items by their users in the training part.

        Args:
            train: The training part.
            popularity: int [N], interactions in the training part.
            settings: How.
        """
        similarity = _similarities(train, len(popularity), settings.neighbours, settings.shrinkage)
        return cls(similarity, popularity, settings)

    def rank(self, histories: Histories, excluded: sparse.csr_array, top_k: int) -> tuple[np.ndarray, np.ndarray]:
        """Lists for a block of rows; see :meth:`Baseline.rank`."""
        found = self._weights(histories) @ self.similarity
        found = (found - found.multiply(excluded)).tocoo()
        linked = found.data > 0
        # Places by popularity instead of items, so that the order breaks ties as it should.
        row, place, score = _descending(found.row[linked], self._popular.place[found.col[linked]], found.data[linked])
        column = np.arange(len(row)) - np.searchsorted(row, row)
        row, place, score, column = (part[column < top_k] for part in (row, place, score, column))
        items = np.full((len(histories), top_k), -1, dtype=np.int32)
        scores = np.full(items.shape, -np.inf, dtype=np.float32)
        items[row, column], scores[row, column] = self._popular.order[place], score
        self._fill(histories, excluded, items, scores)
        return items, scores

    def _weights(self, histories: Histories) -> sparse.csr_array:
        if self._settings.last_n is not None:
            counts = np.minimum(histories.lengths, self._settings.last_n)
            histories = histories.slice(histories.users, histories.offsets[1:] - counts, counts)
        age = np.repeat(histories.offsets[1:], histories.lengths) - 1 - np.arange(len(histories.items))
        weights = (self._settings.decay ** age.astype(np.float64)).astype(np.float32)
        shape = (len(histories), self.num_items)
        return sparse.csr_array((weights, histories.items, histories.offsets), shape=shape)

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


def fit_item_knn(dataset: "Dataset", *, exclude_seen: bool = True, seed: int = 0) -> ItemKNN:
    """Item-kNN with the settings out of ``GRID`` that are best on validation by ndcg@10.

    One setting is moved at a time, from the defaults on, until none improves. Only this choice looks at the validation
    part (2000 users drawn by seed, if there are more); the model is that of the training part. Without validation users
    the defaults stand.

    Args:
        dataset: A prepared data set.
        exclude_seen: As in the evaluation to come.
        seed: Draws the validation users.
    """
    train, popularity = dataset.train(), dataset.train_popularity()
    histories, targets = dataset.evaluation("validation")
    if len(targets) > TUNING_USERS:
        rows = np.sort(np.random.default_rng(seed).choice(len(targets), TUNING_USERS, replace=False))
        histories, targets = histories.select(rows), targets.select(rows)
    variants = _Variants(train, popularity)
    values: dict[ItemKNNSettings, float] = {}

    def value_of(settings: ItemKNNSettings) -> float:
        if settings not in values:
            items, _ = variants.model(settings).recommend(histories, top_k=TUNING_K, exclude_seen=exclude_seen)
            found = find_targets(items, targets, len(popularity))
            metrics = ranking_metrics(found.places, found.rows, len(targets), [TUNING_K])
            values[settings] = float(metrics[f"ndcg@{TUNING_K}"].mean())
        return values[settings]

    best, before = ItemKNNSettings(), None
    while len(targets) and best != before:
        before = best
        for name, choices in GRID.items():
            best = max((best, *(best.model_copy(update={name: choice}) for choice in choices)), key=value_of)
    return variants.model(best)


def fit_baseline(name: str, dataset: "Dataset", *, exclude_seen: bool = True) -> Baseline:
    """A fitted baseline by its name in ``evaluation.baselines``.

    Args:
        name: ``popularity`` or ``itemknn``.
        dataset: A prepared data set.
        exclude_seen: As in the evaluation to come; item-kNN is tuned under the same rule.

    Raises:
        ConfigError: If there is no such baseline.
    """
    if name == Popularity.name:
        return Popularity(dataset.train_popularity())
    if name == ItemKNN.name:
        return fit_item_knn(dataset, exclude_seen=exclude_seen)
    raise ConfigError(
        f"there is no baseline {name!r}",
        where="evaluation.baselines",
        expected="popularity, itemknn or sasrec",
        fix="correct its name or remove it",
    )


class _Variants:
    """Item-kNN models that differ in few settings: fewer neighbours are the beginnings of the same rows."""

    def __init__(self, train: Histories, popularity: np.ndarray) -> None:
        self.train, self.popularity = train, popularity
        self.shrinkage, self.widest = -1.0, sparse.csr_array((0, 0), dtype=np.float32)

    def model(self, settings: ItemKNNSettings) -> ItemKNN:
        if settings.shrinkage != self.shrinkage:
            self.widest = _similarities(self.train, len(self.popularity), None, settings.shrinkage)
            self.shrinkage = settings.shrinkage
        most = settings.neighbours
        return ItemKNN(self.widest if most is None else _first_of_rows(self.widest, most), self.popularity, settings)


def _similarities(train: Histories, num_items: int, neighbours: int | None, shrinkage: float) -> sparse.csr_array:
    users = _item_sets(train, num_items)
    items = users.T.tocsr()
    norms = np.sqrt(np.diff(items.indptr)).astype(np.float32)
    most = min(neighbours or num_items, max(MAX_PAIRS // num_items, 1))
    step = _rows_at_once(num_items)
    blocks = []
    for first in range(0, num_items, step):
        shared = (items[first : first + step] @ users).tocoo()
        other = shared.row + first != shared.col
        row, column, count = shared.row[other], shared.col[other], shared.data[other]
        value = count / (norms[row + first] * norms[column] + np.float32(shrinkage))
        row, column, value = _descending(row, column, value)
        starts = np.searchsorted(row, np.arange(shared.shape[0] + 1))
        blocks.append(_first_of_rows(sparse.csr_array((value, column, starts), shape=shared.shape), most))
    return sparse.vstack(blocks, format="csr")


def _item_sets(histories: Histories, num_items: int) -> sparse.csr_array:
    rows = np.repeat(np.arange(len(histories)), histories.lengths)
    cells = np.unique(rows * num_items + histories.items)
    shape = (len(histories), num_items)
    return sparse.csr_array((np.ones(len(cells), np.float32), (cells // num_items, cells % num_items)), shape=shape)


def _rows_at_once(num_items: int) -> int:
    # Few enough that row, score and column fit into one integer: see _descending.
    return max(min(CELLS_AT_ONCE // num_items, 1 << (32 - num_items.bit_length())), 1)


def _descending(row: np.ndarray, column: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells sorted by row, then by falling value, then by column; values are positive float32."""
    # The bits of a positive float32 order like the number: one integer per cell sorts ten times faster than three keys.
    width = int(column.max(initial=0)).bit_length()
    bits = np.int64(0x7FFFFFFF) - value.astype(np.float32).view(np.int32)
    keys = np.sort((row.astype(np.int64) << (31 + width)) | (bits << width) | column)
    value = (0x7FFFFFFF - (keys >> width & 0x7FFFFFFF)).astype(np.int32).view(np.float32)
    return keys >> (31 + width), keys & ((1 << width) - 1), value


def _first_of_rows(matrix: sparse.csr_array, most: int) -> sparse.csr_array:
    lengths = np.diff(matrix.indptr)
    place = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], lengths)
    starts = np.concatenate([[0], np.cumsum(np.minimum(lengths, most))])
    kept = place < most
    return sparse.csr_array((matrix.data[kept], matrix.indices[kept], starts), shape=matrix.shape)
