"""Gradient checkpointing (Chen et al. 2016): layers drop their activations and compute them again for the gradient."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


@contextmanager
def recomputed(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Gradient checkpointing (Chen et al. 2016): layers forget what they computed and do it again for the gradient.

    Layers whose buffers move in a forward pass are left as they are: the second pass would move them again.
    """
    blocks = [block for block in blocks_of(model) if next(block.buffers(), None) is None] if wanted else []
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def blocks_of(model: nn.Module) -> Iterator[nn.Module]:
    """The layers of a model: members of its outermost lists of modules that have modules of their own."""
    for child in model.children():
        if isinstance(child, nn.ModuleList):
            yield from (block for block in child if next(block.children(), None) is not None)
        else:
            yield from blocks_of(child)
