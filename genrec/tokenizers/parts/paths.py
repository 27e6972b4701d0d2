"""Paths through a tree, written as semantic IDs of one length, and numbers written as digits."""

from collections.abc import Sequence

import numpy as np


def fill_paths(paths: Sequence[Sequence[int]], sizes: Sequence[int]) -> np.ndarray:
    """Paths as rows of one length: a shorter path goes on with the code that says that it has ended.

    Args:
        paths: Codes of every item; path i may have any length up to L.
        sizes: Codes of every level, length L; the end has the code ``sizes[level]``.

    Returns:
        int32 ``[n, L]``.
    """
    codes = np.tile(np.asarray(sizes, dtype=np.int32), (len(paths), 1))
    for row, path in enumerate(paths):
        codes[row, : len(path)] = path
    return codes


def tree_codes(paths: Sequence[Sequence[int]]) -> np.ndarray:
    """Paths of a whole catalogue as rows of one length; the end is one more than the largest code of its level.

    Args:
        paths: Codes of every item.

    Returns:
        int32 ``[N, L]`` with the longest path's L.
    """
    depth = max(len(path) for path in paths)
    sizes = [1 + max(path[level] for path in paths if len(path) > level) for level in range(depth)]
    return fill_paths(paths, sizes)


def digits(numbers: np.ndarray, base: int, length: int) -> np.ndarray:
    """Numbers in the positional system, most significant digit first.

    Args:
        numbers: int64 ``[N]``, not negative and less than ``base ** length``.
        base: How many different digits there are.
        length: Digits per number.

    Returns:
        int32 ``[N, length]``.
    """
    places = [base**place for place in range(length - 1, -1, -1)]
    return np.stack([numbers // place % base for place in places], axis=1).astype(np.int32)


def digits_needed(count: int, base: int) -> int:
    """The fewest digits in which 0 to ``count`` - 1 can be written, at least one."""
    length = 1
    while base**length < count:
        length += 1
    return length
