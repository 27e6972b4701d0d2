"""Right-padded histories: a start vector before them, the valid positions in them, the state after them."""

import torch
from torch import Tensor


def prepend(start: Tensor, x: Tensor) -> Tensor:
    """Put ``start``, ``[D]`` or ``[B, 1, D]``, before ``x [B, T, D]``: position t then predicts item t."""
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


def positions_read(
    items: Tensor, lengths: Tensor, *, codes: int = 1, starts: int = 1, real: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What every real position of such histories reads, row after row.

    Args:
        items: int64 ``[B, T]``, right-padded.
        lengths: int64 ``[B]``.
        codes: Positions of one item.
        starts: Positions before the first item.
        real: Those positions, bool ``[B, starts + T * codes]``; all of the items within ``lengths`` by default.

    Returns:
        Its item and its place within the item, int64 ``[n]`` each; -1 at starts.
    """
    places = torch.arange(codes, device=items.device).repeat(items.shape[1]).expand(len(items), -1)
    padded = [torch.nn.functional.pad(x, (starts, 0), value=-1) for x in (items.repeat_interleave(codes, 1), places)]
    if real is None:
        real = visible_positions(lengths * codes + starts, padded[0].shape[1])
    return padded[0][real], padded[1][real]


def draw_cuts(lengths: Tensor) -> Tensor:
    """A place drawn evenly in each history of ``lengths [n]`` among those with items before them, int64 ``[n]``.

    It is 0 in a history of one item.
    """
    choices = (lengths - 1).clamp_min(1)
    drawn = (torch.rand(len(lengths), device=lengths.device) * choices).long().minimum(choices - 1)
    return torch.where(lengths > 1, drawn + 1, 0)
