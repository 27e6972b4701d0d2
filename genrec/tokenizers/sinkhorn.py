"""Sinkhorn's scaling: assignments that use every code about equally often.

Source: Cuturi, Sinkhorn Distances, NeurIPS 2013; used for the last level of semantic identifiers by LC-Rec (Zheng et
al., 2311.09049, section 3.2), LETTER and MiniOneRec.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from genrec.tokenizers.collisions import group_of

ITERATIONS = 50
TINY = 1e-300


def uniform_codes(costs: Tensor, epsilon: float) -> Tensor:
    """The code of each item in a transport plan that gives all codes the same share of the items.

    In float64, because the plan's entries span hundreds of orders of magnitude.

    Args:
        costs: float ``[n, K]``, of giving an item a code.
        epsilon: Entropy of the plan, relative to half the range of the costs; small is close to the cheapest plan.

    Returns:
        int64 ``[n]``.
    """
    exact = costs.double()
    half_range = ((exact.max() - exact.min()) / 2).clamp(min=TINY)
    kernel = torch.exp((exact.amin(dim=1, keepdim=True) - exact) / (epsilon * half_range))
    items, codes = kernel.shape
    weights = torch.full((codes,), 1.0 / codes, dtype=torch.float64, device=kernel.device)
    for _ in range(ITERATIONS):
        rows = (1.0 / items) / (kernel @ weights).clamp(min=TINY)
        weights = (1.0 / codes) / (rows @ kernel).clamp(min=TINY)
    return (kernel * weights).argmax(dim=1)


def spread_collisions(
    codes: np.ndarray, last_level_costs: Callable[[np.ndarray], np.ndarray], epsilon: float, rounds: int
) -> np.ndarray:
    """Give the items that share all codes other last codes: each group's by a plan of its own, round after round.

    Args:
        codes: int32 ``[N, L]``.
        last_level_costs: Rows of items int64 ``[n]`` to costs float64 ``[n, K]`` of every last code.
        epsilon: See :func:`uniform_codes`.
        rounds: At most so many, because a moved item may meet another one.

    Returns:
        int32 ``[N, L]``; collisions may be left.
    """
    codes = codes.copy()
    for _ in range(rounds):
        group = group_of(codes)
        rows = np.flatnonzero(np.bincount(group)[group] > 1)
        if not len(rows):
            break
        rows = rows[np.argsort(group[rows], kind="stable")]
        for members in np.split(rows, np.flatnonzero(np.diff(group[rows])) + 1):
            codes[members, -1] = uniform_codes(torch.from_numpy(last_level_costs(members)), epsilon).numpy()
    return codes
