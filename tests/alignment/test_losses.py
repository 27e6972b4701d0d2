"""Every loss against numpy written out by hand, at policy = reference, and by finite differences."""

import math

import numpy as np
import pytest
import torch

from genrec.alignment import losses

BETA = 0.3
RNG = np.random.default_rng(0)
CHOSEN, REJECTED = RNG.normal(size=6) * 3, RNG.normal(size=(6, 4)) * 3
REAL = np.arange(4) < np.array([4, 1, 2, 3, 4, 1])[:, None]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def by_hand(name: str, chosen: float, rejected: list[float]) -> float:
    """The papers' formulas for one row."""
    if name == "dpo":
        return float(np.mean([-math.log(sigmoid(BETA * (chosen - other))) for other in rejected]))
    if name == "cdpo":
        right = [-math.log(sigmoid(BETA * (chosen - other))) for other in rejected]
        wrong = [-math.log(sigmoid(BETA * (other - chosen))) for other in rejected]
        return float(0.9 * np.mean(right) + 0.1 * np.mean(wrong))
    if name == "sdpo":
        return -math.log(sigmoid(-math.log(sum(math.exp(BETA * (other - chosen)) for other in rejected))))
    if name == "ipo":
        return float(np.mean([(chosen - other - 1 / (2 * BETA)) ** 2 for other in rejected]))
    if name == "simpo":
        return float(np.mean([-math.log(sigmoid(BETA * (chosen - other) - 0.7)) for other in rejected]))
    zero = 0.4
    return 1 - sigmoid(BETA * (chosen - zero)) + float(np.mean([1 - sigmoid(BETA * (zero - o)) for o in rejected]))


def calculate(name: str, chosen: torch.Tensor, rejected: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
    return {
        "dpo": lambda: losses.dpo(chosen, rejected, beta=BETA, real=real),
        "cdpo": lambda: losses.dpo(chosen, rejected, beta=BETA, label_smoothing=0.1, real=real),
        "sdpo": lambda: losses.softmax_dpo(chosen, rejected, beta=BETA, real=real),
        "ipo": lambda: losses.ipo(chosen, rejected, beta=BETA, real=real),
        "simpo": lambda: losses.simpo(chosen, rejected, beta=BETA, gamma=0.7, real=real),
        "kto": lambda: losses.kto(chosen, rejected, beta=BETA, baseline=torch.tensor(0.4), real=real),
    }[name]()


NAMES = ("dpo", "cdpo", "sdpo", "ipo", "simpo", "kto")


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_is_what_the_paper_writes(name):
    found = calculate(name, torch.tensor(CHOSEN), torch.tensor(REJECTED), torch.tensor(REAL))
    expected = [by_hand(name, CHOSEN[row], REJECTED[row][REAL[row]].tolist()) for row in range(6)]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_float32_agrees_to_six_digits(name):
    found = calculate(name, torch.tensor(CHOSEN).float(), torch.tensor(REJECTED).float(), None)
    expected = [by_hand(name, CHOSEN[row], REJECTED[row].tolist()) for row in range(6)]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dpo", math.log(2)),
        ("cdpo", math.log(2)),
        ("sdpo", math.log(5)),
        ("ipo", 1 / (4 * BETA**2)),
        ("kto", 1.0 + sigmoid(BETA * 0.4) - sigmoid(BETA * 0.4)),
    ],
)
def test_the_value_where_the_policy_is_the_reference(name, value):
    found = calculate(name, torch.zeros(3, dtype=torch.float64), torch.zeros(3, 4, dtype=torch.float64), None)
    np.testing.assert_allclose(found.numpy(), np.full(3, value), atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_finite_differences(name):
    chosen, rejected = (torch.tensor(part, requires_grad=True) for part in (CHOSEN, REJECTED))
    assert torch.autograd.gradcheck(
        lambda left, right: calculate(name, left, right, torch.tensor(REAL)), (chosen, rejected), atol=1e-6
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_step_downhill_widens_the_margin(name):
    chosen, rejected = (torch.tensor(part, requires_grad=True) for part in (CHOSEN[:1] * 0, REJECTED[:1] * 0))
    calculate(name, chosen, rejected, None).sum().backward()
    assert float(chosen.grad) < 0
    assert (rejected.grad > 0).all()


def test_softmax_dpo_with_one_rejected_item_is_dpo():
    chosen, rejected = torch.tensor(CHOSEN), torch.tensor(REJECTED[:, :1])
    assert torch.allclose(
        losses.softmax_dpo(chosen, rejected, beta=BETA), losses.dpo(chosen, rejected, beta=BETA), atol=1e-12
    )


def test_kto_counts_a_good_item_only_where_there_is_one():
    chosen, rejected = torch.tensor(CHOSEN), torch.tensor(REJECTED)
    nothing = torch.zeros(6, 4, dtype=torch.bool)
    found = losses.kto(
        chosen,
        rejected,
        beta=BETA,
        baseline=torch.tensor(-2.0),
        wanted=torch.tensor([True, False] * 3),
        real=nothing,
    )
    expected = [1 - sigmoid(BETA * value) if row % 2 == 0 else 0.0 for row, value in enumerate(CHOSEN)]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


def test_advantages_are_centred_and_scaled_within_each_group():
    rewards = np.array([[1.0, 0.0, 0.0, 3.0], [2.0, 2.0, 2.0, 2.0], [5.0, 1.0, 9.0, 9.0]])
    real = np.array([[True] * 4, [True] * 4, [True, True, False, False]])
    found = losses.group_advantages(torch.tensor(rewards), torch.tensor(real)).numpy()
    np.testing.assert_allclose(found[0], (rewards[0] - 1.0) / rewards[0].std(), atol=1e-9)
    np.testing.assert_array_equal(found[1], np.zeros(4))
    np.testing.assert_allclose(found[2], [1.0, -1.0, 0.0, 0.0], atol=1e-9)


def surrogate_by_hand(policy, sampled, reference, advantage, early):
    if early is not None and advantage < 0:
        sampled = max(policy - math.log(1 + 0.2 + early), sampled)
    ratio = math.exp(policy - sampled)
    clipped = min(max(ratio, 0.8), 1.2)
    distance = reference - policy
    return -min(ratio * advantage, clipped * advantage) + 0.05 * (math.exp(distance) - distance - 1)


@pytest.mark.parametrize("early", [None, 0.1])
def test_the_group_loss_is_what_the_papers_write(early):
    policy, sampled, reference, advantages = (RNG.normal(size=(3, 5)) for _ in range(4))
    found = losses.group_policy(
        *(torch.tensor(part) for part in (policy, sampled, reference, advantages)),
        clip=0.2,
        early_clip=early,
        kl_weight=0.05,
    )
    expected = [
        np.mean([surrogate_by_hand(*four, early) for four in zip(*rows, strict=True)])
        for rows in zip(policy, sampled, reference, advantages, strict=True)
    ]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)


def group_gradient(ratio: float, advantage: float, early: float | None) -> float:
    policy = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, 1, dtype=torch.float64)
    losses.group_policy(
        policy, zero, zero, torch.full_like(zero, advantage), clip=0.2, early_clip=early, kl_weight=0.0
    ).sum().backward()
    return float(policy.grad)


def test_the_group_loss_pushes_by_the_advantage_where_nothing_moved():
    assert group_gradient(1.0, 2.0, None) == pytest.approx(-2.0)
    assert group_gradient(1.0, -2.0, 0.1) == pytest.approx(2.0)


def test_an_answer_that_gained_enough_is_left_alone():
    assert group_gradient(1.5, 1.0, None) == 0.0


def test_early_clipping_bounds_the_push_of_a_bad_answer():
    assert group_gradient(50.0, -1.0, None) == pytest.approx(50.0)
    assert group_gradient(50.0, -1.0, 0.1) == pytest.approx(1.3)


def test_the_group_loss_at_equal_policies_is_minus_the_mean_advantage():
    advantages = torch.tensor([[1.0, -1.0, 0.5]])
    zero = torch.zeros(1, 3)
    found = losses.group_policy(zero, zero, zero, advantages, clip=0.2, early_clip=0.1, kl_weight=1.0)
    assert float(found) == pytest.approx(-0.5 / 3)
