import numpy as np
import pytest
import torch
from fake_models import FakeWriter, history_of, random_codes, rank_plainly, score_one_by_one
from torch.utils._python_dispatch import TorchDispatchMode

from genrec.decoding import (
    DeviceTrie,
    NonFiniteLogitsError,
    SearchOptions,
    beam_search,
    exhaustive,
    exhaustive_search,
    score_catalogue,
    walk_trie,
)
from genrec.errors import ConfigError
from genrec.tokenizers.trie import build_trie

SIZES = (6, 5, 4)


class ParallelFake:
    """Heads that do not see each other's codes."""

    def __init__(self, codes: np.ndarray, broken_level: int | None = None) -> None:
        generator = torch.Generator().manual_seed(0)
        self.item_codes = torch.from_numpy(codes)
        self.tables = [torch.randn(50, size, generator=generator) for size in SIZES]
        self.broken_level = broken_level

    def encode(self, items, lengths):
        return items[:, 0]

    def all_code_logits(self, context):
        logits = [table[context] for table in self.tables]
        if self.broken_level is not None:
            logits[self.broken_level][1, 0] = float("nan")
        return logits

    def next_code_logits(self, context, prefix, beam_index=None):
        return self.tables[prefix.shape[2]][context].unsqueeze(1)


@pytest.mark.parametrize("max_nodes", [1, 7, 4096])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_walking_the_trie_scores_every_item(max_nodes, temperature):
    codes = random_codes(np.random.default_rng(1), 80, SIZES, 0.2)
    codes[codes[:, 0] == 3, 1:] = -1
    trie, model, histories = DeviceTrie(build_trie(codes, SIZES)), FakeWriter(SIZES), history_of([5, 6])
    options = SearchOptions(temperature=temperature)
    leaves = walk_trie(model, trie, *histories, options, max_nodes=max_nodes)
    expected = score_one_by_one(model, *histories, codes, temperature)
    for leaf in range(trie.num_leaves):
        for item in trie.trie.leaf_items[trie.trie.leaf_start[leaf] : trie.trie.leaf_start[leaf + 1]]:
            np.testing.assert_allclose(leaves[:, leaf], expected[:, item], atol=1e-5)
    exclude = torch.tensor([[1, 2, 3], [-1, -1, 9]])
    found = exhaustive_search(model, trie, *histories, options, top_k=80, exclude=exclude, max_nodes=max_nodes)
    for user, seen in enumerate(exclude.tolist()):
        ranked = rank_plainly(expected[user], 80, seen)
        np.testing.assert_allclose(found.scores[user, : len(ranked)], expected[user, ranked], atol=1e-5)
        assert set(found.items[user].tolist()) == {*ranked, -1}


def test_walking_renormalizes_as_beams_do():
    codes = random_codes(np.random.default_rng(2), 60, SIZES)
    trie, model, histories = DeviceTrie(build_trie(codes, SIZES)), FakeWriter(SIZES), history_of([5, 6])
    walked = exhaustive_search(model, trie, *histories, SearchOptions(renormalize=True), top_k=60, max_nodes=5)
    beams = beam_search(model, trie, *histories, SearchOptions(num_beams=60, renormalize=True), top_k=60)
    torch.testing.assert_close(walked.scores, beams.scores)
    leaves = walk_trie(model, trie, *histories, SearchOptions(renormalize=True))
    torch.testing.assert_close(leaves.exp().sum(1), torch.ones(2))


def test_renormalizing_with_exclusion_is_refused():
    trie = DeviceTrie(build_trie(np.array([[0, 0, 0]]), SIZES))
    with pytest.raises(ConfigError, match="cannot renormalize per user"):
        exhaustive_search(
            FakeWriter(SIZES),
            trie,
            *history_of([0]),
            SearchOptions(renormalize=True),
            top_k=1,
            exclude=torch.tensor([[0]]),
        )


def test_an_empty_trie_gives_empty_lists():
    trie = DeviceTrie(build_trie(np.array([[0, 0, 0]]), SIZES)).filtered(np.array([False]))
    assert exhaustive_search(FakeWriter(SIZES), trie, *history_of([0]), top_k=2).items.tolist() == [[-1, -1]]


@pytest.mark.parametrize("entries", [1, 100, 1 << 22])
def test_parallel_heads_score_every_item(monkeypatch, entries):
    monkeypatch.setattr(exhaustive, "CHUNK_ENTRIES", entries)
    rng = np.random.default_rng(3)
    codes = random_codes(rng, 90, SIZES, 0.5)
    codes[codes[:, 1] == 2, 2] = -1
    model, histories = ParallelFake(codes), history_of([3, 4, 5])
    expected = score_one_by_one(model, *histories, codes)
    exclude = torch.as_tensor(rng.integers(-1, 90, (3, 20)))
    allowed = torch.as_tensor(rng.random(90) < 0.7)
    found = score_catalogue(model, *histories, top_k=50, exclude=exclude, allowed=allowed)
    for user in range(3):
        forbidden = {*exclude[user].tolist(), *(~allowed).nonzero()[:, 0].tolist()}
        # Items with one semantic ID tie exactly: the ranking by position must hold across chunks too.
        ranked = rank_plainly(expected[user].round(5), 50, forbidden)
        assert found.items[user].tolist() == [*ranked, *[-1] * (50 - len(ranked))]
        np.testing.assert_allclose(found.scores[user, : len(ranked)], expected[user, ranked], atol=1e-5)


def test_broken_logits_name_user_and_step():
    codes = random_codes(np.random.default_rng(3), 9, SIZES)
    with pytest.raises(NonFiniteLogitsError, match="user 1 at step 2"):
        score_catalogue(ParallelFake(codes, 2), *history_of([3, 4, 5]), top_k=5)

    class Broken(FakeWriter):
        def next_code_logits(self, context, prefix, beam_index=None):
            return super().next_code_logits(context, prefix, beam_index) * (float("nan") if prefix.shape[2] == 1 else 1)

    with pytest.raises(NonFiniteLogitsError, match="user 0 at step 1"):
        walk_trie(Broken(SIZES), DeviceTrie(build_trie(codes, SIZES)), *history_of([3]))


def test_parallel_heads_rank_by_the_mean_over_codes_with_a_length_penalty():
    codes = random_codes(np.random.default_rng(3), 90, SIZES)
    codes[codes[:, 1] == 2, 2] = -1
    model, histories = ParallelFake(codes), history_of([3, 4, 5])
    expected = score_one_by_one(model, *histories, codes) / (codes >= 0).sum(1)
    found = score_catalogue(model, *histories, SearchOptions(length_penalty=1.0), top_k=90)
    for user in range(3):
        assert set(found.items[user].tolist()) == set(range(90))
        np.testing.assert_allclose(found.scores[user], expected[user, found.items[user]], atol=1e-5)
        assert (found.scores[user].diff() <= 0).all()


class LargestTensor(TorchDispatchMode):
    """Notes the most elements of any tensor that is made."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        if isinstance(result, torch.Tensor) and result._base is None:
            self.elements = max(self.elements, result.numel())
        return result


def test_memory_does_not_grow_with_the_catalogue(monkeypatch):
    """16 users and 40,000 items make 640,000 scores; no more than a chunk of them is there at a time."""
    monkeypatch.setattr(exhaustive, "CHUNK_ENTRIES", 1 << 14)
    rng = np.random.default_rng(0)

    class Heads:
        item_codes = torch.from_numpy(rng.integers(0, 32, (40_000, 3)))

        def encode(self, items, lengths):
            return items.float()

        def all_code_logits(self, context):
            return [torch.sin(context * (level + 1) + torch.arange(32)) for level in range(3)]

    users = torch.arange(16).unsqueeze(1), torch.ones(16, dtype=torch.int64)
    with LargestTensor() as largest:
        found = score_catalogue(Heads(), *users, top_k=10)
    assert largest.elements <= 1 << 14
    tables = [logits.log_softmax(-1) for logits in Heads().all_code_logits(users[0].float())]
    scores = sum(table[:, codes] for table, codes in zip(tables, Heads.item_codes.T, strict=True))
    torch.testing.assert_close(found.scores, scores.topk(10).values)
