"""What the item vectors say of every node of the trie, so that beams know where the likely items are.

A search by codes alone loses the items that only their vector favors: their beginning is never among the beams. Here
a beam is ranked by log p(codes so far) + w log P(items below it), P being the sum of the item-level probabilities of
all items that can still be reached. At a leaf this is the score of the finished item, so few beams are enough.
"""

import torch
from torch import Tensor

from genrec.decoding.device_trie import DeviceTrie, Exclusion, Level


class ItemPrior:
    """Item-level log-probabilities of some users, by item and summed below every node.

    Items lie in the order of the leaves, so those below a node are neighbors and their sum is a difference of two
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
        children = level.children(nodes)
        return self.bonus[depth].gather(1, children.flatten(1)).view(children.shape)

    def of_items(self, items: Tensor) -> Tensor:
        """w log p of ``items [B, C]``."""
        return self.log_probs.gather(1, items) * self.weight
