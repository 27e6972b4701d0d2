"""Samples: without replacement with the model's own probabilities, and from the nucleus."""

import itertools

import numpy as np
import pytest
import torch
from fake_models import FakeWriter, history_of, random_codes, score_one_by_one, unique_codes
from scipy import stats

from genrec.decoding import DeviceTrie, SearchOptions, beam_search, device_trie, sample_items, walk_trie
from genrec.decoding.counter_rng import gumbel, stream, user_keys
from genrec.decoding.selection import condition_on_largest
from genrec.errors import ConfigError
from genrec.tokenizers.trie import build_trie

SIZES = (3, 4, 2)


def trie_of_codes(codes, sizes=SIZES) -> DeviceTrie:
    return DeviceTrie(build_trie(codes, sizes))


def same_user(times: int, user: int = 5):
    """One history many times over, each time with a seed of its own."""
    return (*history_of([user] * times), torch.arange(times))


def item_probabilities(model, trie: DeviceTrie, user: int = 5, temperature: float = 1.0) -> np.ndarray:
    """p(item): what the legal leaves have, shared by the items of a leaf; from walking the trie."""
    leaves = (
        walk_trie(model, trie, *history_of([user]), SearchOptions(renormalize=True, temperature=temperature))[0]
        .double()
        .exp()
    )
    counts = np.diff(trie.trie.leaf_start)
    probabilities = np.zeros(trie.num_items)
    probabilities[trie.trie.leaf_items] = np.repeat(leaves.numpy() / counts, counts)
    return probabilities / probabilities.sum()


def inclusion_probabilities(probabilities: np.ndarray, size: int) -> np.ndarray:
    """P(item among the first ``size`` draws without replacement), by summing over all ordered samples."""
    included = np.zeros(len(probabilities))
    for drawn in itertools.permutations(range(len(probabilities)), size):
        probability, left = 1.0, 1.0
        for item in drawn:
            probability *= probabilities[item] / left
            left -= probabilities[item]
        included[list(drawn)] += probability
    return included


def test_inclusion_frequencies_are_those_of_sampling_without_replacement():
    codes = unique_codes(np.random.default_rng(0), 7, SIZES)
    model, trie, draws = FakeWriter(SIZES, 3, sharpness=1.0), trie_of_codes(codes), 20_000
    items, lengths, seeds = same_user(draws)
    probabilities = item_probabilities(model, trie)
    for size in (1, 3):
        found = sample_items(
            model, trie, items, lengths, SearchOptions(num_beams=size, mode="stochastic", seed=7), seeds=seeds
        ).items
        counts = np.bincount(found.flatten(), minlength=7)
        included = inclusion_probabilities(probabilities, size)
        variance = draws * included * (1 - included)
        assert stats.chi2.sf(((counts - draws * included) ** 2 / variance).max(), df=1) > 1e-5
    # One draw: the multinomial test over all items at once.
    first = np.bincount(
        sample_items(
            model, trie, items, lengths, SearchOptions(num_beams=1, mode="stochastic", seed=0), seeds=seeds
        ).items[:, 0],
        minlength=7,
    )
    assert stats.chisquare(first, draws * probabilities).pvalue > 1e-4


def test_the_order_of_a_sample_is_that_of_drawing_one_after_another():
    """P(first = i, second = j) = p_i p_j / (1 - p_i), with exclusion and a shared leaf."""
    codes = np.array([[0, 1, 0], [0, 1, 0], [1, 0, 1], [2, 3, 1], [2, 3, 0], [0, 1, 0]])
    model, trie, draws = FakeWriter(SIZES, 1, sharpness=0.7), trie_of_codes(codes), 20_000
    items, lengths, seeds = same_user(draws)
    exclude = torch.full((draws, 1), 5)
    drawn = sample_items(
        model,
        trie,
        items,
        lengths,
        SearchOptions(num_beams=2, mode="stochastic", temperature=1.5, seed=0),
        seeds=seeds,
        exclude=exclude,
    ).items
    without = trie.filtered(np.arange(6) != 5)
    p = item_probabilities(model, without, temperature=1.5)
    assert p[5] == 0
    pairs = [(i, j) for i, j in itertools.permutations(range(5), 2)]
    counts = np.array([int(((drawn[:, 0] == i) & (drawn[:, 1] == j)).sum()) for i, j in pairs])
    expected = np.array([draws * p[i] * p[j] / (1 - p[i]) for i, j in pairs])
    assert counts.sum() == draws
    assert stats.chisquare(counts, expected).pvalue > 1e-4


def test_keys_are_gumbel_variables_around_the_log_probabilities():
    """With all items drawn the keys are independent Gumbel variables: key - log p is standard."""
    codes = random_codes(np.random.default_rng(2), 9, SIZES, 0.3)
    model, trie, draws = FakeWriter(SIZES, 4, sharpness=1.0), trie_of_codes(codes), 4000
    items, lengths, seeds = same_user(draws)
    found = sample_items(
        model, trie, items, lengths, SearchOptions(num_beams=9, mode="stochastic", seed=0), seeds=seeds
    )
    np.testing.assert_array_equal(found.items.sort(dim=1).values, np.tile(np.arange(9), (draws, 1)))
    assert (found.keys.diff(dim=1) <= 0).all()
    probabilities = item_probabilities(model, trie)
    np.testing.assert_allclose(found.log_probs.exp(), probabilities[found.items], rtol=1e-4)
    standard = (found.keys - found.log_probs).gather(1, found.items.argsort(dim=1)).numpy()
    for item in range(9):
        assert stats.kstest(standard[:, item], stats.gumbel_r.cdf).pvalue > 1e-4
    correlations = np.corrcoef(standard.T) - np.eye(9)
    assert np.abs(correlations).max() < 5 / np.sqrt(draws)


def test_conditioned_variables_keep_their_order_and_reach_the_largest():
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(4, 6, 8, generator=generator) * 5
    keys[0, 0, 3:] = float("-inf")
    keys[1, 1] = float("-inf")
    largest = torch.randn(4, 6, generator=generator) * 5
    largest[2, 2] = float("-inf")
    moved = condition_on_largest(keys, largest)
    assert not moved.isnan().any()
    dead = keys.isneginf().all(-1) | largest.isneginf()
    assert moved[dead].isneginf().all()
    torch.testing.assert_close(moved.amax(-1)[~dead], largest[~dead])
    assert torch.equal(moved.isneginf()[~dead], keys.isneginf()[~dead])
    ordered = moved.gather(-1, keys.argsort(dim=-1))[~dead].nan_to_num(neginf=-1e9)
    assert (ordered.diff(dim=-1) >= -1e-5).all()


def test_noise_is_gumbel_and_independent_of_neighbors():
    keys = stream(user_keys(3, torch.arange(200))[:, None], torch.arange(500))
    values = gumbel(keys).numpy()
    assert stats.kstest(values.ravel(), stats.gumbel_r.cdf).pvalue > 1e-3
    assert abs(np.corrcoef(values[:-1].ravel(), values[1:].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(values[:, :-1].ravel(), values[:, 1:].ravel())[0, 1]) < 0.02
    assert len(np.unique(keys)) == keys.numel()
    assert not torch.equal(user_keys(3, torch.arange(9)), user_keys(4, torch.arange(9)))


@pytest.mark.parametrize("mode", ["stochastic", "nucleus"])
def test_batch_padding_and_order_change_no_draw(mode):
    rng = np.random.default_rng(2)
    codes = random_codes(rng, 60, SIZES, 0.2)
    trie, model = trie_of_codes(codes), FakeWriter(SIZES)
    items, lengths = torch.as_tensor(rng.integers(0, 60, (9, 6))), torch.tensor([6, 1, 0, 3, 2, 6, 5, 4, 1])
    options = SearchOptions(num_beams=8, mode=mode, top_p=0.9, seed=5)
    whole = beam_search(model, trie, items, lengths, options, top_k=8)
    wide = torch.cat([items, torch.full((9, 4), 7)], dim=1)
    assert torch.equal(beam_search(model, trie, wide, lengths, options, top_k=8).items, whole.items)
    order = torch.as_tensor(rng.permutation(9))
    assert torch.equal(
        beam_search(model, trie, items[order], lengths[order], options, top_k=8).items, whole.items[order]
    )
    for row in range(9):
        one = slice(row, row + 1)
        alone = beam_search(model, trie, items[one, : max(int(lengths[row]), 1)], lengths[one], options, top_k=8)
        assert torch.equal(alone.items[0], whole.items[row])
        torch.testing.assert_close(alone.scores[0], whole.scores[row], atol=1e-5, rtol=0)
    again = beam_search(model, trie, items, lengths, options, top_k=8)
    assert torch.equal(again.items, whole.items)
    other = beam_search(model, trie, items, lengths, options.model_copy(update={"seed": 6}), top_k=8)
    assert not torch.equal(other.items, whole.items)
    seeds = torch.arange(9)
    own = beam_search(model, trie, items, lengths, options, top_k=8, seeds=seeds)
    assert not torch.equal(own.items, whole.items)


def test_more_samples_extend_fewer_however_levels_are_stored(monkeypatch):
    codes = random_codes(np.random.default_rng(8), 70, (9, 5, 4), 0.2)
    model, histories = FakeWriter((9, 5, 4)), history_of(range(5))
    many = sample_items(
        model, trie_of_codes(codes, (9, 5, 4)), *histories, SearchOptions(num_beams=30, mode="stochastic", seed=1)
    )
    few = sample_items(
        model, trie_of_codes(codes, (9, 5, 4)), *histories, SearchOptions(num_beams=4, mode="stochastic", seed=1)
    )
    assert torch.equal(few.items, many.items[:, :4])
    monkeypatch.setattr(device_trie, "DENSE_ENTRIES", 0)
    sparse = sample_items(
        model, trie_of_codes(codes, (9, 5, 4)), *histories, SearchOptions(num_beams=30, mode="stochastic", seed=1)
    )
    assert torch.equal(sparse.items, many.items)


def test_users_with_fewer_items_than_samples():
    codes = unique_codes(np.random.default_rng(3), 5, SIZES)
    trie, model = trie_of_codes(codes), FakeWriter(SIZES)
    exclude = torch.tensor([[0, 1, 2, 3, 4], [1, 3, -1, -1, -1]])
    found = sample_items(
        model, trie, *history_of([1, 2]), SearchOptions(num_beams=7, mode="stochastic", seed=0), exclude=exclude
    )
    assert found.items.shape == found.keys.shape == found.log_probs.shape == (2, 7)
    assert found.items[0].tolist() == [-1] * 7
    assert set(found.items[1, :3].tolist()) == {0, 2, 4}
    assert found.items[1, 3:].tolist() == [-1] * 4
    assert found.keys[1, 3:].isneginf().all()
    torch.testing.assert_close(found.log_probs[1, :3].exp().sum(), torch.tensor(1.0))
    empty = sample_items(
        model,
        trie.filtered(np.zeros(5, dtype=bool)),
        *history_of([1]),
        SearchOptions(num_beams=2, mode="stochastic", seed=0),
    )
    assert empty.items.tolist() == [[-1, -1]]
    options = SearchOptions(num_beams=2, mode="stochastic")
    with pytest.raises(ConfigError, match="cannot be used"):
        sample_items(model, trie, *history_of([1]), options.model_copy(update={"num_beams": 0}))
    with pytest.raises(ConfigError, match="mode: nucleus does not sample without replacement"):
        sample_items(model, trie, *history_of([1]), SearchOptions(num_beams=2, mode="nucleus"))


def nucleus_plainly(probabilities: dict, top_p: float) -> dict:
    """What may be drawn and with which probability, one prefix after another, in plain Python."""
    reached: dict = {(): 1.0}
    for level in range(3):
        grown: dict = {}
        for prefix, mass in reached.items():
            children: dict = {}
            for path, probability in probabilities.items():
                if path[:level] == prefix:
                    children[path[: level + 1]] = children.get(path[: level + 1], 0.0) + probability
            total, kept, covered = sum(children.values()), {}, 0.0
            for child, probability in sorted(children.items(), key=lambda pair: -pair[1]):
                if covered / total < top_p:
                    kept[child] = probability
                    covered += probability
            grown |= {child: mass * probability / covered for child, probability in kept.items()}
        reached = grown
    return reached


@pytest.mark.parametrize("top_p", [0.3, 0.7, 1.0])
def test_nucleus_samples_are_drawn_from_the_likeliest_codes_only(top_p):
    codes = unique_codes(np.random.default_rng(1), 12, SIZES)
    model, trie, draws = FakeWriter(SIZES, 6, sharpness=1.0), trie_of_codes(codes), 5000
    probabilities = item_probabilities(model, trie)
    expected = nucleus_plainly({tuple(code): float(p) for code, p in zip(codes, probabilities, strict=True)}, top_p)
    items, lengths, seeds = same_user(draws)
    options = SearchOptions(num_beams=1, mode="nucleus", top_p=top_p)
    found = beam_search(model, trie, items, lengths, options, top_k=1, seeds=seeds).items[:, 0]
    counts = np.bincount(found, minlength=12)
    share = np.array([expected.get(tuple(code), 0.0) for code in codes])
    assert (counts[share == 0] == 0).all()
    if (share > 0).sum() > 1:
        assert stats.chisquare(counts[share > 0], draws * share[share > 0]).pvalue > 1e-4


def test_nucleus_lists_hold_each_item_once_with_its_log_probability():
    codes = random_codes(np.random.default_rng(5), 30, SIZES, 0.2)
    model, trie = FakeWriter(SIZES, 2, sharpness=1.0), trie_of_codes(codes)
    exclude = torch.tensor([[3, 4, 5, -1]] * 20)
    found = beam_search(
        model,
        trie,
        *history_of(range(20)),
        SearchOptions(num_beams=15, mode="nucleus", top_p=0.8),
        top_k=15,
        exclude=exclude,
    )
    for user in range(20):
        items = [item for item in found.items[user].tolist() if item >= 0]
        assert items
        assert len(items) == len(set(items))
        assert not {3, 4, 5} & set(items)
        assert found.items[user, len(items) :].eq(-1).all()
        left = trie.filtered(~np.isin(np.arange(30), [3, 4, 5]))
        leaves = walk_trie(model, left, *history_of([user]), SearchOptions(renormalize=True))[0]
        by_item = dict(
            zip(
                left.trie.leaf_items.tolist(),
                leaves.repeat_interleave(torch.as_tensor(np.diff(left.trie.leaf_start))).tolist(),
                strict=True,
            )
        )
        np.testing.assert_allclose(found.scores[user, : len(items)], [by_item[item] for item in items], atol=1e-5)
        assert (found.scores[user, : len(items)].diff() <= 0).all()


def test_samples_of_sharp_models_are_their_beams():
    """Where one continuation has all the probability, every search finds it."""
    codes = unique_codes(np.random.default_rng(1), 12, SIZES)
    model, trie, histories = FakeWriter(SIZES, 6, sharpness=300.0), trie_of_codes(codes), history_of(range(8))
    best = beam_search(model, trie, *histories, SearchOptions(num_beams=12, renormalize=True), top_k=1)
    sure = best.scores[:, 0] > -1e-6
    assert sure.sum() >= 4
    for mode in ("stochastic", "nucleus"):
        found = beam_search(model, trie, *histories, SearchOptions(num_beams=3, mode=mode, top_p=0.9), top_k=1)
        assert torch.equal(found.items[sure], best.items[sure])
    assert np.isfinite(score_one_by_one(model, *histories, codes)).all()
