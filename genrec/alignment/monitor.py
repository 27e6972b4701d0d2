"""What is watched while a model is aligned, and when it must stop.

Everything is measured on validation users and on preferences of users that nothing was learned from; processes that run
together each measure some of them.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from genrec.alignment.preferences import Preferences
from genrec.alignment.prompts import Prompts
from genrec.alignment.scoring import path_logits, sequence_log_probs
from genrec.config import AlignmentConfig, DecodingConfig
from genrec.data.histories import Histories, pad_histories
from genrec.decoding import DeviceTrie, generate_lists, session_size_of, trie_of
from genrec.distributed.world import World
from genrec.errors import ConfigError, DataError
from genrec.evaluation.metrics import evaluate_lists
from genrec.models.base import GenerativeRecommender

if TYPE_CHECKING:
    from genrec.alignment.rewards import WeightedRewards
    from genrec.data import Dataset

KS = (5, 10)
SCORED_ROWS = 256
# Shares of the start below which a model counts as collapsed.
FLOORS = {"coverage@10": 0.4, "entropy": 0.25, "legal_mass": 0.5}


@dataclass(frozen=True, eq=False)
class EvalSet:
    """What a model is measured on.

    Attributes:
        prompts: Validation histories and their held-out items.
        pairs: Preferences of users that nothing is learned from; None without pairs.
        reward: What lists are worth, the very reward that pairs and groups are compared by; None without rewards.
        decoding: How lists are written.
        num_items: N.
    """

    prompts: Prompts
    pairs: Preferences | None
    reward: "WeightedRewards | None"
    decoding: DecodingConfig
    num_items: int

    @classmethod
    def of(
        cls,
        dataset: "Dataset",
        config: AlignmentConfig,
        decoding: DecodingConfig,
        pairs: Preferences | None,
        reward: "WeightedRewards | None",
    ) -> "EvalSet":
        """Validation users of a data set, at most ``training.eval_users``, drawn by seed.

        Raises:
            DataError: If no user has both a history and a validation item.
        """
        histories, targets = dataset.evaluation("validation")
        if not len(histories):
            raise DataError(
                "no user has both a history and a validation item",
                expected="users with at least three interactions (leave-one-out)",
                fix="give more interactions, or choose another data.split",
            )
        prompts = Prompts(histories, targets)
        users, seed = config.training.eval_users, config.training.seed
        if users is not None and users < len(histories):
            drawn = np.random.default_rng(seed).choice(len(histories), users, replace=False)
            prompts = prompts.select(np.sort(drawn))
        return cls(prompts, pairs, reward, decoding, dataset.num_items)


@dataclass(frozen=True, eq=False)
class Measurements:
    """What one process found out of its rows.

    Attributes:
        lists: Of its r prompts, int32 ``[r, k]``: ten items, or a longer session.
        rewards: What each list is worth, float ``[r]``; None without rewards.
        paths: KL, entropy and legal mass of each prompt, float64 ``[r, 3]``.
        scores: log p of the candidates of its pairs, float32 ``[p, 1 + C]``; None without pairs.
    """

    lists: np.ndarray
    rewards: np.ndarray | None
    paths: np.ndarray
    scores: np.ndarray | None


class Monitor:
    """Compares a model with the one that it started from.

    Args:
        watch: What it is measured on.
        config: What selects, what must not fall, and by how much it may.
        reference: What the KL is measured to; asked once.
        world: The processes that share the work; all of them must take part in whatever is asked here.
    """

    def __init__(
        self, watch: EvalSet, config: AlignmentConfig, reference: GenerativeRecommender, world: World | None = None
    ) -> None:
        self.watch, self.config, self.world = watch, config, world or World()
        self.prompts = watch.prompts.select(_own_rows(len(watch.prompts), self.world))
        self.levels = _measured_levels(trie_of(reference), reference.item_codes[_first_targets(watch.prompts)])
        self.paths = _paths(reference, self.prompts)
        self.pairs, self.reference_scores = None, None
        if watch.pairs is not None:
            self.pairs = watch.pairs.select(_own_rows(len(watch.pairs), self.world))
            self.reference_scores = _joined(self.world.gather(self._score(reference)), len(watch.pairs))
        self.start: dict[str, float] = {}

    def begin(self, model: GenerativeRecommender, earlier: dict[str, float] | None = None) -> dict[str, float]:
        """Measure the start, from which falls are counted.

        Args:
            model: As it is before the round.
            earlier: The start of the first round, from which falls are counted where this is a later one.

        Raises:
            ConfigError: If a metric that the recipe names is not among what is measured.
        """
        now = self.measure(model)
        self.start = earlier or now
        for key, name in (("training.metric", self.config.training.metric), ("guard", self.config.guard)):
            if name not in now:
                raise ConfigError(
                    f"alignment.{key} = {name!r} is not measured",
                    where=f"alignment.{key}",
                    expected=f"one of {', '.join(sorted(now))}",
                    fix="choose one of these",
                )
        return now

    def measure(self, model: GenerativeRecommender) -> dict[str, float]:
        """All numbers of one evaluation; ``selected`` is the selecting metric, -inf where the guard fell too far."""
        return self.merge_shards(self.world.gather(self.measure_shard(model)), model)

    @torch.no_grad()
    def measure_shard(self, model: GenerativeRecommender) -> Measurements:
        """What this process finds out of its rows."""
        model.eval()
        size = session_size_of(self.watch.decoding, model.config.family, model.settings)
        lists, _ = generate_lists(model, self.prompts.histories, decoding=self.watch.decoding, top_k=max(KS[-1], size))
        reward = self.watch.reward
        rewards = None if reward is None else _list_rewards(reward, self.prompts, lists.astype(np.int64), size)
        codes = model.item_codes[_first_targets(self.prompts).to(model.device)].long()
        paths = _path_numbers(_paths(model, self.prompts), self.paths, trie_of(model), codes[:, : self.levels])
        return Measurements(lists, rewards, paths, None if self.pairs is None else self._score(model))

    def merge_shards(self, parts: list[Measurements], model: GenerativeRecommender) -> dict[str, float]:
        """The numbers of :meth:`measure`, from what each process found, by rank."""
        watch, rows = self.watch, len(self.watch.prompts)
        lists = _joined([part.lists for part in parts], rows)
        found = evaluate_lists(lists, watch.prompts.targets, num_items=watch.num_items, ks=KS).metrics
        found["diversity@10"] = list_diversity(lists[:, : KS[-1]], model.item_codes.cpu().numpy())
        if rewards := [part.rewards for part in parts if part.rewards is not None]:
            size = session_size_of(watch.decoding, model.config.family, model.settings)
            there = lists[:, 0] >= 0
            name = f"reward@{size if size > 1 else KS[-1]}"
            found[name] = float(_joined(rewards, rows)[there].mean()) if there.any() else 0.0
        paths = _joined([part.paths for part in parts], rows).mean(axis=0).tolist()
        found |= dict(zip(("kl", "entropy", "legal_mass"), paths, strict=True))
        if watch.pairs is not None and self.reference_scores is not None:
            scores = _joined([part.scores for part in parts if part.scores is not None], len(watch.pairs))
            found |= pair_numbers(scores, self.reference_scores, watch.pairs, self.config.beta)
        value = found.get(self.config.training.metric, float("nan"))
        found["selected"] = value if not self.start or self._acceptable(found) else float("-inf")
        return found

    def _acceptable(self, found: dict[str, float]) -> bool:
        """Whether a model with these numbers may be kept."""
        floor = self.start[self.config.guard] * (1 - self.config.tolerance)
        return self.broken(found) is None and found[self.config.guard] >= floor

    def broken(self, found: dict[str, float]) -> str | None:
        """Why training must stop with these numbers, in words; None if all is well."""
        guard, start = self.config.guard, self.start
        floor = start[guard] * (1 - self.config.stop_fall)
        if found[guard] < floor:
            return (
                f"{guard} fell to {found[guard]:.4f}, below {floor:.4f} (the start, {start[guard]:.4f}, less"
                f" {self.config.stop_fall:.1%}): lower alignment.training.learning_rate or preference_weight, or raise"
                " beta or anchor_weight"
            )
        for name, share in FLOORS.items():
            if found[name] < share * start[name]:
                return (
                    f"the model collapses: {name} fell from {start[name]:.4f} to {found[name]:.4f}; lower"
                    " alignment.training.learning_rate, or raise anchor_weight (kl_weight with grpo)"
                )
        return None

    def _score(self, model: GenerativeRecommender) -> np.ndarray:
        rows = self.pairs
        assert rows is not None  # asked only where there are pairs
        return score_candidates(model, rows.histories, rows.candidates, self.watch.decoding.item_weight)


@torch.no_grad()
def score_candidates(
    model: GenerativeRecommender, histories: Histories, candidates: np.ndarray, item_weight: float
) -> np.ndarray:
    """log p of candidates int64 ``[P, C]`` of P histories, float32 ``[P, C]``; 0 where there is none.

    Args:
        model: Writes semantic IDs; in eval mode afterwards.
        histories: P rows.
        candidates: Dense items, or lists ``[P, C, m]``; -1 where there is none.
        item_weight: See :func:`genrec.alignment.scoring.sequence_log_probs`.
    """
    model.eval()
    found = np.zeros(candidates.shape[:2], dtype=np.float32)
    by_length = np.argsort(histories.lengths, kind="stable")
    for rows in np.split(by_length, range(SCORED_ROWS, len(by_length), SCORED_ROWS)):
        items, lengths = _padded(histories, rows, model)
        wanted = torch.from_numpy(candidates[rows]).to(model.device)
        scores = sequence_log_probs(model, items, lengths, wanted, item_weight=item_weight)
        found[rows] = scores.cpu().numpy()
    return found


def pair_numbers(scores: np.ndarray, reference: np.ndarray, rows: Preferences, beta: float) -> dict[str, float]:
    """Share of pairs ordered rightly, margins, and the mean log-probabilities of both sides.

    Args:
        scores: log p of chosen and rejected items, ``[P, 1 + C]``.
        reference: The same by the reference.
        rows: Which of them are there.
        beta: Scale of the margin.
    """
    chosen, rejected = rows.present[:, 0], rows.present[:, 1:]
    both = chosen[:, None] & rejected
    weights = both * rows.weights[:, None] / np.maximum(both.sum(axis=1, keepdims=True), 1)
    ratios = scores - reference
    found = {}
    if both.any():
        order = (scores[:, :1] > scores[:, 1:]) + 0.5 * (scores[:, :1] == scores[:, 1:])
        found["pair_accuracy"] = float((order * weights).sum() / weights.sum())
        found["margin"] = float(beta * ((ratios[:, :1] - ratios[:, 1:]) * weights).sum() / weights.sum())
    if chosen.any():
        found["chosen_log_prob"] = float(scores[:, 0][chosen].mean())
    if rejected.any():
        found["rejected_log_prob"] = float(scores[:, 1:][rejected].mean())
    return found


def list_diversity(lists: np.ndarray, codes: np.ndarray) -> float:
    """Mean share of pairs of a list's items whose first codes differ.

    Args:
        lists: int ``[R, k]``, -1 = none.
        codes: int ``[N, L]``.
    """
    real, first = lists >= 0, codes[lists, 0]
    together = real[:, :, None] & real[:, None, :] & ~np.eye(lists.shape[1], dtype=bool)
    other = (first[:, :, None] != first[:, None, :]) & together
    return float(other.sum() / max(together.sum(), 1))


def _paths(model: GenerativeRecommender, prompts: Prompts) -> list[Tensor]:
    """Log-probabilities along the held-out items' semantic IDs, per level ``[R, K_l]`` in the order of the rows."""
    model.eval()
    targets = _first_targets(prompts)
    order = np.argsort(prompts.histories.lengths, kind="stable")
    parts: list[list[Tensor]] = []
    with torch.no_grad():
        for rows in np.split(order, range(SCORED_ROWS, len(order), SCORED_ROWS)):
            items, lengths = _padded(prompts.histories, rows, model)
            logits = path_logits(model, items, lengths, targets[rows].to(model.device))
            parts.append([level.float().log_softmax(-1) for level in logits])
    back = torch.from_numpy(np.argsort(order))
    return [torch.cat(level)[back.to(level[0].device)] for level in zip(*parts, strict=True)]


def _path_numbers(paths: list[Tensor], reference: list[Tensor], trie: DeviceTrie, codes: Tensor) -> np.ndarray:
    """KL to the reference, entropy (sums over levels) and mean legal mass per level of each row, float64 ``[R, 3]``.

    The mass is that of the levels of ``codes``; one level more adds to the sums where semantic IDs are longer.
    """
    nodes = torch.zeros(len(codes), 1, dtype=torch.int64, device=codes.device)
    kl, entropy, mass = (torch.zeros(len(codes), dtype=torch.float64, device=codes.device) for _ in range(3))
    legal_levels = codes.shape[1]
    for depth, (own, other) in enumerate(zip(paths, reference, strict=True)):
        if depth > legal_levels:
            break
        probabilities = own.exp()
        kl += (probabilities * (own - other)).sum(-1)
        entropy -= (probabilities * own).sum(-1)
        if depth < legal_levels:
            mass += trie.levels[depth].mask_illegal_codes(nodes, own.unsqueeze(1)).exp().sum(-1)[:, 0]
            nodes = _child(trie, depth, nodes, codes[:, depth : depth + 1])
    mean = mass / legal_levels if legal_levels else torch.ones_like(mass)
    return torch.stack([kl, entropy, mean], dim=1).cpu().numpy()


def _measured_levels(trie: DeviceTrie, codes: Tensor) -> int:
    """The levels that all of ``codes [R, L]`` have, before the first at which a semantic ID may end."""
    for depth in range(codes.shape[1]):
        if trie.levels[depth].ends or bool((codes[:, depth] < 0).any()):
            return depth
    return codes.shape[1]


def _list_rewards(reward: "WeightedRewards", prompts: Prompts, lists: np.ndarray, session_size: int) -> np.ndarray:
    """What lists ``[R, k]`` are worth, float64 ``[R]``, by what pairs and groups are compared by.

    Sequences of several items are compared as wholes, items each for itself: of these it is the mean of ten.
    """
    if session_size > 1:
        return reward.whole(prompts, lists[:, :session_size])
    lists = lists[:, : KS[-1]]
    return reward(prompts, lists).sum(axis=1) / np.maximum((lists >= 0).sum(axis=1), 1)


def _own_rows(count: int, world: World) -> np.ndarray:
    """The rows of this process; of fewer rows than processes all, in each."""
    return np.arange(count) if count < world.size else np.arange(world.rank, count, world.size)


def _joined(parts: list[np.ndarray], count: int) -> np.ndarray:
    """Undo :func:`_own_rows`, from what each process made of its rows, by rank."""
    if count < len(parts):
        return parts[0]
    order = np.concatenate([np.arange(rank, count, len(parts)) for rank in range(len(parts))])
    return np.concatenate(parts)[np.argsort(order)]


def _child(trie: DeviceTrie, depth: int, nodes: Tensor, code: Tensor) -> Tensor:
    """The node of depth d + 1 after ``code [B, 1]`` of ``nodes [B, 1]``, whatever the level's form."""
    level = trie.levels[depth]
    if level.full:
        return nodes * level.size + code
    first, end = level.start[nodes].long(), level.start[nodes + 1].long()
    offset = torch.arange(level.width, device=nodes.device)
    edges = (first + offset).clamp(max=len(level.code) - 1)
    match = (level.code[edges].long() == code) & (first + offset < end)
    return first + match.long().argmax(dim=1, keepdim=True)


def _first_targets(prompts: Prompts) -> Tensor:
    return torch.from_numpy(prompts.targets.items[prompts.targets.offsets[:-1]].astype(np.int64))


def _padded(histories: Histories, rows: np.ndarray, model: GenerativeRecommender) -> tuple[Tensor, Tensor]:
    items, lengths = pad_histories(histories, rows, model.max_history)
    return torch.from_numpy(items).to(model.device), torch.from_numpy(lengths).to(model.device)
