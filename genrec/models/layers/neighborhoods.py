"""The next item as a neighbor of those that were read: probabilities of items that nothing was learned of.

Similarity is the cosine between item vectors whose principal components, those of the catalogue of training, all have
unit variance: the few directions that most texts share would hide the others. How sharp the neighborhoods are, how
soon an item is forgotten and how much each counts is learned from users, and carries over to any catalogue with such
vectors.
"""

from math import log
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from genrec.models.layers.negatives import shared_candidates

# Where learning starts from: the smallest and largest sharpness, and what an item loses with every one after it.
SHARPNESS = (6.0, 20.0)
FORGETTING = 0.8
# Similarities of so many users and items are held at once.
ENTRIES = 1 << 24


class SoftmaxMixture(NamedTuple):
    """Logarithms of what each softmax weighs.

    Attributes:
        read: float32 ``[B, S, T, H]``, of each item read at each sharpness; -inf where it is still to come.
        even: float32 ``[B, S]``, of the even share.
    """

    read: Tensor
    even: Tensor


class Neighborhoods(nn.Module):
    """A mixture of softmaxes over the catalogue, one for every item read and every sharpness, and an even share.

    ``p(i) = sum_th w_th softmax_i(s_h cos(x_t, x_i)) + w_0 / N``, where the weights are a softmax over
    ``gate_h(state) + recency_h(age of t)`` and ``gate_0(state)``.

    Args:
        feature_size: F, width of the item vectors.
        hidden_size: D, width of the states.
        max_history: Items read at most.
        kernels: H, how many sharpnesses.
    """

    mean: Tensor
    whitening: Tensor

    def __init__(self, feature_size: int, hidden_size: int, max_history: int, kernels: int) -> None:
        super().__init__()
        self.log_sharpness = nn.Parameter(torch.linspace(log(SHARPNESS[0]), log(SHARPNESS[1]), kernels))
        self.recency = nn.Parameter(-FORGETTING * torch.arange(max_history).repeat(kernels, 1))
        self.gate = nn.Linear(hidden_size, kernels + 1)
        self.register_buffer("mean", torch.zeros(feature_size))
        self.register_buffer("whitening", torch.eye(feature_size))

    @torch.no_grad()
    def fit(self, features: Tensor) -> None:
        """Take the principal components of the catalogue of training, float32 ``[N, F]``.

        N items tell F variances only so well: each is raised by F / N of their mean, so that a small catalogue is not
        blown up in the directions that it happens not to use. Where no item has a vector, nothing is taken.
        """
        known = features[features.any(dim=1)].double()
        if not len(known):
            return
        mean = known.mean(dim=0)
        variances, directions = torch.linalg.eigh((known - mean).T @ (known - mean) / len(known))
        raised = variances.clamp_min(0) + variances.mean() * len(variances) / len(known)
        self.mean.copy_(mean)
        self.whitening.copy_(directions * raised.clamp_min(1e-12).rsqrt())

    def mixture(self, states: Tensor, counts: Tensor, size: int) -> SoftmaxMixture:
        """What each softmax weighs.

        Args:
            states: ``[B, S, D]``.
            counts: How many items each state has read, int64 ``[B, S]`` or ``[1, S]``.
            size: T, items in the longest history.
        """
        age = counts.unsqueeze(-1) - 1 - torch.arange(size, device=states.device)
        gates = self.gate(states).float()
        read = gates[..., None, :-1] + self.recency.T[age.clamp_min(0)].float()
        read = read.masked_fill(age.lt(0).unsqueeze(-1), float("-inf"))
        weights = torch.cat([read.flatten(2), gates[..., -1:]], dim=-1).log_softmax(dim=-1)
        return SoftmaxMixture(weights[..., :-1].unflatten(2, (size, len(self.recency))), weights[..., -1])

    def next_item_loss(
        self, states: Tensor, items: Tensor, mask: Tensor, features: Tensor, *, negatives: int = 0
    ) -> Tensor:
        """Mean negative log-probability of items by those before them, float32 scalar.

        Args:
            states: ``[B, T, D]``, each of which predicts the item in its place.
            items: Dense items, int64 ``[B, T]``.
            mask: bool ``[B, T]``, False at padding.
            features: float32 ``[N, F]``.
            negatives: Items drawn evenly that the batch shares besides its own (:func:`shared_candidates`); 0 takes the
                whole catalogue.
        """
        history, size = items[:, :-1], len(features)
        mixture = self.mixture(states, torch.arange(items.shape[1], device=items.device).unsqueeze(0), history.shape[1])
        candidates, targets = torch.arange(size, device=items.device), items[mask]
        correction = torch.zeros((), device=items.device)
        if negatives:
            candidates, targets, correction = shared_candidates(targets, size, negatives)
        places = torch.zeros_like(items).masked_scatter(mask, targets)
        with torch.autocast(items.device.type, enabled=False):
            cosines = self.vectors(features[history]) @ self.vectors(features[candidates]).T
            hits = cosines.gather(2, places.unsqueeze(1).expand(-1, history.shape[1], -1))
            own = [
                sharpness * hits - (sharpness * cosines - correction).logsumexp(dim=-1, keepdim=True)
                for sharpness in self.log_sharpness.float().exp()
            ]
        near = (mixture.read + torch.stack(own, dim=-1).transpose(1, 2)).flatten(2)
        even = mixture.even.unsqueeze(-1) - log(size)
        return -torch.cat([near, even], dim=-1).logsumexp(dim=-1)[mask].mean()

    def log_probabilities(self, mixture: SoftmaxMixture, items: Tensor, features: Tensor) -> Tensor:
        """log p of every item of the catalogue after each history, float32 ``[B, N]``.

        Args:
            mixture: Of the last state of each history, ``[B, 1, ...]``.
            items: Histories, int64 ``[B, T]``.
            features: float32 ``[N, F]``.
        """
        catalogue, size = self.vectors(features), len(features)
        users = max(1, ENTRIES // (size * max(1, items.shape[1])))
        parts = []
        for some, read, even in zip(
            items.split(users), mixture.read[:, 0].split(users), mixture.even.split(users), strict=True
        ):
            cosines = catalogue[some] @ catalogue.T
            total = (even.exp() / size).expand(-1, size)
            for sharpness, weights in zip(self.log_sharpness.float().exp(), read.exp().unbind(-1), strict=True):
                near = (sharpness * cosines).softmax(dim=-1)
                total = total + torch.einsum("bt,btn->bn", weights, near)
            parts.append(total.log())
        return torch.cat(parts)

    def vectors(self, features: Tensor) -> Tensor:
        """Whitened unit vectors float32 ``[..., F]``; zeros of items of which nothing is known."""
        whitened = (features.float() - self.mean.float()) @ self.whitening.float()
        return normalize(whitened, dim=-1) * features.any(dim=-1, keepdim=True)
