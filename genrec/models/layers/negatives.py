"""Items that a user does not have, for losses that compare an item with another."""

import torch
from torch import Tensor

from genrec.models.layers.history import visible_positions

DRAWS = 16


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
    real = visible_positions(lengths, items.shape[1])
    known = ((drawn.unsqueeze(2) == items.unsqueeze(1)) & real.unsqueeze(1)).any(2)
    return drawn, ~known


def first_usable(drawn: Tensor, usable: Tensor) -> tuple[Tensor, Tensor]:
    """The first usable one of each row of ``drawn [n, draws]``, and whether there is one; ``[n]`` each."""
    return drawn.gather(1, usable.int().argmax(1, keepdim=True))[:, 0], usable.any(1)
