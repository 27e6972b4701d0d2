"""Sinkhorn's scaling: assignments that use every code about equally often.

Source: Cuturi, Sinkhorn Distances, NeurIPS 2013; used for the last level of semantic semantic IDs by LC-Rec (Zheng et
al., 2311.09049, section 3.2), LETTER and MiniOneRec.
"""

import torch
from torch import Tensor

MAX_ITERATIONS = 1000
# Shares of the codes may differ from equal ones by this factor less one.
TOLERANCE = 0.05
TINY = 1e-300


def uniform_codes(costs: Tensor, epsilon: float) -> Tensor:
    """The code of each item in a transport plan that gives all codes about the same share of the items.

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
    for _ in range(MAX_ITERATIONS):
        rows = (1.0 / items) / (kernel @ weights).clamp(min=TINY)
        reached = (rows @ kernel).clamp(min=TINY)
        if bool(((weights * reached * codes - 1).abs() < TOLERANCE).all()):
            break
        weights = (1.0 / codes) / reached
    return (kernel * weights).argmax(dim=1)
