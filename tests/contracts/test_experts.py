"""Families with sparse experts keep the contract: what experts do depends on no padding and on no other user."""

import pytest
import torch
from test_recommenders import (
    DRAWING,
    FAMILIES,
    histories,
    log_probability,
    make_model,
    recommender_class,
)

from genrec.models import ItemScorer, load_recommender
from genrec.models.layers.moe import expert_layers

FIT = [name for name in sorted(FAMILIES) if recommender_class(name).supports_experts]
SETTINGS = {
    "loss": {"experts": 4, "shared_experts": 1, "z_loss_weight": 0.01},
    "bias": {"experts": 4, "balance": "bias", "capacity_factor": 1.0, "expert_every": 2, "num_layers": 2},
}

__all__ = ["histories"]


@pytest.fixture(params=FIT)
def family(request) -> str:
    return request.param


@pytest.fixture(params=sorted(SETTINGS))
def model(request, family):
    last = {"targets": "last"} if family in DRAWING else {}
    return make_model(family, **SETTINGS[request.param], **last)


def test_answers_depend_on_no_padding_and_no_other_user(model, histories):
    items, lengths = histories
    model.eval()
    targets, noisy = items[:, 0], items.clone()
    for row, length in enumerate(lengths):
        noisy[row, length:] = (noisy[row, length:] + 7) % 40
    with torch.no_grad():
        batched = log_probability(model, items, lengths, targets)
        assert torch.allclose(log_probability(model, noisy, lengths, targets), batched, atol=1e-5)
        for row, length in enumerate(lengths):
            one = slice(row, row + 1)
            alone = log_probability(model, items[one, :length], lengths[one], targets[one])
            assert torch.allclose(alone[0], batched[row], atol=1e-5)


def test_padding_does_not_touch_the_training_loss(family, histories):
    items, lengths = histories
    noisy = items.clone()
    for row, length in enumerate(lengths):
        noisy[row, length:] = (noisy[row, length:] + 7) % 40
    wider = torch.nn.functional.pad(items, (0, 3))
    model = make_quiet(family, experts=4, capacity_factor=1.0, z_loss_weight=0.1)
    for padded in (noisy, wider):
        assert torch.allclose(model(padded, lengths).loss, model(items, lengths).loss, atol=1e-5)


def test_the_loss_of_training_adds_what_routers_ask(family, histories):
    model = make_quiet(family, experts=4, balance_weight=1.0)
    told = model(*histories).loss
    asked = [layer.auxiliary for layer in expert_layers(model.modules())]
    plain = model.eval()(*histories).loss
    assert all(0.9 < float(part.detach()) < 2 for part in asked)
    assert torch.allclose(told, plain + sum(asked), atol=1e-5)


def make_quiet(family, **settings):
    """In training mode, but nothing is drawn."""
    settings |= {"targets": "last"} if family in DRAWING else {}
    settings |= {"depth_dropout": 0.0} if family == "depth" else {}
    return make_model(family, dropout=0.0, **settings).train()


def test_every_parameter_learns_and_loads_are_told(model, histories):
    model(*histories).loss.backward()
    known = {name: value.grad for name, value in model.named_parameters()}
    assert [name for name, grad in known.items() if grad is None or not grad.abs().sum()] == []
    told = model.training_metrics()
    assert all(abs(sum(layer) - 1) < 1e-3 for layer in told["expert_load"])
    assert told["expert_max_load"] >= 1


def test_routing_tells_what_each_position_reads(family, histories):
    """Where another item is last (or is written), the positions that read it come to the experts changed."""
    items, lengths = histories
    model = make_quiet(family, experts=4).eval()
    seen = []
    (first, *_) = expert_layers(model.modules())
    first.register_forward_pre_hook(lambda _, given: seen.append(given))
    writes = family in DRAWING
    targets, replaced = items[:, 0].clone(), items.clone()
    if writes:
        targets = torch.arange(6)
    else:
        replaced[0, lengths[0] - 1] = other_item(model, int(items[0, lengths[0] - 1]))
    changed_targets = targets.clone()
    changed_targets[0] = other_item(model, int(targets[0]))
    with torch.no_grad():
        read, places = model.expert_assignments(items, lengths, targets)
        again, _ = model.expert_assignments(replaced, lengths, changed_targets if writes else targets)
    before, after = (given[0][given[1]] if len(given) > 1 else given[0].flatten(0, 1) for given in seen)
    assert len(before) == len(read) == len(places)
    moved = (before - after).abs().amax(-1) > 1e-6
    assert moved.any()
    assert torch.equal(moved, read != again)
    starts = read < 0
    assert torch.equal(starts, places < 0)
    assert int(starts.sum()) == len(items) * (model.num_levels if family == "recgpt" else 1)


def other_item(model, item: int) -> int:
    """An item that shares no code with this one."""
    if isinstance(model, ItemScorer):
        return (item + 1) % 40
    different = (model.item_codes != model.item_codes[item]).all(1)
    return int(different.nonzero()[0, 0])


def test_saved_and_loaded_it_is_the_same(model, histories, tmp_path):
    model(*histories)
    model.eval().save_pretrained(tmp_path)
    loaded = load_recommender(tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    targets = histories[0][:, 0]
    with torch.no_grad():
        ours, theirs = (log_probability(one, *histories, targets) for one in (model, loaded))
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_incremental_decoding_equals_recomputation(model, histories):
    model.eval()
    if isinstance(model, ItemScorer):
        assert model.score_items(*histories).shape == (6, 40)
        return
    with torch.no_grad():
        cached, fresh = model.encode(*histories), model.encode(*histories)
        model.next_code_logits(cached, torch.zeros(6, 1, 0, dtype=torch.long))
        parents = torch.zeros(6, 3, dtype=torch.long)
        prefix = torch.arange(3).expand(6, 3).unsqueeze(2)
        logits = model.next_code_logits(cached, prefix, parents)
        assert torch.allclose(logits, model.next_code_logits(fresh, prefix), atol=1e-5)
