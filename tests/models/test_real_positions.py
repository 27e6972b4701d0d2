"""Experts and losses count real positions only, against each user and each session run alone and without padding."""

import math

import numpy as np
import pytest
import torch

from genrec.config import RecommenderConfig
from genrec.models import build_recommender, load_recommender
from genrec.models.checkpoint import read_config
from genrec.models.layers.moe import ExpertSettings, MixtureOfExperts, expert_layers, only_real
from genrec.models.upcycle import upcycle_recommender
from genrec.tokenizers.index import ItemIndex
from genrec.training.gradient_checkpointing import recomputed

SIZES = (4, 3, 3)
PLAIN = [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 0], [1, 2, 1], [3, 0, 0], [3, 1, 1]]
SHORT = [[0, 0, 0], [0, 0, 1], [0, 1, -1], [1, -1, -1], [2, 2, 1], [3, 0, -1], [3, 1, 1]]
SETTINGS = {"balance_weight": 1.0, "z_loss_weight": 0.1, "capacity_factor": 1.0, "experts_per_token": 1}
SESSIONS = [[3], [2, 3, 0], [5, 6], [1], [4, 2]]


def make_model(family: str = "seq2seq", codes=PLAIN, seed: int = 0, **settings):
    torch.manual_seed(seed)
    shape = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "dropout": 0.0, "experts": 3, "max_history": 8}
    shape |= {"head_size": 8, "feed_forward_size": 16} if family in ("seq2seq", "discrec") else {}
    index = ItemIndex(np.array(codes, dtype=np.int32), SIZES, [str(item) for item in range(len(codes))])
    routing = {} if settings.get("experts") == 0 else SETTINGS
    config = RecommenderConfig(name=family, **{**shape, **routing, **settings})
    model = build_recommender(config, num_items=len(codes), index=index)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.train()


def real_codes(item: int, codes) -> list[int]:
    return [code for code in codes[item] if code >= 0]


def written_alone(session: list[int], codes) -> int:
    """Positions of a session by hand: a start and the codes of each item, up to the last that is asked for a code."""
    return sum(1 + len(real_codes(item, codes)) for item in session) - 1


def padded(sessions: list[list[int]], size: int) -> torch.Tensor:
    return torch.tensor([session + [-1] * (size - len(session)) for session in sessions])


def write(model, sessions: torch.Tensor) -> torch.Tensor:
    """The loss of sessions, each after a history of its own."""
    histories = (torch.arange(len(sessions) * 3) % 7).view(-1, 3)
    tokens, mask = model.history_tokens(histories, torch.full((len(sessions),), 3))
    encoded = model.t5.encoder(inputs_embeds=model.embed_history(tokens, mask), attention_mask=mask).last_hidden_state
    return model.writing_loss(encoded, mask, sessions)


def routers_by_hand(scores: torch.Tensor) -> tuple[float, list[int], int]:
    """Auxiliary loss, load and dropped choices of top-1 routing by ``scores [n, E]``, position after position."""
    logits, experts = scores.double(), scores.shape[1]
    shares = logits.softmax(-1)
    chosen = [max(range(experts), key=lambda expert, row=row: float(row[expert])) for row in logits]
    load = [chosen.count(expert) for expert in range(experts)]
    balance = experts * sum(load[e] / len(chosen) * float(shares[:, e].mean()) for e in range(experts))
    squares = sum(math.log(sum(math.exp(value) for value in row.tolist())) ** 2 for row in logits) / len(logits)
    limit = math.ceil(len(chosen) / experts)
    return balance + 0.1 * squares, load, sum(max(0, count - limit) for count in load)


@pytest.mark.parametrize("codes", [PLAIN, SHORT], ids=["plain", "short"])
def test_absent_places_and_ended_codes_are_neither_routed_nor_counted(codes):
    model = make_model(codes=codes, session_size=3, expert_every=2)
    (layer,) = expert_layers(model.modules())
    seen = []
    layer.register_forward_pre_hook(lambda module, given: seen.append(given[0][module.mask]))
    sessions = padded(SESSIONS, 3)
    write(model, sessions)
    (together,) = seen
    assert len(together) == sum(written_alone(session, codes) for session in SESSIONS)
    expected, load, dropped = routers_by_hand((together @ layer.router.T).detach())
    assert float(layer.auxiliary.detach()) == pytest.approx(expected, abs=1e-5)
    assert layer.routing.counts.tolist() == load
    assert int(layer.routing.dropped) == dropped
    assert dropped > 0
    narrow = [layer.auxiliary.detach(), layer.routing.counts, layer.routing.dropped, layer.routing.entropy]
    write(model, torch.nn.functional.pad(sessions, (0, 4), value=-1))
    wide = [layer.auxiliary.detach(), layer.routing.counts, layer.routing.dropped, layer.routing.entropy]
    for one, other in zip(narrow, wide, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("codes", [PLAIN, SHORT], ids=["plain", "short"])
def test_the_loss_of_a_session_is_the_mean_over_its_items(codes):
    """One target alone, next to four absent places, and in a batch of sessions of several lengths."""
    model = make_model(codes=codes, session_size=5, capacity_factor=None)
    alone = write(model, torch.tensor([[3]]))
    assert float(write(model, padded([[3]], 5)).detach()) == pytest.approx(float(alone.detach()), abs=1e-5)
    together, total = float(write(model, padded(SESSIONS, 5)).detach()), 0.0
    histories = (torch.arange(len(SESSIONS) * 3) % 7).view(-1, 3)
    for history, session in zip(histories, SESSIONS, strict=True):
        tokens, mask = model.history_tokens(history[None], torch.tensor([3]))
        encoded = model.t5.encoder(inputs_embeds=model.embed_history(tokens, mask), attention_mask=mask)
        loss = model.writing_loss(encoded.last_hidden_state, mask, torch.tensor([session]))
        total += len(session) * float(loss.detach())
    assert together == pytest.approx(total / sum(map(len, SESSIONS)), abs=1e-5)


def test_single_items_of_different_lengths_route_what_is_asked():
    """Four targets of one code each: of three positions only the start is asked for a code."""
    codes = [[0, -1, -1], [1, 0, -1], [1, 1, 0], [2, -1, -1], [3, -1, -1], [1, 1, 1], [1, 2, 0]]
    model = make_model(codes=codes, num_layers=1, targets="last")
    model(torch.tensor([[1, 0], [2, 3], [1, 4], [5, 0]]), torch.full((4,), 2))
    assert int(expert_layers(model.modules())[0].routing.counts.sum()) == 4


@pytest.mark.parametrize("family", ["decoder", "seq2seq", "discrec"])
def test_the_items_and_places_that_experts_read_are_those_that_are_there(family):
    model = make_model(family, SHORT, experts_per_token=2).eval()
    items, lengths, targets = torch.tensor([[3, 2, 1], [5, 0, 0]]), torch.tensor([3, 1]), torch.tensor([2, 3])
    found = torch.stack(model.expert_assignments(items, lengths, targets), dim=1).tolist()
    if family == "decoder":
        # A start, and the codes that there are with the place of the last one, from which the next item is predicted.
        expected = [
            *[[-1, -1], [3, 0], [3, 2], [2, 0], [2, 1], [2, 2], [1, 0], [1, 1], [1, 2]],
            *[[-1, -1], [5, 0], [5, 1], [5, 2]],
        ]
    else:
        expected = [[-1, -1], [2, 0], [-1, -1]]
    assert found == expected
    for layer in expert_layers(model.modules()):
        assert layer.routing.chosen.shape == (len(expected), 2)


def test_a_decoder_counts_in_a_batch_what_it_counts_for_each_user_alone():
    """With the codes that are missing in the middle of a history, which are as little there as padding is."""
    model = make_model("decoder", SHORT, num_layers=1, capacity_factor=None)
    (layer,) = expert_layers(model.modules())
    histories, total = [[3, 2, 1, 4], [5], [3, 3], [2, 5, 0]], torch.zeros(3)
    for history in histories:
        model(torch.tensor([history]), torch.tensor([len(history)]))
        positions = 1 + sum(len({*range(len(real_codes(item, SHORT))), 2}) for item in history) - 1
        assert int(layer.routing.counts.sum()) == positions
        total += layer.routing.counts
    items = torch.tensor([history + [6] * (5 - len(history)) for history in histories])
    model(items, torch.tensor([len(history) for history in histories]))
    assert torch.equal(layer.routing.counts, total)


@pytest.mark.parametrize("mask", ["left", "right", "between"])
def test_where_the_padding_is_does_not_matter(mask):
    torch.manual_seed(0)
    layer = MixtureOfExperts(8, 8, ExpertSettings(experts=3, **SETTINGS))
    torch.nn.init.normal_(layer.router)
    x = torch.randn(4, 5, 8)
    expected = layer(x)
    noted = [layer.auxiliary.detach(), layer.routing.counts, layer.routing.dropped, layer.routing.entropy]
    places = {"left": [3, 4, 5, 6, 7], "right": [0, 1, 2, 3, 4], "between": [0, 2, 3, 6, 7]}[mask]
    wide, real = torch.randn(4, 8, 8), torch.zeros(4, 8, dtype=torch.bool)
    wide[:, places], real[:, places] = x, True
    for found in (layer(wide, real), *within(layer, wide, real)):
        assert torch.allclose(found[:, places], expected, atol=1e-6)
        assert (found[~real] == 0).all()
        again = [layer.auxiliary.detach(), layer.routing.counts, layer.routing.dropped, layer.routing.entropy]
        for one, other in zip(noted, again, strict=True):
            torch.testing.assert_close(one, other)
    assert layer.mask is None


def within(layer, x: torch.Tensor, real: torch.Tensor):
    with only_real([layer], real):
        yield layer(x)


def test_layers_that_compute_again_route_the_same_positions():
    """The second pass of gradient checkpointing comes after the context that says which positions are real."""
    gradients = []
    for again in (False, True):
        model = make_model(session_size=3)
        passes = []
        expert_layers(model.modules())[0].register_forward_pre_hook(lambda *_, passes=passes: passes.append(None))
        with recomputed(model, again):
            loss = model.training_output(write(model, padded(SESSIONS, 3))).loss
            loss.backward()
        assert len(passes) == 1 + again
        gradients.append({name: value.grad for name, value in model.named_parameters() if value.grad is not None})
    for name, value in gradients[0].items():
        assert torch.equal(gradients[1][name], value), name


# --- models of earlier versions ---------------------------------------------------------------------------------------


@torch.no_grad()
def states(model) -> torch.Tensor:
    """A history of a decoder in which semantic IDs end early."""
    return model.eval().encode(torch.tensor([[3, 2, 5]]), torch.tensor([3])).state


def test_a_model_that_was_made_before_answers_as_it_did(tmp_path):
    model = make_model("decoder", SHORT)
    old = make_model("decoder", SHORT)
    old.config.routes_ended = True
    assert not torch.allclose(states(model), states(old))
    model.save_pretrained(tmp_path)
    assert read_config(tmp_path).routes_ended is False
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"routes_ended": false,', ""))
    assert read_config(tmp_path).routes_ended is True
    assert torch.equal(states(load_recommender(tmp_path)), states(old))


def test_a_dense_model_with_short_identifiers_gets_experts_and_answers_as_before():
    dense = make_model("decoder", SHORT, experts=0)
    sparse = upcycle_recommender(dense, {"experts": 3})
    assert torch.allclose(states(sparse), states(dense), atol=1e-5)
