import time
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.errors import ArtifactError
from genrec.tokenizers.trie import Trie, build_trie


def walk(trie: Trie) -> dict[tuple[int, ...], list[int]]:
    """Read a trie back by following its arrays node by node: semantic ID -> items."""
    found: dict[tuple[int, ...], list[int]] = {}

    def visit(depth: int, node: int, path: tuple[int, ...]) -> None:
        if depth == trie.num_levels:
            found[path] = trie.leaf_items[trie.leaf_start[node] : trie.leaf_start[node + 1]].tolist()
            return
        first, last = trie.child_start[depth][node], trie.child_start[depth][node + 1]
        codes = trie.child_code[depth][first:last].tolist()
        assert codes == sorted(set(codes))
        assert codes
        for child, code in zip(range(first, last), codes, strict=True):
            visit(depth + 1, child, path if code == trie.level_sizes[depth] else (*path, code))

    visit(0, 0, ())
    return found


def by_identifier(codes: np.ndarray) -> dict[tuple[int, ...], list[int]]:
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for item, row in enumerate(codes.tolist()):
        groups[tuple(code for code in row if code >= 0)].append(item)
    return dict(groups)


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.lists(st.integers(1, 300), min_size=1, max_size=5))
@settings(max_examples=150, deadline=None)
def test_walking_the_arrays_gives_back_every_identifier(seed: int, num_items: int, sizes: list[int]) -> None:
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, min(size, 4), num_items) for size in sizes], axis=1).astype(np.int32)
    codes[rng.integers(0, num_items)] = [size - 1 for size in sizes]
    trie = build_trie(codes, sizes)
    assert walk(trie) == by_identifier(codes)
    assert trie.num_nodes[-1] == trie.num_leaves == len(by_identifier(codes))
    assert trie.num_items == num_items
    assert not trie.variable_length


def test_identifiers_too_long_for_one_machine_word_sort_the_same() -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 2, (500, 16)).astype(np.int32)
    short, long = build_trie(codes, [2] * 16), build_trie(codes, [256] * 16)
    assert walk(long) == by_identifier(codes)
    for one, other in zip(short.child_start, long.child_start, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(short.leaf_items, long.leaf_items)


def test_worked_example_by_hand() -> None:
    codes = np.array([[1, 0], [0, 2], [1, 0], [0, 1]], dtype=np.int32)
    trie = build_trie(codes, (2, 3))
    assert [start.tolist() for start in trie.child_start] == [[0, 2], [0, 2, 3]]
    assert [code.tolist() for code in trie.child_code] == [[0, 1], [1, 2, 0]]
    assert trie.leaf_start.tolist() == [0, 1, 2, 4]
    assert trie.leaf_items.tolist() == [3, 1, 0, 2]
    assert all(code.dtype == np.uint8 for code in trie.child_code)
    assert all(start.dtype == np.int32 for start in trie.child_start)


@pytest.mark.parametrize("long", [False, True])
def test_identifiers_of_different_lengths_end_in_end_edges(long: bool) -> None:
    codes = np.array([[0, 1, 2], [1, -1, -1], [0, 0, -1], [1, -1, -1]], dtype=np.int32)
    if long:
        codes = np.concatenate([np.zeros((4, 20), np.int32), codes], axis=1)
    trie = build_trie(codes, [256] * codes.shape[1])
    assert trie.variable_length
    assert walk(trie) == by_identifier(codes)
    assert trie.child_code[-1].dtype == np.uint16


@pytest.mark.parametrize("other", [[0, 1, 2], [0, 1, -1]])
def test_an_identifier_that_begins_another_is_refused(other: list[int]) -> None:
    codes = np.array([[2, 2, 2], other, [0, -1, -1], [0, 3, 3]], dtype=np.int32)
    with pytest.raises(ArtifactError, match="the semantic ID of item 2 is the beginning of another"):
        build_trie(codes, (4, 4, 4))


def test_a_million_items_in_a_second_and_twenty_megabytes() -> None:
    codes = np.random.default_rng(0).integers(0, 256, (1_000_000, 4), dtype=np.int32)
    start = time.process_time()
    trie = build_trie(codes, (256,) * 4)
    assert time.process_time() - start < 2
    assert trie.nbytes < 20e6
