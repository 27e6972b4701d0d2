"""One embedding table and one output head for the codes of every level."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

# What the code table holds behind the end of a shorter semantic ID.
NO_CODE = -1


class CodeEmbedding(nn.Module):
    """Rows for every code of every level, level after level, in one table.

    Args:
        level_sizes: Number of codes of each level.
        hidden_size: Width D.
        variable_length: Whether semantic IDs may be shorter than L: what follows their end is a vector of zeros.
    """

    def __init__(self, level_sizes: list[int], hidden_size: int, variable_length: bool = False) -> None:
        super().__init__()
        self.level_sizes, self.variable_length = list(level_sizes), variable_length
        self.table = nn.Embedding(sum(level_sizes), hidden_size)

    def forward(self, codes: Tensor) -> Tensor:
        """Embed complete semantic IDs ``[..., L]`` as ``[..., L, D]``."""
        if not self.variable_length:
            return self.table(codes + self.starts(codes))
        embedded = self.table(codes.clamp(min=0) + self.starts(codes))
        return embedded.masked_fill((codes == NO_CODE).unsqueeze(-1), 0)

    def level(self, level: int, codes: Tensor) -> Tensor:
        """Embed codes of one level, ``[...]`` as ``[..., D]``; -1 behind the end of a shorter semantic ID as zeros."""
        embedded = self.table(codes.clamp(min=0) + sum(self.level_sizes[:level]))
        return embedded.masked_fill((codes == NO_CODE).unsqueeze(-1), 0) if self.variable_length else embedded

    def book(self, level: int) -> Tensor:
        """The rows of one level ``[K, D]``; where semantic IDs may be shorter, zeros behind them for -1."""
        start = sum(self.level_sizes[:level])
        rows = self.table.weight[start : start + self.level_sizes[level]]
        return nn.functional.pad(rows, (0, 0, 0, 1)) if self.variable_length else rows

    def starts(self, like: Tensor) -> Tensor:
        """The first row of each level, ``[L]``, on the device and in the dtype of ``like``."""
        sizes = torch.tensor([0, *self.level_sizes[:-1]], device=like.device)
        return sizes.cumsum(0).to(like.dtype)


class CodeHead(nn.Module):
    """A linear layer per level, restricted to that level's codebook, in one matrix."""

    def __init__(self, level_sizes: list[int], hidden_size: int) -> None:
        super().__init__()
        self.level_sizes = list(level_sizes)
        self.weight = nn.Parameter(torch.zeros(sum(level_sizes), hidden_size))
        self.bias = nn.Parameter(torch.zeros(sum(level_sizes)))

    def forward(self, level: int, hidden: Tensor) -> Tensor:
        """Logits ``[..., K]`` of one level from ``hidden [..., D]``."""
        start = sum(self.level_sizes[:level])
        rows = slice(start, start + self.level_sizes[level])
        return nn.functional.linear(hidden, self.weight[rows], self.bias[rows])


def code_loss(logits: Tensor, codes: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of one level in float32: the mean over semantic IDs, of which ended ones add nothing.

    Args:
        logits: ``[n, K]``.
        codes: int64 ``[n]``; -1 behind the end of a shorter semantic ID, whose end its beginning already tells.
        label_smoothing: Share of the probability given to all codes alike.
    """
    total = cross_entropy(logits.float(), codes, ignore_index=NO_CODE, reduction="sum", label_smoothing=label_smoothing)
    return total / len(codes)
