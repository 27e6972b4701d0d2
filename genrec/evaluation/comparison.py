"""Systems side by side on the same users: means, intervals, and which differences are more than chance."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from string import ascii_lowercase
from typing import Literal

import numpy as np

from genrec.errors import ConfigError, DataError
from genrec.evaluation.confidence import Interval, bootstrap_intervals
from genrec.evaluation.metrics import Evaluation
from genrec.evaluation.significance import LEAST_RUNS, PERMUTATIONS, crossed_estimate, holm, permutation_p_value
from genrec.evaluation.tables import DAGGER, ResultsTable, Row

ALPHA = 0.05
SAMPLES = 1_000
SEED = 0
Scope = Literal["systems", "runs", "stopped"]
Test = Literal["permutation", "crossed"]


@dataclass(frozen=True, eq=False)
class System:
    """One system and its runs.

    Attributes:
        name: What it is called.
        runs: What each run scored; all of the same users in the same order.
        has_seed: Whether another seed would have given other lists.
        stopped: Why and where a training ended before its budget; None if all were finished.
    """

    name: str
    runs: tuple[Evaluation, ...]
    has_seed: bool = True
    stopped: str | None = None

    @property
    def stands_for_itself(self) -> bool:
        """Whether its runs say something of the system: it has no seed, or enough of them were tried."""
        return not self.has_seed or len(self.runs) >= LEAST_RUNS

    @property
    def varies(self) -> bool:
        """Whether the variance between its seeds is known."""
        return self.has_seed and len(self.runs) >= LEAST_RUNS

    def values(self, metric: str) -> np.ndarray:
        """The per-user values of a metric, float64 ``[runs, U]``."""
        return np.stack([run.per_user[metric] for run in self.runs])


@dataclass(frozen=True)
class Pair:
    """One comparison of the table.

    Attributes:
        metric: Such as ``ndcg@10``.
        first: Name of a system.
        second: Name of another.
        difference: Mean of first minus second with its interval.
        scope: What a small p-value says something of: the ``systems``, or only these ``runs``; ``stopped`` where a
            training was not finished and nothing is tested.
        test: How the interval and the p-value were made.
        p_value: Two-sided; None where nothing is tested.
        corrected: After Holm's correction over all comparisons that are tested.
    """

    metric: str
    first: str
    second: str
    difference: Interval
    scope: Scope
    test: Test
    p_value: float | None = None
    corrected: float | None = None

    @property
    def significant(self) -> bool:
        """Whether the two systems, not only these runs of them, differ by more than chance."""
        return self.scope == "systems" and self.corrected is not None and self.corrected < ALPHA


@dataclass(frozen=True)
class Comparison:
    """Systems by metrics with all comparisons.

    Attributes:
        table: Mean, deviation over runs and interval of every system.
        pairs: The comparisons, by metric.
        conditions: Name and value of what holds for all systems.
        notes: What a reader must know of the systems.
        has_seed: By system, whether it has one.
    """

    table: ResultsTable
    pairs: tuple[Pair, ...]
    conditions: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    has_seed: dict[str, bool]

    def letter(self, system: str) -> str:
        """The letter of a system: a, b, ... z, aa, ab, ..."""
        place, text = [row.system for row in self.table.rows].index(system) + 1, ""
        while place:
            place, rest = divmod(place - 1, len(ascii_lowercase))
            text = ascii_lowercase[rest] + text
        return text

    def beaten(self, system: str, metric: str) -> list[str]:
        """Letters of the systems that a system is significantly better than."""
        found = []
        for pair in self.pairs:
            if pair.metric == metric and pair.significant and pair.difference.mean:
                better, worse = (pair.first, pair.second) if pair.difference.mean > 0 else (pair.second, pair.first)
                if better == system:
                    found.append(self.letter(worse))
        return sorted(found, key=lambda letter: (len(letter), letter))

    @property
    def explanations(self) -> list[str]:
        """What the signs of the table mean and how intervals and tests were made, a sentence each."""
        rows, tested = self.table.rows, [pair for pair in self.pairs if pair.p_value is not None]
        tests = {pair.test for pair in tested}
        several = any(len(row.deviation) for row in rows)
        few = any(row.runs < LEAST_RUNS for row in rows)
        many = any(row.runs >= LEAST_RUNS for row in rows)
        lines = {
            "±: standard deviation over the runs (seeds) of a system": several,
            f"[ ]: 95% interval; of fewer than {LEAST_RUNS} runs by bootstrap over users ({SAMPLES:,} resamples), "
            "which says nothing of other seeds": few,
            f"[ ]{' of more runs' if few else ': 95% interval'}: users and seeds both random (Student's t, "
            "Satterthwaite's degrees of freedom)": many,
            f"permutation: paired test over users ({PERMUTATIONS:,} random permutations of the signs)": (
                "permutation" in tests
            ),
            "crossed: paired test over users and seeds (Welch's t, Satterthwaite's degrees of freedom)": (
                "crossed" in tests
            ),
            f"p after Holm's correction over the {len(tested)} comparisons tested; letters: significantly better than "
            f"these systems (p < {ALPHA})": bool(tested),
            f"runs: a system with a seed has fewer than {LEAST_RUNS} runs, so the test is about these runs and nothing "
            f"is said of the systems; train {LEAST_RUNS} seeds of each": any(pair.scope == "runs" for pair in tested),
            f"{DAGGER}: not finished; no difference to it is tested": bool(self.table.footnotes),
        }
        return [line for line, wanted in lines.items() if wanted]


def compare_systems(
    systems: Sequence[System],
    metrics: Sequence[str],
    *,
    reference: str | None = None,
    conditions: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
) -> Comparison:
    """Put systems side by side and test every pair of them in every metric.

    Args:
        systems: All on the same users in the same order.
        metrics: Per-user metrics, tested, and those of all lists together, which are only shown.
        reference: Compare the others with this system only; all pairs if None.
        conditions: What holds for all.
        notes: What a reader must know.

    Raises:
        ConfigError: If there is no system with the name ``reference``.
        DataError: If there are fewer than two users.
    """
    names = [system.name for system in systems]
    if reference is not None and reference not in names:
        raise ConfigError(
            f"there is no system {reference!r} to compare with", where="--reference", expected=f"one of {names}"
        )
    if len(systems[0].runs[0]) < 2:
        raise DataError("there is only one user", expected="at least two, to say how sure a mean over users is")
    tested = [metric for metric in metrics if all(metric in run.per_user for one in systems for run in one.runs)]
    pairs = [
        compare_pair(first, second, metric)
        for metric in tested
        for first, second in combinations(systems, 2)
        if reference is None or reference in (first.name, second.name)
    ]
    rows = tuple(_row(system, metrics, tested) for system in systems)
    seeds = {system.name: system.has_seed for system in systems}
    return Comparison(
        ResultsTable(tuple(metrics), rows), tuple(_corrected(pairs)), tuple(conditions), tuple(notes), seeds
    )


def compare_pair(first: System, second: System, metric: str) -> Pair:
    """Compare two systems in one metric, not yet corrected for other comparisons.

    Args:
        first: One system.
        second: The other, on the same users.
        metric: A per-user metric of both.
    """
    ours, theirs = first.values(metric), second.values(metric)
    differences = ours.mean(axis=0) - theirs.mean(axis=0)
    known = first.stands_for_itself and second.stands_for_itself
    crossed = known and (first.varies or second.varies)
    scope: Scope = "stopped" if first.stopped or second.stopped else "systems" if known else "runs"
    p_value: float | None
    if crossed:
        difference, p_value = crossed_estimate(ours, theirs)
    else:
        difference = bootstrap_intervals({metric: differences}, samples=SAMPLES, seed=SEED)[metric]
        p_value = permutation_p_value(differences, seed=SEED) if scope != "stopped" else None
    return Pair(
        metric=metric,
        first=first.name,
        second=second.name,
        difference=difference,
        scope=scope,
        test="crossed" if crossed else "permutation",
        p_value=None if scope == "stopped" else p_value,
    )


def _corrected(pairs: Sequence[Pair]) -> list[Pair]:
    values = iter(holm([pair.p_value for pair in pairs if pair.p_value is not None]))
    return [pair if pair.p_value is None else replace(pair, corrected=next(values)) for pair in pairs]


def _row(system: System, metrics: Sequence[str], tested: Sequence[str]) -> Row:
    found = {metric: [run.metrics[metric] for run in system.runs] for metric in metrics}
    several = len(system.runs) > 1
    if len(system.runs) >= LEAST_RUNS:
        intervals = {metric: crossed_estimate(system.values(metric)).interval for metric in tested}
    else:
        means = {metric: system.values(metric).mean(axis=0) for metric in tested}
        intervals = bootstrap_intervals(means, samples=SAMPLES, seed=SEED)
    return Row(
        system.name,
        len(system.runs),
        {metric: float(np.mean(values)) for metric, values in found.items()},
        {metric: float(np.std(values, ddof=1)) for metric, values in found.items()} if several else {},
        {metric: (interval.low, interval.high) for metric, interval in intervals.items()},
        system.stopped,
    )
