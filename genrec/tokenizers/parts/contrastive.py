"""Losses that pull together what belongs together and push the rest of a batch away."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from genrec.features.base import unit_rows

# Vectors of the same direction up to rounding: not to be pushed apart.
SAME_DIRECTION = 1 - 1e-6


def info_nce(vectors: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Each vector must find its own target among those of the batch (van den Oord et al., 2018).

    Targets of the same direction as one's own are no negatives.

    Args:
        vectors: float32 ``[B, C]``.
        targets: float32 ``[B, C]``, of length 1 or 0; a target of zeros takes no part.
        temperature: Divides the dot products.

    Returns:
        The mean over the batch; 0 if there are fewer than two targets.
    """
    known = targets.square().sum(dim=1) > 0
    vectors, targets = vectors[known], targets[known]
    if len(targets) < 2:
        return vectors.sum() * 0.0
    others = ~torch.eye(len(targets), dtype=torch.bool, device=targets.device)
    same = (targets @ targets.T > SAME_DIRECTION) & others
    scores = (vectors @ targets.T / temperature).masked_fill(same, -torch.inf)
    return functional.cross_entropy(scores, torch.arange(len(targets), device=targets.device))


def supervised_contrastive(vectors: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Each vector must find those of its label among the batch (Khosla et al., 2020, outer sum), every label alike.

    Args:
        vectors: float32 ``[B, C]``, of length 1.
        labels: int64 ``[B]``.
        temperature: Divides the dot products.

    Returns:
        The mean over the labels of the mean over their vectors; vectors alone with their label take no part.
    """
    own = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    scores = (vectors @ vectors.T / temperature).masked_fill(own, -torch.inf)
    shares = scores.log_softmax(dim=1).masked_fill(own, 0.0)
    positive = (labels[:, None] == labels[None]) & ~own
    counts = positive.sum(dim=1)
    found = -(shares * positive).sum(dim=1) / counts.clamp(min=1)
    members = functional.one_hot(labels).to(found.dtype) * (counts > 0)[:, None]
    sizes = members.sum(dim=0)
    means = (members * found[:, None]).sum(dim=0)[sizes > 0] / sizes[sizes > 0]
    return means.mean() if len(means) else vectors.sum() * 0.0


def centred_directions(vectors: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Vectors less their mean, of length 1; rows of zeros, of which nothing is known, stay zeros.

    Args:
        vectors: float32 ``[n, C]``.
        mean: float32 ``[C]``.

    Returns:
        float32 ``[n, C]``.
    """
    known = vectors.any(axis=1, keepdims=True)
    return unit_rows(np.where(known, vectors - mean, 0).astype(np.float32))


def mean_of_known(vectors: np.ndarray) -> np.ndarray:
    """The mean float32 ``[C]`` of the rows that are not zeros; zeros if all are."""
    known = vectors[vectors.any(axis=1)]
    return known.mean(axis=0, dtype=np.float64).astype(np.float32) if len(known) else np.zeros_like(vectors[0])
