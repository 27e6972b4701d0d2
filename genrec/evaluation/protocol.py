"""A result and the conditions that it was measured under: what ``metrics.json`` holds.

A number is only worth something together with its split, history length, seen-item masking, beams, encoder and seeds:
a result cannot be made without a protocol.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from genrec.config import EvaluationConfig, Section
from genrec.config.ranges import Beams, CountOrZero, Few, HistoryLength, Seed, Share
from genrec.config.sections import Ties
from genrec.data.histories import Histories
from genrec.evaluation.confidence import LEVEL, Interval, bootstrap_intervals, paired_difference
from genrec.evaluation.metrics import Evaluation, evaluate_lists, row_item_pairs
from genrec.evaluation.slices import Slices, evaluate_slices

if TYPE_CHECKING:
    from genrec.data import Dataset

Part = Literal["validation", "test"]
BOOTSTRAP_SEED = 0


class Protocol(Section):
    """The conditions of a measurement; None where a condition does not apply or is not known."""

    split: str
    part: Part
    catalogue: CountOrZero
    exclude_seen: bool
    max_history: HistoryLength | None = None
    num_beams: Beams | None = None
    session_size: Few | None = None
    encoder: str | None = None
    tokenizer: str | None = None
    collision_rate: Share | None = None
    selection: str | None = None
    seeds: tuple[Seed, ...] = ()
    ties: Ties = "file"
    ties_seed: Seed | None = None
    stopped: str | None = Field(None, description="why and where training ended before its budget; null if it did not")

    @classmethod
    def on(cls, dataset: "Dataset", part: Part, **conditions: Any) -> "Protocol":
        """The conditions that a data set sets, and others.

        Args:
            dataset: Where lists are measured; gives split, catalogue and ties.
            part: Which held-out items.
            conditions: The other fields.
        """
        return cls(
            split=dataset.split,
            part=part,
            catalogue=dataset.num_items,
            ties=dataset.ties,
            ties_seed=dataset.ties_seed,
            **conditions,
        )

    def in_words(self) -> list[tuple[str, str]]:
        """Name and value of every condition, for people."""
        beams = "no beam search" if self.num_beams is None else f"{self.num_beams}"
        collisions = None if self.collision_rate is None else f"{self.collision_rate:.2%} before the policy"
        rows = [
            ("Ranking", f"item-level, full catalogue of {self.catalogue:,} items"),
            ("Split", f"{self.split}, {self.part} part"),
            ("Ties", self._ties_in_words()),
            ("Seen items", "left out of the lists" if self.exclude_seen else "may be recommended again"),
            ("History", None if self.max_history is None else f"the last {self.max_history} items"),
            ("Beams", beams),
            ("Sessions", None if self.session_size is None else f"{self.session_size} items written as one sequence"),
            ("Item encoder", self.encoder),
            ("Item tokenizer", self.tokenizer),
            ("Collision rate", collisions),
            ("Model selection", self.selection),
            ("Seeds", ", ".join(map(str, self.seeds)) or None),
            ("Training", self.stopped),
        ]
        return [(name, value) for name, value in rows if value is not None]

    def _ties_in_words(self) -> str | None:
        words = {
            "shuffle": f"interactions of a user at one time in an order drawn with seed {self.ties_seed}",
            "exclude": "any item of a user's last distinct time is a hit, none of them is history",
        }
        return words.get(self.ties)


@dataclass(frozen=True, eq=False)
class Result:
    """One system, measured.

    Attributes:
        system: What to call it.
        evaluation: Metrics, per user and in all.
        confidence: Intervals of the per-user metrics; empty without bootstrap.
        slices: Metrics per group.
        protocol: The conditions.
        samples: Bootstrap resamples.
        settings: What the system ran with, where that is worth knowing.
        notes: What a reader must know.
        recommended: int [R, K], the lists that were measured, as given to :func:`score_lists`.
    """

    system: str
    evaluation: Evaluation
    confidence: dict[str, Interval]
    slices: Slices
    protocol: Protocol
    samples: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    recommended: np.ndarray | None = None

    def as_json(self) -> dict[str, Any]:
        """The result as it is in ``metrics.json``."""
        return {
            "system": self.system,
            "split": self.protocol.part,
            "users": len(self.evaluation),
            "metrics": self.evaluation.metrics,
            "confidence": {
                "level": LEVEL,
                "samples": self.samples,
                "intervals": {name: [interval.low, interval.high] for name, interval in self.confidence.items()},
            },
            "slices": {
                name: {group: part.as_json() for group, part in groups.items()} for name, groups in self.slices.items()
            },
            "protocol": self.protocol.model_dump(mode="json"),
            "settings": dict(self.settings),
            "notes": list(self.notes),
        }


def score_lists(
    system: str,
    recommended: np.ndarray,
    dataset: "Dataset",
    protocol: Protocol,
    config: EvaluationConfig | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> Result:
    """Measure the lists of one system on one part of a data set.

    Args:
        system: What to call it.
        recommended: int [R, K], dense items, best first, -1 = none; rows as in ``dataset.evaluation(protocol.part)``.
        dataset: A prepared data set.
        protocol: The conditions; see :class:`Protocol`.
        config: Which ks, how many bootstrap samples.
        settings: What the system ran with, where that is worth knowing.
        notes: What a reader must know.

    Raises:
        DataError: If the lists do not fit the data set; see :func:`genrec.evaluation.metrics.evaluate_lists`.
        ConfigError: If ks cannot be used.
    """
    config = config or EvaluationConfig()
    histories, targets = dataset.evaluation(protocol.part)
    popularity = dataset.train_popularity()
    evaluation = evaluate_lists(recommended, targets, num_items=dataset.num_items, popularity=popularity, ks=config.ks)
    slices = evaluate_slices(np.asarray(recommended), histories, targets, popularity=popularity, ks=config.ks)
    samples = config.bootstrap_samples
    confidence = bootstrap_intervals(evaluation.per_user, samples=samples, seed=BOOTSTRAP_SEED)
    repeated = _repeated_targets(histories, targets, dataset.num_items) if protocol.exclude_seen else 0
    if repeated:
        lost = f"{repeated} held-out items are in their user's history: out of reach with seen items left out"
        notes = (*notes, lost)
    settings, notes = settings or {}, tuple(notes)
    return Result(system, evaluation, confidence, slices, protocol, samples, settings, notes, np.asarray(recommended))


def metrics_json(result: Result, baselines: Sequence[Result] = (), variants: Sequence[Result] = ()) -> dict[str, Any]:
    """The content of ``metrics.json``: a result, the baselines, and variants of the system itself.

    Args:
        result: The system of the run.
        baselines: Others on the same users; each gets ``difference``, per metric the mean of result minus baseline with
            its paired bootstrap interval ``[mean, low, high]``.
        variants: The system with a part of it left out, or before it was aligned; they get a difference, too.

    Raises:
        DataError: If a baseline was measured on other users.
    """
    groups = {
        name: {other.system: _compared(result, other) for other in others}
        for name, others in (("baselines", baselines), ("variants", variants))
    }
    unfinished = [
        f"{other.system} was {other.protocol.stopped}: its figures are not those of a finished training"
        for other in (result, *baselines, *variants)
        if other.protocol.stopped
    ]
    values = result.as_json()
    return values | groups | {"notes": [*values["notes"], *unfinished]}


def _compared(result: Result, other: Result) -> dict[str, Any]:
    differences = paired_difference(result.evaluation, other.evaluation, samples=result.samples, seed=BOOTSTRAP_SEED)
    return other.as_json() | {
        "difference": {name: [part.mean, part.low, part.high] for name, part in differences.items()}
    }


def _repeated_targets(histories: Histories, targets: Histories, num_items: int) -> int:
    held_out, seen = row_item_pairs(targets, num_items), row_item_pairs(histories, num_items)
    return int(np.isin(held_out, seen).sum())
