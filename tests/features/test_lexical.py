"""Lexical vectors against TF-IDF and SVD worked out with nothing but numpy."""

import math
import re
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from genrec.errors import DataError
from genrec.features.lexical import LexicalEncoder, LexicalSettings
from genrec.features.text import read_texts

TEXTS = ["red apple pie", "green apple", "red red car", "green car race", "apple race pie", "pie race red"]


def items_of(texts, **columns) -> pl.DataFrame:
    return pl.DataFrame({"item_id": [f"i{n}" for n in range(len(texts))], "title": texts, **columns})


def naive_weights(texts: list[str], min_items: int) -> np.ndarray:
    """Sublinear TF-IDF of words and word pairs with smooth idf and unit rows, [N, V]."""
    terms_of = []
    for text in texts:
        words = re.findall(r"\w\w+", text.lower())
        terms_of.append(words + [f"{a} {b}" for a, b in pairwise(words)])
    frequency = {term: sum(term in terms for terms in terms_of) for terms in terms_of for term in terms}
    kept = sorted(term for term, count in frequency.items() if count >= min_items)
    rows = []
    for terms in terms_of:
        counts = [terms.count(term) for term in kept]
        idf = [math.log((1 + len(texts)) / (1 + frequency[term])) + 1 for term in kept]
        row = np.array([(1 + math.log(c)) * w if c else 0.0 for c, w in zip(counts, idf, strict=True)])
        rows.append(row / np.linalg.norm(row))
    return np.array(rows)


def test_equals_tfidf_and_svd_worked_out_by_hand(make_catalogue):
    encoder = LexicalEncoder(LexicalSettings(dim=3, min_items=1, normalise=False))
    values = encoder.fit(make_catalogue(items_of(TEXTS))).values
    left, singular, _ = np.linalg.svd(naive_weights(TEXTS, 1), full_matrices=False)
    # Directions have no sign of their own, products of vectors do.
    expected = (left[:, :3] * singular[:3]) @ (left[:, :3] * singular[:3]).T
    np.testing.assert_allclose(values @ values.T, expected, atol=1e-5)


def test_terms_must_stand_in_enough_items(make_catalogue):
    encoder = LexicalEncoder(LexicalSettings(dim=2, min_items=3))
    encoder.fit(make_catalogue(items_of(TEXTS)))
    assert encoder.terms == ["apple", "pie", "race", "red"]


def test_rows_have_length_one(tiny_dataset):
    values = LexicalEncoder(LexicalSettings(dim=8)).fit(tiny_dataset).values
    assert values.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1, atol=1e-6)


def test_like_items_are_near(tiny_dataset):
    values = LexicalEncoder(LexicalSettings(dim=16)).fit(tiny_dataset).values
    genre = np.arange(40) // 10
    same = genre[:, None] == genre[None]
    likeness = values @ values.T
    assert likeness[same].mean() > likeness[~same].mean() + 0.3


def test_dim_is_an_upper_bound_and_rounding_noise_is_left_out(make_catalogue):
    # Two texts repeated span two directions, whatever is asked for.
    values = LexicalEncoder(LexicalSettings(dim=100)).fit(make_catalogue(items_of(TEXTS[:2] * 5))).values
    assert values.shape == (10, 2)


def test_new_items_are_encoded_as_known_ones(tiny_dataset):
    encoder = LexicalEncoder(LexicalSettings(dim=8))
    values = encoder.fit(tiny_dataset).values
    renamed = tiny_dataset.items[5:7].with_columns(item_id=pl.Series(["new1", "new2"]))
    np.testing.assert_allclose(encoder.transform(renamed), values[5:7], atol=1e-6)


def test_unknown_words_give_the_zero_vector(tiny_dataset):
    encoder = LexicalEncoder(LexicalSettings(dim=8, columns=("title",)))
    encoder.fit(tiny_dataset)
    assert not encoder.transform(items_of(["zzz qqq"])).any()


def test_the_same_bytes_twice_and_after_loading(tiny_dataset, tmp_path):
    settings = LexicalSettings(dim=8)
    encoder = LexicalEncoder(settings)
    first = encoder.fit(tiny_dataset).values
    assert LexicalEncoder(settings).fit(tiny_dataset).values.tobytes() == first.tobytes()
    encoder.save(tmp_path)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]
    assert LexicalEncoder.load(tmp_path).transform(tiny_dataset.items).tobytes() == first.tobytes()


def test_items_without_text_are_named_or_get_zero_vectors(make_catalogue):
    dataset = make_catalogue(items_of([*TEXTS, "", None]))
    with pytest.raises(DataError, match=r"(?s)item 'i6' has no text\n.*rows 6, 7 \(2 in all\).*missing_text: zero"):
        LexicalEncoder(LexicalSettings(dim=3)).fit(dataset)
    values = LexicalEncoder(LexicalSettings(dim=3, missing_text="zero")).fit(dataset).values
    assert not values[6:].any()
    assert values[:6].any(axis=1).all()


def test_a_catalogue_without_any_text_is_refused(make_catalogue):
    with pytest.raises(DataError, match="no item has any text") as caught:
        LexicalEncoder(LexicalSettings()).fit(
            make_catalogue(pl.DataFrame({"item_id": ["a", "b"], "price": [1.0, 2.0]}))
        )
    assert "lightgcn" in str(caught.value)


def test_an_unknown_column_is_named(tiny_dataset):
    with pytest.raises(DataError, match="the items have no text column 'brand'") as caught:
        LexicalEncoder(LexicalSettings(columns=("title", "brand"))).fit(tiny_dataset)
    assert "title, genres" in str(caught.value)


def test_texts_that_share_no_words_are_refused(make_catalogue):
    with pytest.raises(DataError, match="no term stands in 2 items or more"):
        LexicalEncoder(LexicalSettings()).fit(make_catalogue(items_of(["one", "two", "three"])))


def test_one_term_is_too_little(make_catalogue):
    with pytest.raises(DataError, match="the texts of 2 items have 1 terms"):
        LexicalEncoder(LexicalSettings()).fit(make_catalogue(items_of(["same", "same"])))


def test_texts_join_columns_and_lists_and_skip_what_is_missing():
    items = items_of(["A", "", None], tags=[["x", "y"], ["z"], None], brand=[None, " b ", "c"], price=[1, 2, 3])
    assert read_texts(items, None, "error") == ["A. x, y", "z. b", "c"]
    assert read_texts(items, ["brand", "title"], "zero") == ["A", "b", "c"]
