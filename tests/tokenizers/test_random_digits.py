"""Random numbers: distinct, evenly spread, and written in as many digits as asked for."""

import numpy as np
import pytest

from genrec.errors import DataError
from genrec.tokenizers.families.random_digits import RandomSettings, RandomTokenizer, draw_distinct


def fitted(dataset, features, **settings) -> RandomTokenizer:
    tokenizer = RandomTokenizer(RandomSettings(**settings))
    tokenizer.fit(dataset, features)
    return tokenizer


@pytest.mark.parametrize("largest", [50, 51, 199, 201, 10**6, 2**62])
def test_drawn_numbers_are_distinct(largest):
    drawn = draw_distinct(largest, 50, np.random.default_rng(0))
    assert drawn.shape == (50,)
    assert len(set(drawn.tolist())) == 50
    assert drawn.min() >= 0
    assert drawn.max() < largest


@pytest.mark.parametrize("largest", [8, 20])
def test_every_number_is_equally_likely_at_every_place(largest):
    random, draws = np.random.default_rng(3), 6000
    counts = np.zeros((4, largest))
    for _ in range(draws):
        counts[np.arange(4), draw_distinct(largest, 4, random)] += 1
    expected = draws / largest
    # Four standard deviations of a binomial count, over at most 80 counts.
    assert np.abs(counts - expected).max() < 4.5 * np.sqrt(expected)


def test_items_have_codes_of_their_own(tiny_dataset, tiny_features):
    for settings, levels in (({"base": 8}, 2), ({"base": 256}, 1), ({"base": 10, "num_levels": 5}, 5)):
        codes = fitted(tiny_dataset, tiny_features, **settings).codes
        assert codes.shape == (40, levels)
        assert len(np.unique(codes, axis=0)) == 40
        assert codes.max() < settings["base"]


def test_the_seed_decides(tiny_dataset, tiny_features):
    one, other, again = (fitted(tiny_dataset, tiny_features, seed=seed).codes for seed in (1, 2, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_too_few_and_too_many_numbers_are_refused(tiny_dataset, tiny_features):
    with pytest.raises(DataError, match=r"(?s)1 digits of base 39 make 39 numbers for 40 items.*num_levels: 2"):
        fitted(tiny_dataset, tiny_features, base=39, num_levels=1)
    with pytest.raises(DataError, match=r"(?s)at most 2 \*\* 62 numbers.*num_levels: 1"):
        fitted(tiny_dataset, tiny_features, base=256, num_levels=8)
