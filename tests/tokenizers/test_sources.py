"""Which columns are collaborative: found by their encoder, by name or by number, and what is said if there are none."""

import numpy as np
import pytest

from genrec.errors import ArtifactError, ConfigError
from genrec.features import ItemFeatures
from genrec.tokenizers.parts.sources import Sources

VALUES = np.arange(12, dtype=np.float32).reshape(2, 6)
POPULARITY = np.array([3, 1])


def features(*parts: tuple[str, int]) -> ItemFeatures:
    described = [{"encoder": name, "width": width} for name, width in parts]
    return ItemFeatures(VALUES, ["a", "b"], {"encoder": "concat", "parts": described})


@pytest.mark.parametrize("name", ["lightgcn", "ultragcn", "fastrp", "sasrec"])
def test_the_part_that_reads_interactions_is_found(name):
    sources = Sources.of(features(("sentence", 1), (name, 2), ("lexical", 3)), POPULARITY, None, "aligned")
    np.testing.assert_array_equal(sources.collaborative(VALUES), [[1, 2], [7, 8]])
    np.testing.assert_array_equal(sources.semantic(VALUES), [[0, 3, 4, 5], [6, 9, 10, 11]])
    np.testing.assert_array_equal(sources.join(sources.collaborative(VALUES), sources.semantic(VALUES)), VALUES)
    assert Sources.restore(sources.state()) == sources
    assert sources.width == 2


@pytest.mark.parametrize("wanted", ["matrix", 2])
def test_a_part_may_be_named(wanted):
    sources = Sources.of(features(("sentence", 1), ("lightgcn", 2), ("matrix", 3)), np.array([3, 0]), wanted, "aligned")
    assert (sources.start, sources.stop) == (3, 6)


@pytest.mark.parametrize(
    ("parts", "wanted", "message"),
    [
        ([("sentence", 3), ("lexical", 3)], None, "no collaborative part\n.*features: sentence, lexical"),
        ([("sentence", 3), ("lightgcn", 3)], "sasrec", "no collaborative part called 'sasrec'"),
        ([("sentence", 3), ("lightgcn", 3)], 2, "no collaborative part called 2"),
        ([("lightgcn", 6)], None, "no semantic part\n.*features: lightgcn"),
    ],
)
def test_what_is_missing_is_named_with_the_cure(parts, wanted, message):
    with pytest.raises(ConfigError, match=message) as caught:
        Sources.of(features(*parts), POPULARITY, wanted, "aligned")
    assert "the tokenizer aligned needs collaborative and semantic vectors side by side" in str(caught.value)
    assert "make the features with features: {encoder: concat, parts:" in str(caught.value)
    assert caught.value.exit_code == 2


def test_features_of_one_encoder_are_refused():
    with pytest.raises(ConfigError, match=r"(?s)no collaborative part.*where: features: lexical"):
        Sources.of(ItemFeatures(VALUES, ["a", "b"], {"encoder": "lexical", "width": 6}), POPULARITY, None, "set")


def test_vectors_of_items_without_interactions_are_refused():
    """Features of earlier versions, which have the mean vector there."""
    made = features(("sentence", 1), ("lightgcn", 2), ("lexical", 3))
    with pytest.raises(
        ArtifactError, match="1 items without a training interaction have a vector by lightgcn"
    ) as caught:
        Sources.of(made, np.array([3, 0]), None, "aligned")
    assert "such as 'b'" in str(caught.value)
    assert "make the features again" in str(caught.value)
    assert caught.value.exit_code == 4
    made.values[1, 1:3] = 0
    assert Sources.of(made, np.array([3, 0]), None, "aligned").width == 2
