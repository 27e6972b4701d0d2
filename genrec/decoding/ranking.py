"""Ranking: sorted lists with one order, higher score first, then the smaller item id.

``torch.topk`` breaks ties arbitrarily. Here score and item are packed into one int64 whose order is the wanted order,
so one ``topk`` ranks, breaks ties, and carries the item along. Price: 8 bytes per candidate, and scores in float32.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from genrec.decoding.nonfinite import refuse_broken_scores

LOW_BITS = 32
LOW_MASK = (1 << LOW_BITS) - 1


@dataclass
class RankedItems:
    """The best items of each user, best first.

    Attributes:
        items: Dense item ids, int64 ``[B, k]``; -1 where there is none.
        scores: float32 ``[B, k]``; -inf where there is no item.
    """

    items: Tensor
    scores: Tensor

    @classmethod
    def nothing(cls, users: int, top_k: int, device: torch.device | str | None = None) -> "RankedItems":
        """Empty lists for ``users`` users."""
        items = torch.full((users, top_k), -1, dtype=torch.int64, device=device)
        return cls(items, torch.full((users, top_k), float("-inf"), device=device))


def pack_keys(scores: Tensor, items: Tensor) -> Tensor:
    """Keys int64 whose descending order is: score descending, then item ascending.

    Args:
        scores: float32, any shape, no NaN.
        items: int64 that broadcasts to it, 0 .. 2^32 - 2; what is in it does not matter where the score is -inf.
    """
    bits = (scores + 0.0).view(torch.int32)  # + 0.0 makes one of the two zeros
    # Read as integers, the bits of positive floats ascend; those of negative ones descend, so all but the sign flips.
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    return (ordered << LOW_BITS) | (LOW_MASK - items)


def unpack_keys(keys: Tensor) -> RankedItems:
    """Scores and items of keys made by :func:`pack_keys`; -inf becomes item -1."""
    bits = (keys >> LOW_BITS).to(torch.int32)
    scores = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).view(torch.float32)
    return RankedItems(torch.where(torch.isneginf(scores), -1, LOW_MASK - (keys & LOW_MASK)), scores)


def rank_items(scores: Tensor, items: Tensor, top_k: int) -> RankedItems:
    """The best of a few scored items per user.

    Args:
        scores: float32 ``[B, C]``; -inf means that there is no such item.
        items: int64 that broadcasts to ``[B, C]``.
        top_k: k, the length of the lists; short ones are filled with -1.
    """
    return unpack_keys(best_keys(pack_keys(scores, items), top_k))


def best_keys(keys: Tensor, top_k: int) -> Tensor:
    """The k largest of ``keys [B, C]``, descending; filled up with the key of a missing item where C < k."""
    best = keys.topk(min(top_k, keys.shape[1])).values
    if best.shape[1] == top_k:
        return best
    missing = pack_keys(
        torch.full((), float("-inf"), device=keys.device), torch.zeros((), dtype=torch.int64, device=keys.device)
    )
    return torch.cat([best, missing.expand(len(best), top_k - best.shape[1])], dim=1)


def top_items(scores: Tensor, top_k: int, exclude: Tensor | None = None, allowed: Tensor | None = None) -> RankedItems:
    """Exact top-k over the whole catalogue.

    Args:
        scores: ``[B, N]``, any float dtype.
        top_k: k, the length of the lists.
        exclude: Items that a user must not get, int64 ``[B, E]``; -1 fills shorter rows.
        allowed: bool ``[N]``, False for items that no user may get.

    Raises:
        NonFiniteLogitsError: Naming the first row with NaN or infinite scores.
    """
    refuse_broken_scores(scores)
    items = torch.arange(scores.shape[1], device=scores.device)
    return unpack_keys(best_keys(pack_keys(mask_items(scores.float(), exclude, allowed), items), top_k))


def mask_items(scores: Tensor, exclude: Tensor | None, allowed: Tensor | None, first_item: int = 0) -> Tensor:
    """A copy of ``scores [B, n]`` of items ``first_item ..``, with -inf at excluded and disallowed ones."""
    if allowed is not None:
        scores = scores.masked_fill(~allowed[first_item : first_item + scores.shape[1]], float("-inf"))
    if exclude is None or not exclude.shape[1]:
        return scores
    return mask_columns(
        scores, exclude - first_item, (exclude >= first_item) & (exclude < first_item + scores.shape[1])
    )


def mask_columns(scores: Tensor, columns: Tensor, mask: Tensor) -> Tensor:
    """A copy of ``scores [B, n]`` with -inf in ``columns [B, E]`` where ``mask [B, E]``; no host synchronization."""
    infinity = torch.full((), float("inf"), dtype=scores.dtype, device=scores.device)
    # A column that is not to be masked becomes column 0 with +inf, which the minimum ignores.
    return scores.scatter_reduce(1, torch.where(mask, columns, 0), torch.where(mask, -infinity, infinity), "amin")
