"""SASRec: a causal transformer over items that scores the whole catalogue; the honest baseline.

After Kang and McAuley, "Self-Attentive Sequential Recommendation" (2018), with the training that makes it strong:
softmax over the full catalogue, or over negatives that a batch shares with the logQ correction (Yi et al. 2019),
instead of binary cross-entropy with one negative (Klenitskiy and Vasilev 2023).
"""

from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from genrec.config.ranges import CountOrZero, Rate
from genrec.models.base import BackboneSettings, CatalogueInput, GenrecConfig, ItemScorer, TrainingOutput
from genrec.models.layers.history import gather_targets, length_mask, positions_read, state_at
from genrec.models.layers.items import ItemEmbedding
from genrec.models.side_inputs import SideInputs, SideInputSettings


class SASRecSettings(SideInputSettings):
    """Settings of the item-level baseline."""

    negatives: CountOrZero = Field(0, description="negatives shared by a batch; 0 takes the full softmax")
    use_ids: bool = Field(True, description="one learned vector per item")
    use_features: bool = Field(False, description="add projected item features to the item vectors")
    feature_dropout: Rate = 0.0

    @property
    def reads(self) -> frozenset[CatalogueInput]:
        """Item vectors, where they are used."""
        return frozenset({"features"} if self.use_features else ())

    @property
    def unread(self) -> dict[str, str]:
        """With what features need."""
        return super().unread | ({} if self.use_features else {"feature_dropout": "use_features: true"})

    @model_validator(mode="after")
    def _items_have_vectors(self) -> "SASRecSettings":
        if not (self.use_ids or self.use_features):
            raise ValueError("items need vectors: use_ids or use_features")
        return self


class SASRec(ItemScorer):
    """Item vectors in, item vectors out: the score of an item is the dot product with the state of the history."""

    Settings: ClassVar[type[BackboneSettings]] = SASRecSettings
    settings: SASRecSettings
    supports_experts = True

    def __init__(self, config: GenrecConfig) -> None:
        super().__init__(config)
        settings = self.settings
        self.items = ItemEmbedding(
            config.num_items,
            settings.hidden_size,
            use_ids=settings.use_ids,
            feature_size=config.feature_size if settings.use_features else 0,
            feature_dropout=settings.feature_dropout,
        )
        self.start = nn.Parameter(torch.zeros(settings.hidden_size))
        self.inputs = SideInputs(settings)
        self.transformer = settings.transformer()
        self.item_bias = nn.Parameter(torch.zeros(config.num_items))
        self.post_init()

    def forward(self, items: Tensor, lengths: Tensor, **extras: Tensor) -> TrainingOutput:
        """Predict every item from those before it; the loss is the mean over all positions."""
        states, targets = gather_targets(self.read(items[:, :-1], lengths - 1, **extras), items, lengths)
        return self.training_output(
            self.items.next_item_loss(states, targets, bias=self.item_bias, negatives=self.settings.negatives)
        )

    def score_items(self, items: Tensor, lengths: Tensor, **extras: Tensor) -> Tensor:
        """Score the whole catalogue after each history, float32 ``[B, N]``."""
        return (state_at(self.read(items, lengths, **extras), lengths) @ self.items.table().T + self.item_bias).float()

    def expert_assignments(
        self, items: Tensor, lengths: Tensor, targets: Tensor, **extras: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Experts read items, one position each."""
        self.read(items, lengths, **extras)
        return positions_read(items, lengths)

    def read(self, items: Tensor, lengths: Tensor, **extras: Tensor) -> Tensor:
        """States ``[B, 1 + T, D]`` before the first and after each of ``items [B, T]``; ``lengths [B]`` are real."""
        mask = length_mask(lengths + 1, items.shape[1] + 1)
        hidden, _ = self.transformer(self.inputs(self.start, self.items(items).unsqueeze(2), **extras), mask)
        return hidden
