"""Neighborhoods of items read: the mixture against loops, whitening against its definition, and catalogues unseen."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from genrec.config import DecodingConfig, RecommenderConfig
from genrec.decoding import SearchOptions, recommend, score_catalogue
from genrec.models import build_recommender
from genrec.models.families.recgpt import RecGPTSettings
from genrec.models.layers import neighborhoods
from genrec.models.layers.negatives import Candidates
from genrec.models.layers.neighborhoods import Neighborhoods
from genrec.models.resize_catalogue import replace_catalogue
from genrec.tokenizers.index import ItemIndex

NUM_ITEMS, SIZES, WIDTH = 20, (6, 6, 6), 8


def make_index(seed: int = 3) -> ItemIndex:
    flat = np.random.default_rng(seed).choice(int(np.prod(SIZES)), NUM_ITEMS, replace=False)
    codes = np.stack(np.unravel_index(flat, SIZES), axis=1).astype(np.int32)
    return ItemIndex(codes, SIZES, [f"item-{item}" for item in range(NUM_ITEMS)])


def make_features(seed: int = 5, rows: int = NUM_ITEMS) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (generator.standard_normal((rows, WIDTH)) * np.arange(1, WIDTH + 1) + 2).astype(np.float32)


def make_model(**settings):
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_heads": 2, "num_layers": 1, "max_history": 6, "item_loss": 1.0}
    config = RecommenderConfig(name="recgpt", **{**small, **settings})
    model = build_recommender(config, num_items=NUM_ITEMS, index=make_index(), features=make_features()).eval()
    # Gates that depend on the state, so that no two positions weigh alike.
    torch.nn.init.normal_(model.neighborhoods.gate.weight, std=3.0)
    return model


def by_loops(model, history: list[int]) -> list[float]:
    """The formula of the class, number by number."""
    layer = model.neighborhoods
    state = model.item_state(model.read(torch.tensor([history]), torch.tensor([len(history)]))[0, len(history)])
    gates = layer.gate(state).tolist()
    weights = {(None, None): math.exp(gates[-1])}
    for place in range(len(history)):
        for kernel in range(len(gates) - 1):
            age = len(history) - 1 - place
            weights[place, kernel] = math.exp(gates[kernel] + float(layer.recency[kernel, age]))
    whitened = (model.items.features - layer.mean) @ layer.whitening
    unit = (whitened / whitened.norm(dim=1, keepdim=True)).double().numpy()
    total = np.full(NUM_ITEMS, weights.pop((None, None)) / NUM_ITEMS)
    for (place, kernel), weight in weights.items():
        kernels = np.exp(math.exp(float(layer.log_sharpness[kernel])) * (unit @ unit[history[place]]))
        total += weight * kernels / kernels.sum()
    return list(np.log(total / total.sum()))


@torch.no_grad()
def test_probabilities_are_those_of_the_formula(monkeypatch):
    model = make_model()
    items, lengths = torch.tensor([[4, 9, 1, 9], [7, 0, 0, 0], [3, 3, 2, 0]]), torch.tensor([4, 1, 3])
    everything = torch.arange(NUM_ITEMS).expand(3, -1)
    found = model.item_log_probabilities(model.encode(items, lengths), everything)
    for row, length in enumerate(lengths.tolist()):
        assert found[row].tolist() == pytest.approx(by_loops(model, items[row, :length].tolist()), abs=1e-5)
    monkeypatch.setattr(neighborhoods, "ENTRIES", NUM_ITEMS * 4)
    assert torch.allclose(model.item_log_probabilities(model.encode(items, lengths), everything), found, atol=1e-6)


@torch.no_grad()
def test_whitened_vectors_have_unit_covariance():
    features = torch.tensor(make_features(rows=40_000))
    features[7] = 0  # nothing known
    layer = Neighborhoods(WIDTH, 4, 5, 2)
    layer.fit(features)
    known = torch.cat([features[:7], features[8:]])
    whitened = (known - layer.mean) @ layer.whitening
    # Variances of 1 to 64 with a mean of 25.5, raised by 25.5 x 8 / 39,999.
    assert torch.allclose(whitened.T @ whitened / 39_999, torch.eye(WIDTH), atol=0.01)
    assert torch.allclose(whitened.mean(0), torch.zeros(WIDTH), atol=1e-3)


@torch.no_grad()
def test_a_small_catalogue_is_whitened_less():
    """By hand: two items on the first axis, 2 apart, have the variances 1 and 0; each is raised by .5 x 2 / 2."""
    layer = Neighborhoods(2, 4, 5, 2)
    layer.fit(torch.tensor([[1.0, 1.0], [3.0, 1.0]]))
    scales = (layer.whitening @ layer.whitening.T).diagonal()
    assert scales.tolist() == pytest.approx([1 / 1.5, 1 / 0.5])
    before = layer.whitening.clone()
    layer.fit(torch.zeros(3, 2))
    assert torch.equal(layer.whitening, before)


@torch.no_grad()
def test_an_item_of_which_nothing_is_known_is_nobodys_neighbor():
    model = make_model()
    model.items.features[5] = 0
    after = model.item_log_probabilities(
        model.encode(torch.tensor([[5]]), torch.tensor([1])), torch.arange(NUM_ITEMS)[None]
    )
    assert torch.allclose(after, torch.full_like(after, -math.log(NUM_ITEMS)), atol=1e-6)


def test_without_a_history_all_items_are_equally_likely():
    """Also in a batch of nothing but first items, where there is no one to be near to."""
    model = make_model()
    even = math.log(NUM_ITEMS)
    context = model.encode(torch.empty(2, 0, dtype=torch.long), torch.zeros(2, dtype=torch.long))
    found = model.item_log_probabilities(context, torch.arange(NUM_ITEMS).expand(2, -1))
    assert torch.allclose(found, torch.full((2, NUM_ITEMS), -even), atol=1e-6)
    items, lengths = torch.tensor([[4], [9]]), torch.tensor([1, 1])
    loss = model(items, lengths).loss
    loss.backward()
    model.settings = model.settings.model_copy(update={"item_loss": 0.0})
    assert float(loss.detach() - model(items, lengths).loss.detach()) == pytest.approx(even, abs=1e-5)
    assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)


def test_shared_candidates_stand_for_the_catalogue(monkeypatch):
    """With every item once among them and nothing to correct, the loss is that of the whole catalogue."""
    items, lengths = torch.tensor([[4, 9, 1, 7], [2, 5, 0, 0]]), torch.tensor([4, 2])
    model = make_model()
    exact = model(items, lengths).loss
    seen = []

    def all_of_them(targets, size, negatives):
        seen.append((size, negatives))
        order = torch.arange(size).flip(0)
        return Candidates(order, size - 1 - targets, torch.zeros(size))

    monkeypatch.setattr(neighborhoods, "shared_candidates", all_of_them)
    model.settings = model.settings.model_copy(update={"item_negatives": 50})
    assert float(model(items, lengths).loss.detach()) == pytest.approx(float(exact.detach()), abs=1e-5)
    assert seen == [(NUM_ITEMS, 50)]


def test_expected_normalizer_of_shared_candidates_is_that_of_the_catalogue():
    """Over many draws the corrected sum of exponentials has the mean of the full one: what logQ is for."""
    torch.manual_seed(0)
    values, targets = torch.randn(NUM_ITEMS), torch.tensor([3, 3, 8])
    sums = []
    for _ in range(4000):
        drawn = neighborhoods.shared_candidates(targets, NUM_ITEMS, 40)
        sums.append((values[drawn.items] - drawn.correction).exp().sum())
    others = [item for item in range(NUM_ITEMS) if item not in (3, 8)]
    found = 1 - (1 - 1 / NUM_ITEMS) ** 40
    expected = sum(values[item].exp() * found / (40 / NUM_ITEMS) for item in others)
    expected += values[3].exp() / (2 + 40 / NUM_ITEMS) + values[8].exp() / (1 + 40 / NUM_ITEMS)
    assert float(torch.stack(sums).mean()) == pytest.approx(float(expected), rel=0.01)


@torch.no_grad()
def test_lists_by_neighbors_alone_and_beside_codes():
    model = make_model()
    items, lengths = torch.tensor([[4, 9, 1], [7, 2, 0]]), torch.tensor([3, 2])
    context, everything = model.encode(items, lengths), torch.arange(NUM_ITEMS).expand(2, -1)
    near = model.item_log_probabilities(context, everything)
    alone = DecodingConfig(mode="items", exclude_seen=False)
    found = recommend(model, items, lengths, decoding=alone, top_k=5)
    assert torch.allclose(found.scores, near.topk(5).values, atol=1e-6)
    by_codes = score_catalogue(model, items, lengths, top_k=NUM_ITEMS)
    codes = torch.empty(2, NUM_ITEMS).scatter(1, by_codes.items, by_codes.scores)
    both = score_catalogue(model, items, lengths, SearchOptions(item_weight=2.0), top_k=NUM_ITEMS)
    assert torch.allclose(both.scores, (codes + 2 * near).sort(descending=True).values, atol=1e-5)


@torch.no_grad()
def test_another_catalogue_is_measured_as_that_of_training_was():
    model = make_model()
    features = make_features(seed=9)
    other = replace_catalogue(model, make_index(4), features)
    assert torch.equal(other.neighborhoods.whitening, model.neighborhoods.whitening)
    history, everything = [4, 9], torch.arange(NUM_ITEMS)[None]
    found = other.item_log_probabilities(other.encode(torch.tensor([history]), torch.tensor([2])), everything)
    assert found[0].tolist() == pytest.approx(by_loops(other, history), abs=1e-5)


def test_neighborhoods_without_vectors_are_refused():
    with pytest.raises(ValidationError, match="needs use_features"):
        RecGPTSettings(item_loss=1.0, use_features=False)
