"""Item-level backbone with a depth decoder: the history is read item by item, the next identifier written code by
code.

One position per item: its vector is the sum of its code embeddings, an optional id embedding and projected
features. The backbone learns from every position in one pass; from each state a small *depth decoder* writes the
codes of the next item (the RQ-Transformer of Lee et al. 2022). While decoding, the backbone runs once per user and
beams touch the depth decoder only: its sole history is one position, the state.
"""

from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from genrec.models.base import BackboneSettings, Context, GenerativeRecommender, GenrecConfig, TrainingOutput
from genrec.models.layers.codes import CodeEmbedding, CodeHead
from genrec.models.layers.history import gather_targets, prepend, state_at
from genrec.models.layers.items import ItemEmbedding


class DepthSettings(BackboneSettings):
    """Settings of the depth family."""

    depth_layers: int = Field(1, ge=1, description="blocks of the depth decoder")
    depth_dropout: float = Field(0.1, ge=0, lt=1)
    use_ids: bool = Field(True, description="add one learned vector per item to its codes")
    use_features: bool = Field(True, description="add projected item features")
    feature_dropout: float = Field(0.0, ge=0, lt=1)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    item_loss: float = Field(0.0, ge=0, description="weight of a softmax over item vectors beside the codes' loss")
    item_negatives: int = Field(0, ge=0, description="items that a batch shares in the item loss; 0 takes all items")

    @model_validator(mode="after")
    def _items_have_vectors(self) -> "DepthSettings":
        if self.item_loss and not (self.use_ids or self.use_features):
            raise ValueError("item_loss needs item vectors: use_ids or use_features")
        return self


class Depth(GenerativeRecommender):
    """Items in, codes out."""

    Settings: ClassVar[type[BackboneSettings]] = DepthSettings
    settings: DepthSettings

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
        )
        self.start = nn.Parameter(torch.zeros(settings.hidden_size))
        self.transformer = settings.transformer()
        self.codes = CodeEmbedding(self.level_sizes, settings.hidden_size)
        depth = settings.model_copy(update={"dropout": settings.depth_dropout})
        self.depth = depth.transformer(settings.depth_layers)
        self.head = CodeHead(self.level_sizes, settings.hidden_size)
        self.post_init()

    def forward(self, items: Tensor, lengths: Tensor) -> TrainingOutput:
        """Predict every item from those before it; the loss is the mean over items of the sum over levels.

        With ``item_loss`` the states also learn to point at the vector of the next item, which tells apart items that
        share codes; ``decoding.item_weight`` lets these probabilities re-rank what the codes wrote.
        """
        hidden, _ = self.transformer(prepend(self.start, self.items(items[:, :-1], self.item_codes)))
        states, targets = gather_targets(hidden, items, lengths)
        codes = self.item_codes[targets].long()
        written = self.codes(codes)[:, :-1]
        depth, _ = self.depth(torch.cat([states.unsqueeze(1), written], dim=1))
        losses = [
            cross_entropy(
                self.head(level, depth[:, level]).float(),
                codes[:, level],
                label_smoothing=self.settings.label_smoothing,
            )
            for level in range(self.num_levels)
        ]
        if self.settings.item_loss:
            item_loss = self.items.next_item_loss(
                states,
                targets,
                negatives=self.settings.item_negatives,
                label_smoothing=self.settings.label_smoothing,
            )
            losses.append(self.settings.item_loss * item_loss)
        return TrainingOutput(loss=torch.stack(losses).sum())

    def encode(self, items: Tensor, lengths: Tensor) -> Context:
        """Run the backbone once per user; the depth decoder's history is the state alone."""
        hidden, _ = self.transformer(prepend(self.start, self.items(items, self.item_codes)))
        state = state_at(hidden, lengths)
        depth, history = self.depth(state.unsqueeze(1))
        ones = torch.ones_like(lengths)
        return Context(depth[:, 0], history, ones.bool().unsqueeze(1), ones, item_state=state)

    def item_log_probabilities(self, context: Context, items: Tensor) -> Tensor:
        """Log-softmax over the catalogue of the state's products with the item vectors, at ``items [B, C]``."""
        if not self.settings.item_loss or context.item_state is None:
            return super().item_log_probabilities(context, items)
        logits = context.item_state @ self.items.table().T
        return torch.log_softmax(logits, dim=-1, dtype=torch.float32).gather(1, items)

    def beam_step(self, context: Context, level: int, codes: Tensor) -> Tensor:
        """Feed each beam the code that it wrote at ``level``."""
        hidden, context.own = self.depth.step(
            self.codes.level(level, codes), context.lengths + level, context.history, context.visible, context.own
        )
        return hidden

    def code_logits(self, level: int, hidden: Tensor) -> Tensor:
        """Logits over the codebook of ``level``."""
        return self.head(level, hidden)
