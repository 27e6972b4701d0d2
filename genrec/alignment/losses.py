"""Preference losses as pure functions of log-probabilities; every one gives a float ``[B]``, one loss per row.

Names: ``chosen [B]`` and ``rejected [B, C]`` are log-ratios log pi(y|x) - log pi_ref(y|x), but for :func:`simpo`, which
has no reference and takes log-probabilities per code. ``real`` is bool ``[B, C]``, False where a row has fewer rejected
items; a row with none costs nothing. Losses that compare two sides take the mean over a row's rejected items.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def dpo(
    chosen: Tensor, rejected: Tensor, *, beta: float, label_smoothing: float = 0.0, real: Tensor | None = None
) -> Tensor:
    """Direct preference optimisation; with label smoothing the conservative cDPO, for labels that are partly wrong.

    Rafailov et al. 2023, eq. 7; Mitchell 2023, "A note on DPO with noisy preferences". log 2 where policy = reference.
    """
    margin = beta * (chosen.unsqueeze(1) - rejected)
    losses = -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)
    return _mean_over_rejected(losses, real)


def softmax_dpo(chosen: Tensor, rejected: Tensor, *, beta: float, real: Tensor | None = None) -> Tensor:
    """S-DPO: the chosen item against all rejected ones at once, a partial Plackett-Luce ranking.

    Chen et al. 2024, "On softmax direct preference optimization for recommendation", eq. 9; DPO with one rejected
    item, log(1 + C) where policy = reference.
    """
    distance = beta * (rejected - chosen.unsqueeze(1))
    if real is not None:
        distance = distance.masked_fill(~real, float("-inf"))
    # -log sigmoid(-log sum exp(d)) = log(1 + sum exp(d))
    return torch.logsumexp(torch.cat([torch.zeros_like(distance[:, :1]), distance], dim=1), dim=1)


def ipo(chosen: Tensor, rejected: Tensor, *, beta: float, real: Tensor | None = None) -> Tensor:
    """Identity preference optimisation: the margin is drawn to 1 / (2 beta) instead of to infinity.

    Azar et al. 2023, eq. 17; 1 / (4 beta^2) where policy = reference.
    """
    return _mean_over_rejected((chosen.unsqueeze(1) - rejected - 1 / (2 * beta)).square(), real)


def simpo(chosen: Tensor, rejected: Tensor, *, beta: float, gamma: float, real: Tensor | None = None) -> Tensor:
    """SimPO: log-probabilities per code instead of ratios to a reference, and a margin that they must exceed.

    Meng et al. 2024, eq. 6.

    Args:
        chosen: log p of the chosen items, each divided by its own number of codes, ``[B]``.
        rejected: The same of the rejected items, ``[B, C]``.
        beta: Scale.
        gamma: Target margin.
        real: See the module.
    """
    margin = beta * (chosen.unsqueeze(1) - rejected) - gamma
    return _mean_over_rejected(-logsigmoid(margin), real)


def kto(
    chosen: Tensor,
    rejected: Tensor,
    *,
    beta: float,
    baseline: Tensor,
    wanted: Tensor | None = None,
    real: Tensor | None = None,
) -> Tensor:
    """Kahneman-Tversky optimisation: items are good or bad each for itself, measured from a common baseline.

    Ethayarajh et al. 2024, eq. 8, with equal weights. 1/2 for each item where policy = reference and the baseline is 0.

    Args:
        chosen: Log-ratios of good items, ``[B]``.
        rejected: Log-ratios of bad items, ``[B, C]``.
        beta: Scale.
        baseline: The estimate of KL(policy || reference), a scalar without gradient; negative ones count as 0.
        wanted: bool ``[B]``, False where a row has no good item.
        real: See the module.
    """
    zero = baseline.detach().clamp(min=0)
    good = 1 - torch.sigmoid(beta * (chosen - zero))
    bad = 1 - torch.sigmoid(beta * (zero - rejected))
    if wanted is not None:
        good = good.masked_fill(~wanted, 0.0)
    return good + _mean_over_rejected(bad, real)


def group_advantages(rewards: Tensor, real: Tensor | None = None) -> Tensor:
    """Rewards of a group of answers, centred and divided by their standard deviation; 0 where all are equal.

    Shao et al. 2024 (DeepSeekMath), section 4.1.2.

    Args:
        rewards: float ``[B, G]``.
        real: bool ``[B, G]``; answers that are not there get 0 and do not count.
    """
    real = torch.ones_like(rewards, dtype=torch.bool) if real is None else real
    count = real.sum(dim=1, keepdim=True).clamp(min=1)
    rewards = rewards.masked_fill(~real, 0.0)
    centred = (rewards - rewards.sum(dim=1, keepdim=True) / count).masked_fill(~real, 0.0)
    deviation = (centred.square().sum(dim=1, keepdim=True) / count).sqrt()
    return torch.where(deviation > 1e-6, centred / deviation.clamp(min=1e-6), torch.zeros_like(centred))


def group_policy(
    policy: Tensor,
    sampled: Tensor,
    reference: Tensor,
    advantages: Tensor,
    *,
    clip: float,
    early_clip: float | None,
    kl_weight: float,
    real: Tensor | None = None,
) -> Tensor:
    """Group-relative policy optimisation: the clipped surrogate and the KL to the reference, mean over each group.

    Shao et al. 2024 (DeepSeekMath), eq. 3, with an item as one action. ``early_clip`` is ECPO's (OneRec technical
    report 2025, section 4.2): an answer with negative advantage pushes with a ratio of at most 1 + clip + early_clip,
    because the plain surrogate leaves that side open and a few such answers blow the gradient up.

    Args:
        policy: log-probabilities ``[B, G]`` of the answers, with gradient.
        sampled: Those of the policy that sampled them.
        reference: Those of the reference.
        advantages: ``[B, G]``.
        clip: epsilon.
        early_clip: delta; None leaves it out.
        kl_weight: Factor on the estimate exp(d) - d - 1 of the KL, d = reference - policy.
        real: bool ``[B, G]``, False where a group has fewer answers.
    """
    sampled = sampled.detach()
    if early_clip is not None:
        floor = policy.detach() - math.log(1 + clip + early_clip)
        sampled = torch.where(advantages < 0, torch.maximum(floor, sampled), sampled)
    ratio = (policy - sampled).exp()
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    distance = reference.detach() - policy
    return _mean_over_rejected(kl_weight * (distance.exp() - distance - 1) - surrogate, real)


def _mean_over_rejected(losses: Tensor, real: Tensor | None) -> Tensor:
    if real is None:
        return losses.mean(dim=1)
    return losses.masked_fill(~real, 0.0).sum(dim=1) / real.sum(dim=1).clamp(min=1)
