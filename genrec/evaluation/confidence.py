"""How sure a mean over users is: bootstrap intervals for one system and for the difference of two on the same users."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from genrec.errors import DataError
from genrec.evaluation.metrics import Evaluation

LEVEL = 0.95
DRAWS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Interval:
    """A mean and its percentile bootstrap interval.

    Attributes:
        mean: Over users.
        low: Lower end.
        high: Upper end.
    """

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside: for a difference, that chance among users does not explain it."""
        return self.low > 0 or self.high < 0


def bootstrap_intervals(
    values: Mapping[str, np.ndarray], *, samples: int, seed: int, level: float = LEVEL
) -> dict[str, Interval]:
    """Percentile intervals of means under resampling of users (Efron and Tibshirani, 1993, chapter 13).

    Users with equal values in all metrics are interchangeable, so a resample draws how many users of each kind it has:
    one multinomial over kinds, exactly the bootstrap over users, at a cost that hardly grows with their number.

    Args:
        values: Name of a metric to float64 [R], rows aligned.
        samples: Resamples; with 0 there are no intervals.
        seed: Of the draws.
        level: Share of resampled means inside the interval.

    Returns:
        Name to interval; empty if ``samples`` is 0.
    """
    if samples == 0 or not values:
        return {}
    block = np.stack(list(values.values()), axis=1)
    kinds, sizes = np.unique(block, axis=0, return_counts=True)
    generator = np.random.default_rng(seed)
    shares = sizes / len(block)
    rows = max(DRAWS_AT_ONCE // len(kinds), 1)
    draws = (min(rows, samples - done) for done in range(0, samples, rows))
    means = np.concatenate([generator.multinomial(len(block), shares, size=size) @ kinds for size in draws]) / len(
        block
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    centre = block.mean(axis=0)
    return {name: Interval(float(centre[i]), float(low[i]), float(high[i])) for i, name in enumerate(values)}


def paired_difference(
    first: Evaluation, second: Evaluation, *, samples: int, seed: int, level: float = LEVEL
) -> dict[str, Interval]:
    """Intervals of ``first - second`` on the same users, for the metrics that both have.

    Pairing removes what makes some users hard for both systems, so small differences can be distinguished from chance.

    Args:
        first: One system.
        second: The other, with the same users in the same order.
        samples: Resamples; with 0 there are no intervals.
        seed: Of the draws.
        level: Share of resampled means inside the interval.

    Raises:
        DataError: If the users differ.
    """
    if not np.array_equal(first.users, second.users):
        raise DataError(
            f"the systems were scored on different users ({len(first)} and {len(second)})",
            expected="the same users in the same order",
            fix="score both on the same part of the same data set",
        )
    shared = [name for name in first.per_user if name in second.per_user]
    differences = {name: first.per_user[name] - second.per_user[name] for name in shared}
    return bootstrap_intervals(differences, samples=samples, seed=seed, level=level)
