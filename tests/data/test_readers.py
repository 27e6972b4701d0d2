"""Every input format, from files of the shape that their publishers write."""

import gzip
import json
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from genrec.data import jsonlines
from genrec.data.readers import find_table, read_table, require_table, table_sha256, to_frame
from genrec.data.textformats import clean_movie_title
from genrec.errors import DataError

ROWS = [("u1", "0012", 100, 4.0), ("u2", "0013", 200, 3.5), ("u1", "0013", 300, 1.0)]
NAMES = ["user_id", "item_id", "timestamp", "rating"]
TABLE = pl.DataFrame(ROWS, schema=NAMES, orient="row")


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def separated(mark: str, rows=ROWS, names=NAMES) -> str:
    lines = [mark.join(names)] if names else []
    return "\n".join([*lines, *(mark.join(map(str, row)) for row in rows)]) + "\n"


def json_lines(entries: list[dict]) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def refusal(path: Path, kind="interactions") -> str:
    with pytest.raises(DataError) as caught:
        read_table(path, kind)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("log.csv", separated(",")),
        ("log.csv.gz", separated(",")),
        ("windows.csv", "\ufeff" + separated(",").replace("\n", "\r\n")),
        ("german.csv", separated(";")),
        ("log.tsv", separated("\t")),
        ("log.tsv.gz", separated("\t")),
        ("log.jsonl", json_lines(TABLE.to_dicts())),
        ("log.jsonl.gz", json_lines(TABLE.to_dicts())),
        ("log.json", json.dumps(TABLE.to_dicts())),
        ("log.json", json.dumps(TABLE.to_dicts(), indent=2)),
    ],
)
def test_text_tables(tmp_path, name, text):
    assert read_table(write(tmp_path / name, text), "interactions").equals(TABLE)


def test_parquet(tmp_path):
    TABLE.write_parquet(tmp_path / "log.parquet")
    assert read_table(tmp_path / "log.parquet", "interactions").equals(TABLE)


def test_recbole(tmp_path):
    names = ["user_id:token", "item_id:token", "timestamp:float", "rating:float"]
    path = write(tmp_path / "x.inter", separated("\t", names=names))
    assert read_table(path, "interactions").rows() == ROWS
    text = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\tvector:float_seq\n"
    text += "1\tLion King, The\t1994\tAnimation Children's\t0.5 1.5\n2\tunkonwn\tunkonwn\tunknown\t1\n"
    items = read_table(write(tmp_path / "x.item", text), "items")
    assert items.columns == ["item_id", "title", "genres", "release_year", "vector"]
    assert items.rows() == [
        ("1", "The Lion King (1994)", "Animation, Children's", 1994, [0.5, 1.5]),
        ("2", "unknown", "unknown", None, [1.0]),
    ]


def test_movielens_100k(tmp_path):
    data = write(tmp_path / "u.data", separated("\t", rows=[("196", "242", "3", "881250949")], names=[]))
    frame = read_table(data, "interactions")
    assert frame.rows(named=True) == [{"user_id": "196", "item_id": "242", "rating": "3", "timestamp": "881250949"}]
    flags = {1: "0|0|0|1|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0", 2: "0|0|0|0|0|0|0|0|1|0|0|0|0|0|0|0|0|0|0"}
    lines = f"1|Toy Story (1995)|01-Jan-1995||http://x/M?a|{flags[1]}\n2|Misérables, Les (1995)|||http://x|{flags[2]}\n"
    items = read_table(write(tmp_path / "u.item", lines.encode("latin-1")), "items")
    assert items.rows() == [
        ("1", "Toy Story (1995)", "Animation, Children's, Comedy", 1995),
        ("2", "Les Misérables (1995)", "Drama", 1995),
    ]
    lines = "1|24|M|technician|05201\n2|53|F|écrivain|T8H1N\n"
    assert read_table(write(tmp_path / "u.user", lines.encode("latin-1")), "users").rows(named=True) == [
        {"user_id": "1", "age": "24", "gender": "M", "occupation": "technician", "zip_code": "05201"},
        {"user_id": "2", "age": "53", "gender": "F", "occupation": "écrivain", "zip_code": "T8H1N"},
    ]


def test_movielens_1m(tmp_path):
    ratings = write(tmp_path / "ratings.dat", "1::1193::5::978300760\n1::661::3::978302109\n")
    assert read_table(ratings, "interactions").select("user_id", "item_id", "rating", "timestamp").rows() == [
        ("1", "1193", "5", "978300760"),
        ("1", "661", "3", "978302109"),
    ]
    movies = "1::Toy Story (1995)::Animation|Children's|Comedy\n73::Misérables, Les (1995)::Drama\n"
    assert read_table(write(tmp_path / "movies.dat", movies.encode("latin-1")), "items").rows() == [
        ("1", "Toy Story (1995)", "Animation, Children's, Comedy"),
        ("73", "Les Misérables (1995)", "Drama"),
    ]


def test_movielens_csv(tmp_path):
    path = write(tmp_path / "ratings.csv", "userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n")
    assert read_table(path, "interactions").rows() == [("1", "31", 2.5, 1260759144)]
    path = write(tmp_path / "movies.csv", 'movieId,title,genres\n11,"American President, The (1995)",Comedy|Drama\n')
    assert read_table(path, "items").rows() == [("11", "American President, The (1995)", "Comedy|Drama")]


AMAZON_2014 = [
    {
        "reviewerID": "A1YJEY40YUW4SE", "asin": "7806397051", "reviewerName": "Andrea", "helpful": [3, 4],
        "reviewText": "Very oily and creamy.", "overall": 1.0, "summary": "Don't", "unixReviewTime": 1391040000,
        "reviewTime": "01 30, 2014",
    },
    {"reviewerID": "A60XNB876KYML", "asin": "7806397051", "overall": 3.0, "unixReviewTime": 1397779200},
]  # fmt: skip
AMAZON_2023 = [
    {
        "rating": 5.0, "title": "Such a lovely scent", "text": "It lasts.", "images": [{"small_image_url": "http://x"}],
        "asin": "B00YQ6X8EO", "parent_asin": "B00YQ6X8E0", "user_id": "AGKHLEW2SOWHNMFQIJGBECAF7INQ",
        "timestamp": 1588687728923, "helpful_vote": 0, "verified_purchase": True,
    },
    {"rating": 4.0, "images": [], "asin": "B0", "parent_asin": "B1", "user_id": "AE", "timestamp": 1588615855070},
]  # fmt: skip


@pytest.mark.parametrize("chunk", [10, 1 << 20])
def test_amazon_reviews(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(jsonlines, "CHUNK_BYTES", chunk)
    old = read_table(write(tmp_path / "reviews_Beauty_5.json.gz", json_lines(AMAZON_2014)), "interactions")
    assert sorted(old.columns) == sorted(NAMES)
    assert old.select(NAMES).rows() == [
        ("A1YJEY40YUW4SE", "7806397051", 1391040000, 1.0),
        ("A60XNB876KYML", "7806397051", 1397779200, 3.0),
    ]
    new = read_table(write(tmp_path / "All_Beauty.jsonl", json_lines(AMAZON_2023)), "interactions")
    assert new.select(NAMES).rows() == [
        ("AGKHLEW2SOWHNMFQIJGBECAF7INQ", "B00YQ6X8E0", 1588687728923, 5.0),
        ("AE", "B1", 1588615855070, 4.0),
    ]


@pytest.mark.parametrize("chunk", [10, 1 << 20])
def test_amazon_metadata_of_2014_are_python_literals(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(jsonlines, "CHUNK_BYTES", chunk)
    entries = [
        {
            "asin": "0205616461", "title": "Bio-Active &amp;  Anti-Aging", "price": 9.5, "brand": "",
            "categories": [["Beauty", "Skin Care"], ["Gifts"]], "related": {"also_bought": ["B1"]},
            "description": "It's \"good\"", "salesRank": {"Beauty": 461765},
        },
        {"asin": "0558925278", "categories": [[]]},
    ]  # fmt: skip
    path = write(tmp_path / "meta_Beauty.json.gz", "".join(f"{entry!r}\n" for entry in entries))
    items = read_table(path, "items")
    assert items.columns == ["item_id", "title", "price", "categories", "description"]
    assert items.rows() == [
        ("0205616461", "Bio-Active & Anti-Aging", 9.5, ["Beauty > Skin Care", "Gifts"], ['It\'s "good"']),
        ("0558925278", None, None, None, None),
    ]


def test_amazon_metadata_of_2023(tmp_path):
    entries = [
        {
            "main_category": "All Beauty", "title": "Howard LC0008 Leather Conditioner", "store": "Howard Products",
            "features": [], "description": ["Soft.", "Clean."], "price": "$1,012.50", "categories": ["Care"],
            "details": {"Item Weight": "8"}, "parent_asin": "B01CUPMQZE", "images": [{"large": "x"}],
        },
        {"title": "Yes to Tomatoes", "price": "—", "parent_asin": "B076WQZGPM", "description": []},
    ]  # fmt: skip
    items = read_table(write(tmp_path / "meta_All_Beauty.jsonl.gz", json_lines(entries)), "items")
    wanted = ["item_id", "title", "store", "main_category", "price", "categories", "description"]
    assert items.columns == wanted
    assert items.rows() == [
        (
            "B01CUPMQZE",
            "Howard LC0008 Leather Conditioner",
            "Howard Products",
            "All Beauty",
            1012.5,
            ["Care"],
            ["Soft.", "Clean."],
        ),
        ("B076WQZGPM", "Yes to Tomatoes", None, None, None, None, None),
    ]


def test_lists_in_text_columns(tmp_path):
    entries = [{"item_id": "a", "tags": ["x", "y"]}, {"item_id": "b", "tags": None}]
    items = read_table(write(tmp_path / "items.jsonl", json_lines(entries)), "items")
    assert items["tags"].to_list() == [["x", "y"], None]


def test_shards_are_read_in_the_order_of_their_names(tmp_path):
    for part, rows in (("b", ROWS[2:]), ("a", ROWS[:2])):
        write(tmp_path / "log" / f"part-{part}.csv", separated(",", rows=rows))
    write(tmp_path / "log" / "_SUCCESS", "")
    assert read_table(tmp_path / "log", "interactions").equals(TABLE)


def test_folders_of_partitions_are_columns(tmp_path):
    for rating, rows in (("3.5", TABLE[1:2]), ("__HIVE_DEFAULT_PARTITION__", TABLE[2:]), ("4%2E0", TABLE[:1])):
        (tmp_path / f"shop=a%20b/rating={rating}").mkdir(parents=True)
        rows.drop("rating").write_parquet(tmp_path / f"shop=a%20b/rating={rating}" / "part-0.snappy.parquet")
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "_delta_log").mkdir()
    (tmp_path / "_delta_log" / "0.json").write_text("{}")
    table = read_table(tmp_path, "interactions").sort("rating", descending=True, nulls_last=True)
    assert table["rating"].to_list() == ["4.0", "3.5"] + [None] * (len(TABLE) - 2)
    assert table["shop"].unique().to_list() == ["a b"]
    assert table["item_id"].to_list() == TABLE["item_id"].to_list()


def test_shards_may_lack_an_optional_column(tmp_path):
    TABLE[:2].write_parquet(tmp_path / "0.parquet")
    TABLE[2:].drop("rating").write_parquet(tmp_path / "1.parquet")
    assert read_table(tmp_path, "interactions")["rating"].to_list() == [4.0, 3.5, None]


def test_a_column_that_is_text_in_one_shard_is_text(tmp_path):
    write(tmp_path / "0.csv", "user_id,item_id,note\n1,2,7\n")
    write(tmp_path / "1.csv", "user_id,item_id,note\n1,2,x\n")
    assert read_table(tmp_path, "interactions")["note"].to_list() == ["7", "x"]


def test_shards_that_do_not_fit(tmp_path):
    TABLE.write_parquet(tmp_path / "0.parquet")
    TABLE.with_columns(pl.concat_list("rating").alias("rating")).write_parquet(tmp_path / "1.parquet")
    assert "the shards do not fit together" in refusal(tmp_path)


def test_shards_of_two_formats(tmp_path):
    write(tmp_path / "a.csv", separated(","))
    write(tmp_path / "b.jsonl", json_lines(TABLE.to_dicts()))
    assert "the folder mixes formats: .csv, .jsonl" in refusal(tmp_path)


def test_an_empty_folder(tmp_path):
    (tmp_path / "log").mkdir()
    assert "is empty" in refusal(tmp_path / "log")


def test_datasets_in_memory_and_on_disk(tmp_path):
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_dict(TABLE.to_dict(as_series=False))
    assert to_frame(dataset).equals(TABLE)
    assert to_frame(dataset.select([2, 0])).equals(TABLE[[2, 0]])
    dataset.save_to_disk(tmp_path / "saved")
    assert read_table(tmp_path / "saved", "interactions").equals(TABLE)


@pytest.mark.parametrize(
    "table", [TABLE.to_arrow(), TABLE.to_dict(as_series=False), TABLE.lazy(), TABLE.to_pandas()],
    ids=["arrow", "dict", "lazy", "pandas"],
)  # fmt: skip
def test_tables_in_memory(table):
    assert to_frame(table).equals(TABLE)
    assert to_frame(table, {"stars": "rating"}).columns[-1] == "stars"


def test_what_is_no_table_is_refused():
    with pytest.raises(DataError, match="a function is not a table"):
        to_frame(test_tables_in_memory)


def test_the_users_names_win_over_the_formats(tmp_path):
    path = write(tmp_path / "log.csv", "userId,movieId,film\n1,2,3\n")
    assert read_table(path, "interactions", {"item_id": "film"}).columns == ["userId", "movieId", "item_id"]


def test_codes_with_leading_zeros_and_text_stay_text(tmp_path):
    path = write(tmp_path / "items.csv", "item_id,zip,price,name,year\n7,0123,1.5,1,\n8,4567,2,x,\n")
    items = read_table(path, "items")
    assert items.rows() == [("7", "0123", 1.5, "1", None), ("8", "4567", 2.0, "x", None)]


@pytest.mark.parametrize("name", ["log.csv", "log.parquet", "log.jsonl", "log.inter", "u.data"])
def test_an_empty_file(tmp_path, name):
    message = refusal(write(tmp_path / name, b""))
    assert "the file is empty" in message
    assert name in message


def test_a_truncated_parquet_file(tmp_path):
    TABLE.write_parquet(tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    message = refusal(write(tmp_path / "cut.parquet", whole[: len(whole) // 2]))
    assert "the parquet file cannot be read" in message
    assert "was not written to its end" in message


@pytest.mark.parametrize("name", ["log.csv.gz", "log.jsonl.gz"])
def test_a_truncated_gzip_file(tmp_path, name):
    packed = gzip.compress(separated(",").encode() * 50)
    (tmp_path / name).write_bytes(packed[: len(packed) // 2])
    assert "the file cannot be unpacked" in refusal(tmp_path / name)
    (tmp_path / name).write_bytes(b"no gzip at all")
    assert "the file cannot be unpacked" in refusal(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("items.csv", "item_id,title\n1,Plain\n2,Caf\xe9 noir\n", 3),
        ("items.tsv", "item_id\ttitle\n1\tCaf\xe9\n", 2),
        ("x.item", "item_id:token\ttitle:token\n1\tCaf\xe9\n", 2),
        ("items.jsonl", '{"item_id": "1"}\n{"item_id": "2", "title": "Caf\xe9"}\n', 2),
    ],
)
def test_a_file_that_is_not_utf8(tmp_path, name, text, line):
    message = refusal(write(tmp_path / name, text.encode("latin-1")), "items")
    shown = text.splitlines()[line - 1].partition("Caf\xe9")[0][-7:] + "Caf\xe9"
    assert f"the file is not UTF-8: byte 0xe9 in {shown!r}"[:-1] in message
    assert f"{name}, line {line}" in message
    assert f"iconv -f latin1 -t utf-8 {name}" in message


def test_csv_with_ragged_lines(tmp_path):
    message = refusal(write(tmp_path / "log.csv", "user_id,item_id\na,b\na,b,c,d\n"))
    assert "line 3 has 4 values, the first line has 2" in message
    assert "log.csv, line 3" in message
    assert "values separated by ','" in message


def test_a_line_that_is_not_json(tmp_path):
    text = '{"user_id": "a", "item_id": "b"}\n\n{"user_id": "a", "ite\n'
    message = refusal(write(tmp_path / "log.jsonl", text))
    assert 'a line is not a JSON object: \'{"user_id": "a", "ite\'' in message
    assert "log.jsonl, line 3" in message


def test_a_line_that_is_not_an_object(tmp_path):
    assert "log.jsonl, line 1" in refusal(write(tmp_path / "log.jsonl", '"text"\n'))


def test_json_that_is_no_table(tmp_path):
    assert "the table cannot be read" in refusal(write(tmp_path / "log.json", "[1, {"))


def test_an_unknown_format(tmp_path):
    message = refusal(write(tmp_path / "log.xlsx", "x"))
    assert "the format .xlsx is not known" in message
    assert ".parquet, .csv" in message


def test_a_movielens_file_of_another_width(tmp_path):
    message = refusal(write(tmp_path / "ratings.dat", "1::2\n"))
    assert "the table has 2 columns" in message
    assert "user_id, item_id, rating, timestamp" in message


def test_a_missing_file(tmp_path):
    assert "there is no file" in refusal(tmp_path / "nothing.csv")


@pytest.mark.parametrize(
    ("names", "kind", "found"),
    [
        (["interactions.csv", "items.parquet", "x.inter"], "interactions", "interactions.csv"),
        (["ml-100k.inter", "ml-100k.item"], "items", "ml-100k.item"),
        (["u.data", "u.item", "u.genre"], "interactions", "u.data"),
        (["u.data", "u.item", "u.genre"], "items", "u.item"),
        (["ratings.dat", "movies.dat"], "items", "movies.dat"),
        (["u.data", "u.item", "u.user"], "users", "u.user"),
        (["ratings.dat", "movies.dat", "users.dat"], "users", "users.dat"),
        (["ml-100k.inter", "ml-100k.user"], "users", "ml-100k.user"),
        (["interactions.csv", "users/0.parquet"], "users", "users"),
        (["reviews_Beauty_5.json.gz", "meta_Beauty.json.gz"], "interactions", "reviews_Beauty_5.json.gz"),
        (["interactions/0.parquet"], "interactions", "interactions"),
        (["README.md"], "items", None),
    ],
)
def test_tables_are_found_by_name(tmp_path, names, kind, found):
    for name in names:
        write(tmp_path / name, "x")
    path = find_table(tmp_path, kind)
    assert (path.name if path else None) == found


def test_a_folder_without_interactions(tmp_path):
    with pytest.raises(DataError, match=r"there are no interactions[\s\S]*name the file interactions.csv"):
        require_table(tmp_path, "interactions")


def test_two_tables_of_interactions(tmp_path):
    for name in ("interactions.csv", "interactions.parquet"):
        write(tmp_path / name, "x")
    with pytest.raises(DataError, match=r"several files could be the interactions: interactions.csv, interactions.par"):
        find_table(tmp_path, "interactions")


def test_the_hash_of_a_folder_follows_names_and_contents(tmp_path):
    first, second = write(tmp_path / "f" / "a.csv", "1"), write(tmp_path / "f" / "b.csv", "2")
    before = table_sha256(tmp_path / "f")
    assert before == table_sha256(tmp_path / "f")
    second.write_text("3")
    changed = table_sha256(tmp_path / "f")
    second.rename(tmp_path / "f" / "c.csv")
    assert len({before, changed, table_sha256(tmp_path / "f")}) == 3
    assert table_sha256(first) == "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"


@pytest.mark.parametrize(
    ("title", "year", "clean"),
    [
        ("Toy Story", "1995", "Toy Story (1995)"),
        ("Lion King, The (1994)", "", "The Lion King (1994)"),
        ("Star Maker, The (Uomo delle stelle, L')", "1995", "The Star Maker (L'Uomo delle stelle) (1995)"),
        ("Good, The Bad and The Ugly, The", "1966", "The Good, The Bad and The Ugly (1966)"),
        ("Cry, the Beloved  Country", "", "Cry, the Beloved Country"),
    ],
)
def test_movie_titles(title, year, clean):
    assert clean_movie_title(title, year) == clean


def test_arrow_tables_with_large_strings():
    table = pa.table({"user_id": pa.array(["a"], pa.large_string()), "item_id": ["b"]})
    assert to_frame(table).rows() == [("a", "b")]
