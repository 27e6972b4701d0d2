"""SASRec: a causal transformer over items that scores the whole catalogue; the honest baseline.

After Kang and McAuley, "Self-Attentive Sequential Recommendation" (2018), with the training that makes it strong:
softmax over the full catalogue, or over negatives that a batch shares with the logQ correction (Yi et al. 2019),
instead of binary cross-entropy with one negative (Klenitskiy and Vasilev 2023).
"""

from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from genrec.config.ranges import CountOrZero
from genrec.models.base import BackboneSettings, GenrecConfig, ItemScorer, TrainingOutput
from genrec.models.item_reader import ItemReader, ItemReaderSettings
from genrec.models.layers.history import gather_targets, state_at


class SASRecSettings(ItemReaderSettings):
    """Settings of the item-level baseline."""

    negatives: CountOrZero = Field(0, description="negatives shared by a batch; 0 takes the full softmax")
    use_features: bool = Field(False, description="add projected item features to the item vectors")

    @model_validator(mode="after")
    def _items_have_vectors(self) -> "SASRecSettings":
        if not (self.use_ids or self.use_features):
            raise ValueError("items need vectors: use_ids or use_features")
        return self


class SASRec(ItemReader, ItemScorer):
    """Item vectors in, item vectors out: the score of an item is the dot product with the state of the history."""

    Settings: ClassVar[type[BackboneSettings]] = SASRecSettings
    settings: SASRecSettings

    def __init__(self, config: GenrecConfig) -> None:
        super().__init__(config)
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
