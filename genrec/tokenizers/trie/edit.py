"""Items added to and removed from a trie without building it again; the arrays equal those of a fresh build.

New semantic IDs are sorted among themselves and merged level by level: a node of theirs either has a counterpart or is
inserted. Removal counts what is left below every node. Neither sorts the catalogue.
"""

from typing import NamedTuple

import numpy as np

from genrec.tokenizers.trie import Trie, build_trie, refuse_prefixes


class _Places(NamedTuple):
    """Where the nodes of one depth of the new trie are in the old one.

    Attributes:
        old: int64 ``[m]``, the counterpart in the old trie, or the old node before which the new one is.
        is_new: bool ``[m]``, whether there is no counterpart.
    """

    old: np.ndarray
    is_new: np.ndarray

    @property
    def inserted(self) -> np.ndarray:
        """Old nodes before which new ones are, in order."""
        return self.old[self.is_new]

    @property
    def merged(self) -> np.ndarray:
        """Numbers in the merged trie."""
        return self.old + np.cumsum(self.is_new) - self.is_new


def extend_trie(trie: Trie, codes: np.ndarray) -> Trie:
    """Merge new items into a trie; items that share a leaf with old ones are after them.

    Costs a sort of the n new semantic IDs and one copy of each array. Equal, byte for byte, to
    ``build_trie(codes, trie.level_sizes)``, or with priorities in which no new item comes before an old one.

    Args:
        trie: Holds the first N items of ``codes``.
        codes: int ``[N + n, L]``, -1 fills the tail of a shorter semantic ID.

    Raises:
        ArtifactError: If one semantic ID is now the beginning of another.
    """
    first_new = trie.num_items
    added = build_trie(codes[first_new:], trie.level_sizes)
    if not added.num_items:
        return trie
    places = _Places(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=bool))
    child_start, child_code = [], []
    for depth in range(trie.num_levels):
        degree = np.diff(added.child_start[depth])
        parents = np.repeat(np.arange(len(degree)), degree)
        children = _find_children(trie, depth, places, parents, added.child_code[depth])
        old_codes, new_codes = trie.child_code[depth], added.child_code[depth]
        # The first end edge of a level may need a wider dtype.
        old_codes = old_codes.astype(np.promote_types(old_codes.dtype, new_codes.dtype), copy=False)
        child_code.append(np.insert(old_codes, children.inserted, new_codes[children.is_new]))
        child_start.append(_grow(trie.child_start[depth], places, parents[children.is_new]))
        places = children
    leaves = np.repeat(np.arange(added.num_leaves), np.diff(added.leaf_start))
    # New items are after all items of their leaf: before the first item of the next one.
    behind = trie.leaf_start[places.old[leaves] + ~places.is_new[leaves]]
    leaf_items = np.insert(trie.leaf_items, behind, added.leaf_items + np.int32(first_new))
    leaf_start = _grow(trie.leaf_start, places, leaves)
    merged = Trie(
        trie.level_sizes, child_start, child_code, leaf_start, leaf_items, trie.variable_length or added.variable_length
    )
    if merged.variable_length:
        refuse_prefixes(merged, codes)
    return merged


def shrink_trie(trie: Trie, kept: np.ndarray) -> Trie:
    """Remove items and number the others anew, in their order.

    Equal, byte for byte, to building the trie of ``codes[kept]``.

    Args:
        trie: Holds every item of the catalogue.
        kept: bool ``[N]``, at least one True.
    """
    left = filter_trie(trie, kept)
    number = np.cumsum(kept, dtype=np.int32) - np.int32(1)
    codes = [_narrow(edges, size) for edges, size in zip(left.child_code, left.level_sizes, strict=True)]
    shorter = any(bool((edges == size).any()) for edges, size in zip(codes, left.level_sizes, strict=True))
    return Trie(left.level_sizes, left.child_start, codes, left.leaf_start, number[left.leaf_items], shorter)


def filter_trie(trie: Trie, allowed: np.ndarray) -> Trie:
    """Drop items, then every node without items below: cumulative counts, no sort; items keep their numbers.

    Args:
        trie: Level-order arrays.
        allowed: bool ``[N]``, by dense item.
    """
    kept = allowed[trie.leaf_items]
    leaf_start, alive = _compact(trie.leaf_start, kept)
    child_start, child_code = [], []
    for depth in range(trie.num_levels - 1, -1, -1):
        child_code.append(trie.child_code[depth][alive])
        start, alive = _compact(trie.child_start[depth], alive)
        child_start.append(start)
    return Trie(
        trie.level_sizes, child_start[::-1], child_code[::-1], leaf_start, trie.leaf_items[kept], trie.variable_length
    )


def rank_in_leaf(trie: Trie) -> np.ndarray:
    """The rank of every item among those of its leaf, int32 ``[N]``, 0 first."""
    within = np.arange(trie.num_items) - np.repeat(trie.leaf_start[:-1], np.diff(trie.leaf_start))
    ranks = np.empty(trie.num_items, dtype=np.int32)
    ranks[trie.leaf_items] = within
    return ranks


def _find_children(trie: Trie, depth: int, places: _Places, parents: np.ndarray, wanted: np.ndarray) -> _Places:
    """Binary search of each new edge among the children of its parent's counterpart."""
    start, code = trie.child_start[depth], trie.child_code[depth]
    above = places.old[parents]
    low = start[above].astype(np.int64)
    end = np.where(places.is_new[parents], low, start[np.minimum(above + 1, len(start) - 1)])
    high = end.copy()
    last = len(code) - 1
    while (low < high).any():
        middle = (low + high) // 2
        less = (low < high) & (code[np.minimum(middle, last)] < wanted)
        low, high = np.where(less, middle + 1, low), np.where(less, high, np.minimum(middle, high))
    found = (low < end) & (code[np.minimum(low, last)] == wanted)
    return _Places(low, ~found)


def _grow(start: np.ndarray, places: _Places, parents: np.ndarray) -> np.ndarray:
    """Row pointers after new rows were inserted and each of ``parents`` got one entry more."""
    degree = np.insert(np.diff(start), places.inserted, 0)
    degree += np.bincount(places.merged[parents], minlength=len(degree)).astype(degree.dtype)
    return np.concatenate([np.zeros(1, dtype=np.int32), np.cumsum(degree, dtype=np.int32)])


def _narrow(codes: np.ndarray, size: int) -> np.ndarray:
    """In the dtype that a fresh build takes."""
    wide = np.min_scalar_type(size)
    ends = codes.dtype == wide and wide != np.min_scalar_type(size - 1) and bool((codes == size).any())
    return codes.astype(wide if ends else np.min_scalar_type(size - 1), copy=False)


def _compact(start: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """New row pointers after dropping entries, without the rows that are empty then; and which rows remain."""
    before = np.concatenate([np.zeros(1, dtype=np.int32), np.cumsum(kept, dtype=np.int32)])[start]
    alive = np.diff(before) > 0
    return np.append(before[:-1][alive], before[-1]).astype(np.int32), alive
