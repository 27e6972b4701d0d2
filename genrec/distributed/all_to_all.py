"""Tensors that travel between processes in a forward pass, and whose gradients travel back."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup


def total_of_all(values: Tensor) -> Tensor:
    """The sum over all processes that train together; the gradient of each part is the sum of what all ask of it.

    Args:
        values: Of equal shape and dtype everywhere; all processes must take part.
    """
    together = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
    return _Total.apply(values) if together else values


def all_to_all_apply(
    x: Tensor, counts: Tensor, work: Callable[[Tensor, Tensor], Tensor], group: ProcessGroup
) -> Tensor:
    """Let each process of a group work on its own segments of everyone's rows (GShard, Lepikhin et al. 2020, 3.3).

    Args:
        x: ``[m, D]``, segment after segment.
        counts: Rows of each segment, int64 ``[E]``, m in all; the first process owns the first ``E / P`` segments, and
            so on.
        work: Rows ``[m', D]`` of own segments and their counts int64 ``[E / P]`` in, ``[m', D]`` out.
        group: P processes, all of which must take part.

    Returns:
        ``[m, D]``, in the order of ``x``.
    """
    leaving = counts.view(group.size(), -1)
    coming = torch.empty_like(leaving)
    distributed.all_to_all_single(coming, leaving, group=group)
    sent, received = leaving.sum(1).tolist(), coming.sum(1).tolist()
    rows = _AllToAll.apply(x, sent, received, group)
    # They come process after process, and within each segment after segment.
    segment = torch.arange(coming.shape[1], device=x.device).repeat(len(coming)).repeat_interleave(coming.flatten())
    order = segment.argsort(stable=True)
    done = work(rows[order], coming.sum(0))
    return _AllToAll.apply(done[order.argsort()], received, sent, group)


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Total.apply(gradient)


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sent: list[int], received: list[int], group: ProcessGroup) -> Tensor:
        ctx.way_back = received, sent, group
        out = x.new_empty(sum(received), *x.shape[1:])
        distributed.all_to_all_single(out, x.contiguous(), received, sent, group=group)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return _AllToAll.apply(gradient, *ctx.way_back), None, None, None
