"""Paths and numbers as semantic IDs, against Python's own counting."""

import numpy as np
import pytest

from genrec.tokenizers.parts.paths import digits, digits_needed, fill_paths, tree_codes


def test_shorter_paths_go_on_with_the_end():
    assert fill_paths([(1,), (), (0, 2, 1)], [3, 4, 5]).tolist() == [[1, 4, 5], [3, 4, 5], [0, 2, 1]]


def test_no_paths_have_the_same_width():
    assert fill_paths([], [3, 4]).shape == (0, 2)


def test_the_end_is_one_more_than_any_code_of_its_level():
    codes = tree_codes([(0,), (1, 0), (1, 1, 2), (1, 1, 0)])
    assert codes.tolist() == [[0, 2, 3], [1, 0, 3], [1, 1, 2], [1, 1, 0]]
    assert codes.dtype == np.int32


@pytest.mark.parametrize(("base", "length"), [(10, 4), (7, 5), (256, 2)])
def test_digits_are_those_of_the_number(base, length):
    numbers = np.array([0, 1, base - 1, base, base**length - 1])
    written = digits(numbers, base, length)
    assert [sum(int(digit) * base ** (length - 1 - place) for place, digit in enumerate(row)) for row in written] == (
        numbers.tolist()
    )
    assert written.max() < base


def test_decimal_digits_read_as_the_number():
    assert digits(np.array([4096, 12]), 10, 4).tolist() == [[4, 0, 9, 6], [0, 0, 1, 2]]


def test_digits_needed():
    for base in (2, 3, 10):
        for count in range(1, 130):
            needed = digits_needed(count, base)
            assert base**needed >= count
            assert needed == 1 or base ** (needed - 1) < count
