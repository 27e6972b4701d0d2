"""Rows drawn by seed and rows in blocks, so that a large catalogue costs no more memory than a small one."""

from collections.abc import Iterator

import numpy as np

BLOCK_ROWS = 1 << 15


def draw_rows(count: int, limit: int, seed: int) -> np.ndarray:
    """At most ``limit`` of ``count`` rows in ascending order, int64; all of them where there are no more.

    Args:
        count: Rows that there are.
        limit: Most rows wanted.
        seed: Of the draw.
    """
    if count <= limit:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, size=limit, replace=False))


def row_blocks(count: int) -> Iterator[slice]:
    """Slices that cover ``count`` rows in order, each of at most BLOCK_ROWS."""
    for start in range(0, count, BLOCK_ROWS):
        yield slice(start, min(start + BLOCK_ROWS, count))
