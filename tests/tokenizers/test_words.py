"""What the first codes stand for, on titles whose telling words are known."""

import numpy as np

from genrec.tokenizers.quality import level_words as words
from genrec.tokenizers.quality.level_words import first_codes


def test_nodes_are_the_largest_prefixes_with_the_words_of_their_titles():
    titles = ["Red soap bar", "Red soap dish", "Blue soap bar", "Night cream", "Day cream", "Hand cream", "Eye cream"]
    codes = np.array([[5, 1], [5, 1], [5, 2], [0, 3], [0, 3], [0, 3], [0, 4]])
    first, second = first_codes(codes, titles)
    assert (first["code"], first["items"], first["words"]) == (0, 4, ["cream"])
    assert (second["code"], second["items"], second["words"]) == (5, 3, ["soap", "bar", "red"])
    assert [(child["code"], child["items"]) for child in first["children"]] == [(3, 3), (4, 1)]
    assert second["children"][0]["words"] == ["red", "soap"], "the rarer word first, words of one title not at all"


def test_only_so_many_are_shown(monkeypatch):
    monkeypatch.setattr(words, "FIRST_CODES", 2)
    monkeypatch.setattr(words, "SECOND_CODES", 1)
    codes = np.stack([np.arange(60) % 5, np.arange(60) % 7], axis=1)
    nodes = first_codes(codes, None)
    assert [node["code"] for node in nodes] == [0, 1]
    assert [len(node["children"]) for node in nodes] == [1, 1]
    assert all(node["words"] == [] for node in nodes)


def test_shorter_identifiers_have_no_second_code():
    nodes = first_codes(np.array([[0, -1], [0, -1], [0, 6]]), ["a", "b", "c"])
    assert nodes[0]["items"] == 3
    assert [(child["code"], child["items"]) for child in nodes[0]["children"]] == [(6, 1)]
    assert first_codes(np.array([[1], [2]]), None)[0]["children"] == []


def test_words_of_scripts_without_spaces_are_pairs_of_letters():
    titles = ["红色水壶", "红色台灯", "黑色水壶", "Rote Lampe 2000w", "나무 컵", "나무 등"]
    assert words._words("红色水壶") == {"红色", "色水", "水壶"}
    assert words._words("나무 컵 Rote abc12def x") == {"나무", "컵", "rote", "abc", "def"}
    assert words._words("लाल किताब") == {"लाल", "किताब"}
    first = first_codes(np.array([[0], [0], [1], [1], [2], [2]]), titles)
    assert first[0]["words"] == ["红色"]
    assert first[2]["words"] == ["나무"]
