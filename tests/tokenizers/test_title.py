"""Titles in pieces: which letters are after a code, and what happens to titles that are alike, long or missing."""

import re

import numpy as np
import polars as pl
import pytest

from genrec.config import DataConfig
from genrec.data import make_dataset
from genrec.errors import ConfigError, DataError
from genrec.features import ItemFeatures
from genrec.tokenizers import ItemTokenizer
from genrec.tokenizers.families.title import TitleSettings, TitleTokenizer, plain_words


def fitted(dataset, features, **settings) -> TitleTokenizer:
    tokenizer = TitleTokenizer(TitleSettings(**{"vocabulary_size": 120, **settings}))
    tokenizer.fit(dataset, features)
    return tokenizer


def table(titles: list) -> pl.DataFrame:
    return pl.DataFrame({"item_id": [f"n{row}" for row in range(len(titles))], "title": titles})


def letters(tokenizer: TitleTokenizer, codes: np.ndarray) -> list[str]:
    """What is after the codes of each row, without spaces and end."""
    end = tokenizer.level_sizes[0] - 1
    return ["".join(tokenizer.vocabulary.id_to_token(code) for code in row if code < end) for row in codes.tolist()]


@pytest.fixture
def retitled(tiny_interactions, tiny_items, tiny_features, tmp_path):
    """A function that gives the items other titles and returns data set and vectors."""

    def make(titles: list):
        changed = tiny_items.with_columns(pl.Series("title", titles, dtype=pl.String))
        dataset = make_dataset(tiny_interactions, changed, DataConfig(k_core=0), tmp_path / "dataset")
        return dataset, ItemFeatures(tiny_features.values, dataset.item_ids, {})

    return make


def test_plain_words():
    assert plain_words("  Crème-Brûlée, 15 ml (SET)!") == "creme brulee 15 ml set"
    assert plain_words("Шампунь № 5") == "шампунь no 5"
    assert plain_words("?!") == ""


def test_codes_spell_the_title(tiny_dataset, tiny_features):
    tokenizer = fitted(tiny_dataset, tiny_features, num_levels=32)
    codes = tokenizer.encode_catalogue(tiny_dataset, tiny_features)
    assert letters(tokenizer, codes) == [plain_words(title).replace(" ", "") for title in tiny_dataset.titles]
    end = tokenizer.level_sizes[0] - 1
    ended = codes == end
    assert ended.any(axis=1).all()
    assert (np.diff(ended.astype(int), axis=1) >= 0).all(), "nothing follows the end"


def test_the_vocabulary_is_limited(tiny_dataset, tiny_features):
    small, large = (fitted(tiny_dataset, tiny_features, vocabulary_size=size) for size in (30, 200))
    assert small.level_sizes == (31,) * 8
    lengths = [
        (tokenizer.encode_catalogue(tiny_dataset, tiny_features) < tokenizer.level_sizes[0] - 1).sum(axis=1).mean()
        for tokenizer in (small, large)
    ]
    assert lengths[1] < lengths[0], "more pieces make shorter names"


def test_frequent_words_are_one_piece(tiny_dataset, tiny_features):
    tokenizer = fitted(tiny_dataset, tiny_features, vocabulary_size=200, num_levels=3)
    codes = tokenizer.encode_items(table(["Lantern of space", "lantern: SPACE"]), None)
    assert codes[0, [0, 2]].tolist() == codes[1, :2].tolist()
    assert codes[1, 2] == tokenizer.level_sizes[2] - 1


def test_letters_never_seen_share_a_code(tiny_dataset, tiny_features, tmp_path):
    fitted(tiny_dataset, tiny_features).save_pretrained(tmp_path)
    tokenizer = ItemTokenizer.from_pretrained(tmp_path)
    codes = tokenizer.encode_items(table(["ж", "щ"]), None)
    assert codes[0].tolist() == codes[1].tolist()
    assert tokenizer.vocabulary.id_to_token(int(codes[0, 0])) == "[unk]"


def test_equal_titles_get_a_counter(retitled, with_suffix):
    titles = ["Red lipstick", "red LIPSTICK!", "Red lipstick set", *(f"Comb number {row}" for row in range(37))]
    made = retitled(titles)
    index = with_suffix(fitted(*made, num_levels=12), *made)
    assert len(index.level_sizes) == 13
    assert index.level_sizes[-1] == 2
    assert index.codes[0, :-1].tolist() == index.codes[1, :-1].tolist()
    assert index.codes[:3, -1].tolist() == [0, 1, 0]
    assert len(np.unique(index.codes, axis=0)) == 40


def test_items_without_a_title_are_named_or_get_the_end(retitled):
    made = retitled([None, *(f"Comb number {row}" for row in range(38)), "..."])
    with pytest.raises(DataError, match=r"(?s)item 'i00' has nothing in the column 'title'.*rows 0, 39 \(2 in all"):
        fitted(*made)
    tokenizer = fitted(*made, missing_titles="own")
    codes = tokenizer.encode_catalogue(*made)
    assert (codes[[0, 39]] == tokenizer.level_sizes[0] - 1).all()
    with pytest.raises(DataError, match=r"(?s)no item has a title.*tokenizer.column"):
        fitted(*retitled(["-"] * 40), missing_titles="own")
    with pytest.raises(DataError, match="use a tokenizer that reads vectors"):
        fitted(*retitled(["-"] * 40))


def test_tables_and_vectors_that_do_not_fit_are_refused(tiny_dataset, tiny_features):
    with pytest.raises(DataError, match=r"(?s)the items have no column 'name'.*title, genres"):
        fitted(tiny_dataset, tiny_features, column="name")
    with pytest.raises(ConfigError, match="title cannot name items by their vectors: it reads their titles"):
        fitted(tiny_dataset, tiny_features).encode(tiny_features.values)
    with pytest.raises(ConfigError, match="title has not been fitted"):
        TitleTokenizer(TitleSettings()).encode_items(table(["a"]), None)


def forty(titles: list[str]) -> list[str]:
    return [titles[row % len(titles)] for row in range(40)]


HINDI = [f"{color} {thing}" for color in ["लाल", "नीला", "हरा", "काला"] for thing in ["किताब", "कुर्सी", "मेज", "दीपक"]]
OTHERS = {
    "Chinese": ["".join(chr(0x4E00 + 8 * row + letter) for letter in range(8)) + "水壶" for row in range(40)],
    "Hindi": forty(HINDI),
    "Japanese": forty(["ガラスのコップ", "カラスのコップ", "ハラスのコツプ", "バラスのコツフ"]),
    "Korean": forty(["빨간 컵", "파란 컵", "빨간 책", "파란 책"]),
}


@pytest.mark.parametrize("script", OTHERS)
def test_titles_of_other_scripts_are_spelled_whole(script, retitled, caplog):
    dataset, features = retitled(OTHERS[script])
    tokenizer = fitted(dataset, features, num_levels=32, vocabulary_size=1000)
    codes = tokenizer.encode_catalogue(dataset, features)
    assert letters(tokenizer, codes) == [plain_words(title).replace(" ", "") for title in OTHERS[script]]
    assert len(np.unique(codes, axis=0)) == len(set(OTHERS[script]))
    assert not caplog.messages


def test_letters_too_rare_for_a_code_are_counted(retitled, caplog):
    fitted(*retitled(OTHERS["Chinese"]), vocabulary_size=100)
    (message,) = caplog.messages
    # Fifty letters have codes, 水 and 壶 and six titles' worth of the others.
    assert re.match(r"title: 34 of 40 titles have letters that are too rare for a code of their own", message)


def test_vocabularies_of_before_read_titles_as_they_did(retitled):
    tokenizer = fitted(*retitled(OTHERS["Hindi"]))
    arrays = tokenizer.state()
    assert arrays.pop("reading").tolist() == [2]
    old = TitleTokenizer(tokenizer.settings)
    old.width, old.level_sizes = tokenizer.width, tokenizer.level_sizes
    old.restore(arrays)
    assert old.state()["reading"].tolist() == [1]
    # Then vowel signs and what they join were taken apart.
    assert old._read(table(["लाल Crème"])) == ["ल ल creme"]
    assert tokenizer._read(table(["लाल Crème"])) == ["लाल creme"]
