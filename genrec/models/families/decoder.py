"""Decoder-only recommender over code sequences, trained in one pass per user.

A history is one sequence of codes, item after item; every code is predicted from all before it, so a user costs one
forward pass instead of one padded copy of the history per target. Each level has its own head over its own codebook.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from genrec.models.base import BackboneSettings, Context, GenerativeRecommender, GenrecConfig, TrainingOutput
from genrec.models.capabilities import ExpertAssignment, SessionWriter
from genrec.models.layers.codes import CodeEmbedding, CodeHead
from genrec.models.layers.history import gather_targets, length_mask, positions_read, state_at
from genrec.models.side_inputs import SideInputs, SideInputSettings


class DecoderSettings(SideInputSettings):
    """Settings of the decoder-only family."""

    @property
    def longest_session(self) -> int:
        """As many items as a history: they are written as they are read, one after another."""
        return self.max_history


class Decoder(SessionWriter, ExpertAssignment, GenerativeRecommender):
    """Codes in, codes out, causal at the level of single codes."""

    Settings: ClassVar[type[BackboneSettings]] = DecoderSettings
    settings: DecoderSettings
    supports_variable_length = True
    supports_experts = True
    counts_flops = True

    def __init__(self, config: GenrecConfig) -> None:
        super().__init__(config)
        self.codes = CodeEmbedding(self.level_sizes, self.settings.hidden_size, config.variable_length)
        self.start = nn.Parameter(torch.zeros(self.settings.hidden_size))
        self.inputs = SideInputs(self.settings)
        self.transformer = self.settings.transformer()
        self.head = CodeHead(self.level_sizes, self.settings.hidden_size)
        self.post_init()

    def forward(self, items: Tensor, lengths: Tensor, **extras: Tensor) -> TrainingOutput:
        """Predict every code from the codes before it; the loss is the mean over all items of the sum over levels."""
        batch, length = items.shape
        inputs = self.inputs(self.start, self.codes(self.item_codes[items]), **extras)
        # The last code of a history leads to nothing that is asked.
        mask = self._real_positions(items, lengths * self.num_levels)[:, :-1]
        hidden, _ = self.transformer(inputs[:, :-1], mask)
        states, targets = gather_targets(hidden.view(batch, length, self.num_levels, -1), items, lengths)
        codes = self.item_codes[targets].long()
        return self.training_output(self.code_space.loss(lambda level: self.head(level, states[:, level]), codes))

    def encode(self, items: Tensor, lengths: Tensor, **extras: Tensor) -> Context:
        """Read each history once and keep its keys and values."""
        inputs = self.inputs(self.start, self.codes(self.item_codes[items]), **extras)
        positions = lengths * self.num_levels
        attention_mask = length_mask(positions + 1, inputs.shape[1])
        hidden, history = self.transformer(inputs, self._real_positions(items, positions + 1))
        return Context(state_at(hidden, positions), history, attention_mask, positions + 1)

    def expert_assignments(
        self, items: Tensor, lengths: Tensor, targets: Tensor, **extras: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Experts read codes."""
        self.encode(items, lengths, **extras)
        mask = self._real_positions(items, lengths * self.num_levels + 1)
        return positions_read(items, lengths, codes=self.num_levels, mask=mask)

    def beam_step(self, context: Context, level: int, codes: Tensor) -> Tensor:
        """Feed each beam the code that it wrote at ``level``, counted on in a session."""
        level_of_item, ends_item = self.level_of(level)
        vectors, mask = self.codes.level(level_of_item, codes), self.real_codes(codes)
        if ends_item:
            # From an item's last position the next item is predicted: it is real however short the semantic ID.
            vectors, mask = self.inputs.of_written(vectors), None
        hidden, context.beam_cache = self.transformer.step(
            vectors, context.lengths + level, context.history, context.attention_mask, context.beam_cache, mask
        )
        return hidden

    def code_logits(self, level: int, hidden: Tensor) -> Tensor:
        """Logits over the codebook of ``level``."""
        return self.head(level, hidden)

    def _real_positions(self, items: Tensor, positions: Tensor) -> Tensor:
        """The start and the codes that experts take, bool ``[B, 1 + T * L]``, of the first ``positions [B]``.

        An item's last position is always real: from it the next item is predicted, however short the semantic ID.
        """
        mask = length_mask(positions, items.shape[1] * self.num_levels + 1)
        codes = self.real_codes(self.item_codes[items])
        if codes is None:
            return mask
        codes[..., -1] = True
        return mask & pad(codes.flatten(1), (1, 0), value=True)
