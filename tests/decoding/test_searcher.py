"""One object that asks any model in any mode and precision."""

import json
import warnings

import numpy as np
import pytest
import torch

from genrec.alignment.sampling import sample_batch
from genrec.config import DecodingConfig, RecommenderConfig, SearchOptions, parse_settings
from genrec.decoding import (
    DeviceTrie,
    Searcher,
    beam_search,
    exhaustive_search,
    recommend,
    trie_of,
    use_index,
    walk_trie,
)
from genrec.decoding import exhaustive as exhaustive_module
from genrec.decoding.searcher import enough_beams, in_precision
from genrec.decoding.selection import beams_per_row
from genrec.errors import ArtifactError, ConfigError
from genrec.models import build_recommender
from genrec.tokenizers import index as index_module
from genrec.tokenizers.index import ItemIndex

NUM_ITEMS, SIZES = 60, (6, 6, 4)
SMALL = {"hidden_size": 16, "num_heads": 2, "num_layers": 1, "max_history": 5}
EXTRA = {"seq2seq": {"head_size": 8, "feed_forward_size": 32}}
WRITERS = ["decoder", "depth", "seq2seq"]


def make_index(crowded: bool = False) -> ItemIndex:
    rng = np.random.default_rng(0)
    flat = rng.choice(int(np.prod(SIZES)), NUM_ITEMS, replace=False)
    codes = np.stack(np.unravel_index(flat, SIZES), axis=1).astype(np.int32)
    names = [f"i{i}" for i in range(NUM_ITEMS)]
    if not crowded:
        return ItemIndex(codes, SIZES, names)
    codes[:20] = codes[20:40]
    return ItemIndex(codes, SIZES, names, priority=np.repeat([1, 0, 0], 20).astype(np.int32))


def make_model(family: str = "decoder", index: ItemIndex | None = None):
    features = np.random.default_rng(1).standard_normal((NUM_ITEMS, 4)).astype(np.float32)
    torch.manual_seed(0)
    config = RecommenderConfig(name=family, **SMALL, **EXTRA.get(family, {}))
    model = build_recommender(config, num_items=NUM_ITEMS, index=index or make_index(), features=features)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 if family == "seq2seq" else 3)
    return model.eval()


def histories(rows: int = 12):
    generator = torch.Generator().manual_seed(0)
    items = torch.randint(NUM_ITEMS, (rows, 5), generator=generator)
    return items, torch.randint(0, 6, (rows,), generator=generator)


@pytest.mark.parametrize("family", WRITERS)
def test_exhaustive_mode_is_a_search_with_as_many_beams_as_items(family, monkeypatch):
    model, (items, lengths) = make_model(family), histories()
    exclude = torch.arange(12).unsqueeze(1)
    wide = DecodingConfig(num_beams=NUM_ITEMS, top_k=20)
    expected = Searcher(model, wide).search(items, lengths, 20, exclude)
    monkeypatch.setattr(exhaustive_module, "WALK_ENTRIES", 5 * NUM_ITEMS)
    monkeypatch.setattr(exhaustive_module, "CHUNK_ENTRIES", 200)
    exact = Searcher(model, DecodingConfig(mode="exhaustive")).search(items, lengths, 20, exclude)
    assert torch.equal(exact.items, expected.items)
    torch.testing.assert_close(exact.scores, expected.scores, atol=1e-5, rtol=0)


def test_exhaustive_mode_weighs_items_and_lengths_as_beams_do():
    model, (items, lengths) = make_model(), histories()

    def weigh(context, found):
        return -(found % 7).float()

    model.item_log_probabilities = weigh
    settings = {"item_weight": 0.5, "length_penalty": 1.0, "top_k": 15}
    beams = recommend(model, items, lengths, decoding=DecodingConfig(num_beams=NUM_ITEMS, **settings))
    exact = recommend(model, items, lengths, decoding=DecodingConfig(mode="exhaustive", **settings))
    torch.testing.assert_close(exact.scores, beams.scores, atol=1e-5, rtol=0)
    leaves = walk_trie(model, trie_of(model), items, lengths) / 3
    scores = torch.zeros(12, NUM_ITEMS).index_copy(1, trie_of(model).leaf_items.long(), leaves)
    scores = scores - 0.5 * (torch.arange(NUM_ITEMS) % 7)
    torch.testing.assert_close(exact.scores, scores.topk(15).values, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["stochastic", "nucleus"])
@pytest.mark.parametrize("family", WRITERS)
def test_drawn_lists_are_legal_and_repeat_with_their_seed(family, mode):
    model, (items, lengths) = make_model(family), histories()
    decoding = DecodingConfig(mode=mode, num_beams=30, seed=3)
    exclude = torch.arange(12).unsqueeze(1)
    found = Searcher(model, decoding).search(items, lengths, 6, exclude)
    again = Searcher(model, decoding).search(items, lengths, 6, exclude)
    other = Searcher(model, decoding.model_copy(update={"seed": 4})).search(items, lengths, 6, exclude)
    assert torch.equal(found.items, again.items)
    assert not torch.equal(found.items, other.items)
    assert not (found.items == exclude).any()
    if mode == "stochastic":
        assert (found.items >= 0).all()
    seeded = Searcher(model, decoding).search(items, lengths, 6, exclude, seeds=torch.arange(12) + 100)
    assert not torch.equal(found.items, seeded.items)


def test_groups_have_beams_enough_for_full_lists():
    decoding = DecodingConfig(num_beams=50, beam_groups=5, diversity_penalty=1.0)
    assert beams_per_row(enough_beams(decoding, 10)) == 10
    assert enough_beams(decoding, 20).num_beams == 100
    assert enough_beams(DecodingConfig(num_beams=50), 80).num_beams == 80
    model, (items, lengths) = make_model(), histories()
    found = Searcher(model, decoding).search(items, lengths, 20)
    assert (found.items >= 0).all()
    assert (found.items.sort(dim=1).values.diff(dim=1) > 0).all()


@pytest.mark.parametrize("family", [*WRITERS, "sasrec"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_keeps_float32_scores_near_those_of_float32(family, precision):
    model, (items, lengths) = make_model(family), histories()
    exact = Searcher(model, DecodingConfig(num_beams=NUM_ITEMS)).search(items, lengths, 10)
    searcher = Searcher(model, DecodingConfig(num_beams=NUM_ITEMS, precision=precision))
    found = searcher.search(items, lengths, 10)
    assert searcher.model.dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert model.dtype == torch.float32
    assert found.scores.dtype == torch.float32
    torch.testing.assert_close(found.scores, exact.scores, atol=0.2, rtol=0.05)
    assert (found.items >= 0).all()
    overlap = (found.items.unsqueeze(2) == exact.items.unsqueeze(1)).any(2).float().mean()
    assert overlap > 0.8


def test_a_copy_in_lower_precision_is_made_once_and_again_after_an_update():
    model = make_model()
    twin = in_precision(model, "bf16")
    assert in_precision(model, "bf16") is twin
    assert in_precision(model, "fp32") is model
    assert in_precision(twin, "bf16") is twin
    with torch.no_grad():
        next(model.parameters()).add_(1)
    assert in_precision(model, "bf16") is not twin
    torch.testing.assert_close(
        next(in_precision(model, "bf16").parameters()).float(), next(model.parameters()), rtol=0.01, atol=0.01
    )


def test_a_saved_trie_is_used_as_it_is_and_keeps_the_order_of_shared_leaves(tmp_path, monkeypatch):
    index = make_index(crowded=True)
    index.save(tmp_path)
    model = make_model(index=index)
    monkeypatch.delattr(index_module, "build_trie")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        use_index(model, ItemIndex.load(tmp_path))
    trie = trie_of(model)
    assert not trie.trie.leaf_items.flags.owndata
    items, lengths = histories()
    found = Searcher(model, DecodingConfig(num_beams=NUM_ITEMS)).search(items, lengths, NUM_ITEMS)
    for row in found.items.tolist():
        places = {item: place for place, item in enumerate(row)}
        assert all(places[item] > places[item + 20] for item in range(20))


def test_the_trie_of_another_index_is_refused():
    model = make_model()
    with pytest.raises(
        ArtifactError, match=r"the trie does not match the model\n  expected: the item index \w{16}\.\.\."
    ):
        use_index(model, make_index(crowded=True))


def test_identifiers_outside_the_vocabulary_are_refused():
    other = ItemIndex(make_index().codes, (7, 6, 4), make_index().item_ids)
    searcher = Searcher(make_model(), DecodingConfig())
    searcher.trie = DeviceTrie(other.trie)
    with pytest.raises(ArtifactError, match="the model writes 6 codes at level 0, the trie has 7"):
        searcher.search(*histories(), 5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beam_groups": 3, "num_beams": 10}, "beam_groups 3 must divide num_beams 10"),
        ({"diversity_penalty": 0.5}, "diversity_penalty needs beam_groups of at least 2"),
        ({"mode": "nucleus", "beam_groups": 2}, "beam_groups are for mode: beam, not nucleus"),
        ({"mode": "stochastic", "item_weight": 0.5}, "length_penalty and item_weight rank what beams found"),
        ({"mode": "nucleus", "length_penalty": 1.0}, "length_penalty and item_weight rank what beams found"),
        ({"mode": "exhaustve"}, "'beam', 'stochastic', 'nucleus', 'exhaustive', 'items' or 'session'"),
        ({"precision": "fp8"}, "'fp32', 'bf16' or 'fp16'"),
        ({"top_p": 0.0}, "greater than 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        parse_settings(DecodingConfig, settings, where="decoding")


def test_settings_survive_a_model_folder():
    decoding = DecodingConfig(mode="nucleus", top_p=0.5, precision="bf16", seed=9)
    again = parse_settings(DecodingConfig, json.loads(json.dumps(decoding.model_dump(mode="json"))), where="x")
    assert again == decoding


def test_search_functions_take_the_section_of_a_recipe():
    """``decoding`` of a recipe is a ``SearchOptions``: the same list as by options of the same values."""
    model, (items, lengths) = make_model(), (torch.tensor([[3, 5], [8, 0]]), torch.tensor([2, 1]))
    trie, section = trie_of(model), DecodingConfig(num_beams=7, temperature=0.7, length_penalty=1.0, top_k=3)
    options = SearchOptions(num_beams=7, temperature=0.7, length_penalty=1.0)
    for search in (beam_search, exhaustive_search):
        by_section = search(model, trie, items, lengths, section, top_k=5)
        by_options = search(model, trie, items, lengths, options, top_k=5)
        assert torch.equal(by_section.items, by_options.items)
        assert torch.equal(by_section.scores, by_options.scores)
    assert not set(SearchOptions.__annotations__) & set(DecodingConfig.__annotations__)


def test_sampling_for_alignment_takes_seeds_of_32_bits():
    model, (items, lengths) = make_model(), (torch.arange(12).view(4, 3), torch.full((4,), 3))
    draws = [
        sample_batch(model, items, lengths, 6, decoding=DecodingConfig(), seed=seed)
        for seed in (4_000_000_000, 4_000_000_000, 4_000_000_001)
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
