"""Device trie: the catalogue's trie as tensors, with its two operations for a search, legal codes and excluded items.

- :meth:`Level.mask_illegal_codes` and :meth:`Level.follow`: which codes a beam may write, and where they lead.
- :meth:`DeviceTrie.exclusion`: the edges that a user must not take, because all items below are excluded.

Design choices:

- Nodes are numbered level by level in sorted order, so an edge's position is its child's number and no pointer is
  stored. Price: removing or adding items renumbers nodes, in one pass.
- A level is stored in one of three ways, chosen once: *full* (every node has every child: the child's number is
  arithmetic), *dense* (a bool row over the codebook per node: one row copy answers which codes are legal) and *sparse*
  (the children of a node are neighbors: gather as many as the widest node has). Price: a dense row costs ``size`` bytes
  per node, bounded by ``DENSE_ENTRIES`` per level.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from genrec.decoding.ranking import RankedItems, rank_items
from genrec.errors import ConfigError
from genrec.tokenizers.trie import Trie
from genrec.tokenizers.trie.edit import filter_trie

# Nodes x codes of a dense level at most: 32 MiB of bool.
DENSE_ENTRIES = 1 << 25
# A dense row costs less than a gathered child by about this factor.
DENSE_ADVANTAGE = 4


@dataclass
class Level:
    """Edges from depth d to depth d + 1.

    Attributes:
        start: int32 ``[n_d + 1]``, first child of each node.
        code: ``[n_{d+1}]``, code of each edge, uint8 where it fits, else int32.
        size: Columns of a row of logits: K_d, and one more where the level has end edges.
        ends: Whether some edge is an end edge (code K_d: the semantic ID is over, at no cost).
        width: Most children of any node.
        legal_mask: bool ``[n_d, size]`` where the level is treated densely.
    """

    start: Tensor
    code: Tensor
    size: int
    ends: bool
    width: int
    legal_mask: Tensor | None

    @property
    def full(self) -> bool:
        """Whether every node has every child."""
        return len(self.code) == (len(self.start) - 1) * self.size

    @property
    def choices(self) -> int:
        """W, the candidates per node that :meth:`mask_illegal_codes` returns."""
        return self.size if self.full or self.legal_mask is not None else self.width

    def mask_illegal_codes(self, nodes: Tensor, values: Tensor) -> Tensor:
        """Keep what is legal: from ``values [B, M, size]`` of ``nodes [B, M]`` to ``[B, M, W]``, -inf where illegal."""
        if self.full:
            return values
        if self.legal_mask is not None:
            return values.masked_fill(~self.legal_mask[nodes], float("-inf"))
        # Sparse: gather the codes of the children only; narrower nodes than the widest are filled with -inf.
        first, count = self._children(nodes)
        offset = torch.arange(self.width, device=nodes.device)
        edges = (first.unsqueeze(-1) + offset).clamp_(max=len(self.code) - 1)
        chosen = values.gather(2, self.code[edges].long())
        return chosen.masked_fill_(offset >= count.unsqueeze(-1), float("-inf"))

    def children(self, nodes: Tensor) -> Tensor:
        """Nodes of depth d + 1 that all candidates of ``nodes [B, M]`` lead to, ``[B, M, W]``; any where illegal."""
        if self.full:
            return nodes.unsqueeze(-1) * self.size + torch.arange(self.size, device=nodes.device)
        if self.legal_mask is not None:
            # Children are in the order of their codes: the n-th legal code leads to the n-th child.
            offset = self.legal_mask[nodes].cumsum(dim=-1) - 1
        else:
            offset = torch.arange(self.width, device=nodes.device)
        return (self.start[nodes].long().unsqueeze(-1) + offset).clamp_(min=0, max=len(self.code) - 1)

    def follow(self, nodes: Tensor, choice: Tensor) -> tuple[Tensor, Tensor]:
        """The nodes of depth d + 1 that candidates ``choice`` of ``nodes`` lead to, and the codes of these edges."""
        if self.full:
            return nodes * self.size + choice, choice
        first = self.start[nodes].long()
        if self.legal_mask is None:
            child = (first + choice).clamp_(max=len(self.code) - 1)
            return child, self.code[child].long()
        columns = torch.arange(self.size, device=nodes.device)
        # In a dense level a choice is a code; its child is the first one plus the legal codes before it.
        legal_before = (self.legal_mask[nodes] & (columns < choice.unsqueeze(-1))).sum(-1)
        return (first + legal_before).clamp_(max=len(self.code) - 1), choice

    def _children(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        first = self.start[nodes].long()
        return first, self.start[nodes + 1].long() - first


@dataclass
class Exclusion:
    """What a batch of users must not get, as edges of the trie.

    An edge is excluded for a user where every item below it is excluded for that user, so a search that masks these
    edges is the search over a trie without those items.

    Attributes:
        items: Excluded items per user in ascending order, int64 ``[B, E]``; N fills shorter rows.
        parents: For each level the upper node of each excluded edge, int64 ``[B, E]``; -2 where there is none.
        codes: For each level the code of each excluded edge, int64 ``[B, E]``.
    """

    items: Tensor
    parents: list[Tensor]
    codes: list[Tensor]

    def repeated(self, rows: int) -> "Exclusion":
        """The same for each of ``rows`` rows per user, ``[B * rows, E]``."""
        return self.select(torch.arange(len(self.items), device=self.items.device).repeat_interleave(rows))

    def select(self, rows: Tensor) -> "Exclusion":
        """Some rows, int64 ``[R]``, each as often as it is named."""
        items, *edges = (table.index_select(0, rows) for table in (self.items, *self.parents, *self.codes))
        return Exclusion(items, edges[: len(self.parents)], edges[len(self.parents) :])

    def contains(self, items: Tensor) -> Tensor:
        """Whether each of ``items [B, C]`` is excluded for its user."""
        # Rows are sorted: an item is excluded if it is at the position where it would be inserted.
        position = torch.searchsorted(self.items, items.contiguous()).clamp_(max=self.items.shape[1] - 1)
        return self.items.gather(1, position) == items


class DeviceTrie:
    """All levels of a trie on one device.

    Args:
        trie: Level-order arrays.
        device: Where the tensors live.
        num_items: N, the size of the catalogue, of which the trie may hold a part (see :meth:`filtered`).
    """

    def __init__(self, trie: Trie, device: torch.device | str = "cpu", num_items: int | None = None) -> None:
        self.trie = trie
        self.device = torch.device(device)
        self.num_items = trie.num_items if num_items is None else num_items
        self.num_levels = trie.num_levels
        self.level_sizes = trie.level_sizes
        self.num_leaves = trie.num_leaves
        self.levels = [self._level(depth) for depth in range(trie.num_levels)]
        self.leaf_start = self._tensor(trie.leaf_start)
        self.leaf_items = self._tensor(trie.leaf_items)
        self.leaf_width = int(np.diff(trie.leaf_start).max(initial=0))

    @property
    def nbytes(self) -> int:
        """Bytes held on the device."""
        tensors = [self.leaf_start, self.leaf_items]
        for level in self.levels:
            tensors += [level.start, level.code] + ([] if level.legal_mask is None else [level.legal_mask])
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def filtered(self, allowed: np.ndarray | Tensor) -> "DeviceTrie":
        """The trie of those items that are allowed; no sort, one pass over the nodes.

        Args:
            allowed: bool ``[N]`` over the catalogue. It may leave nothing: searches then return empty lists.

        Raises:
            ConfigError: If the mask has another length or dtype.
        """
        mask = allowed.cpu().numpy() if isinstance(allowed, Tensor) else np.asarray(allowed)
        if mask.shape != (self.num_items,) or mask.dtype != np.bool_:
            raise ConfigError(
                f"the filter is {mask.dtype} of shape {mask.shape}",
                expected=f"one bool per item, {self.num_items} in all",
            )
        return DeviceTrie(filter_trie(self.trie, mask), self.device, self.num_items)

    @cached_property
    def item_bounds(self) -> list[Tensor]:
        """For each depth, int64 ``[n_d + 1]``: items ``leaf_items[bounds[i]:bounds[i + 1]]`` lie below node i."""
        bounds = [self.leaf_start.long()]
        for level in reversed(self.levels):
            bounds.append(bounds[-1][level.start.long()])
        return bounds[::-1]

    def items_at(self, leaves: Tensor, most: int) -> Tensor:
        """The first ``most`` items at each of ``leaves [B, M]``, int64 ``[B, M, W]``; -1 where there are fewer."""
        first = self.leaf_start[leaves].long()
        count = self.leaf_start[leaves + 1].long() - first
        offset = torch.arange(min(most, self.leaf_width), device=leaves.device)
        positions = (first.unsqueeze(-1) + offset).clamp_(max=len(self.leaf_items) - 1)
        return torch.where(offset < count.unsqueeze(-1), self.leaf_items[positions].long(), -1)

    def rank(self, scores: Tensor, items: Tensor, top_k: int) -> RankedItems:
        """The best of ``items [B, C]`` by ``scores [B, C]``; equal ones in the order of their leaf, if it has one."""
        if self._preference is None:
            return rank_items(scores, items, top_k)
        # Ties are broken by number, so items are renumbered by preference for the ranking and back after it.
        preference_of, item_at = self._preference
        ranked = rank_items(scores, preference_of[items], top_k)
        return RankedItems(torch.where(ranked.items < 0, -1, item_at[ranked.items.clamp(min=0)]), ranked.scores)

    def exclusion(self, exclude: Tensor | None) -> Exclusion | None:
        """Prepare the exclusion of ``exclude``, int64 ``[B, E]`` dense items; -1 fills shorter rows."""
        if exclude is None or not exclude.shape[1] or not self.num_leaves:
            return None
        exclude = exclude.to(self.device)
        # Sort each row and replace fillers and repetitions by N, so that an item counts once.
        items = torch.where(exclude < 0, self.num_items, exclude).sort(dim=1).values
        items[:, 1:] = items[:, 1:].masked_fill(items[:, 1:] == items[:, :-1], self.num_items)
        total = len(self.leaf_items)
        # Items that the trie does not hold, and what fills the rows, have the rank `total`: below no node.
        ranks = self._ranks[items].long().sort(dim=1).values
        mask = ranks < total
        nodes = _parent(self.leaf_start, ranks.clamp(max=total - 1))
        # From the leaves up: an edge is excluded if as many excluded items as items in all are below its lower node.
        parents, codes = [], []
        for depth in range(self.num_levels - 1, -1, -1):
            level = self.levels[depth]
            excluded = mask & (self._excluded_below(nodes, mask) == self._items_below(nodes, depth + 1))
            upper = _parent(level.start, nodes)
            parents.append(torch.where(excluded, upper, -2))
            codes.append(level.code[nodes].long())
            nodes = upper
        return Exclusion(items.sort(dim=1).values, parents[::-1], codes[::-1])

    def _excluded_below(self, nodes: Tensor, mask: Tensor) -> Tensor:
        """How many excluded items of a user lie below each of ``nodes [B, E]``, where ``mask [B, E]``."""
        # Rows are sorted by rank, so nodes ascend along a row once the fillers are put last.
        ascending = torch.where(mask, nodes, torch.iinfo(torch.int64).max)
        last = torch.searchsorted(ascending, nodes, right=True)
        return last - torch.searchsorted(ascending, nodes)

    def _items_below(self, nodes: Tensor, depth: int) -> Tensor:
        """How many items lie below each of ``nodes`` of a depth: level by level the range of nodes below widens."""
        first, end = nodes, nodes + 1
        for level in self.levels[depth:]:
            first, end = level.start[first].long(), level.start[end].long()
        return self.leaf_start[end].long() - self.leaf_start[first].long()

    @cached_property
    def _preference(self) -> tuple[Tensor, Tensor] | None:
        """Preference of every item in one order of all, and back; None where leaves list their items by item id."""
        items, starts = self.trie.leaf_items, self.trie.leaf_start
        within = np.arange(len(items)) - np.repeat(starts[:-1], np.diff(starts))
        if not ((np.diff(items) < 0) & (within[1:] > 0)).any():
            return None
        position_in_leaf = np.zeros(self.num_items, dtype=np.int64)
        position_in_leaf[items] = within
        item_at = np.lexsort((np.arange(self.num_items), position_in_leaf))
        preference_of = np.empty_like(item_at)
        preference_of[item_at] = np.arange(self.num_items)
        return self._tensor(preference_of), self._tensor(item_at)

    @cached_property
    def _ranks(self) -> Tensor:
        """Position of every item in ``leaf_items``, ``[N + 1]``; ``len(leaf_items)`` for items that are not in it."""
        total = len(self.leaf_items)
        ranks = torch.full((self.num_items + 1,), total, dtype=torch.int32, device=self.device)
        ranks[self.leaf_items.long()] = torch.arange(total, dtype=torch.int32, device=self.device)
        return ranks

    def _level(self, depth: int) -> Level:
        start, code = self.trie.child_start[depth], self.trie.child_code[depth]
        ends = bool(len(code)) and int(code.max()) == self.level_sizes[depth]
        size = self.level_sizes[depth] + ends
        nodes, width = len(start) - 1, int(np.diff(start).max(initial=0))
        legal = None
        dense = width * DENSE_ADVANTAGE > size and nodes * size <= DENSE_ENTRIES
        if dense and len(code) < nodes * size:
            table = np.zeros((nodes, size), dtype=np.bool_)
            table[np.repeat(np.arange(nodes), np.diff(start)), code] = True
            legal = self._tensor(table)
        codes = self._tensor(code if code.dtype == np.uint8 else code.astype(np.int32))
        return Level(self._tensor(start), codes, size, ends, width, legal)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(array).to(self.device)


def _parent(start: Tensor, nodes: Tensor) -> Tensor:
    """The row of ``start [n + 1]`` that each of ``nodes`` belongs to."""
    return torch.searchsorted(start, nodes.to(start.dtype), right=True) - 1
