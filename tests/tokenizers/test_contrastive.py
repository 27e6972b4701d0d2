"""The contrastive losses against loops over their formulae."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from genrec.tokenizers.parts.contrastive import centred_directions, info_nce, mean_of_known, supervised_contrastive


def test_info_nce_by_loops():
    vectors, targets = torch.randn(5, 3), normalize(torch.randn(5, 3), dim=1)
    # Nothing is known of item 2; items 0 and 4 have the same target, so neither is a negative of the other.
    targets[2] = 0
    targets[4] = targets[0]
    expected = []
    for item in (0, 1, 3, 4):
        same = {0: 4, 4: 0}.get(item)
        others = [other for other in (0, 1, 3, 4) if other != same]
        scores = {other: math.exp(float(vectors[item] @ targets[other]) / 0.5) for other in others}
        expected.append(-math.log(scores[item] / sum(scores.values())))
    assert float(info_nce(vectors, targets, 0.5)) == pytest.approx(np.mean(expected), rel=1e-5)


def test_info_nce_of_fewer_than_two_targets_is_zero_with_a_gradient():
    vectors, targets = torch.randn(3, 2, requires_grad=True), torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    loss = info_nce(vectors, targets, 0.1)
    loss.backward()
    assert float(loss) == 0
    assert not vectors.grad.any()


def test_supervised_contrastive_by_loops():
    vectors, labels = normalize(torch.randn(7, 3), dim=1), [0, 0, 0, 0, 1, 1, 2]
    of_label: dict[int, list[float]] = {}
    for item, label in enumerate(labels):
        positive = [other for other in range(7) if other != item and labels[other] == label]
        if not positive:
            continue
        scores = [math.exp(float(vectors[item] @ vectors[other]) / 0.2) for other in range(7)]
        total = sum(scores) - scores[item]
        of_label.setdefault(label, []).append(-np.mean([math.log(scores[other] / total) for other in positive]))
    # Four items of one label count as much as two of another; the one that is alone takes no part.
    expected = np.mean([np.mean(losses) for losses in of_label.values()])
    assert set(of_label) == {0, 1}
    assert float(supervised_contrastive(vectors, torch.tensor(labels), 0.2)) == pytest.approx(expected, rel=1e-5)


def test_supervised_contrastive_has_a_finite_gradient_also_without_pairs():
    for labels in ([0, 0, 1], [0, 1, 2]):
        vectors = torch.randn(3, 2, requires_grad=True)
        supervised_contrastive(normalize(vectors, dim=1), torch.tensor(labels), 0.1).backward()
        assert torch.isfinite(vectors.grad).all()


def test_directions_leave_out_what_is_not_known():
    vectors = np.array([[1, 5], [3, 1], [0, 0]], dtype=np.float32)
    np.testing.assert_allclose(mean_of_known(vectors), [2, 3])
    half = np.sqrt([0.2, 0.8])
    expected = [[-half[0], half[1]], [half[0], -half[1]], [0, 0]]
    np.testing.assert_allclose(centred_directions(vectors, mean_of_known(vectors)), expected, rtol=1e-6)
    np.testing.assert_array_equal(mean_of_known(np.zeros((2, 2), dtype=np.float32)), [0, 0])
