"""The reader that ``depth`` and ``parallel`` share: one position per item, one pass for every position of a user."""

from abc import abstractmethod
from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from genrec.config.ranges import CountOrZero, Rate, Weight
from genrec.models.base import (
    BackboneSettings,
    CatalogueInput,
    Context,
    GenerativeRecommender,
    GenrecConfig,
    TrainingOutput,
)
from genrec.models.layers.codes import CodeHead
from genrec.models.layers.history import gather_targets, length_mask, positions_read
from genrec.models.layers.items import ItemEmbedding
from genrec.models.side_inputs import SideInputs, SideInputSettings


class ItemBackboneSettings(SideInputSettings):
    """Settings of the families that read items and write codes."""

    use_ids: bool = Field(True, description="add one learned vector per item to its codes")
    use_features: bool = Field(True, description="add projected item features")
    feature_dropout: Rate = 0.0
    label_smoothing: Rate = 0.0
    item_loss: Weight = Field(0.0, description="weight of a softmax over item vectors beside the codes' loss")
    item_negatives: CountOrZero = Field(0, description="items that a batch shares in the item loss; 0 takes all items")

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
        """With what features and the item loss need."""
        unread = super().unread | ({} if self.use_features else {"feature_dropout": "use_features: true"})
        return unread | ({} if self.item_loss else {"item_negatives": "item_loss above 0"})

    @model_validator(mode="after")
    def _items_have_vectors(self) -> "ItemBackboneSettings":
        if self.item_loss and not (self.use_ids or self.use_features):
            raise ValueError("item_loss needs item vectors: use_ids or use_features")
        return self


class ItemBackbone(GenerativeRecommender):
    """Reads a history item by item; a family says how each state becomes the codes of the next item.

    An item's vector is the sum of its code embeddings, an optional id embedding and projected features. With
    ``item_loss`` the states also learn to point at the vector of the next item, which tells apart items that share
    codes; ``decoding.item_weight`` adds these probabilities to what the codes say.
    """

    Settings: ClassVar[type[BackboneSettings]] = ItemBackboneSettings
    settings: ItemBackboneSettings
    supports_variable_length = True
    supports_experts = True

    def __init__(self, config: GenrecConfig) -> None:
        super().__init__(config)
        settings = self.settings
        self.items = ItemEmbedding(
            config.num_items,
            settings.hidden_size,
            use_ids=settings.use_ids,
            feature_size=config.feature_size if settings.use_features else 0,
            level_sizes=self.level_sizes,
            feature_dropout=settings.feature_dropout,
            variable_length=config.variable_length,
        )
        self.start = nn.Parameter(torch.zeros(settings.hidden_size))
        self.inputs = SideInputs(settings)
        self.transformer = settings.transformer()
        self.head = CodeHead(self.level_sizes, settings.hidden_size)

    def forward(self, items: Tensor, lengths: Tensor, **extras: Tensor) -> TrainingOutput:
        """Predict every item from those before it; the loss is the mean over items of the sum over levels."""
        states, targets = gather_targets(self.read(items[:, :-1], lengths - 1, **extras), items, lengths)
        loss = self.codes_loss(states, self.item_codes[targets].long())
        if self.settings.item_loss:
            loss = loss + self.settings.item_loss * self.items.next_item_loss(
                states,
                targets,
                negatives=self.settings.item_negatives,
                label_smoothing=self.settings.label_smoothing,
            )
        return self.training_output(loss)

    def read(self, items: Tensor, lengths: Tensor, **extras: Tensor) -> Tensor:
        """States ``[B, 1 + T, D]`` before the first and after each of ``items [B, T]``; ``lengths [B]`` are real."""
        mask = length_mask(lengths + 1, items.shape[1] + 1)
        vectors = self.items(items, self.item_codes).unsqueeze(2)
        hidden, _ = self.transformer(self.inputs(self.start, vectors, **extras), mask)
        return hidden

    def expert_assignments(
        self, items: Tensor, lengths: Tensor, targets: Tensor, **extras: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Experts read items, one position each."""
        self.read(items, lengths, **extras)
        return positions_read(items, lengths)

    @abstractmethod
    def codes_loss(self, states: Tensor, codes: Tensor) -> Tensor:
        """Loss of writing the semantic IDs ``codes [n, L]`` from ``states [n, D]``: sum over levels, mean over n."""

    def item_log_probabilities(self, context: Context, items: Tensor) -> Tensor:
        """Log-softmax over the catalogue of the state's products with the item vectors, at ``items [B, C]``."""
        if not self.settings.item_loss or context.item_state is None:
            return super().item_log_probabilities(context, items)
        logits = context.item_state @ self.items.table().T
        return torch.log_softmax(logits, dim=-1, dtype=torch.float32).gather(1, items)
