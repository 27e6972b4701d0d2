"""Directed item-to-item transitions of the training part, two steps of their graph, and similar texts; no training.

The idea of TGH (arXiv 2605.07125), reimplemented: what follows an item in other histories, linked items of linked
items, and items with similar texts, from the last few items of a history.
"""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field
from scipy import sparse

from genrec.config.ranges import HistoryLength, Share, Weight
from genrec.data.histories import Histories
from genrec.decoding.transitions import Transitions
from genrec.errors import DataError
from genrec.evaluation.baselines.item_graph import ItemGraph, ItemGraphSettings, best_settings
from genrec.evaluation.baselines.sparse_rows import descending, first_of_rows, rows_at_once
from genrec.features.lexical import LexicalEncoder, LexicalSettings

if TYPE_CHECKING:
    from genrec.data import Dataset

MAX_PAIRS = 50_000_000
# Of each item, at most; in catalogues of more than 50,000 items so many that there are MAX_PAIRS in all.
SIMILAR_TEXTS = 1000
GRID: dict[str, tuple[Any, ...]] = {
    "direction": ("forward", "both"),
    "text": (0.0, 0.5, 1.0, 2.0),
    "linked": (0.0, 0.3),
    "two_steps": (0.0, 0.15, 0.3),
    "last_n": (1, 2, 4, 8),
    "decay": (1.0, 0.8, 0.6, 0.4),
}


class TransitionSettings(ItemGraphSettings):
    """How items are linked and histories weighted."""

    direction: Literal["forward", "both"] = Field("both", description="what follows an item, or also what precedes it")
    text: Weight = Field(1.0, description="weight of the cosine of the texts' TF-IDF vectors")
    linked: Weight = Field(0.3, description="added for every item that was ever next, however seldom")
    two_steps: Weight = Field(0.15, description="added for items that are two transitions away and not one")
    decay: Share = Field(0.6, gt=0, description="weight of an item over that of the next newer one")
    last_n: HistoryLength | None = Field(4, description="only this many items of a history count; null takes all")


class Transition(ItemGraph):
    """Items that followed those of the history, or that are like them.

    link(i, j) = log(1 + count(i, j)) / max over j of log(1 + count(i, j)) + linked * [count(i, j) > 0]
    + two_steps * [j is two transitions from i, and not one] + text * max(cosine(i, j), 0); of texts, the 1000
    most similar ones of each item count.
    """

    name = "transition"

    @classmethod
    def fit(
        cls, train: Histories, popularity: np.ndarray, settings: TransitionSettings, vectors: np.ndarray | None = None
    ) -> "Transition":
        """Count the transitions of the training part.

        Args:
            train: The training part.
            popularity: int ``[N]``, interactions in the training part.
            settings: How.
            vectors: float32 ``[N, D]``, unit vectors of the items' texts; None where there are none.
        """
        return cls(_Parts(train, len(popularity), vectors).links(settings), popularity, settings)

    @classmethod
    def tuned(cls, dataset: "Dataset", *, exclude_seen: bool = True, seed: int = 0) -> "Transition":
        """The model of the training part with the settings that are best on validation (:func:`best_settings`)."""
        vectors, popularity = text_vectors(dataset), dataset.train_popularity()
        parts = _Parts(dataset.train(), dataset.num_items, vectors)
        grid = GRID if vectors is not None else {**GRID, "text": (0.0,)}
        first = TransitionSettings() if vectors is not None else TransitionSettings(text=0.0)

        def model(settings: TransitionSettings) -> Transition:
            return cls(parts.links(settings), popularity, settings)

        return model(best_settings(dataset, first, grid, model, exclude_seen=exclude_seen, seed=seed))

    def transitions(self, weight: float) -> Transitions:
        """The links for ``decoding.transition_weight``.

        Args:
            weight: What ``auto`` stands for.
        """
        links = self.links.copy()
        links.sort_indices()
        return Transitions(links, self._settings.decay, self._settings.last_n, weight, self.settings)


def text_vectors(dataset: "Dataset") -> np.ndarray | None:
    """Unit TF-IDF vectors of the items' texts, float32 ``[N, D]``; None where the items have no text."""
    try:
        return LexicalEncoder(LexicalSettings(missing_text="zero")).fit(dataset).values
    except DataError:
        return None


class _Parts:
    """The parts of the links, each made once."""

    def __init__(self, train: Histories, num_items: int, vectors: np.ndarray | None) -> None:
        self.num_items = num_items
        self.counts = _transition_counts(train, num_items)
        empty = sparse.csr_array((num_items, num_items), dtype=np.float32)
        self.similar = empty if vectors is None else _similar_texts(vectors)
        self.last: tuple[TransitionSettings, sparse.csr_array] | None = None
        self._by_direction: dict[str, tuple[sparse.csr_array, sparse.csr_array]] = {}

    def links(self, settings: TransitionSettings) -> sparse.csr_array:
        """The links of some settings, float32 ``[N, N]``; those of the last call are kept."""
        shaping = settings.model_copy(update={"decay": 1.0, "last_n": None})
        if self.last is None or self.last[0] != shaping:
            strength, two_steps = self.graph(settings.direction)
            links = strength.copy()
            links.data += np.float32(settings.linked)
            links = links + np.float32(settings.two_steps) * two_steps + np.float32(settings.text) * self.similar
            self.last = shaping, sparse.csr_array(links, dtype=np.float32)
        return self.last[1]

    def graph(self, direction: str) -> tuple[sparse.csr_array, sparse.csr_array]:
        """Log-damped counts of one step with rows scaled to 1, and a 1 for each item that is two steps away."""
        if direction not in self._by_direction:
            counts = self.counts if direction == "forward" else sparse.csr_array(self.counts + self.counts.T)
            strength = counts.copy()
            strength.data = np.log1p(strength.data)
            largest = np.ones(self.num_items, dtype=np.float32)
            filled = np.flatnonzero(np.diff(strength.indptr))
            largest[filled] = np.maximum.reduceat(strength.data, strength.indptr[filled]) if len(filled) else 1
            strength.data /= np.repeat(largest, np.diff(strength.indptr))
            self._by_direction[direction] = strength, _two_steps(strength)
        return self._by_direction[direction]


def _transition_counts(train: Histories, num_items: int) -> sparse.csr_array:
    """How often each item came next after each other one, float32 ``[N, N]``; an item after itself does not count."""
    inside = np.ones(len(train.items), dtype=bool)
    inside[train.offsets[1:][train.lengths > 0] - 1] = False
    first = np.flatnonzero(inside)
    before, after = train.items[first].astype(np.int64), train.items[first + 1].astype(np.int64)
    cells, counts = np.unique((before * num_items + after)[before != after], return_counts=True)
    rows, columns = cells // num_items, cells % num_items
    shape = (num_items, num_items)
    return sparse.csr_array((counts.astype(np.float32), (rows, columns)), shape=shape)


def _two_steps(strength: sparse.csr_array) -> sparse.csr_array:
    """A 1 for each item that is two links away and not one.

    In large catalogues only the strongest links of each item are followed: about ``MAX_PAIRS`` pairs are found in all.
    """
    num_items = strength.shape[0]
    near = _strongest(strength, max(int((MAX_PAIRS / num_items) ** 0.5), 1))
    near.data[:] = 1
    blocks, step = [], rows_at_once(num_items)
    for first in range(0, num_items, step):
        found = (near[first : first + step] @ near).tocoo()
        known = strength[first : first + step].tocoo()
        cells = np.setdiff1d(
            found.row.astype(np.int64) * num_items + found.col, known.row.astype(np.int64) * num_items + known.col
        )
        cells = cells[cells // num_items + first != cells % num_items]
        ones = np.ones(len(cells), np.float32)
        blocks.append(sparse.csr_array((ones, (cells // num_items, cells % num_items)), shape=found.shape))
    return sparse.csr_array(sparse.vstack(blocks, format="csr"))


def _similar_texts(vectors: np.ndarray) -> sparse.csr_array:
    """The cosine of each item's most similar texts, float32 ``[N, N]``; not of the item itself, none of 0 and less."""
    num_items = len(vectors)
    most = min(SIMILAR_TEXTS, max(MAX_PAIRS // num_items, 1), num_items - 1)
    blocks, step = [], rows_at_once(num_items)
    for first in range(0, num_items, step):
        cosines = vectors[first : first + step] @ vectors.T
        cosines[np.arange(len(cosines)), np.arange(first, first + len(cosines))] = -1.0
        best = np.argpartition(-cosines, most - 1, axis=1)[:, :most]
        value = np.maximum(np.take_along_axis(cosines, best, axis=1), 0).ravel()
        rows = np.repeat(np.arange(len(cosines)), most)
        block = sparse.csr_array((value, (rows, best.ravel())), shape=cosines.shape)
        block.eliminate_zeros()
        blocks.append(block)
    return sparse.csr_array(sparse.vstack(blocks, format="csr"))


def _strongest(matrix: sparse.csr_array, most: int) -> sparse.csr_array:
    """The largest values of each row."""
    blocks, step = [], rows_at_once(matrix.shape[1])
    for first in range(0, matrix.shape[0], step):
        cells = matrix[first : first + step].tocoo()
        row, column, value = descending(cells.row, cells.col, cells.data)
        starts = np.searchsorted(row, np.arange(cells.shape[0] + 1))
        blocks.append(first_of_rows(sparse.csr_array((value, column, starts), shape=cells.shape), most))
    return sparse.csr_array(sparse.vstack(blocks, format="csr"))
