"""``torch.compile`` takes the loop of every search whole: no graph break, no value fetched from the device."""

import numpy as np
import pytest
import torch
from fake_models import FakeWriter, history_of, random_codes

from genrec.config import RecommenderConfig
from genrec.decoding import DeviceTrie, SearchOptions, trie_of
from genrec.decoding.beam import find_leaves
from genrec.decoding.item_prior import ItemPrior
from genrec.models import build_recommender
from genrec.tokenizers.index import ItemIndex
from genrec.tokenizers.trie import build_trie

SIZES = (30, 6)
SMALL = {"hidden_size": 16, "num_heads": 2, "num_layers": 1, "max_history": 5, "feed_forward_size": 32}
WAYS = {
    "length": SearchOptions(num_beams=7, length_penalty=1.0, renormalize=True, temperature=0.7),
    "groups": SearchOptions(num_beams=8, beam_groups=2, diversity_penalty=0.5),
    "stochastic": SearchOptions(num_beams=7, mode="stochastic", seed=3),
    "nucleus": SearchOptions(num_beams=5, mode="nucleus", top_p=0.8),
}


class Plain(FakeWriter):
    """Without the check of the beam index, which is a break in the graph."""

    def next_code_logits(self, context, prefix, beam_index=None):
        return super().next_code_logits(context, prefix, None)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def shortened_codes() -> np.ndarray:
    codes = random_codes(np.random.default_rng(0), 90, SIZES, 0.2)
    codes[codes[:, 0] == 1, 1:] = -1
    return codes


@pytest.mark.parametrize("way", WAYS)
def test_every_search_is_one_graph(way):
    trie, model, options = DeviceTrie(build_trie(shortened_codes(), SIZES)), Plain(SIZES), WAYS[way]

    def search(context, exclude, seeds):
        return find_leaves(model, trie, context, options, trie.exclusion(exclude), seeds)

    compiled = torch.compile(search, backend="eager", fullgraph=True)
    exclude = torch.from_numpy(np.random.default_rng(0).integers(-1, 90, (3, 20)))
    arguments = model.encode(*history_of([4, 5, 9])), exclude, torch.arange(3)
    expected, found = search(*arguments), compiled(*arguments)
    assert torch.equal(found.nodes, expected.nodes)
    torch.testing.assert_close(found.scores, expected.scores)
    torch.testing.assert_close(found.keys, expected.keys)


def test_guided_beams_are_one_graph():
    trie, model, options = (
        DeviceTrie(build_trie(shortened_codes(), SIZES)),
        Plain(SIZES),
        SearchOptions(num_beams=7, item_weight=2.0),
    )
    log_probs = torch.log_softmax(torch.randn(3, 90, generator=torch.Generator().manual_seed(0)), dim=-1)

    def search(context, exclude, seeds):
        exclusion = trie.exclusion(exclude)
        guide = ItemPrior(trie, log_probs, options.item_weight, exclusion)
        return find_leaves(model, trie, context, options, exclusion, seeds, guide)

    compiled = torch.compile(search, backend="eager", fullgraph=True)
    exclude = torch.from_numpy(np.random.default_rng(0).integers(-1, 90, (3, 20)))
    arguments = model.encode(*history_of([4, 5, 9])), exclude, torch.arange(3)
    expected, found = search(*arguments), compiled(*arguments)
    assert torch.equal(found.nodes, expected.nodes)
    torch.testing.assert_close(found.scores, expected.scores)


@pytest.mark.parametrize("family", ["decoder", "seq2seq"])
def test_real_models_are_one_graph_with_their_search(family):
    index = ItemIndex(random_codes(np.random.default_rng(0), 90, SIZES), SIZES, [str(i) for i in range(90)])
    torch.manual_seed(0)
    features = np.random.default_rng(0).standard_normal((90, 4)).astype(np.float32)
    config = RecommenderConfig(name=family, **SMALL, **({"head_size": 8} if family == "seq2seq" else {}))
    model = build_recommender(config, num_items=90, index=index, features=features).eval()
    trie, options = trie_of(model), SearchOptions(num_beams=7)
    items = torch.randint(90, (3, 5), generator=torch.Generator().manual_seed(0))
    seeds = torch.zeros(3, dtype=torch.int64)

    def search(context):
        return find_leaves(model, trie, context, options, None, seeds)

    with torch.no_grad():
        expected = search(model.encode(items, torch.tensor([5, 2, 0])))
        found = torch.compile(search, backend="eager", fullgraph=True)(model.encode(items, torch.tensor([5, 2, 0])))
    assert torch.equal(found.nodes, expected.nodes)
    torch.testing.assert_close(found.scores, expected.scores)
