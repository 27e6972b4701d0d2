"""The trie as tensors on the model's device, and the two things that a search asks of it: children, and who is banned.

A level is treated in one of three ways, chosen when the tensors are made: *full* (every node has every child: the
child's number is arithmetic), *dense* (a bool row over the codebook per node: one row copy answers which codes are
legal) and *sparse* (the children of a node are neighbors: gather as many as the widest node has).
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
        first, count = self._children(nodes)
        offset = torch.arange(self.width, device=nodes.device)
        edges = (first.unsqueeze(-1) + offset).clamp_(max=len(self.code) - 1)
        chosen = values.gather(2, self.code[edges].long())
        return chosen.masked_fill_(offset >= count.unsqueeze(-1), float("-inf"))

    def children(self, nodes: Tensor) -> Tensor:
        """The nodes of depth d + 1 behind all candidates of ``nodes [B, M]``, ``[B, M, W]``; any where illegal."""
        if self.full:
            return nodes.unsqueeze(-1) * self.size + torch.arange(self.size, device=nodes.device)
        if self.legal_mask is not None:
            offset = self.legal_mask[nodes].cumsum(dim=-1) - 1
        else:
            offset = torch.arange(self.width, device=nodes.device)
        return (self.start[nodes].long().unsqueeze(-1) + offset).clamp_(min=0, max=len(self.code) - 1)

    def follow(self, nodes: Tensor, choice: Tensor) -> tuple[Tensor, Tensor]:
        """The nodes of depth d + 1 behind candidates ``choice`` of ``nodes``, and the codes that lead there."""
        if self.full:
            return nodes * self.size + choice, choice
        first = self.start[nodes].long()
        if self.legal_mask is None:
            child = (first + choice).clamp_(max=len(self.code) - 1)
            return child, self.code[child].long()
        columns = torch.arange(self.size, device=nodes.device)
        before = (self.legal_mask[nodes] & (columns < choice.unsqueeze(-1))).sum(-1)
        return (first + before).clamp_(max=len(self.code) - 1), choice

    def _children(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        first = self.start[nodes].long()
        return first, self.start[nodes + 1].long() - first


@dataclass
class Exclusion:
    """What a batch of users must not get, as edges of the trie.

    An edge is banned for a user where every item below it is excluded for that user, so a search that avoids banned
    edges is the search over a trie without those items.

    Attributes:
        items: Excluded items per user in ascending order, int64 ``[B, E]``; N fills shorter rows.
        parents: For each level the upper node of each banned edge, int64 ``[B, E]``; -2 where there is none.
        codes: For each level the code of each banned edge, int64 ``[B, E]``.
    """

    items: Tensor
    parents: list[Tensor]
    codes: list[Tensor]

    def repeated(self, rows: int) -> "Exclusion":
        """The same for each of ``rows`` rows per user, ``[B * rows, E]``."""
        return self.select(torch.arange(len(self.items), device=self.items.device).repeat_interleave(rows))

    def select(self, rows: Tensor) -> "Exclusion":
        """Some rows, int64 ``[R]``, each as often as it is named."""
        items, *edges = (part.index_select(0, rows) for part in (self.items, *self.parents, *self.codes))
        return Exclusion(items, edges[: len(self.parents)], edges[len(self.parents) :])

    def contains(self, items: Tensor) -> Tensor:
        """Whether each of ``items [B, C]`` is excluded for its user."""
        place = torch.searchsorted(self.items, items.contiguous()).clamp_(max=self.items.shape[1] - 1)
        return self.items.gather(1, place) == items


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
        place = (first.unsqueeze(-1) + offset).clamp_(max=len(self.leaf_items) - 1)
        return torch.where(offset < count.unsqueeze(-1), self.leaf_items[place].long(), -1)

    def rank(self, scores: Tensor, items: Tensor, top_k: int) -> RankedItems:
        """The best of ``items [B, C]`` by ``scores [B, C]``; equal ones in the order of their leaf, if it has one."""
        if self._preference is None:
            return rank_items(scores, items, top_k)
        place, item_at = self._preference
        ranked = rank_items(scores, place[items], top_k)
        return RankedItems(torch.where(ranked.items < 0, -1, item_at[ranked.items.clamp(min=0)]), ranked.scores)

    def exclusion(self, exclude: Tensor | None) -> Exclusion | None:
        """Prepare the exclusion of ``exclude``, int64 ``[B, E]`` dense items; -1 fills shorter rows."""
        if exclude is None or not exclude.shape[1] or not self.num_leaves:
            return None
        exclude = exclude.to(self.device)
        items = torch.where(exclude < 0, self.num_items, exclude).sort(dim=1).values
        items[:, 1:] = items[:, 1:].masked_fill(items[:, 1:] == items[:, :-1], self.num_items)
        total = len(self.leaf_items)
        # Items that the trie does not hold, and what fills the rows, have the rank `total`: below no node.
        ranks = self._ranks[items].long().sort(dim=1).values
        real = ranks < total
        nodes = _parent(self.leaf_start, ranks.clamp(max=total - 1))
        parents, codes = [], []
        for depth in range(self.num_levels - 1, -1, -1):
            level = self.levels[depth]
            banned = real & (self._excluded_below(nodes, real) == self._items_below(nodes, depth + 1))
            upper = _parent(level.start, nodes)
            parents.append(torch.where(banned, upper, -2))
            codes.append(level.code[nodes].long())
            nodes = upper
        return Exclusion(items.sort(dim=1).values, parents[::-1], codes[::-1])

    def _excluded_below(self, nodes: Tensor, real: Tensor) -> Tensor:
        # Rows are sorted by rank, so nodes ascend along a row once the fillers are put last.
        ascending = torch.where(real, nodes, torch.iinfo(torch.int64).max)
        last = torch.searchsorted(ascending, nodes, right=True)
        return last - torch.searchsorted(ascending, nodes)

    def _items_below(self, nodes: Tensor, depth: int) -> Tensor:
        first, end = nodes, nodes + 1
        for level in self.levels[depth:]:
            first, end = level.start[first].long(), level.start[end].long()
        return self.leaf_start[end].long() - self.leaf_start[first].long()

    @cached_property
    def _preference(self) -> tuple[Tensor, Tensor] | None:
        """Where leaves order their items: place of every item in one order of all, and back; None where by position."""
        items, starts = self.trie.leaf_items, self.trie.leaf_start
        within = np.arange(len(items)) - np.repeat(starts[:-1], np.diff(starts))
        if not ((np.diff(items) < 0) & (within[1:] > 0)).any():
            return None
        first = np.zeros(self.num_items, dtype=np.int64)
        first[items] = within
        item_at = np.lexsort((np.arange(self.num_items), first))
        place = np.empty_like(item_at)
        place[item_at] = np.arange(self.num_items)
        return self._tensor(place), self._tensor(item_at)

    @cached_property
    def _ranks(self) -> Tensor:
        """Place of every item in ``leaf_items``, ``[N + 1]``; the number of places for items that are not in it."""
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
