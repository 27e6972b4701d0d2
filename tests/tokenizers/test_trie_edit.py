import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.errors import ArtifactError
from genrec.tokenizers.index import ItemIndex
from genrec.tokenizers.trie import Trie, build_trie
from genrec.tokenizers.trie.edit import extend_trie, rank_in_leaf, shrink_trie


def assert_equal_bytes(found: Trie, expected: Trie) -> None:
    """Equal arrays, dtypes included."""
    pairs = [*zip(found.child_start, expected.child_start, strict=True)]
    pairs += zip(found.child_code, expected.child_code, strict=True)
    pairs += [(found.leaf_start, expected.leaf_start), (found.leaf_items, expected.leaf_items)]
    for one, other in pairs:
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert found.level_sizes == expected.level_sizes
    assert found.variable_length == expected.variable_length


def drawn_codes(rng: np.random.Generator, num_items: int, sizes: tuple[int, ...], shorten: float) -> np.ndarray:
    """Crowded semantic IDs; some first (and second) codes end the semantic ID, so that none begins another."""
    codes = np.stack([rng.integers(max(0, size - 6), size, num_items) for size in sizes], axis=1).astype(np.int32)
    ending = rng.random((2, max(sizes))) < shorten
    codes[ending[0][codes[:, 0]], 1:] = -1
    if len(sizes) > 2:
        codes[(codes[:, 1] >= 0) & ending[1][codes[:, 1]], 2:] = -1
    return codes


shapes = st.sampled_from([(5,), (6, 6, 6), (256, 256, 256), (3, 300, 2, 256), (256,) * 9])


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 30), shapes, st.sampled_from([0.0, 0.3]))
@settings(max_examples=300, deadline=None)
def test_adding_items_equals_building_from_all(seed, num_old, num_new, sizes, shorten):
    codes = drawn_codes(np.random.default_rng(seed), num_old + num_new, sizes, shorten)
    assert_equal_bytes(extend_trie(build_trie(codes[:num_old], sizes), codes), build_trie(codes, sizes))


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.floats(0, 1), shapes, st.sampled_from([0.0, 0.3]))
@settings(max_examples=200, deadline=None)
def test_removing_items_equals_building_from_what_is_left(seed, num_items, share, sizes, shorten):
    rng = np.random.default_rng(seed)
    codes = drawn_codes(rng, num_items, sizes, shorten)
    kept = rng.random(num_items) < share
    kept[rng.integers(0, num_items)] = True
    assert_equal_bytes(shrink_trie(build_trie(codes, sizes), kept), build_trie(codes[kept], sizes))


def test_adding_nothing_changes_nothing():
    codes = np.array([[0, 1], [1, 1]], dtype=np.int32)
    trie = build_trie(codes, (2, 2))
    assert extend_trie(trie, codes) is trie


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_an_edited_index_equals_a_new_one(seed):
    rng = np.random.default_rng(seed)
    codes = drawn_codes(rng, 50, (4, 4), 0.2)
    names = [f"i{item}" for item in range(50)]
    order = rng.permutation(30)
    priority = rank_in_leaf(build_trie(codes[:30], (4, 4), order))
    index = ItemIndex(codes[:30], (4, 4), names[:30], priority=priority)
    grown = index.extended(codes[30:], names[30:])
    # New items are after all old ones of their leaf.
    expected = build_trie(codes, (4, 4), np.concatenate([order, np.arange(30, 50)]))
    assert_equal_bytes(grown.trie, expected)
    np.testing.assert_array_equal(grown.priority, rank_in_leaf(expected))
    gone = rng.choice(50, 20, replace=False)
    left = grown.without(gone)
    stays = np.setdiff1d(np.arange(50), gone)
    again = ItemIndex(codes[stays], (4, 4), [names[item] for item in stays], priority=left.priority)
    assert_equal_bytes(left.trie, again.trie)
    assert left.fingerprint == again.fingerprint
    ranks = [(tuple(codes[item]), grown.priority[item]) for item in stays]
    assert sorted(range(30), key=lambda row: ranks[row]) == sorted(
        range(30), key=lambda row: (tuple(codes[stays[row]]), left.priority[row])
    )


@pytest.fixture
def index() -> ItemIndex:
    return ItemIndex(np.array([[0, 1, 2], [1, -1, -1]]), (4, 4, 4), ["a", "b"])


@pytest.mark.parametrize(
    ("codes", "names", "message"),
    [
        ([[0, 4, 0]], ["c"], "code 4 at level 1 of item 0\n  where: row 0\n  expected: codes 0 to 3"),
        ([[0, 1]], ["c"], "codes have 2 levels but there are 3 level sizes"),
        ([[0, 1, 1]], ["c", "d"], "codes have 1 rows but there are 2 item ids"),
        ([[0, 1, 1]], ["a"], "item id 'a' is 2 times"),
        ([[0, 1, -1]], ["c"], "the semantic ID of item 2 is the beginning of another"),
        ([[1, 2, 2]], ["c"], "the semantic ID of item 1 is the beginning of another"),
    ],
)
def test_items_that_cannot_be_added_are_refused(index, codes, names, message):
    with pytest.raises(ArtifactError, match=message):
        index.extended(np.array(codes), names)


def test_items_that_cannot_be_removed_are_refused(index):
    with pytest.raises(ArtifactError, match="there is no item 2\n  expected: items 0 to 1"):
        index.without(np.array([0, 2]))
    with pytest.raises(ArtifactError, match="no item would be left"):
        index.without(np.array([1, 0]))


def test_a_thousand_items_join_a_million_without_sorting_them_again():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (1_001_000, 4), dtype=np.int32)
    trie = build_trie(codes[:1_000_000], (256,) * 4)
    start = time.process_time()
    grown = extend_trie(trie, codes)
    extending = time.process_time() - start
    start = time.process_time()
    expected = build_trie(codes, (256,) * 4)
    building = time.process_time() - start
    assert_equal_bytes(grown, expected)
    assert extending < building
