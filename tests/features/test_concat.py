"""Encoders side by side."""

import numpy as np
import pytest

from genrec.config import FeaturesConfig
from genrec.errors import ConfigError, DataError
from genrec.features import build_encoder, load_encoder

LEXICAL = {"encoder": "lexical", "dim": 6, "normalize": False}
TITLES = {"encoder": "lexical", "dim": 5, "columns": ["title"]}
LIGHTGCN = {"encoder": "lightgcn", "dim": 4, "epochs": 1}


def build(*parts, **settings):
    return build_encoder(FeaturesConfig(encoder="concat", parts=parts, **settings))


def parts_of(tiny_dataset, *parts) -> list[np.ndarray]:
    return [build_encoder(FeaturesConfig(**part)).fit(tiny_dataset).values.astype(np.float64) for part in parts]


def test_every_row_of_a_part_has_its_weight(tiny_dataset):
    values = build(LEXICAL, LIGHTGCN, weights=[2.0, 0.5]).fit(tiny_dataset).values
    first, second = parts_of(tiny_dataset, LEXICAL, LIGHTGCN)
    expected = [
        2 * first / np.linalg.norm(first, axis=1, keepdims=True),
        0.5 * second / np.linalg.norm(second, axis=1, keepdims=True),
    ]
    np.testing.assert_allclose(values, np.hstack(expected), atol=1e-5)


def test_scale_keeps_lengths_within_a_part(tiny_dataset):
    values = build(LEXICAL, LIGHTGCN, normalize="scale").fit(tiny_dataset).values
    first, second = parts_of(tiny_dataset, LEXICAL, LIGHTGCN)
    expected = [part / np.sqrt((part**2).sum(axis=1).mean()) for part in (first, second)]
    np.testing.assert_allclose(values, np.hstack(expected), atol=1e-5)


def test_none_leaves_parts_alone(tiny_dataset):
    values = build(LEXICAL, LIGHTGCN, normalize="none").fit(tiny_dataset).values
    np.testing.assert_allclose(values, np.hstack(parts_of(tiny_dataset, LEXICAL, LIGHTGCN)), atol=1e-6)


def test_it_saves_and_loads_all_parts(tiny_dataset, tmp_path):
    encoder = build(LEXICAL, TITLES, normalize="scale", weights=[1.0, 3.0])
    values = encoder.fit(tiny_dataset).values
    encoder.save(tmp_path)
    np.testing.assert_allclose(load_encoder(tmp_path).transform(tiny_dataset.items), values, atol=1e-6)


def test_a_part_without_vectors_for_new_items_says_so(tiny_dataset):
    encoder = build(LEXICAL, LIGHTGCN)
    encoder.fit(tiny_dataset)
    with pytest.raises(DataError, match="lightgcn has no vectors for 40 new items"):
        encoder.transform(tiny_dataset.items)


def test_mistakes_in_the_recipe_are_named():
    with pytest.raises(ConfigError, match="there are 1 weights for 2 parts"):
        build(LEXICAL, TITLES, weights=[1.0])
    with pytest.raises(ConfigError, match=r"(?s)unknown key dims.*features\.parts\.1.*did you mean 'dim'"):
        build(LEXICAL, {"encoder": "lexical", "dims": 3})
    with pytest.raises(ConfigError, match="there is no feature encoder 'lexcal'"):
        build({"encoder": "lexcal"})
    with pytest.raises(ConfigError, match=r"parts = \(\) cannot be used|parts = \[\] cannot be used"):
        build()


def test_zeros_stand_for_parts_that_know_nothing_of_new_items(tiny_dataset, tmp_path):
    encoder = build(LEXICAL, LIGHTGCN, new_items="zero", normalize="scale", weights=[2.0, 1.0])
    known = encoder.fit(tiny_dataset).values
    encoder.save(tmp_path)
    values = load_encoder(tmp_path).transform(tiny_dataset.items[:3])
    np.testing.assert_allclose(values[:, :6], known[:3, :6], atol=1e-6)
    np.testing.assert_array_equal(values[:, 6:], np.zeros((3, 4)))


def test_some_part_must_know_new_items_if_zeros_stand_for_the_others():
    with pytest.raises(ConfigError, match="no part has vectors for new items") as caught:
        build(LIGHTGCN, {**LIGHTGCN, "dim": 3}, new_items="zero")
    assert "add a part such as lexical" in str(caught.value)
