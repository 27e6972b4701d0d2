"""A T5 that reads histories of sets and is asked by queries: no order among the tokens of an item, none among queries.

The T5 variant of SETRec (arXiv 2502.10833, section 3.2): in the encoder all tokens of an item share one position, from
which the relative bias is computed, and everything sees everything; in the decoder all queries are at one position
and each sees itself and the encoded history, but no other query. (The public code adds a mask of zeros and ones to the
scores instead, which forbids nothing.)
"""

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import T5Config
from transformers.models.t5.modeling_t5 import T5Attention, T5Stack


class SetT5(nn.Module):
    """Encoder of sets, decoder of queries.

    Args:
        hidden_size: Width D.
        num_layers: Of the encoder, and of the decoder.
        num_heads: They divide D.
        feed_forward_size: Inner width.
        dropout: Rate.
    """

    def __init__(
        self, hidden_size: int, num_layers: int, num_heads: int, feed_forward_size: int, dropout: float
    ) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.zeros(hidden_size))
        config = T5Config(
            vocab_size=2,
            d_model=hidden_size,
            d_kv=hidden_size // num_heads,
            d_ff=feed_forward_size,
            num_layers=num_layers,
            num_heads=num_heads,
            dropout_rate=dropout,
            use_cache=False,
        )
        # Masks are part of the position bias, which only this implementation takes as it is.
        config._attn_implementation = "eager"
        self.encoder, self.decoder = _stack(config, is_decoder=False), _stack(config, is_decoder=True)
        # Where weights are sharded, those of the bias are whole only while their own layer runs.
        first = cast(Any, self.encoder.block[0]).layer[0].SelfAttention
        first.register_forward_pre_hook(_bias_for_positions, with_kwargs=True)
        for name, parameter in self.decoder.named_parameters():
            # A query that sees only itself gives it all weight, whatever these say.
            if any(part in name for part in ("SelfAttention.q.", "SelfAttention.k.", "relative_attention_bias")):
                parameter.requires_grad_(False)

    def forward(self, vectors: Tensor, lengths: Tensor, queries: Tensor) -> Tensor:
        """What the queries say of histories.

        Args:
            vectors: Token vectors of the items, ``[B, T, Q, D]``.
            lengths: Items of each history, int64 ``[B]``; 0 allowed.
            queries: ``[Q', D]``.

        Returns:
            ``[B, Q', D]``.
        """
        batch, length, tokens = vectors.shape[:3]
        start = self.start.expand(batch, 1, -1).to(vectors.dtype)
        x = torch.cat([start, vectors.flatten(1, 2)], dim=1)
        items = torch.arange(length, device=lengths.device)
        # The start is at 0 and always seen, so that no one looks at nothing.
        positions = nn.functional.pad(1 + items.repeat_interleave(tokens), (1, 0))
        hidden = ~(positions <= lengths.unsqueeze(1))[:, None, None]
        encoded = _run(self.encoder, x, positions, hidden)
        others = ~torch.eye(len(queries), dtype=torch.bool, device=x.device)[None, None]
        asked = queries.expand(batch, -1, -1).to(x.dtype)
        closed = [_closed(x.new_zeros(()), attention_mask) for attention_mask in (others, hidden)]
        return _run(self.decoder, asked, closed[0], None, encoded, closed[1])


def _bias_for_positions(attention: T5Attention, args: Any, known: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Put the bias between tokens, which is closed where they are hidden, into the place of their positions."""
    positions = known["position_bias"]
    if positions is None or positions.is_floating_point():
        return args, known
    return args, {**known, "position_bias": _closed(relative_bias(attention, positions), known["mask"])}


def relative_bias(attention: T5Attention, positions: Tensor) -> Tensor:
    """T5's relative bias, ``[1, H, S, S]``, between tokens at ``positions [S]``, looking both ways."""
    buckets = attention._relative_position_bucket(
        positions.unsqueeze(0) - positions.unsqueeze(1),
        bidirectional=True,
        num_buckets=attention.relative_attention_num_buckets,
        max_distance=attention.relative_attention_max_distance,
    )
    bias: Tensor = attention.relative_attention_bias(buckets)
    return bias.permute(2, 0, 1).unsqueeze(0)


def _stack(config: T5Config, *, is_decoder: bool) -> T5Stack:
    config = copy.deepcopy(config)
    config.is_decoder = is_decoder
    stack = T5Stack(config)
    # It reads vectors only.
    del stack.embed_tokens
    return stack


def _closed(bias: Tensor, hidden: Tensor) -> Tensor:
    return bias.masked_fill(hidden, torch.finfo(bias.dtype).min)


def _run(
    stack: T5Stack,
    x: Tensor,
    bias: Tensor,
    hidden: Tensor | None = None,
    encoded: Tensor | None = None,
    encoded_bias: Tensor | None = None,
) -> Tensor:
    """Run all layers; the first makes the bias of all where it is given int64 positions ``[S]`` and what is hidden."""
    x = stack.dropout(x)
    for block in stack.block:
        x, bias, *_ = block(
            x,
            attention_mask=hidden,
            position_bias=bias,
            encoder_hidden_states=encoded,
            encoder_decoder_position_bias=encoded_bias,
        )
    normed: Tensor = stack.dropout(stack.final_layer_norm(x))
    return normed
