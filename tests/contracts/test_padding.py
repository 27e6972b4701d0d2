"""Padding changes nothing that a training step computes, in any family: neither loss nor gradients nor router."""

import pytest
import torch
from test_recommenders import EXTRAS, FAMILIES, NUM_ITEMS, VARIANTS, extras_of, histories, make_model, recommender_class

from genrec.models.layers.moe import expert_layers, routing_metrics

__all__ = ["histories"]

PLAIN = [*sorted([*FAMILIES, *VARIANTS]), *EXTRAS]
SPARSE = [f"{name} with experts" for name in sorted(FAMILIES) if recommender_class(name).supports_experts]
SESSIONS = {"session_size": 3, "targets_per_user": 4}
FORMS = {
    "seq2seq with sessions": ("seq2seq", SESSIONS),
    "seq2seq with sessions and experts": ("seq2seq", {**SESSIONS, "experts": 4}),
    "seq2seq with the last session and experts": ("seq2seq", {"session_size": 3, "targets": "last", "experts": 4}),
}


def quiet_model(form: str):
    """In training mode, without dropout; experts with all of what looks at other positions."""
    family, settings = FORMS.get(form, (form.removesuffix(" with experts"), {}))
    if form.endswith("experts"):
        settings = {"experts": 4, **settings, "capacity_factor": 1.0, "z_loss_weight": 0.1, "balance_weight": 1.0}
    settings = settings | ({"depth_dropout": 0.0} if family.startswith("depth") else {})
    return make_model(family, dropout=0.0, **settings).train()


def step(model, items: torch.Tensor, lengths: torch.Tensor) -> dict[str, torch.Tensor]:
    """All numbers of one training step."""
    torch.manual_seed(5)
    model.zero_grad()
    loss = model(items, lengths, **extras_of(model, items)).loss
    loss.backward()
    layers = expert_layers(model.modules())
    found = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    told = routing_metrics(layer.routing for layer in layers)
    found |= {name: torch.tensor(value) for name, value in told.items()}
    found |= {f"auxiliary {place}": layer.auxiliary.detach() for place, layer in enumerate(layers)}
    return found | {"loss": loss.detach()}


@pytest.mark.parametrize("form", [*PLAIN, *SPARSE, *FORMS])
def test_more_padding_with_anything_in_it_changes_no_number_of_a_step(form, histories):
    items, lengths = histories
    wide = torch.nn.functional.pad(items, (0, 4))
    for row, length in enumerate(lengths.tolist()):
        wide[row, length:] = (torch.arange(wide.shape[1] - length) * 7 + row) % NUM_ITEMS
    model = quiet_model(form)
    first, second = step(model, items, lengths), step(model, wide, lengths)
    assert first.keys() == second.keys()
    assert len(first) > 2
    for name, value in first.items():
        torch.testing.assert_close(
            second[name], value, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
