"""Do items with like semantic IDs look alike: in their vectors, in who bought them, in their category.

Everything is measured on items drawn by a fixed seed, so that a million items cost about as much as twelve thousand.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from genrec.features.base import unit_rows
from genrec.tokenizers.base import Kind
from genrec.tokenizers.collisions import prefix_groups
from genrec.tokenizers.parts.sampling import draw_rows

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from genrec.data import Dataset
    from genrec.data.histories import Histories

NEAREST = 10
MAX_QUERIES = 1000
MAX_POOL = 100_000
MAX_LABELED = 50_000
MAX_HISTORY = 50
MAX_USERS = 200_000
SIMILARITY_ELEMENTS = 1 << 24
CATEGORY_COLUMNS = ("category", "categories", "genre", "genres")
SEED = 8191


@dataclass(frozen=True)
class Nearest:
    """The items most like some items, by a measure that has nothing to do with semantic IDs.

    Args:
        queries: int64 ``[Q]``.
        items: int64 ``[Q, k]``, best first; -1 where there are fewer.
        pool: int64 ``[P]``, the items that were looked at, ascending; the queries are among them.
    """

    queries: np.ndarray
    items: np.ndarray
    pool: np.ndarray


def by_vectors(values: np.ndarray, queries: np.ndarray | None = None) -> Nearest | None:
    """Nearest items by the cosine of their vectors; None if fewer than two vectors are other than zero.

    Args:
        values: float32 ``[N, D]``; rows of zeros are left out.
        queries: int64 ``[q]``, the items asked about (at most MAX_QUERIES of them); any if None.
    """
    pool = draw_rows(len(values), MAX_POOL, SEED)
    vectors = unit_rows(values[pool])
    told = vectors.any(axis=1)
    pool, vectors = pool[told], vectors[told]
    if len(pool) < 2:
        return None
    asked = np.arange(len(pool)) if queries is None else np.flatnonzero(np.isin(pool, queries))
    if not len(asked):
        return None
    rows = asked[draw_rows(len(asked), MAX_QUERIES, SEED)]
    k = min(NEAREST, len(pool) - 1)
    found = np.empty((len(rows), k), dtype=np.int64)
    step = max(1, SIMILARITY_ELEMENTS // len(pool))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        similarity = vectors[part] @ vectors.T
        similarity[np.arange(len(part)), part] = -np.inf
        found[start : start + step] = pool[np.argpartition(-similarity, k - 1, axis=1)[:, :k]]
    return Nearest(pool[rows], found, pool)


def by_users(histories: "Histories", num_items: int) -> Nearest | None:
    """Nearest items by the cosine of the sets of users who had them; None if no two items share a user.

    Args:
        histories: The training part; the last MAX_HISTORY items of at most MAX_USERS users are read.
        num_items: N.
    """
    users = histories.select(draw_rows(len(histories), MAX_USERS, SEED))
    had = _users_by_items(users, num_items)
    popularity = np.asarray(had.sum(axis=0)).reshape(-1)
    known = np.flatnonzero(popularity)
    queries = known[draw_rows(len(known), MAX_QUERIES, SEED)]
    shared = (had[:, queries].T @ had).tocsr()
    found = np.full((len(queries), NEAREST), -1, dtype=np.int64)
    for row, query in enumerate(queries.tolist()):
        piece = slice(shared.indptr[row], shared.indptr[row + 1])
        others, counts = shared.indices[piece], shared.data[piece]
        others, counts = others[others != query], counts[others != query]
        order = np.lexsort((others, -counts / np.sqrt(popularity[others])))[:NEAREST]
        found[row, : len(order)] = others[order]
    alike = found[:, 0] >= 0
    return Nearest(queries[alike], found[alike], np.arange(num_items)) if alike.any() else None


def neighbor_recall(codes: np.ndarray, kind: Kind, nearest: Nearest) -> dict[str, Any]:
    """How many of an item's nearest items its semantic ID would find.

    Args:
        codes: int ``[N, L]``; -1 fills the tail of a shorter semantic ID.
        kind: In a ``sequence`` the leading codes count, in a ``set`` all equal ones.
        nearest: See :func:`by_vectors` and :func:`by_users`.

    Returns:
        ``queries``; ``recall``, the share of the k nearest among the k items that share the most codes (ties at their
        expected share), and ``chance``, what semantic IDs drawn at random would find; for every number of codes l
        ``levels``: ``recall``, the share of the nearest that share at least l codes, and ``chance``, that share of all.
    """
    num_levels = codes.shape[1]
    near, everyone = np.zeros(num_levels + 1), np.zeros(num_levels + 1)
    found, wanted = 0.0, 0
    pooled = codes[nearest.pool]
    for query, items in zip(nearest.queries.tolist(), nearest.items, strict=True):
        shared = np.bincount(shared_codes(pooled, codes[query], kind), minlength=num_levels + 1)
        shared[shared_codes(codes[query][None], codes[query], kind)] -= 1
        hits = np.bincount(shared_codes(codes[items[items >= 0]], codes[query], kind), minlength=num_levels + 1)
        found += expected_hits(shared[::-1], hits[::-1], int(hits.sum()))
        wanted += int(hits.sum())
        near, everyone = near + hits, everyone + shared
    reach, base = np.cumsum(near[::-1])[::-1] / near.sum(), np.cumsum(everyone[::-1])[::-1] / everyone.sum()
    return {
        "queries": len(nearest.queries),
        "nearest": NEAREST,
        "recall": found / wanted,
        "chance": wanted / len(nearest.queries) / (len(nearest.pool) - 1),
        "levels": [{"recall": float(reach[l]), "chance": float(base[l])} for l in range(1, num_levels + 1)],
    }


def shared_codes(codes: np.ndarray, own: np.ndarray, kind: Kind) -> np.ndarray:
    """How many codes each item shares with one item: leading ones, or any in a set; int64 ``[n]``.

    Args:
        codes: int ``[n, L]``.
        own: int ``[L]``.
        kind: See :func:`neighbor_recall`.
    """
    if kind == "set":
        return ((codes == own) & (codes >= 0)).sum(axis=1)
    shared, equal = np.zeros(len(codes), dtype=np.int64), np.ones(len(codes), dtype=bool)
    for column, code in zip(codes.T, own, strict=True):
        equal &= column == code
        shared += equal
    return shared


def expected_hits(sizes: np.ndarray, hits: np.ndarray, places: int) -> float:
    """Wanted items expected in the first places of a list that is sorted by class and drawn at random within one.

    Args:
        sizes: int ``[C]``, items of every class, best class first.
        hits: int ``[C]``, wanted items among them.
        places: Length of the list.
    """
    before = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    taken = np.clip(places - before, 0, sizes)
    return float((taken * hits / np.maximum(sizes, 1)).sum())


def category_agreement(codes: np.ndarray, kind: Kind, items: pl.DataFrame) -> dict[str, Any] | None:
    """Whether the items of a prefix (of a code, in a set) are of one category; None without categories.

    Args:
        codes: int ``[N, L]``.
        kind: ``sequence`` or ``set``.
        items: Table of the catalogue; the first of CATEGORY_COLUMNS that it has is read; of several paths the first.

    Returns:
        ``column``, ``categories``, ``items`` that have one, and for every level ``nmi`` (normalized mutual
        information), ``purity`` (share of items in the largest category of their group) and both ``_by_chance``: for
        the same groups filled at random, because small groups agree with anything.
    """
    from sklearn.metrics import normalized_mutual_info_score

    labels = item_categories(items)
    if labels is None:
        return None
    rows = np.flatnonzero(labels.is_not_null().to_numpy())
    rows = rows[draw_rows(len(rows), MAX_LABELED, SEED)]
    category = np.unique(labels.gather(rows).to_numpy(), return_inverse=True)[1]
    if not len(rows) or not category.any():
        return None
    mixed = np.random.default_rng(SEED).permutation(category)
    levels = [
        {
            "nmi": float(normalized_mutual_info_score(category, group)),
            "nmi_by_chance": float(normalized_mutual_info_score(mixed, group)),
            "purity": purity(category, group),
            "purity_by_chance": purity(mixed, group),
        }
        for group in groups_of(codes[rows], kind)
    ]
    return {"column": labels.name, "categories": int(category.max()) + 1, "items": len(rows), "levels": levels}


def groups_of(codes: np.ndarray, kind: Kind) -> Iterator[np.ndarray]:
    """What items are grouped by at every level, int64 ``[N]``: the prefix so far, or in a set the code alone."""
    if kind == "sequence":
        yield from prefix_groups(codes)
    else:
        for column in codes.T:
            yield np.unique(column, return_inverse=True)[1].reshape(-1)


def purity(category: np.ndarray, group: np.ndarray) -> float:
    """Share of items that are of the commonest category of their group.

    Args:
        category: int ``[n]``.
        group: int ``[n]``.
    """
    pairs, counts = np.unique(group.astype(np.int64) * (category.max() + 1) + category, return_counts=True)
    largest = np.zeros(group.max() + 1, dtype=np.int64)
    np.maximum.at(largest, pairs // (category.max() + 1), counts)
    return float(largest.sum() / len(group))


def measure_likeness(codes: np.ndarray, kind: Kind, values: np.ndarray, dataset: "Dataset") -> dict[str, Any]:
    """All three answers: ``vectors``, ``users`` (training part) and ``category``; None where nothing can be compared.

    Args:
        codes: int ``[N, L]``, before the collision policy.
        kind: ``sequence`` or ``set``.
        values: float32 ``[N, D]``.
        dataset: For training histories and categories.
    """
    nearest = {"vectors": by_vectors(values), "users": by_users(dataset.train(), dataset.num_items)}
    return {
        **{name: None if found is None else neighbor_recall(codes, kind, found) for name, found in nearest.items()},
        "category": category_agreement(codes, kind, dataset.items),
    }


def _users_by_items(histories: "Histories", num_items: int) -> "csr_matrix":
    from scipy.sparse import csr_matrix

    lengths = np.minimum(histories.lengths, MAX_HISTORY)
    last = histories.slice(histories.users, histories.offsets[1:] - lengths, lengths)
    row = np.repeat(np.arange(len(last)), lengths)
    had = csr_matrix((np.ones(len(row), dtype=np.float32), (row, last.items)), shape=(len(last), num_items))
    had.data[:] = 1.0
    return had


def item_categories(items: pl.DataFrame) -> pl.Series | None:
    """The category of every item, null where it has none; None without a column of them.

    Args:
        items: Table of the catalogue; see :func:`category_agreement`.
    """
    lower = {column.lower(): column for column in reversed(items.columns)}
    names = [lower[name] for name in CATEGORY_COLUMNS if name in lower]
    if not names:
        return None
    column = items[names[0]]
    while isinstance(dtype := column.dtype, pl.List | pl.Array):
        lists = column.arr.to_list() if isinstance(dtype, pl.Array) else column
        # A list of paths, a list of names, or one path: the first of several, a path as a whole.
        nested = dtype.inner.is_nested()
        column = lists.list.first() if nested else lists.cast(pl.List(pl.String)).list.join(" > ")
    if column.dtype.is_nested():
        return None
    text = column.cast(pl.String).str.split("|").list.first().str.strip_chars()
    return text.replace("", None).rename(names[0])
