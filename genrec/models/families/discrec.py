"""Encoder-decoder recommender that keeps what codes mean apart from which item they are in.

After DiscRec (2506.15576, sections 3.2 and 3.3): at the input of the encoder and of the decoder, a second branch adds a
position inside the item to every code and lets it attend to the codes of its own item only; a gate mixes this branch
with the plain code embeddings. Everything after the input is ``seq2seq``.

Where the authors' code restricts or contradicts the method, this follows the method: any number of levels, padding is
attended to by no one, the end of a history belongs to its last item however short it is, residuals add what came in,
and the decoder's branch keeps its keys and values like any other layer.
"""

from typing import ClassVar, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from genrec.config.ranges import Heads, Width
from genrec.models.base import BackboneSettings, Context, GenrecConfig
from genrec.models.families.seq2seq import END, Seq2Seq, Seq2SeqSettings
from genrec.models.layers.transformer import KeyValue, own_mixture, own_scores


class DiscRecSettings(Seq2SeqSettings):
    """Settings of the family."""

    branch_heads: Heads = Field(2, description="attention heads inside an item")
    branch_feed_forward_size: Width = Field(1024, ge=8, description="inner width of the branch's feed-forward layer")

    @model_validator(mode="after")
    def _branch_heads_divide_the_width(self) -> "DiscRecSettings":
        if self.hidden_size % self.branch_heads:
            raise ValueError(f"hidden_size {self.hidden_size} cannot be divided over {self.branch_heads} branch_heads")
        return self


class DiscRec(Seq2Seq):
    """Codes in, codes out, read by two branches and a gate."""

    Settings: ClassVar[type[BackboneSettings]] = DiscRecSettings
    settings: DiscRecSettings

    def __init__(self, config: GenrecConfig) -> None:
        super().__init__(config)
        # In a history the end of it has a place of its own; while writing, the start has.
        self.read_branches = self._branches(self.num_levels + 1)
        self.written_branches = self._branches(self.num_levels)
        self.post_init()

    def embed_history(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        """Both branches over each item's codes; the end of the history belongs to the last item."""
        place = torch.arange(tokens.shape[1], device=tokens.device)
        ends = tokens == END
        item = place // self.num_levels - ends.long()
        slots = (place % self.num_levels).masked_fill(ends, self.num_levels)
        attention_mask = (item.unsqueeze(2) == item.unsqueeze(1)) & attention_mask.bool().unsqueeze(1)
        # Padding sees itself, because a row that sees nothing has no softmax; no one reads it.
        attention_mask = attention_mask | torch.eye(len(place), dtype=torch.bool, device=tokens.device)
        return cast(Tensor, self.read_branches(self.t5.shared(tokens), slots, attention_mask.unsqueeze(1)))

    def embed_written(self, tokens: Tensor) -> Tensor:
        """Both branches over the codes written so far, each of which sees itself and those before it."""
        place = torch.arange(tokens.shape[1], device=tokens.device)
        return cast(Tensor, self.written_branches(self.t5.shared(tokens), place, place.unsqueeze(1) >= place))

    def _decode_token(self, context: Context, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        # The branch's keys and values are after those of the decoder's layers and are reordered with them.
        own = context.beam_cache[-1] if context.beam_cache else []
        vectors, own = self.written_branches.step(self.t5.shared(tokens), own)
        hidden = self._decode_vector(context, vectors, mask)
        context.beam_cache = [*(context.beam_cache or []), own]
        return hidden

    def _branches(self, slots: int) -> "DualBranch":
        settings = self.settings
        return DualBranch(
            settings.hidden_size, slots, settings.branch_heads, settings.branch_feed_forward_size, settings.dropout
        )

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, DualBranch):
            # As large as the code embeddings of a T5, to which they are added.
            nn.init.normal_(module.slots.weight)
            nn.init.zeros_(module.gate)


class DualBranch(nn.Module):
    """Plain vectors, and the same with a position and attention inside their item, mixed by a gate.

    Args:
        hidden_size: Width D; a multiple of ``num_heads``.
        num_slots: Positions inside an item.
        num_heads: Attention heads.
        feed_forward_size: Inner width of the feed-forward layer.
        dropout: Rate on what attention and feed-forward add.
    """

    def __init__(
        self, hidden_size: int, num_slots: int, num_heads: int, feed_forward_size: int, dropout: float
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.slots = nn.Embedding(num_slots, hidden_size)
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.query_key_value = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.attention_out = nn.Linear(hidden_size, hidden_size, bias=False)
        self.feed_forward_norm = nn.LayerNorm(hidden_size)
        self.feed_forward = nn.Sequential(
            nn.Linear(hidden_size, feed_forward_size), nn.ReLU(), nn.Linear(feed_forward_size, hidden_size)
        )
        self.dropout = nn.Dropout(dropout)
        self.gate = nn.Parameter(torch.zeros(2, hidden_size))

    def forward(self, vectors: Tensor, slots: Tensor, attention_mask: Tensor) -> Tensor:
        """Mix both branches.

        Args:
            vectors: Code embeddings, ``[B, S, D]``.
            slots: Position of each inside its item, int64 ``[B, S]`` or ``[S]``.
            attention_mask: bool, ``[B, 1, S, S]`` or ``[S, S]``: whether the first may attend to the second.

        Returns:
            ``[B, S, D]``.
        """
        x = vectors + self.slots(slots)
        query, key, value = self._project(x).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        return self._join(vectors, x, mixed.transpose(1, 2).flatten(2))

    def step(self, vectors: Tensor, own: list[KeyValue]) -> tuple[Tensor, list[KeyValue]]:
        """The same for one further position of beams, ``vectors [B, M, D]``, which see their ``own`` and themselves."""
        x = vectors + self.slots.weight[len(own)]
        query, key, value = self._project(x).unbind(2)
        own = [*own, KeyValue(key, value)]
        weights = (own_scores(query, own) * query.shape[-1] ** -0.5).float().softmax(-1).to(x.dtype)
        return self._join(vectors, x, own_mixture(weights, own).flatten(2)), own

    def _project(self, x: Tensor) -> Tensor:
        projected: Tensor = self.query_key_value(self.attention_norm(x))
        return projected.unflatten(-1, (3, self.num_heads, -1))

    def _join(self, vectors: Tensor, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + self.dropout(self.attention_out(mixed))
        x = x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        branches = torch.stack([vectors, x], dim=-2)
        weights = (branches * self.gate).sum(-1, keepdim=True).float().softmax(-2).to(x.dtype)
        return (weights * branches).sum(-2)
