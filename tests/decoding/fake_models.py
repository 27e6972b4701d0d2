"""Small models whose probabilities a test can compute item by item, and plain Python searches to compare with."""

import itertools

import numpy as np
import torch
from torch import Tensor


class FakeWriter:
    """Random logits from the last item of the history and the whole prefix; checks the beam index that a search claims.

    Args:
        level_sizes: Codebook sizes.
        seed: Draws the weights.
        dtype: Of the logits.
        sharpness: Factor on the logits.
    """

    def __init__(
        self, level_sizes, seed: int = 0, dtype=torch.float32, sharpness: float = 2.0, users: int = 1000
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.level_sizes, self.dtype, self.sharpness = tuple(level_sizes), dtype, sharpness
        self.users = torch.randn(users, 8, generator=generator)
        self.embeddings = [torch.randn(size, 8, generator=generator) for size in level_sizes]
        self.heads = [torch.randn(8, size, generator=generator) for size in level_sizes]
        self.before: Tensor | None = None

    def encode(self, items: Tensor, lengths: Tensor) -> Tensor:
        last = items.gather(1, (lengths - 1).clamp(min=0).unsqueeze(1))[:, 0]
        return self.users[torch.where(lengths > 0, last + 1, 0)]

    def next_code_logits(self, context: Tensor, prefix: Tensor, beam_index: Tensor | None = None) -> Tensor:
        level = prefix.shape[2]
        if level and beam_index is not None:
            claimed = self.before.gather(1, beam_index.unsqueeze(-1).expand(-1, -1, level - 1))
            assert torch.equal(prefix[:, :, :-1], claimed)
        self.before = prefix
        hidden = context.unsqueeze(1).expand(-1, prefix.shape[1], -1)
        for position in range(level):
            hidden = torch.tanh(hidden + self.embeddings[position][prefix[:, :, position]] * (position + 1))
        return (hidden @ self.heads[level] * self.sharpness).to(self.dtype)


def history_of(users) -> tuple[Tensor, Tensor]:
    """One-item histories that make user u of a FakeWriter."""
    return torch.as_tensor(users).reshape(-1, 1), torch.ones(len(users), dtype=torch.int64)


def score_one_by_one(model, items: Tensor, lengths: Tensor, codes: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """log p of every item, one semantic ID at a time, one beam at a time, without a trie: float64 [B, N]."""
    context = model.encode(items, lengths)
    scores = np.zeros((len(items), len(codes)))
    for item, row in enumerate(codes.tolist()):
        row = [code for code in row if code >= 0]
        for level, code in enumerate(row):
            prefix = torch.tensor(row[:level], dtype=torch.int64).expand(len(items), 1, level)
            logits = model.next_code_logits(context, prefix, None)[:, 0].double() / temperature
            scores[:, item] += torch.log_softmax(logits, -1)[:, code].numpy()
    return scores


def rank_plainly(scores: np.ndarray, k: int, forbidden=()) -> list[int]:
    """Items of one user by score, then by position."""
    order = sorted(range(len(scores)), key=lambda item: (-scores[item], item))
    return [item for item in order if item not in set(forbidden)][:k]


def beam_plainly(model, items: Tensor, lengths: Tensor, codes: np.ndarray, num_beams: int, forbidden=()) -> dict:
    """Beam search of one user over a dict of prefixes: item -> score."""
    context = model.encode(items, lengths)
    left = [item for item in range(len(codes)) if item not in set(forbidden)]
    beams = [(0.0, ())]
    for level in range(codes.shape[1]):
        legal = {tuple(codes[item, : level + 1].tolist()) for item in left}
        grown = []
        for score, prefix in beams:
            logits = model.next_code_logits(context, torch.tensor(prefix, dtype=torch.int64).reshape(1, 1, level), None)
            values = torch.log_softmax(logits[0, 0].double(), -1)
            grown += [
                (score + float(values[code]), (*prefix, code))
                for code in range(model.level_sizes[level])
                if (*prefix, code) in legal
            ]
        beams = sorted(grown, reverse=True)[:num_beams]
    found = {prefix: score for score, prefix in beams}
    return {item: found[tuple(codes[item].tolist())] for item in left if tuple(codes[item].tolist()) in found}


def random_codes(rng: np.random.Generator, num_items: int, level_sizes, crowding: float = 0.0) -> np.ndarray:
    """Random semantic IDs; a share of the items repeats another item's semantic ID."""
    codes = np.stack([rng.integers(0, size, num_items) for size in level_sizes], axis=1).astype(np.int32)
    crowded = rng.random(num_items) < crowding
    codes[crowded] = codes[rng.integers(0, num_items, crowded.sum())]
    return codes


def unique_codes(rng: np.random.Generator, num_items: int, level_sizes) -> np.ndarray:
    """Random semantic IDs, no two alike."""
    every = np.array(list(itertools.product(*(range(size) for size in level_sizes))), dtype=np.int32)
    return every[rng.choice(len(every), num_items, replace=False)]
