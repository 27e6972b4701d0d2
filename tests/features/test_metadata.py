"""Vectors from columns: what each kind of column says, worked by hand, and what is refused."""

import json
import unicodedata

import numpy as np
import polars as pl
import pytest

from genrec.config import FeaturesConfig
from genrec.errors import DataError
from genrec.features import build_encoder, load_encoder
from genrec.features.metadata import MetadataEncoder, MetadataSettings

ITEMS = pl.DataFrame(
    {
        "item_id": ["a", "b", "c", "d", "e", "f"],
        "title": ["One", "Two", "Three", "Four", "Five", "Six"],
        "category": ["Care > Hair", "Care > Hair", "Care > Skin, Face", "Care > Skin, Face", "Food", "Food"],
        "colors": [["red"], ["red", "blue"], [], None, ["blue"], ["green"]],
        "price": [1.0, 2.0, 30.0, 40.0, None, 3.0],
    }
)


def fit(dataset, **settings):
    encoder = build_encoder(FeaturesConfig(encoder="metadata", **{"missing": "zero", **settings}))
    return encoder, encoder.fit(dataset)


def weights(encoder, items=ITEMS) -> np.ndarray:
    return encoder._weights(items).toarray()


def test_paths_are_their_beginnings_and_rare_values_weigh_more(make_catalogue):
    encoder, _ = fit(make_catalogue(ITEMS), columns=["category"])
    assert encoder.vocabulary["category"] == ["Care", "Care > Hair", "Care > Skin, Face", "Food"]
    rarity = {name: np.log(7 / (1 + count)) + 1 for name, count in (("Care", 4), ("Care > Hair", 2))}
    length = np.hypot(*rarity.values())
    np.testing.assert_allclose(weights(encoder)[0], [rarity["Care"] / length, rarity["Care > Hair"] / length, 0, 0])
    np.testing.assert_allclose(weights(encoder)[4], [0, 0, 0, 1])


def test_lists_are_their_members_and_single_ones_are_left_out(make_catalogue):
    encoder, _ = fit(make_catalogue(ITEMS), columns=["colors"], dim=1)
    assert encoder.vocabulary["colors"] == ["blue", "red"], "green is in one item only"
    half = np.sqrt(0.5)
    np.testing.assert_allclose(weights(encoder), [[0, 1], [half, half], [0, 0], [0, 0], [1, 0], [0, 0]])


def test_numbers_are_the_steps_that_they_reach(make_catalogue):
    encoder, _ = fit(make_catalogue(ITEMS), columns=["price"], num_bins=2, min_items=1)
    # The median of 1, 2, 3, 30, 40 is 3.
    assert encoder.bounds["price"] == [3.0]
    assert encoder.vocabulary["price"] == ["0", "known"]
    above = weights(encoder)[2]
    np.testing.assert_allclose(weights(encoder), [[0, 1], [0, 1], above, above, [0, 0], above])
    assert above[0] > above[1] > 0
    far = weights(encoder, pl.DataFrame({"item_id": ["x"], "price": [1e9]}))
    np.testing.assert_allclose(far[0], above)


def test_every_column_counts_the_same_unless_weighted(make_catalogue):
    encoder, _ = fit(make_catalogue(ITEMS), columns=["category", "colors"], weights={"colors": 3.0})
    rows = weights(encoder)
    np.testing.assert_allclose(np.linalg.norm(rows[:, :4], axis=1), 1)
    np.testing.assert_allclose(np.linalg.norm(rows[[0, 1, 4], 4:], axis=1), 3)


def test_with_all_directions_likeness_is_that_of_the_columns(make_catalogue):
    encoder, features = fit(make_catalogue(ITEMS), columns=["category", "price"], num_bins=3)
    rows = weights(encoder)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(features.values @ features.values.T, rows @ rows.T, atol=0.05)
    np.testing.assert_allclose(np.linalg.norm(features.values, axis=1), 1, atol=1e-6)


def test_titles_are_left_out_unless_asked_for(make_catalogue):
    dataset = make_catalogue(ITEMS)
    assert fit(dataset)[1].description["columns"] == ["category", "colors", "price"]
    assert fit(dataset, columns=["title"], min_items=1)[1].description["columns"] == ["title"]


def test_texts_may_list_several_values():
    encoder = MetadataEncoder(MetadataSettings())
    values = encoder._values(pl.DataFrame({"genres": ["Action, Comedy", "A > B, C | D", None]}), "genres")
    assert values == [["Action", "Comedy"], ["A", "A > B, C", "D"], []]


def test_new_items_get_the_vectors_of_what_is_known_of_them(make_catalogue, tmp_path):
    encoder, features = fit(make_catalogue(ITEMS), columns=["category", "colors", "price"])
    encoder.save(tmp_path)
    loaded = load_encoder(tmp_path)
    np.testing.assert_allclose(loaded.transform(ITEMS), features.values, atol=1e-6)
    new = pl.DataFrame({"item_id": ["x", "y"], "category": ["Care > Hair", "Care > Nails"]})
    values = loaded.transform(new)
    assert values[0] @ features.values[0] > values[0] @ features.values[4] + 0.3
    assert values[1] @ features.values[0] > values[1] @ features.values[4], "its department is known"


def test_items_of_which_nothing_is_known(make_catalogue):
    dataset = make_catalogue(ITEMS)
    with pytest.raises(DataError, match=r"(?s)nothing is known of item 'c'.*rows 2, 3, 5 \(3 in all\)") as caught:
        fit(dataset, columns=["colors"], missing="error")
    assert "set features.missing: zero" in str(caught.value)
    _, features = fit(dataset, columns=["colors"])
    assert not features.values[[2, 3, 5]].any()


def test_the_same_bytes_twice(make_catalogue):
    dataset = make_catalogue(ITEMS)
    assert fit(dataset)[1].fingerprint == fit(dataset)[1].fingerprint


def test_columns_that_cannot_be_used_are_named(make_catalogue, tiny_dataset):
    dataset = make_catalogue(ITEMS)
    with pytest.raises(DataError, match=r"(?s)the items have no column 'brand'.*one of title, category") as caught:
        fit(dataset, columns=["brand"])
    assert caught.value.exit_code == 3
    with pytest.raises(DataError, match="the items have no column 'prise'"):
        fit(dataset, weights={"prise": 2.0})
    with pytest.raises(DataError, match="no column tells anything that several items share"):
        fit(make_catalogue(ITEMS.select("item_id", "title")))
    with pytest.raises(DataError, match="the columns of 6 items have 0 values that items share"):
        fit(dataset, columns=["title"])


@pytest.mark.parametrize("depth", [2, 3])
def test_lists_of_lists_are_paths(depth, make_catalogue):
    paths = [
        [["Care", "Hair"], ["Sale"]],
        [["Care", "Skin"]],
        [["Care", "Hair"]],
        [["Sale"], []],
        None,
        [["Care", "Skin"]],
    ]
    nested = paths if depth == 2 else [None if value is None else [[path] for path in value] for value in paths]
    encoder, _ = fit(make_catalogue(ITEMS.with_columns(pl.Series("category", nested))), columns=["category"])
    assert encoder.vocabulary["category"] == ["Care", "Care > Hair", "Care > Skin", "Sale"]
    assert (weights(encoder, ITEMS.with_columns(pl.Series("category", nested))) > 0).astype(int).tolist() == [
        [1, 1, 0, 1], [1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0], [1, 0, 1, 0],
    ]  # fmt: skip


@pytest.mark.parametrize("value", ["Kérastase", "한국", "ガラス"])
def test_a_value_is_one_however_it_is_typed(value, make_catalogue, tmp_path):
    forms = [unicodedata.normalize(form, value) for form in ("NFC", "NFD")]
    items = ITEMS.with_columns(pl.Series("category", [*forms, "Food", "Food", "Food", forms[1]]))
    encoder, features = fit(make_catalogue(items), columns=["category"])
    assert encoder.vocabulary["category"] == sorted([forms[0], "Food"])
    np.testing.assert_array_equal(features.values[0], features.values[1])
    # Folders of before took values as they were written.
    encoder.save(tmp_path)
    described = json.loads((tmp_path / "encoder.json").read_text())
    assert described["state"].pop("composed") is True
    (tmp_path / "encoder.json").write_text(json.dumps(described))
    old = load_encoder(tmp_path).transform(items)
    assert old[0].any()
    assert not old[1].any()


def test_items_of_which_nothing_is_known_are_counted(make_catalogue, caplog):
    _, features = fit(make_catalogue(ITEMS), columns=["colors"])
    assert features.description["counts"] == {"items_without_known_values": 3}
    assert caplog.messages == ["metadata: nothing is known of 3 of 6 items, such as 'c': they get the zero vector"]
