"""JSON lines say the same as the same table in CSV; Amazon's files are known by all of their fields, not by one."""

import json

import polars as pl
import pytest

from genrec.config import DataConfig
from genrec.data import prepare_dataset
from genrec.data.account import TableAccount
from genrec.data.readers import read_table
from genrec.errors import DataError

REVIEW = {
    "rating": 5.0, "title": "T", "text": "Say \"asin\": and own_field: x", "images": [], "asin": "A1",
    "parent_asin": "P1", "user_id": "u", "timestamp": 1588687728923, "helpful_vote": 0, "verified_purchase": True,
}  # fmt: skip


def write(path, entries):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def read(path, kind="interactions", columns=None):
    account = TableAccount(kind)
    return read_table(path, kind, columns, account=account), account


@pytest.mark.parametrize(
    ("kind", "columns", "entries"),
    [
        ("interactions", {}, [{"user_id": "u", "parent_asin": "P", "item_id": "X", "order": 2, "watch": 9}]),
        ("interactions", {"item_id": "asin"}, [{"user_id": "u", "asin": "A1", "parent_asin": "P", "timestamp": 1}]),
        ("interactions", {"item_id": "sku"}, [{"user_id": "u", "asin": "A1", "parent_asin": "P", "sku": "S"}]),
        (
            "interactions",
            {},
            [{"user_id": "u", "asin": "A1", "parent_asin": "P", "rating": 1.5, "timestamp": 1, "shop": "x"}],
        ),
        ("interactions", {"user_id": "reviewerID", "item_id": "asin"}, [{"reviewerID": "u", "asin": "A", "shop": "x"}]),
        ("interactions", {}, [{"userId": "u", "movieId": "m", "tag": "x"}]),
        ("items", {}, [{"item_id": "a", "asin": "B1", "title": "Kettle", "color": "red"}]),
        ("items", {}, [{"asin": "a", "name": "Kettle", "genre": "home"}]),
        ("items", {"item_id": "sku"}, [{"asin": "a", "sku": "s", "title": "Kettle"}]),
        ("items", {"title": "brand"}, [{"asin": "a", "title": "Kettle", "brand": "B"}]),
        ("items", {}, [{"parent_asin": "p", "asin": "a", "title": "Kettle", "stock": 3}]),
        ("items", {}, [{"item_id": "a", "movie_title": "Kettle, The", "class": "home garden"}]),
    ],
)
def test_a_table_with_names_of_others_is_read_as_in_csv(tmp_path, kind, columns, entries):
    pl.DataFrame(entries).write_csv(tmp_path / "table.csv")
    wanted, _ = read(tmp_path / "table.csv", kind, columns)
    found, account = read(write(tmp_path / "table.jsonl", entries), kind, columns)
    assert found.equals(wanted)
    (tmp_path / "array.json").write_text(json.dumps(entries))
    assert read(tmp_path / "array.json", kind, columns)[0].equals(wanted)
    assert set(columns) <= set(found.columns)
    assert account.rows_read == 1


def test_order_and_own_columns_are_kept_by_prepare(tmp_path):
    rows = [{"user_id": "u1", "parent_asin": p, "item_id": i, "order": o, "watch": w} for p, i, o, w in
            (("P", "X", 2, 9), ("Q", "Y", 1, 8))]  # fmt: skip
    path = write(tmp_path / "log.jsonl", rows)
    dataset = prepare_dataset(DataConfig(interactions=str(path), k_core=0), tmp_path / "out")
    assert [dataset.item_ids[item] for item in dataset.full()[0]] == ["Y", "X"]
    assert dataset.interactions["watch"].to_list() == [8, 9]


@pytest.mark.parametrize("chunk", [10, 1 << 20])
def test_what_is_left_out_of_reviews_is_named(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr("genrec.data.jsonlines.CHUNK_BYTES", chunk)
    found, account = read(write(tmp_path / "reviews.jsonl", [REVIEW] * 3))
    assert sorted(found.columns) == ["item_id", "rating", "timestamp", "user_id"]
    assert found["item_id"].to_list() == ["P1"] * 3
    assert set(account.columns_left_out) == {"title", "text", "images", "asin", "helpful_vote", "verified_purchase"}


def test_a_mapping_is_honoured_in_amazon_reviews(tmp_path):
    path = write(tmp_path / "reviews.jsonl", [REVIEW])
    assert read(path, columns={"item_id": "asin"})[0]["item_id"].to_list() == ["A1"]
    assert read(path, columns={"order": "helpful_vote"})[0]["order"].to_list() == [0]


@pytest.mark.parametrize("chunk", [10, 1 << 20])
@pytest.mark.parametrize("name", ["shop", "my shop", "магазин"])
def test_own_fields_in_later_reviews_are_kept(tmp_path, monkeypatch, chunk, name):
    monkeypatch.setattr("genrec.data.jsonlines.CHUNK_BYTES", chunk)
    entries = [REVIEW, {**REVIEW, name: "x"}]
    text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    (tmp_path / "reviews.jsonl").write_text(text, encoding="utf-8")
    found, account = read(tmp_path / "reviews.jsonl")
    assert found[name].to_list() == [None, "x"]
    assert "text" in account.columns_left_out
    assert "text" not in found.columns


def test_what_is_left_out_of_metadata_is_named(tmp_path):
    entries = [
        {"parent_asin": "p", "title": "Kettle", "price": "from $12", "details": {"a": 1}, "features": []},
        {"parent_asin": "q", "title": 1984, "price": "$1,012.50", "videos": [], "own": 3},
        {"parent_asin": "p", "title": "Kettle", "price": "—"},
    ]
    found, account = read(write(tmp_path / "meta.jsonl", entries), "items")
    assert found.to_dict(as_series=False) == {
        "item_id": ["p", "q"], "title": ["Kettle", "1984"], "price": [None, 1012.5], "own": [None, "3"],
    }  # fmt: skip
    assert {"details", "videos", "features", "brand"} <= set(account.columns_left_out)
    assert account.notes == ["1 prices are not one number: left empty"]
    assert (account.rows_read, found.height) == (3, 2)
    (entry,) = account.left_out.values()
    assert (entry.rows, entry.examples) == (1, ["p"])


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"user_id": "u", "item_id": "a", "rating": NaN}', "here NaN: write null"),
        ('{"user_id": "u", "item_id": "a", "rating": -Infinity}', "here -Infinity: write null"),
        ('{"user_id":' + "[" * 100_000, "nested too deep"),
        ('{"user_id":' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deep"),
        ('{"user_id":' * 100_000 + "1" + "}" * 100_000, "nested too deep"),
        ('{"user_id": "u", "item_id": ' + "[1, {}, " * 65 + "2" + "]" * 65 + "}", "nested too deep"),
        ('{"user_id": ' + "9" * 5000 + ', "item_id": 1}', "digits"),
    ],
    ids=["NaN", "Infinity", "open", "closed", "objects", "mixed", "digits"],
)
@pytest.mark.parametrize("place", [1, 2])
def test_lines_that_no_parser_takes_are_refused(tmp_path, line, why, place):
    good = '{"user_id": "u", "item_id": "a", "rating": 1.0}\n'
    (tmp_path / "log.jsonl").write_text(good * (place - 1) + line + "\n" + good)
    with pytest.raises(DataError) as caught:
        read_table(tmp_path / "log.jsonl", "interactions")
    assert why in str(caught.value)
    assert f"log.jsonl, line {place}" in str(caught.value)
    (tmp_path / "log.json").write_text(f"[{good.strip()}, {line}]")
    with pytest.raises(DataError, match="the table cannot be read"):
        read_table(tmp_path / "log.json", "interactions")


def test_brackets_in_texts_are_no_depth(tmp_path):
    entries = [
        {"user_id": "u", "item_id": "a", "note": "[{" * 200 + '"\\'},
        {"user_id": "u", "item_id": "b", "note": "]"},
    ]
    assert read(write(tmp_path / "log.jsonl", entries))[0].to_dicts() == entries
    (tmp_path / "log.json").write_text(json.dumps(entries))
    assert read(tmp_path / "log.json")[0].to_dicts() == entries


def test_a_field_that_changes_its_type_between_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("genrec.data.jsonlines.CHUNK_BYTES", 10)
    entries = [{"user_id": "u", "item_id": "a", "tag": 1}, {"user_id": "u", "item_id": "b", "tag": 2.0}]
    assert read(write(tmp_path / "log.jsonl", entries))[0]["tag"].to_list() == [1, 2]
    entries[1]["tag"] = ["x"]
    with pytest.raises(DataError, match="a field changes its type"):
        read(write(tmp_path / "log.jsonl", entries))
