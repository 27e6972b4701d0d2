"""One embedding table and one output head for the codes of every level."""

import torch
from torch import Tensor, nn


class CodeEmbedding(nn.Module):
    """Rows for every code of every level, level after level, in one table.

    Args:
        level_sizes: Number of codes of each level.
        hidden_size: Width D.
    """

    offsets: Tensor

    def __init__(self, level_sizes: list[int], hidden_size: int) -> None:
        super().__init__()
        self.level_sizes = list(level_sizes)
        self.table = nn.Embedding(sum(level_sizes), hidden_size)

    def forward(self, codes: Tensor) -> Tensor:
        """Embed complete identifiers ``[..., L]`` as ``[..., L, D]``."""
        return self.table(codes + self.starts(codes))

    def level(self, level: int, codes: Tensor) -> Tensor:
        """Embed codes of one level, ``[...]`` as ``[..., D]``."""
        return self.table(codes + sum(self.level_sizes[:level]))

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
