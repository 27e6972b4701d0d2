"""Decoder-only recommender without any weight of a single item: it reads and recommends catalogues never seen before.

After RecGPT (2506.06270, sections 3.2 and 3.3): every code is read together with the raw slice of the item's vector
that it was rounded from; codes of one item see each other, and all items before; each of them predicts the code of the
next item in its own place, so that all codes are written at once. The codebook is the fixed grid of the tokenizer
``fsq``, which is one for all slices and all catalogues: so is the table of code embeddings here.

Where the authors' code contradicts itself, this follows the method: histories are right-padded and counted from their
beginning in training and in use, so that a score depends on nothing else in the batch, and items of equal codes are
all reached. Positions are rotary with a learned vector per place inside an item, instead of one per position.

Two things go beyond the paper. With ``grid`` neighbors on the grid share what they learn, at the input and in the
head. With ``item_loss`` the raw vectors speak for themselves, too: an item is likely where it is near to those read
(:mod:`genrec.models.layers.neighborhoods`), which holds in catalogues whose codes mean little to the heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from genrec.config.ranges import Codes, CountOrZero, Few, Layers, Rate, Weight
from genrec.errors import ConfigError
from genrec.models.base import (
    BackboneSettings,
    CatalogueInput,
    Context,
    GenerativeRecommender,
    GenrecConfig,
    ModelInputs,
    RecommenderModel,
    TrainingOutput,
    no_item_probabilities,
)
from genrec.models.capabilities import ExpertAssignment, ItemProbabilities, ParallelCodes
from genrec.models.layers.history import gather_targets, length_mask, positions_read, state_at
from genrec.models.layers.neighborhoods import Neighborhoods, SoftmaxMixture


class RecGPTSettings(BackboneSettings):
    """Settings of the family."""

    num_layers: Layers = 3
    dropout: Rate = 0.1
    use_features: bool = Field(True, description="read the raw slices of item vectors as well as the codes")
    grid: tuple[Codes, ...] | None = Field(
        None, description="the grid of the tokenizer: a code is then read and written as its numbers, too"
    )
    item_loss: Weight = Field(0.0, description="weight of the loss of neighborhoods, in addition to that of codes")
    item_negatives: CountOrZero = Field(0, description="items that a batch shares in the item loss; 0 takes all items")
    kernels: Few = Field(3, description="sharpnesses of neighborhoods, where there is an item loss")

    @property
    def reads(self) -> frozenset[CatalogueInput]:
        """Item vectors, where they are used."""
        return frozenset({"features"} if self.use_features else ())

    @property
    def has_item_probabilities(self) -> bool:
        """With the item loss."""
        return bool(self.item_loss)

    @property
    def unread(self) -> dict[str, str]:
        """With what neighborhoods need."""
        names = () if self.item_loss else ("item_negatives", "kernels")
        return super().unread | dict.fromkeys(names, "item_loss above 0")

    @model_validator(mode="after")
    def _items_have_vectors(self) -> "RecGPTSettings":
        if self.item_loss and not self.use_features:
            raise ValueError("item_loss compares item vectors: it needs use_features")
        return self


@dataclass
class ReadContext(Context):
    """A context that still knows which items were read.

    Attributes:
        items: Dense items, int64 ``[B, T]``, right-padded.
        mixture: How much each of them counts.
    """

    items: Tensor = field(kw_only=True)
    mixture: SoftmaxMixture = field(kw_only=True)


class RecGPT(ParallelCodes, ItemProbabilities, ExpertAssignment, GenerativeRecommender):
    """Codes and slices in, all codes of the next item out."""

    Settings: ClassVar[type[BackboneSettings]] = RecGPTSettings
    settings: RecGPTSettings
    supports_experts = True

    def __init__(self, config: GenrecConfig) -> None:
        super().__init__(config)
        settings, codes = self.settings, max(self.level_sizes, default=1)
        _check_grid(settings.grid, self.level_sizes)
        self.items = SliceEmbedding(
            config.num_items,
            settings.hidden_size,
            num_codes=codes,
            num_slices=self.num_levels,
            feature_size=config.feature_size if settings.use_features else 0,
            grid=settings.grid,
        )
        self.start = nn.Parameter(torch.zeros(self.num_levels, settings.hidden_size))
        self.transformer = settings.transformer()
        self.head = nn.Linear(settings.hidden_size, codes, bias=False)
        self.head_numbers = GridRows(settings.grid, settings.hidden_size) if settings.grid else None
        self.neighborhoods = (
            Neighborhoods(config.feature_size, settings.hidden_size, settings.max_history, settings.kernels)
            if settings.item_loss
            else None
        )
        self.post_init()

    @classmethod
    def build(cls, config: GenrecConfig, materials: ModelInputs) -> RecommenderModel:
        """An untrained model; neighborhoods are measured by the vectors of this catalogue."""
        model = super().build(config, materials)
        if isinstance(model, RecGPT) and model.neighborhoods is not None:
            model.neighborhoods.fit(model.get_buffer("items.features"))
        return model

    def forward(self, items: Tensor, lengths: Tensor) -> TrainingOutput:
        """Predict all codes of every item from the items before it; the loss is the mean over items of their sum."""
        hidden = self.read(items[:, :-1], lengths - 1)
        states, targets = gather_targets(hidden, items, lengths)
        codes = self.item_codes[targets].long()
        loss = self.code_space.loss(lambda level: self.code_logits(level, states), codes)
        if self.neighborhoods is not None:
            loss = loss + self.settings.item_loss * self.neighborhoods.next_item_loss(
                self.item_state(hidden),
                items,
                length_mask(lengths, items.shape[1]),
                self.get_buffer("items.features"),
                negatives=self.settings.item_negatives,
            )
        return self.training_output(loss)

    def read(self, items: Tensor, lengths: Tensor) -> Tensor:
        """States ``[B, 1 + T, L * D]`` before the first and after each of ``items [B, T]``, ``lengths [B]`` real."""
        tokens = self.items(items, self.item_codes).flatten(1, 2)
        tokens = torch.cat([self.start.expand(len(items), -1, -1).to(tokens.dtype), tokens], dim=1)
        mask = length_mask((lengths + 1) * self.num_levels, tokens.shape[1])
        hidden, _ = self.transformer(tokens, mask, item_mask(tokens.shape[1], self.num_levels, tokens.device))
        return hidden.reshape(len(items), -1, self.num_levels * hidden.shape[2])

    def encode(self, items: Tensor, lengths: Tensor) -> Context:
        """Read each history once; there is nothing to attend to afterwards."""
        ones = torch.ones_like(lengths)
        state = state_at(self.read(items, lengths), lengths)
        if self.neighborhoods is None:
            return Context(state, [], ones.bool().unsqueeze(1), ones)
        last = self.item_state(state).unsqueeze(1)
        mixture = self.neighborhoods.mixture(last, lengths.unsqueeze(1), items.shape[1])
        return ReadContext(state, [], ones.bool().unsqueeze(1), ones, items=items, mixture=mixture)

    def item_state(self, hidden: Tensor) -> Tensor:
        """What the states of all codes of an item ``[..., L * D]`` say together, ``[..., D]``."""
        return hidden.unflatten(-1, (self.num_levels, -1)).mean(dim=-2)

    def item_log_probabilities(self, context: Context, items: Tensor) -> Tensor:
        """log p of ``items [B, C]`` as neighbors of what was read, float32 ``[B, C]``."""
        if self.neighborhoods is None or not isinstance(context, ReadContext):
            raise no_item_probabilities(self.config.family)
        features = self.get_buffer("items.features")
        return self.neighborhoods.log_probabilities(context.mixture, context.items, features).gather(1, items)

    def expert_assignments(self, items: Tensor, lengths: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Experts read codes."""
        self.read(items, lengths)
        return positions_read(items, lengths, codes=self.num_levels, starts=self.num_levels)

    def all_code_logits(self, context: Context) -> list[Tensor]:
        """Logits of every level at once, ``[B, K_l]`` each."""
        return [self.code_logits(level, context.state) for level in range(self.num_levels)]

    def code_logits(self, level: int, hidden: Tensor) -> Tensor:
        """Logits over the codebook of ``level`` from states ``[..., L * D]``."""
        state = hidden.unflatten(-1, (self.num_levels, -1))[..., level, :]
        rows = self.head.weight if self.head_numbers is None else self.head.weight + self.head_numbers()
        return functional.linear(state, rows[: self.level_sizes[level]])


class SliceEmbedding(nn.Module):
    """Vectors of an item's codes: the code, the slice of the item's vector that it stands for, its place.

    Args:
        num_items: Catalogue size N, of which nothing but the buffer of features depends.
        hidden_size: Width D.
        num_codes: K, the size of the codebook that all places share.
        num_slices: L.
        feature_size: Width of the item vectors; zeros fill the last slice; 0 leaves them out.
        grid: Of the codebook, where codes are read as their numbers, too.
    """

    features: Tensor | None

    def __init__(
        self,
        num_items: int,
        hidden_size: int,
        *,
        num_codes: int,
        num_slices: int,
        feature_size: int = 0,
        grid: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.num_slices, self.slice_size = num_slices, -(-feature_size // num_slices)
        self.codes = nn.Embedding(num_codes, hidden_size)
        self.numbers = GridRows(grid, hidden_size) if grid else None
        self.code_norm = nn.LayerNorm(hidden_size)
        self.places = nn.Embedding(num_slices, hidden_size)
        self.projection = nn.Linear(self.slice_size, hidden_size) if feature_size else None
        self.slice_norm = nn.LayerNorm(hidden_size) if feature_size else None
        self.register_buffer("features", torch.zeros(num_items, feature_size) if feature_size else None)

    def forward(self, items: Tensor, item_codes: Tensor) -> Tensor:
        """Vectors ``[..., L, D]`` of dense item ids ``[...]`` with the code table ``item_codes [N, L]``."""
        codes = item_codes[items].long()
        vectors = self.codes(codes) if self.numbers is None else self.codes(codes) + self.numbers()[codes]
        vectors = self.code_norm(vectors) + self.places.weight
        if self.projection is None or self.slice_norm is None or self.features is None:
            return vectors
        return vectors + self.slice_norm(self.projection(self._slices(self.features[items])))

    def _slices(self, features: Tensor) -> Tensor:
        """``[..., F]`` as ``[..., L, W]``."""
        missing = self.num_slices * self.slice_size - features.shape[-1]
        return functional.pad(features, (0, missing)).unflatten(-1, (self.num_slices, -1))


class GridRows(nn.Module):
    """What the codes of a grid have in common: a row for every level of every number, and each code their sum.

    Args:
        grid: Levels of every number; the codes are ordered as those of
            :class:`~genrec.tokenizers.parts.scalar.ScalarQuantizer`.
        hidden_size: Width D.
    """

    def __init__(self, grid: Sequence[int], hidden_size: int) -> None:
        super().__init__()
        self.grid = tuple(grid)
        self.rows = nn.Embedding(sum(grid), hidden_size)

    def forward(self) -> Tensor:
        """Rows of all codes, ``[K, D]``."""
        codes = torch.arange(prod(self.grid), device=self.rows.weight.device)
        total, start = torch.zeros_like(self.rows.weight[:1]), 0
        for levels in self.grid:
            total = total + self.rows(start + codes % levels)
            codes, start = codes // levels, start + levels
        return total


def _check_grid(grid: Sequence[int] | None, level_sizes: Sequence[int]) -> None:
    if grid and level_sizes and set(level_sizes) != {prod(grid)}:
        raise ConfigError(
            f"a grid of {prod(grid)} codes is not that of these semantic IDs, whose levels have {list(level_sizes)}",
            where="recommender.grid",
            expected="the grid of the tokenizer fsq",
            fix="set recommender.grid to tokenizer.grid, or leave it out",
        )


def item_mask(length: int, num_levels: int, device: torch.device) -> Tensor:
    """Whether a code may see another, bool ``[S, S]``: those of its own item and of every item before."""
    item = torch.arange(length, device=device) // num_levels
    return item.unsqueeze(1) >= item
