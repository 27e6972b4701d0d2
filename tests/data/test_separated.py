"""Separated values: no quote swallows a row and no short row is filled up; Python's csv module says what is right."""

import csv
import gzip
import io
import random
import re

import polars as pl
import pytest

from genrec.data import separated
from genrec.data.account import TableAccount
from genrec.data.readers import read_table, to_frame
from genrec.data.separated import read_separated
from genrec.errors import DataError

HEAD = "user_id,item_id,timestamp,query\n"


def read(tmp_path, name, text, kind="interactions"):
    """The rows as text, and the notes."""
    data = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    account = TableAccount(kind)
    table = read_table(tmp_path / name, kind, account=account)
    assert account.rows_read == table.height
    return [tuple("" if value is None else str(value) for value in row) for row in table.rows()], account.notes


def refusal(tmp_path, name, text, kind="interactions"):
    with pytest.raises(DataError) as caught:
        read(tmp_path, name, text, kind)
    return str(caught.value)


@pytest.mark.parametrize("seed", range(6))
def test_random_tables_are_read_as_python_reads_them(monkeypatch, seed):
    draw = random.Random(seed)
    swallowed = whole = 0
    for _ in range(60):
        # Blocks of a few bytes cut the table everywhere.
        monkeypatch.setattr(separated, "BLOCK", draw.choice([8, 16, 64, 1 << 20]))
        separator, width = draw.choice(",;\t"), draw.randint(1, 4)
        letters = ["a", "b", "é", " ", "x", "\\", '"', "\n", "\r\n", separator]
        rows = [
            ["".join(draw.choices(letters, k=draw.randint(0, 5))) for _ in range(width)]
            for _ in range(draw.randint(1, 8))
        ]
        stream = io.StringIO(newline="")
        quoting = draw.choice([csv.QUOTE_ALL, csv.QUOTE_MINIMAL])
        writer = csv.writer(stream, delimiter=separator, quoting=quoting, lineterminator=draw.choice(["\n", "\r\n"]))
        writer.writerows([[f"c{column}" for column in range(width)], *rows])
        text = stream.getvalue()
        parsed = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        wanted = [row for row in parsed if row][1:]
        try:
            found = read_separated(text.encode(), separator, "log.csv", TableAccount("interactions"))
        except DataError as error:
            # Lines of a value that all look like rows.
            swallowed += error.what == "rows would be read as part of a value in double quotes"
            continue
        whole += 1
        assert [[value or "" for value in row] for row in found.rows()] == wanted
    assert swallowed < 6
    assert whole + swallowed == 60


@pytest.mark.parametrize(("name", "mark"), [("log.csv", ","), ("log.tsv", "\t"), ("log.csv.gz", ";")])
def test_quotes_with_a_backslash_as_spark_and_mysql_write_them(tmp_path, name, mark):
    lines = ['u1,a,1,"12\\" vinyl"', "u1,b,2,lamp", 'u1,c,3,"7\\" single"', 'u2,a,1,"C:\\\\"', 'u2,b,2,"say \\"hi\\""']
    rows, notes = read(tmp_path, name, (HEAD + "\n".join(lines) + "\n").replace(",", mark))
    assert [row[3] for row in rows] == ['12" vinyl', "lamp", '7" single', "C:\\", 'say "hi"']
    assert ["".join(row[:3]) for row in rows] == ["u1a1", "u1b2", "u1c3", "u2a1", "u2b2"]
    assert notes == ['quotes inside values are written as \\": read so']


def test_quotes_with_a_backslash_in_items(tmp_path):
    rows, _ = read(tmp_path, "items.csv", 'item_id,title\na,"5\\" pipe"\nb,"\\"Heroes\\""\n', "items")
    assert rows == [("a", '5" pipe'), ("b", '"Heroes"')]


def test_backslashes_that_escape_nothing_stay(tmp_path):
    rows, notes = read(tmp_path, "items.csv", 'item_id,path\na,"C:\\temp, old"\nb,"D:\\"\nc,\\n\n', "items")
    assert rows == [("a", "C:\\temp, old"), ("b", "D:\\"), ("c", "\\n")]
    assert notes == []


@pytest.mark.parametrize(("name", "mark"), [("log.csv", ","), ("log.tsv", "\t"), ("items.csv", ";")])
def test_quotes_inside_values_without_quotes_are_letters(tmp_path, name, mark):
    text = 'user_id,item_id,note\nu1,5" pipe,x\nu2,b,it is 3" wide\nu3,c,12" and 7"\n'.replace(",", mark)
    rows, notes = read(tmp_path, name, text, "items" if name.startswith("items") else "interactions")
    assert rows == [("u1", '5" pipe', "x"), ("u2", "b", 'it is 3" wide'), ("u3", "c", '12" and 7"')]
    assert notes == ["values have double quotes inside, the first in line 2: read as they are"]


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        (["u1,a,1,lamp", 'u1,b,2,"12" vinyl"', "u2,a,3,lamp"], 3),
        (["u1,a,1,lamp", 'u1,b,2,"never closed', "u2,a,3,lamp"], 3),
        (['u1,a,1,"lamp"', 'u1,b,2,5" pipe'], 3),
        (["u1,a,1,lamp", 'u1, "b, c",2,lamp'], 3),
        (['u1,a,1,"lamp', "u1,b,2,lamp", 'u2,a,1,lamp"', "u2,b,2,x"], 2),
    ],
    ids=["quote inside", "never closed", "both ways", "blank before a quote", "rows inside a value"],
)
@pytest.mark.parametrize("name", ["log.csv", "log.tsv"])
def test_quotes_that_cannot_be_explained_are_refused_with_the_line(tmp_path, name, lines, line):
    text = HEAD + "\n".join(lines) + "\n"
    message = refusal(tmp_path, name, text.replace(",", "\t") if name.endswith("tsv") else text)
    assert "double quote" in message
    assert f"{name}, line {line}\n" in message
    assert 'doubled ("12"" vinyl")' in message


def test_values_of_several_lines_are_read_and_counted(tmp_path):
    text = HEAD + 'u1,a,1,"two\nlines"\nu1,b,2,one\nu2,a,3,"three\n\nlines"\n'
    rows, notes = read(tmp_path, "log.csv", text)
    assert [row[3] for row in rows] == ["two\nlines", "one", "three\n\nlines"]
    assert notes == ["2 rows have a value of several lines, the first in line 2"]


def test_empty_lines_are_no_rows(tmp_path):
    rows, _ = read(tmp_path, "log.csv", "\nuser_id,item_id\nu1,a\n\r\n\nu2,b\n\n\n")
    assert rows == [("u1", "a"), ("u2", "b")]


@pytest.mark.parametrize(
    ("name", "kind", "text", "line"),
    [
        ("log.csv", "interactions", "user_id,item_id,timestamp\nu1,sku-100,1\nu2,sku-2", 3),
        ("log.csv.gz", "interactions", "user_id,item_id,timestamp\nu1,sku-100,1\nu2", 3),
        ("log.tsv", "interactions", "user_id\titem_id\nu1\ta\nu2\n", 3),
        ("items.csv", "items", 'item_id;title\na;"Kettle;\nred"\nb', 4),
        ("x.inter", "interactions", "user_id:token\titem_id:token\nu1\ta\nu", 3),
        ("u.data", "interactions", "1\t2\t3\t4\n1\t2\t", 2),
        ("ratings.dat", "interactions", "1::2::3::4\n1::2", 2),
    ],
)
def test_a_file_that_is_cut_short_is_refused(tmp_path, name, kind, text, line):
    message = refusal(tmp_path, name, text, kind)
    assert "the file is cut short" in message
    assert f"{name}, line {line}\n" in message


def test_rows_of_another_width_are_refused_with_their_lines(tmp_path):
    text = "user_id,item_id\n" + "".join(f"u,{n}{',x' if n % 3 == 0 else ''}\n" for n in range(20))
    message = refusal(tmp_path, "log.csv", text)
    assert "line 2 has 3 values, the first line has 2" in message
    assert "lines 2, 5, 8, 11, 14, ... (7 in all)" in message
    assert "line 3 has 1 values" in refusal(tmp_path, "log.csv", "user_id,item_id\nu,a\nu\nu,b\n")


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("log.csv", "user_id,item_id,user_id"),
        ("log.tsv", "user_id\titem_id\t user_id"),
        ("x.inter", "user_id:token\titem_id:token\tuser_id:float"),
    ],
)
def test_a_column_twice_is_refused(tmp_path, name, header):
    row = "\t".join("abc") if "\t" in header else "a,b,c"
    assert "the column 'user_id' occurs twice" in refusal(tmp_path, name, f"{header}\n{row}\n")


@pytest.mark.parametrize(("name", "mark"), [("log.csv", ","), ("log.tsv", "\t"), ("x.inter", "\t")])
def test_headers_between_the_rows_are_left_out_and_counted(tmp_path, name, mark):
    head = "user_id:token\titem_id:token" if name == "x.inter" else f"user_id{mark}item_id"
    (tmp_path / name).write_text(f"{head}\nu1{mark}a\n{head}\nu2{mark}b\n{head}\nu2{mark}item_id\n")
    account = TableAccount("interactions")
    found = read_table(tmp_path / name, "interactions", account=account)
    assert found.rows() == [("u1", "a"), ("u2", "b"), ("u2", "item_id")]
    assert account.rows_read == 5
    assert account.left_out["lines that repeat the header"].rows == 2
    assert account.notes == ["2 lines repeat the header and are left out: rows 2, 4 (2 in all)"]


@pytest.mark.parametrize(
    ("name", "mark"), [("log.csv", "|"), ("log.csv", "^"), ("log.tsv", ","), ("log.tsv", ";"), ("log.csv", " ")]
)
def test_another_separator_names_those_that_are_read(tmp_path, name, mark):
    message = refusal(tmp_path, name, f"user_id{mark}item_id\nu1{mark}a\n")
    assert re.search(r"the header is one column, 'user_id.item_id'", message)
    assert "comma, semicolon" in message


def test_names_of_columns_are_stripped(tmp_path):
    names = ["user_id", " item_id", "\u00a0timestamp ", "\u200bnote", "a b"]
    (tmp_path / "log.csv").write_text(",".join(names) + "\nu1,a,1,x,y\n")
    frame = pl.DataFrame([["u1"], ["a"], [1], ["x"], ["y"]], schema=names)
    frame.write_parquet(tmp_path / "log.parquet")
    frame.write_ndjson(tmp_path / "log.jsonl")
    wanted = ["user_id", "item_id", "timestamp", "note", "a b"]
    for name in ("log.csv", "log.parquet", "log.jsonl"):
        assert read_table(tmp_path / name, "interactions").columns == wanted
    assert to_frame(frame).columns == wanted
    assert to_frame(frame.with_columns(item_id="user_id")).columns[1] == " item_id"


@pytest.mark.parametrize(("name", "mark"), [("log.csv", ","), ("log.tsv", "\t")])
def test_lines_may_end_with_cr_alone(tmp_path, name, mark):
    rows, notes = read(tmp_path, name, f"user_id{mark}item_id\ru1{mark}a\ru2{mark}b\r")
    assert rows == [("u1", "a"), ("u2", "b")]
    assert notes == ["lines end with CR alone, as on old computers: read so"]


def test_the_note_names_the_file_in_a_folder(tmp_path):
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "0.csv").write_text("user_id,item_id\nu1,a\n")
    (tmp_path / "log" / "1.csv").write_text('user_id,item_id\nu1,5" pipe\n')
    account = TableAccount("interactions")
    read_table(tmp_path / "log", "interactions", account=account)
    assert account.notes == ["1.csv: values have double quotes inside, the first in line 2: read as they are"]


def test_numbers_with_more_digits_than_a_float_holds_stay_text(tmp_path):
    lines = ["a,12345678901234567890,1.5,9007199254740993,+49", "b,5,2,7,+1"]
    (tmp_path / "items.csv").write_text("item_id,session,price,ticket,phone\n" + "\n".join(lines) + "\n")
    assert read_table(tmp_path / "items.csv", "items").rows() == [
        ("a", "12345678901234567890", 1.5, 9007199254740993, "+49"),
        ("b", "5", 2.0, 7, "+1"),
    ]


def test_rows_that_the_parser_loses_are_noticed(monkeypatch):
    parse = separated.pl.read_csv
    monkeypatch.setattr(separated.pl, "read_csv", lambda *given, **options: parse(*given, **options)[:-1])
    with pytest.raises(DataError, match="2 rows were counted, 1 read"):
        read_separated(b"user_id,item_id\nu,a\nu,b\n", ",", "log.csv", TableAccount("interactions"))


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "sep=,", ""])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_line_that_names_the_separator_to_a_spreadsheet_is_no_header(tmp_path, first, end):
    path = tmp_path / "log.csv"
    path.write_text(end.join([first, "user_id;item_id", "u;a", "u;b", ""]), newline="")
    assert read_table(path, "interactions").rows() == [("u", "a"), ("u", "b")]
    path.write_text(end.join([first, "user_id;item_id", "u;a", "u;b;c", "u;d", ""]), newline="")
    with pytest.raises(DataError, match="line 4"):
        read_table(path, "interactions")
