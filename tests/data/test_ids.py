"""Ids are one text each, wherever they come from: files, shards, tables in memory, lists."""

import json
import random
import unicodedata
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pytest

from genrec.config import DataConfig
from genrec.data import make_dataset, prepare_dataset
from genrec.data.account import TableAccount
from genrec.data.ids import id_text, id_texts, tidy_ids
from genrec.data.readers import read_item_ids, read_table, to_frame
from genrec.data.schema import tidy_interactions
from genrec.errors import DataError

BIG = [9007199254740993, 9007199254740992]


def texts(values, dtype=None):
    return tidy_ids(pl.Series("item_id", values, dtype=dtype), "log").to_list()


def refused(values, dtype=None):
    with pytest.raises(DataError) as caught:
        tidy_ids(pl.Series("item_id", values, dtype=dtype), "log", first_row=10)
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "dtype", "wanted"),
    [
        (["5.0", "5", "005"], pl.String, ["5.0", "5", "005"]),
        ([5.0, None, float("nan"), -0.0], pl.Float64, ["5", None, None, "0"]),
        ([5.0, 2.0**24 - 1], pl.Float32, ["5", "16777215"]),
        (BIG, pl.Int64, [str(number) for number in BIG]),
        ([2**64 - 1], pl.UInt64, ["18446744073709551615"]),
        ([2**100], pl.Int128, [str(2**100)]),
        ([Decimal("5.00"), Decimal("12345678901234567890.00")], pl.Decimal(30, 2), ["5", "12345678901234567890"]),
        (["b ", "b"], pl.Categorical, ["b", "b"]),
        (["b\t", "b"], pl.Enum(["b\t", "b"]), ["b", "b"]),
        ([[5.0, None], None, []], pl.List(pl.Float64), [["5", None], None, []]),
        ([[" a"], ["b"]], pl.List(pl.String), [["a"], ["b"]]),
        ([[1, 2]], pl.Array(pl.Int64, 2), [["1", "2"]]),
        ([None, None], pl.Null, [None, None]),
    ],
)
def test_columns(values, dtype, wanted):
    assert texts(values, dtype) == wanted


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1.0, 1.5], pl.Float64),
        ([1.0, 1e19], pl.Float64),
        ([1.0, 2.0**53], pl.Float64),
        ([1.0, -(2.0**53)], pl.Float64),
        ([1.0, float("inf")], pl.Float64),
        ([1.0, 2.0**24], pl.Float32),
        ([Decimal("1.00"), Decimal("1.50")], pl.Decimal(10, 2)),
        ([[1.0], [2.0, 2.5]], pl.List(pl.Float64)),
    ],
)
def test_numbers_that_are_no_ids_are_refused_with_their_rows(values, dtype):
    message = refused(values, dtype)
    assert "item_id is not an id" in message
    assert "log, row 11" in message


def test_single_ids_follow_the_rule_of_columns():
    draw = random.Random(0)
    for _ in range(300):
        value = draw.choice(
            [draw.randrange(-(2**63), 2**63), float(draw.randrange(2**53)), draw.random(), 2.0 ** draw.randrange(60),
             "".join(draw.choices([" ", "a", "é", "e\u0301", "\u200b", "\u00a0", "0", "."], k=4)), float("inf")]
        )  # fmt: skip
        try:
            wanted = texts([value])[0]
        except DataError:
            with pytest.raises(DataError):
                id_text(value)
        else:
            assert id_text(value) == wanted
    assert [id_text(value) for value in (np.int32(7), np.float64(7), np.float32(7), np.uint64(2**64 - 1))] == [
        "7", "7", "7", "18446744073709551615",
    ]  # fmt: skip


@pytest.mark.parametrize("value", [None, True, b"a", ["a"], ("a",), 1.5, float("nan"), 2.0**53, np.float32(2**24)])
def test_what_is_no_id(value):
    with pytest.raises(DataError, match="is not an id"):
        id_text(value, "the list")


def test_known_ids_are_taken_as_they_stand():
    assert id_texts([" a", "a ", 5.0], {" a": 0}) == [" a", "a", "5"]


def test_white_space_and_invisible_characters_at_the_ends():
    marks = " \t\r\u00a0\u00ad\u200b\u200c\u200d\u200e\u2028\u2060\u3000\ufeff\x00\x1f"
    assert texts([f"{mark}a b{mark}" for mark in marks]) == ["a b"] * len(marks)
    # Inside they stay: they may make a difference.
    assert texts(["a\u200bb"]) == ["a\u200bb"]
    for mark in map(chr, range(0x3100)):
        if unicodedata.category(mark) in ("Zs", "Zl", "Zp", "Cc") or mark.isspace():
            assert texts([f"{mark}a{mark}"]) == ["a"], hex(ord(mark))


def test_accents_are_written_in_one_way():
    assert len(set(texts(["caf\u00e9", "cafe\u0301", "\u212bngstrom", "\u00c5ngstrom"]))) == 2


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet", "inter"])
def test_what_was_changed_is_counted(tmp_path, suffix):
    users, items = ["u1", "u1 ", "u1", "u2"], ["a", "a\u200b", "cafe\u0301", "caf\u00e9"]
    frame, path = pl.DataFrame({"user_id": users, "item_id": items}), tmp_path / f"log.{suffix}"
    if suffix == "parquet":
        frame.write_parquet(path)
    elif suffix == "jsonl":
        frame.write_ndjson(path)
    else:
        mark = "," if suffix == "csv" else "\t"
        lines = [mark.join(frame.columns), *(mark.join(row) for row in frame.rows())]
        path.write_text("\n".join(lines) + "\n")
    account = TableAccount("interactions")
    found = read_table(path, "interactions", account=account)
    assert found["user_id"].to_list() == ["u1", "u1", "u1", "u2"]
    assert found["item_id"].to_list() == ["a", "a", "caf\u00e9", "caf\u00e9"]
    assert [note.partition(" had ")[0] for note in account.notes] == ["1 values of user_id", "2 values of item_id"]
    assert "such as 'u1 ' (row 2): read as 'u1'" in account.notes[0]


@pytest.mark.parametrize("word", ["nan", "NULL", "None", "NA", "<NA>", "n/a", "undefined", "\\N", " null "])
@pytest.mark.parametrize("categories", [False, True])
def test_words_for_a_missing_value_are_noted_with_their_rows(tmp_path, caplog, word, categories):
    path = tmp_path / "log.csv"
    path.write_text(f"user_id,item_id\nu1,a\n{word},b\nu2,b\n{word},b\n")
    account = TableAccount("interactions")
    table = read_table(path, "interactions", categories=categories, account=account)
    assert table["user_id"].cast(pl.String).to_list() == ["u1", word.strip(), "u2", word.strip()]
    noted = [note for note in account.notes if "missing value" in note]
    assert len(noted) == 1
    assert noted[0].startswith(f"2 values of user_id are a word for a missing value, such as {word!r} (rows 2, 4)")
    assert noted[0] in caplog.text


@pytest.mark.parametrize(
    ("odd", "plain", "said"),
    [
        (
            ["5.0", "-7.0"],
            ["5", "5.00", "v5.0", "1.5"],
            "are whole numbers written as floats, such as '5.0' (rows 5, 6)",
        ),
        (["1.23457E+12", "1,2E+15", "9e+22"], ["E+12", "12E5", "1.2E+", "x1E+12"], "a spreadsheet may have shortened"),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_ids_that_another_program_may_have_changed_are_noted(tmp_path, odd, plain, said, suffix):
    frame = pl.DataFrame({"user_id": "u", "item_id": [*plain, *odd]})
    if suffix == "csv":
        frame.write_csv(tmp_path / "log.csv")
    else:
        frame.write_ndjson(tmp_path / "log.jsonl")
    account = TableAccount("interactions")
    found = read_table(tmp_path / f"log.{suffix}", "interactions", account=account)
    assert found["item_id"].to_list() == [*plain, *odd]
    assert len(account.notes) == 1
    assert account.notes[0].startswith(f"{len(odd)} values of item_id ")
    assert said in account.notes[0]


def shards(folder, *pieces, suffix="parquet"):
    folder.mkdir()
    for number, piece in enumerate(pieces):
        frame = pd.DataFrame({"user_id": ["u1"] * len(piece), "item_id": piece})
        if suffix == "parquet":
            frame.to_parquet(folder / f"{number}.parquet")
        else:
            lines = [json.dumps(row) + "\n" for row in frame.to_dict("records")]
            (folder / f"{number}.jsonl").write_text("".join(lines))
    return folder


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
@pytest.mark.parametrize("categories", [False, True])
@pytest.mark.parametrize(
    ("pieces", "wanted"),
    [
        ((["1", "2"], [1.0, 2.0]), ["1", "2", "1", "2"]),
        (([1.0, 2.0], ["1", "2.0"]), ["1", "2", "1", "2.0"]),
        ((BIG, [1.0, 2.0]), [*map(str, BIG), "1", "2"]),
        (([1.0, 2.0], BIG), ["1", "2", *map(str, BIG)]),
        (([1, 2], ["x"], [2.0]), ["1", "2", "x", "2"]),
    ],
)
def test_shards_of_several_types(tmp_path, pieces, wanted, categories, suffix):
    folder = shards(tmp_path / "log", *pieces, suffix=suffix)
    found = read_table(folder, "interactions", categories=categories)
    assert found["item_id"].cast(pl.String).to_list() == wanted


@pytest.mark.parametrize("chunk", [10, 1 << 20])
@pytest.mark.parametrize("array", [False, True])
@pytest.mark.parametrize("name", ["item_id", "sku"])
def test_one_json_file_of_several_types(tmp_path, monkeypatch, chunk, array, name):
    monkeypatch.setattr("genrec.data.jsonlines.CHUNK_BYTES", chunk)
    values = [*BIG, 5.0, "5", "5.0", None, 12345678901234567890123]
    lines = [json.dumps({"user_id": "u1", name: value}) for value in values]
    path = tmp_path / "log.json"
    path.write_text("[" + ",\n".join(lines) + "]" if array else "\n".join(lines) + "\n")
    found = read_table(path, "interactions", {"item_id": name})["item_id"].to_list()
    assert found == [*map(str, BIG), "5", "5", "5.0", None, "12345678901234567890123"]


@pytest.mark.parametrize("value", ["1e19", "1.5", "true", '{"a": 1}', '["a"]', "9007199254740993.0"])
def test_json_values_that_are_no_ids_are_refused_with_the_line(tmp_path, value):
    (tmp_path / "log.jsonl").write_text(
        '{"user_id": "u", "item_id": "a"}\n{"user_id": "u", "item_id": ' + value + "}\n"
    )
    with pytest.raises(DataError, match=r"is not an id[\s\S]*log.jsonl, line 2"):
        read_table(tmp_path / "log.jsonl", "interactions")


def test_rows_are_counted_over_all_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("genrec.data.readers.PIECE_ROWS", 2)
    pl.DataFrame({"user_id": ["u"] * 5, "item_id": [1.0, 2.0, 3.0, 4.0, 4.5]}).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match=r"item_id is not an id: 4.5[\s\S]*row 5"):
        read_table(tmp_path / "log.parquet", "interactions")


def test_interactions_and_items_agree_on_ids(tmp_path):
    frame = pd.DataFrame({"user_id": [1.0, 1.0, 2.0], "item_id": ["7", "8 ", "7"]})
    items = pd.DataFrame({"item_id": [7.0, 8.0], "title": ["Kettle", "Lamp"]})
    dataset = make_dataset(frame, items, DataConfig(k_core=0), tmp_path / "out")
    assert dataset.titles == ["Kettle", "Lamp"]
    assert dataset.user_ids == ["1", "2"]
    assert dataset.interactions.select("user_id", "item_id").rows() == [("1", "7"), ("1", "8"), ("2", "7")]
    frame.to_parquet(tmp_path / "log.parquet")
    items.to_parquet(tmp_path / "items.parquet")
    config = DataConfig(interactions=str(tmp_path / "log.parquet"), items=str(tmp_path / "items.parquet"), k_core=0)
    assert prepare_dataset(config, tmp_path / "read").item_ids == dataset.item_ids


def test_lists_of_items_to_allow_or_block(tmp_path):
    pl.DataFrame({"item_id": [5.0, 6.0, None]}).write_parquet(tmp_path / "block.parquet")
    assert read_item_ids(tmp_path / "block.parquet") == ["5", "6"]
    (tmp_path / "block.txt").write_text("5\n 6\u00a0\n\ncafe\u0301\n")
    assert read_item_ids(tmp_path / "block.txt") == ["5", "6", "caf\u00e9"]
    pl.DataFrame({"item_id": [5.5]}).write_parquet(tmp_path / "bad.parquet")
    with pytest.raises(DataError, match="item_id is not an id"):
        read_item_ids(tmp_path / "bad.parquet")


def test_tables_in_memory_keep_an_index_with_a_name():
    frame = pd.DataFrame({"item_id": ["a", "b"]}, index=pd.Index(["u1", "u2"], name="user_id"))
    assert to_frame(frame).select("user_id", "item_id").rows() == [("u1", "a"), ("u2", "b")]
    assert to_frame(frame.reset_index(drop=True)).columns == ["item_id"]


def test_empty_ids_are_refused_as_they_were_given():
    for bad in (["a", " "], ["a", "\u200b"], ["a", None]):
        with pytest.raises(DataError, match=r"item_id is empty: (' '|'\\u200b'|None)[\s\S]*row 2"):
            tidy_interactions(pl.DataFrame({"user_id": ["u", "u"], "item_id": bad}), where="log")


def test_columns_of_other_programs_are_left_out_and_named(tmp_path):
    frame = pd.DataFrame({"user_id": ["u", "u"], "item_id": ["a", "b"]}, index=[3, 4])
    frame.to_csv(tmp_path / "pandas.csv")
    frame.assign(**{"Unnamed: 0": [0, 1]}).to_csv(tmp_path / "twice.csv", index=False)
    frame.loc[[4, 3]].to_parquet(tmp_path / "pandas.parquet")
    pl.DataFrame(
        {"user_id": ["u", "u"], "item_id": ["a", "b"], "_corrupt_record": [None, "{"], "__index_level_0__": [0, 1]}
    ).write_parquet(tmp_path / "spark.parquet")
    names = {"pandas.csv": [""], "twice.csv": ["Unnamed: 0"], "spark.parquet": ["_corrupt_record", "__index_level_0__"]}
    for name, helpers in names.items():
        account = TableAccount("interactions")
        assert read_table(tmp_path / name, "interactions", account=account).columns == ["user_id", "item_id"]
        assert list(account.columns_left_out) == helpers
        assert ", ".join(map(repr, helpers)) in account.notes[-1]
    assert "1 rows are lines that Spark could not read (_corrupt_record), the first is row 2" in account.notes[0]
    # A column that is asked for is no helper.
    mapped = read_table(tmp_path / "twice.csv", "interactions", {"order": "Unnamed: 0"})
    assert mapped["order"].to_list() == [0, 1]


def test_two_columns_may_swap_their_names(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id\na,u\nb,u\n")
    swapped = read_table(tmp_path / "log.csv", "interactions", {"user_id": "item_id", "item_id": "user_id"})
    assert swapped.select("user_id", "item_id").rows() == [("u", "a"), ("u", "b")]


def test_shards_never_lose_digits(tmp_path):
    ids = {"user_id": ["u"], "item_id": ["a"]}
    pl.DataFrame({**ids, "ticket": [BIG[0]]}).write_parquet(tmp_path / "0.parquet")
    pl.DataFrame({**ids, "ticket": [5.0]}).write_parquet(tmp_path / "1.parquet")
    assert read_table(tmp_path, "interactions")["ticket"].to_list() == [BIG[0], 5]
    pl.DataFrame({**ids, "ticket": [5.5]}).write_parquet(tmp_path / "2.parquet")
    with pytest.raises(DataError, match=r"'ticket' holds whole numbers beyond 2\^53 in one piece and fractions"):
        read_table(tmp_path, "interactions")
    pl.DataFrame({**ids, "ticket": [7]}).write_parquet(tmp_path / "0.parquet")
    assert read_table(tmp_path, "interactions")["ticket"].to_list() == [7.0, 5.0, 5.5]


def test_numbers_beyond_64_bits_are_carried_as_text(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"user_id": "u", "item_id": "a", "session": 123456789012345678901}\n')
    assert read_table(tmp_path / "log.jsonl", "interactions")["session"].to_list() == ["123456789012345678901"]
    (tmp_path / "mixed.jsonl").write_text(
        '{"user_id": "u", "item_id": "a", "session": 9007199254740993}\n'
        '{"user_id": "u", "item_id": "b", "session": 5.5}\n'
    )
    assert read_table(tmp_path / "mixed.jsonl", "interactions")["session"].to_list() == ["9007199254740993", "5.5"]


@pytest.mark.parametrize(
    ("values", "kind"), [([["5"], ["6"]], "List"), ([True, False], "Boolean"), ([b"5", b"6"], "Binary")]
)
def test_a_list_of_items_that_are_no_ids_is_refused(tmp_path, values, kind):
    pl.DataFrame({"item_id": values}).write_parquet(tmp_path / "block.parquet")
    with pytest.raises(DataError, match=f"item_id is {kind}"):
        read_item_ids(tmp_path / "block.parquet")


def test_rows_without_an_id_in_a_list_of_items_are_counted(tmp_path, caplog):
    pl.DataFrame({"item_id": [5.0, None, float("nan")]}).write_parquet(tmp_path / "block.parquet")
    assert read_item_ids(tmp_path / "block.parquet") == ["5"]
    assert "2 of 3 rows have no item_id" in caplog.text
    for name, text in (("block.csv", "item_id\n"), ("block.txt", "\n \n")):
        (tmp_path / name).write_text(text)
        assert read_item_ids(tmp_path / name) == []
        assert f"{name}: there is no item in the list" in caplog.text


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (None, "nothing is given"),
        (pl.DataFrame({"item_id": ["a"], "z": pl.Series([object()], dtype=pl.Object)}), "'z' holds Python objects"),
        (pd.DataFrame({"item_id": ["a"], "z": [1j]}), "not a table"),
        (pd.DataFrame({"item_id": ["a", "b"], "z": [object(), 1]}), "not a table"),
    ],
)
def test_what_is_no_table_is_refused(table, said):
    with pytest.raises(DataError, match=said):
        to_frame(table)
