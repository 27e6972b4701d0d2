"""Tests of differences: against scipy and formulas worked by hand, and how often they claim what is not there."""

import numpy as np
import pytest
from scipy import stats

from genrec.evaluation.comparison import System, compare_systems
from genrec.evaluation.metrics import Evaluation
from genrec.evaluation.significance import crossed_estimate, holm, permutation_p_value


def test_holm_as_worked_by_hand():
    # Sorted .01 .02 .03 .04 times 4 3 2 1 is .04 .06 .06 .04; no corrected value is below an earlier one.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("values", [[0.5, 0.5, -0.25, 1.0, 0.0, 0.75, 0.5, 0.1], [1.0, 1.0, 1.0, 1.0, 1.0, -1.0, 0.0]])
def test_the_permutation_test_is_that_of_scipy(values):
    values = np.array(values)
    exact = stats.permutation_test(
        (values, np.zeros_like(values)), lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples"
    ).pvalue
    found = permutation_p_value(values, seed=1, samples=100_000)
    assert found == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 100_000) ** 0.5)


def test_no_difference_has_p_one_and_p_is_never_zero():
    assert permutation_p_value(np.zeros(50), seed=0) == 1.0
    assert permutation_p_value(np.full(200, 0.5), seed=0, samples=999) == 0.001


def test_of_one_run_each_the_crossed_test_is_the_paired_t_test():
    random = np.random.default_rng(0)
    first, second = random.random((1, 40)), random.random((1, 40))
    found, expected = crossed_estimate(first, second), stats.ttest_rel(first[0], second[0])
    assert found.p_value == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval(0.95)
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high))


def test_where_all_users_are_alike_the_crossed_test_is_welchs_t_test_of_the_runs():
    # 0.1 0.2 0.6 and 0.5 0.9 1.0 1.2 for every user: only seeds vary.
    ours, theirs = np.array([0.1, 0.2, 0.6]), np.array([0.5, 0.9, 1.0, 1.2])
    users = np.ones((1, 5))
    expected = stats.ttest_ind(ours, theirs, equal_var=False)
    assert crossed_estimate(ours[:, None] * users, theirs[:, None] * users).p_value == pytest.approx(expected.pvalue)
    single = stats.ttest_1samp(ours, 0.0)
    assert crossed_estimate(ours[:, None] * users).p_value == pytest.approx(single.pvalue)


def test_the_variance_of_users_runs_and_their_interaction_by_hand():
    # Runs [1 3], [3 5]: means 2 and 4, users' means 2 and 4, nothing left of interaction.
    # Variance: users 2 / 2 = 1, runs 2 / 2 = 1, together 2 with (1 + 1)^2 / (1 / 1 + 1 / 1) = 2 degrees of freedom.
    found = crossed_estimate(np.array([[1.0, 3.0], [3.0, 5.0]]))
    reach = stats.t.ppf(0.975, 2) * 2**0.5
    assert (found.interval.low, found.interval.mean, found.interval.high) == pytest.approx((3 - reach, 3, 3 + reach))
    # Runs [1 3], [3 1]: all of the runs' deviations is interaction, and so is the users'.
    assert crossed_estimate(np.array([[1.0, 3.0], [3.0, 1.0]])).interval.high == 2.0


def test_a_constant_has_no_width():
    assert crossed_estimate(np.ones((3, 4))) == crossed_estimate(np.ones((1, 4)))
    assert crossed_estimate(np.ones((3, 4)), np.ones((3, 4))).p_value == 1.0


USERS, TRIALS, SEED_DEVIATION = 400, 400, 0.05


def reciprocal_ranks(random, runs, ability):
    """Per-user reciprocal ranks of runs of one recipe: users differ, seeds differ, and so does each user's luck."""
    shift = random.normal(0, SEED_DEVIATION * 8, (runs, 1))
    places = np.exp(ability + shift + random.normal(0, 0.7, (runs, len(ability))))
    return np.where(places < 10, 1 / np.ceil(places), 0.0)


def share_of_claims(runs, trials=TRIALS):
    """How often two groups of runs of one recipe, on users drawn anew, are called different systems.

    Next to it, how often a test over users alone says so of the first two runs.
    """
    random, claims, naive = np.random.default_rng(11), 0, 0
    for _ in range(trials):
        ability = random.normal(2, 1.2, USERS)
        one, two = (reciprocal_ranks(random, runs, ability) for _ in "ab")
        systems = [System(name, tuple(evaluated(run) for run in values)) for name, values in (("a", one), ("b", two))]
        (pair,) = compare_systems(systems, ["mrr@10"]).pairs
        claims += pair.significant
        naive += stats.ttest_rel(one[0], two[0]).pvalue < 0.05
    return claims / trials, naive / trials


def evaluated(values):
    return Evaluation(np.arange(len(values)), {"mrr@10": values}, {})


@pytest.mark.parametrize("runs", [3, 5])
def test_seeds_of_one_recipe_are_not_called_different_systems(runs):
    claims, naive = share_of_claims(runs)
    # 5% of 400 trials are 20; more than 29 are seen in less than one of forty such series.
    assert claims <= stats.binom.ppf(0.975, TRIALS, 0.05) / TRIALS
    assert naive > 0.4


@pytest.mark.parametrize("runs", [1, 2])
def test_one_or_two_seeds_are_no_ground_for_a_claim_about_systems(runs):
    claims, naive = share_of_claims(runs, trials=12)
    assert claims == 0
    assert naive > 0


def test_a_real_difference_is_found():
    random = np.random.default_rng(3)
    ability = random.normal(2, 1.2, USERS)
    better, worse = reciprocal_ranks(random, 5, ability - 1.5), reciprocal_ranks(random, 5, ability)
    systems = [System(name, tuple(map(evaluated, values))) for name, values in (("a", better), ("b", worse))]
    (pair,) = compare_systems(systems, ["mrr@10"]).pairs
    assert pair.significant
    assert pair.difference.mean > 0
