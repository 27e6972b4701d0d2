"""RecGPT: what each code may see, by perturbation; slices, shared codebook and exact scores against formulas."""

import itertools

import numpy as np
import pytest
import torch

from genrec.config import RecommenderConfig
from genrec.decoding import SearchOptions, beam_search, score_catalogue, trie_of
from genrec.errors import ConfigError
from genrec.models import build_recommender
from genrec.models.families.recgpt import GridRows, item_mask
from genrec.tokenizers.index import ItemIndex
from genrec.tokenizers.parts.scalar import ScalarQuantizer

NUM_ITEMS, SIZES = 20, (6, 6, 6)


def make_index(codes=None) -> ItemIndex:
    if codes is None:
        flat = np.random.default_rng(3).choice(int(np.prod(SIZES)), NUM_ITEMS, replace=False)
        codes = np.stack(np.unravel_index(flat, SIZES), axis=1).astype(np.int32)
    return ItemIndex(codes, SIZES, [f"item-{item}" for item in range(len(codes))])


def make_features(rows: int = NUM_ITEMS, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, 10)).astype(np.float32)


def make_model(index=None, **settings):
    torch.manual_seed(0)
    config = RecommenderConfig(name="recgpt", **{"hidden_size": 16, "num_heads": 2, "num_layers": 2, **settings})
    return build_recommender(config, num_items=NUM_ITEMS, index=index or make_index(), features=make_features()).eval()


def states(model, items: torch.Tensor) -> torch.Tensor:
    """States of every code, ``[1 + T, L, D]``, the start first."""
    return model.read(items, torch.full((len(items),), items.shape[1]))[0].unflatten(-1, (3, -1))


def test_the_mask_is_bidirectional_inside_an_item_and_causal_between():
    """Allowed where the second is not later, or is in the same item: the formula of the paper, entry by entry."""
    mask = item_mask(12, 4, torch.device("cpu"))
    for p in range(12):
        for q in range(12):
            assert bool(mask[p, q]) == (q <= p or p // 4 == q // 4), (p, q)


@pytest.mark.parametrize("name", ["item_codes", "items.features"])
@torch.no_grad()
def test_a_code_or_slice_is_seen_by_its_item_and_all_later(name):
    """Change one code, or one number of one slice, of the item at place 2: nothing before moves, all else does."""
    items = torch.tensor([[4, 9, 1, 7, 3]])
    for column in range(3):
        model = make_model()
        before = states(model, items)
        table = model.get_buffer(name)
        # Slices are 4 wide: columns 0, 4 and 8 are in the three of them.
        table[1, column if name == "item_codes" else 4 * column] = 5 - table[1, column]
        moved = (states(model, items) != before).any(-1)
        assert not moved[:3].any()
        assert moved[3:].all()


@torch.no_grad()
def test_every_place_reads_its_own_slice():
    model = make_model()
    item = torch.tensor([3])
    before = model.items(item, model.item_codes)[0]
    for column, place in ((0, 0), (3, 0), (4, 1), (7, 1), (8, 2), (9, 2)):
        model.items.features[3, column] += 1
        moved = (model.items(item, model.item_codes)[0] != before).any(-1)
        assert moved.tolist() == [other == place for other in range(3)]
        model.items.features[3, column] -= 1
        before = model.items(item, model.item_codes)[0]


@torch.no_grad()
def test_the_input_is_the_sum_of_two_norms_and_a_place():
    model = make_model()
    found = model.items(torch.tensor([6]), model.item_codes)[0, 1]
    norm = torch.nn.functional.layer_norm
    code = norm(model.items.codes.weight[model.item_codes[6, 1]], (16,))
    piece = norm(model.items.projection(torch.from_numpy(make_features()[6, 4:8])), (16,))
    torch.testing.assert_close(found, code + piece + model.items.places.weight[1])


def test_places_share_one_codebook_and_no_weight_belongs_to_an_item():
    model = make_model()
    assert model.items.codes.weight.shape == (6, 16)
    assert model.head.weight.shape == (6, 16)
    larger = build_recommender(
        RecommenderConfig(name="recgpt", hidden_size=16, num_heads=2, num_layers=2),
        num_items=50,
        index=make_index(np.random.default_rng(1).integers(6, size=(50, 3)).astype(np.int32)),
        features=make_features(50),
    )
    shapes = [[tuple(value.shape) for value in one.parameters()] for one in (model, larger)]
    assert shapes[0] == shapes[1]


@torch.no_grad()
def test_beams_find_what_scoring_every_item_finds():
    """Two items share all codes: both are reached (the authors' code loses one), with one score."""
    codes = make_index().codes.copy()
    codes[11] = codes[2]
    model = make_model(make_index(codes))
    items, lengths = torch.tensor([[4, 9, 1], [7, 0, 0]]), torch.tensor([3, 1])
    logits = model.all_code_logits(model.encode(items, lengths))
    log_probs = [level.log_softmax(-1).numpy() for level in logits]
    expected = sum(log_probs[level][:, codes[:, level]] for level in range(3))
    exact = score_catalogue(model, items, lengths, top_k=NUM_ITEMS)
    beams = beam_search(model, trie_of(model), items, lengths, SearchOptions(num_beams=NUM_ITEMS), top_k=NUM_ITEMS)
    for found in (exact, beams):
        for user in range(2):
            assert sorted(found.items[user].tolist()) == list(range(NUM_ITEMS))
            np.testing.assert_allclose(found.scores[user], np.sort(expected[user])[::-1], atol=1e-5)
            np.testing.assert_allclose(found.scores[user], expected[user, found.items[user]], atol=1e-5)


@torch.no_grad()
def test_a_narrow_beam_never_leaves_the_catalogue():
    """One beam in a trie whose nodes have a single child: masked codes must not survive."""
    codes = np.stack([np.arange(20) % 6, np.arange(20) % 5, np.zeros(20, int)], axis=1).astype(np.int32)
    model = make_model(make_index(codes))
    found = beam_search(
        model, trie_of(model), torch.tensor([[1, 2]]), torch.tensor([2]), SearchOptions(num_beams=4), top_k=4
    )
    assert found.scores.isfinite().all()
    assert found.items.min() >= 0


@torch.no_grad()
def test_a_score_depends_neither_on_padding_nor_on_the_rest_of_the_batch():
    """The authors' code counts positions from the end of the padding in use, and from its beginning in training."""
    model = make_model()
    alone = model.all_code_logits(model.encode(torch.tensor([[4, 9]]), torch.tensor([2])))
    batch = model.encode(torch.tensor([[1, 2, 3, 5, 6], [4, 9, 8, 8, 8]]), torch.tensor([5, 2]))
    for one, other in zip(alone, model.all_code_logits(batch), strict=True):
        torch.testing.assert_close(one[0], other[1], atol=1e-5, rtol=0)


def test_missing_features_are_named():
    with pytest.raises(
        ConfigError, match=r"genrec embed --dataset DIR --out FOLDER\), or set recommender\.use_features=false"
    ):
        build_recommender(RecommenderConfig(name="recgpt"), num_items=NUM_ITEMS, index=make_index())


def test_without_features_it_reads_codes_alone():
    model = make_model(use_features=False)
    assert model.items.features is None
    assert not [name for name, _ in model.named_parameters() if "projection" in name or "slice_norm" in name]


def test_set_identifiers_are_refused():
    index = ItemIndex(make_index().codes, SIZES, [str(item) for item in range(NUM_ITEMS)], "set")
    with pytest.raises(ConfigError, match="expected: ordered semantic IDs of one length"):
        make_model(index)


def test_codes_of_a_grid_share_the_rows_of_their_numbers():
    """The order of the codes is that of the tokenizer; in a model without rows of their own neighbors are as near."""
    grid = (4, 3, 5)
    rows = GridRows(grid, 8)
    quantizer = ScalarQuantizer(grid)
    starts = torch.tensor([0, 4, 7])
    for places in itertools.product(*map(range, grid)):
        code = int((torch.tensor(places) * quantizer.basis).sum())
        torch.testing.assert_close(rows()[code], rows.rows.weight[starts + torch.tensor(places)].sum(0))


@torch.no_grad()
def test_a_grid_reaches_what_is_read_and_what_is_written():
    items, lengths = torch.tensor([[4, 9, 1]]), torch.tensor([3])
    model = make_model(grid=[3, 2])
    for rows in (model.items.numbers.rows, model.head_numbers.rows):
        before = model.all_code_logits(model.encode(items, lengths))
        rows.weight += torch.randn_like(rows.weight)
        after = model.all_code_logits(model.encode(items, lengths))
        assert all((left != right).any() for left, right in zip(before, after, strict=True))


def test_a_grid_of_other_codes_is_refused():
    with pytest.raises(ConfigError, match="a grid of 8 codes is not that of these semantic IDs"):
        make_model(grid=[4, 2])
