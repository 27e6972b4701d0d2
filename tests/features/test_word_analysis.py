"""What counts as a word, in scripts with and without spaces, composed and decomposed."""

import re
import unicodedata

import pytest

from genrec.features.words import every_word, plain_text, words_of, words_without_accents

TITLES = {
    "Crème brûlée, 2 x 15 ml": ["crème", "brûlée", "15", "ml"],
    "लाल लकड़ी किताब": ["लाल", "लकड़ी", "किताब"],
    "வண்ண புத்தகம்": ["வண்ண", "புத்தகம்"],
    "كِتَاب أحمر": ["كِتَاب", "أحمر"],
    "می\u200cخواهم": ["میخواهم"],
    "빨간 나무 컵": ["빨간", "나무", "컵"],
    "红色水壶 iPhone手机壳": ["红", "色", "水", "壶", "iphone", "手", "机", "壳"],
    "ガラスのコップ・青": ["ガ", "ラ", "ス", "の", "コ", "ッ", "プ", "青"],
    "เก้าอี้": ["เ", "ก้", "า", "อี้"],
    "ສີແດງ": ["ສີ", "ແ", "ດ", "ງ"],
    "ចំណាំ": ["ចំ", "ណាំ"],
    "Ｒｅｄ　ｶﾞﾗｽ": ["red", "ガ", "ラ", "ス"],
    "soft\u00adware": ["software"],
}


@pytest.mark.parametrize("title", TITLES)
def test_words_by_hand_in_every_form(title):
    expected = [unicodedata.normalize("NFC", word) for word in TITLES[title]]
    for form in ("NFC", "NFD"):
        assert words_of(unicodedata.normalize(form, title)) == expected, form


def test_latin_texts_have_the_words_that_scikit_learn_finds():
    texts = ["A kettle, 2.5 l (red_blue) – for Ångström's 3rd ÉTÉ", "x² ½ don't 4U!", "Nº 12 straße Größe_L 10×20"]
    for text in texts:
        assert words_of(text) == re.findall(r"(?u)\b\w\w+\b", text.lower())


def test_single_letters_and_symbols_count_where_there_is_nothing_else():
    assert words_of("M") == ["m"]
    assert words_of("M.A.C") == ["m", "a", "c"]
    assert words_of("X Files") == ["files"]
    assert words_of("★ ❤️") == ["★", "❤"]
    assert words_of("★ x") == ["x"]
    assert words_of(" \u0301 ") == []
    assert every_word("X Files 9 ★") == ["x", "files", "9"]


def test_nothing_but_the_form_changes():
    assert plain_text("Paris™ ½ ﬁne ²") == "Paris™ ½ ﬁne ²"
    assert plain_text("e\u0301 ＡＢ１ ｶﾞ") == "é AB1 ガ"


def test_accents_go_and_marks_of_other_scripts_stay():
    assert words_without_accents("Çé½ Ångström ё") == ["ce1", "2", "angstrom", "е"]
    assert words_without_accents("ガラス 빨간 लड़की เก้าอี้") == [
        unicodedata.normalize("NFC", word) for word in ("ガラス", "빨간", "लड़की", "เก้าอี้")
    ]
