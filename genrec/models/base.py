"""The base classes of recommenders: a ``transformers`` model with a loss from histories and answers for a decoder.

A batch holds dense item ids and lengths, right-padded. The model owns the code table as a buffer and looks codes up on
its own device, so one prepared data set serves every tokenizer.

- The contract is small: every family defines ``forward``; one that scores items ``score_items``; one that writes
  semantic IDs ``encode``, ``beam_step`` and ``code_logits``. These are abstract: a class that lacks one cannot be made.
- What only some families can is a mixin of :mod:`genrec.models.capabilities`. The refusals that are left here answer a
  caller who asks a family for something that it does not have.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from genrec.config.ranges import Heads, HistoryLength, Layers, Rate, Width
from genrec.data.histories import Histories
from genrec.errors import ConfigError
from genrec.models.layers.codes import NO_CODE, CodeHead, CodeSpace
from genrec.models.layers.moe import ExpertSettings, MixtureOfExperts, expert_layers, routing_metrics
from genrec.models.layers.transformer import CausalTransformer, KeyValue
from genrec.tokenizers.base import Kind

# What a model may read of the catalogue and of the training part, besides codes and continuous tokens.
CatalogueInput = Literal["features", "texts", "histories"]


class GenrecConfig(PreTrainedConfig):
    """Family, its settings, and the shape of the catalogue it was built for."""

    model_type = "genrec"

    family: str = ""
    settings: dict[str, Any] | None = None
    num_items: int = 0
    level_sizes: list[int] | None = None
    variable_length: bool = False
    # Whether experts take what is after the end of a shorter semantic ID, too: in models made before they left it out,
    # and in dense ones that get experts later, whose layers mapped every position.
    routes_ended: bool = True
    index_fingerprint: str = ""
    feature_size: int = 0
    num_tokens: int = 0
    token_size: int = 0
    backbone: dict[str, Any] | None = None
    num_words: int = 0
    prompts: dict[str, Any] | None = None
    collaborative: dict[str, Any] | None = None
    initializer_range: float = 0.02


@dataclass(frozen=True)
class ItemTexts:
    """What the catalogue says of its N items in words.

    Attributes:
        titles: What each is called; empty where it has no title.
        texts: All that is said of each, its title included; empty where nothing is.
    """

    titles: Sequence[str]
    texts: Sequence[str]


@dataclass(frozen=True, eq=False)
class ModelInputs:
    """What a new model is made from, a row for each of N items; None where the family reads no such thing.

    Attributes:
        codes: int32 ``[N, L]``.
        features: float32 ``[N, F]``, where the settings' ``reads`` has ``features``.
        tokens: Continuous tokens, float32 ``[N, Q, C]``, where the family says ``reads_tokens``.
        texts: Where ``reads`` has ``texts``.
        histories: Of the training part, where ``reads`` has ``histories``.
    """

    codes: np.ndarray | None = None
    features: np.ndarray | None = None
    tokens: np.ndarray | None = None
    texts: ItemTexts | None = None
    histories: Histories | None = None


class BackboneSettings(ExpertSettings):
    """Settings that all transformer families share."""

    hidden_size: Width = Field(128, ge=8)
    num_layers: Layers = 2
    num_heads: Heads = 2
    feed_forward_size: Width | None = Field(None, ge=8, description="inner width of SwiGLU; twice the width if null")
    dropout: Rate = 0.3
    max_history: HistoryLength = Field(50, description="items of history that the model reads")

    @property
    def reads(self) -> frozenset[CatalogueInput]:
        """What such a model is built from besides codes and continuous tokens; families that read more override it."""
        return frozenset()

    @property
    def has_item_probabilities(self) -> bool:
        """Whether such a model has a probability of every item besides those of its codes."""
        return False

    @property
    def sources(self) -> tuple[str, ...]:
        """Model folders that must have been trained on the data set that this one is trained on."""
        return ()

    @property
    def longest_session(self) -> int:
        """Most items that such a model writes as one sequence, each given those before; 1 where it writes only one."""
        return 1

    @property
    def targets_at_once(self) -> int:
        """Most items after one history that a training step learns; windows are so much longer than ``max_history``."""
        return 1

    @property
    def side_inputs(self) -> tuple[str, ...]:
        """Names of the settings that let the model read more of a history than its items."""
        return ()

    def read_side_inputs(self, histories: Histories, rows: np.ndarray, size: int) -> dict[str, np.ndarray]:
        """What the model reads of some rows besides their last ``size`` items, by the keywords of its calls.

        Args:
            histories: Where the rows are.
            rows: int ``[B]``.
            size: Most items read.
        """
        return {}

    def check_side_inputs(self, histories: Histories) -> None:
        """Refuse to learn from histories that lack what the model is to read of them.

        Raises:
            ConfigError: If so, naming the setting and what to do.
        """

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> "BackboneSettings":
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} cannot be divided over {self.num_heads} heads: "
                "it must be a multiple of 2 * num_heads"
            )
        return self

    @model_validator(mode="after")
    def _some_layer_has_experts(self) -> "BackboneSettings":
        if self.experts and self.expert_every > self.num_layers:
            raise ValueError(
                f"expert_every {self.expert_every} leaves none of the {self.num_layers} layers with experts"
            )
        return self

    def transformer(self, num_layers: int | None = None) -> CausalTransformer:
        """Build the causal backbone that these settings describe."""
        return CausalTransformer(
            self.hidden_size,
            num_layers or self.num_layers,
            self.num_heads,
            self.feed_forward_size or 2 * self.hidden_size,
            self.dropout,
            self if self.experts else None,
        )


@dataclass
class TrainingOutput(ModelOutput):
    """The mean loss over all targets of the batch (float32 scalar)."""

    loss: Tensor | None = None


@dataclass
class Context:
    """What the model knows of each user before the first code is written.

    Attributes:
        state: ``[B, D]``, the output that predicts the first code.
        history: Keys and values ``[B, H, T, d]`` per layer, shared by a user's beams.
        attention_mask: bool ``[B, T]`` over the history's positions.
        lengths: int64 ``[B]``, the number of visible positions.
        prefix_cache: Keys and values ``[B, 1, H, d]`` of decoder positions before the first code, per layer, if there
            are any.
        item_state: ``[B, D]``, what points at item vectors; None where a family only writes codes.
        beam_cache: Keys and values ``[B, M, H, d]`` of the beams' own positions, per layer; each call of
            ``next_code_logits`` adds one.
    """

    state: Tensor
    history: list[KeyValue]
    attention_mask: Tensor
    lengths: Tensor
    prefix_cache: list[list[KeyValue]] | None = None
    beam_cache: list[list[KeyValue]] | None = None
    item_state: Tensor | None = None

    def reorder(self, beam_index: Tensor) -> None:
        """Let each beam continue from the slot ``beam_index [B, M]`` of the call before."""
        if self.beam_cache is not None:
            users = torch.arange(len(beam_index), device=beam_index.device).unsqueeze(1)
            self.beam_cache = [
                [KeyValue(*(_take_beams(cached, beam_index, users) for cached in position)) for position in layer]
                for layer in self.beam_cache
            ]


def _take_beams(cached: Tensor, beam_index: Tensor, users: Tensor) -> Tensor:
    """Rows ``beam_index [B, M]`` of ``cached [B, M', H, d]``; what beams share stays as it is."""
    beams = cached.shape[1]
    if beams == 1:
        return cached
    # Users and beams as one axis: a single index_select copies whole rows, where gather would index every element.
    return cached.flatten(0, 1).index_select(0, (beam_index + users * beams).flatten()).unflatten(0, beam_index.shape)


class RecommenderModel(PreTrainedModel, ABC):
    """Base of all recommenders: reads dense item ids ``[B, T]`` with lengths ``[B]``."""

    config_class = GenrecConfig
    base_model_prefix = ""
    Settings: ClassVar[type[BackboneSettings]] = BackboneSettings
    needs_semantic_ids: ClassVar[bool] = True
    supports_experts: ClassVar[bool] = False
    supports_variable_length: ClassVar[bool] = False
    # Whether all products of the family lie in modules that genrec.models.flops counts.
    counts_flops: ClassVar[bool] = False
    semantic_id_kind: ClassVar[Kind] = "sequence"
    reads_tokens: ClassVar[bool] = False
    # Whether the features that it reads are to tell what users did, not what items are.
    needs_collaborative: ClassVar[bool] = False
    # A setting, and for each of its values the class ``module:Class`` that is built: a family of several models.
    variants: ClassVar[tuple[str, Mapping[str, str]] | None] = None

    def __init__(self, config: GenrecConfig) -> None:
        super().__init__(config)
        self.settings = self.Settings(**(config.settings or {}))
        self.max_history = self.settings.max_history

    @classmethod
    def build(cls, config: GenrecConfig, materials: ModelInputs) -> "RecommenderModel":
        """An untrained model with what it keeps of the catalogue; families that read texts have more to do here."""
        model = cls(config)
        if materials.tokens is not None:
            model.set_item_tokens(torch.tensor(materials.tokens))
        if isinstance(model, GenerativeRecommender) and materials.codes is not None:
            model.item_codes.copy_(torch.tensor(materials.codes))
        if materials.features is not None:
            model.get_buffer("items.features").copy_(torch.tensor(materials.features))
        return model

    @abstractmethod
    def forward(self, items: Tensor, lengths: Tensor) -> TrainingOutput:
        """Compute the loss of next-item prediction.

        Args:
            items: Dense item ids, int64 ``[B, T]``, right-padded.
            lengths: Items per user, int64 ``[B]``.
        """

    def training_output(self, loss: Tensor) -> TrainingOutput:
        """The loss; in training with what the routers of experts add to it."""
        if self.settings.experts and self.training:
            for layer in expert_layers(self.modules()):
                if layer.auxiliary is not None:
                    loss = loss + layer.auxiliary
        return TrainingOutput(loss=loss)

    def set_item_tokens(self, tokens: Tensor) -> None:
        """Keep the catalogue's continuous tokens float32 ``[N, Q, C]``; only where ``reads_tokens``."""
        raise TypeError(f"{type(self).__name__} reads no tokens")

    def take_parts(self, folder: Path) -> None:
        """Take from a model folder what the model keeps there next to its weights; most families keep nothing.

        Raises:
            ArtifactError: If it is missing or damaged.
        """

    def training_metrics(self) -> dict[str, Any]:
        """What the training log tells besides the loss: the loads of experts, where there are any."""
        return routing_metrics(layer.routing for layer in expert_layers(self.modules()))

    def finish_training(self, measure: Callable[[], float]) -> list[str]:
        """Choose the settings that are chosen on validation when the weights are final; most families have none.

        Args:
            measure: The selecting metric of the validation users, for the model as it is at the moment.

        Returns:
            What was chosen, one sentence each.
        """
        return []

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CodeHead):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            nn.init.zeros_(module.bias)
        if isinstance(module, MixtureOfExperts):
            module.reset(self.config.initializer_range, self.config.initializer_range)


class ItemScorer(RecommenderModel):
    """A recommender that scores every item at once."""

    needs_semantic_ids = False

    @abstractmethod
    def score_items(self, items: Tensor, lengths: Tensor) -> Tensor:
        """Score the whole catalogue, float32 ``[B, N]``, from ``items [B, T]`` and ``lengths [B]``."""


class GenerativeRecommender(RecommenderModel):
    """A recommender that writes the next item's semantic ID code by code.

    A decoder needs ``encode`` once per user and ``next_code_logits`` per level, which asks the family for ``beam_step``
    and ``code_logits``; families whose heads are independent given the context
    (:class:`~genrec.models.capabilities.ParallelCodes`) also answer ``all_code_logits``.
    """

    supports_parallel: ClassVar[bool] = False
    item_codes: Tensor

    def __init__(self, config: GenrecConfig) -> None:
        super().__init__(config)
        self.level_sizes = list(config.level_sizes or [])
        self.num_levels = len(self.level_sizes)
        self.code_space = CodeSpace(self.level_sizes)
        self.register_buffer("item_codes", torch.zeros(config.num_items, self.num_levels, dtype=torch.int32))

    def new_for(self, config: GenrecConfig) -> "GenerativeRecommender":
        """A model of this one's family for another catalogue, with weights drawn anew."""
        return type(self)(config)

    @abstractmethod
    def encode(self, items: Tensor, lengths: Tensor) -> Context:
        """Read each history once; ``items`` int64 ``[B, T]`` right-padded, ``lengths`` int64 ``[B]``, 0 allowed."""

    def next_code_logits(self, context: Context, prefix: Tensor, beam_index: Tensor | None = None) -> Tensor:
        """Logits of the next code of each beam.

        Args:
            context: From ``encode``; its cache grows by one position per call.
            prefix: Codes written so far, int64 ``[B, M, l]``; after L of them the next item of a session begins. In a
                session -1 is after the end of a shorter semantic ID.
            beam_index: Slot of each beam in the call before, int64 ``[B, M]``; None recomputes the whole prefix.

        Returns:
            ``[B, M, K]`` over the codebook of level ``l % L``, unnormalized.
        """
        position = prefix.shape[2]
        if position == 0:
            context.beam_cache = context.prefix_cache
            return self.code_logits(0, context.state).unsqueeze(1)
        # With the caches of the call before, only the newest code of each beam is still to be read.
        unread = range(position - 1, position)
        if beam_index is None:
            context.beam_cache = context.prefix_cache
            beam_index = torch.zeros_like(prefix[:, :, 0])
            unread = range(position)
        context.reorder(beam_index)
        for earlier in unread:
            hidden = self.beam_step(context, earlier, prefix[:, :, earlier])
        return self.code_logits(position % self.num_levels, hidden)

    @abstractmethod
    def code_logits(self, level: int, hidden: Tensor) -> Tensor:
        """Logits over the codebook of ``level``, ``[..., K]``, from ``hidden [..., D]``."""

    @abstractmethod
    def beam_step(self, context: Context, level: int, codes: Tensor) -> Tensor:
        """Feed each beam the code that it wrote at ``level`` (``[B, M]``); returns ``[B, M, D]``.

        In a session the levels go on counting: :class:`~genrec.models.capabilities.SessionWriter`.
        """

    def item_log_probabilities(self, context: Context, items: Tensor) -> Tensor:
        """Refused: only a family with :class:`~genrec.models.capabilities.ItemProbabilities` compares item vectors.

        Raises:
            ConfigError: Always.
        """
        raise no_item_probabilities(self.config.family)

    def real_codes(self, codes: Tensor) -> Tensor | None:
        """Which ``codes`` that are read experts take, bool of the same shape; None where they take all of them."""
        return None if self.config.routes_ended else codes != NO_CODE

    def all_code_logits(self, context: Context) -> list[Tensor]:
        """Refused: only a family with :class:`~genrec.models.capabilities.ParallelCodes` (``supports_parallel``)."""
        raise TypeError(f"{type(self).__name__} writes its codes one after another")


def no_item_probabilities(family: str) -> ConfigError:
    """What to say where lists shall follow item vectors that a model does not compare."""
    return ConfigError(
        f"this {family!r} model has no item-level probabilities",
        where="decoding.item_weight, decoding.mode: items",
        expected="depth, parallel or recgpt, trained with recommender.item_loss",
        fix="set decoding.item_weight: 0 and decoding.mode: beam, or train with recommender.item_loss: 1",
    )
