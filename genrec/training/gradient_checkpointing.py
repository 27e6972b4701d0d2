"""Gradient checkpointing (Chen et al. 2016): layers drop their activations and compute them again for the gradient."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from genrec.models.layers.moe import equal_masks


@contextmanager
def recomputed(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Gradient checkpointing (Chen et al. 2016): layers forget what they computed and do it again for the gradient.

    Layers whose buffers move in a forward pass are left as they are: the second pass would move them again.
    """
    blocks = [block for block in blocks_of(model) if next(block.buffers(), None) is None] if wanted else []
    for block in blocks:
        block.forward = partial(_recomputed_call, block, block.forward)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _recomputed_call(block: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A forward pass whose second one is in the same mode, whatever the block is set to by then."""
    training = block.training

    def run(*inner: Any, **options: Any) -> Any:
        later = block.training
        block.train(training)
        try:
            return forward(*inner, **options)
        finally:
            block.train(later)

    return checkpoint(run, *args, use_reentrant=False, context_fn=partial(equal_masks, block), **kwargs)


def blocks_of(model: nn.Module) -> Iterator[nn.Module]:
    """The layers of a model: members of its outermost lists of modules that have modules of their own."""
    for child in model.children():
        if isinstance(child, nn.ModuleList):
            yield from (block for block in child if next(block.children(), None) is not None)
        else:
            yield from blocks_of(child)
