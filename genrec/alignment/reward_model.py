"""A learned reward of whole lists: what a user would do with them, one probability per objective.

After OneRec (2025, section 3.3): target-aware item vectors e_i = v_i * u, self-attention among them, their sum, and one
head per objective, trained with binary cross-entropy. The objective ``taken`` (the user took these items, against items
drawn by popularity) is always there; feedback columns add theirs, learned from observed lists only. How good the
model is on users that it never saw is measured before anyone relies on it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from genrec.alignment.pairs import training_feedback
from genrec.alignment.prompts import Prompts
from genrec.data.histories import Histories, pad_histories
from genrec.errors import DataError

if TYPE_CHECKING:
    from genrec.data import Dataset

TAKEN = "taken"
LIST_LENGTH = 5
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
        pooled = ((aware + mixed) * ~missing.unsqueeze(-1)).sum(1)
        return torch.cat([head(pooled) for head in self.heads], dim=1)


@dataclass(frozen=True, eq=False)
class ListReward:
    """A list's mean probability over objectives; a place is credited with what the list would lose without it.

    Attributes:
        model: Trained, in eval mode.
    """

    model: ListRewardModel

    def __call__(self, prompts: Prompts, lists: np.ndarray) -> np.ndarray:
        """One number per place, float64 ``[P, k]``."""
        whole = self.whole(prompts, lists)
        credits = np.zeros(lists.shape)
        for place in range(lists.shape[1]):
            without = lists.copy()
            without[:, place] = -1
            credits[:, place] = whole - self.whole(prompts, without)
        return credits

    @torch.no_grad()
    def whole(self, prompts: Prompts, lists: np.ndarray) -> np.ndarray:
        """The reward of whole lists, float64 ``[P]``."""
        found = [
            self.model(*_history(prompts.histories, rows), torch.from_numpy(lists[rows].astype(np.int64)))
            .sigmoid()
            .mean(1)
            for rows in np.array_split(np.arange(len(lists)), max(1, -(-len(lists) // BATCH_SIZE)))
        ]
        return torch.cat(found).double().numpy()


@dataclass(frozen=True)
class RewardQuality:
    """How far a reward model can be trusted, on users that it never saw.

    Attributes:
        auc: Per objective: chance that a random yes ranks above a random no.
        calibration_error: Per objective: mean distance of predicted and observed rates over ten bins, weighted.
        lists: Held-out lists.
    """

    auc: dict[str, float]
    calibration_error: dict[str, float]
    lists: int


@dataclass(frozen=True, eq=False)
class _Lists:
    """Lists ``[R, m]`` after histories, with labels ``[R, O]``, NaN where nothing was observed."""

    histories: Histories
    lists: np.ndarray
    labels: np.ndarray


def train_list_reward(
    dataset: "Dataset", objectives: Mapping[str, float], *, seed: int
) -> tuple[ListReward, RewardQuality]:
    """Learn a list reward from the training part.

    Args:
        dataset: Five consecutive items of the training part are a list.
        objectives: Feedback column to the value from which it is a yes; a list's label is its share of yeses.
        seed: Of weights, order, drawn items and held-out users.

    Raises:
        ConfigError: If a feedback column does not exist.
        DataError: If there are too few lists to learn and to measure.
    """
    examples = _training_lists(dataset, objectives, seed)
    users = np.unique(examples.histories.users)
    held = np.isin(
        examples.histories.users, np.random.default_rng(seed).permutation(users)[: int(HELD_OUT * len(users))]
    )
    if held.sum() < 2 or (~held).sum() < 2:
        raise DataError(
            f"{len(examples.lists)} lists are too few for a reward model",
            where=f"the training part of {dataset.path}",
            expected=f"several users with more than {LIST_LENGTH} interactions",
            fix="choose other rewards, such as hit or scorer",
        )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ListRewardModel(dataset.num_items, [TAKEN, *objectives])
        _fit(model, examples, np.flatnonzero(~held), seed)
    model.eval()
    return ListReward(model), _measure(model, examples, np.flatnonzero(held))


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
    time_deltas = np.bincount(place, weights=probabilities - labels, minlength=BINS)
    return float(np.abs(time_deltas).sum() / len(labels))


def _training_lists(dataset: "Dataset", objectives: Mapping[str, float], seed: int) -> _Lists:
    train = dataset.train()
    feedback = {name: training_feedback(dataset, name)[1] for name in objectives}
    cuts = [_cuts(length) for length in train.lengths.tolist()]
    row = np.repeat(np.arange(len(train)), [len(part) for part in cuts])
    end = np.concatenate([np.zeros(0, dtype=np.int64), *cuts])
    starts = train.offsets[:-1][row]
    known = np.minimum(end, MAX_HISTORY)
    histories = train.slice(train.users[row], starts + end - known, known)
    places = (starts + end)[:, None] + np.arange(LIST_LENGTH)
    labels = np.full((len(row), 1 + len(objectives)), np.nan)
    labels[:, 0] = 1.0
    for column, (name, threshold) in enumerate(objectives.items(), start=1):
        values = feedback[name][places]
        labels[:, column] = np.where(np.isnan(values).any(1), np.nan, (values >= threshold).mean(1))
    popularity = dataset.train_popularity().astype(np.float64)
    drawn = np.random.default_rng(seed).choice(dataset.num_items, places.shape, p=popularity / popularity.sum())
    refused = np.full_like(labels, np.nan)
    refused[:, 0] = 0.0
    both = histories.select(np.tile(np.arange(len(row)), 2))
    return _Lists(both, np.concatenate([train.items[places], drawn]), np.concatenate([labels, refused]))


def _cuts(length: int) -> np.ndarray:
    """Ends of histories of a user that a whole list follows: all of them, or evenly spread ones."""
    ends = np.arange(1, length - LIST_LENGTH + 1)
    return ends[np.linspace(0, len(ends) - 1, min(len(ends), LISTS_PER_USER)).round().astype(np.int64)]


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
def _measure(model: ListRewardModel, examples: _Lists, rows: np.ndarray) -> RewardQuality:
    lists = torch.from_numpy(examples.lists[rows].astype(np.int64))
    found = model(*_history(examples.histories, rows), lists).sigmoid().double().numpy()
    auc, error = {}, {}
    for column, name in enumerate(model.objectives):
        labels = examples.labels[rows, column]
        known = ~np.isnan(labels)
        auc[name] = area_under_curve(found[known, column], labels[known])
        error[name] = calibration_error(found[known, column], labels[known])
    return RewardQuality(auc, error, len(rows))


def _history(histories: Histories, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    items, lengths = pad_histories(histories, rows, MAX_HISTORY)
    return torch.from_numpy(items), torch.from_numpy(lengths)
