"""The rule for operations against torch's own counter, which watches every product that is really computed."""

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from genrec.config import RecommenderConfig
from genrec.errors import ConfigError
from genrec.models import build_recommender
from genrec.models.flops import active_parameters, training_flops
from genrec.models.layers.moe import expert_layers
from genrec.tokenizers.index import ItemIndex

SIZES, ITEMS, FEATURES = (8, 4, 3), 40, 12
EXPERTS = {"experts": 6, "experts_per_token": 2, "shared_experts": 1, "expert_every": 2, "balance": "none"}


def make_model(family: str = "decoder", **settings):
    flat = np.random.default_rng(0).permutation(np.prod(SIZES))[:ITEMS]
    codes = np.stack(np.unravel_index(flat, SIZES), axis=1).astype(np.int32)
    index = ItemIndex(codes, SIZES, [str(item) for item in range(ITEMS)])
    shape = {"hidden_size": 16, "num_heads": 2, "num_layers": 2, "max_history": 10, "dropout": 0.0}
    features = np.random.default_rng(1).standard_normal((ITEMS, FEATURES)).astype(np.float32)
    config = RecommenderConfig(name=family, **{**shape, **settings})
    return build_recommender(config, num_items=ITEMS, index=index, features=features)


def watched(model, length: int) -> int:
    """Operations of one forward and backward pass; attention by plain products, which the counter knows on a CPU."""
    items = torch.arange(length).unsqueeze(0)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.train()(items, torch.tensor([length])).loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("experts", [{}, EXPERTS])
@pytest.mark.parametrize("family", ["decoder", "depth", "parallel"])
def test_the_rule_counts_what_torch_counts(family, experts):
    plain = {} if family == "decoder" else {"use_features": False}
    model = make_model(family, **plain, **experts)
    for length in (1, 4, 7):
        assert training_flops(model, np.array([length])) == watched(model, length)
    assert len(expert_layers(model.modules())) == (1 if experts else 0)


def test_of_features_the_rule_counts_a_gradient_that_nobody_needs():
    model, length = make_model("depth"), 5
    projected = 2 * (length - 1) * FEATURES * 16
    assert training_flops(model, np.array([length])) == watched(model, length) + projected


def test_windows_add_up_and_padding_costs_nothing():
    model = make_model(**EXPERTS)
    two, five = (training_flops(model, np.array([length])) for length in (2, 5))
    assert training_flops(model, np.array([2, 5, 2])) == 2 * two + five
    model.train()
    training_flops(model, np.array([3]))
    assert model.training


def test_active_parameters_are_those_of_a_model_without_the_idle_experts():
    sparse, small = make_model(**EXPERTS), make_model(**{**EXPERTS, "experts": 2})
    rows_of_the_router = (6 - 2) * 16
    assert active_parameters(sparse) == active_parameters(small) + rows_of_the_router
    assert active_parameters(small) == sum(parameter.numel() for parameter in small.parameters())


@pytest.mark.parametrize(("family", "settings"), [("sasrec", {}), ("depth", {"item_loss": 1.0})])
def test_what_is_not_counted_is_refused(family, settings):
    with pytest.raises(ConfigError, match="operations of this") as caught:
        training_flops(make_model(family, **settings), np.array([3]))
    assert "decoder, depth, parallel, without item_loss" in str(caught.value)
