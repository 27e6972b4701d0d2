import numpy as np
import pytest
import torch
from fake_models import (
    FakeWriter,
    beam_plainly,
    history_of,
    random_codes,
    rank_plainly,
    score_one_by_one,
    unique_codes,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from genrec.decoding import DeviceTrie, NonFiniteLogitsError, SearchOptions, beam_search, device_trie, exhaustive_search
from genrec.decoding.beam import find_leaves
from genrec.errors import ArtifactError, ConfigError
from genrec.tokenizers.trie import build_trie


def device_trie_of(codes: np.ndarray, level_sizes) -> DeviceTrie:
    return DeviceTrie(build_trie(codes, level_sizes))


def padded(lists: list[list[int]]) -> torch.Tensor:
    width = max(1, *(len(items) for items in lists))
    return torch.tensor([items + [-1] * (width - len(items)) for items in lists])


catalogues = st.tuples(
    st.integers(0, 2**32 - 1),
    st.integers(1, 80),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.floats(0, 0.5),
)


@given(catalogues, st.integers(1, 30), st.sampled_from([1.0, 0.5, 3.0]), st.booleans())
@settings(max_examples=200, deadline=None)
def test_enough_beams_give_the_ranking_of_scoring_every_item(catalogue, top_k, temperature, excluding):
    seed, num_items, sizes, crowding = catalogue
    rng = np.random.default_rng(seed)
    codes = random_codes(rng, num_items, sizes, crowding)
    model = FakeWriter(sizes, seed)
    histories = history_of([3, 14, 15])
    seen = [rng.integers(0, num_items, rng.integers(0, 2 * num_items)).tolist() if excluding else [] for _ in range(3)]
    found = beam_search(
        model,
        device_trie_of(codes, sizes),
        *histories,
        SearchOptions(num_beams=num_items + 5, temperature=temperature),
        top_k=top_k,
        exclude=padded(seen) if excluding else None,
    )
    scores = score_one_by_one(model, *histories, codes, temperature)
    for user in range(3):
        expected = rank_plainly(scores[user].round(5), top_k, seen[user])
        items = found.items[user].tolist()
        assert items[len(expected) :] == [-1] * (top_k - len(expected))
        assert torch.isneginf(found.scores[user, len(expected) :]).all()
        np.testing.assert_allclose(found.scores[user, : len(expected)], scores[user, expected], atol=2e-5)
        # Items of one leaf have equal scores; between leaves rounding may decide.
        assert set(items[: len(expected)]) == set(expected) or crowding
        np.testing.assert_allclose(scores[user, items[: len(expected)]], scores[user, expected], atol=2e-5)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("num_beams", [1, 3, 8])
def test_few_beams_equal_a_plain_search_over_prefixes(seed, num_beams):
    rng = np.random.default_rng(seed)
    sizes = (6, 5, 4)
    codes = random_codes(rng, 60, sizes, 0.2)
    model = FakeWriter(sizes, seed)
    trie = device_trie_of(codes, sizes)
    for user in range(4):
        seen = rng.choice(60, 15, replace=False).tolist()
        expected = beam_plainly(model, *history_of([user]), codes, num_beams, seen)
        found = beam_search(
            model, trie, *history_of([user]), SearchOptions(num_beams=num_beams), top_k=60, exclude=torch.tensor([seen])
        )
        items = [item for item in found.items[0].tolist() if item >= 0]
        assert set(items) == set(expected)
        np.testing.assert_allclose(found.scores[0, : len(items)], [expected[item] for item in items], atol=1e-5)
        assert found.scores[0].tolist() == sorted(found.scores[0].tolist(), reverse=True)


def test_enough_beams_on_a_larger_catalogue():
    rng = np.random.default_rng(0)
    sizes = (32, 32, 8)
    codes = unique_codes(rng, 4096, sizes)
    model = FakeWriter(sizes)
    histories = history_of(range(2))
    found = beam_search(model, device_trie_of(codes, sizes), *histories, SearchOptions(num_beams=4096), top_k=4096)
    scores = score_one_by_one(model, *histories, codes)
    for user in range(2):
        assert sorted(found.items[user].tolist()) == list(range(4096))
        np.testing.assert_allclose(found.scores[user], scores[user, found.items[user]], atol=1e-5)
        assert (np.diff(scores[user, found.items[user]]) <= 1e-5).all()


def test_hand_worked_example():
    """Two levels of two codes; the likeliest first code has the worst items."""
    first, second = torch.tensor([0.6, 0.4]).log(), torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log()

    class Tabulated:
        def encode(self, items, lengths):
            return None

        def next_code_logits(self, context, prefix, beam_index=None):
            return first[None, None] if prefix.shape[2] == 0 else second[prefix[:, :, 0]]

    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    trie = device_trie_of(codes, (2, 2))
    wide = beam_search(Tabulated(), trie, *history_of([0]), SearchOptions(num_beams=4), top_k=4)
    assert wide.items.tolist() == [[2, 0, 1, 3]]
    assert wide.scores.exp().tolist()[0] == pytest.approx([0.36, 0.3, 0.3, 0.04])
    greedy = beam_search(Tabulated(), trie, *history_of([0]), SearchOptions(num_beams=1), top_k=1)
    assert greedy.items.tolist() in ([[0]], [[1]])
    without = beam_search(
        Tabulated(),
        device_trie_of(codes[[0, 2, 3]], (2, 2)),
        *history_of([0]),
        SearchOptions(num_beams=4, renormalize=True),
        top_k=3,
    )
    assert without.items.tolist() == [[0, 1, 2]]
    assert without.scores.exp().tolist()[0] == pytest.approx([0.6, 0.36, 0.04])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num_beams", [1, 20, 500])
@pytest.mark.parametrize("sharpness", [0.0, 1.0, 1000.0])
def test_only_existing_identifiers_with_their_own_scores(dtype, num_beams, sharpness):
    rng = np.random.default_rng(num_beams)
    sizes = (16, 40, 3, 7)
    codes = random_codes(rng, 300, sizes)
    codes[:100, :2] = [15, 39]
    codes[100, 0] = 14
    codes[101:, 0] %= 14  # code 14 leads to one item only
    model = FakeWriter(sizes, 1, dtype, sharpness)
    users = list(range(16))
    found = beam_search(
        model, device_trie_of(codes, sizes), *history_of(users), SearchOptions(num_beams=num_beams), top_k=num_beams
    )
    scores = score_one_by_one(model, *history_of(users), codes)
    for user in users:
        items = [item for item in found.items[user].tolist() if item >= 0]
        assert len(items) == len(set(items)) >= min(num_beams, 100)
        np.testing.assert_allclose(found.scores[user, : len(items)], scores[user, items], rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("renormalize", [False, True])
@pytest.mark.parametrize("excluding", [False, True])
def test_impossible_codes_kill_beams_for_good(renormalize, excluding):
    """A model may put -inf on codes itself: such semantic IDs never appear, and nothing illegal takes their place."""
    sizes = (4, 4, 3)
    rows = [(0, 0, 1), (0, 1, 2), (0, 3, 0), (1, 0, 0), (2, 3, 1), (3, 1, 0), (3, 2, 2), (0, 0, 2), (0, 3, 2)]
    codes = np.array(rows)

    class Refusing(FakeWriter):
        def next_code_logits(self, context, prefix, beam_index=None):
            logits = super().next_code_logits(context, prefix, beam_index).clone()
            if prefix.shape[2] < 2:
                logits[..., 1:3] = float("-inf")
            return logits

    exclude = torch.tensor([[0, 5], [7, 8]]) if excluding else None
    found = beam_search(
        Refusing(sizes),
        device_trie_of(codes, sizes),
        *history_of([0, 1]),
        SearchOptions(num_beams=50, renormalize=renormalize),
        top_k=9,
        exclude=exclude,
    )
    possible = {item for item, row in enumerate(rows) if not {1, 2} & set(row[:2])}
    for user in range(2):
        expected = possible - set(exclude[user].tolist()) if excluding else possible
        assert {item for item in found.items[user].tolist() if item >= 0} == expected
        assert found.items[user, len(expected) :].tolist() == [-1] * (9 - len(expected))
        assert torch.isfinite(found.scores[user, : len(expected)]).all()


@pytest.mark.parametrize("entries", [0, device_trie.DENSE_ENTRIES])
@pytest.mark.parametrize("advantage", [1, 1000])
def test_sparse_dense_and_full_levels_search_alike(monkeypatch, entries, advantage):
    rng = np.random.default_rng(4)
    sizes = (5, 6, 20)
    grid = unique_codes(rng, 30, (5, 6))
    codes = np.concatenate([np.repeat(grid, 5, axis=0), rng.integers(0, 20, (150, 1), dtype=np.int32)], axis=1)
    usual = device_trie_of(codes, sizes)
    assert [level.full for level in usual.levels] == [True, True, False]
    monkeypatch.setattr(device_trie, "DENSE_ENTRIES", entries)
    monkeypatch.setattr(device_trie, "DENSE_ADVANTAGE", advantage)
    other = device_trie_of(codes, sizes)
    exclude = torch.as_tensor(rng.integers(0, 150, (3, 70)))
    results = [
        beam_search(
            FakeWriter(sizes), trie, *history_of([1, 2, 3]), SearchOptions(num_beams=17), top_k=17, exclude=exclude
        )
        for trie in (usual, other)
    ]
    assert torch.equal(results[0].items, results[1].items)
    assert torch.equal(results[0].scores, results[1].scores)


def test_exclusion_is_the_search_over_each_users_own_catalogue():
    rng = np.random.default_rng(9)
    sizes = (12, 6, 4)
    codes = random_codes(rng, 250, sizes, 0.3)
    trie, model = device_trie_of(codes, sizes), FakeWriter(sizes)
    seen = [rng.choice(250, size, replace=False).tolist() for size in (0, 1, 40, 200, 248, 250)]
    histories = history_of(range(6))
    for renormalize in (False, True):
        together = beam_search(
            model,
            trie,
            *histories,
            SearchOptions(num_beams=10, renormalize=renormalize),
            top_k=10,
            exclude=padded(seen),
        )
        for user, items in enumerate(seen):
            allowed = np.ones(250, dtype=bool)
            allowed[items] = False
            alone = beam_search(
                model,
                trie.filtered(allowed),
                *history_of([user]),
                SearchOptions(num_beams=10, renormalize=renormalize),
                top_k=10,
            )
            assert alone.items[0].tolist() == together.items[user].tolist()
            torch.testing.assert_close(alone.scores[0], together.scores[user])
            assert sum(item >= 0 for item in alone.items[0].tolist()) == min(10, 250 - len(items))


def test_lists_are_full_and_clean_for_many_users():
    rng = np.random.default_rng(11)
    sizes = (4, 8, 16, 3)
    codes = random_codes(rng, 400, sizes, 0.1)
    exclude = torch.as_tensor(rng.integers(-1, 400, (500, 60)))
    found = beam_search(
        FakeWriter(sizes),
        device_trie_of(codes, sizes),
        *history_of(range(500)),
        SearchOptions(num_beams=20),
        top_k=20,
        exclude=exclude,
    )
    assert (found.items >= 0).all()
    assert (found.items.sort(dim=1).values.diff(dim=1) > 0).all()
    assert not (found.items.unsqueeze(2) == exclude.unsqueeze(1)).any()


def test_equal_scores_are_ranked_by_position():
    sizes = (3, 3)
    codes = np.array([[2, 2], [0, 1], [2, 2], [1, 0], [0, 0]])
    model = FakeWriter(sizes, sharpness=0.0)
    found = beam_search(model, device_trie_of(codes, sizes), *history_of([0]), SearchOptions(num_beams=9), top_k=5)
    assert found.items.tolist() == [[0, 1, 2, 3, 4]]
    found = beam_search(
        model,
        device_trie_of(codes, sizes),
        *history_of([0]),
        SearchOptions(num_beams=9),
        top_k=5,
        exclude=torch.tensor([[0, 3]]),
    )
    assert found.items.tolist() == [[1, 2, 4, -1, -1]]


def test_batch_padding_and_order_of_users_change_nothing():
    rng = np.random.default_rng(2)
    sizes = (8, 8, 8)
    codes = unique_codes(rng, 200, sizes)
    trie, model = device_trie_of(codes, sizes), FakeWriter(sizes)
    items = torch.as_tensor(rng.integers(0, 200, (9, 6)))
    lengths = torch.tensor([6, 1, 0, 3, 2, 6, 5, 4, 1])
    exclude = torch.where(torch.arange(6) < lengths[:, None], items, -1)
    options = SearchOptions(num_beams=12)
    whole = beam_search(model, trie, items, lengths, options, top_k=10, exclude=exclude)
    order = torch.as_tensor(rng.permutation(9))
    shuffled = beam_search(model, trie, items[order], lengths[order], options, top_k=10, exclude=exclude[order])
    assert torch.equal(shuffled.items, whole.items[order])
    wide = torch.cat([items, torch.full((9, 4), 7)], dim=1)
    widened = beam_search(
        model, trie, wide, lengths, options, top_k=10, exclude=torch.cat([exclude, exclude * 0 - 1], dim=1)
    )
    assert torch.equal(widened.items, whole.items)
    for row in range(9):
        short = max(int(lengths[row]), 1)
        one = slice(row, row + 1)
        alone = beam_search(
            model, trie, items[one, :short], lengths[one], options, top_k=10, exclude=exclude[one, :short]
        )
        assert torch.equal(alone.items[0], whole.items[row])
        torch.testing.assert_close(alone.scores[0], whole.scores[row], atol=1e-5, rtol=0)


@pytest.mark.parametrize("sizes", [(1,), (5, 1, 9)])
def test_a_catalogue_of_one_item(sizes):
    codes = np.array([[size - 1 for size in sizes]])
    model, trie = FakeWriter(sizes), device_trie_of(codes, sizes)
    found = beam_search(model, trie, *history_of([0, 1]), SearchOptions(num_beams=50), top_k=3)
    assert found.items.tolist() == [[0, -1, -1]] * 2
    found = beam_search(
        model, trie, *history_of([0, 1]), SearchOptions(num_beams=50), top_k=3, exclude=torch.tensor([[0], [-1]])
    )
    assert found.items.tolist() == [[-1] * 3, [0, -1, -1]]


def test_a_filter_that_leaves_nothing_gives_empty_lists():
    codes = unique_codes(np.random.default_rng(0), 9, (4, 4))
    trie = device_trie_of(codes, (4, 4)).filtered(np.zeros(9, dtype=bool))
    found = beam_search(FakeWriter((4, 4)), trie, *history_of([0, 1]), SearchOptions(num_beams=5), top_k=3)
    assert found.items.tolist() == [[-1] * 3] * 2
    assert torch.isneginf(found.scores).all()


def test_identifiers_of_different_lengths():
    """A shorter semantic ID costs only its own codes."""
    sizes = (4, 5, 3)
    codes = np.array([[0, 1, 2], [0, 1, 0], [1, -1, -1], [2, 3, -1], [2, 4, 1], [1, -1, -1], [3, 0, -1]])
    model = FakeWriter(sizes, 5)
    histories = history_of([1, 2, 3])
    scores = score_one_by_one(model, *histories, codes)
    found = beam_search(model, device_trie_of(codes, sizes), *histories, SearchOptions(num_beams=20), top_k=7)
    for user in range(3):
        assert found.items[user].tolist() == rank_plainly(scores[user].round(5), 7)
        np.testing.assert_allclose(found.scores[user], scores[user, found.items[user]], atol=1e-5)
    without = beam_search(
        model,
        device_trie_of(codes, sizes),
        *histories,
        SearchOptions(num_beams=20),
        top_k=7,
        exclude=torch.tensor([[2, 3]] * 3),
    )
    for user in range(3):
        assert without.items[user, :5].tolist() == rank_plainly(scores[user].round(5), 5, [2, 3])


def test_renormalized_probabilities_sum_to_one():
    sizes = (6, 6, 6)
    codes = unique_codes(np.random.default_rng(3), 50, sizes)
    found = beam_search(
        FakeWriter(sizes),
        device_trie_of(codes, sizes),
        *history_of([4, 5]),
        SearchOptions(num_beams=50, renormalize=True),
        top_k=50,
    )
    torch.testing.assert_close(found.scores.exp().sum(1), torch.ones(2))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("step", [0, 2])
def test_broken_logits_name_user_and_step(bad, step):
    sizes = (4, 4, 4)
    codes = unique_codes(np.random.default_rng(3), 20, sizes)

    class Broken(FakeWriter):
        def next_code_logits(self, context, prefix, beam_index=None):
            logits = super().next_code_logits(context, prefix, beam_index).clone()
            if prefix.shape[2] == step:
                logits[1, 0, 2] = bad
            return logits

    with pytest.raises(NonFiniteLogitsError, match=f"NaN or infinite for user 1 at step {step}") as caught:
        beam_search(
            Broken(sizes), device_trie_of(codes, sizes), *history_of([0, 1, 2]), SearchOptions(num_beams=5), top_k=5
        )
    assert (caught.value.user, caught.value.step, caught.value.exit_code) == (1, step, 4)


@pytest.mark.parametrize("wrong", [{"num_beams": 0}, {"top_k": 0}, {"temperature": 0.0}, {"temperature": float("nan")}])
def test_numbers_out_of_range_are_refused(wrong):
    trie, top_k = device_trie_of(np.array([[0]]), (1,)), wrong.get("top_k", 2)
    options = SearchOptions(num_beams=2).model_copy(update=wrong)
    with pytest.raises(ConfigError, match="cannot be used"):
        beam_search(FakeWriter((1,)), trie, *history_of([0]), options, top_k=top_k)


@pytest.mark.parametrize("mode", ["exhaustive", "items", "session"])
def test_modes_without_beams_are_refused(mode):
    trie = device_trie_of(np.array([[0]]), (1,))
    with pytest.raises(ConfigError, match=f"mode: {mode} does not search with beams"):
        beam_search(FakeWriter((1,)), trie, *history_of([0]), SearchOptions(mode=mode), top_k=1)


def test_a_trie_of_another_model_is_refused():
    trie = device_trie_of(np.array([[0, 1], [2, 1]]), (3, 2))
    with pytest.raises(ArtifactError, match="the model writes 4 codes at level 0, the trie has 3"):
        beam_search(FakeWriter((4, 2)), trie, *history_of([0]), SearchOptions(num_beams=2), top_k=2)


def test_the_loop_never_asks_the_device_for_a_value():
    """Under fake tensors every .item(), bool() or data-dependent shape raises."""
    sizes = (4, 40, 5)
    codes = random_codes(np.random.default_rng(0), 90, sizes, 0.2)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        trie, model = device_trie_of(codes, sizes), FakeWriter(sizes)
        model.next_code_logits = lambda context, prefix, beam_index: torch.zeros(
            3, prefix.shape[1], sizes[prefix.shape[2]]
        )
        exclusion = trie.exclusion(mode.from_tensor(torch.zeros(3, 7, dtype=torch.int64)))
        seeds = mode.from_tensor(torch.zeros(3, dtype=torch.int64))
        found = find_leaves(model, trie, None, SearchOptions(num_beams=20), exclusion, seeds)
    assert found.nodes.shape == found.scores.shape == (3, 20)
    assert found.broken.shape == (3, 3)


def test_a_leaf_that_orders_its_items_keeps_that_order_in_lists():
    codes = np.array([[0, 1], [1, 0], [0, 1], [0, 1], [1, 0]], dtype=np.int32)
    priority = np.array([2, 1, 0, 1, 0], dtype=np.int32)
    trie = DeviceTrie(build_trie(codes, (2, 2), priority))
    model, (items, lengths) = FakeWriter((2, 2), seed=4), history_of([0, 1, 2])
    scores = score_one_by_one(model, items, lengths, codes)
    for search in (
        beam_search(model, trie, items, lengths, SearchOptions(num_beams=4), top_k=5),
        exhaustive_search(model, trie, items, lengths, top_k=5),
    ):
        for user in range(3):
            expected = sorted(range(5), key=lambda item: (-round(scores[user, item], 5), priority[item]))
            assert search.items[user].tolist() == expected
    shorter = beam_search(
        model, trie, items, lengths, SearchOptions(num_beams=4), top_k=2, exclude=torch.tensor([[2], [2], [2]])
    )
    for user in range(3):
        allowed = [item for item in range(5) if item != 2]
        expected = sorted(allowed, key=lambda item: (-round(scores[user, item], 5), priority[item]))[:2]
        assert shorter.items[user].tolist() == expected
