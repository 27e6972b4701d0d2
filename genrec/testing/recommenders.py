"""What every recommender must fulfil, checked on tiny models with random weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec.config import RecommenderConfig
from genrec.data import Histories
from genrec.models import (
    GenerativeRecommender,
    ItemScorer,
    ItemTexts,
    RecommenderModel,
    build_recommender,
    load_recommender,
    recommender_class,
)
from genrec.testing.rules import require
from genrec.tokenizers import ItemIndex

NUM_ITEMS, LEVEL_SIZES = 40, (8, 8, 5)
TOLERANCE = 1e-5


def build_tiny(name: str, settings: Mapping[str, Any], seed: int = 0) -> RecommenderModel:
    """An untrained recommender of a catalogue of 40 items, with all inputs that a family may read.

    Args:
        name: In :data:`genrec.models.registry.FAMILIES`.
        settings: Settings that make it small.
        seed: Of its weights.
    """
    items = range(NUM_ITEMS)
    flat = np.random.default_rng(3).choice(int(np.prod(LEVEL_SIZES)), NUM_ITEMS, replace=False)
    codes = np.stack(np.unravel_index(flat, LEVEL_SIZES), axis=1).astype(np.int32)
    titles = [f"{('red', 'blue', 'green')[item % 3]} thing number {item}" for item in items]
    histories = [[item, (3 * item + 1) % NUM_ITEMS, (7 * item + 5) % NUM_ITEMS] for item in range(30)]
    torch.manual_seed(seed)
    return build_recommender(
        RecommenderConfig(name=name, **settings),
        num_items=NUM_ITEMS,
        index=ItemIndex(codes, LEVEL_SIZES, [f"item-{i}" for i in items], recommender_class(name).semantic_id_kind),
        features=np.random.default_rng(5).standard_normal((NUM_ITEMS, 12)).astype(np.float32),
        tokens=np.random.default_rng(6).standard_normal((NUM_ITEMS, 3, 8)).astype(np.float32),
        texts=ItemTexts(titles, [f"{title}, made by {item % 5}" for item, title in enumerate(titles)]),
        histories=Histories.from_lists(histories),
    )


def no_side_inputs(model: RecommenderModel, items: Tensor) -> dict[str, Tensor]:
    """For families that read nothing of a history but its items."""
    return {}


def log_probability(
    model: RecommenderModel, items: Tensor, lengths: Tensor, targets: Tensor, side_inputs: Mapping[str, Tensor]
) -> Tensor:
    """log p(target | history) through the methods that decoding calls.

    Args:
        model: A scorer of items, or a family that generates codes.
        items: Histories, int64 ``[B, T]``.
        lengths: int64 ``[B]``.
        targets: int64 ``[B]``.
        side_inputs: What else the model reads of the histories.

    Returns:
        float32 ``[B]``.
    """
    if isinstance(model, ItemScorer):
        scores = model.score_items(items, lengths, **side_inputs)
        return scores.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    if not isinstance(model, GenerativeRecommender):
        raise AssertionError(f"{type(model).__name__} is neither a GenerativeRecommender nor an ItemScorer")
    context = model.encode(items, lengths, **side_inputs)
    codes = model.item_codes[targets].long()[:, None]
    total = torch.zeros(len(items))
    for level in range(model.num_levels):
        parents = torch.zeros(len(items), 1, dtype=torch.long)
        logits = model.next_code_logits(context, codes[:, :, :level], parents)
        total += logits[:, 0].log_softmax(-1).gather(1, codes[:, 0, level : level + 1])[:, 0]
    weight = getattr(model.settings, "item_loss", 0.0)
    return total + weight * model.item_log_probabilities(context, targets[:, None])[:, 0] if weight else total


@dataclass(frozen=True)
class RecommenderContract:
    """The rules for one family, each a method.

    Attributes:
        build: Makes an untrained model for a seed, such as :func:`build_tiny` with name and settings.
        learns_all_items: Whether a training step learns every item of a history, and not some that it draws.
        probability: log p(target | history); of use where a family ranks by another rule than its codes.
        side_inputs: What else the model reads of histories int64 ``[B, T]``, by the names of its arguments.
    """

    build: Callable[[int], RecommenderModel]
    learns_all_items: bool = True
    probability: Callable[[RecommenderModel, Tensor, Tensor, Tensor, Mapping[str, Tensor]], Tensor] = log_probability
    side_inputs: Callable[[RecommenderModel, Tensor], Mapping[str, Tensor]] = no_side_inputs

    def histories(self) -> tuple[Tensor, Tensor]:
        """Items int64 ``[6, 9]`` and lengths ``[6]`` from 1 to 9; what is after a length is padding."""
        generator = torch.Generator().manual_seed(1)
        return torch.randint(NUM_ITEMS, (6, 9), generator=generator), torch.tensor([9, 4, 1, 6, 2, 3])

    def loss(self, model: RecommenderModel, items: Tensor, lengths: Tensor) -> Tensor:
        """The training loss."""
        result: Tensor = model(items, lengths, **self.side_inputs(model, items)).loss
        return result

    def scores(self, model: RecommenderModel, items: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
        """log p(target | history), float32 ``[B]``, without gradients."""
        with torch.no_grad():
            return self.probability(model, items, lengths, targets, self.side_inputs(model, items))

    def check_saving(self, folder: Path) -> None:
        """A saved and loaded model has the same bytes and gives the same probabilities."""
        model = self.build(0).eval()
        model.save_pretrained(folder)
        loaded = load_recommender(folder)
        require(not loaded.training, "a loaded model is in eval mode")
        require(loaded.config.index_fingerprint == model.config.index_fingerprint, "it knows its semantic IDs")
        for name, value in model.state_dict().items():
            require(torch.equal(value, loaded.state_dict()[name]), f"{name} is loaded as it was saved")
        histories = self.histories()
        before, after = (self.scores(one, *histories, histories[0][:, 0]) for one in (model, loaded))
        require(torch.equal(before, after), "a loaded model gives the same probabilities")

    def check_seeds(self) -> None:
        """Weights depend on torch's global generator and on nothing else."""
        first, second, other = (list(self.build(seed).parameters()) for seed in (1, 1, 2))
        require(all(map(torch.equal, first, second)), "equal seeds give equal weights")
        require(not all(map(torch.equal, first, other)), "other seeds give other weights")

    def check_gradients(self) -> None:
        """Every parameter that is trained gets a gradient."""
        model = self.build(0)
        self.loss(model, *self.histories()).backward()
        trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
        idle = [name for name, value in trained.items() if value.grad is None or not value.grad.abs().sum()]
        require(bool(trained) and not idle, f"every parameter learns, also {', '.join(idle) or 'the first one'}")

    def check_padding(self) -> None:
        """Neither what is written into padding nor the other users of a batch change a result."""
        model = self.build(0).eval()
        items, lengths = self.histories()
        targets = (items[:, 0] + 1) % NUM_ITEMS
        padding = torch.arange(items.shape[1]) >= lengths[:, None]
        noisy = torch.where(padding, (items + 7) % NUM_ITEMS, items)
        batched = self.scores(model, items, lengths, targets)
        require(_close(self.scores(model, noisy, lengths, targets), batched), "padding changes no probability")
        for row, length in enumerate(lengths.tolist()):
            one = slice(row, row + 1)
            alone = self.scores(model, items[one, :length], lengths[one], targets[one])
            require(_close(alone[0], batched[row]), f"user {row} alone is as in the batch")
        if self.learns_all_items:
            with torch.no_grad():
                losses = [self.loss(model, values, lengths) for values in (noisy, items)]
            require(_close(*losses), "padding does not change the loss")

    def check_history_is_read(self) -> None:
        """Another item anywhere in a history changes the probability of the next."""
        model = self.build(0).eval()
        items, lengths = (values[:1] for values in self.histories())
        targets = torch.tensor([3])
        before = self.scores(model, items, lengths, targets)
        for position in range(int(lengths[0])):
            changed = items.clone()
            changed[0, position] = (changed[0, position] + 11) % NUM_ITEMS
            after = self.scores(model, changed, lengths, targets)
            require(not torch.equal(after, before), f"the item at position {position} of 9 is read")

    def check_empty_history(self) -> None:
        """A user without history gets finite probabilities that do not depend on the padding."""
        model = self.build(0).eval()
        items, lengths, targets = torch.tensor([[0, 0], [5, 6]]), torch.tensor([0, 2]), torch.tensor([1, 1])
        values = self.scores(model, items, lengths, targets)
        other = self.scores(model, items + 3, lengths, targets)
        require(bool(torch.isfinite(values).all()), "an empty history gives finite probabilities")
        require(torch.allclose(values[0], other[0], atol=1e-6), "an empty history does not depend on padding")
        require(not torch.allclose(values[1], other[1], atol=1e-6), "a history that is not empty is read")

    def check_loss(self) -> None:
        """The training loss is the mean of -log p(item | items before it): no position sees its future.

        For families whose loss is that of the next item alone; weights of other terms are 0 in ``build``.
        """
        model = self.build(0).eval()
        items, lengths = self.histories()
        terms = []
        for row, length in enumerate(lengths.tolist()):
            for cut in range(length) if self.learns_all_items else [length - 1]:
                prefix, target = items[row : row + 1, : max(cut, 1)], items[row : row + 1, cut]
                terms.append(self.scores(model, prefix, torch.tensor([cut]), target))
        with torch.no_grad():
            loss = self.loss(model, items, lengths)
        expected = -torch.cat(terms).mean()
        require(torch.allclose(loss, expected, atol=TOLERANCE, rtol=1e-6), f"loss {loss:.6f}, decoding {expected:.6f}")

    def check_incremental_decoding(self) -> None:
        """Logits from cached states are those of a search that starts anew, for beams that change their order."""
        model, (items, lengths) = self.build(0).eval(), self.histories()
        if isinstance(model, ItemScorer):
            require(model.score_items(items, lengths).shape == (6, NUM_ITEMS), "scores are [B, N]")
            return
        if not isinstance(model, GenerativeRecommender):
            raise AssertionError(f"{type(model).__name__} is neither a GenerativeRecommender nor an ItemScorer")
        generator, beams = torch.Generator().manual_seed(7), 5
        prefix = torch.zeros(len(items), 1, 0, dtype=torch.long)
        with torch.no_grad():
            cached, fresh = (model.encode(items, lengths, **self.side_inputs(model, items)) for _ in range(2))
            logits = model.next_code_logits(cached, prefix)
            require(logits.shape == (len(items), 1, model.level_sizes[0]), f"logits are {list(logits.shape)}")
            for level in range(1, model.num_levels):
                parents = torch.randint(prefix.shape[1], (len(items), beams), generator=generator)
                codes = torch.randint(model.level_sizes[level - 1], (len(items), beams, 1), generator=generator)
                kept = prefix.gather(1, parents[:, :, None].expand(-1, -1, level - 1))
                prefix = torch.cat([kept, codes], dim=2)
                logits = model.next_code_logits(cached, prefix, parents)
                require(logits.shape == (len(items), beams, model.level_sizes[level]), f"level {level} has all codes")
                require(_close(logits, model.next_code_logits(fresh, prefix)), f"the cache of level {level} is right")


def check_recommender(name: str, settings: Mapping[str, Any], folder: Path, *, learns_all_items: bool = True) -> None:
    """Check a registered recommender against all rules.

    Args:
        name: In :data:`genrec.models.registry.FAMILIES`.
        settings: Settings that make it small; weights of losses that are not the next item's are 0.
        folder: A new or empty folder.
        learns_all_items: See :class:`RecommenderContract`.

    Raises:
        AssertionError: With the rule that is broken.
        ConfigError: If the model cannot be built.
    """
    contract = RecommenderContract(lambda seed: build_tiny(name, settings, seed), learns_all_items)
    contract.check_saving(folder)
    for check in (
        contract.check_seeds,
        contract.check_gradients,
        contract.check_padding,
        contract.check_history_is_read,
        contract.check_empty_history,
        contract.check_loss,
        contract.check_incremental_decoding,
    ):
        check()


def _close(left: Tensor, right: Tensor) -> bool:
    return torch.allclose(left, right, atol=TOLERANCE)
