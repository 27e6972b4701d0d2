"""The backbone of ``depth`` and ``parallel``: items in, the codes of the next item out, with an optional item loss.

- The history is read by :class:`~genrec.models.item_reader.ItemReader`; a family only says how a state becomes codes.
- With ``item_loss`` the states also learn to point at item vectors: this tells apart items that share all codes, and
  costs a softmax over the catalogue, or over ``item_negatives`` shared items, per step.
"""

from abc import abstractmethod
from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor

from genrec.config.ranges import CountOrZero, Rate, Weight
from genrec.models.base import (
    BackboneSettings,
    Context,
    GenerativeRecommender,
    GenrecConfig,
    TrainingOutput,
    no_item_probabilities,
)
from genrec.models.capabilities import ItemProbabilities
from genrec.models.item_reader import ItemReader, ItemReaderSettings
from genrec.models.layers.codes import CodeHead
from genrec.models.layers.history import gather_targets


class ItemBackboneSettings(ItemReaderSettings):
    """Settings of the families that read items and write codes."""

    use_ids: bool = Field(True, description="add one learned vector per item to its codes")
    label_smoothing: Rate = 0.0
    item_loss: Weight = Field(0.0, description="weight of a softmax over item vectors, added to the codes' loss")
    item_negatives: CountOrZero = Field(0, description="items that a batch shares in the item loss; 0 takes all items")

    @property
    def has_item_probabilities(self) -> bool:
        """With the item loss."""
        return bool(self.item_loss)

    @property
    def unread(self) -> dict[str, str]:
        """With what the item loss needs."""
        return super().unread | ({} if self.item_loss else {"item_negatives": "item_loss above 0"})

    @model_validator(mode="after")
    def _items_have_vectors(self) -> "ItemBackboneSettings":
        if self.item_loss and not (self.use_ids or self.use_features):
            raise ValueError("item_loss needs item vectors: use_ids or use_features")
        return self


class ItemBackbone(ItemProbabilities, ItemReader, GenerativeRecommender):
    """Reads a history item by item; a family says how each state becomes the codes of the next item.

    With ``item_loss`` the states also learn to point at the vector of the next item, which tells apart items that share
    codes; ``decoding.item_weight`` adds these probabilities to what the codes say.
    """

    Settings: ClassVar[type[BackboneSettings]] = ItemBackboneSettings
    settings: ItemBackboneSettings
    supports_variable_length = True

    def __init__(self, config: GenrecConfig) -> None:
        super().__init__(config)
        self.head = CodeHead(self.level_sizes, self.settings.hidden_size)

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

    def item_vectors(self, items: Tensor) -> Tensor:
        """With the sum of the items' code embeddings."""
        return self.items(items, self.item_codes)

    @abstractmethod
    def codes_loss(self, states: Tensor, codes: Tensor) -> Tensor:
        """Loss of writing the semantic IDs ``codes [n, L]`` from ``states [n, D]``: sum over levels, mean over n."""

    def item_log_probabilities(self, context: Context, items: Tensor) -> Tensor:
        """Log-softmax over the catalogue of the state's products with the item vectors, at ``items [B, C]``."""
        if not self.settings.item_loss or context.item_state is None:
            raise no_item_probabilities(self.config.family)
        logits = context.item_state @ self.items.table().T
        return torch.log_softmax(logits, dim=-1, dtype=torch.float32).gather(1, items)
