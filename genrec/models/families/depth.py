"""Item-level backbone with a depth decoder: the history is read item by item, the next semantic ID written code by
code.

The backbone learns from every position in one pass; from each state a small *depth decoder* writes the codes of the
next item (the RQ-Transformer of Lee et al. 2022). While decoding, the backbone runs once per user and beams touch the
depth decoder only: its sole history is one position, the state.
"""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from genrec.config.ranges import Layers, Rate
from genrec.models.base import BackboneSettings, Context, GenrecConfig
from genrec.models.item_backbone import ItemBackbone, ItemBackboneSettings
from genrec.models.layers.codes import CodeEmbedding
from genrec.models.layers.history import state_at


class DepthSettings(ItemBackboneSettings):
    """Settings of the depth family."""

    depth_layers: Layers = Field(1, description="blocks of the depth decoder")
    depth_dropout: Rate = 0.1


class Depth(ItemBackbone):
    """Items in, codes out, one after another."""

    Settings: ClassVar[type[BackboneSettings]] = DepthSettings
    settings: DepthSettings
    counts_flops = True

    def __init__(self, config: GenrecConfig) -> None:
        super().__init__(config)
        settings = self.settings
        self.codes = CodeEmbedding(self.level_sizes, settings.hidden_size, config.variable_length)
        depth = settings.model_copy(update={"dropout": settings.depth_dropout, "experts": 0})
        self.depth = depth.transformer(settings.depth_layers)
        self.post_init()

    def codes_loss(self, states: Tensor, codes: Tensor) -> Tensor:
        """Write each code from the state and the codes before it."""
        written = self.codes(codes)[:, :-1]
        depth, _ = self.depth(torch.cat([states.unsqueeze(1), written], dim=1))
        return self.code_space.loss(
            lambda level: self.head(level, depth[:, level]), codes, self.settings.label_smoothing
        )

    def encode(self, items: Tensor, lengths: Tensor, **extras: Tensor) -> Context:
        """Run the backbone once per user; the depth decoder's history is the state alone."""
        state = state_at(self.read(items, lengths, **extras), lengths)
        depth, history = self.depth(state.unsqueeze(1))
        ones = torch.ones_like(lengths)
        return Context(depth[:, 0], history, ones.bool().unsqueeze(1), ones, item_state=state)

    def beam_step(self, context: Context, level: int, codes: Tensor) -> Tensor:
        """Feed each beam the code that it wrote at ``level``."""
        book = self.codes.book(level)
        if self.training or len(book) > codes.numel():
            hidden, context.beam_cache = self.depth.step(
                self.codes.level(level, codes),
                context.lengths + level,
                context.history,
                context.attention_mask,
                context.beam_cache,
            )
        else:
            hidden, context.beam_cache = self.depth.step_in_book(
                book, codes, 1 + level, context.history, context.attention_mask, context.beam_cache
            )
        return hidden

    def code_logits(self, level: int, hidden: Tensor) -> Tensor:
        """Logits over the codebook of ``level``."""
        return self.head(level, hidden)
