"""What must be zero: illegal semantic IDs, short or wrong lists, rankings that differ from scoring item by item."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from decoding_figures.setup import SERVED, TOP_K, Batch, Figures, Material, batches_of, draw_rows, make_model
from genrec.decoding import DeviceTrie, SearchOptions, beam_search, trie_of
from genrec.tokenizers import build_trie

WIDTHS = (1, 7, 50, 500)
NEAR_TIE = 1e-6


class RandomWriter:
    """Random logits from the user and everything written, at the cost of one small product; notes what was written.

    Args:
        level_sizes: Codebook sizes.
        seed: Draws the weights.
        dtype: Of the logits.
        illegal: Added to the logits of odd codes, which adversarial catalogues lack.
    """

    def __init__(
        self, level_sizes: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float32, illegal: float = 0.0
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.level_sizes, self.dtype, self.illegal = level_sizes, dtype, illegal
        self.users = torch.randn(1 << 12, 8, generator=generator)
        self.embeddings = [torch.randn(size, 8, generator=generator) for size in level_sizes]
        self.heads = [2 * torch.randn(8, size, generator=generator) for size in level_sizes]
        self.written = torch.empty(0)

    def encode(self, items: Tensor, lengths: Tensor) -> Tensor:
        """A row of numbers per user, drawn by the first item."""
        return self.users[items[:, 0] % len(self.users)]

    def next_code_logits(self, context: Tensor, prefix: Tensor, beam_index: Tensor | None = None) -> Tensor:
        """Logits ``[B, M, K]`` of the next code; nothing is cached."""
        self.written, level = prefix, prefix.shape[2]
        hidden = context.unsqueeze(1)
        for place in range(level):
            hidden = torch.tanh(hidden + (place + 1) * self.embeddings[place][prefix[:, :, place]])
        odd = torch.arange(self.level_sizes[level]) % 2
        return (hidden @ self.heads[level] + self.illegal * odd).to(self.dtype)

    def item_log_probabilities(self, context: Tensor, items: Tensor) -> Tensor:
        """There are none."""
        raise TypeError("a RandomWriter has no item vectors")


def guarantees(material: Material, users: int, beams: int, seeds: int) -> Figures:
    """Count what goes wrong in ``users`` lists, ``beams`` beams and ``seeds`` small catalogues."""
    return legality(beams) | list_lengths(users) | exactness(seeds) | invariance(material)


def legality(beams: int) -> Figures:
    """Living beams whose written codes begin no semantic ID of the item that they lead to.

    Random and adversarial catalogues (half of the codes never occur, and these are what the model wants; most nodes
    have one child), float32, bfloat16 and float16, 1 to 500 beams.
    """
    sizes = (64, 64, 64, 64)
    codes = 2 * np.random.default_rng(0).integers(0, 32, (4000, 4), dtype=np.int32)
    trie, table = DeviceTrie(build_trie(codes, sizes)), torch.from_numpy(codes).long()
    kinds = [(kind, bias) for kind in (torch.float32, torch.bfloat16, torch.float16) for bias in (0.0, 50.0)]
    checked = illegal = 0
    for seed, (kind, bias) in enumerate(kinds):
        for num_beams in WIDTHS:
            writer = RandomWriter(sizes, seed, kind, bias)
            users = max(1, min(64, 3200 // num_beams))
            for first in range(0, max(1, beams // (len(kinds) * len(WIDTHS) * num_beams)), users):
                items, lengths = _users(users, first)
                found = beam_search(
                    writer, trie, items, lengths, SearchOptions(num_beams=num_beams), top_k=num_beams
                ).items
                prefix = _packed(table[found.clamp(min=0)][:, :, :-1])
                right = (prefix.unsqueeze(2) == _packed(writer.written).unsqueeze(1)).any(2)
                checked += int((found >= 0).sum())
                illegal += int(((found >= 0) & ~right).sum())
    return {"checked_beams": checked, "illegal_beams": illegal}


def list_lengths(users: int) -> Figures:
    """Lists of 20 that are short, name an item twice, or hold an excluded or filtered one."""
    sizes, rng = (32, 32, 32), np.random.default_rng(0)
    codes = rng.integers(0, 32, (12_000, 3), dtype=np.int32)
    allowed = rng.random(len(codes)) < 0.5
    trie, legal = DeviceTrie(build_trie(codes, sizes)).filtered(allowed), torch.from_numpy(allowed)
    writer, wrong = RandomWriter(sizes, 0), dict.fromkeys(("short", "repeated", "excluded", "filtered"), 0)
    for first in range(0, users, 512):
        items, lengths = _users(512, first)
        # What a user would get first is what the user has seen.
        free = beam_search(writer, trie, items, lengths, SearchOptions(num_beams=50), top_k=TOP_K).items
        exclude = torch.cat([free[:, ::2], torch.from_numpy(rng.integers(0, len(codes), (512, 20)))], dim=1)
        found = beam_search(
            writer, trie, items, lengths, SearchOptions(num_beams=50), top_k=TOP_K, exclude=exclude
        ).items
        ordered = found.sort(dim=1).values
        wrong["short"] += int((found < 0).any(1).sum())
        wrong["repeated"] += int((ordered[:, 1:] == ordered[:, :-1]).any(1).sum())
        wrong["excluded"] += int((found.unsqueeze(2) == exclude.unsqueeze(1)).any((1, 2)).sum())
        wrong["filtered"] += int((~legal[found.clamp(min=0)]).any(1).sum())
    return {"listed_users": -(-users // 512) * 512, **{f"{kind}_lists": count for kind, count in wrong.items()}}


def exactness(seeds: int) -> Figures:
    """Catalogues of up to 4,096 items whose ranking with as many beams differs from scoring item by item."""
    sizes = (16, 16, 16, 16)
    different, gap = 0, 0.0
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        numbers = rng.choice(16**4, rng.integers(1, 4097), replace=False)
        codes = np.stack(np.unravel_index(numbers, sizes), axis=1).astype(np.int32)
        writer, (items, lengths) = RandomWriter(sizes, seed), _users(2, seed)
        scores = _one_by_one(writer, writer.encode(items, lengths), torch.from_numpy(codes).long())
        expected = scores.sort(dim=1, descending=True, stable=True)
        trie = DeviceTrie(build_trie(codes, sizes))
        found = beam_search(writer, trie, items, lengths, SearchOptions(num_beams=len(codes)), top_k=len(codes))
        gap = max(gap, float((found.scores - expected.values).abs().max()))
        # Near ties may come in either order: what is at a rank must have the score of that rank.
        different += int(((scores.gather(1, found.items) - expected.values).abs() > 2 * NEAR_TIE).any())
    return {"exact_seeds": seeds, "exact_seeds_different": different, "exact_max_score_difference": gap}


def invariance(material: Material, users: int = 32) -> Figures:
    """Users whose list in a padded batch differs from their list alone, near ties aside, over all families."""
    histories, different, gap = material.histories, 0, 0.0
    for name in ("depth", "decoder", "seq2seq"):
        model = make_model(name, SERVED[name], material.index, material.features)
        rows = draw_rows(histories, users)
        together = _lists(model, batches_of(histories, rows, model.max_history)[0])
        alone = [_lists(model, batches_of(histories, rows[[row]], model.max_history)[0]) for row in range(len(rows))]
        items, scores = (torch.cat(parts) for parts in zip(*alone, strict=True))
        close = (scores - together[1]).abs()
        gap = max(gap, float(close.max()))
        different += int(((items != together[0]) & (close > NEAR_TIE)).any(1).sum())
    return {"invariance_users": 3 * users, "invariance_different": different, "invariance_max_score_difference": gap}


def _lists(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    found = beam_search(model, trie_of(model), *batch, SearchOptions(num_beams=50), top_k=TOP_K)
    return found.items, found.scores


def _one_by_one(writer: RandomWriter, context: Tensor, codes: Tensor) -> Tensor:
    """log p of every semantic ID by itself, without a trie: float32 ``[B, N]``."""
    whole = codes.expand(len(context), -1, -1)
    total = torch.zeros(whole.shape[:2])
    for level in range(codes.shape[1]):
        values = torch.log_softmax(writer.next_code_logits(context, whole[:, :, :level]), dim=-1)
        if values.shape[1] == 1:
            values = values.expand(-1, len(codes), -1)
        total += values.gather(2, whole[:, :, level : level + 1])[..., 0]
    return total


def _packed(codes: Tensor) -> Tensor:
    number = torch.zeros(codes.shape[:-1], dtype=torch.int64)
    for level in range(codes.shape[-1]):
        number = number * 256 + codes[..., level]
    return number


def _users(count: int, first: int) -> Batch:
    return torch.arange(first, first + count).unsqueeze(1), torch.ones(count, dtype=torch.int64)
