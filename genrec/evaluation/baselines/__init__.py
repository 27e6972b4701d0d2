"""Baselines that need no training loop, fitted on the training part alone: popularity, item-kNN, transitions."""

from typing import TYPE_CHECKING

from genrec.errors import ConfigError
from genrec.evaluation.baselines.base import Baseline, Popularity
from genrec.evaluation.baselines.itemknn import ItemKNN, ItemKNNSettings
from genrec.evaluation.baselines.transition import Transition, TransitionSettings

if TYPE_CHECKING:
    from genrec.data import Dataset

__all__ = ["Baseline", "ItemKNN", "ItemKNNSettings", "Popularity", "Transition", "TransitionSettings", "fit_baseline"]

TUNED: dict[str, type[ItemKNN] | type[Transition]] = {ItemKNN.name: ItemKNN, Transition.name: Transition}
UNTRAINED = (Popularity.name, *TUNED)


def fit_baseline(name: str, dataset: "Dataset", *, exclude_seen: bool = True) -> Baseline:
    """A fitted baseline by its name in ``evaluation.baselines``.

    Args:
        name: ``popularity``, ``itemknn`` or ``transition``.
        dataset: A prepared data set.
        exclude_seen: As in the evaluation to come; what is tuned is tuned under the same rule.

    Raises:
        ConfigError: If there is no such baseline.
    """
    if name == Popularity.name:
        return Popularity(dataset.train_popularity())
    if name in TUNED:
        return TUNED[name].tuned(dataset, exclude_seen=exclude_seen)
    raise ConfigError(
        f"there is no baseline {name!r}",
        where="evaluation.baselines",
        expected=f"{', '.join(UNTRAINED)} or sasrec",
        fix="correct its name or remove it",
    )
