"""Item-level backbone with one independent head per level: every item of the catalogue is scored exactly.

After RPG (Hou et al. 2025, "Generating Long Semantic IDs in Parallel for Recommendation"): the codes of an item are
taken as independent given the history, so log p(item) is a sum of L looked-up numbers and no search is needed.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from genrec.models.base import BackboneSettings, Context, GenrecConfig
from genrec.models.capabilities import ParallelCodes
from genrec.models.item_backbone import ItemBackbone, ItemBackboneSettings
from genrec.models.layers.history import state_at


class Parallel(ParallelCodes, ItemBackbone):
    """Items in, all codes out at once."""

    Settings: ClassVar[type[BackboneSettings]] = ItemBackboneSettings
    counts_flops = True

    def __init__(self, config: GenrecConfig) -> None:
        super().__init__(config)
        width = self.settings.hidden_size
        self.projections = nn.Linear(width, width * self.num_levels)
        self.post_init()

    def codes_loss(self, states: Tensor, codes: Tensor) -> Tensor:
        """Write each code from the state alone."""
        hidden = self._per_level(states)
        return self.code_space.loss(
            lambda level: self.head(level, hidden[:, level]), codes, self.settings.label_smoothing
        )

    def encode(self, items: Tensor, lengths: Tensor, **extras: Tensor) -> Context:
        """Run the backbone once per user; there is nothing to attend to afterwards."""
        state = state_at(self.read(items, lengths, **extras), lengths)
        ones = torch.ones_like(lengths)
        return Context(state, [], ones.bool().unsqueeze(1), ones, item_state=state)

    def all_code_logits(self, context: Context) -> list[Tensor]:
        """Logits of every level at once, ``[B, K_l]`` each."""
        hidden = self._per_level(context.state)
        return [self.head(level, hidden[:, level]) for level in range(self.num_levels)]

    def code_logits(self, level: int, hidden: Tensor) -> Tensor:
        """Logits over the codebook of ``level`` from the user's state."""
        return self.head(level, self._per_level(hidden)[..., level, :])

    def _per_level(self, states: Tensor) -> Tensor:
        """``[..., D]`` as ``[..., L, D]``; the residual keeps what all levels need."""
        projected = silu(self.projections(states)).unflatten(-1, (self.num_levels, -1))
        return states.unsqueeze(-2) + projected
