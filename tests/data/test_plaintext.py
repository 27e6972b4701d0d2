"""Text that is packed, or in another encoding than UTF-8, is refused with what it is."""

import bz2
import gzip
import io
import lzma
import zipfile

import polars as pl
import pytest

from genrec.data.plaintext import utf8_bytes
from genrec.data.readers import read_item_ids, read_table
from genrec.errors import DataError

TABLE = "item_id,title\na,{}\nb,plain\n"
TEXTS = {
    "latin1": "Café noir à la crème, déjà vu",
    "cp1252": "“Café” – 5 €, Ω".replace("Ω", "œ"),
    "shift_jis": "やかんとランプ、あかいほん",
    "cp1251": "Красный чайник и синяя лампа",
}
LINES = '{"user_id": "u", "item_id": "a"}\n{"user_id": "u", "item_id": "b"}\n'


def refusal(path, data, kind="items"):
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        read_table(path, kind)
    return str(caught.value)


@pytest.mark.parametrize("encoding", TEXTS)
@pytest.mark.parametrize("name", ["items.csv", "items.tsv"])
def test_the_likely_encoding_is_named(tmp_path, name, encoding):
    text = TABLE.format('"' + TEXTS[encoding] + '"')
    message = refusal(tmp_path / name, (text.replace(",", "\t") if "tsv" in name else text).encode(encoding))
    assert "the file is not UTF-8" in message
    assert f"{name}, line 2" in message
    assert f"iconv -f {encoding} -t utf-8 {name}" in message


@pytest.mark.parametrize(
    ("encoding", "text"),
    [("gbk", "红色的水壶和蓝色的灯"), ("big5", "紅色的水壺和藍色的燈"), ("euc_kr", "빨간 주전자와 파란 등")],
)
def test_encodings_that_cannot_be_told_apart_are_all_named(tmp_path, encoding, text):
    message = refusal(tmp_path / "items.csv", TABLE.format(text).encode(encoding))
    assert "find its encoding" in message
    assert encoding in message


@pytest.mark.parametrize(
    ("encoding", "said"),
    [("utf-16", "utf-16"), ("utf-16-le", "utf-16le"), ("utf-16-be", "utf-16be"), ("utf-32", "utf-32")],
)
@pytest.mark.parametrize(
    ("name", "text"),
    [("items.csv", TABLE.format("x")), ("log.jsonl", LINES), ("x.item", TABLE), ("movies.dat", "1::Kettle::Home\n")],
)
def test_wide_characters(tmp_path, encoding, said, name, text):
    message = refusal(tmp_path / name, text.encode(encoding))
    assert f"iconv -f {said} -t utf-8 {name}" in message


def _zipped(data: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("items.csv", data)
    return stream.getvalue()


def _parquet(data: bytes) -> bytes:
    stream = io.BytesIO()
    pl.DataFrame({"item_id": ["a"]}).write_parquet(stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("pack", "cure"),
    [
        (gzip.compress, "packed with gzip\n"),
        (_zipped, "a zip archive or a spreadsheet"),
        (_parquet, "Parquet"),
        (bz2.compress, "packed with bzip2"),
        (lzma.compress, "packed with xz"),
    ],
)
@pytest.mark.parametrize("name", ["items.csv", "items.jsonl", "x.item", "items.txt", "u.item"])
def test_packed_files_under_another_name(tmp_path, name, pack, cure):
    (tmp_path / name).write_bytes(pack(TABLE.encode()))
    with pytest.raises(DataError) as caught:
        read_item_ids(tmp_path / name)
    assert f"the file is {cure}" in str(caught.value)
    if pack is gzip.compress:
        assert f"name it {name}.gz" in str(caught.value)


def test_a_byte_order_mark_is_no_part_of_the_table(tmp_path):
    (tmp_path / "log.jsonl").write_text("\ufeff" + LINES)
    (tmp_path / "log.json").write_text('\ufeff[{"user_id": "u", "item_id": "a"}, {"user_id": "u", "item_id": "b"}]')
    (tmp_path / "x.inter").write_text("\ufeffuser_id:token\titem_id:token\nu\ta\nu\tb\n")
    (tmp_path / "log.csv").write_text('\ufeff"user_id","item_id"\nu,a\nu,b\n')
    (tmp_path / "ids.txt").write_text("\ufeffa\nb\n")
    for name in ("log.jsonl", "log.json", "x.inter", "log.csv"):
        table = read_table(tmp_path / name, "interactions")
        assert (table.columns, table.rows()) == (["user_id", "item_id"], [("u", "a"), ("u", "b")])
    assert read_item_ids(tmp_path / "ids.txt") == ["a", "b"]


def test_damaged_text_is_refused_with_the_line(tmp_path):
    message = refusal(tmp_path / "items.csv", b"item_id,title\na,x\nb,y\x00z\n")
    assert "the file holds NUL bytes" in message
    assert "items.csv, line 3" in message


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_movielens_files_may_be_in_either_encoding(tmp_path, encoding):
    (tmp_path / "movies.dat").write_bytes("73::Misérables, Les (1995)::Drama\n".encode(encoding))
    (tmp_path / "u.user").write_bytes("2|53|F|écrivain|T8H1N\n".encode(encoding))
    assert read_table(tmp_path / "movies.dat", "items")["title"].to_list() == ["Les Misérables (1995)"]
    assert read_table(tmp_path / "u.user", "users")["occupation"].to_list() == ["écrivain"]


@pytest.mark.parametrize("chunk", [10, 1 << 20])
def test_the_line_is_counted_over_all_pieces(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr("genrec.data.jsonlines.CHUNK_BYTES", chunk)
    data = (LINES * 3).encode() + '{"user_id": "u", "item_id": "é"}\n'.encode("latin-1")
    assert "log.jsonl, line 7" in refusal(tmp_path / "log.jsonl", data, "interactions")


@pytest.mark.parametrize("text", ["user_id,item_id\nu,a\n", "u,a\n" * 40])
@pytest.mark.parametrize("zeros", [1, 3, 100, 5000])
def test_zeros_at_the_end_are_no_other_encoding(text, zeros):
    with pytest.raises(DataError, match="NUL bytes\n") as caught:
        utf8_bytes(text.encode() + bytes(zeros), "log.csv")
    assert "damaged" in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-16le", "utf-16be"])
def test_wide_characters_without_a_mark_are_named(encoding):
    with pytest.raises(DataError, match=f"iconv -f {encoding} "):
        utf8_bytes("user_id,item_id\nu,a\n".encode(encoding), "log.csv")
