"""Whether a difference between two systems is more than chance: over users, and over seeds where there are several.

Two sources of chance are kept apart. *Users*: other users would have given other figures; one run of each system is
enough to see how much. *Seeds*: the same recipe with another seed is another model. A test over users alone can call
the difference of two seeds of one recipe significant, and rightly so: the two models do differ. A statement about
systems therefore needs at least ``LEAST_RUNS`` runs of each system that has a seed.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from genrec.evaluation.confidence import LEVEL, Interval

LEAST_RUNS = 3
PERMUTATIONS = 9_999
DRAWS_AT_ONCE = 4_000_000


class Estimate(NamedTuple):
    """A mean with its interval, and the p-value of the hypothesis that it is zero.

    Attributes:
        interval: Mean and 95% interval.
        p_value: Two-sided.
    """

    interval: Interval
    p_value: float


def permutation_p_value(differences: np.ndarray, *, seed: int, samples: int = PERMUTATIONS) -> float:
    """Two-sided paired permutation test of the mean (Fisher's randomization test; Smucker et al., CIKM 2007).

    If two systems are alike, each user's two values could as well be the other way round: the sign of the difference is
    a coin. Differences of one size are interchangeable, so a permutation draws how many of each size are positive: one
    binomial per size, exactly the same distribution at a cost that hardly grows with the number of users.

    Args:
        differences: float64 [U], one per user.
        seed: Of the draws.
        samples: Random permutations.

    Returns:
        Share of permutations at least as extreme as what was seen, the latter counted among them; 1 / (samples + 1) or
        more.
    """
    # Sums that differ only by rounding are equal.
    sizes, counts = np.unique(np.abs(differences).round(12), return_counts=True)
    sizes, counts = sizes[sizes > 0], counts[sizes > 0]
    observed = abs(differences.sum())
    generator = np.random.default_rng(seed)
    extreme, rows = 0, max(DRAWS_AT_ONCE // max(len(sizes), 1), 1)
    for done in range(0, samples, rows):
        positive = generator.binomial(counts, 0.5, size=(min(rows, samples - done), len(sizes)))
        sums = np.abs((2 * positive - counts) @ sizes)
        extreme += int(np.count_nonzero(sums >= observed * (1 - 1e-9) - 1e-9))
    return (extreme + 1) / (samples + 1)


def crossed_estimate(first: np.ndarray, second: np.ndarray | None = None, *, level: float = LEVEL) -> Estimate:
    """A mean over users and runs, or the difference of two on the same users, with users and seeds both random.

    Every run meets the same users, so the variance has the parts of a crossed design: that of the users, estimated from
    each user's mean over runs (for two systems the difference of these means, which pairs users); and per system that
    of its runs' means as far as it exceeds what the interaction of runs and users explains, divided by its number of
    runs. The sum has Satterthwaite's degrees of freedom (Satterthwaite, 1946; Welch, 1947), of which three runs give
    few: a bootstrap of three seeds would take their deviation for smaller than it is.

    Args:
        first: float64 [n, U], one row per run.
        second: float64 [m, U] to subtract; a system without a seed has one row.
        level: Share of samples whose interval holds the mean.
    """
    systems = [first] if second is None else [first, second]
    per_user = first.mean(axis=0) - (0.0 if second is None else second.mean(axis=0))
    users = len(per_user)
    mean, of_users = float(per_user.mean()), float(per_user.var(ddof=1) / users)
    variance, spread = of_users, of_users**2 / (users - 1)
    for runs in systems:
        count = len(runs)
        if count > 1:
            of_means = float(runs.mean(axis=1).var(ddof=1))
            variance += max(of_means - _interaction(runs) / users, 0.0) / count
            spread += (of_means / count) ** 2 / (count - 1)
    if variance == 0:
        return Estimate(Interval(mean, mean, mean), float(mean == 0))
    error, freedom = variance**0.5, variance**2 / spread
    reach = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    return Estimate(Interval(mean, mean - reach, mean + reach), float(2 * stats.t.sf(abs(mean) / error, freedom)))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm, 1979): the chance of even one false claim stays below the level.

    Args:
        p_values: Of all comparisons, in any order.

    Returns:
        Corrected ones in the same order, at most 1.
    """
    order = np.argsort(p_values, kind="stable")
    corrected = np.asarray(p_values, dtype=np.float64)[order] * np.arange(len(order), 0, -1)
    result = np.empty(len(order))
    result[order] = np.minimum(np.maximum.accumulate(corrected), 1.0) if len(order) else corrected
    return [float(value) for value in result]


def _interaction(runs: np.ndarray) -> float:
    """Mean square of what neither the run nor the user explains, float64 [n, U]."""
    rest = runs - runs.mean(axis=1, keepdims=True) - runs.mean(axis=0) + runs.mean()
    return float((rest**2).sum() / ((runs.shape[0] - 1) * (runs.shape[1] - 1)))
