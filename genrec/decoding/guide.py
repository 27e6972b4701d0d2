"""What scores of whole items say of every node of the trie, so that beams know where the likely items are.

A search by codes alone loses the items that only their vector favours: their beginning is never among the beams. Here
a beam is ranked by log p(codes so far) + w log P(items below it), P being the sum of the item-level probabilities of
all items that can still be reached. At a leaf this is the score of the finished item, so few beams are enough.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from genrec.decoding.device_trie import DeviceTrie, Exclusion, Level


class Guide(Protocol):
    """What is added to the keys of beams, and to the scores of the items that they find."""

    def of_candidates(self, level: Level, depth: int, nodes: Tensor) -> Tensor:
        """For each candidate of ``nodes [B, M]``, float32 ``[B, M, W]``; any number where illegal."""

    def of_items(self, items: Tensor) -> Tensor:
        """For ``items [B, C]``, float32."""


class ItemGuide:
    """Item-level log-probabilities of some users, by item and summed below every node.

    Items lie in the order of the leaves, so those below a node are neighbours and their sum is a difference of two
    running sums (float64).

    Args:
        trie: What is searched.
        log_probs: Natural log-probabilities of all items, float32 ``[B, N]``.
        weight: w.
        exclusion: Items that count for nothing.
    """

    def __init__(self, trie: DeviceTrie, log_probs: Tensor, weight: float, exclusion: Exclusion | None = None) -> None:
        self.log_probs, self.weight = log_probs, weight
        shares = log_probs.double().exp()
        if exclusion is not None:
            # Column N takes what fills the rows of the exclusion.
            shares = torch.nn.functional.pad(shares, (0, 1)).scatter(1, exclusion.items, 0.0)
        running = torch.nn.functional.pad(shares[:, trie.leaf_items.long()].cumsum(dim=1), (1, 0))
        # A node may be unlikely, but only the codes and the exclusion can make it impossible.
        least = torch.finfo(torch.float32).tiny
        self.bonus = [
            (running[:, bounds].diff(dim=1).clamp(min=least).log() * weight).float() for bounds in trie.item_bounds[1:]
        ]

    def of_candidates(self, level: Level, depth: int, nodes: Tensor) -> Tensor:
        """w log P below each candidate of ``nodes [B, M]``, float32 ``[B, M, W]``; any number where illegal."""
        return _at_children(self.bonus[depth], level, nodes)

    def of_items(self, items: Tensor) -> Tensor:
        """w log p of ``items [B, C]``."""
        return self.log_probs.gather(1, items) * self.weight


class BestGuide:
    """Further scores of items; a node is worth what the best item is worth that can still be reached below it.

    No item below a node can rank higher than the node's key, so an item that these scores favour is found by few
    beams. Unlike a sum of probabilities it loses no small number beside a large one, however large the weight.

    Args:
        trie: What is searched.
        scores: Of all items, float32 ``[B, N]``.
        exclusion: Items that count for nothing.
    """

    def __init__(self, trie: DeviceTrie, scores: Tensor, exclusion: Exclusion | None = None) -> None:
        self.scores = scores
        if exclusion is not None:
            # Column N takes what fills the rows of the exclusion.
            scores = torch.nn.functional.pad(scores, (0, 1)).scatter(1, exclusion.items, float("-inf"))
        best = _largest_below(scores[:, trie.leaf_items.long()], trie.leaf_start)
        self.bonus = [best]
        for level in reversed(trie.levels[1:]):
            best = _largest_below(best, level.start)
            self.bonus.insert(0, best)

    def of_candidates(self, level: Level, depth: int, nodes: Tensor) -> Tensor:
        """The best score below each candidate of ``nodes [B, M]``, float32 ``[B, M, W]``; any number where illegal."""
        return _at_children(self.bonus[depth], level, nodes)

    def of_items(self, items: Tensor) -> Tensor:
        """The scores of ``items [B, C]``."""
        return self.scores.gather(1, items)


class BothGuides:
    """The sum of several guides.

    Args:
        guides: At least one.
    """

    def __init__(self, guides: Sequence[Guide]) -> None:
        self.guides = guides

    def of_candidates(self, level: Level, depth: int, nodes: Tensor) -> Tensor:
        """For each candidate of ``nodes [B, M]``, float32 ``[B, M, W]``; any number where illegal."""
        return torch.stack([guide.of_candidates(level, depth, nodes) for guide in self.guides]).sum(dim=0)

    def of_items(self, items: Tensor) -> Tensor:
        """For ``items [B, C]``, float32."""
        return torch.stack([guide.of_items(items) for guide in self.guides]).sum(dim=0)


def _at_children(values: Tensor, level: Level, nodes: Tensor) -> Tensor:
    children = level.children(nodes)
    return values.gather(1, children.flatten(1)).view(children.shape)


def _largest_below(values: Tensor, starts: Tensor) -> Tensor:
    """The largest of ``values[:, starts[i]:starts[i + 1]]`` for every i, ``[B, n]``; -inf where there is none."""
    starts = starts.long()
    above = torch.repeat_interleave(torch.arange(len(starts) - 1, device=values.device), starts.diff())
    lowest = values.new_full((len(values), len(starts) - 1), float("-inf"))
    return lowest.scatter_reduce(1, above.expand(len(values), -1), values, "amax")
