"""What to do with items that share all codes: a stated policy, with its effect reported.

Policies: ``suffix`` (TIGER's extra code), ``reassign`` (nearest free code on the last level), ``bucket`` (several items
per semantic ID in a stated order), ``error``.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from genrec.errors import DataError, first_rows
from genrec.tokenizers.base import CollisionPolicy

# Costs in memory at once: a grid of scalars may have fifteen thousand last codes.
REASSIGN_ELEMENTS = 1 << 23


@dataclass(frozen=True)
class Resolution:
    """Semantic IDs after a policy.

    Args:
        codes: int32 ``[N, L']``.
        level_sizes: Codebook size of every level, length L'.
        report: The policy and the collisions before and after it, JSON-able.
        priority: int32 ``[N]``, the rank of every item among those of its semantic ID (0 comes first).
    """

    codes: np.ndarray
    level_sizes: tuple[int, ...]
    report: dict[str, Any]
    priority: np.ndarray


@dataclass(frozen=True)
class Catalogue:
    """What policies may look at.

    Args:
        item_ids: External id of every item, length N.
        popularity: int64 ``[N]``, training interactions of every item.
        last_level_costs: Rows of items int64 ``[n]`` to costs float64 ``[n, K]`` of every last code.
    """

    item_ids: Sequence[str]
    popularity: np.ndarray
    last_level_costs: Callable[[np.ndarray], np.ndarray]


def resolve_collisions(
    policy: CollisionPolicy, codes: np.ndarray, level_sizes: Sequence[int], catalogue: Catalogue
) -> Resolution:
    """Apply a policy.

    Args:
        policy: One of the policies.
        codes: int32 ``[N, L]``.
        level_sizes: Codebook size of every level.
        catalogue: What policies may look at.

    Raises:
        DataError: With ``error`` if items collide, with ``reassign`` if a prefix has more items than last codes.
    """
    before, sizes = count_collisions(codes), tuple(level_sizes)
    moved = 0
    if policy == "error":
        _refuse_collisions(codes, before, catalogue.item_ids)
    elif policy == "reassign":
        resolved = reassign(codes, sizes, catalogue.last_level_costs)
        moved = int((resolved != codes).any(axis=1).sum())
        codes = resolved
    elif policy == "suffix" and before["largest_bucket"] > 1:
        codes = np.column_stack([codes, rank_in_group(group_of(codes))]).astype(np.int32)
        sizes = (*sizes, before["largest_bucket"])
    priority = rank_in_group(group_of(codes), catalogue.popularity)
    report = {"policy": policy, "before": before, "after": count_collisions(codes), "reassigned_items": moved}
    return Resolution(np.ascontiguousarray(codes, dtype=np.int32), sizes, report, priority)


def count_collisions(codes: np.ndarray) -> dict[str, Any]:
    """How many items share semantic IDs.

    Args:
        codes: int ``[N, L]``.

    Returns:
        ``semantic_ids``, ``colliding_items`` (items that share theirs), ``collision_rate`` (1 - semantic IDs / items)
        and ``largest_bucket`` (most items of one semantic ID).
    """
    sizes = np.bincount(group_of(codes))
    return {
        "identifiers": len(sizes),
        "colliding_items": int(sizes[sizes > 1].sum()),
        "collision_rate": 1.0 - len(sizes) / len(codes),
        "largest_bucket": int(sizes.max()),
    }


def group_of(codes: np.ndarray) -> np.ndarray:
    """The number of each row's semantic ID among the distinct ones in sorted order, int64 ``[N]``."""
    return deque(prefix_groups(codes), maxlen=1)[0] if codes.shape[1] else np.zeros(len(codes), dtype=np.int64)


def prefix_groups(codes: np.ndarray) -> Iterator[np.ndarray]:
    """For every depth 1..L the number of each row's prefix among the distinct ones in sorted order, int64 ``[N]``."""
    group = np.zeros(len(codes), dtype=np.int64)
    for column in codes.T:
        # One sort of plain numbers per level: sorting whole rows takes ten times as long on a million items.
        key = group * (int(column.max(initial=-1)) + 2) + (column.astype(np.int64) + 1)
        group = np.unique(key, return_inverse=True)[1].reshape(-1).astype(np.int64)
        yield group


def rank_in_group(group: np.ndarray, popularity: np.ndarray | None = None) -> np.ndarray:
    """The rank of each item in its group: more popular first, then by item position.

    Args:
        group: int64 ``[N]``.
        popularity: int64 ``[N]``; by position alone if None.

    Returns:
        int32 ``[N]``.
    """
    first = np.zeros(len(group), dtype=np.int64) if popularity is None else -np.asarray(popularity, dtype=np.int64)
    order = np.lexsort((np.arange(len(group)), first, group))
    sizes = np.bincount(group)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    rank = np.empty(len(group), dtype=np.int32)
    rank[order] = np.arange(len(group)) - np.repeat(starts, sizes)
    return rank


def reassign(
    codes: np.ndarray, level_sizes: Sequence[int], last_level_costs: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Give every colliding item but the best fitting one the nearest code that is free under its prefix.

    Args:
        codes: int32 ``[N, L]``.
        level_sizes: Codebook size of every level.
        last_level_costs: See :class:`Catalogue`.

    Returns:
        int32 ``[N, L]`` without collisions.

    Raises:
        DataError: If a prefix has more items than the last level has codes.
    """
    prefix = group_of(codes[:, :-1])
    _refuse_full_prefixes(codes, prefix, level_sizes[-1])
    sizes = np.bincount(group_of(codes))[group_of(codes)]
    touched = np.unique(prefix[sizes > 1])
    rows = np.flatnonzero(np.isin(prefix, touched))
    rows = rows[np.argsort(prefix[rows], kind="stable")]
    resolved = codes.copy()
    for block in _blocks_of_groups(prefix[rows], max(1, REASSIGN_ELEMENTS // level_sizes[-1])):
        members = rows[block]
        borders = np.flatnonzero(np.diff(prefix[members])) + 1
        for group, costs in zip(np.split(members, borders), np.split(last_level_costs(members), borders), strict=True):
            resolved[group, -1] = _spread(codes[group, -1], costs)
    return resolved


def _spread(last: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Distinct last codes for the items of one prefix: each code's best item keeps it, the others move, best first."""
    own = costs[np.arange(len(last)), last]
    order = np.lexsort((np.arange(len(last)), own))
    resolved = np.full(len(last), -1, dtype=last.dtype)
    taken = np.zeros(costs.shape[1], dtype=bool)
    for item in order:
        if not taken[last[item]]:
            taken[last[item]], resolved[item] = True, last[item]
    for item in order[resolved[order] < 0]:
        resolved[item] = int(np.where(taken, np.inf, costs[item]).argmin())
        taken[resolved[item]] = True
    return resolved


def _blocks_of_groups(ordered: np.ndarray, size: int) -> list[slice]:
    """Slices of whole groups with about ``size`` rows, from the group of every row in ascending order."""
    if not len(ordered):
        return []
    ends = [*(np.flatnonzero(np.diff(ordered)) + 1).tolist(), len(ordered)]
    blocks, start = [], 0
    for end, following in zip(ends, [*ends[1:], None], strict=True):
        if following is None or following - start > size:
            blocks.append(slice(start, end))
            start = end
    return blocks


def _refuse_full_prefixes(codes: np.ndarray, prefix: np.ndarray, size: int) -> None:
    members = np.bincount(prefix)
    if members.max() <= size:
        return
    rows = np.flatnonzero(prefix == members.argmax())
    raise DataError(
        f"{members.max()} items share the codes {codes[rows[0], :-1].tolist()} but the last level has {size} codes",
        where=f"items, {first_rows(rows.tolist())}",
        expected="at most as many items per prefix as the last level has codes",
        fix=f"raise the last codebook_size to {members.max()}, add a level, or use collisions: suffix",
    )


def _refuse_collisions(codes: np.ndarray, counted: dict[str, Any], item_ids: Sequence[str]) -> None:
    if counted["largest_bucket"] == 1:
        return
    group = group_of(codes)
    shared = np.flatnonzero(group == np.bincount(group).argmax())
    names = ", ".join(repr(item_ids[int(row)]) for row in shared[:5])
    raise DataError(
        f"{counted['colliding_items']} items share their codes with another item, {len(shared)} of them {names}",
        where=f"items, {first_rows(shared.tolist())}",
        expected="a semantic ID of its own for every item (tokenizer.collisions: error)",
        fix="use collisions: suffix, more levels or codes per level, or remove duplicated items",
    )
