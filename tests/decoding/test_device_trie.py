import numpy as np
import pytest
import torch
from fake_models import random_codes
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.decoding import DeviceTrie
from genrec.decoding.device_trie import filter_trie
from genrec.errors import ConfigError
from genrec.tokenizers.trie import build_trie


@given(st.integers(0, 2**32 - 1), st.integers(1, 70), st.floats(0, 1), st.booleans())
@settings(max_examples=100, deadline=None)
def test_filtering_equals_building_from_what_is_left(seed, num_items, share, shorten):
    rng = np.random.default_rng(seed)
    sizes = (5, 7, 3)
    codes = random_codes(rng, num_items, sizes, 0.3)
    if shorten:
        codes[codes[:, 0] == 2, 1:] = -1
        codes[codes[:, 1] == 3, 2] = -1
    allowed = rng.random(num_items) < share
    allowed[rng.integers(0, num_items)] = True
    found = filter_trie(build_trie(codes, sizes), allowed)
    expected = build_trie(codes[allowed], sizes)
    pairs = [*zip(found.child_start, expected.child_start, strict=True), (found.leaf_start, expected.leaf_start)]
    pairs += zip(found.child_code, expected.child_code, strict=True)
    for one, other in pairs:
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(found.leaf_items, np.flatnonzero(allowed)[expected.leaf_items])


def test_filtering_away_everything_leaves_an_empty_trie():
    trie = filter_trie(build_trie(np.array([[0, 1], [1, 1]]), (2, 2)), np.zeros(2, dtype=bool))
    assert trie.num_leaves == trie.num_items == 0
    assert DeviceTrie(trie, num_items=2).num_items == 2


@pytest.mark.parametrize("mask", [np.ones(3, dtype=bool), np.ones(2, dtype=int), np.ones((2, 1), dtype=bool)])
def test_a_filter_that_does_not_fit_is_refused(mask):
    trie = DeviceTrie(build_trie(np.array([[0, 1], [1, 1]]), (2, 2)))
    with pytest.raises(ConfigError, match=r"expected: one bool per item, 2 in all"):
        trie.filtered(mask)


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_banned_edges_are_those_with_nothing_left_below(seed, share):
    rng = np.random.default_rng(seed)
    sizes = (3, 4, 2)
    codes = random_codes(rng, 40, sizes, 0.3)
    allowed = rng.random(40) < 0.7
    allowed[0] = True
    trie = DeviceTrie(build_trie(codes, sizes)).filtered(allowed)
    seen = [np.flatnonzero(rng.random(40) < share), rng.integers(0, 40, 6)]
    width = max(map(len, seen))
    rows = [[*items.tolist(), *[-1] * (width - len(items))] for items in seen]
    exclusion = trie.exclusion(torch.tensor(rows, dtype=torch.int64).reshape(2, width))
    if width == 0:
        assert exclusion is None
        return
    for user in range(2):
        left = {item for item in np.flatnonzero(allowed).tolist() if item not in set(seen[user].tolist())}
        prefixes = [()]
        for depth in range(3):
            children = sorted({(*codes[item, : depth + 1].tolist(),) for item in np.flatnonzero(allowed)})
            alive = {(*codes[item, : depth + 1].tolist(),) for item in left}
            expected = {(prefixes.index(child[:-1]), child[-1]) for child in children if child not in alive}
            edges = zip(exclusion.parents[depth][user].tolist(), exclusion.codes[depth][user].tolist(), strict=True)
            assert {edge for edge in edges if edge[0] >= 0} == expected
            prefixes = children
        every = torch.arange(40).unsqueeze(0).expand(2, -1)
        assert set(every[user][exclusion.contains(every)[user]].tolist()) == set(seen[user].tolist())


def test_a_nearly_full_level_is_dense_and_a_thin_one_sparse():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (60_000, 3), dtype=np.int32)
    trie = DeviceTrie(build_trie(codes, (256,) * 3))
    assert trie.levels[0].full
    assert trie.levels[1].legal_mask is not None
    assert trie.levels[2].legal_mask is None
    assert trie.levels[2].choices == trie.levels[2].width < 64
    assert trie.nbytes < trie.trie.nbytes + 70_000
