"""Right-padded histories: a start vector before them, the valid positions in them, the state after them."""

import torch
from torch import Tensor


def prepend(start: Tensor, x: Tensor) -> Tensor:
    """Put the learned vector ``start [D]`` before ``x [B, T, D]``: position t then predicts item t."""
    return torch.cat([start.expand(x.shape[0], 1, -1).to(x.dtype), x], dim=1)


def visible_positions(lengths: Tensor, size: int) -> Tensor:
    """bool ``[B, size]``: True at positions before each length."""
    return torch.arange(size, device=lengths.device) < lengths.unsqueeze(1)


def gather_targets(hidden: Tensor, items: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The states ``[n, D]`` that predict the n real items of ``items [B, T]``, and those items ``[n]``."""
    real = visible_positions(lengths, items.shape[1])
    return hidden[:, : items.shape[1]][real], items[real]


def state_at(hidden: Tensor, lengths: Tensor) -> Tensor:
    """The state after the last real item, ``[B, D]``, from ``hidden [B, 1 + T, D]``."""
    return hidden[torch.arange(len(lengths), device=lengths.device), lengths]


def draw_cuts(lengths: Tensor) -> Tensor:
    """A place drawn evenly in each history of ``lengths [n]`` among those with items before them, int64 ``[n]``.

    It is 0 in a history of one item.
    """
    choices = (lengths - 1).clamp_min(1)
    drawn = (torch.rand(len(lengths), device=lengths.device) * choices).long().minimum(choices - 1)
    return torch.where(lengths > 1, drawn + 1, 0)
