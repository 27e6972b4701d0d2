"""Groups of beams, the length penalty and the other options of a search, against plain Python."""

import numpy as np
import pytest
import torch
from fake_models import FakeWriter, history_of, random_codes, score_one_by_one, unique_codes

from genrec.decoding import DeviceTrie, SearchOptions, beam_search, exhaustive_search
from genrec.decoding.selection import beams_per_row
from genrec.errors import ConfigError
from genrec.tokenizers.trie import build_trie

SIZES = (6, 5, 4)


def device_trie_of(codes, sizes=SIZES) -> DeviceTrie:
    return DeviceTrie(build_trie(codes, sizes))


def groups_plainly(model, history, codes, options: SearchOptions, forbidden=()) -> dict:
    """Diverse beam search of one user over tuples: semantic ID -> best score with its penalties."""
    context = model.encode(*history)
    left = [tuple(row) for item, row in enumerate(codes.tolist()) if item not in set(forbidden)]
    groups = [[(0.0, ())] for _ in range(options.beam_groups)]
    for level in range(codes.shape[1]):
        legal = {row[: level + 1] for row in left}
        used = dict.fromkeys(range(model.level_sizes[level]), 0)
        for number, beams in enumerate(groups):
            grown = []
            for score, prefix in beams:
                known = torch.tensor(prefix, dtype=torch.int64).reshape(1, 1, level)
                values = torch.log_softmax(model.next_code_logits(context, known, None)[0, 0].double(), -1)
                grown += [
                    (score + float(values[code]) - options.diversity_penalty * count, (*prefix, code))
                    for code, count in used.items()
                    if (*prefix, code) in legal
                ]
            groups[number] = sorted(grown, reverse=True)[: beams_per_row(options)]
            for _, prefix in groups[number]:
                used[prefix[-1]] += 1
    found: dict = {}
    for beams in groups:
        for score, prefix in beams:
            found[prefix] = max(score, found.get(prefix, -np.inf))
    return found


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("penalty", [0.0, 0.3, 5.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_groups_equal_a_plain_search_group_after_group(groups, penalty, seed):
    rng = np.random.default_rng(seed)
    codes = random_codes(rng, 60, SIZES, 0.2)
    model, trie = FakeWriter(SIZES, seed), device_trie_of(codes)
    options = SearchOptions(num_beams=8, beam_groups=groups, diversity_penalty=penalty if groups > 1 else 0.0)
    seen = [rng.choice(60, 15, replace=False).tolist() for _ in range(3)]
    together = beam_search(model, trie, *history_of(range(3)), options, top_k=60, exclude=torch.tensor(seen))
    for user in range(3):
        expected = groups_plainly(model, history_of([user]), codes, options, seen[user])
        items = [item for item in together.items[user].tolist() if item >= 0]
        assert {tuple(codes[item]) for item in items} == set(expected)
        assert len(items) == len(set(items))
        assert not set(items) & set(seen[user])
        np.testing.assert_allclose(
            together.scores[user, : len(items)], [expected[tuple(codes[item])] for item in items], atol=1e-5
        )


def test_one_group_without_penalty_is_the_plain_search():
    codes = random_codes(np.random.default_rng(3), 80, SIZES, 0.1)
    model, trie, histories = FakeWriter(SIZES), device_trie_of(codes), history_of(range(6))
    plain = beam_search(model, trie, *histories, SearchOptions(num_beams=10), top_k=10)
    found = beam_search(model, trie, *histories, SearchOptions(num_beams=10, beam_groups=1), top_k=10)
    assert torch.equal(found.items, plain.items)
    assert torch.equal(found.scores, plain.scores)
    same_groups = beam_search(model, trie, *histories, SearchOptions(num_beams=20, beam_groups=2), top_k=10)
    assert torch.equal(same_groups.items, plain.items)


def test_a_penalty_makes_lists_more_diverse():
    codes = unique_codes(np.random.default_rng(5), 100, SIZES)
    model, trie, histories = FakeWriter(SIZES), device_trie_of(codes), history_of(range(30))

    def first_codes(penalty: float) -> float:
        options = SearchOptions(num_beams=12, beam_groups=4, diversity_penalty=penalty)
        found = beam_search(model, trie, *histories, options, top_k=4).items
        return float(np.mean([len({int(codes[item, 0]) for item in row if item >= 0}) for row in found]))

    assert first_codes(0.0) < first_codes(0.5) < first_codes(20.0)


def test_groups_that_do_not_divide_the_beams_are_refused():
    with pytest.raises(ValueError, match="beam_groups 3 must divide num_beams 10"):
        SearchOptions(num_beams=10, beam_groups=3)
    changed = SearchOptions(num_beams=12, beam_groups=3).model_copy(update={"num_beams": 10})
    with pytest.raises(ConfigError, match="3 groups cannot share 10 beams"):
        beam_search(FakeWriter((1,)), device_trie_of(np.array([[0]]), (1,)), *history_of([0]), changed, top_k=1)


def shortened_codes(rng: np.random.Generator, num_items: int) -> np.ndarray:
    codes = random_codes(rng, num_items, SIZES)
    codes[codes[:, 0] == 2, 1:] = -1
    codes[(codes[:, 1] == 3), 2:] = -1
    return codes


@pytest.mark.parametrize("penalty", [0.5, 1.0, 2.0])
def test_length_penalty_ranks_by_the_mean_over_codes(penalty):
    codes = shortened_codes(np.random.default_rng(7), 50)
    model, trie, histories = FakeWriter(SIZES, 2), device_trie_of(codes), history_of(range(5))
    scores = score_one_by_one(model, *histories, codes) / (codes >= 0).sum(1) ** penalty
    options = SearchOptions(num_beams=60, length_penalty=penalty)
    searches = [
        beam_search(model, trie, *histories, options, top_k=50),
        exhaustive_search(model, trie, *histories, options, top_k=50),
        exhaustive_search(model, trie, *histories, options, top_k=50, max_nodes=3),
    ]
    for found in searches:
        for user in range(5):
            assert sorted(found.items[user].tolist()) == list(range(50))
            np.testing.assert_allclose(found.scores[user], scores[user, found.items[user]], atol=1e-5)
            assert (found.scores[user].diff() <= 0).all()


def test_length_penalty_compares_beams_while_they_grow():
    """Of one beam: the shorter semantic ID wins by its sum, the longer one by its mean."""
    first = torch.tensor([0.45, 0.55]).log()

    class Tabulated:
        def encode(self, items, lengths):
            return None

        def next_code_logits(self, context, prefix, beam_index=None):
            sure = torch.tensor([[[0.0, float("-inf")]]])
            return first[None, None] if prefix.shape[2] == 0 else sure.expand(1, prefix.shape[1], 2)

    codes = np.array([[0, 0, 0], [1, -1, -1]])
    trie = device_trie_of(codes, (2, 2, 2))
    found = beam_search(Tabulated(), trie, *history_of([0]), SearchOptions(num_beams=2), top_k=2)
    assert found.items.tolist() == [[1, 0]]
    found = beam_search(Tabulated(), trie, *history_of([0]), SearchOptions(num_beams=2, length_penalty=1.0), top_k=2)
    assert found.items.tolist() == [[0, 1]]
    np.testing.assert_allclose(found.scores[0], [np.log(0.45) / 3, np.log(0.55)], rtol=1e-6)
