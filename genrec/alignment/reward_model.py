"""A learned reward of whole lists: what a user would do with them, one probability per objective.

After OneRec (2025, section 3.3): target-aware item vectors e_i = v_i * u, self-attention among them, and one head per
objective, trained with binary cross-entropy. The objective ``taken`` (the user took these items, against items drawn by
popularity) is always there; feedback columns add theirs, learned from observed lists only.

- Lists are pooled by their mean, where OneRec takes the sum: a sum grows with the list, and what was learned from lists
  of five then says little of lists of ten.
- The model is trained on lists of 1 to ``longest`` items and refuses longer ones.
- No list of the training holds an item twice, as no list of a recommender does: repeats would give drawn lists away.
- How good the model is on users that it never saw is measured before it is used.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from genrec.alignment.pairs import training_feedback
from genrec.alignment.prompts import Prompts
from genrec.data.histories import Histories, pad_histories
from genrec.errors import ConfigError, DataError

if TYPE_CHECKING:
    from genrec.data import Dataset

TAKEN = "taken"
HIDDEN_SIZE = 32
EPOCHS, FEWEST_UPDATES, BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 5, 100, 256, 1e-2, 0.1
LISTS_PER_USER = 10
HELD_OUT = 0.2
MAX_HISTORY = 50
BINS = 10


class ListRewardModel(nn.Module):
    """Probabilities of what a user would do with a list.

    Args:
        num_items: N.
        objectives: Their names.
    """

    def __init__(self, num_items: int, objectives: list[str]) -> None:
        super().__init__()
        self.objectives = objectives
        self.items = nn.Embedding(num_items, HIDDEN_SIZE)
        # Products of larger vectors remember lists instead of what they have in common.
        nn.init.normal_(self.items.weight, std=0.1)
        self.user = nn.Sequential(nn.Linear(HIDDEN_SIZE, HIDDEN_SIZE), nn.SiLU(), nn.Linear(HIDDEN_SIZE, HIDDEN_SIZE))
        self.attention = nn.MultiheadAttention(HIDDEN_SIZE, 2, batch_first=True)
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(HIDDEN_SIZE, HIDDEN_SIZE), nn.SiLU(), nn.Linear(HIDDEN_SIZE, 1)) for _ in objectives
        )

    def forward(self, history: Tensor, lengths: Tensor, lists: Tensor) -> Tensor:
        """Logits ``[B, O]`` of the objectives.

        Args:
            history: Dense items, int64 ``[B, T]``, right-padded.
            lengths: int64 ``[B]``.
            lists: Dense items, int64 ``[B, m]``; -1 where there is none.
        """
        known = (torch.arange(history.shape[1], device=history.device) < lengths[:, None]).unsqueeze(-1)
        mean = (self.items(history) * known).sum(1) / lengths.clamp(min=1).unsqueeze(-1)
        aware = self.items(lists.clamp(min=0)) * (mean + self.user(mean)).unsqueeze(1)
        missing = lists < 0
        # A row without any item would be all masked and give NaN.
        mixed, _ = self.attention(aware, aware, aware, key_padding_mask=missing & ~missing.all(1, keepdim=True))
        count = (~missing).sum(1, keepdim=True).clamp(min=1)
        pooled = ((aware + mixed) * ~missing.unsqueeze(-1)).sum(1) / count
        return torch.cat([head(pooled) for head in self.heads], dim=1)


@dataclass(frozen=True, eq=False)
class ListReward:
    """A list's mean probability over objectives; an item by itself is worth what a list of this item alone is worth.

    Attributes:
        model: Trained, in eval mode.
        longest: Items of the longest lists that it was trained on, from 1.
    """

    model: ListRewardModel
    longest: int

    def __call__(self, prompts: Prompts, lists: np.ndarray) -> np.ndarray:
        """One number per place, float64 ``[P, k]``."""
        return np.stack([self.whole(prompts, lists[:, place, None]) for place in range(lists.shape[1])], axis=1)

    @torch.no_grad()
    def whole(self, prompts: Prompts, lists: np.ndarray) -> np.ndarray:
        """The reward of whole lists ``[P, m]``, float64 ``[P]``; 0 for a list without any item.

        Raises:
            ConfigError: If a list is longer than those that the model was trained on.
        """
        size = int((lists >= 0).sum(axis=1).max(initial=0))
        if size > self.longest:
            raise ConfigError(
                f"the reward 'lists' was trained on lists of at most {self.longest} items and is asked about {size}",
                where="alignment.rewards.lists",
                expected=f"lists of 1 to {self.longest} items",
                fix="train it with train_list_reward(..., longest=...) for the lists that it is asked about",
            )
        found = [
            self.model(*_history(prompts.histories, rows), torch.from_numpy(lists[rows].astype(np.int64)))
            .sigmoid()
            .mean(1)
            for rows in np.array_split(np.arange(len(lists)), max(1, -(-len(lists) // BATCH_SIZE)))
        ]
        return np.where((lists >= 0).any(axis=1), torch.cat(found).double().numpy(), 0.0)


@dataclass(frozen=True)
class RewardQuality:
    """How far a reward model can be trusted, on users that it never saw.

    Attributes:
        auc: Per objective: chance that a random yes ranks above a random no; for ``taken`` against items drawn by
            popularity.
        calibration_error: Per objective: mean distance of predicted and observed rates over ten bins, weighted.
        lists: Held-out lists.
        longest: Items of the longest lists.
        beam_auc: Among what the recommender itself wrote after one history: chance that what holds more of the items
            that the user took next ranks higher (:func:`order_among_beams`); None where nothing could be compared.
    """

    auc: dict[str, float]
    calibration_error: dict[str, float]
    lists: int
    longest: int
    beam_auc: float | None = None


class TrainedReward(NamedTuple):
    """A list reward with how good it is.

    Attributes:
        reward: For lists of 1 to ``longest`` items.
        quality: On users that it never saw.
        held_out: Dense numbers of these users, int64.
    """

    reward: ListReward
    quality: RewardQuality
    held_out: np.ndarray


@dataclass(frozen=True, eq=False)
class _Lists:
    """Lists ``[R, m]`` of ``sizes [R]`` places after histories, with labels ``[R, O]``, NaN where nothing is known."""

    histories: Histories
    lists: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray


def train_list_reward(dataset: "Dataset", objectives: Mapping[str, float], *, longest: int, seed: int) -> TrainedReward:
    """Learn a list reward from the training part.

    Args:
        dataset: Consecutive items of the training part are a list.
        objectives: Feedback column to the value from which it is a yes; a list's label is its share of yeses.
        longest: Items of the longest lists that the reward will be asked about; lists of 1 to so many are learned.
        seed: Of weights, order, lengths, drawn items and held-out users.

    Raises:
        ConfigError: If a feedback column does not exist.
        DataError: If there are too few lists, or too few of ``longest`` items, to learn and to measure.
    """
    examples = _training_lists(dataset, objectives, longest, seed)
    users = np.unique(examples.histories.users)
    held_out = np.random.default_rng(seed).permutation(users)[: int(HELD_OUT * len(users))]
    held = np.isin(examples.histories.users, held_out)
    full = examples.sizes == longest
    if min((held & full).sum(), (~held & full).sum()) < 2:
        raise DataError(
            f"{full.sum()} lists of {longest} items are too few for a reward model",
            where=f"the training part of {dataset.path}",
            expected=f"several users with more than {longest} interactions",
            fix="choose other rewards, such as hit or scorer, or a shorter decoding.session_size",
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ListRewardModel(dataset.num_items, [TAKEN, *objectives])
        _fit(model, examples, np.flatnonzero(~held), seed)
    model.eval()
    return TrainedReward(ListReward(model, longest), _measure(model, examples, np.flatnonzero(held), longest), held_out)


def order_among_beams(worth: np.ndarray, taken: np.ndarray) -> float | None:
    """Chance that of two lists after one history the one with more of what the user took is worth more.

    Args:
        worth: Of N lists, or items, after each of P histories, float ``[P, N]``.
        taken: How many of its items the user took next, int ``[P, N]``; -1 where there is no list.

    Returns:
        Over all pairs that differ in ``taken``, equal worths count half; None without such pairs.
    """
    ordered, pairs = 0.0, 0
    for values, counts in zip(worth, taken, strict=True):
        better = (counts[:, None] > counts[None, :]) & (counts[None, :] >= 0)
        gaps = values[:, None] - values[None, :]
        ordered += float(((gaps > 0) + 0.5 * (gaps == 0))[better].sum())
        pairs += int(better.sum())
    return ordered / pairs if pairs else None


def area_under_curve(scores: np.ndarray, labels: np.ndarray) -> float:
    """Chance that a yes (label above one half) has a higher score than a no; ties count half; NaN without both."""
    yes = labels > 0.5
    pairs = yes.sum() * (~yes).sum()
    if not pairs:
        return float("nan")
    return float((rankdata(scores)[yes].sum() - yes.sum() * (yes.sum() + 1) / 2) / pairs)


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Expected calibration error over ten equal bins (Guo et al. 2017)."""
    place = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    gaps = np.bincount(place, weights=probabilities - labels, minlength=BINS)
    return float(np.abs(gaps).sum() / len(labels))


def _training_lists(dataset: "Dataset", objectives: Mapping[str, float], longest: int, seed: int) -> _Lists:
    """Lists that users took and as many drawn ones of the same lengths, of 1 to ``longest`` items."""
    random = np.random.default_rng(seed)
    train = dataset.train()
    cuts = [_cuts(length) for length in train.lengths.tolist()]
    row = np.repeat(np.arange(len(train)), [len(part) for part in cuts])
    end = np.concatenate([np.zeros(0, dtype=np.int64), *cuts])
    sizes = np.minimum(random.integers(1, longest, len(row), endpoint=True), train.lengths[row] - end)
    starts = train.offsets[:-1][row]
    known = np.minimum(end, MAX_HISTORY)
    histories = train.slice(train.users[row], starts + end - known, known)
    there = np.arange(longest) < sizes[:, None]
    places = np.where(there, (starts + end)[:, None] + np.arange(longest), 0)
    lists = np.where(there, train.items[places], -1).astype(np.int64)
    lists[_repeated(lists)] = -1
    labels = np.full((len(row), 1 + len(objectives)), np.nan)
    labels[:, 0] = 1.0
    for column, (name, threshold) in enumerate(objectives.items(), start=1):
        values = training_feedback(dataset, name)[1][places]
        known_all = ~(np.isnan(values) & there).any(1)
        labels[known_all, column] = (((values >= threshold) & there).sum(1) / sizes)[known_all]
    refused = np.full_like(labels, np.nan)
    refused[:, 0] = 0.0
    drawn = np.where(lists >= 0, _draw_distinct(dataset.train_popularity(), lists.shape, random), -1)
    both = histories.select(np.tile(np.arange(len(row)), 2))
    return _Lists(both, np.concatenate([lists, drawn]), np.tile(sizes, 2), np.concatenate([labels, refused]))


def _cuts(length: int) -> np.ndarray:
    """Ends of histories of a user that an item follows: all of them, or evenly spread ones."""
    ends = np.arange(1, length)
    return ends[np.linspace(0, len(ends) - 1, min(len(ends), LISTS_PER_USER)).round().astype(np.int64)]


def _draw_distinct(popularity: np.ndarray, shape: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Items drawn by popularity ``[N]``, int64 of this shape, none of them twice in a row.

    A place is drawn again as long as its item is at an earlier place of its row, which is drawing without replacement.

    Raises:
        DataError: If fewer items have interactions than a row has places.
    """
    if np.count_nonzero(popularity) < shape[1]:
        raise DataError(
            f"{np.count_nonzero(popularity)} items with interactions are too few for lists of {shape[1]}",
            where="the training part",
            expected="more items than a list has",
            fix="choose other rewards, or a shorter decoding.session_size",
        )
    share = popularity / popularity.sum(dtype=np.float64)
    drawn = random.choice(len(share), shape, p=share).astype(np.int64)
    while (again := _repeated(drawn)).any():
        drawn[again] = random.choice(len(share), int(again.sum()), p=share)
    return drawn


def _repeated(lists: np.ndarray) -> np.ndarray:
    """bool ``[R, m]``: items that are at an earlier place of their row too."""
    order = np.argsort(lists, axis=1, kind="stable")
    ordered = np.take_along_axis(lists, order, axis=1)
    again = np.zeros(lists.shape, dtype=bool)
    np.put_along_axis(again, order[:, 1:], (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0), axis=1)
    return again


def _fit(model: ListRewardModel, examples: _Lists, rows: np.ndarray, seed: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    for epoch in range(max(EPOCHS, -(-FEWEST_UPDATES * BATCH_SIZE // len(rows)))):
        order = np.random.default_rng([seed, epoch]).permutation(rows)
        for part in np.split(order, range(BATCH_SIZE, len(order), BATCH_SIZE)):
            labels = torch.from_numpy(examples.labels[part]).float()
            known = ~labels.isnan()
            logits = model(*_history(examples.histories, part), torch.from_numpy(examples.lists[part].astype(np.int64)))
            losses = binary_cross_entropy_with_logits(logits, labels.nan_to_num(), reduction="none")
            optimizer.zero_grad()
            (losses * known).sum().div(known.sum()).backward()
            optimizer.step()


@torch.no_grad()
def _measure(model: ListRewardModel, examples: _Lists, rows: np.ndarray, longest: int) -> RewardQuality:
    lists = torch.from_numpy(examples.lists[rows].astype(np.int64))
    found = model(*_history(examples.histories, rows), lists).sigmoid().double().numpy()
    auc, error = {}, {}
    for column, name in enumerate(model.objectives):
        labels = examples.labels[rows, column]
        known = ~np.isnan(labels)
        auc[name] = area_under_curve(found[known, column], labels[known])
        error[name] = calibration_error(found[known, column], labels[known])
    return RewardQuality(auc, error, len(rows), longest)


def _history(histories: Histories, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    items, lengths = pad_histories(histories, rows, MAX_HISTORY)
    return torch.from_numpy(items), torch.from_numpy(lengths)
