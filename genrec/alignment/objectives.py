"""What is trained: a policy with the loss of its method, as one module that takes mixed batches."""

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from genrec.alignment import losses
from genrec.alignment.prompts import Prompts
from genrec.alignment.rewards import WeightedRewards
from genrec.alignment.sampling import sample_batch, session_batch, whole_worth
from genrec.alignment.scoring import count_codes, present, sequence_log_probs
from genrec.config import AlignmentConfig, DecodingConfig
from genrec.distributed.world import World
from genrec.models.base import GenerativeRecommender, TrainingOutput
from genrec.training.memory import count_targets, draw_targets


class Objective(nn.Module):
    """A policy, anchored by its next-item loss.

    Args:
        policy: What is aligned.
        config: Method and weights.
    """

    def __init__(self, policy: GenerativeRecommender, config: AlignmentConfig) -> None:
        super().__init__()
        self.policy, self.recipe = policy, config
        self.max_history = policy.max_history

    def anchor(self, items: Tensor, lengths: Tensor, **drawn: Tensor) -> Tensor:
        """The weighted next-item loss of windows ``[B, T]``, with dropout; 0 where its weight is."""
        if not self.recipe.anchor_weight:
            return torch.zeros((), device=items.device)
        loss = self.policy(items, lengths, **drawn).loss
        # Dropout would drown the small differences between two log-probabilities.
        return self.recipe.anchor_weight * loss

    def score(self, histories: Tensor, lengths: Tensor, candidates: Tensor, item_weight: float = 0.0) -> Tensor:
        """log p of candidates ``[B, C]`` without dropout, with gradient."""
        self.policy.eval()
        scores = sequence_log_probs(self.policy, histories, lengths, candidates, item_weight=item_weight)
        self.policy.train()
        return scores

    def combine(self, anchor: Tensor, preference: Tensor, shares: Tensor | None) -> TrainingOutput:
        """The loss of a batch, or of a part of it that holds these ``shares`` of its targets and of its other rows."""
        preference = self.recipe.preference_weight * preference
        if shares is not None:
            anchor, preference = anchor * float(shares[0]), preference * float(shares[1])
        return TrainingOutput(loss=anchor + preference)


class PairObjective(Objective):
    """Learns from pairs whose reference log-probabilities are known.

    Args:
        policy: What is aligned.
        config: Method and weights.
        item_weight: Weight of item vectors in the scores that are compared.
    """

    def __init__(self, policy: GenerativeRecommender, config: AlignmentConfig, item_weight: float) -> None:
        super().__init__(policy, config)
        self.item_weight = item_weight

    def forward(
        self,
        items: Tensor,
        lengths: Tensor,
        histories: Tensor,
        history_lengths: Tensor,
        candidates: Tensor,
        reference: Tensor,
        weights: Tensor,
        shares: Tensor | None = None,
        part: Tensor | None = None,
        **drawn: Tensor,
    ) -> TrainingOutput:
        """The anchor of ``items [B, T]`` and preferences among ``candidates [P, C]`` after ``histories [P, T']``.

        In a part of an update, a micro-batch, a piece (:meth:`cut_batch`) or what one of several processes has of it,
        ``shares`` float64 ``[2]`` says how much of either it holds; ``part`` is for :class:`GroupObjective`. What was
        ``drawn`` for the anchor is the policy's.
        """
        scores = self.score(histories, history_lengths, candidates, self.item_weight)
        baseline = _baseline(scores - reference, shares) if self.recipe.method == "kto" else None
        found = preference_losses(self.recipe, scores, reference, candidates, self.policy, baseline)
        return self.combine(self.anchor(items, lengths, **drawn), (found * weights).mean(), shares)

    def cut_batch(self, batch: dict[str, Tensor], pieces: int) -> list[tuple[dict[str, Tensor], float]]:
        """Divide a batch that does not fit into memory; the losses of its pieces add up to its own.

        With ``kto`` they do so but for its baseline, which is the mean of a piece then.

        Args:
            batch: See :meth:`forward`.
            pieces: How many at most; at least one window and one preference is in each.

        Returns:
            Pieces, and the weight of the loss of each, which is 1.
        """
        batch = {name: tensor for name, tensor in batch.items() if name != "part"}
        whole = batch.pop("shares", torch.ones(2, dtype=torch.float64))
        number = min(pieces, len(batch["lengths"]), len(batch["candidates"]))
        batch = dict(batch)
        draw_targets(self.policy, batch)
        parts = [
            dict(zip(batch, tensors, strict=True))
            for tensors in zip(*(tensor.tensor_split(number) for tensor in batch.values()), strict=True)
        ]
        targets, rows = count_targets(self.policy, batch), len(batch["candidates"])
        for part in parts:
            held = [count_targets(self.policy, part) / targets, len(part["candidates"]) / rows]
            part["shares"] = torch.tensor(held, dtype=torch.float64) * whole.cpu()
        return [(part, 1.0) for part in parts]


def _baseline(ratios: Tensor, shares: Tensor | None) -> Tensor:
    """The mean log-ratio of the last column over the rows of all processes, without gradient."""
    mean, world = ratios[:, -1].detach().mean(), World.current()
    if world.size == 1 or shares is None:
        return mean
    total, held = world.gather_numbers(float(mean) * float(shares[1]), float(shares[1])).sum(0)
    # A micro-batch that holds other rows only has no pairs to compare.
    return (total / held).to(mean) if held else mean


def preference_losses(
    config: AlignmentConfig,
    scores: Tensor,
    reference: Tensor,
    candidates: Tensor,
    policy: GenerativeRecommender,
    baseline: Tensor | None = None,
) -> Tensor:
    """The method's loss of each row, ``[P]``.

    Args:
        config: Method and its settings.
        scores: log p by the policy, ``[P, 1 + C]``: chosen, then rejected; with ``kto`` a last column of items that
            belong to other rows, for the baseline.
        reference: log p by the reference, ``[P, 1 + C]``.
        candidates: Items, -1 where there is none.
        policy: For the number of codes per item.
        baseline: With ``kto`` what its sides are measured from, a scalar.
    """
    beta, ratios, there = config.beta, scores - reference, present(candidates)
    if config.method == "kto":
        assert baseline is not None  # its callers know the rows of all processes
        return losses.kto(
            ratios[:, 0],
            ratios[:, 1:-1],
            beta=beta,
            baseline=baseline,
            wanted=there[:, 0],
            real=there[:, 1:-1],
        )
    real, chosen, rejected = there[:, 1:], ratios[:, 0], ratios[:, 1:]
    if config.method == "sdpo":
        return losses.softmax_dpo(chosen, rejected, beta=beta, real=real)
    if config.method == "ipo":
        return losses.ipo(chosen, rejected, beta=beta, real=real)
    if config.method == "simpo":
        means = scores / count_codes(policy, candidates).clamp(min=1)
        return losses.simpo(means[:, 0], means[:, 1:], beta=beta, gamma=config.gamma, real=real)
    smoothing = config.label_smoothing if config.method == "cdpo" else 0.0
    return losses.dpo(chosen, rejected, beta=beta, label_smoothing=smoothing, real=real)


class GroupObjective(Objective):
    """Samples groups, rewards them, and learns from who was better than the group (GRPO).

    A group are distinct items, drawn without replacement; where lists are written as one sequence (mode ``session``) it
    is the most probable whole lists, each an answer with a reward of its own.

    The policy that samples is a copy that is refreshed every few updates; it is part of the module, so a checkpoint
    holds it and training resumes exactly.

    Args:
        policy: What is aligned.
        reference: What the KL is measured to.
        config: Method and weights.
        decoding: How lists are written; sampling adds its noise.
        prompts: Where groups begin.
        reward: What items, or lists, are worth.
    """

    updates: Tensor

    def __init__(
        self,
        policy: GenerativeRecommender,
        reference: GenerativeRecommender,
        config: AlignmentConfig,
        *,
        decoding: DecodingConfig,
        prompts: Prompts,
        reward: WeightedRewards,
    ) -> None:
        super().__init__(policy, config)
        self.sampler = copy.deepcopy(policy).requires_grad_(False)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.decoding, self.prompts, self.reward = decoding, prompts, reward
        # In a tuple it is no part of the module: it is neither trained nor saved.
        self._reference = (reference,)

    def forward(
        self,
        items: Tensor,
        lengths: Tensor,
        histories: Tensor,
        history_lengths: Tensor,
        prompt_rows: Tensor,
        shares: Tensor | None = None,
        part: Tensor | None = None,
    ) -> TrainingOutput:
        """The anchor of ``items [B, T]`` and the group loss of items sampled after ``histories [P, T']``.

        Several processes draw what one would: a draw depends on the update and the history. ``shares`` float64 ``[2]``
        says how much of the update's targets and prompts this batch has, ``part`` int64 ``[2]`` which of how many
        micro-batches it is.
        """
        first, last = (True, True) if part is None else (int(part[0]) == 0, int(part[0]) == int(part[1]) - 1)
        if first and int(self.updates) % self.recipe.refresh_steps == 0:
            self._refresh()
        config = self.recipe
        with torch.no_grad():
            groups = self._groups(histories, history_lengths)
            self.updates += int(last)
            advantages = self._advantages(prompt_rows, groups)
            sampled = sequence_log_probs(self.sampler, histories, history_lengths, groups)
            reference = sequence_log_probs(self._reference[0], histories, history_lengths, groups)
        found = losses.group_policy(
            self.score(histories, history_lengths, groups),
            sampled,
            reference,
            advantages,
            clip=config.clip,
            early_clip=config.early_clip,
            kl_weight=config.kl_weight,
            real=present(groups),
        )
        return self.combine(self.anchor(items, lengths), found.mean(), shares)

    def _groups(self, histories: Tensor, lengths: Tensor) -> Tensor:
        size = self.recipe.pairs.list_size
        if self.decoding.mode == "session":
            return session_batch(self.sampler, histories, lengths, size, decoding=self.decoding)
        seed = int(np.random.SeedSequence([self.recipe.training.seed, int(self.updates)]).generate_state(1)[0])
        return sample_batch(self.sampler, histories, lengths, size, decoding=self.decoding, seed=seed)

    def _advantages(self, prompt_rows: Tensor, groups: Tensor) -> Tensor:
        prompts, answers = self.prompts.select(prompt_rows.cpu().numpy()), groups.cpu().numpy()
        if answers.ndim == 3:
            rewards = whole_worth(self.reward, prompts, answers)
        else:
            rewards = np.asarray(self.reward(prompts, answers))
        values = torch.from_numpy(rewards).to(groups.device, torch.float32)
        return losses.group_advantages(values, present(groups))

    def _refresh(self) -> None:
        # Buffers too: what balances experts moves while training, and is no parameter.
        with torch.no_grad():
            for own, new in zip(_tensors_of(self.sampler), _tensors_of(self.policy), strict=True):
                own.copy_(new)


def _tensors_of(model: nn.Module) -> Iterator[Tensor]:
    """All that a model computes with."""
    yield from model.parameters()
    yield from model.buffers()
