"""Specialization of experts: the measure by hand and by scikit-learn, and routers that are set to go by something."""

import copy
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score

from genrec.config import RecommenderConfig
from genrec.evaluation.experts import OTHERS, SHOWN_CATEGORIES, measure_experts, normalized_information
from genrec.models import build_recommender
from genrec.models.layers.moe import expert_layers
from genrec.tokenizers.index import ItemIndex

SHAPE = {"hidden_size": 16, "num_heads": 2, "num_layers": 1, "max_history": 20, "experts": 4, "experts_per_token": 1}


def test_the_measure_by_hand():
    """Joint shares 1/4, 1/4, 0, 1/2: H(expert) = ln 2, H(group) = 2 ln 2 - 3/4 ln 3, H(both) = 3/2 ln 2."""
    experts, groups = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    ln2, ln3 = math.log(2), math.log(3)
    group_entropy = 2 * ln2 - 0.75 * ln3
    expected = (ln2 + group_entropy - 1.5 * ln2) / group_entropy
    assert normalized_information(experts, groups) == pytest.approx(expected)
    assert normalized_information(groups, experts) == pytest.approx(expected)


def test_the_measure_at_its_ends_and_against_scikit_learn():
    rng = np.random.default_rng(0)
    group = rng.integers(0, 9, 500)
    assert normalized_information(group % 3, group) == pytest.approx(1.0)
    assert normalized_information(np.repeat([0, 1], 8), np.tile(np.arange(8), 2)) == pytest.approx(0.0, abs=1e-12)
    assert normalized_information(np.zeros(500, dtype=int), group) == 0.0
    mixed = np.where(rng.random(500) < 0.4, group % 4, rng.integers(0, 4, 500))
    expected = normalized_mutual_info_score(mixed, group, average_method="min")
    assert normalized_information(mixed, group) == pytest.approx(expected)


def point_the_router(model, rows: torch.Tensor, table: torch.nn.Embedding) -> None:
    """Positions come to the router as unit vectors that ``rows`` names; expert e waits for unit vector e."""
    with torch.no_grad():
        table.weight.copy_(torch.eye(16)[rows])
        model.start.copy_(torch.eye(16)[9])
        model.transformer.blocks[0].attention_out.weight.zero_()
        (layer,) = expert_layers(model.modules())
        layer.router.copy_(10 * torch.eye(16)[:4])


def test_a_router_that_goes_by_the_category_is_told_so(tiny_dataset):
    """Item i of the small world is of genre i // 10."""
    torch.manual_seed(0)
    model = build_recommender(RecommenderConfig(name="sasrec", **SHAPE), num_items=40)
    genres = torch.tensor([int(name[1:]) // 10 for name in tiny_dataset.item_ids])
    point_the_router(model, genres, model.items.ids)
    told = measure_experts(model, tiny_dataset)
    (layer,) = told["layers"]
    names = ["space adventure", "garden cooking", "river crime", "winter romance"]
    assert layer["category"]["nmi"] == pytest.approx(1.0)
    assert layer["category"]["nmi_by_chance"] < 0.3
    assert told["level"] is None
    assert layer["level"] is None
    for name, shares in zip(told["category"]["names"], layer["category"]["shares"], strict=True):
        assert shares == [float(expert == names.index(name)) for expert in range(4)]
    histories, _ = tiny_dataset.evaluation("validation")
    read = np.concatenate([histories[row][-20:] for row in range(len(histories))])
    assert told["positions"] == len(read)
    assert sum(told["category"]["positions"]) == len(read)
    # The start of every history goes to whom all others do not matter: it is in the load, not in the categories.
    counts = np.bincount(genres.numpy()[read], minlength=4)
    assert sum(abs(np.array(layer["load"]) * (len(read) + len(histories)) - counts)) == pytest.approx(len(histories))
    assert layer["max_load"] == pytest.approx(4 * max(layer["load"]))
    assert layer["idle"] == 0


def make_decoder(dataset, **settings):
    codes = np.stack([np.arange(40) // 10, np.arange(40) % 10, np.arange(40) % 3], axis=1).astype(np.int32)
    index = ItemIndex(codes, (4, 10, 3), list(dataset.item_ids))
    torch.manual_seed(0)
    return build_recommender(RecommenderConfig(name="decoder", **{**SHAPE, **settings}), num_items=40, index=index)


def test_a_router_that_goes_by_the_level_is_told_so(tiny_dataset):
    model = make_decoder(tiny_dataset)
    point_the_router(model, torch.tensor([0] * 4 + [1] * 10 + [2] * 3), model.codes.table)
    told = measure_experts(model, tiny_dataset)
    (layer,) = told["layers"]
    assert told["level"]["names"] == ["level 1", "level 2", "level 3"]
    assert layer["level"]["nmi"] == pytest.approx(1.0)
    assert layer["level"]["nmi_by_chance"] < 0.02
    assert np.array(layer["level"]["shares"]) == pytest.approx(np.eye(3, 4))
    assert layer["category"]["nmi"] == pytest.approx(0.0, abs=1e-9)


def test_an_undecided_router_has_the_entropy_of_chance_and_idle_experts_are_counted(tiny_dataset):
    model = make_decoder(tiny_dataset, experts_per_token=2)
    (layer,) = expert_layers(model.modules())
    torch.nn.init.zeros_(layer.router)
    training = model.train().training
    (told,) = measure_experts(model, tiny_dataset)["layers"]
    assert told["entropy"] == pytest.approx(math.log(4), rel=1e-5)
    assert sum(told["load"]) == pytest.approx(1.0)
    # Ties go to the same two experts everywhere.
    assert told["max_load"] == pytest.approx(2.0)
    assert told["idle"] == 2
    assert told["category"]["nmi"] == 0.0
    assert model.training is training


def test_many_categories_are_shown_as_the_largest_and_others(tiny_dataset):
    model, other = make_decoder(tiny_dataset), copy.copy(tiny_dataset)
    other.__dict__["items"] = tiny_dataset.items.with_columns(tiny_dataset.items["item_id"].alias("genres"))
    told = measure_experts(model, other)
    assert told["category"]["groups"] <= 40
    assert len(told["category"]["names"]) == SHOWN_CATEGORIES + 1
    assert told["category"]["names"][-1] == OTHERS
    counts = told["category"]["positions"]
    assert sum(counts) == told["positions"]
    assert counts[:-1] == sorted(counts[:-1], reverse=True)


def test_dense_models_have_nothing_to_tell(tiny_dataset):
    assert measure_experts(make_decoder(tiny_dataset, experts=0, experts_per_token=2), tiny_dataset) is None
