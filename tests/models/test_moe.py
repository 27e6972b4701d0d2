"""Sparse experts against a loop written by hand, closed forms, and the dense layer that they came from."""

import copy
import math

import pytest
import torch
from torch.nn.functional import silu

from genrec.config import RecommenderConfig
from genrec.errors import ConfigError
from genrec.models import parse_recommender
from genrec.models.layers.moe import (
    ExpertSettings,
    MixtureOfExperts,
    balance_loss,
    grouped_linear,
    routing_metrics,
)


def layer(seed: int = 0, **settings) -> MixtureOfExperts:
    torch.manual_seed(seed)
    module = MixtureOfExperts(16, 24, ExpertSettings(**{"experts": 5, **settings}))
    module.reset(0.3, 0.3)
    torch.nn.init.normal_(module.router)
    return module


def naive(module: MixtureOfExperts, x: torch.Tensor) -> torch.Tensor:
    """Every position for itself, expert by expert."""
    rows = []
    for row in x:
        scores = (module.router @ row).softmax(-1)
        best = scores.topk(module.settings.experts_per_token)
        total = torch.zeros_like(row)
        for weight, expert in zip(best.values / best.values.sum(), best.indices, strict=True):
            gate, up = (module.first[expert] @ row).chunk(2)
            total = total + weight * (module.second[expert] @ (silu(gate) * up))
        if module.shared_first is not None:
            gate, up = (module.shared_first @ row).chunk(2)
            total = total + module.shared_second @ (silu(gate) * up)
        rows.append(total)
    return torch.stack(rows)


@pytest.mark.parametrize("settings", [{}, {"shared_experts": 2}, {"experts_per_token": 3, "capacity_factor": 9.0}])
def test_outputs_and_gradients_equal_a_naive_loop(settings):
    module, x = layer(**settings), torch.randn(23, 16)
    pull, results = torch.randn(23, 16), []
    for function in (module, lambda rows: naive(module, rows)):
        module.zero_grad()
        given = x.clone().requires_grad_()
        output = function(given)
        (output * pull).sum().backward()
        results.append([output.detach(), given.grad, *(value.grad.clone() for value in module.parameters())])
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_the_grouped_product_of_torch_equals_the_segments():
    if not hasattr(torch.nn.functional, "grouped_mm"):
        assert torch.__version__ < "2.10"
        return
    x, weights, counts = torch.randn(9, 16), torch.randn(4, 8, 16), torch.tensor([3, 0, 5, 1])
    ends = counts.cumsum(0).to(torch.int32)
    expected = torch.nn.functional.grouped_mm(x, weights.transpose(-1, -2), offs=ends)
    assert torch.allclose(grouped_linear(x, weights, counts), expected, atol=1e-5)


def test_the_router_stays_in_float32_under_bf16():
    module, x = layer(shared_experts=1).eval(), torch.randn(40, 16)
    expected = module(x)
    counts = module.routing.counts
    with torch.autocast("cpu", torch.bfloat16):
        output = module(x)
    assert torch.equal(module.routing.counts, counts)
    assert torch.allclose(output.float(), expected, rtol=0.1, atol=0.1)
    assert not torch.equal(output.float(), expected)


def test_expert_dropout_acts_in_training_only():
    plain, module, x = layer(), layer(expert_dropout=0.5), torch.randn(8, 16)
    assert not torch.allclose(module(x), plain(x), atol=1e-3)
    assert torch.equal(module.eval()(x), plain.eval()(x))


def test_padding_is_neither_routed_nor_counted():
    module, x = layer().eval(), torch.randn(3, 4, 16)
    real = torch.tensor([[True] * 4, [True, False, False, False], [False] * 4])
    output = module(x, real)
    assert torch.allclose(output[real], module(x[real]), atol=1e-6)
    assert (output[~real] == 0).all()
    assert int(module.routing.counts.sum()) == 5 * 2


def test_one_expert_per_position_still_teaches_the_router():
    module = layer(experts_per_token=1, balance="none")
    (module(torch.randn(8, 16)) * torch.randn(8, 16)).sum().backward()
    assert module.router.grad.abs().sum() > 0


def test_capacity_keeps_the_largest_weights():
    """Four positions, two experts, one choice each: capacity ceil(1.0 * 4 / 2) = 2, three want the first expert."""
    module = layer(experts=2, experts_per_token=1, capacity_factor=1.0, balance="none").train()
    scores = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.3, 0.7]])
    chosen, _ = module._choose(scores)
    order, counts = module._sort(chosen, scores.gather(1, chosen))
    assert order.tolist() == [0, 2, 3]
    assert counts.tolist() == [2, 1]
    with torch.no_grad():
        module.router.zero_()
        module.router[0, 0] = 1
    x = torch.zeros(4, 16)
    x[:, 0] = torch.tensor([3.0, 1.0, 2.0, -1.0])
    # Equal weights of 1: the earlier position wins.
    output = module(x)
    assert (output[2] == 0).all()
    assert (output[[0, 1, 3]] != 0).any(-1).all()
    assert int(module.routing.dropped) == 1
    assert (module.eval()(x) != 0).any(-1).all()


def test_balance_losses_are_those_of_the_papers():
    equal, all_for_one = torch.full((4,), 0.25), torch.tensor([1.0, 0.0, 0.0, 0.0])
    assert balance_loss(equal, torch.tensor([4.0, 4.0, 4.0, 4.0])) == pytest.approx(1.0)
    assert balance_loss(all_for_one, torch.tensor([8.0, 0.0, 0.0, 0.0])) == pytest.approx(4.0)
    mixed = torch.tensor([0.55, 0.45])
    assert balance_loss(mixed, torch.tensor([3.0, 1.0])) == pytest.approx(2 * (0.75 * 0.55 + 0.25 * 0.45))
    module = layer(balance="none", z_loss_weight=0.5)
    torch.nn.init.zeros_(module.router)
    module(torch.randn(7, 16))
    assert float(module.auxiliary.detach()) == pytest.approx(0.5 * math.log(5) ** 2)


def test_what_only_stands_in_is_not_counted():
    module = layer(balance_weight=1.0)
    module.counted = False
    module(torch.randn(7, 16))
    assert float(module.auxiliary.detach()) == 0
    assert module.routing.counts.tolist() == [0] * 5


def test_router_losses_are_there_in_training_only():
    x = torch.randn(12, 16)
    module = layer(balance_weight=0.5, z_loss_weight=0.25)
    module(x)
    logits = x @ module.router.T
    share = torch.bincount(logits.topk(2).indices.flatten(), minlength=5) / 24
    expected = 0.5 * 5 * (share * logits.softmax(-1).mean(0)).sum() + 0.25 * logits.logsumexp(-1).square().mean()
    assert torch.allclose(module.auxiliary, expected, atol=1e-6)
    assert copy.deepcopy(module).auxiliary is None
    module.eval()(x)
    assert module.auxiliary is None


def test_the_bias_moves_loads_without_a_loss():
    """A router that loves one expert; its bias sinks until the others get their share."""
    module, x = layer(experts=4, experts_per_token=1, balance="bias", bias_step=0.02).train(), torch.randn(400, 16)
    x[:, 0] = 2.0
    with torch.no_grad():
        module.router.mul_(0.2)
        module.router[0, 0] = 1.0
    module(x)
    before = routing_metrics([module.routing])["expert_max_load"]
    for _ in range(100):
        module(x)
    after = routing_metrics([module.routing])["expert_max_load"]
    assert before > 3
    assert after < 1.3
    assert float(module.auxiliary.detach()) == 0
    kept = module.selection_bias.clone()
    module.eval()(x)
    assert torch.equal(module.selection_bias, kept)


def test_metrics_tell_loads_and_drops():
    module = layer(experts=4, experts_per_token=1, capacity_factor=1.0)
    assert routing_metrics([module.routing]) == {}
    with torch.no_grad():
        module.router.zero_()
        module.router[2] = 1.0
    module(torch.ones(8, 16))
    told = routing_metrics([module.routing, module.routing])
    assert told["expert_load"] == [[0.0, 0.0, 1.0, 0.0]] * 2
    assert told["expert_max_load"] == 4.0
    assert told["expert_dropped"] == 0.75
    assert 0 <= told["expert_entropy"] < 0.01


def test_more_experts_per_token_than_experts_are_refused():
    with pytest.raises(ConfigError, match="experts_per_token 5 is more than the 4 experts"):
        parse_recommender(RecommenderConfig(name="depth", experts=4, experts_per_token=5))


def test_a_stack_without_any_sparse_layer_is_refused():
    with pytest.raises(ConfigError, match="expert_every 3 leaves none of the 2 layers"):
        parse_recommender(RecommenderConfig(name="depth", experts=4, num_layers=2, expert_every=3))


def test_experts_where_a_family_has_none_are_refused(monkeypatch):
    from genrec.models.families.sasrec import SASRec

    monkeypatch.setattr(SASRec, "supports_experts", False)
    with pytest.raises(ConfigError, match="'sasrec' has no experts"):
        parse_recommender(RecommenderConfig(name="sasrec", experts=4))
