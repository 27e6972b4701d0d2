"""The catalogue as a tree of codes: a handful of integer arrays, numbered level by level, built with one sort.

Nodes of one depth are numbered in the sorted order of their semantic IDs, so the children of a node are neighbors and
an edge's position is its child's number: no pointer is stored per edge, only where each node's children begin.

A shorter semantic ID ends in *end edges* down to the last depth, so that every leaf is at the same depth. An end edge
has the code ``K_l`` (one more than any real code of its level), is the only child of its node and costs nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from genrec.errors import ArtifactError

PACKED_BITS = 63


@dataclass(frozen=True, eq=False)
class Trie:
    """Level-order arrays of all semantic IDs; depth 0 is the root, depth L are the leaves.

    Args:
        level_sizes: Codebook size K_l of every level, length L.
        child_start: For each depth d < L int32 ``[n_d + 1]``: the children of node v are the nodes
            ``child_start[d][v] .. child_start[d][v + 1] - 1`` of depth d + 1.
        child_code: For each depth d < L the codes of the edges to depth d + 1, ``[n_{d+1}]`` in the smallest unsigned
            dtype; ascending among the children of a node; ``K_d`` on an end edge.
        leaf_start: int32 ``[n_L + 1]``: items of leaf v are ``leaf_items[leaf_start[v] : leaf_start[v + 1]]``.
        leaf_items: int32 ``[N]``, within a leaf by priority, ascending without one.
        variable_length: Whether some semantic ID is shorter than L.
    """

    level_sizes: tuple[int, ...]
    child_start: list[np.ndarray]
    child_code: list[np.ndarray]
    leaf_start: np.ndarray
    leaf_items: np.ndarray
    variable_length: bool

    @property
    def num_levels(self) -> int:
        """L, the number of codes of the longest semantic ID."""
        return len(self.child_code)

    @property
    def num_items(self) -> int:
        """N, the number of items at all leaves together."""
        return len(self.leaf_items)

    @property
    def num_leaves(self) -> int:
        """The number of distinct semantic IDs."""
        return len(self.leaf_start) - 1

    @property
    def num_nodes(self) -> tuple[int, ...]:
        """Nodes at depth 0..L."""
        return (1, *(len(codes) for codes in self.child_code))

    @property
    def nbytes(self) -> int:
        """Bytes held by all arrays, the item map included."""
        return sum(array.nbytes for array in (*self.child_start, *self.child_code, self.leaf_start, self.leaf_items))


def build_trie(codes: np.ndarray, level_sizes: Sequence[int], priority: np.ndarray | None = None) -> Trie:
    """Build the trie of a catalogue with one sort; O(N log N) time, no Python per node.

    Args:
        codes: int ``[N, L]``, ``0 <= codes[:, l] < level_sizes[l]``; -1 fills the tail of a shorter semantic ID.
        level_sizes: Codebook size of every level.
        priority: int ``[N]``, the rank of every item among those of its leaf; by position if None.

    Raises:
        ArtifactError: If one semantic ID is the beginning of another, so that a search could not know where it ends.
    """
    num_items, num_levels = codes.shape
    shortened = [bool(num_items) and bool((codes[:, level] < 0).any()) for level in range(num_levels)]
    order, change = _sort_semantic_ids(codes, level_sizes, shortened)
    if priority is not None:
        # Items of one leaf are together, so sorting by leaf first leaves the leaves where they are.
        leaf = np.cumsum(change < num_levels)
        order = order[np.lexsort((priority[order], leaf))]
    starts = np.flatnonzero(change < num_levels)
    leaf_start = np.append(starts, num_items).astype(np.int32)
    child_start: list[np.ndarray] = []
    child_code: list[np.ndarray] = []
    first_item, change = order[starts], change[starts]
    for level in range(num_levels - 1, -1, -1):
        # What is left are the nodes of depth level + 1; those of depth `level` begin where an earlier code changes.
        child_code.append(_edge_codes(codes, first_item, level, level_sizes[level], shortened[level]))
        starts = np.flatnonzero(change < level)
        child_start.append(np.append(starts, len(first_item)).astype(np.int32))
        first_item, change = first_item[starts], change[starts]
    trie = Trie(tuple(level_sizes), child_start[::-1], child_code[::-1], leaf_start, order, any(shortened))
    if trie.variable_length:
        refuse_prefixes(trie, codes)
    return trie


def _edge_codes(codes: np.ndarray, items: np.ndarray, level: int, size: int, shortened: bool) -> np.ndarray:
    values = codes[items, level]
    if shortened:
        values = np.where(values < 0, size, values)
    return values.astype(np.min_scalar_type(size if shortened else size - 1))


def _sort_semantic_ids(
    codes: np.ndarray, level_sizes: Sequence[int], shortened: Sequence[bool]
) -> tuple[np.ndarray, np.ndarray]:
    """Items by semantic ID, then by position, and for each the first level that differs from the item before.

    Returns:
        Order int32 ``[N]`` and change ``[N]``: -1 at the first item, L where the semantic ID is the same.
    """
    num_items, num_levels = codes.shape
    bits = [int(size if short else size - 1).bit_length() for size, short in zip(level_sizes, shortened, strict=True)]
    item_bits = max(num_items - 1, 0).bit_length()
    change_type = np.int8 if num_levels < 128 else np.int16
    if sum(bits) + item_bits > PACKED_BITS:
        return _sort_long_semantic_ids(codes, level_sizes, change_type)
    keys = np.zeros(num_items, dtype=np.int64)
    for level, width in enumerate(bits):
        keys <<= width
        keys |= (
            np.where(codes[:, level] < 0, level_sizes[level], codes[:, level]) if shortened[level] else codes[:, level]
        )
    keys <<= item_bits
    keys |= np.arange(num_items, dtype=np.int64)
    keys.sort()
    order = (keys & ((1 << item_bits) - 1)).astype(np.int32)
    keys >>= item_bits
    keys[1:] ^= keys[:-1].copy()
    change = np.zeros(num_items, dtype=change_type)
    tail = sum(bits)
    for width in bits:
        tail -= width
        np.add(change, keys < (1 << tail), out=change)
    change[:1] = -1
    return order, change


def _sort_long_semantic_ids(
    codes: np.ndarray, level_sizes: Sequence[int], change_type: type[np.signedinteger]
) -> tuple[np.ndarray, np.ndarray]:
    num_items, num_levels = codes.shape
    keys = np.where(codes < 0, np.asarray(level_sizes, dtype=codes.dtype), codes)
    order = np.lexsort(keys.T[::-1]).astype(np.int32)
    change = np.full(num_items, num_levels, dtype=change_type)
    for level in range(num_levels - 1, -1, -1):
        ordered = keys[order, level]
        change[1:][ordered[1:] != ordered[:-1]] = level
    change[:1] = -1
    return order, change


def is_trie_of(trie: Trie, codes: np.ndarray, level_sizes: Sequence[int], priority: np.ndarray | None = None) -> bool:
    """Whether a trie from elsewhere is the one that :func:`build_trie` makes; O(N L), without a sort.

    Args:
        trie: Level-order arrays whose lengths fit each other.
        codes: int ``[N, L]``; -1 fills the tail of a shorter semantic ID.
        level_sizes: Codebook size of every level.
        priority: int ``[N]``, the rank of every item among those of its leaf; by position if None.
    """
    order, leaf_start = trie.leaf_items, trie.leaf_start
    if tuple(trie.level_sizes) != tuple(level_sizes) or codes.shape != (len(order), trie.num_levels):
        return False
    if not _has_types(trie) or not _has_rows(trie):
        return False
    if order.min() < 0 or order.max() >= len(order) or (np.bincount(order, minlength=len(order)) != 1).any():
        return False
    if bool((codes < 0).any()) != trie.variable_length:
        return False
    node = np.repeat(np.arange(trie.num_leaves), np.diff(leaf_start))
    rank = order if priority is None else priority[order].astype(np.int64) * len(order) + order
    if not _ascend_within(rank, node):
        return False
    # From the leaves to the root: the edge above every node carries the code of the items below it.
    for level in range(trie.num_levels - 1, -1, -1):
        edges, start = trie.child_code[level], trie.child_start[level]
        wanted = codes[order, level]
        if not np.array_equal(edges[node], np.where(wanted < 0, level_sizes[level], wanted)):
            return False
        above = np.repeat(np.arange(len(start) - 1), np.diff(start))
        if not _ascend_within(edges, above):
            return False
        node = above[node]
    return True


def _has_types(trie: Trie) -> bool:
    """Whether the arrays have the dtypes that a build gives them."""
    integers = all(array.dtype == np.int32 for array in (*trie.child_start, trie.leaf_start, trie.leaf_items))
    for edges, size in zip(trie.child_code, trie.level_sizes, strict=True):
        ends = trie.variable_length and bool((edges == size).any())
        integers = integers and edges.dtype == np.min_scalar_type(size if ends else size - 1)
    return integers


def _has_rows(trie: Trie) -> bool:
    """Whether all row pointers cut their entries into rows of which none is empty."""
    entries = (*trie.child_code, trie.leaf_items)
    return all(
        start[0] == 0 and start[-1] == len(row) and bool((start[1:] > start[:-1]).all())
        for start, row in zip((*trie.child_start, trie.leaf_start), entries, strict=True)
    )


def _ascend_within(values: np.ndarray, rows: np.ndarray) -> bool:
    """Whether values strictly ascend within each row."""
    return bool(((values[1:] > values[:-1]) | (rows[1:] != rows[:-1])).all())


def refuse_prefixes(trie: Trie, codes: np.ndarray) -> None:
    """Refuse a trie in which one semantic ID is the beginning of another.

    Args:
        trie: Level-order arrays.
        codes: int ``[N, L]``, for the message.

    Raises:
        ArtifactError: Naming the shorter one.
    """
    for level in range(1, trie.num_levels):
        start, edge = trie.child_start[level], trie.child_code[level]
        # The end edge has the largest code, so it is last among the children.
        mixed = np.flatnonzero((edge[start[1:] - 1] == trie.level_sizes[level]) & (np.diff(start) > 1))
        if len(mixed):
            leaf = int(start[mixed[0] + 1]) - 1
            for below in range(level + 1, trie.num_levels):
                leaf = int(trie.child_start[below][leaf])
            item = int(trie.leaf_items[trie.leaf_start[leaf]])
            raise ArtifactError(
                f"the semantic ID of item {item} is the beginning of another item's semantic ID",
                where=f"codes {codes[item, :level].tolist()}",
                expected="semantic IDs of which none begins another",
                fix="fit the tokenizer with another collision policy",
            )
