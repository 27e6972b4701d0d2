"""The item reader of ``sasrec``, ``depth`` and ``parallel``: a causal transformer with one position per item.

- One pass gives the state before the first item and after each, so every position of a user is a training example.
- A position per item instead of one per code makes sequences L times shorter; the price is that the history is seen
  only through the sum of an item's code vectors.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from genrec.config.ranges import Rate
from genrec.models.base import BackboneSettings, CatalogueInput, GenrecConfig, RecommenderModel
from genrec.models.capabilities import ExpertAssignment
from genrec.models.layers.history import length_mask, positions_read
from genrec.models.layers.items import ItemEmbedding
from genrec.models.side_inputs import SideInputs, SideInputSettings


class ItemReaderSettings(SideInputSettings):
    """Settings of how items are read."""

    use_ids: bool = Field(True, description="one learned vector per item")
    use_features: bool = Field(True, description="add projected item features to the item vectors")
    feature_dropout: Rate = 0.0

    @property
    def reads(self) -> frozenset[CatalogueInput]:
        """Item vectors, where they are used."""
        return frozenset({"features"} if self.use_features else ())

    @property
    def unread(self) -> dict[str, str]:
        """With what features need."""
        return super().unread | ({} if self.use_features else {"feature_dropout": "use_features: true"})


class ItemReader(ExpertAssignment, RecommenderModel):
    """Reads a history item by item; a family says what becomes of the states.

    An item's vector is the sum of an optional id embedding, projected features and, where the family has semantic IDs,
    its code embeddings.
    """

    Settings: ClassVar[type[BackboneSettings]] = ItemReaderSettings
    settings: ItemReaderSettings
    supports_experts = True

    def __init__(self, config: GenrecConfig) -> None:
        super().__init__(config)
        settings = self.settings
        self.items = ItemEmbedding(
            config.num_items,
            settings.hidden_size,
            use_ids=settings.use_ids,
            feature_size=config.feature_size if settings.use_features else 0,
            level_sizes=config.level_sizes,
            feature_dropout=settings.feature_dropout,
            variable_length=config.variable_length,
        )
        self.start = nn.Parameter(torch.zeros(settings.hidden_size))
        self.inputs = SideInputs(settings)
        self.transformer = settings.transformer()

    def item_vectors(self, items: Tensor) -> Tensor:
        """What the transformer reads of dense item ids ``[B, T]``, ``[B, T, D]``."""
        return self.items(items)

    def read(self, items: Tensor, lengths: Tensor, **extras: Tensor) -> Tensor:
        """States ``[B, 1 + T, D]`` before the first and after each of ``items [B, T]``; ``lengths [B]`` are real."""
        # The start is a position, too: it is real in an empty history.
        mask = length_mask(lengths + 1, items.shape[1] + 1)
        vectors = self.item_vectors(items).unsqueeze(2)
        hidden, _ = self.transformer(self.inputs(self.start, vectors, **extras), mask)
        return hidden

    def expert_assignments(
        self, items: Tensor, lengths: Tensor, targets: Tensor, **extras: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Experts read items, one position each."""
        self.read(items, lengths, **extras)
        return positions_read(items, lengths)
