"""A small torch model and a small data set, so that the loop is tested without the rooms around it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genrec.config import TrainingConfig
from genrec.data.histories import Histories

NUM_ITEMS = 20


@dataclass
class Output:
    loss: Tensor


class TinyModel(nn.Module):
    """Predicts each item from the mean of those before it, with dropout, so that the generators matter."""

    max_history = 5

    def __init__(self, dropout: float = 0.3) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.items = nn.Embedding(NUM_ITEMS, 8)
        self.norm = nn.LayerNorm(8)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, NUM_ITEMS)
        self.register_buffer("seen", torch.zeros(NUM_ITEMS))
        self.calls = 0
        self.before_loss: Any = None

    def forward(self, items: Tensor, lengths: Tensor) -> Output:
        self.calls += 1
        before = self.items(items).cumsum(1).roll(1, 1)
        before[:, 0] = 0
        logits = self.head(self.dropout(self.norm(before)))
        real = torch.arange(items.shape[1]) < lengths[:, None]
        if self.training:
            self.seen += torch.bincount(items[real], minlength=NUM_ITEMS)
        loss = nn.functional.cross_entropy(logits[real], items[real])
        return Output(loss if self.before_loss is None else self.before_loss(self.calls, loss))


class TinyData:
    fingerprint = "tiny"

    def __init__(self, users: int = 45, longest: int = 14) -> None:
        rng = np.random.default_rng(3)
        self.lists = [rng.integers(NUM_ITEMS, size=size).tolist() for size in rng.integers(1, longest, size=users)]

    def train(self) -> Histories:
        return Histories.from_lists(self.lists)


def settings(**changes: Any) -> TrainingConfig:
    values = {"epochs": 3, "batch_size": 8, "learning_rate": 0.01, "warmup_ratio": 0.1, "weight_decay": 0.01}
    return TrainingConfig(**{**values, "metric": "quality", **changes})


def quality(model: nn.Module) -> dict[str, float]:
    """Draws random numbers as a careless validation might, and rewards small weights."""
    torch.rand(3)
    np.random.rand(3)
    return {"quality": float(model.head.weight.square().sum())}
