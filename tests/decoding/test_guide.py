"""Beams that follow the item vectors too, against sums over items and against scoring every item."""

import numpy as np
import pytest
import torch
from fake_models import FakeWriter, history_of, random_codes, score_one_by_one

from genrec.decoding import DeviceTrie, SearchOptions, beam_search
from genrec.decoding.item_prior import ItemPrior
from genrec.tokenizers.trie import build_trie

SIZES = (12, 9, 5)
ITEMS = 150


class TwoVoices(FakeWriter):
    """A writer of codes that also has an opinion on whole items."""

    def __init__(self, sizes, items=ITEMS, sharpness=2.0, seed=0):
        super().__init__(sizes, seed=seed)
        self.vectors = torch.randn(8, items, generator=torch.Generator().manual_seed(seed + 1)) * sharpness

    def item_log_probabilities(self, context, items):
        return torch.log_softmax(context @ self.vectors, dim=-1).gather(1, items)


def catalogue(kind: str) -> np.ndarray:
    codes = random_codes(np.random.default_rng(1), ITEMS, SIZES, 0.2 if kind == "buckets" else 0.0)
    if kind == "short":
        codes[codes[:, 0] == 1, 1:] = -1
    return codes


@pytest.mark.parametrize("kind", ["unique", "buckets", "short"])
@pytest.mark.parametrize("filtered", [False, True])
def test_a_node_has_the_probability_of_the_items_below_it(kind, filtered):
    codes, generator = catalogue(kind), np.random.default_rng(2)
    trie = DeviceTrie(build_trie(codes, SIZES))
    allowed = generator.random(ITEMS) < 0.6 if filtered else np.ones(ITEMS, dtype=bool)
    trie = trie.filtered(allowed) if filtered else trie
    log_probs = torch.log_softmax(torch.from_numpy(generator.standard_normal((3, ITEMS))).float() * 3, dim=-1)
    exclude = torch.from_numpy(generator.integers(-1, ITEMS, (3, 20)))
    guide = ItemPrior(trie, log_probs, 2.0, trie.exclusion(exclude))
    nodes = torch.zeros(3, 1, dtype=torch.int64)
    prefixes = [()]
    for depth, level in enumerate(trie.levels):
        bonus = guide.of_candidates(level, depth, nodes)
        children = level.children(nodes)
        legal = ~level.mask_illegal_codes(nodes, torch.zeros(3, nodes.shape[1], level.size)).isneginf()
        following = {}
        for slot, prefix in enumerate(prefixes):
            for place in legal[0, slot].nonzero()[:, 0].tolist():
                node = int(children[0, slot, place])
                rows = trie.leaf_items[trie.item_bounds[depth + 1][node] : trie.item_bounds[depth + 1][node + 1]].long()
                beginnings = {tuple(codes[row, : depth + 1].tolist()) for row in rows.tolist()}
                assert len(beginnings) == 1
                assert next(iter(beginnings))[:depth] == prefix
                beginning = np.array(next(iter(beginnings)))
                below = (codes[:, : depth + 1] == beginning).all(axis=1) & allowed
                assert below.sum() == len(rows)
                for user in range(3):
                    reached = below.copy()
                    reached[[item for item in exclude[user].tolist() if item >= 0]] = False
                    share = np.exp(log_probs[user].double().numpy())[reached].sum()
                    wanted = 2 * np.log(max(share, torch.finfo(torch.float32).tiny))
                    assert float(bonus[user, slot, place]) == pytest.approx(wanted, rel=1e-5, abs=1e-5)
                following[tuple(beginning.tolist())] = node
        prefixes = list(following)
        nodes = torch.tensor(list(following.values())).expand(3, -1)
    assert len(prefixes) == trie.num_leaves


@pytest.mark.parametrize("kind", ["unique", "buckets", "short"])
def test_enough_beams_rank_as_scoring_every_item_by_both(kind):
    codes, model = catalogue(kind), TwoVoices(SIZES)
    items, lengths = history_of([3, 8, 11])
    both = score_one_by_one(model, items, lengths, codes)
    both += 1.5 * model.item_log_probabilities(model.encode(items, lengths), torch.arange(ITEMS).expand(3, -1)).numpy()
    trie = DeviceTrie(build_trie(codes, SIZES))
    found = beam_search(model, trie, items, lengths, SearchOptions(num_beams=ITEMS, item_weight=1.5), top_k=ITEMS)
    for user in range(3):
        expected = np.sort(both[user])[::-1]
        np.testing.assert_allclose(found.scores[user].numpy(), expected, atol=1e-4)
        np.testing.assert_allclose(both[user][found.items[user].numpy()], expected, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 2])
def test_few_beams_lose_less_with_it(groups):
    """The reference is the exact list by both; the same beams without guidance find far less of it."""
    codes, model = catalogue("unique"), TwoVoices(SIZES, sharpness=4.0)
    items, lengths = history_of(range(64))
    everything = torch.arange(ITEMS).expand(64, -1)
    both = score_one_by_one(model, items, lengths, codes)
    both += 4 * model.item_log_probabilities(model.encode(items, lengths), everything).numpy()
    exact = np.argsort(-both, axis=1)[:, :5]
    trie, shares = DeviceTrie(build_trie(codes, SIZES)), {}
    for guided in (True, False):
        options = SearchOptions(num_beams=10, beam_groups=groups, item_weight=4.0, item_guidance=guided)
        found = beam_search(model, trie, items, lengths, options, top_k=5).items.numpy()
        shares[guided] = np.mean([len(set(row) & set(best)) / 5 for row, best in zip(found, exact, strict=True)])
    assert shares[True] > 0.85 > 0.7 > shares[False]


def test_an_unlikely_beginning_is_followed_where_a_vector_says_so():
    """One beam: codes alone go to item 0; item 1 is after the unlikely first code and wins by both."""

    class Certain(FakeWriter):
        def next_code_logits(self, context, prefix, beam_index=None):
            return torch.tensor([2.0, 0.0]).expand(len(context), prefix.shape[1], 2)

        def item_log_probabilities(self, context, items):
            return torch.tensor([0.1, 0.9]).log().expand(len(context), 2).gather(1, items)

    trie, model = DeviceTrie(build_trie(np.array([[0, 0], [1, 0]]), (2, 2))), Certain((2, 2))
    arguments = (model, trie, *history_of([0]))
    assert beam_search(
        *arguments, SearchOptions(num_beams=1, item_weight=3.0, item_guidance=False), top_k=1
    ).items.tolist() == [[0]]
    found = beam_search(*arguments, SearchOptions(num_beams=1, item_weight=3.0), top_k=1)
    assert found.items.tolist() == [[1]]
    codes = torch.log_softmax(torch.tensor([2.0, 0.0]), 0)
    assert float(found.scores) == pytest.approx(float(codes[1] + codes[0]) + 3 * np.log(0.9), abs=1e-5)


def test_seen_items_do_not_lead_anywhere():
    """Item 0 holds nearly all of the probability below code 0; once it is seen, one beam goes to code 1."""
    codes = np.array([[0, 0], [0, 1], [1, 0]])

    class Even(FakeWriter):
        def next_code_logits(self, context, prefix, beam_index=None):
            return torch.zeros(len(context), prefix.shape[1], 2)

        def item_log_probabilities(self, context, items):
            return torch.tensor([0.9, 0.02, 0.08]).log().expand(len(context), 3).gather(1, items)

    trie, model = DeviceTrie(build_trie(codes, (2, 2))), Even((2, 2))
    for seen, expected in ((-1, 0), (0, 2)):
        exclude = torch.tensor([[seen]])
        found = beam_search(
            model, trie, *history_of([0]), SearchOptions(num_beams=1, item_weight=1.0), top_k=1, exclude=exclude
        )
        assert found.items.tolist() == [[expected]]
