"""Uniform assignments against the same plan by logarithms."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from genrec.tokenizers.parts import sinkhorn
from genrec.tokenizers.parts.sinkhorn import uniform_codes


def plan_by_logarithms(costs: np.ndarray, epsilon: float) -> np.ndarray:
    scores = -costs / (epsilon * (costs.max() - costs.min()) / 2)
    for _ in range(600):
        scores = scores - logsumexp(scores, axis=0, keepdims=True) - np.log(scores.shape[1])
        scores = scores - logsumexp(scores, axis=1, keepdims=True) - np.log(scores.shape[0])
    return np.exp(scores)


@pytest.mark.parametrize("epsilon", [0.05, 0.2, 1.0])
def test_codes_are_those_of_the_plan_with_equal_shares(epsilon, monkeypatch):
    monkeypatch.setattr(sinkhorn, "TOLERANCE", 1e-10)
    monkeypatch.setattr(sinkhorn, "MAX_ITERATIONS", 600)
    costs = np.random.default_rng(0).random((24, 6))
    plan = plan_by_logarithms(costs, epsilon)
    np.testing.assert_allclose(plan.sum(axis=0), 1 / 6, rtol=1e-4)
    np.testing.assert_array_equal(uniform_codes(torch.from_numpy(costs), epsilon), plan.argmax(axis=1))


def test_codes_are_used_about_equally_often_where_the_nearest_are_not():
    vectors = torch.randn(600, 2, generator=torch.Generator().manual_seed(0))
    codebook = torch.cat([torch.zeros(1, 2), 2 * torch.randn(5, 2, generator=torch.Generator().manual_seed(1))])
    costs = torch.cdist(vectors, codebook).square()
    nearest = np.bincount(costs.argmin(dim=1), minlength=6)
    uniform = np.bincount(uniform_codes(costs, 0.01), minlength=6)
    assert nearest.max() > 190
    assert uniform.max() < 130
    assert uniform.min() > 70


def test_equal_costs_give_the_first_code():
    costs = torch.zeros(4, 3)
    assert uniform_codes(costs, 0.003).tolist() == [0, 0, 0, 0], "nothing to tell them apart"


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_scale_of_the_costs_does_not_matter(scale):
    costs = torch.rand(30, 5, generator=torch.Generator().manual_seed(0)).double()
    assert torch.equal(uniform_codes(costs * scale, 0.003), uniform_codes(costs, 0.003))
