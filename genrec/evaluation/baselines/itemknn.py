"""Item-kNN: items that the same users had (Deshpande and Karypis, Item-based top-N recommendation algorithms, 2004)."""

from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field
from scipy import sparse

from genrec.config.ranges import Count, Weight
from genrec.data.histories import Histories
from genrec.evaluation.baselines.item_graph import ItemGraph, ItemGraphSettings, best_settings
from genrec.evaluation.baselines.sparse_rows import descending, first_of_rows, item_sets, rows_at_once

if TYPE_CHECKING:
    from genrec.data import Dataset

MAX_PAIRS = 50_000_000
GRID: dict[str, tuple[Any, ...]] = {
    "shrinkage": (0.0, 10.0, 50.0),
    "neighbors": (50, 100, 200, None),
    "decay": (1.0, 0.8, 0.5, 0.3),
    "last_n": (1, 5, 20, None),
}


class ItemKNNSettings(ItemGraphSettings):
    """How items are compared and histories weighted."""

    neighbors: Count | None = Field(None, description="most similar items kept per item; null keeps all that fit")
    shrinkage: Weight = Field(10.0, description="added to the denominator: doubts similarities of rare items")


class ItemKNN(ItemGraph):
    """Items that the same users had, weighted by how recent the history's item is.

    link(i, j) = users of both / (sqrt(users of i * users of j) + shrinkage), over the sets of users in training, where
    j is among i's neighbors.
    """

    name = "itemknn"

    @classmethod
    def fit(cls, train: Histories, popularity: np.ndarray, settings: ItemKNNSettings) -> "ItemKNN":
        """Compare all items by their users in the training part.

        Args:
            train: The training part.
            popularity: int ``[N]``, interactions in the training part.
            settings: How.
        """
        links = _similarities(train, len(popularity), settings.neighbors, settings.shrinkage)
        return cls(links, popularity, settings)

    @classmethod
    def tuned(cls, dataset: "Dataset", *, exclude_seen: bool = True, seed: int = 0) -> "ItemKNN":
        """The model of the training part with the settings that are best on validation (:func:`best_settings`)."""
        variants = _Variants(dataset.train(), dataset.train_popularity())
        first = ItemKNNSettings()
        best = best_settings(dataset, first, GRID, variants.model, exclude_seen=exclude_seen, seed=seed)
        return variants.model(best)


class _Variants:
    """Item-kNN models that differ in few settings: fewer neighbors are the beginnings of the same rows."""

    def __init__(self, train: Histories, popularity: np.ndarray) -> None:
        self.train, self.popularity = train, popularity
        self.shrinkage, self.widest = -1.0, sparse.csr_array((0, 0), dtype=np.float32)

    def model(self, settings: ItemKNNSettings) -> ItemKNN:
        if settings.shrinkage != self.shrinkage:
            self.widest = _similarities(self.train, len(self.popularity), None, settings.shrinkage)
            self.shrinkage = settings.shrinkage
        most = settings.neighbors
        return ItemKNN(self.widest if most is None else first_of_rows(self.widest, most), self.popularity, settings)


def _similarities(train: Histories, num_items: int, neighbors: int | None, shrinkage: float) -> sparse.csr_array:
    users = item_sets(train, num_items)
    items = users.T.tocsr()
    norms = np.sqrt(np.diff(items.indptr)).astype(np.float32)
    most = min(neighbors or num_items, max(MAX_PAIRS // num_items, 1))
    step = rows_at_once(num_items)
    blocks = []
    for first in range(0, num_items, step):
        shared = (items[first : first + step] @ users).tocoo()
        other = shared.row + first != shared.col
        row, column, count = shared.row[other], shared.col[other], shared.data[other]
        value = count / (norms[row + first] * norms[column] + np.float32(shrinkage))
        row, column, value = descending(row, column, value)
        starts = np.searchsorted(row, np.arange(shared.shape[0] + 1))
        blocks.append(first_of_rows(sparse.csr_array((value, column, starts), shape=shared.shape), most))
    return sparse.vstack(blocks, format="csr")
