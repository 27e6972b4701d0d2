"""Families that read more of a history than its items: what may be read changes the answers, what may not does not."""

import pytest
import torch
from test_recommenders import EXTRAS, LEVEL_SIZES, WITH_EXTRAS, histories, make_model

from genrec.config import DecodingConfig
from genrec.decoding import recommend
from genrec.decoding.explain import explain_items
from genrec.errors import ConfigError
from genrec.models import ItemScorer, parse_recommender
from genrec.models.registry import FAMILIES, RecommenderConfig
from genrec.models.side_inputs import GAP_BUCKETS, time_delta_buckets

__all__ = ["histories"]
MODES = {
    "depth": ("beam", "stochastic", "nucleus", "exhaustive", "items"),
    "parallel": ("beam", "items"),
    "decoder": ("beam", "stochastic", "exhaustive", "session"),
    "sasrec": ("beam",),
}


@pytest.fixture(params=list(EXTRAS.values()))
def family(request) -> str:
    return request.param


@pytest.fixture
def time_deltas() -> torch.Tensor:
    """Seconds, minutes, days and unknown ones, int64 [6, 9]."""
    return torch.tensor([-1, 0, 1, 30, 4_000, 90_000, 2_000_000, 7, 600]).roll(1).repeat(6, 1)


def states(model, items, lengths, time_deltas):
    """What predicts each item, [B, 1 + T, ...], in the pass of training."""
    if hasattr(model, "read"):
        return model.read(items, lengths, time_deltas=time_deltas)
    inputs = model.inputs(model.start, model.codes(model.item_codes[items]), time_deltas=time_deltas)
    hidden, _ = model.transformer(inputs)
    return hidden[:, :: len(LEVEL_SIZES)], hidden


def answer(model, items, lengths, user_values):
    """What is said of each user, [B, ...]."""
    if isinstance(model, ItemScorer):
        return model.score_items(items, lengths, user_values=user_values)
    return model.encode(items, lengths, user_values=user_values).state


def test_buckets_are_powers_of_two_worked_by_hand():
    time_deltas = [-1, 0, 1, 2, 3, 4, 7, 8, 60, 3_600, 86_400, 31_536_000, 2**29 - 1, 2**29, 2**40]
    by_hand = [0, 1, 2, 3, 3, 4, 4, 5, 7, 13, 18, 26, 30, 31, 31]
    assert time_delta_buckets(torch.tensor(time_deltas)).tolist() == by_hand
    assert max(by_hand) == GAP_BUCKETS - 1
    # A gap of n > 0 seconds that is a number of b binary digits is in bucket b + 1.
    assert time_delta_buckets(torch.arange(1, 5_000)).tolist() == [n.bit_length() + 1 for n in range(1, 5_000)]


def test_a_gap_changes_what_comes_after_its_item_and_nothing_before(family, histories, time_deltas):
    model, (items, lengths) = make_model(family, use_times=True).eval(), histories
    with torch.no_grad():
        for place in range(items.shape[1]):
            other = time_deltas.clone()
            other[:, place] = 12_345_678
            if family == "decoder":
                _, before = states(model, items, lengths, time_deltas)
                _, after = states(model, items, lengths, other)
                # Codes of the item itself are predicted at its earlier positions.
                first = (place + 1) * len(LEVEL_SIZES)
            else:
                before, after = (states(model, items, lengths, given) for given in (time_deltas, other))
                first = place + 1
            assert torch.equal(before[:, :first], after[:, :first])
            assert (before[:, first:] != after[:, first:]).any(-1).all()


def test_the_time_of_the_target_is_not_read(family, histories, time_deltas):
    """In training the last item of a window is only predicted: its gap takes no part in any term of the loss."""
    model, (items, _) = make_model(family, use_times=True).eval(), histories
    lengths = torch.full((6,), 9)
    with torch.no_grad():
        loss = model(items, lengths, time_deltas=time_deltas).loss
        later, earlier = time_deltas.clone(), time_deltas.clone()
        later[:, 8], earlier[:, 7] = 99_999, 99_999
        assert torch.equal(model(items, lengths, time_deltas=later).loss, loss)
        assert not torch.equal(model(items, lengths, time_deltas=earlier).loss, loss)


def test_unknown_gaps_are_no_gaps(family, histories):
    model = make_model(family, use_times=True).eval()
    unknown = torch.full_like(histories[0], -1)
    with torch.no_grad():
        assert torch.equal(model(*histories, time_deltas=unknown).loss, model(*histories).loss)
        decoding = DecodingConfig(exclude_seen=False, num_beams=8)
        found = recommend(model, *histories, decoding=decoding, top_k=5, extras={"time_deltas": unknown})
        assert torch.equal(found.scores, recommend(model, *histories, decoding=decoding, top_k=5).scores)


def test_off_there_is_no_weight_and_nothing_is_read(family, histories, time_deltas):
    plain, timed = make_model(family), make_model(family, use_times=True)
    added = timed.state_dict().keys() - plain.state_dict().keys()
    assert {name: timed.state_dict()[name].shape for name in added} == {"inputs.gap_vectors.weight": (GAP_BUCKETS, 32)}
    plain.eval()
    with torch.no_grad():
        assert torch.equal(plain(*histories, time_deltas=time_deltas).loss, plain(*histories).loss)


def test_a_value_of_a_user_changes_all_that_is_said_of_this_user_and_of_no_other(family, histories):
    model, (items, lengths) = make_model(family, use_user_features=True).eval(), histories
    values = torch.tensor([[1, 2]]).repeat(6, 1)
    other = values.clone()
    other[2, 1] = 3
    with torch.no_grad():
        # Also of a user without any item.
        for read in (lengths, torch.zeros_like(lengths)):
            before, after = (answer(model, items, read, given) for given in (values, other))
            assert [not torch.equal(*pair) for pair in zip(before, after, strict=True)] == [
                row == 2 for row in range(6)
            ]


def test_unknown_users_get_what_is_expected_of_a_stranger(family, histories):
    """Nothing known is a vector of zeros, before and after learning, and the order of columns tells nothing."""
    model = make_model(family, use_user_features=True)
    values = torch.tensor([[7, 0, 9]]).expand(6, -1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=0.1)
    model(*histories, user_values=values).loss.backward()
    optimizer.step()
    model.eval()
    weights = model.inputs.user_vectors.weight
    assert not weights[0].any()
    with torch.no_grad():
        known = model(*histories, user_values=values).loss
        assert torch.allclose(model(*histories, user_values=values[:, [2, 0, 1]]).loss, known)
        stranger = model(*histories).loss
        assert not torch.equal(stranger, known)
        assert torch.equal(model(*histories, user_values=torch.zeros(6, 4, dtype=torch.int64)).loss, stranger)
        weights[1:].normal_()
        assert torch.equal(model(*histories).loss, stranger)


@pytest.mark.parametrize(("family", "mode"), [(family, mode) for family in MODES for mode in MODES[family]])
def test_every_way_of_decoding_reads_them(family, mode, histories, time_deltas):
    settings = {"item_loss": 1.0} if family in ("depth", "parallel") else {}
    model = make_model(family, use_times=True, **settings).eval()
    # Embeddings start small; what they change is to be seen through ties and samples.
    torch.nn.init.normal_(model.inputs.gap_vectors.weight)
    decoding = DecodingConfig(mode=mode, num_beams=64, item_weight=0.0, exclude_seen=False)
    found = recommend(model, *histories, decoding=decoding, top_k=10, extras={"time_deltas": time_deltas})
    without = recommend(model, *histories, decoding=decoding, top_k=10)
    assert (found.scores != without.scores).any(dim=1).all()
    # Samples are ranked by other numbers than the sum of their codes, item scores have no codes.
    if isinstance(model, ItemScorer) or mode in ("items", "stochastic", "nucleus"):
        return
    size = 5 if mode == "session" else 1
    told = explain_items(model, *histories, found.items, session_size=size, extras={"time_deltas": time_deltas})
    scores = told.code_log_probs.sum(-1)
    if mode == "session":
        scores = scores.cumsum(1)
    known = found.items >= 0
    assert torch.allclose(scores[known], found.scores[known], atol=1e-5)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(EXTRAS.values())))
@pytest.mark.parametrize("setting", [*WITH_EXTRAS, "user_columns"])
def test_other_families_have_no_such_setting(family, setting):
    with pytest.raises(ConfigError, match=f"unknown key {setting}"):
        parse_recommender(RecommenderConfig(name=family, **{setting: True}))


def test_a_session_goes_on_with_an_unknown_gap(histories, time_deltas):
    """An item that the model wrote is read as the same item of a history whose time is unknown."""
    model, (items, lengths) = make_model("decoder", use_times=True).eval(), histories
    torch.nn.init.normal_(model.inputs.gap_vectors.weight)
    written = torch.tensor([3, 1, 4, 1, 5, 9])
    rows = torch.arange(6)
    longer, known = (torch.nn.functional.pad(part, (0, 1)) for part in (items, time_deltas))
    longer[rows, lengths], known[rows, lengths] = written, -1
    codes = model.item_codes[written].long().unsqueeze(1)
    with torch.no_grad():
        after = model.next_code_logits(model.encode(items, lengths, time_deltas=time_deltas), codes)
        again = model.next_code_logits(model.encode(longer, lengths + 1, time_deltas=known), codes[:, :, :0])
    assert torch.allclose(after, again, atol=1e-5)
