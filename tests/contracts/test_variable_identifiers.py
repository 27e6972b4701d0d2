"""Families that take semantic IDs of different lengths: what is after an end is neither learned, read nor scored."""

import numpy as np
import pytest
import torch
from test_recommenders import DRAWING, EXTRA, HISTORIES, NEXT_ITEM, NUM_ITEMS, SMALL, TEXTS

from genrec.config import RecommenderConfig
from genrec.decoding import SearchOptions, beam_search, exhaustive_search, sample_items, trie_of
from genrec.errors import ConfigError
from genrec.models import build_recommender, load_recommender
from genrec.models.registry import FAMILIES, recommender_class
from genrec.tokenizers.index import ItemIndex

SIZES = (8, 8, 5)
FIT = [name for name in sorted(FAMILIES) if getattr(recommender_class(name), "supports_variable_length", False)]


def make_index() -> ItemIndex:
    flat = np.random.default_rng(3).choice(int(np.prod(SIZES)), NUM_ITEMS, replace=False)
    codes = np.stack(np.unravel_index(flat, SIZES), axis=1).astype(np.int32)
    codes[codes[:, 0] == 2, 1:] = -1
    codes[codes[:, 1] >= 5, 2:] = -1
    return ItemIndex(codes, SIZES, [f"item-{i}" for i in range(NUM_ITEMS)])


def make_model(family: str, **settings):
    features = np.random.default_rng(5).standard_normal((NUM_ITEMS, 12)).astype(np.float32)
    torch.manual_seed(0)
    config = RecommenderConfig(name=family, **{**SMALL, **EXTRA.get(family, {}), **settings})
    materials = {"index": make_index(), "features": features, "texts": TEXTS, "histories": HISTORIES}
    return build_recommender(config, num_items=NUM_ITEMS, **materials)


def scores_one_by_one(model, items: torch.Tensor, lengths: torch.Tensor, targets=range(NUM_ITEMS)) -> np.ndarray:
    """log p of items by their own codes, one semantic ID at a time, without cache: float64 [B, N]."""
    context = model.encode(items, lengths)
    scores = np.zeros((len(items), NUM_ITEMS))
    for item in targets:
        codes = [code for code in model.item_codes[item].tolist() if code >= 0]
        for level, code in enumerate(codes):
            prefix = torch.tensor(codes[:level], dtype=torch.long).expand(len(items), 1, level)
            logits = model.next_code_logits(context, prefix)[:, 0].double()
            scores[:, item] += logits.log_softmax(-1)[:, code].numpy()
    return scores


@pytest.fixture(params=FIT)
def family(request) -> str:
    return request.param


@pytest.fixture
def histories() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(NUM_ITEMS, (6, 9), generator=generator), torch.tensor([9, 4, 0, 6, 2, 3])


def test_three_families_take_them():
    assert {"decoder", "depth", "seq2seq"} <= set(FIT)
    assert make_index().variable_length


@torch.no_grad()
def test_beams_find_what_scoring_every_item_finds(family, histories):
    model = make_model(family).eval()
    with torch.no_grad():
        expected = scores_one_by_one(model, *histories)
    for found in (
        beam_search(model, trie_of(model), *histories, SearchOptions(num_beams=NUM_ITEMS), top_k=NUM_ITEMS),
        exhaustive_search(model, trie_of(model), *histories, top_k=NUM_ITEMS, max_nodes=7),
    ):
        for user in range(len(expected)):
            order = found.items[user].numpy()
            assert set(order.tolist()) == set(range(NUM_ITEMS))
            np.testing.assert_allclose(found.scores[user], expected[user, order], atol=1e-5)
            assert (np.diff(expected[user, order]) <= 1e-5).all()


def test_the_loss_is_the_probability_that_decoding_sees(family, histories):
    model = make_model(family, **NEXT_ITEM.get(family, {})).eval()
    items, lengths = histories[0], histories[1].clamp(min=1)
    terms = []
    with torch.no_grad():
        for row, length in enumerate(lengths.tolist()):
            for cut in [length - 1] if family in DRAWING else range(length):
                prefix = items[row : row + 1, : max(cut, 1)]
                item = int(items[row, cut])
                terms.append(scores_one_by_one(model, prefix, torch.tensor([cut]), [item])[0, item])
        assert float(model(items, lengths).loss) == pytest.approx(-np.mean(terms), abs=1e-4)


def test_what_stands_behind_an_end_does_not_matter(family, histories):
    """The answer depends on real codes alone: written one by one, or with anything in the place of the missing ones."""
    model = make_model(family).eval()
    context = model.encode(*histories)
    ended = int((model.item_codes[:, 1] < 0).nonzero()[0])
    assert int(model.item_codes[ended, 0]) == 2
    with torch.no_grad():
        found = beam_search(model, trie_of(model), *histories, SearchOptions(num_beams=NUM_ITEMS), top_k=NUM_ITEMS)
        first = model.next_code_logits(context, torch.zeros(6, 1, 0, dtype=torch.long))[:, 0].log_softmax(-1)
    for user in range(6):
        place = found.items[user].tolist().index(ended)
        assert float(found.scores[user, place]) == pytest.approx(float(first[user, 2]), abs=1e-5)


def test_padding_and_batch_change_nothing(family, histories):
    model = make_model(family).eval()
    items, lengths = histories
    whole = beam_search(model, trie_of(model), items, lengths, SearchOptions(num_beams=10), top_k=10)
    wide = torch.cat([items, items], dim=1)
    widened = beam_search(model, trie_of(model), wide, lengths, SearchOptions(num_beams=10), top_k=10)
    torch.testing.assert_close(widened.scores, whole.scores, atol=1e-5, rtol=0)
    for row, length in enumerate(lengths.tolist()):
        one = slice(row, row + 1)
        alone = beam_search(
            model, trie_of(model), items[one, : max(length, 1)], lengths[one], SearchOptions(num_beams=10), top_k=10
        )
        torch.testing.assert_close(alone.scores[0], whole.scores[row], atol=1e-5, rtol=0)


def test_saved_and_loaded_it_answers_the_same(family, histories, tmp_path):
    model = make_model(family).eval()
    model.save_pretrained(tmp_path)
    loaded = load_recommender(tmp_path)
    before, after = (
        sample_items(one, trie_of(one), *histories, SearchOptions(num_beams=5, mode="stochastic", seed=0))
        for one in (model, loaded)
    )
    assert torch.equal(before.items, after.items)
    assert torch.equal(before.log_probs, after.log_probs)


def test_every_parameter_learns(family, histories):
    model = make_model(family)
    model(histories[0], histories[1].clamp(min=1)).loss.backward()
    silent = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.abs().sum()]
    assert silent == []


def test_families_for_one_length_refuse_them(monkeypatch):
    monkeypatch.setattr(recommender_class("decoder"), "supports_variable_length", False)
    with pytest.raises(ConfigError, match="expected: ordered semantic IDs of one length"):
        make_model("decoder")
