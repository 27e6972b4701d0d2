"""How often `genrec compare` calls two groups of runs of one recipe different systems: it should be 5% or less.

    python scripts/benchmarks/compare_calibration.py runs/beauty-*        # at least six seeds of one recipe
    python scripts/benchmarks/compare_calibration.py                      # made-up ranks whose seeds differ much

In every trial, two groups of runs are drawn from the given ones and as many users as there are, with replacement. Any
claim about systems is false, since the recipe is the same. Next to it: how often a paired permutation test over users
alone calls the first runs of the two groups different, which is true of the two models and says nothing of the recipe,
and how often a hierarchical bootstrap over seeds and users does.
"""

import argparse
from pathlib import Path

import numpy as np
from scipy import stats

from genrec.evaluation import Evaluation, System, compare_systems, permutation_p_value
from genrec.pipeline.compare import ComparisonRequest, compare

BOOTSTRAPS = 400


def per_user(folders: list[Path], metric: str) -> np.ndarray:
    """The per-user values of every run, float64 ``[runs, U]``."""
    compared = compare(ComparisonRequest(sources=[f"one={folder}" for folder in folders], metrics=[metric]))
    return np.stack([run.result.evaluation.per_user[metric] for run in compared.groups["one"]])


def made_up(generator: np.random.Generator, runs: int = 60, users: int = 400) -> np.ndarray:
    """Reciprocal ranks of runs of one recipe: users differ, seeds differ, and so does each user's luck."""
    ability, shift = generator.normal(2, 1.2, users), generator.normal(0, 0.4, (runs, 1))
    places = np.exp(ability + shift + generator.normal(0, 0.7, (runs, users)))
    return np.where(places < 10, 1 / np.ceil(places), 0.0)


def claims(values: np.ndarray, runs: int, trials: int, generator: np.random.Generator) -> dict[str, int]:
    """How many trials claim a difference, by test.

    Args:
        values: float64 [n, U].
        runs: Runs of each group.
        trials: How many pairs of groups, each on users drawn anew.
        generator: Of the draws.
    """
    found = {"genrec compare": 0, "users alone, one run each": 0, "hierarchical bootstrap": 0}
    for _ in range(trials):
        drawn = generator.permutation(len(values))[: 2 * runs]
        users = np.asarray(generator.integers(values.shape[1], size=values.shape[1]))
        one, two = (values[part][:, users] for part in (drawn[:runs], drawn[runs:]))
        systems = [
            System(name, tuple(Evaluation(users, {"x": row}, {}) for row in group))
            for name, group in (("a", one), ("b", two))
        ]
        found["genrec compare"] += compare_systems(systems, ["x"]).pairs[0].significant
        found["users alone, one run each"] += permutation_p_value(one[0] - two[0], seed=0, samples=999) < 0.05
        found["hierarchical bootstrap"] += excludes_zero(one, two, generator)
    return found


def excludes_zero(one: np.ndarray, two: np.ndarray, generator: np.random.Generator) -> bool:
    """Whether the 95% interval of a bootstrap that draws runs of both groups and users excludes zero."""
    counts = (
        generator.multinomial(one.shape[1], np.full(one.shape[1], 1 / one.shape[1]), size=BOOTSTRAPS) / one.shape[1]
    )
    means = [
        np.take_along_axis(counts @ group.T, generator.integers(len(group), size=(BOOTSTRAPS, len(group))), 1).mean(1)
        for group in (one, two)
    ]
    low, high = np.quantile(means[0] - means[1], [0.025, 0.975])
    return bool(low > 0 or high < 0)


def main() -> None:
    """Print the share of false claims with its 95% binomial interval."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folders", nargs="*", type=Path, help="runs of one recipe with different seeds")
    parser.add_argument("--metric", default="ndcg@10")
    parser.add_argument("--runs", type=int, default=3, help="runs of each group")
    parser.add_argument("--trials", type=int, default=1000)
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    values = per_user(arguments.folders, arguments.metric) if arguments.folders else made_up(generator)
    if len(values) < 2 * arguments.runs:
        parser.error(f"{len(values)} runs are too few for two groups of {arguments.runs}")
    found = claims(values, arguments.runs, arguments.trials, generator)
    mean, deviation = values.mean(), values.mean(axis=1).std(ddof=1)
    print(f"{len(values)} runs, {values.shape[1]} users, {arguments.metric} {mean:.4f} ± {deviation:.4f} over seeds")
    for name, count in found.items():
        interval = stats.binomtest(count, arguments.trials).proportion_ci()
        share = count / arguments.trials
        print(f"{name}: {share:.3f} of {arguments.trials} trials, 95% [{interval.low:.3f}, {interval.high:.3f}]")


if __name__ == "__main__":
    main()
