"""A causal transformer with two ways through it: whole sequences at once, and beams that share one history.

RMSNorm before each block, rotary positions, SwiGLU, no biases. Dropout is applied to block outputs only, so that
``scaled_dot_product_attention`` keeps its fast kernel in training. Sequences are right-padded: a causal mask alone
keeps valid positions from seeing padding.

While decoding, the keys and values of the history exist once per user: beams are the query axis of one batched
product against them, and each beam owns only its few positions (``own``).
"""

from collections.abc import Iterable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from genrec.models.layers.moe import ExpertSettings, MixtureOfExperts

ROTARY_BASE = 10_000.0


class KeyValue(NamedTuple):
    """Keys and values of one layer: ``[B, H, T, d]`` for a history, ``[B, M, H, d]`` for one position of M beams."""

    keys: Tensor
    values: Tensor


class Rotation(NamedTuple):
    """Cosines of rotary angles and their sines, negative in the first half, ``[..., d]`` each, float32."""

    cosines: Tensor
    sines: Tensor


def rotary_angles(positions: Tensor, head_size: int) -> Rotation:
    """Angles of rotary position embeddings (Su et al. 2021) for integer ``positions`` of any shape, in float32."""
    steps = torch.arange(0, head_size, 2, device=positions.device, dtype=torch.float32) / head_size
    angles = positions.to(torch.float32).unsqueeze(-1) * ROTARY_BASE**-steps
    cosines, sines = angles.cos(), angles.sin()
    return Rotation(torch.cat([cosines, cosines], dim=-1), torch.cat([-sines, sines], dim=-1))


def rotate(vectors: Tensor, rotation: Rotation) -> Tensor:
    """Turn each pair ``(i, i + d/2)`` of ``vectors [..., d]`` by its angle; dtype is kept."""
    wide = vectors.float()
    other = wide.roll(wide.shape[-1] // 2, dims=-1)
    return (wide * rotation.cosines + other * rotation.sines).to(vectors.dtype)


def attend_shared(query: Tensor, history: KeyValue, visible: Tensor, own: list[KeyValue], scale: float) -> Tensor:
    """Attention of beams to a history they share and to their own positions, under one softmax.

    Args:
        query: ``[B, M, H, d]``.
        history: Keys and values ``[B, H, T, d]``.
        visible: bool ``[B, T]``, True where the history has a position.
        own: Keys and values of each own position, ``[B, M, H, d]``; M = 1 where the beams share it.
        scale: Factor on the products.

    Returns:
        ``[B, M, H * d]``.
    """
    query = query * scale
    past = query.transpose(1, 2) @ history.keys.transpose(-1, -2)
    past = past.masked_fill(~visible[:, None, None, :], float("-inf"))
    weights = torch.cat([past, own_scores(query, own).transpose(1, 2)], dim=-1).float().softmax(dim=-1).to(query.dtype)
    length = history.keys.shape[2]
    from_past = weights[..., :length] @ history.values
    return (from_past.transpose(1, 2) + own_mixture(weights[..., length:].transpose(1, 2), own)).flatten(2)


def own_scores(query: Tensor, own: list[KeyValue]) -> Tensor:
    """Products ``[B, M, H, l]`` of ``query [B, M, H, d]`` with the keys of each beam's l own positions."""
    return torch.stack([(query * position.keys).sum(-1) for position in own], dim=-1)


def own_mixture(weights: Tensor, own: list[KeyValue]) -> Tensor:
    """Values ``[B, M, H, d]`` of each beam's own positions, mixed by ``weights [B, M, H, l]``."""
    mixed = weights[..., :1] * own[0].values
    for place, position in enumerate(own[1:], start=1):
        mixed = torch.addcmul(mixed, weights[..., place : place + 1], position.values)
    return mixed


class RMSNorm(nn.RMSNorm):
    """Root-mean-square normalisation (Zhang and Sennrich 2019) with a float32 epsilon."""

    def __init__(self, size: int) -> None:
        super().__init__(size, eps=1e-6)


class Block(nn.Module):
    """Self-attention and SwiGLU, each with a norm before and a residual around it.

    With ``experts`` there is a sparse mixture of them in the place of the one SwiGLU.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        feed_forward_size: int,
        dropout: float,
        experts: ExpertSettings | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = RMSNorm(hidden_size)
        self.query_key_value = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.attention_out = nn.Linear(hidden_size, hidden_size, bias=False)
        self.feed_forward_norm = RMSNorm(hidden_size)
        self.experts = None if experts is None else MixtureOfExperts(hidden_size, feed_forward_size, experts)
        if experts is None:
            self.gate_up = nn.Linear(hidden_size, 2 * feed_forward_size, bias=False)
            self.down = nn.Linear(feed_forward_size, hidden_size, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, rotation: Rotation, real: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, KeyValue]:
        """Map ``x [B, T, D]`` to its output and the layer's keys and values ``[B, H, T, d]``."""
        query, key, value = self._project(x).permute(2, 0, 3, 1, 4)
        query, key = rotate(query, rotation), rotate(key, rotation)
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)
        x = x + self.dropout(self.attention_out(mixed.transpose(1, 2).flatten(2)))
        return self._feed_forward(x, real), KeyValue(key, value)

    def project(self, x: Tensor, rotation: Rotation) -> list[Tensor]:
        """Query, key and value ``[B, M, H, d]`` of beams ``x [B, M, D]``, the first two turned."""
        query, key, value = self._project(x).unbind(2)
        return [rotate(query, rotation), rotate(key, rotation), value]

    def step(
        self,
        x: Tensor,
        projected: list[Tensor],
        history: KeyValue,
        visible: Tensor,
        own: list[KeyValue],
        real: Tensor | None = None,
    ) -> tuple[Tensor, list[KeyValue]]:
        """Move beams ``x [B, M, D]``, ``projected`` by :meth:`project`, one position on.

        Experts leave out beams where bool ``real [B, M]`` is False.

        Returns:
            The output and the beams' own keys and values.
        """
        query, key, value = projected
        own = [*own, KeyValue(key, value)]
        mixed = attend_shared(query, history, visible, own, query.shape[-1] ** -0.5)
        return self._feed_forward(x + self.dropout(self.attention_out(mixed)), real), own

    def _project(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        projected: Tensor = self.query_key_value(self.attention_norm(x))
        return projected.view(batch, length, 3, self.num_heads, width // self.num_heads)

    def _feed_forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        if self.experts is not None:
            return x + self.dropout(self.experts(self.feed_forward_norm(x), real))
        gate, up = self.gate_up(self.feed_forward_norm(x)).chunk(2, dim=-1)
        return x + self.dropout(self.down(silu(gate) * up))


class CausalTransformer(nn.Module):
    """A stack of blocks and a final norm.

    Args:
        hidden_size: Width D; a multiple of ``2 * num_heads``.
        num_layers: Number of blocks.
        num_heads: Attention heads.
        feed_forward_size: Inner width of SwiGLU.
        dropout: Rate on the input and on every block's output.
        experts: Sparse feed-forward layers in every ``expert_every``-th block; None leaves all dense.
    """

    def __init__(
        self,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        feed_forward_size: int,
        dropout: float,
        experts: ExpertSettings | None = None,
    ) -> None:
        super().__init__()
        self.head_size = hidden_size // num_heads
        self.blocks = nn.ModuleList(
            Block(
                hidden_size,
                num_heads,
                feed_forward_size,
                dropout,
                experts if experts and (layer + 1) % experts.expert_every == 0 else None,
            )
            for layer in range(num_layers)
        )
        self.norm = RMSNorm(hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        real: Tensor | None = None,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> tuple[Tensor, list[KeyValue]]:
        """Map ``x [B, T, D]`` causally to ``[B, T, D]`` and each layer's keys and values.

        Experts leave out the positions where bool ``real [B, T]`` is False; nothing else asks for it. With bool
        ``mask [T, T]`` or ``[B, 1, T, T]`` a position sees what its row says instead of what is before it. The int64
        ``positions [B, T]`` are 0, 1, 2 ... by default.
        """
        places = torch.arange(x.shape[1], device=x.device) if positions is None else positions.unsqueeze(1)
        rotation = rotary_angles(places, self.head_size)
        x = self.dropout(x)
        cache = []
        for block in self.blocks:
            x, key_value = block(x, rotation, real, mask)
            cache.append(key_value)
        return self.norm(x), cache

    def step(
        self,
        x: Tensor,
        positions: Tensor,
        history: list[KeyValue],
        visible: Tensor,
        own: list[list[KeyValue]] | None,
        real: Tensor | None = None,
    ) -> tuple[Tensor, list[list[KeyValue]]]:
        """Move beams one position on.

        Args:
            x: Inputs of the new position, ``[B, M, D]``.
            positions: Position of the new input per user, int64 ``[B]``.
            history: Keys and values shared by a user's beams, per layer.
            visible: bool ``[B, T]`` over the history's positions.
            own: Keys and values of the beams' earlier positions, per layer; None at the first.
            real: Inputs that experts take, bool ``[B, M]``; all by default.

        Returns:
            Output ``[B, M, D]`` and the beams' own keys and values, the new position included.
        """
        rotation = rotary_angles(positions[:, None, None], self.head_size)
        x = self.dropout(x)
        return self._step(x, self._first.project(x, rotation), rotation, history, visible, own, real)

    def step_in_book(
        self,
        book: Tensor,
        codes: Tensor,
        position: int,
        history: list[KeyValue],
        visible: Tensor,
        own: list[list[KeyValue]] | None,
    ) -> tuple[Tensor, list[list[KeyValue]]]:
        """:meth:`step` for inputs that are rows of one table at one position: the first block projects each row once.

        Args:
            book: ``[K, D]``.
            codes: The row of each beam, int64 ``[B, M]``; -1 is the last.
            position: Of the new input, the same for all users.
            history: As in :meth:`step`.
            visible: As in :meth:`step`.
            own: As in :meth:`step`.
        """
        rotation = rotary_angles(torch.tensor([[[position]]], device=book.device), self.head_size)
        book = self.dropout(book)
        projected = [part[0][codes] for part in self._first.project(book.unsqueeze(0), rotation)]
        return self._step(book[codes], projected, rotation, history, visible, own)

    @property
    def _first(self) -> Block:
        return cast(Block, self.blocks[0])

    def _step(
        self,
        x: Tensor,
        projected: list[Tensor],
        rotation: Rotation,
        history: list[KeyValue],
        visible: Tensor,
        own: list[list[KeyValue]] | None,
        real: Tensor | None = None,
    ) -> tuple[Tensor, list[list[KeyValue]]]:
        grown = []
        for layer, block in enumerate(cast(Iterable[Block], self.blocks)):
            if layer:
                projected = block.project(x, rotation)
            x, own_of_layer = block.step(x, projected, history[layer], visible, own[layer] if own else [], real)
            grown.append(own_of_layer)
        return self.norm(x), grown
