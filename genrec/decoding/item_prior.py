"""Priors: scores of whole items brought to every node of the trie, added to the keys that select beams.

A search by codes alone loses the items that only their item vector favors: their first codes are never among the
beams. With a prior a beam is ranked by log p(codes so far) + what the prior gives its node:

- :class:`ItemPrior`: w log P, P being the sum of the item-level probabilities of all items below the node;
- :class:`MaxScorePrior`: the largest score of an item below the node;
- :class:`SumPrior`: the sum of several priors.

At a leaf each is the score of the finished item, so few beams are enough. Price: one number per user and item
(``item_guidance: false`` spares it). Only items that can still be reached count, so excluded items guide no beam.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from genrec.decoding.device_trie import DeviceTrie, Exclusion, Level


class Prior(Protocol):
    """Scores added to the keys of beams during the search, and to the scores of the items at the end."""

    def of_candidates(self, level: Level, depth: int, nodes: Tensor) -> Tensor:
        """For each candidate of ``nodes [B, M]``, float32 ``[B, M, W]``; any number where illegal."""

    def of_items(self, items: Tensor) -> Tensor:
        """For ``items [B, C]``, float32."""


class ItemPrior:
    """Item-level log-probabilities of some users, by item and summed below every node.

    In ``trie.leaf_items`` the items below a node are neighbors, so their sum is a difference of two running sums.
    Price: the running sums are float64, because a float32 difference would lose improbable items.

    Args:
        trie: What is searched.
        log_probs: Natural log-probabilities of all items, float32 ``[B, N]``.
        weight: w.
        exclusion: Items that count for nothing.
    """

    def __init__(self, trie: DeviceTrie, log_probs: Tensor, weight: float, exclusion: Exclusion | None = None) -> None:
        self.log_probs, self.weight = log_probs, weight
        probs = log_probs.double().exp()
        if exclusion is not None:
            # Shorter rows of the exclusion are filled with N: column N is appended for them to write to.
            probs = pad(probs, (0, 1)).scatter(1, exclusion.items, 0.0)
        running = pad(probs[:, trie.leaf_items.long()].cumsum(dim=1), (1, 0))
        # Clamped so that a node is never -inf by its items: only the trie and the exclusion make a code illegal.
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


class MaxScorePrior:
    """Scores of items; a node has the largest score of the items that can still be reached below it.

    The key of a node is an upper bound of the keys below it, so an item that these scores favor is found by few beams.
    Unlike a sum of probabilities, a maximum loses no small number to rounding, however large the weight.

    Args:
        trie: What is searched.
        scores: Of all items, float32 ``[B, N]``.
        exclusion: Items that count for nothing.
    """

    def __init__(self, trie: DeviceTrie, scores: Tensor, exclusion: Exclusion | None = None) -> None:
        self.scores = scores
        if exclusion is not None:
            # Column N is appended for the fillers of shorter rows, as in ItemPrior.
            scores = pad(scores, (0, 1)).scatter(1, exclusion.items, float("-inf"))
        # From the leaves up: the best of a node is the best of its children.
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


class SumPrior:
    """The sum of several priors.

    Args:
        priors: At least one.
    """

    def __init__(self, priors: Sequence[Prior]) -> None:
        self.priors = priors

    def of_candidates(self, level: Level, depth: int, nodes: Tensor) -> Tensor:
        """For each candidate of ``nodes [B, M]``, float32 ``[B, M, W]``; any number where illegal."""
        return torch.stack([prior.of_candidates(level, depth, nodes) for prior in self.priors]).sum(dim=0)

    def of_items(self, items: Tensor) -> Tensor:
        """For ``items [B, C]``, float32."""
        return torch.stack([prior.of_items(items) for prior in self.priors]).sum(dim=0)


def _at_children(values: Tensor, level: Level, nodes: Tensor) -> Tensor:
    """Values ``[B, n_{d+1}]`` of all nodes of a depth at the candidates of ``nodes [B, M]``, ``[B, M, W]``."""
    children = level.children(nodes)
    return values.gather(1, children.flatten(1)).view(children.shape)


def _largest_below(values: Tensor, starts: Tensor) -> Tensor:
    """The largest of ``values[:, starts[i]:starts[i + 1]]`` for every i, ``[B, n]``; -inf where there is none."""
    starts = starts.long()
    parents = torch.repeat_interleave(torch.arange(len(starts) - 1, device=values.device), starts.diff())
    lowest = values.new_full((len(values), len(starts) - 1), float("-inf"))
    return lowest.scatter_reduce(1, parents.expand(len(values), -1), values, "amax")
