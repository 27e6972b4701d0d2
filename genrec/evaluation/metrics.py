"""Item-level metrics of ranked lists over the full catalogue: a hit is the held-out item itself, never its identifier.

Per-user values are kept, because confidence intervals, slices and paired comparisons need them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from genrec.config import EvaluationConfig
from genrec.data.histories import Histories
from genrec.errors import ConfigError, DataError, first_rows

DEFAULT_KS: tuple[int, ...] = EvaluationConfig().ks
METRICS = ("recall", "ndcg", "mrr", "coverage", "gini", "popularity_rank")
BLOCK_ROWS = 65_536
UNLISTED = 1 << 40


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a system's lists are worth.

    Attributes:
        users: int64 [R], dense user id of each row.
        per_user: Name (``recall@10``) to float64 [R]; recall, ndcg and mrr at every k.
        catalogue: Name (``coverage@10``) to a number that belongs to all lists together.
    """

    users: np.ndarray
    per_user: dict[str, np.ndarray]
    catalogue: dict[str, float]

    def __len__(self) -> int:
        return len(self.users)

    @property
    def metrics(self) -> dict[str, float]:
        """Mean over users of every per-user metric, then the catalogue's numbers."""
        return {name: float(values.mean()) for name, values in self.per_user.items()} | self.catalogue


def evaluate_lists(
    recommended: np.ndarray,
    targets: Histories,
    *,
    num_items: int,
    popularity: np.ndarray | None = None,
    ks: Sequence[int] = DEFAULT_KS,
) -> Evaluation:
    """Score one ranked list per user against the user's held-out items.

    See :func:`ranking_metrics` and :func:`catalogue_metrics` for what is measured.

    Args:
        recommended: int [R, K], dense items, best first; -1 = none, which still takes its place. Places beyond K count
            as misses.
        targets: R rows of held-out items; an item that is held out twice counts once. If they are alternatives
            (``any_of``), only the one that comes first in the list counts.
        num_items: N, size of the catalogue.
        popularity: int [N], interactions in the training part; without it there is no ``popularity_rank``.
        ks: Lengths of list to score.

    Raises:
        DataError: If there are no users, a user has no target, a list names an item twice, or an item is not in 0..N-1.
        ConfigError: If ks is empty or not positive.
    """
    recommended, ks = np.asarray(recommended), checked_ks(ks)
    _check_lists(recommended, targets, num_items)
    found = find_targets(recommended, targets, num_items)
    per_user = ranking_metrics(found, len(targets), ks)
    return Evaluation(targets.users, per_user, catalogue_metrics(recommended, num_items, popularity, ks))


class Found(NamedTuple):
    """Where the lists hold the held-out items: one entry per row and distinct item, in order of rows.

    Attributes:
        rows: int64 [P].
        items: int64 [P].
        places: int64 [P], from 0; ``UNLISTED`` where the list does not have the item.
        any_of: Whether the items of a row are alternatives.
    """

    rows: np.ndarray
    items: np.ndarray
    places: np.ndarray
    any_of: bool = False


def find_targets(recommended: np.ndarray, targets: Histories, num_items: int) -> Found:
    """Look up every held-out item in its user's list.

    Args:
        recommended: int [R, K], -1 = none.
        targets: R rows.
        num_items: N.
    """
    rows, items = np.divmod(np.unique(row_item_pairs(targets, num_items)), num_items)
    places = np.full(len(rows), UNLISTED)
    for first in range(0, len(rows), BLOCK_ROWS):
        block = slice(first, first + BLOCK_ROWS)
        equal = recommended[rows[block]] == items[block, None]
        target, place = np.nonzero(equal)
        places[first + target] = place
    return Found(rows, items, places, targets.any_of)


def ranking_metrics(found: Found, num_rows: int, ks: Sequence[int]) -> dict[str, np.ndarray]:
    """Recall, NDCG and MRR per user, each with at least one target.

    With h of t targets in the first k places: recall@k = h / t, the hit rate where t = 1; ndcg@k = discounted gain over
    that of the min(k, t) first places, gains binary (Järvelin and Kekäläinen, 2002); mrr@k = 1 / place of the first
    hit, 0 without one. Where targets are alternatives, the first of them in the list is the user's one target, t = 1.

    Args:
        found: Where the targets are; every user is there, in ascending order.
        num_rows: R.
        ks: Ascending lengths of list.

    Returns:
        ``recall@k``, ``ndcg@k``, ``mrr@k`` to float64 [R].
    """
    rows, places = found.rows, found.places
    first = np.minimum.reduceat(places, np.searchsorted(rows, np.arange(num_rows)))
    if found.any_of:
        rows, places = np.arange(num_rows), first
    held_out = np.bincount(rows, minlength=num_rows)
    discounts = 1.0 / np.log2(np.arange(2, ks[-1] + 2))
    gains, ideal = 1.0 / np.log2(places + 2.0), discounts.cumsum()
    metrics: dict[str, dict[str, np.ndarray]] = {"recall": {}, "ndcg": {}, "mrr": {}}
    for k in ks:
        listed = places < k
        metrics["recall"][f"recall@{k}"] = np.bincount(rows[listed], minlength=num_rows) / held_out
        gained = np.bincount(rows[listed], weights=gains[listed], minlength=num_rows)
        metrics["ndcg"][f"ndcg@{k}"] = gained / ideal[np.minimum(held_out, k) - 1]
        metrics["mrr"][f"mrr@{k}"] = np.where(first < k, 1.0 / (first + 1), 0.0)
    return metrics["recall"] | metrics["ndcg"] | metrics["mrr"]


def row_item_pairs(histories: Histories, num_items: int) -> np.ndarray:
    """Every (row, item) as one number, int64 [total]: ``row * num_items + item``."""
    return np.repeat(np.arange(len(histories)), histories.lengths) * num_items + histories.items


def catalogue_metrics(
    recommended: np.ndarray, num_items: int, popularity: np.ndarray | None, ks: Sequence[int]
) -> dict[str, float]:
    """What all lists together do with the catalogue.

    ``coverage@k``: share of the catalogue that is in at least one list. ``gini@k``: Gini coefficient of how often each
    item is listed, unlisted items included (0 = all equally often, towards 1 = always the same few).
    ``popularity_rank@k``: mean rank of a listed item by interactions in training (1 = the most popular; ties share the
    mean of their ranks).

    Args:
        recommended: int [R, K], -1 = none.
        num_items: N.
        popularity: int [N], interactions in the training part, or None.
        ks: Ascending lengths of list.
    """
    metrics: dict[str, dict[str, float]] = {"coverage": {}, "gini": {}, "popularity_rank": {}}
    ranks = None if popularity is None else rankdata(-np.asarray(popularity), method="average")
    for k in ks:
        listed = recommended[:, :k]
        counts = np.bincount(listed[listed >= 0], minlength=num_items)
        metrics["coverage"][f"coverage@{k}"] = float(np.count_nonzero(counts) / num_items)
        metrics["gini"][f"gini@{k}"] = gini(counts)
        if ranks is not None:
            metrics["popularity_rank"][f"popularity_rank@{k}"] = float(counts @ ranks / max(counts.sum(), 1))
    return metrics["coverage"] | metrics["gini"] | metrics["popularity_rank"]


def gini(counts: np.ndarray) -> float:
    """Gini coefficient of non-negative counts, int or float [N]; 0 where all are zero."""
    ranked = np.sort(np.asarray(counts, dtype=np.float64))
    size, total = len(ranked), ranked.sum()
    return float((2 * np.arange(1, size + 1) - size - 1) @ ranked / (size * total)) if total else 0.0


def checked_ks(ks: Sequence[int]) -> list[int]:
    """The lengths of list in ascending order, each once.

    Raises:
        ConfigError: If there is none or one is not positive.
    """
    ordered = sorted(set(ks))
    if not ordered or ordered[0] < 1:
        raise ConfigError(
            f"evaluation.ks = {list(ks)} cannot be used", expected="at least one k, all of them 1 or more"
        )
    return ordered


def _check_lists(recommended: np.ndarray, targets: Histories, num_items: int) -> None:
    if len(targets) == 0:
        raise DataError(
            "there are no users to evaluate",
            expected="at least one user with a history and a held-out item",
            fix="lower data.k_core, or hold out more (data.split, data.test_ratio)",
        )
    if recommended.ndim != 2 or len(recommended) != len(targets):
        raise DataError(
            f"the lists are an array of shape {recommended.shape}", expected=f"one row for each of {len(targets)} users"
        )
    empty = np.flatnonzero(targets.lengths == 0)
    if len(empty):
        raise DataError("users without a held-out item cannot be scored", where=first_rows(empty.tolist()))
    lowest, highest = recommended.min(initial=-1), max(recommended.max(initial=-1), targets.items.max())
    if lowest < -1 or targets.items.min() < 0 or highest >= num_items:
        raise DataError(
            f"items {min(lowest, targets.items.min())}..{highest}", expected=f"0..{num_items - 1}, or -1 = none"
        )
    for block in range(0, len(recommended), BLOCK_ROWS):
        ordered = np.sort(recommended[block : block + BLOCK_ROWS], axis=1)
        twice = np.flatnonzero(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(axis=1))
        if len(twice):
            where = first_rows((twice + block).tolist())
            raise DataError("a list names an item twice", where=where, expected="distinct items per list")
