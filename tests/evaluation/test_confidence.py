import numpy as np
import pytest

from genrec.errors import DataError
from genrec.evaluation.confidence import Interval, bootstrap_intervals, paired_difference
from genrec.evaluation.metrics import Evaluation


def evaluation(values, users=None):
    return Evaluation(np.arange(len(values)) if users is None else users, {"recall@1": np.asarray(values, float)}, {})


def test_intervals_equal_those_of_a_plain_bootstrap():
    generator = np.random.default_rng(0)
    values = generator.choice([0.0, 0.3, 1.0], size=400, p=[0.7, 0.2, 0.1])
    plain = [values[generator.integers(0, 400, 400)].mean() for _ in range(20_000)]
    found = bootstrap_intervals({"m": values}, samples=20_000, seed=1)["m"]
    assert found.mean == pytest.approx(values.mean())
    np.testing.assert_allclose([found.low, found.high], np.quantile(plain, [0.025, 0.975]), atol=2e-3)


def test_a_level_is_the_share_of_means_inside():
    values = np.random.default_rng(0).random(300)
    found = bootstrap_intervals({"m": values}, samples=4000, seed=1, level=0.5)["m"]
    # The normal approximation of a mean's middle half.
    half = 0.6745 * values.std() / np.sqrt(300)
    np.testing.assert_allclose([found.low, found.high], [values.mean() - half, values.mean() + half], atol=2e-3)


def test_the_seed_decides_and_order_of_users_does_not():
    values = np.random.default_rng(2).random((2, 50)).round(1)
    first = bootstrap_intervals({"a": values[0], "b": values[1]}, samples=200, seed=3)
    order = np.random.default_rng(0).permutation(50)
    again = bootstrap_intervals({"a": values[0][order], "b": values[1][order]}, samples=200, seed=3)
    assert {name: (part.low, part.high) for name, part in first.items()} == {
        name: (part.low, part.high) for name, part in again.items()
    }
    assert bootstrap_intervals({"a": values[0]}, samples=200, seed=4)["a"] != first["a"]


def test_draws_in_pieces_are_as_many(monkeypatch):
    monkeypatch.setattr("genrec.evaluation.confidence.DRAWS_AT_ONCE", 10)
    values = np.array([0.0, 1.0, 1.0, 0.5])
    found = bootstrap_intervals({"m": values}, samples=3001, seed=0)["m"]
    assert found.low == pytest.approx(0.25, abs=0.13)
    assert found.high == 1.0


def test_no_samples_no_intervals():
    assert bootstrap_intervals({"m": np.ones(3)}, samples=0, seed=0) == {}


def test_pairing_finds_a_small_difference_that_two_intervals_hide():
    generator = np.random.default_rng(1)
    hard = (generator.random(500) < 0.5).astype(float)
    better = np.clip(hard + (generator.random(500) < 0.03), 0, 1)
    alone = [bootstrap_intervals({"m": values}, samples=2000, seed=0)["m"] for values in (hard, better)]
    assert alone[0].high > alone[1].low
    paired = paired_difference(evaluation(better), evaluation(hard), samples=2000, seed=0)["recall@1"]
    assert paired.mean == pytest.approx((better - hard).mean())
    assert paired.excludes_zero
    assert paired.low > 0


def test_excludes_zero():
    assert Interval(-0.2, -0.3, -0.1).excludes_zero
    assert not Interval(0.1, -0.1, 0.3).excludes_zero


def test_other_users_cannot_be_paired():
    with pytest.raises(DataError, match=r"different users \(2 and 2\)\n.*the same users in the same order"):
        paired_difference(evaluation([0, 1]), evaluation([0, 1], np.array([0, 5])), samples=10, seed=0)
