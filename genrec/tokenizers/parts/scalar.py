"""Finite scalar quantization: every number is rounded to one of a few levels, and the code is the tuple of levels.

Source: Mentzer et al., Finite Scalar Quantization, ICLR 2024, appendix A.1; the symmetric variant is that of Parker et
al., Scaling Transformers for Low-Bitrate Speech Coding (2411.19842, section 3.2).
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

# Levels at the ends of a range can be reached because the range is a little wider.
MARGIN = 1e-3


class ScalarQuantizer(nn.Module):
    """A grid of ``prod(levels)`` codes; nothing in it is learned.

    A vector z of width ``len(levels)`` becomes places, integers ``0 .. levels - 1`` for each number; a code is
    ``sum(place * basis)`` with the products of the levels before as basis.

    Args:
        levels: Levels of every number, each at least 2.
        symmetric: Numbers in -1 .. 1 are rounded to evenly spaced levels around zero. Otherwise a tanh bounds them, and
            an even number of levels has one more below zero than above.
    """

    levels: Tensor
    basis: Tensor

    def __init__(self, levels: Sequence[int], symmetric: bool = False) -> None:
        super().__init__()
        self.symmetric, self.size = symmetric, prod(levels)
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.register_buffer("basis", torch.tensor([1, *levels[:-1]]).cumprod(0), persistent=False)

    def bound(self, vectors: Tensor) -> Tensor:
        """Vectors ``[.., d]`` in units of places, within the range of the levels."""
        if self.symmetric:
            return (self.levels - 1) * (vectors.clamp(-1.0, 1.0) + 1) / 2
        half = (self.levels - 1) * (1 + MARGIN) / 2
        offset = 0.5 * (self.levels % 2 == 0)
        return (vectors + (offset / half).atanh()).tanh() * half - offset + self.levels // 2

    def places(self, vectors: Tensor) -> Tensor:
        """The nearest places of vectors ``[.., d]``, in their dtype."""
        bounded = self.bound(vectors)
        return (bounded + 0.5).floor() if self.symmetric else bounded.round()

    def values(self, places: Tensor) -> Tensor:
        """What places ``[.., d]`` stand for, numbers in -1 .. 1."""
        if self.symmetric:
            return places * 2 / (self.levels - 1) - 1
        half = self.levels // 2
        return (places - half) / half

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Round vectors ``[.., d]``.

        Returns:
            What their codes stand for, through which the gradient goes as if nothing was rounded, and int64 ``[..]``.
        """
        bounded = self.bound(vectors)
        places = (bounded + 0.5).floor() if self.symmetric else bounded.round()
        passed = bounded + (places - bounded).detach()
        return self.values(passed), self.codes(places)

    def codes(self, places: Tensor) -> Tensor:
        """The numbers int64 ``[..]`` of places ``[.., d]``."""
        return (places.long() * self.basis).sum(dim=-1)

    def codebook(self) -> Tensor:
        """What every code stands for, float32 ``[K, d]``."""
        return self.values((torch.arange(self.size).unsqueeze(1) // self.basis) % self.levels)


def spread_outputs(layer: nn.Linear, outputs: Tensor) -> None:
    """Change a layer so that its outputs have mean 0 and deviation 1, and the whole grid is in use from the beginning.

    An untrained layer's outputs are so small that all items would share the middle of the grid.

    Args:
        layer: The last one before the grid.
        outputs: float32 ``[n, d]``, what it gives now.
    """
    deviation = outputs.std(dim=0, correction=0).clamp(min=torch.finfo(torch.float32).eps)
    layer.weight.div_(deviation.unsqueeze(1))
    layer.bias.sub_(outputs.mean(dim=0)).div_(deviation)
