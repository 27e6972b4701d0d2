"""Items that are contrasted with the right ones in a loss."""

from typing import NamedTuple

import torch
from torch import Tensor

from genrec.models.layers.history import length_mask

DRAWS = 16


class Candidates(NamedTuple):
    """Items that share a softmax in place of the whole catalogue.

    Attributes:
        items: Dense items, int64 ``[C]``, each once.
        places: Where the targets are among them, int64 ``[n]``.
        correction: Logarithm of how often each is expected, float32 ``[C]``: to be taken from its logit.
    """

    items: Tensor
    places: Tensor
    correction: Tensor


def shared_candidates(targets: Tensor, num_items: int, negatives: int) -> Candidates:
    """The targets of a batch and items drawn evenly, which all of its rows are compared with (Yi et al. 2019).

    Args:
        targets: Dense items, int64 ``[n]``.
        num_items: N.
        negatives: Items drawn besides the targets, with replacement.
    """
    drawn = torch.randint(num_items, (negatives,), device=targets.device)
    items = torch.cat([targets, drawn]).unique()
    occurrences = torch.bincount(targets, minlength=num_items)[items].float()
    return Candidates(items, torch.searchsorted(items, targets), (occurrences + negatives / num_items).log())


def draw_unknown(items: Tensor, lengths: Tensor, num_items: int) -> tuple[Tensor, Tensor]:
    """Items drawn evenly from the catalogue for each row, and whether the row's history lacks them.

    Args:
        items: Histories, int64 ``[n, T]``, right-padded.
        lengths: Items per history, int64 ``[n]``.
        num_items: N.

    Returns:
        int64 and bool ``[n, 16]``.
    """
    drawn = torch.randint(num_items, (len(items), DRAWS), device=items.device)
    mask = length_mask(lengths, items.shape[1])
    known = ((drawn.unsqueeze(2) == items.unsqueeze(1)) & mask.unsqueeze(1)).any(2)
    return drawn, ~known


def first_usable(drawn: Tensor, usable: Tensor) -> tuple[Tensor, Tensor]:
    """The first usable one of each row of ``drawn [n, draws]``, and whether there is one; ``[n]`` each."""
    return drawn.gather(1, usable.int().argmax(1, keepdim=True))[:, 0], usable.any(1)
