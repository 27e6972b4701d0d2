"""Lists written as one sequence, against every list that there is, scored one by one without beams or caches."""

import itertools
from functools import cache

import numpy as np
import pytest
import torch

from genrec.config import DecodingConfig, RecommenderConfig, parse_settings
from genrec.decoding import (
    DeviceTrie,
    Searcher,
    SearchOptions,
    explain_items,
    list_by_sessions,
    trie_of,
    write_sessions,
)
from genrec.decoding.session import session_size_of
from genrec.errors import ConfigError
from genrec.models import build_recommender, parse_recommender
from genrec.models.families.seq2seq import FIRST_CODE, PADDING
from genrec.tokenizers.index import ItemIndex

SIZES, SESSION = (4, 3, 3), 3
PLAIN = [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 0], [1, 2, 1], [3, 0, 0], [3, 1, 1]]
SHORT = [[0, 0, 0], [0, 0, 1], [0, 1, -1], [1, -1, -1], [2, 2, 1], [3, 0, -1], [3, 1, 1]]
CROWDED = [[0, 0, 0], [0, 0, 0], [0, 1, 2], [1, 2, 0], [1, 2, 0], [1, 2, 0], [3, 1, 1]]
FAMILIES = {"decoder": {"max_history": 8}, "seq2seq": {"session_size": SESSION, "head_size": 8, "max_history": 8}}
HISTORIES, LENGTHS = torch.tensor([[5, 2, 0, 6], [1, 0, 0, 0], [3, 3, 4, 0], [0, 0, 0, 0]]), torch.tensor([4, 1, 3, 0])


def make_model(family: str, codes=PLAIN, **settings):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_layers": 2, "num_heads": 2}
    index = ItemIndex(np.array(codes, dtype=np.int32), SIZES, [f"i{item}" for item in range(len(codes))])
    config = RecommenderConfig(name=family, **{**shape, **FAMILIES.get(family, {}), **settings})
    model = build_recommender(config, num_items=len(codes), index=index).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def score_lists(model, history: list[int], sessions: list[tuple[int, ...]]) -> np.ndarray:
    """log p of each item of lists [n, m] of one user: a decoder reads on, a T5 runs by transformers' own forward."""
    if model.config.family == "decoder":
        return np.array(
            [
                [score_next(model, (*history, *session[:place]))[item] for place, item in enumerate(session)]
                for session in sessions
            ]
        )
    tokens, mask = model.history_tokens(torch.tensor([history or [0]]), torch.tensor([len(history)]))
    starts = FIRST_CODE + np.concatenate([[0], np.cumsum(SIZES)[:-1]])
    codes = model.item_codes.numpy()[np.array(sessions)]
    named = np.where(codes < 0, PADDING, codes + starts)
    stream = np.concatenate([np.full_like(named[..., :1], PADDING), named], axis=2).reshape(len(sessions), -1)
    rows = len(sessions)
    logits = model.t5(
        input_ids=tokens.expand(rows, -1),
        attention_mask=mask.expand(rows, -1),
        decoder_input_ids=torch.from_numpy(stream).long(),
    ).logits.double()
    found = np.zeros(codes.shape[:2])
    for row, place, level in np.argwhere(codes >= 0):
        at = logits[row, place * (len(SIZES) + 1) + level, starts[level] : starts[level] + SIZES[level]]
        found[row, place] += float(at.log_softmax(-1)[codes[row, place, level]])
    return found


@cache
def score_next(model, history: tuple[int, ...]) -> list[float]:
    """log p of every item as the next one, each code by a prefix that is read anew."""
    context, found = model.encode(torch.tensor([history or (0,)]), torch.tensor([len(history)])), []
    for row in model.item_codes.tolist():
        codes = [code for code in row if code >= 0]
        prefixes = (torch.tensor(codes[:level], dtype=torch.int64).view(1, 1, level) for level in range(len(codes)))
        logits = [model.next_code_logits(context, prefix)[0, 0].double().log_softmax(-1) for prefix in prefixes]
        found.append(sum(float(values[code]) for values, code in zip(logits, codes, strict=True)))
    return found


def all_lists(model, row: int, size: int, excluded=()) -> dict[tuple[int, ...], float]:
    """Every list of different items to its log-probability; of those with equal codes the first in leaf order."""
    history = HISTORIES[row, : LENGTHS[row]].tolist()
    items = [item for item in range(model.config.num_items) if item not in excluded]
    codes, found = model.item_codes.tolist(), {}
    for session in itertools.permutations(items, min(size, len(items))):
        found.setdefault(tuple(tuple(codes[item]) for item in session), session)
    sessions = list(found.values())
    return dict(zip(sessions, score_lists(model, history, sessions).sum(1).tolist(), strict=True))


@pytest.fixture(params=sorted(FAMILIES))
def family(request) -> str:
    return request.param


@pytest.mark.parametrize("codes", [PLAIN, SHORT, CROWDED], ids=["plain", "short", "crowded"])
def test_with_as_many_beams_as_lists_every_list_is_found_with_its_probability(family, codes):
    model = make_model(family, codes)
    exclude = torch.tensor([[5, 2, 0], [1, -1, -1], [-1, -1, -1], [6, 6, 3]])
    context = model.encode(HISTORIES, LENGTHS)
    with torch.no_grad():
        found = write_sessions(model, trie_of(model), context, SearchOptions(num_beams=300), SESSION, exclude)
        for row in range(len(HISTORIES)):
            expected = all_lists(model, row, SESSION, exclude[row].tolist())
            living = found.items[row, ~found.scores[row, :, -1].isneginf()]
            assert sorted(tuple(part) for part in living.tolist()) == sorted(expected)
            scores = [expected[tuple(part)] for part in living.tolist()]
            assert torch.allclose(found.scores[row, : len(living), -1], torch.tensor(scores), atol=1e-5)
            assert scores == sorted(scores, reverse=True) or np.diff(scores).max() < 1e-5


def test_a_score_says_how_probable_the_list_is_so_far(family):
    model = make_model(family)
    ranked = Searcher(model, DecodingConfig(mode="session", num_beams=40, session_size=3)).search(HISTORIES, LENGTHS, 3)
    with torch.no_grad():
        for row in range(len(HISTORIES)):
            steps = score_lists(model, HISTORIES[row, : LENGTHS[row]].tolist(), [tuple(ranked.items[row].tolist())])
            assert np.allclose(np.cumsum(steps[0]), ranked.scores[row], atol=1e-5)


def test_a_session_of_one_item_is_a_beam_search(family):
    model, options = make_model(family), SearchOptions(num_beams=7)
    together = list_by_sessions(model, trie_of(model), HISTORIES, LENGTHS, options, session_size=1, top_k=7)
    beams = Searcher(model, DecodingConfig(num_beams=7)).search(HISTORIES, LENGTHS, 7)
    assert torch.equal(together.items, beams.items)
    steps = together.scores.diff(dim=1, prepend=torch.zeros(4, 1))
    assert torch.allclose(steps, beams.scores, atol=1e-5)


def test_longer_lists_go_on_with_a_session_without_the_items_before(family):
    model, options = make_model(family), SearchOptions(num_beams=300)
    found = list_by_sessions(model, trie_of(model), HISTORIES, LENGTHS, options, session_size=3, top_k=5)
    with torch.no_grad():
        for row in (1, 3):
            first, rest = found.items[row, :3].tolist(), found.items[row, 3:].tolist()
            firsts, rests = all_lists(model, row, 3), all_lists(model, row, 2, first)
            assert (tuple(first), tuple(rest)) == (max(firsts, key=firsts.get), max(rests, key=rests.get))
            assert float(found.scores[row, -1]) == pytest.approx(max(firsts.values()) + max(rests.values()), abs=1e-5)


@pytest.mark.parametrize("beams", [1, 2, 7])
def test_lists_hold_no_item_twice_none_that_is_excluded_and_as_many_as_there_are(family, beams):
    model = make_model(family, CROWDED)
    decoding = DecodingConfig(mode="session", num_beams=beams, session_size=3)
    searcher = Searcher(model, decoding, np.array([True, True, True, True, True, False, True]))
    exclude = torch.tensor([[6, 0, -1], [-1, -1, -1], [0, 1, 2], [3, 4, 6]])
    ranked = searcher.search(HISTORIES, LENGTHS, 6, exclude)
    for row in range(len(HISTORIES)):
        items = [item for item in ranked.items[row].tolist() if item >= 0]
        allowed = {0, 1, 2, 3, 4, 6} - set(exclude[row].tolist())
        assert set(items) == allowed
        assert len(items) == len(allowed)
        assert ranked.scores[row, len(items) :].isneginf().all()
        assert (ranked.scores[row, : len(items)].diff() <= 0).all()


def test_renormalized_lists_of_all_items_have_probability_one(family):
    """Over what each list may still hold: the probabilities of all lists sum to one, whatever is excluded."""
    model, exclude = make_model(family), torch.tensor([[0], [1], [-1], [4]])
    with torch.no_grad():
        context = model.encode(HISTORIES, LENGTHS)
        found = write_sessions(
            model, trie_of(model), context, SearchOptions(num_beams=300, renormalize=True), 3, exclude
        )
    assert torch.allclose(found.scores[..., -1].exp().sum(1), torch.ones(4), atol=1e-4)


@pytest.mark.parametrize("codes", [PLAIN, SHORT], ids=["plain", "short"])
def test_the_training_loss_is_the_probability_that_the_search_sees(codes):
    """Histories of 4, 1, 3 and 2 items: the last three are a session, or the two or one that there are."""
    model = make_model("seq2seq", codes, targets="last")
    lengths = torch.tensor([5, 1, 3, 2])
    items = torch.tensor([[5, 2, 0, 6, 4], [1, 0, 0, 0, 0], [3, 4, 0, 0, 0], [2, 6, 0, 0, 0]])
    cuts = [2, 0, 1, 1]
    total = 0.0
    with torch.no_grad():
        for row, (length, cut) in enumerate(zip(lengths.tolist(), cuts, strict=True)):
            history, session = items[row, :cut].tolist(), items[row, cut:length].tolist()
            banned = torch.tensor([[item for item in range(7) if item not in session] or [-1]])
            context = model.encode(torch.tensor([history or [0]]), torch.tensor([cut]))
            found = write_sessions(model, trie_of(model), context, SearchOptions(num_beams=300), len(session), banned)
            place = found.items[0].tolist().index(session)
            total -= float(found.scores[0, place, -1])
        # The mean over the seven items that there are, not over twelve places.
        assert float(model(items, lengths).loss) == pytest.approx(total / 7, abs=1e-5)
    assert model.count_targets(lengths) == 7


def test_drawn_sessions_follow_their_histories():
    model = make_model("seq2seq", targets_per_user=40)
    items, lengths = torch.arange(6).repeat(3, 1), torch.tensor([6, 2, 1])
    torch.manual_seed(1)
    rows, cuts = model._draw_targets(lengths)
    sessions = model._sessions(items, lengths, rows, cuts)
    assert set(cuts[rows == 0].tolist()) == {1, 2, 3, 4, 5}
    for row, cut, session in zip(rows.tolist(), cuts.tolist(), sessions.tolist(), strict=True):
        after = list(range(cut, int(lengths[row])))[:SESSION]
        assert session == after + [-1] * (SESSION - len(after))


@pytest.mark.parametrize("codes", [PLAIN, SHORT], ids=["plain", "short"])
def test_an_explained_list_adds_up_to_its_scores(family, codes):
    model = make_model(family, codes)
    ranked = Searcher(model, DecodingConfig(mode="session", num_beams=9, session_size=3)).search(HISTORIES, LENGTHS, 5)
    told = explain_items(model, HISTORIES, LENGTHS, ranked.items, session_size=3)
    assert torch.equal(told.codes, model.item_codes.long()[ranked.items])
    assert torch.allclose(told.code_log_probs.sum(-1).cumsum(1), ranked.scores, atol=1e-5)


def test_batches_and_padding_change_nothing(family):
    model = make_model(family)
    searcher = Searcher(model, DecodingConfig(mode="session", num_beams=5, session_size=3))
    together = searcher.search(HISTORIES, LENGTHS, 5)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = searcher.search(HISTORIES[row : row + 1, : max(length, 1)], LENGTHS[row : row + 1], 5)
        assert torch.equal(alone.items[0], together.items[row])
        assert torch.allclose(alone.scores[0], together.scores[row], atol=1e-5)


def test_an_empty_trie_gives_empty_lists(family):
    model = make_model(family)
    trie: DeviceTrie = trie_of(model).filtered(np.zeros(7, dtype=bool))
    found = list_by_sessions(model, trie, HISTORIES, LENGTHS, SearchOptions(num_beams=5), session_size=3, top_k=4)
    assert (found.items == -1).all()


def test_infinite_logits_name_the_user_and_the_step(family):
    from genrec.decoding import NonFiniteLogitsError

    model = make_model(family)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(NonFiniteLogitsError, match="for user 0 at step 0"):
        Searcher(model, DecodingConfig(mode="session", session_size=2)).search(HISTORIES, LENGTHS, 3)


# --- what is refused ------------------------------------------------------------------------------------------------


def size_of(family: str, size: int | None = None, **settings) -> int:
    chosen = parse_recommender(RecommenderConfig(name=family, **settings))
    return session_size_of(DecodingConfig(mode="session", session_size=size), family, chosen)


def test_a_session_is_as_long_as_the_model_learned():
    assert size_of("seq2seq", session_size=3) == 3
    assert size_of("seq2seq", 2, session_size=3) == 2
    assert size_of("decoder") == 5
    assert size_of("decoder", 12) == 12
    assert size_of("decoder", max_history=4) == 4


def test_models_that_write_single_items_write_no_sessions():
    for name in ("depth", "seq2seq"):
        with pytest.raises(ConfigError, match=f"this '{name}' model writes single items") as refused:
            size_of(name)
        assert "set decoding.mode: beam" in str(refused.value)
    with pytest.raises(ConfigError, match="writes sessions of at most 3 items"):
        size_of("seq2seq", 4, session_size=3)


def test_settings_of_single_items_are_refused():
    for setting in ("length_penalty", "item_weight"):
        with pytest.raises(ConfigError, match="mode: session ranks whole lists"):
            parse_settings(DecodingConfig, {"mode": "session", setting: 1.0}, where="here")
    with pytest.raises(ConfigError, match="session_size above 1 is for the recommender seq2seq"):
        parse_recommender(RecommenderConfig(name="discrec", session_size=2))
