"""Preferences from what users did: explicit feedback, implicit feedback with hard negatives, self-play with a reward.

All of it reads the training part only.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from genrec.alignment.preferences import Preferences, nearest_column
from genrec.alignment.prompts import Prompts, seen_items
from genrec.config import PairsConfig
from genrec.data.histories import Histories
from genrec.errors import ConfigError, DataError
from genrec.evaluation.metrics import row_item_pairs

if TYPE_CHECKING:
    from genrec.data import Dataset


def feedback_column(dataset: "Dataset", name: str) -> np.ndarray:
    """A column of the interactions as float64 ``[interactions]``, NaN where empty, in the order of ``dataset.full()``.

    Raises:
        ConfigError: If there is no such column, naming the nearest.
        DataError: If it holds no numbers.
    """
    frame = dataset.interactions
    if name not in frame.columns or name in ("user_id", "item_id"):
        others = [column for column in frame.columns if column not in ("user_id", "item_id", "timestamp", "order")]
        nearest = nearest_column(name, others)
        raise ConfigError(
            f"the interactions have no feedback column {name!r}",
            where="alignment.pairs.column, alignment.objectives",
            expected=f"one of {', '.join(others) or 'none: there is no feedback in these data'}",
            fix=f"did you mean {nearest!r}?" if nearest else "use alignment.pairs.source: implicit",
        )
    values = frame[name].cast(pl.Float64, strict=False)
    if values.null_count() == frame.height:
        raise DataError(
            f"the feedback column {name!r} holds no numbers",
            where=str(dataset.path),
            expected="ratings, watch times, or 0 and 1",
            fix="choose another column",
        )
    return values.fill_null(np.nan).to_numpy()


def training_feedback(dataset: "Dataset", name: str) -> tuple[Histories, np.ndarray]:
    """The training part and the feedback of each of its interactions, float64 ``[total]``, NaN where there is none.

    Raises:
        ConfigError: If there is no such column.
        DataError: If it holds no numbers.
    """
    values, everything, train = feedback_column(dataset, name), dataset.full(), dataset.train()
    first = np.zeros(dataset.num_users, dtype=np.int64)
    first[everything.users] = everything.offsets[:-1]
    positions = np.repeat(first[train.users] - train.offsets[:-1], train.lengths) + np.arange(len(train.items))
    return train, values[positions]


def explicit_pairs(
    dataset: "Dataset", config: PairsConfig, *, max_history: int, seed: int, unpaired: bool = False
) -> Preferences:
    """Well-rated against badly-rated items of one user that lie close together; the history ends before both.

    Args:
        dataset: With a feedback column.
        config: ``column``, ``good``, ``bad``, ``horizon``, ``rejected``, ``per_user``.
        max_history: Most items of a history.
        seed: Draws which pairs are kept.
        unpaired: One row per well-rated and per badly-rated item, each with the history before it.

    Raises:
        ConfigError: If there is no such column.
        DataError: If no two interactions make a pair.
    """
    train, values = training_feedback(dataset, config.column)
    found: list[tuple[int, int, int, list[int]]] = []
    for row in range(len(train)):
        feedback = values[train.offsets[row] : train.offsets[row + 1]]
        make = _single_sides if unpaired else _close_pairs
        pairs = make(train[row], feedback, config)
        random = np.random.default_rng([seed, int(train.users[row])])
        kept = np.sort(random.permutation(len(pairs))[: config.per_user])
        found += [(row, *pairs[number]) for number in kept]
    if not found:
        raise DataError(
            f"no user has a {config.column} of {config.good:g} or more near one of {config.bad:g} or less",
            where=f"the training part of {dataset.path}",
            expected="well-rated and badly-rated items of one user, at most alignment.pairs.horizon apart",
            fix="change alignment.pairs.good, bad or horizon, or use source: implicit",
        )
    rows, ends, chosen, rejected = (np.array(part, dtype=object) for part in zip(*found, strict=True))
    rows, ends = rows.astype(np.int64), ends.astype(np.int64)
    known = np.minimum(ends, max_history)
    histories = train.slice(train.users[rows], train.offsets[:-1][rows] + ends - known, known)
    block = np.full((len(found), config.rejected), -1, dtype=np.int64)
    for number, items in enumerate(rejected):
        block[number, : len(items)] = items
    return _equal_weights(histories, chosen.astype(np.int64), block, f"explicit:{config.column}")


def implicit_pairs(
    dataset: "Dataset", prompts: Prompts, config: PairsConfig, *, lists: np.ndarray | None, seed: int
) -> Preferences:
    """The item that a user took next against items that the user never took.

    Args:
        dataset: For what users took, and for popularity.
        prompts: Cuts of the training part.
        config: ``negatives``, ``rejected``.
        lists: The model's own lists for these prompts, int ``[P, k]``, where the negatives are hard ones.
        seed: Draws the others.

    Raises:
        DataError: If nothing is left to reject.
    """
    if lists is None:
        chances = np.ones(dataset.num_items)
        if config.negatives == "popular":
            chances = dataset.train_popularity().astype(np.float64)
        random = np.random.default_rng(seed)
        # Some draws hit what the user took; twice as many and a few more leave enough.
        shape = (len(prompts), 2 * config.rejected + 4)
        lists = random.choice(dataset.num_items, shape, p=chances / chances.sum())
    taken = seen_items(dataset, prompts.histories.users)
    chosen = prompts.targets.items[prompts.targets.offsets[:-1]].astype(np.int64)
    rejected = _first_of(_never_taken(lists, taken, dataset.num_items), config.rejected)
    kept = np.flatnonzero((rejected >= 0).any(axis=1))
    if not len(kept):
        raise DataError(
            "the users took everything that could be rejected",
            expected="items in the model's lists that a user did not take",
            fix="raise alignment.pairs.list_size, or use alignment.pairs.negatives: popular",
        )
    return _equal_weights(prompts.histories, chosen, rejected, f"implicit:{config.negatives}").select(kept)


def reward_pairs(prompts: Prompts, lists: np.ndarray, rewards: np.ndarray, config: PairsConfig) -> Preferences:
    """Self-play: of the items that the model wrote, the best against the worst (OneRec 2025, section 3.4).

    With ``per_list`` above 1 the i-th best is contrasted with the i-th worst and those after it.

    Args:
        prompts: Where the lists begin.
        lists: int ``[P, k]``, -1 = none.
        rewards: float ``[P, k]``.
        config: ``rejected``, ``per_list``.

    Raises:
        DataError: If the rewards tell nothing apart.
    """
    real = lists >= 0
    ascending = np.argsort(np.where(real, rewards, np.inf), axis=1, kind="stable")
    items, values = (np.take_along_axis(part, ascending, axis=1) for part in (lists, rewards))
    count = real.sum(axis=1)
    chosen, rejected, rows = [], [], []
    for number in range(config.per_list):
        kept = np.flatnonzero(count >= 2 * (number + 1))
        best = count[kept] - 1 - number
        places = number + np.arange(min(config.rejected, lists.shape[1] - number))
        # Only the lower half of a list is rejected, and only what is worth less.
        lower = (places < count[kept, None] // 2) & (values[kept][:, places] < values[kept, best][:, None])
        rejected.append(np.where(lower, items[kept][:, places], -1))
        rejected[-1] = np.pad(rejected[-1], ((0, 0), (0, config.rejected - len(places))), constant_values=-1)
        chosen.append(items[kept, best])
        rows.append(kept)
    histories = prompts.histories.select(np.concatenate(rows))
    pairs = _equal_weights(histories, np.concatenate(chosen), np.concatenate(rejected), "self-play")
    pairs = pairs.select(pairs.paired)
    if not len(pairs):
        raise DataError(
            "the rewards tell no two items of any list apart",
            expected="lists with a better and a worse item",
            fix="choose other rewards, or raise alignment.pairs.list_size",
        )
    return pairs


def session_pairs(prompts: Prompts, sessions: np.ndarray, worth: np.ndarray, config: PairsConfig) -> Preferences:
    """Self-play with whole lists: of the sessions that the model wrote, the best against the worst.

    Args:
        prompts: Where the sessions begin.
        sessions: int ``[P, N, m]``, -1 = none.
        worth: What each is worth, float ``[P, N]``.
        config: ``rejected``, ``per_list``.

    Raises:
        DataError: If the rewards tell no two lists apart.
    """
    numbers = np.where(sessions[..., 0] >= 0, np.arange(worth.size).reshape(worth.shape), -1)
    pairs = reward_pairs(prompts, numbers, worth, config)
    flat = sessions.reshape(-1, sessions.shape[2]).astype(np.int64)
    rejected = np.where(pairs.rejected[..., None] >= 0, flat[pairs.rejected], -1)
    return replace(pairs, chosen=flat[pairs.chosen], rejected=rejected, source="self-play of sessions")


def _equal_weights(histories: Histories, chosen: np.ndarray, rejected: np.ndarray, source: str) -> Preferences:
    return Preferences(histories, chosen, rejected, np.ones(len(chosen), dtype=np.float32), source)


def _close_pairs(items: np.ndarray, feedback: np.ndarray, config: PairsConfig) -> list[tuple[int, int, list[int]]]:
    """(end of the history, chosen, rejected ...) for every well-rated item with badly-rated ones around it."""
    pairs = []
    bad = np.flatnonzero(feedback <= config.bad)
    for place in np.flatnonzero(feedback >= config.good):
        near = bad[(np.abs(bad - place) <= config.horizon) & (items[bad] != items[place])]
        near = near[np.argsort(np.abs(near - place), kind="stable")][: config.rejected]
        end = int(min(place, near.min(initial=place)))
        if len(near) and end:
            pairs.append((end, int(items[place]), items[near].tolist()))
    return pairs


def _single_sides(items: np.ndarray, feedback: np.ndarray, config: PairsConfig) -> list[tuple[int, int, list[int]]]:
    sides: list[tuple[int, int, list[int]]] = []
    for place in np.flatnonzero((feedback >= config.good) | (feedback <= config.bad)):
        good = feedback[place] >= config.good
        if place:
            sides.append((int(place), int(items[place]) if good else -1, [] if good else [int(items[place])]))
    return sides


def _never_taken(lists: np.ndarray, taken: Histories, num_items: int) -> np.ndarray:
    rows = np.arange(len(lists))[:, None]
    known = np.isin(rows * num_items + lists, row_item_pairs(taken, num_items))
    return np.where(known | (lists < 0), -1, lists)


def _first_of(lists: np.ndarray, count: int) -> np.ndarray:
    """The first ``count`` different items of each row, -1 where there are fewer."""
    ordered = np.sort(lists, axis=1)
    place = np.argsort(lists, axis=1, kind="stable")
    again = np.zeros_like(lists, dtype=bool)
    np.put_along_axis(again, place[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    order = np.argsort((lists < 0) | again, axis=1, kind="stable")[:, :count]
    first = np.take_along_axis(np.where(again, -1, lists), order, axis=1)
    return np.pad(first, ((0, 0), (0, count - first.shape[1])), constant_values=-1).astype(np.int64)
