"""Codes of category paths, by hand."""

import polars as pl
import pytest

from genrec.config import DataConfig
from genrec.data import make_dataset
from genrec.errors import ConfigError, DataError
from genrec.features import ItemFeatures
from genrec.tokenizers import ItemTokenizer
from genrec.tokenizers.families.semantic_path import SemanticPathSettings, SemanticPathTokenizer

PATHS = [
    "Beauty > Hair > Shampoo",
    "Beauty > Hair > Brushes",
    "Beauty > Makeup > Brushes > Eyes",
    "Beauty > Makeup > Lips",
    "Beauty > Makeup",
]


@pytest.fixture
def catalogue(tiny_interactions, tiny_items, tiny_features, tmp_path):
    """A function that gives items 0.. categories (the last value for the rest) and returns data set and vectors."""

    def make(values: list, dtype: pl.DataType = pl.String):
        column = pl.Series("categories", [values[min(row, len(values) - 1)] for row in range(40)], dtype=dtype)
        dataset = make_dataset(
            tiny_interactions, tiny_items.with_columns(column), DataConfig(k_core=0), tmp_path / "dataset"
        )
        return dataset, ItemFeatures(tiny_features.values, dataset.item_ids, {})

    return make


def fitted(catalogue, **settings) -> SemanticPathTokenizer:
    tokenizer = SemanticPathTokenizer(SemanticPathSettings(**settings))
    tokenizer.fit(*catalogue)
    return tokenizer


def codes_of(tokenizer, values: list, dtype: pl.DataType = pl.String) -> list[list[int]]:
    items = pl.DataFrame({"item_id": [f"n{row}" for row in range(len(values))]})
    return tokenizer.encode_items(items.with_columns(pl.Series("categories", values, dtype=dtype)), None).tolist()


def test_codes_by_hand(catalogue):
    tokenizer = fitted(catalogue(PATHS))
    # Hair, Makeup | Brushes, Lips, Shampoo, end | Eyes, end
    assert tokenizer.root == ["Beauty"]
    assert tokenizer.level_sizes == (2, 4, 2)
    assert codes_of(tokenizer, PATHS) == [[0, 2, 1], [0, 0, 1], [1, 0, 0], [1, 1, 1], [1, 3, 1]]


def test_longer_paths_are_cut(catalogue):
    tokenizer = fitted(catalogue(PATHS), num_levels=2)
    assert tokenizer.level_sizes == (2, 4)
    assert codes_of(tokenizer, PATHS[2:4]) == [[1, 0], [1, 1]]


def test_lists_and_lists_of_lists_read_as_texts(catalogue):
    expected = codes_of(fitted(catalogue(PATHS)), PATHS)
    split = [path.split(" > ") for path in PATHS]
    tokenizer = fitted(catalogue(split, pl.List(pl.String)))
    assert codes_of(tokenizer, split, pl.List(pl.String)) == expected
    nested = [[path, ["Beauty", "Other"]] for path in split]
    tokenizer = fitted(catalogue(nested, pl.List(pl.List(pl.String))))
    assert codes_of(tokenizer, nested, pl.List(pl.List(pl.String))) == expected


def test_new_items_end_where_their_path_is_not_known(catalogue, tmp_path):
    fitted(catalogue(PATHS)).save_pretrained(tmp_path / "tokenizer")
    tokenizer = ItemTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert codes_of(tokenizer, ["Beauty > Hair > Combs > Wood", "Beauty > Hair > Shampoo > Dry"]) == [
        [0, 3, 1],
        [0, 2, 1],
    ]
    with pytest.raises(DataError, match=r"(?s)the category 'Beauty > Nails' is not known.*row 1.*Hair, Makeup"):
        codes_of(tokenizer, ["Beauty > Hair", "Beauty > Nails"])
    with pytest.raises(DataError, match="the category 'Toys > Hair' is not known"):
        codes_of(tokenizer, ["Toys > Hair"])


def test_items_without_categories_are_named_or_get_a_code_of_their_own(catalogue):
    made = catalogue([None, *PATHS[:2], " ", *PATHS[2:]])
    with pytest.raises(DataError, match=r"(?s)item 'i00' has nothing in the column 'categories'.*rows 0, 3 \(2 in all"):
        fitted(made)
    tokenizer = fitted(made, missing_categories="own")
    assert tokenizer.level_sizes == (3, 4, 2)
    assert codes_of(tokenizer, [None, "Beauty > Hair", "Beauty > Nails", "Toys"]) == [
        [2, 3, 1],
        [0, 3, 1],
        [2, 3, 1],
        [2, 3, 1],
    ]


def test_the_suffix_counts_the_items_of_a_path(catalogue, with_suffix):
    made = catalogue(PATHS)
    resolved = with_suffix(fitted(made), *made)
    assert resolved.level_sizes == (2, 4, 2, 36)
    assert resolved.codes[:4].tolist() == [[0, 2, 1, 0], [0, 0, 1, 0], [1, 0, 0, 0], [1, 1, 1, 0]]
    assert resolved.codes[4:].tolist() == [[1, 3, 1, number] for number in range(36)]


def test_catalogues_without_categories_are_refused(catalogue, tiny_dataset, tiny_features):
    with pytest.raises(DataError, match=r"(?s)the items have no column 'categories'.*title, genres.*tokenizer.column"):
        fitted((tiny_dataset, tiny_features))
    with pytest.raises(DataError, match=r"(?s)no item has a category"):
        fitted(catalogue([""]), missing_categories="own")
    with pytest.raises(DataError, match=r"(?s)all items have the category 'Hair'.*at least two"):
        fitted(catalogue(["Beauty > Hair"]))
    with pytest.raises(DataError, match=r"(?s)the column 'categories' holds Int64.*texts, or lists of texts"):
        fitted(catalogue([3], pl.Int64))


def test_vectors_are_not_enough(catalogue, tiny_features):
    with pytest.raises(ConfigError, match=r"semantic-path cannot name items by their vectors: it reads their categori"):
        fitted(catalogue(PATHS)).encode(tiny_features.values)
    with pytest.raises(ConfigError, match="semantic-path has not been fitted"):
        codes_of(SemanticPathTokenizer(SemanticPathSettings()), PATHS)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_lists_to_any_depth_give_their_first_path(depth, catalogue):
    values, dtype = [path.split(" > ") for path in PATHS], pl.List(pl.String)
    for _ in range(depth - 1):
        # What is empty comes first, and another path second.
        values, dtype = [[[], value, values[0]] for value in values], pl.List(dtype)
    tokenizer = fitted(catalogue(values, dtype))
    plain = fitted(catalogue(PATHS))
    assert tokenizer.names == plain.names
    assert codes_of(tokenizer, values, dtype) == codes_of(plain, PATHS)
