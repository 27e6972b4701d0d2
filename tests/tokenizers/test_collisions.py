"""Collision policies on hand-worked catalogues and against brute force."""

import itertools

import numpy as np
import pytest

from genrec.errors import DataError
from genrec.tokenizers.collisions import (
    Catalogue,
    count_collisions,
    group_of,
    prefix_groups,
    rank_in_group,
    reassign,
    resolve_collisions,
)

# Items 0, 2 and 5 share (1, 1); items 1 and 4 share (0, 2); item 3 is alone.
CODES = np.array([[1, 1], [0, 2], [1, 1], [2, 0], [0, 2], [1, 1]], dtype=np.int32)
SIZES = (3, 4)
POPULARITY = np.array([5, 1, 9, 7, 3, 5])
COSTS = np.array(
    [
        [3.0, 1.0, 2.0, 4.0],
        [9.0, 8.0, 2.0, 3.0],
        [5.0, 0.5, 1.5, 1.0],
        [0.0, 9.0, 9.0, 9.0],
        [6.0, 5.0, 1.0, 7.0],
        [2.5, 2.0, 2.1, 2.2],
    ]
)


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue([f"i{n}" for n in range(6)], POPULARITY, lambda rows: COSTS[rows])


def test_counting():
    assert count_collisions(CODES) == {
        "identifiers": 3,
        "colliding_items": 5,
        "collision_rate": pytest.approx(0.5),
        "largest_bucket": 3,
    }


def test_suffix_numbers_items_in_their_order(catalogue):
    resolved = resolve_collisions("suffix", CODES, SIZES, catalogue)
    assert resolved.codes.tolist() == [[1, 1, 0], [0, 2, 0], [1, 1, 1], [2, 0, 0], [0, 2, 1], [1, 1, 2]]
    assert resolved.level_sizes == (3, 4, 3), "the level is as large as the largest group"
    assert resolved.report["before"]["collision_rate"] == pytest.approx(0.5)
    assert resolved.report["after"] == {
        "identifiers": 6,
        "colliding_items": 0,
        "collision_rate": 0.0,
        "largest_bucket": 1,
    }


def test_suffix_adds_no_level_where_nothing_collides(catalogue):
    resolved = resolve_collisions("suffix", CODES[[0, 1, 3]], SIZES, catalogue_of(3))
    assert resolved.codes.tolist() == [[1, 1], [0, 2], [2, 0]]
    assert resolved.level_sizes == SIZES


def test_bucket_keeps_codes_and_orders_by_training_popularity_then_position(catalogue):
    resolved = resolve_collisions("bucket", CODES, SIZES, catalogue)
    np.testing.assert_array_equal(resolved.codes, CODES)
    assert resolved.level_sizes == SIZES
    # (1, 1): item 2 has 9, items 0 and 5 have 5 each; (0, 2): item 4 has 3, item 1 has 1.
    assert resolved.priority.tolist() == [1, 1, 0, 0, 0, 2]
    assert resolved.report["after"]["largest_bucket"] == 3


def test_error_names_items(catalogue):
    with pytest.raises(DataError, match="5 items share their codes with another item, 3 of them 'i0', 'i2', 'i5'"):
        resolve_collisions("error", CODES, SIZES, catalogue)
    assert resolve_collisions("error", CODES[[0, 1, 3]], SIZES, catalogue_of(3)).report["policy"] == "error"


def test_reassign_by_hand(catalogue):
    resolved = resolve_collisions("reassign", CODES, SIZES, catalogue)
    # (1, *): item 2 keeps 1 (cost .5); of the others item 0 (own cost 1) chooses first: 2; item 5 takes 3 (2.2).
    # (0, *): item 4 keeps 2 (cost 1), item 1 takes 3.
    assert resolved.codes.tolist() == [[1, 2], [0, 3], [1, 1], [2, 0], [0, 2], [1, 3]]
    assert resolved.report["reassigned_items"] == 3
    assert resolved.report["after"]["collision_rate"] == 0.0
    assert resolved.level_sizes == SIZES


def test_reassign_never_takes_a_code_that_an_item_alone_has():
    codes = np.array([[0, 0], [0, 0], [0, 1]], dtype=np.int32)
    costs = np.array([[0.0, 1.0, 9.0], [0.1, 1.0, 9.0], [9.0, 5.0, 9.0]])
    assert reassign(codes, (1, 3), lambda rows: costs[rows]).tolist() == [[0, 0], [0, 2], [0, 1]]


def test_reassign_with_many_blocks_equals_one_block(monkeypatch):
    random = np.random.default_rng(0)
    codes = random.integers(6, size=(400, 3)).astype(np.int32)
    costs = random.random((400, 30))
    codes[:, 2] = costs.argmin(axis=1)
    whole = reassign(codes, (6, 6, 30), lambda rows: costs[rows])
    monkeypatch.setattr("genrec.tokenizers.collisions.REASSIGN_ELEMENTS", 20 * 30)
    sizes = []
    split = reassign(codes, (6, 6, 30), lambda rows: sizes.append(len(rows)) or costs[rows])
    np.testing.assert_array_equal(whole, split)
    assert len(sizes) > 5
    assert len(np.unique(whole, axis=0)) == 400
    assert (whole[:, :2] == codes[:, :2]).all()
    alone = np.array([(codes == row).all(axis=1).sum() == 1 for row in codes])
    np.testing.assert_array_equal(whole[alone], codes[alone])
    for code in map(tuple, np.unique(codes, axis=0).tolist()):
        members = np.flatnonzero((codes == code).all(axis=1))
        best = members[costs[members, code[2]].argmin()]
        assert whole[best, 2] == code[2], "the item that fits a code best keeps it"


def test_reassign_refuses_a_prefix_with_more_items_than_codes():
    codes = np.zeros((4, 2), dtype=np.int32)
    with pytest.raises(DataError, match=r"4 items share the codes \[0\] but the last level has 3 codes") as caught:
        reassign(codes, (2, 3), lambda rows: np.zeros((len(rows), 3)))
    assert "collisions: suffix" in str(caught.value)


def test_reassign_with_one_level():
    codes = np.array([[2], [2], [0]], dtype=np.int32)
    costs = np.array([[3.0, 2.0, 1.0], [3.0, 2.5, 1.5], [0.0, 1.0, 2.0]])
    assert reassign(codes, (3,), lambda rows: costs[rows]).tolist() == [[2], [1], [0]]


def test_rank_in_group_equals_brute_force():
    random = np.random.default_rng(1)
    group, popularity = random.integers(7, size=60), random.integers(4, size=60)
    rank = rank_in_group(group, popularity)
    for first, second in itertools.combinations(range(60), 2):
        if group[first] == group[second]:
            assert (rank[first] < rank[second]) == (popularity[first] >= popularity[second])
    assert all(sorted(rank[group == g].tolist()) == list(range((group == g).sum())) for g in np.unique(group))


def catalogue_of(size: int) -> Catalogue:
    return Catalogue([f"i{n}" for n in range(size)], np.ones(size, dtype=np.int64), lambda rows: COSTS[rows])


def test_groups_are_numbered_as_sorted_rows_at_every_depth():
    codes = np.random.default_rng(1).integers(-1, 4, (200, 4))
    for depth, group in enumerate(prefix_groups(codes), 1):
        expected = np.unique(codes[:, :depth], axis=0, return_inverse=True)[1].reshape(-1)
        np.testing.assert_array_equal(group, expected)
    np.testing.assert_array_equal(group_of(codes), expected)
    assert group_of(codes[:, :0]).tolist() == [0] * 200
