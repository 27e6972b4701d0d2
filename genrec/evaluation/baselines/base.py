"""What a baseline is, and the simplest one: popularity.

Lists are exact and full wherever the catalogue allows; ties go to the more popular item, then to the earlier one.
"""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from scipy import sparse

from genrec.data.histories import Histories
from genrec.evaluation.baselines.sparse_rows import item_sets, rows_at_once


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
        step = rows_at_once(self.num_items)
        for first in range(0, len(histories), step):
            rows = np.arange(first, min(first + step, len(histories)))
            block = histories.select(rows)
            excluded = item_sets(block, self.num_items)
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
        # No one needs to look further than the number of items that they cannot get.
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
