"""The reference that a Python user would take: ``generate`` with ``prefix_allowed_tokens_fn`` on the same weights."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from genrec.config import RecommenderConfig
from genrec.decoding import SearchOptions, beam_search, trie_of
from genrec.models import build_recommender
from genrec.tokenizers.index import ItemIndex

REFERENCE = Path(__file__).parents[2] / "scripts" / "benchmarks" / "reference.py"
NUM_ITEMS, SIZES = 400, (24, 24, 16, 4)
SETTINGS = {
    "seq2seq": {"hidden_size": 32, "num_heads": 3, "head_size": 16, "num_layers": 2, "feed_forward_size": 64},
    "decoder": {"hidden_size": 32, "num_heads": 2, "num_layers": 2, "feed_forward_size": 48},
}


@pytest.fixture(scope="module")
def reference():
    """The module that the benchmark uses; scripts are not a package."""
    spec = importlib.util.spec_from_file_location("decoding_reference", REFERENCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_model(family: str, seed: int):
    rng = np.random.default_rng(seed)
    flat = rng.choice(int(np.prod(SIZES)), NUM_ITEMS, replace=False)
    codes = np.stack(np.unravel_index(flat, SIZES), axis=1).astype(np.int32)
    index = ItemIndex(codes, SIZES, [str(i) for i in range(NUM_ITEMS)])
    torch.manual_seed(seed)
    model = build_recommender(
        RecommenderConfig(name=family, **SETTINGS[family]), num_items=NUM_ITEMS, index=index
    ).eval()
    if family == "decoder":
        # Untrained, norms are one, biases and the start are zero: draw them, so that each is seen to arrive.
        for name, weight in model.named_parameters():
            if weight.dim() == 1:
                torch.nn.init.normal_(weight, mean=float("norm" in name), std=0.3)
            else:
                torch.nn.init.normal_(weight, std=0.2)
    return model


@pytest.mark.parametrize("family", ["seq2seq", "decoder"])
@pytest.mark.parametrize("num_beams", [5, 20])
def test_same_items_same_order_same_scores_as_generate(reference, family, num_beams):
    model = make_model(family, num_beams)
    rng = np.random.default_rng(1)
    items = torch.as_tensor(rng.integers(0, NUM_ITEMS, (12, 7)))
    lengths = torch.as_tensor(rng.integers(0, 8, 12))
    expected, expected_scores = reference.GenerateReference(model).search(items, lengths, num_beams, 5)
    found = beam_search(model, trie_of(model), items, lengths, SearchOptions(num_beams=num_beams), top_k=5)
    torch.testing.assert_close(found.scores, expected_scores, atol=1e-4, rtol=0)
    assert torch.equal(found.items, expected)
