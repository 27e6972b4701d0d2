"""What a generated item is worth: rules, a model that scores items, a learned model of lists, or a function of yours.

A reward takes prompts and lists ``[P, k]`` (best first, -1 = none) and gives one number per place, float ``[P, k]``;
what it gives where there is no item does not matter. What only a whole list has is credited to its places by what would
be lost without each of them.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch

from genrec.alignment.prompts import Prompts
from genrec.data.histories import pad_histories
from genrec.errors import ConfigError, DataError
from genrec.models.base import ItemScorer

if TYPE_CHECKING:
    from genrec.data import Dataset

NAMES = ("hit", "rank", "category", "diversity", "freshness", "scorer", "lists", "function")
SECONDS_PER_DAY = 86_400
SCORED_USERS = 256


class Reward(Protocol):
    """Anything that can be called like this."""

    def __call__(self, prompts: Prompts, lists: np.ndarray) -> np.ndarray:
        """One number per place, float ``[P, k]``."""


@runtime_checkable
class ListWorth(Reward, Protocol):
    """A reward that also knows what lists are worth as wholes."""

    def whole(self, prompts: Prompts, lists: np.ndarray) -> np.ndarray:
        """One number per list, float ``[P]``."""


class Hit:
    """1 where an item is what the user took next, 1/2 where it came after that, 1/3 ... within the targets.

    Targets that are alternatives, without an order among them, are worth 1 each.

    REG4Rec (2025) rewards the next N items with falling weights; with one target it is MiniOneRec's exact hit.
    """

    def __call__(self, prompts: Prompts, lists: np.ndarray) -> np.ndarray:
        """See :class:`Reward`."""
        targets, lengths = _targets(prompts)
        place = np.ones(targets.shape[1]) if prompts.targets.any_of else np.arange(1, targets.shape[1] + 1)
        gains = np.where(np.arange(targets.shape[1]) < lengths[:, None], 1.0 / place, 0.0)
        return ((lists[:, :, None] == targets[:, None, :]) * gains[:, None, :]).max(axis=2)


class RankAware:
    """A hit counts 1; in a list that holds one, other items lose the more the higher they are (MiniOneRec 2025).

    The item of rank r (from 0) gets -w_r / sum(w) with w_r = 1 / log2(r + 2); a list without a hit gets 0.
    """

    def __call__(self, prompts: Prompts, lists: np.ndarray) -> np.ndarray:
        """See :class:`Reward`."""
        hits = Hit()(prompts, lists) > 0
        weights = 1.0 / np.log2(np.arange(lists.shape[1]) + 2.0)
        loss = -weights / weights.sum()
        return np.where(hits, 1.0, np.where(hits.any(axis=1, keepdims=True), loss, 0.0))


@dataclass(frozen=True, eq=False)
class CategoryMatch:
    """1 where an item is of a category that the user took next.

    Attributes:
        labels: int ``[N]``, category of every item.
    """

    labels: np.ndarray

    def __call__(self, prompts: Prompts, lists: np.ndarray) -> np.ndarray:
        """See :class:`Reward`."""
        targets, lengths = _targets(prompts)
        wanted = np.where(np.arange(targets.shape[1]) < lengths[:, None], self.labels[targets], -1)
        return (self.labels[lists][:, :, None] == wanted[:, None, :]).any(axis=2).astype(np.float64)


@dataclass(frozen=True, eq=False)
class Diversity:
    """Share of a list's other items that are of another category.

    Attributes:
        labels: int ``[N]``, category of every item.
    """

    labels: np.ndarray

    def __call__(self, prompts: Prompts, lists: np.ndarray) -> np.ndarray:
        """See :class:`Reward`."""
        real, labels = lists >= 0, self.labels[lists]
        other = (labels[:, :, None] != labels[:, None, :]) & real[:, None, :]
        return other.sum(axis=2) / np.maximum(real.sum(axis=1, keepdims=True) - 1, 1)


@dataclass(frozen=True, eq=False)
class Values:
    """A number that each item has whoever gets it.

    Attributes:
        values: float ``[N]``.
    """

    values: np.ndarray

    def __call__(self, prompts: Prompts, lists: np.ndarray) -> np.ndarray:
        """See :class:`Reward`."""
        return np.asarray(self.values[lists])


@dataclass(frozen=True, eq=False)
class Scorer:
    """log p(item | history) of a model that scores the whole catalogue, such as SASRec.

    Attributes:
        model: In eval mode.
    """

    model: ItemScorer

    @torch.no_grad()
    def __call__(self, prompts: Prompts, lists: np.ndarray) -> np.ndarray:
        """See :class:`Reward`."""
        found = np.zeros(lists.shape)
        for first in range(0, len(lists), SCORED_USERS):
            rows = np.arange(first, min(first + SCORED_USERS, len(lists)))
            padded = pad_histories(prompts.histories, rows, self.model.max_history)
            items, lengths = (torch.from_numpy(part).to(self.model.device) for part in padded)
            scores = self.model.score_items(items, lengths).log_softmax(-1)
            chosen = torch.from_numpy(np.maximum(lists[rows], 0)).to(self.model.device)
            found[rows] = scores.gather(1, chosen).cpu().numpy()
        return found


@dataclass(frozen=True, eq=False)
class WeightedRewards:
    """A weighted sum that refuses what cannot teach anything.

    Attributes:
        parts: Name, weight and reward of each.
    """

    parts: Sequence[tuple[str, float, Reward]]

    def __call__(self, prompts: Prompts, lists: np.ndarray) -> np.ndarray:
        """See :class:`Reward`.

        Raises:
            DataError: If a reward has another shape or is not finite where there is an item.
        """
        total = np.zeros(lists.shape)
        for name, weight, reward in self.parts:
            values = np.asarray(reward(prompts, lists), dtype=np.float64)
            if values.shape != lists.shape:
                raise DataError(
                    f"the reward {name!r} is of shape {values.shape}",
                    where="alignment.rewards",
                    expected=f"one number per place, {lists.shape}",
                    fix="return one number for every item of every list",
                )
            wrong = np.argwhere((lists >= 0) & ~np.isfinite(values))
            if len(wrong):
                row, place = (int(part) for part in wrong[0])
                raise DataError(
                    f"the reward {name!r} is {values[row, place]} for item {lists[row, place]}",
                    where=f"alignment.rewards, {len(wrong)} places in all",
                    expected="finite numbers",
                    fix="correct the reward, or take it out",
                )
            total += weight * values
        return np.where(lists >= 0, total, 0.0)

    def whole(self, prompts: Prompts, lists: np.ndarray) -> np.ndarray:
        """What lists ``[P, k]`` are worth, float64 ``[P]``: as wholes, or on average over their places.

        Raises:
            DataError: As when called.
        """
        total, count = np.zeros(len(lists)), np.maximum((lists >= 0).sum(axis=1), 1)
        for name, weight, reward in self.parts:
            if isinstance(reward, ListWorth):
                total += weight * reward.whole(prompts, lists)
            else:
                total += weight * WeightedRewards([(name, 1.0, reward)])(prompts, lists).sum(axis=1) / count
        return total


def refuse_constant(lists: np.ndarray, rewards: np.ndarray) -> None:
    """Refuse rewards that are the same for all items of every list.

    Raises:
        DataError: If so.
    """
    values = np.where(lists >= 0, rewards, np.nan)
    spread = np.nanmax(values, axis=1, initial=-np.inf) - np.nanmin(values, axis=1, initial=np.inf)
    if not (spread > 1e-9).any():
        known = values[np.isfinite(values)]
        value = f"{known[0]:g}" if len(known) else "missing"
        raise DataError(
            f"the reward is {value} for every item of every list: there is nothing to prefer",
            where="alignment.rewards",
            expected="rewards that differ within a list",
            fix="choose other rewards; for hits raise alignment.pairs.list_size or alignment.hit_horizon",
        )


def check_names(rewards: Mapping[str, float]) -> None:
    """Refuse names of rewards that do not exist.

    Raises:
        ConfigError: On the first unknown one, naming the nearest, or if there is none at all.
    """
    unknown = [name for name in rewards if name not in NAMES]
    if unknown or not rewards:
        nearest = difflib.get_close_matches(unknown[0], NAMES, n=1) if unknown else []
        raise ConfigError(
            f"there is no reward {unknown[0]!r}" if unknown else "self-play and grpo need a reward",
            where="alignment.rewards",
            expected=f"some of {', '.join(NAMES)} with their weights, such as {{hit: 1}}",
            fix=f"did you mean {nearest[0]!r}?" if nearest else "choose some of these",
        )


def load_function(name: str | None) -> Reward:
    """A Python callable by ``module:name``.

    Raises:
        ConfigError: If it cannot be imported or called.
    """
    module, _, attribute = (name or "").partition(":")
    try:
        function = getattr(import_module(module), attribute) if module and attribute else None
    except (ImportError, AttributeError) as error:
        raise _no_function(name, str(error)) from error
    if not callable(function):
        raise _no_function(name, "not given" if name is None else "nothing that can be called")
    return function


def item_labels(dataset: "Dataset", column: str | None, codes: np.ndarray) -> np.ndarray:
    """The category of every item, int64 ``[N]``: the text of a column of the items, or their first codes ``[N, L]``.

    Raises:
        ConfigError: If there is no such column.
    """
    if column is None:
        return codes[:, 0].astype(np.int64)
    return np.unique(dataset.item_texts([column]), return_inverse=True)[1].astype(np.int64)


def item_freshness(dataset: "Dataset", half_life: float) -> np.ndarray:
    """How new each item is at the end of the training part: 1, half of it after ``half_life`` days; float64 ``[N]``.

    An item is as old as its first training interaction; one without any counts as old.

    Raises:
        DataError: If the training part has no timestamps.
    """
    train = dataset.train()
    times = train.timestamps
    if times is None or not (times >= 0).any():
        raise DataError(
            "the reward 'freshness' needs timestamps and there are none",
            where=str(dataset.path),
            expected="interactions with timestamps",
            fix="take 'freshness' out of alignment.rewards",
        )
    known = times >= 0
    first = np.full(dataset.num_items, np.iinfo(np.int64).max)
    np.minimum.at(first, train.items[known], times[known])
    age = (times.max() - first) / SECONDS_PER_DAY
    return np.where(first <= times.max(), 0.5 ** (np.maximum(age, 0) / half_life), 0.0)


def _targets(prompts: Prompts) -> tuple[np.ndarray, np.ndarray]:
    longest = max(int(prompts.targets.lengths.max(initial=0)), 1)
    # The first targets count most, and padding keeps the last ones: of all of them it keeps all.
    return pad_histories(prompts.targets, np.arange(len(prompts)), longest)


def _no_function(name: str | None, problem: str) -> ConfigError:
    return ConfigError(
        f"the reward function {name!r} cannot be used: {problem}",
        where="alignment.function",
        expected="module:name of a callable (prompts, lists) -> array",
        fix="check the name and that the module can be imported from here",
    )
