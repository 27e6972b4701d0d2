"""What the decoder promises, in the numbers in which it is promised."""

import numpy as np
import pytest
import torch
from fake_models import FakeWriter, history_of, random_codes

from genrec.decoding import DeviceTrie, SearchOptions, beam_search
from genrec.tokenizers.trie import build_trie


class Adversary(FakeWriter):
    """Logits that tempt a search to leave the trie."""

    def __init__(self, sizes, kind: str, codes: np.ndarray, **settings) -> None:
        super().__init__(sizes, **settings)
        self.kind = kind
        self.used = [np.unique(codes[:, level]) for level in range(len(sizes))]

    def next_code_logits(self, context, prefix, beam_index=None):
        logits = super().next_code_logits(context, prefix, beam_index).float()
        if self.kind == "equal":
            logits = torch.zeros_like(logits)
        elif self.kind == "tempting":
            # Every code that no item has is as good as certain.
            bonus = torch.full((logits.shape[-1],), 80.0)
            bonus[self.used[prefix.shape[2]]] = 0
            logits = logits + bonus
        elif self.kind == "extreme":
            logits = logits.sign() * 60_000
        elif self.kind == "refusing":
            logits = logits.masked_fill(torch.arange(logits.shape[-1]) % 5 == 2, float("-inf"))
        return logits.to(self.dtype)


def crooked_codes(rng: np.random.Generator, num_items: int, sizes) -> np.ndarray:
    """Crowded and lonely nodes, chains of one-child nodes, shared leaves, codes that no one has."""
    codes = random_codes(rng, num_items, [max(1, size - 2) for size in sizes], 0.1)
    codes[: num_items // 3, :2] = [0, 1]
    lonely = rng.choice(num_items, num_items // 10, replace=False)
    codes[lonely, 0] = codes[lonely, 0] * 0 + sizes[0] - 2
    codes[lonely, 1] = 0
    codes[lonely[0]] = [sizes[0] - 3, *[1] * (len(sizes) - 1)]
    return codes


def own_scores(model, histories, codes: torch.Tensor, dtype=torch.float64) -> torch.Tensor:
    """log p of semantic IDs ``codes [B, M, L]``, each by its own codes without trie or cache: float64 [B, M]."""
    context = model.encode(*histories)
    total = torch.zeros(codes.shape[:2], dtype=dtype)
    for level in range(codes.shape[2]):
        prefix = codes[:, :, :level] if level else codes[:, :1, :0]
        values = model.next_code_logits(context, prefix, None).to(dtype).log_softmax(-1)
        total += values.expand(-1, codes.shape[1], -1).gather(2, codes[:, :, level : level + 1])[..., 0]
    return total


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["random", "equal", "tempting", "extreme", "refusing"])
def test_no_illegal_identifier_in_a_million_beams(dtype, kind):
    """With 1 to 500 beams; the assertion below counts a fifteenth of the million in each of the fifteen cases."""
    sizes = (12, 10, 9)
    codes = crooked_codes(np.random.default_rng(5), 700, sizes)
    semantic_ids = torch.from_numpy(np.unique(codes, axis=0)).long()
    trie = DeviceTrie(build_trie(codes, sizes))
    model = Adversary(sizes, kind, codes, seed=1, dtype=dtype)
    # Logits of another batch may round to the neighboring number of the lower precision.
    tolerance = {torch.float32: 2e-4, torch.float16: 0.02, torch.bfloat16: 0.15}[dtype]
    beams = 0
    for num_beams, users in ((1, 400), (2, 400), (17, 400), (50, 600), (500, 120)):
        histories = history_of(range(users))
        found = beam_search(model, trie, *histories, SearchOptions(num_beams=num_beams), top_k=num_beams)
        living = found.items >= 0
        assert living[:, 0].all()
        written = torch.from_numpy(codes).long()[found.items.clamp(min=0)]
        expected = own_scores(model, histories, written)
        torch.testing.assert_close(found.scores.double()[living], expected[living], atol=tolerance, rtol=1e-5)
        assert found.scores[living].isfinite().all()
        ordered = found.items.masked_fill(~living, -1).sort(dim=1).values
        assert ((ordered.diff(dim=1) > 0) | (ordered[:, 1:] < 0)).all()
        if kind != "refusing":
            assert living.all() or num_beams > len(semantic_ids)
        beams += int(living.sum())
    assert beams > 1_000_000 / 15
    assert trie.num_leaves == len(semantic_ids)


def test_enough_beams_rank_as_scoring_every_item_for_two_hundred_seeds():
    largest = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        num_items = int(4096 ** rng.random()) if seed else 4096
        sizes = tuple(rng.integers(2, 40, rng.integers(2, 5)).tolist())
        codes = random_codes(rng, num_items, sizes, 0.1)
        model, histories = FakeWriter(sizes, seed), history_of(rng.integers(0, 999, 2))
        trie = DeviceTrie(build_trie(codes, sizes))
        found = beam_search(model, trie, *histories, SearchOptions(num_beams=num_items), top_k=num_items)
        scores = own_scores(model, histories, torch.from_numpy(codes).long().expand(2, -1, -1))
        for user in range(2):
            order = found.items[user].numpy()
            assert np.array_equal(np.sort(order), np.arange(num_items))
            own = scores[user].numpy()[order]
            np.testing.assert_allclose(found.scores[user], own, atol=1e-5)
            # Nothing is before what is more probable, and equal semantic IDs are in the catalogue's order.
            assert (np.diff(own) <= 1e-5).all()
            same = (codes[order[1:]] == codes[order[:-1]]).all(axis=1)
            assert (np.diff(order)[same] > 0).all()
        largest = max(largest, num_items)
    assert largest == 4096


@pytest.mark.parametrize(
    "options",
    [
        SearchOptions(num_beams=10),
        SearchOptions(num_beams=20, beam_groups=2, diversity_penalty=0.5),
        SearchOptions(num_beams=10, mode="stochastic", seed=0),
    ],
)
def test_a_hundred_thousand_users_get_exactly_k_and_nothing_seen(options):
    rng = np.random.default_rng(0)
    sizes = (8, 8, 6)
    codes = crooked_codes(rng, 60, sizes)
    allowed = rng.random(60) < 0.8
    trie = DeviceTrie(build_trie(codes, sizes)).filtered(allowed)
    model = FakeWriter(sizes, users=5001)
    users, per_batch = 0, 5000
    while users < (100_000 if options == SearchOptions(num_beams=10) else 10_000):
        # Seen items of each user: up to nearly all in the first batch, up to 12 in the others.
        width = 12 if users else 60
        counts = torch.from_numpy(rng.integers(0, width, per_batch))
        seen = torch.from_numpy(np.argsort(rng.random((per_batch, 60)), axis=1)[:, :width])
        seen = seen.masked_fill(torch.arange(width) >= counts[:, None], -1)
        found = beam_search(model, trie, *history_of(range(per_batch)), options, top_k=10, exclude=seen).items
        forbidden = torch.zeros(per_batch, 61, dtype=torch.bool).scatter(1, seen + 1, True)[:, 1:]
        forbidden |= ~torch.from_numpy(allowed)
        available = (~forbidden).sum(dim=1)
        present = found >= 0
        assert torch.equal(present.sum(dim=1), available.clamp(max=10))
        assert not (forbidden.gather(1, found.clamp(min=0)) & present).any()
        ordered = found.sort(dim=1).values
        assert ((ordered.diff(dim=1) > 0) | (ordered[:, 1:] < 0)).all()
        users += per_batch
    assert users >= 10_000


def test_users_without_anything_left_get_empty_lists_beside_others():
    codes = random_codes(np.random.default_rng(0), 12, (4, 4))
    trie = DeviceTrie(build_trie(codes, (4, 4)))
    seen = torch.tensor([list(range(12)), [-1] * 12])
    for options in (
        SearchOptions(num_beams=5),
        SearchOptions(num_beams=6, mode="nucleus", top_p=1.0),
        SearchOptions(num_beams=6, mode="stochastic"),
        SearchOptions(num_beams=6, beam_groups=3),
    ):
        found = beam_search(FakeWriter((4, 4)), trie, *history_of([0, 1]), options, top_k=2, exclude=seen)
        assert found.items[0].tolist() == [-1, -1]
        assert found.scores[0].isneginf().all()
        assert found.items[1, 0] >= 0
