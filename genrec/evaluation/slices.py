"""Where the hits come from: by popularity and time of the held-out item, and by length of the history.

The groups are fixed rules, not quantiles of one data set, so that numbers of different runs mean the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from genrec.data.histories import Histories
from genrec.data.ties import tied_with_history
from genrec.evaluation.metrics import Found, checked_ks, find_targets, ranking_metrics, row_item_pairs

HEAD_SHARE = 0.2
TIE_GROUPS = ("tied", "untied")
POPULARITY_GROUPS = ("cold", "tail", "head")
LENGTH_STARTS = (0, 1, 5, 10, 20, 50, 100)


@dataclass(frozen=True)
class Slice:
    """One group of held-out items or users.

    Attributes:
        users: Users with at least one held-out item in the group.
        targets: Held-out items in the group.
        metrics: Means over these users, counting only held-out items of the group.
    """

    users: int
    targets: int
    metrics: dict[str, float]

    def as_json(self) -> dict[str, int | dict[str, float]]:
        """The slice as it is in ``metrics.json``."""
        return {"users": self.users, "targets": self.targets, "metrics": self.metrics}


Slices = dict[str, dict[str, Slice]]


def popularity_groups(popularity: np.ndarray) -> np.ndarray:
    """The group of every item: 0 cold, 1 tail, 2 head, int8 [N].

    Cold items have no interaction in training. Of the others the most popular fifth (rounded up, ties by item
    position) is the head, the rest the tail.

    Args:
        popularity: int [N], interactions in the training part.
    """
    order = np.argsort(-popularity, kind="stable")
    warm = int(np.count_nonzero(popularity))
    groups = np.zeros(len(popularity), dtype=np.int8)
    groups[order[:warm]] = 1
    groups[order[: int(np.ceil(HEAD_SHARE * warm))]] = 2
    return groups


def length_group(lengths: np.ndarray) -> np.ndarray:
    """The group of every history by its number of items: the index of its start in ``LENGTH_STARTS``, int64 [R]."""
    return np.searchsorted(LENGTH_STARTS, lengths, side="right") - 1


def length_labels() -> list[str]:
    """Names of the groups of history lengths: ``0``, ``1-4``, ... ``100+``."""
    pairs = pairwise(LENGTH_STARTS)
    labels = [str(start) if end == start + 1 else f"{start}-{end - 1}" for start, end in pairs]
    return [*labels, f"{LENGTH_STARTS[-1]}+"]


def evaluate_slices(
    recommended: np.ndarray,
    histories: Histories,
    targets: Histories,
    *,
    popularity: np.ndarray,
    ks: Sequence[int],
) -> Slices:
    """Metrics per group; a group without any held-out item is left out.

    A user whose held-out items belong to several groups is counted in each, there with the items of that group only.

    Args:
        recommended: int [R, K], dense items, best first; -1 = none.
        histories: R rows that the lists were made from.
        targets: R rows of held-out items.
        popularity: int [N], interactions in the training part.
        ks: Lengths of list to score.

    Returns:
        ``item_popularity`` (cold, tail, head), ``history_length`` and, where an item is tied, ``ties`` (tied, untied:
        whether the held-out item has the time of the last item of the history; those with an unknown time are left
        out) to the slices by group.
    """
    ks = checked_ks(ks)
    found = find_targets(recommended, targets, len(popularity))
    groupings = (
        ("item_popularity", POPULARITY_GROUPS, popularity_groups(popularity)[found.items]),
        ("history_length", length_labels(), length_group(histories.lengths)[found.rows]),
        ("ties", TIE_GROUPS, _tie_group(found, histories, targets, len(popularity))),
    )
    slices = {
        name: {
            label: _score(found, groups == group, ks) for group, label in enumerate(labels) if (groups == group).any()
        }
        for name, labels, groups in groupings
    }
    # Without a tied item, the untied ones would repeat the whole.
    return slices if "tied" in slices["ties"] else {name: slices[name] for name in slices if name != "ties"}


def _tie_group(found: Found, histories: Histories, targets: Histories, num_items: int) -> np.ndarray:
    """Index in ``TIE_GROUPS`` of every target, int64 [P]; -1 where a time is unknown.

    An item that is held out twice is tied if it is so once.
    """
    tied, pairs = tied_with_history(histories, targets), row_item_pairs(targets, num_items)
    wanted = found.rows * num_items + found.items
    groups = np.full(len(wanted), -1)
    for group, value in ((1, 0), (0, 1)):
        groups[np.isin(wanted, pairs[tied == value])] = group
    return groups


def _score(found: Found, chosen: np.ndarray, ks: Sequence[int]) -> Slice:
    users, rows = np.unique(found.rows[chosen], return_inverse=True)
    part = Found(rows, found.items[chosen], found.places[chosen], found.any_of)
    metrics = ranking_metrics(part, len(users), ks)
    return Slice(len(users), int(chosen.sum()), {name: float(values.mean()) for name, values in metrics.items()})
