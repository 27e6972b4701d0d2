"""The code space of a model: one number for every code of every level, an embedding table and an output head over it.

- Level after level in one table, instead of a table per level: one lookup embeds a whole semantic ID, and a checkpoint
  has one tensor. The price is the offset arithmetic, which lives in :class:`CodeSpace` and nowhere else.
- Codes stay numbers within their level everywhere else (item table, beams, tries); token ids exist only here.
- Each level has its own softmax over its own codebook, so no probability goes to codes of other levels.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

# What the code table holds after the end of a shorter semantic ID.
NO_CODE = -1


class CodeSpace:
    """The token ids of all codes: code k of level l is ``offsets[l] + k``.

    Args:
        level_sizes: Number of codes K of each of the L levels.
        first: Token id of the first code; what a vocabulary has before it (padding, words) is not of semantic IDs.

    Attributes:
        level_sizes: As given.
        offsets: Token id of the first code of each level.
        end: The token id after the last code; with ``first`` 0 the number of codes of all levels.
    """

    def __init__(self, level_sizes: Sequence[int], first: int = 0) -> None:
        self.level_sizes = tuple(level_sizes)
        *self.offsets, self.end = accumulate(self.level_sizes, initial=first)

    @property
    def num_levels(self) -> int:
        """L."""
        return len(self.level_sizes)

    def rows(self, level: int) -> slice:
        """The token ids of one level, as a slice of a table with a row for each."""
        return slice(self.offsets[level], self.offsets[level] + self.level_sizes[level])

    def token_ids(self, codes: Tensor) -> Tensor:
        """Token ids of complete semantic IDs ``[..., L]``, in the shape and dtype of ``codes``.

        Where there is no code (-1) the result is one below the level's first token id: clamp before, or mask after.
        """
        return codes + torch.tensor(self.offsets, dtype=codes.dtype, device=codes.device)

    def loss(self, logits: Callable[[int], Tensor], codes: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Cross-entropy of semantic IDs: the sum over levels of :func:`code_loss`, float32 scalar.

        Args:
            logits: Gives those of a level, ``[n, K]``.
            codes: int64 ``[n, L]``; -1 after the end of a shorter semantic ID.
            label_smoothing: Share of the probability given to all codes of a level alike.
        """
        losses = [code_loss(logits(level), codes[:, level], label_smoothing) for level in range(self.num_levels)]
        return torch.stack(losses).sum()


class CodeEmbedding(nn.Module):
    """Rows for every code of every level, level after level, in one table.

    Args:
        level_sizes: Number of codes of each level.
        hidden_size: Width D.
        variable_length: Whether semantic IDs may be shorter than L: what follows their end is a vector of zeros.
    """

    def __init__(self, level_sizes: Sequence[int], hidden_size: int, variable_length: bool = False) -> None:
        super().__init__()
        self.space, self.variable_length = CodeSpace(level_sizes), variable_length
        self.table = nn.Embedding(self.space.end, hidden_size)

    def forward(self, codes: Tensor) -> Tensor:
        """Embed complete semantic IDs ``[..., L]`` as ``[..., L, D]``."""
        if not self.variable_length:
            return self.table(self.space.token_ids(codes))
        # The row that -1 is looked up in does not matter: it is masked to zeros.
        embedded = self.table(self.space.token_ids(codes.clamp(min=0)))
        return embedded.masked_fill((codes == NO_CODE).unsqueeze(-1), 0)

    def level(self, level: int, codes: Tensor) -> Tensor:
        """Embed codes of one level, ``[...]`` as ``[..., D]``; -1 after the end of a shorter semantic ID as zeros."""
        embedded = self.table(codes.clamp(min=0) + self.space.offsets[level])
        return embedded.masked_fill((codes == NO_CODE).unsqueeze(-1), 0) if self.variable_length else embedded

    def book(self, level: int) -> Tensor:
        """The rows of one level ``[K, D]``; where semantic IDs may be shorter, a last row of zeros.

        Indexing with -1 then takes the last row, so that "no code" needs no case of its own.
        """
        rows = self.table.weight[self.space.rows(level)]
        return nn.functional.pad(rows, (0, 0, 0, 1)) if self.variable_length else rows


class CodeHead(nn.Module):
    """A linear layer per level, restricted to that level's codebook, in one matrix."""

    def __init__(self, level_sizes: Sequence[int], hidden_size: int) -> None:
        super().__init__()
        self.space = CodeSpace(level_sizes)
        self.weight = nn.Parameter(torch.zeros(self.space.end, hidden_size))
        self.bias = nn.Parameter(torch.zeros(self.space.end))

    def forward(self, level: int, hidden: Tensor) -> Tensor:
        """Logits ``[..., K]`` of one level from ``hidden [..., D]``."""
        rows = self.space.rows(level)
        return nn.functional.linear(hidden, self.weight[rows], self.bias[rows])


def code_loss(logits: Tensor, codes: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of one level in float32: the mean over semantic IDs, of which ended ones add nothing.

    Args:
        logits: ``[n, K]``.
        codes: int64 ``[n]``; -1 after the end of a shorter semantic ID, whose end its beginning already determines.
        label_smoothing: Share of the probability given to all codes alike.
    """
    total = cross_entropy(logits.float(), codes, ignore_index=NO_CODE, reduction="sum", label_smoothing=label_smoothing)
    return total / len(codes)
