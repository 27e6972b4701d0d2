"""Counter-based random numbers: a pure function of seed, user, level, node and code.

No generator is advanced, so what a user draws does not depend on the batch, the device or the number of beams, no
number is copied from the host, and a wider search extends the draws of a narrower one. Price: three multiplications of
64-bit integers per number.
"""

import torch
from torch import Tensor

# Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014): SplitMix64, as signed 64-bit numbers.
GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
FIRST_FACTOR = 0xBF58476D1CE4E5B9 - (1 << 64)
SECOND_FACTOR = 0x94D049BB133111EB - (1 << 64)
LARGEST = 1 - 2.0**-24


def stream(keys: Tensor, number: Tensor | int) -> Tensor:
    """The key int64 of stream ``number`` below each of ``keys``; both broadcast."""
    mixed = keys + (_wrapped(number * GOLDEN) if isinstance(number, int) else number * GOLDEN)
    mixed = (mixed ^ _shift(mixed, 30)) * FIRST_FACTOR
    mixed = (mixed ^ _shift(mixed, 27)) * SECOND_FACTOR
    return mixed ^ _shift(mixed, 31)


def gumbel(keys: Tensor) -> Tensor:
    """One standard Gumbel number per key, float32."""
    uniform = ((_shift(keys, 32) + 0.5) * 2.0**-32).clamp(max=LARGEST)
    # log1p keeps the large values, which decide who wins, fine-grained.
    return -(-torch.log1p(-uniform)).log()


def user_keys(seed: int, seeds: Tensor) -> Tensor:
    """A key per user from the seed of a run and ``seeds`` int64 ``[B]``."""
    return stream(stream(torch.zeros_like(seeds), seed + 1), seeds)


def history_seeds(items: Tensor, lengths: Tensor) -> Tensor:
    """A seed int64 ``[B]`` from what a user's history holds, whatever the padding of ``items [B, T]``."""
    position = torch.arange(items.shape[1], device=items.device)
    mixed = stream(stream(torch.zeros_like(items), position + 1), items)
    return mixed.masked_fill(position >= lengths.unsqueeze(1), 0).sum(dim=1)


def _shift(values: Tensor, bits: int) -> Tensor:
    """To the right, filled with zeros."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def _wrapped(number: int) -> int:
    """As a signed 64-bit number, the way that tensors overflow."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)
