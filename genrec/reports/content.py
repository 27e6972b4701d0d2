"""What a report is made of: plain data that the pipeline hands over, and examples of lists in titles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from genrec.data.histories import Histories

if TYPE_CHECKING:
    from genrec.data import Dataset

SHOWN_HISTORY = 12


@dataclass(frozen=True)
class Listed:
    """One place of a list.

    Attributes:
        title: What to call the item.
        score: What ranked it, or None.
        held_out: Whether it is an item that the user really had next.
    """

    title: str
    score: float | None = None
    held_out: bool = False


@dataclass(frozen=True)
class Example:
    """One user's history with the lists.

    Attributes:
        user: External id.
        history: Titles of the last items, oldest first.
        history_length: Items in the whole history.
        recommended: The list, best first.
        held_out: Titles of the items that the user really had next; empty where nothing is held out.
    """

    user: str
    history: tuple[str, ...]
    history_length: int
    recommended: tuple[Listed, ...]
    held_out: tuple[str, ...] = ()

    @property
    def place(self) -> int | None:
        """Place of the first held-out item in the list, from 1; None if it is not listed."""
        return next((place for place, item in enumerate(self.recommended, start=1) if item.held_out), None)


@dataclass(frozen=True)
class Change:
    """One user's list before and after alignment, in titles.

    Attributes:
        user: External id.
        history: The last items, oldest first.
        before: Best first.
        after: Best first.
    """

    user: str
    history: tuple[str, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]

    @property
    def sides(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """Both lists under their headings: every title with a mark, ``gone`` or ``new`` where the other lacks it."""
        before = [(title, "" if title in self.after else "gone") for title in self.before]
        after = [(title, "" if title in self.before else "new") for title in self.after]
        return [("Before", before), ("After", after)]


@dataclass(frozen=True)
class ReportContent:
    """Everything that a report or a model card shows; what is empty is left out of it.

    Attributes:
        name: Name of the run or the data set, the page's headline.
        system: What to call the recommender in tables.
        runs: One ``metrics.json`` per seed, as made by :func:`genrec.evaluation.protocol.metrics_json`; intervals,
            slices and protocol are those of the first.
        statistics: ``statistics.json`` of the data set.
        training: Records of ``metrics.jsonl``.
        quality: ``quality.json`` of the item tokenizer.
        experts: ``experts.json`` of a model with sparse experts.
        examples: Users with their lists.
        alignment: ``alignment.json`` of an aligned model.
        changes: Users with their lists before and after alignment.
        environment: ``env.json``: versions, hardware.
        recipe: The resolved ``config.yaml`` as text.
        seconds: Stage to seconds.
        created: Date and time, as it shall be printed.
    """

    name: str
    system: str
    runs: Sequence[Mapping[str, Any]]
    statistics: Mapping[str, Any] = field(default_factory=dict)
    training: Sequence[Mapping[str, Any]] = ()
    quality: Mapping[str, Any] = field(default_factory=dict)
    experts: Mapping[str, Any] = field(default_factory=dict)
    examples: Sequence[Example] = ()
    alignment: Mapping[str, Any] = field(default_factory=dict)
    changes: Sequence[Change] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    created: str = ""


def make_examples(
    dataset: "Dataset",
    histories: Histories,
    items: np.ndarray,
    scores: np.ndarray | None = None,
    *,
    targets: Histories | None = None,
    count: int = 3,
    top_k: int = 10,
    seed: int = 0,
) -> list[Example]:
    """Users drawn at random, with titles; the first one among those whose held-out item was found, if there is one.

    Args:
        dataset: For titles and user ids.
        histories: R rows.
        items: int [R, K], dense items, best first; -1 = none.
        scores: float [R, K], or None.
        targets: R rows of held-out items, or None.
        count: Users.
        top_k: Places shown.
        seed: Of the draw.
    """
    items = np.asarray(items)[:, :top_k]
    order = np.random.default_rng(seed).permutation(len(histories))[: max(count * 200, 1000)]
    if targets is not None:
        found = [row for row in order if np.isin(targets[row], items[row]).any()]
        order = np.concatenate([found[:1], order[order != found[0]]]) if found else order
    return [_example(dataset, histories, items, scores, targets, int(row)) for row in order[:count]]


def _example(
    dataset: "Dataset",
    histories: Histories,
    items: np.ndarray,
    scores: np.ndarray | None,
    targets: Histories | None,
    row: int,
) -> Example:
    held_out = targets[row].tolist() if targets is not None else []
    listed = [
        Listed(dataset.title(item), None if scores is None else float(scores[row, place]), item in held_out)
        for place, item in enumerate(items[row].tolist())
        if item >= 0
    ]
    return Example(
        user=dataset.user_ids[int(histories.users[row])],
        history=tuple(dataset.title(item) for item in histories[row][-SHOWN_HISTORY:].tolist()),
        history_length=len(histories[row]),
        recommended=tuple(listed),
        held_out=tuple(dataset.title(item) for item in held_out),
    )
