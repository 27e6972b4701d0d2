"""Lexical vectors against TF-IDF and SVD worked out with nothing but numpy."""

import json
import math
import re
import unicodedata
from itertools import pairwise, product

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

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
    encoder = LexicalEncoder(LexicalSettings(dim=3, min_items=1, normalize=False))
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


def test_letters_that_no_known_word_has_give_the_zero_vector(tiny_dataset, caplog):
    encoder = LexicalEncoder(LexicalSettings(dim=8, columns=("title",)))
    encoder.fit(tiny_dataset)
    assert not caplog.messages
    assert not encoder.transform(items_of(["чай", "★"])).any()
    assert caplog.messages == [
        "lexical: 2 of 2 items are without a known word (one that occurs in 2 items), such as 'i0' ('чай'): "
        "0 got the vector of words spelled alike, 2 the zero vector"
    ]


# One catalogue in several scripts: all combinations of a color, a material and a thing.
SCRIPTS = {
    "English": ("red blue green black white", "wood steel clay cotton", "book chair table lamp pen", " "),
    "Hindi": ("लाल नीला हरा काला सफेद", "लकड़ी स्टील मिट्टी कपास", "किताब कुर्सी मेज दीपक कलम", " "),
    "Korean": ("빨간 파란 초록 검은 흰", "나무 강철 점토 면", "책 의자 탁자 등 펜", " "),
    "Arabic": ("أحمر أزرق أخضر أسود أبيض", "خشب فولاذ طين قطن", "كتاب كرسي طاولة مصباح قلم", " "),
    "Russian": ("красный синий зелёный чёрный белый", "дерево сталь глина хлопок", "книга стул стол лампа ручка", " "),
    "Chinese": ("红色 蓝色 绿色 黑色 白色", "木制 塑料 玻璃 陶瓷", "水壶 台灯 笔筒 杯子 钢笔", ""),
    "Japanese": ("赤い 青い 緑の 黒い 白い", "木製 ガラス 鉄製 綿の", "本棚 いす テーブル ランプ ペン", ""),
    "Thai": ("สีแดง สีฟ้า สีเขียว สีดำ สีขาว", "ไม้ เหล็ก ดินเผา ฝ้าย", "หนังสือ เก้าอี้ โต๊ะ โคมไฟ ปากกา", ""),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_tells_items_apart_as_english_does(script, make_catalogue, caplog):
    *words, between = SCRIPTS[script]
    parts = list(product(*(text.split() for text in words)))
    dataset = make_catalogue(items_of([between.join(part) for part in parts]))
    features = LexicalEncoder(LexicalSettings(dim=64, missing_text="zero")).fit(dataset)
    assert features.description["counts"] == {"items_without_text": 0, "items_without_known_words": 0}
    assert not caplog.messages
    assert len(np.unique(features.values.round(4), axis=0)) == len(parts) == 100
    # The more words two items share, the nearer they are.
    shared = np.array([[sum(a == b for a, b in zip(one, other, strict=True)) for other in parts] for one in parts])
    likeness = features.values @ features.values.T
    means = [likeness[shared == count].mean() for count in range(4)]
    assert (np.diff(means) > 0.1).all()


FORMS = [["café crème", "thé noir"], ["한국 의자", "나무 컵"], ["ガラスの器", "パンの皿"], ["क़लम", "ज़मीन"]]


@pytest.mark.parametrize("texts", FORMS)
def test_a_title_has_one_vector_however_it_is_typed(texts, make_catalogue):
    both = [unicodedata.normalize(form, text) for text in texts for form in ("NFC", "NFD")]
    encoder = LexicalEncoder(LexicalSettings(dim=3, min_items=1))
    values = encoder.fit(make_catalogue(items_of(both))).values
    np.testing.assert_array_equal(values[0::2], values[1::2])
    assert not np.allclose(values[0], values[2])
    decomposed = encoder.transform(items_of([unicodedata.normalize("NFD", text) for text in texts]))
    np.testing.assert_array_equal(decomposed, values[0::2])


SHARED = ["red kettle", "blue kettle", "red lamp", "blue lamp", "red kettles set", "blue lamps set"] * 2


def test_a_word_of_one_item_counts_as_those_spelled_alike(make_catalogue, tmp_path, caplog):
    encoder = LexicalEncoder(LexicalSettings(dim=8, missing_text="zero"))
    dataset = make_catalogue(items_of([*SHARED, "Lampshade", "Kettledrum", "☂", ""]))
    features = encoder.fit(dataset)
    assert features.description["counts"] == {"items_without_text": 1, "items_without_known_words": 3}
    assert caplog.messages == [
        "1 of 16 items are without text, such as 'i15'",
        "lexical: 3 of 16 items are without a known word (one that occurs in 2 items), such as 'i12' ('Lampshade'): "
        "2 got the vector of words spelled alike, 1 the zero vector",
    ]
    lampshade, kettledrum = features.values[12:14]
    assert lampshade @ features.values[2] > 0.5 > lampshade @ features.values[0]
    assert kettledrum @ features.values[0] > 0.5 > kettledrum @ features.values[2]
    assert not features.values[14:].any()
    encoder.save(tmp_path)
    assert LexicalEncoder.load(tmp_path).transform(dataset.items).tobytes() == features.values.tobytes()


def test_words_of_one_item_leave_the_other_vectors_alone(make_catalogue):
    settings = LexicalSettings(dim=8, missing_text="zero")
    first = LexicalEncoder(settings).fit(make_catalogue(items_of([*SHARED, "Lampshade"]))).values
    second = LexicalEncoder(settings).fit(make_catalogue(items_of([*SHARED, "Umbrella"]))).values
    assert first[:12].tobytes() == second[:12].tobytes()
    assert not np.allclose(first[12], second[12])


@pytest.mark.parametrize("titles", [["X", "M", "Z"], ["S", "M.A.C", "L"], ["♥", "★", "☂"]])
def test_titles_of_single_letters_are_told_apart(titles, make_catalogue):
    titles = titles * 2
    values = LexicalEncoder(LexicalSettings(dim=5)).fit(make_catalogue(items_of(titles))).values
    same = np.array([[one == other for other in titles] for one in titles])
    likeness = values @ values.T
    assert likeness[same].min() > 0.99
    assert likeness[~same].max() < 0.9


def test_an_item_of_which_nothing_is_known_is_named(make_catalogue):
    expected = r"(?s)no word of item 'i12' is known or spelled like one that is: 'Ω'.*row 12.*missing_text: zero"
    with pytest.raises(DataError, match=expected):
        LexicalEncoder(LexicalSettings(dim=8)).fit(make_catalogue(items_of([*SHARED, "Ω"])))


def test_folders_of_before_give_the_vectors_that_they_gave(tmp_path):
    # As it was written then: terms by the rule of scikit-learn, and no number for how texts are read.
    terms, random = ["apple", "apple pie", "cre", "pie"], np.random.default_rng(0)
    rarity, components = (random.random(shape).astype(np.float32) for shape in (4, (3, 4)))
    LexicalEncoder(LexicalSettings(dim=3, normalize=False)).save(tmp_path)
    described = json.loads((tmp_path / "encoder.json").read_text())
    described["state"] = {"terms": terms}
    (tmp_path / "encoder.json").write_text(json.dumps(described))
    save_file({"inverse_frequency": rarity, "components": components}, str(tmp_path / "arrays.safetensors"))
    weights = np.zeros((4, 4), dtype=np.float32)
    weights[0, [0, 1, 3]] = rarity[[0, 1, 3]]
    weights[1, 2] = rarity[2]
    weights /= np.maximum(np.linalg.norm(weights, axis=1, keepdims=True), 1e-9)
    encoder = LexicalEncoder.load(tmp_path)
    texts = ["Apple pie", "cre\u0300me", "applesauce", "X"]
    np.testing.assert_allclose(encoder.transform(items_of(texts)), weights @ components.T, atol=1e-6)
    (tmp_path / "again").mkdir()
    encoder.save(tmp_path / "again")
    again = LexicalEncoder.load(tmp_path / "again").transform(items_of(texts))
    np.testing.assert_allclose(again, weights @ components.T, atol=1e-6)


def test_lists_to_any_depth_are_text_and_columns_without_are_named(make_catalogue, caplog):
    paths = [[["Home", "Kitchen" if number % 2 else "Garden"], ["Sale"]] for number in range(8)]
    items = items_of([""] * 8, categories=paths, deeper=[[path] for path in paths], sizes=[[1, 2]] * 8)
    values = LexicalEncoder(LexicalSettings(dim=4)).fit(make_catalogue(items)).values
    np.testing.assert_allclose(values[0], values[2], atol=1e-6)
    assert values[0] @ values[1] < 0.9
    assert caplog.messages == ["columns of the items that hold no text are not read: sizes (List(Int64))"]


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
    with pytest.raises(DataError, match="no term occurs in 2 items or more"):
        LexicalEncoder(LexicalSettings()).fit(make_catalogue(items_of(["one", "two", "three"])))


def test_one_term_is_too_little(make_catalogue):
    with pytest.raises(DataError, match="the texts of 2 items have 1 terms"):
        LexicalEncoder(LexicalSettings()).fit(make_catalogue(items_of(["same", "same"])))


def test_texts_join_columns_and_lists_and_skip_what_is_missing():
    items = items_of(["A", "", None], tags=[["x", "y"], ["z"], None], brand=[None, " b ", "c"], price=[1, 2, 3])
    assert read_texts(items, None, "error") == ["A. x, y", "z. b", "c"]
    assert read_texts(items, ["brand", "title"], "zero") == ["A", "b", "c"]
