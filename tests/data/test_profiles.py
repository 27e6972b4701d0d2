"""Columns of users as buckets, against values worked out next to them."""

import binascii

import numpy as np
import polars as pl

from genrec.data.profiles import USER_BUCKETS, Profiles, with_columns
from genrec.data.readers import read_table

USERS = ["a", "b", "c", "d"]


def bucket(text: str) -> int:
    return 1 + (binascii.crc32(text.encode()) & 0xFFFFFFFF) % USER_BUCKETS


def test_a_bucket_is_told_by_column_and_value_alone():
    table = pl.DataFrame(
        {"user_id": USERS, "plan": ["gold", None, " gold ", ""], "town": ["gold", "Köln", "Köln", "x"]}
    )
    values = Profiles(table).values(np.array([3, 0, 1, 2]), ["town", "plan", "absent"])
    assert values.tolist() == [
        [bucket("town=x"), 0, 0],
        [bucket("town=gold"), bucket("plan=gold"), 0],
        [bucket("town=Köln"), 0, 0],
        [bucket("town=Köln"), bucket("plan=gold"), 0],
    ]
    assert values.dtype == np.int64
    # The published check value of CRC-32: 0xCBF43926 for the text 123456789.
    assert bucket("123456789") == 1 + 0xCBF43926 % 4096
    other = Profiles(table.reverse().select("plan", "user_id", "town")).values(np.array([0]), ["town"])
    assert other.tolist() == [[bucket("town=x")]]


def test_whole_numbers_truth_values_and_lists_are_texts():
    table = pl.DataFrame(
        {
            "user_id": USERS,
            "age": [25, 25, None, 1],
            "floats": [25.0, float("nan"), None, -1.0],
            "member": [True, False, None, True],
            "likes": [["x", "y"], [], None, ["x", None]],
            "kind": pl.Series(["p", "q", "p", None], dtype=pl.Categorical),
        }
    )
    profiles = Profiles(table)
    assert profiles.columns == ("age", "floats", "member", "likes", "kind")
    found = profiles.values(np.arange(4), profiles.columns).T.tolist()
    assert found == [
        [bucket("age=25"), bucket("age=25"), 0, bucket("age=1")],
        [bucket("floats=25"), 0, 0, bucket("floats=-1")],
        [bucket("member=true"), bucket("member=false"), 0, bucket("member=true")],
        [bucket("likes=x, y"), 0, 0, bucket("likes=x")],
        [bucket("kind=p"), bucket("kind=q"), bucket("kind=p"), 0],
    ]
    # Texts of a CSV file are the same values.
    assert Profiles(pl.DataFrame({"age": ["25"]})).values(np.array([0]), ["age"]).item() == bucket("age=25")


def test_what_does_not_repeat_cannot_be_read():
    table = pl.DataFrame(
        {
            "user_id": USERS,
            "income": [1.5, 2.0, 3.0, None],
            "ratio": [float("inf"), 1.0, 1.0, 1.0],
            "seen": pl.Series([None] * 4, dtype=pl.Datetime),
            "pairs": [{"a": 1}] * 4,
            "plan": ["x"] * 4,
        }
    )
    profiles = Profiles(table)
    assert profiles.columns == ("plan",)
    assert profiles.values(np.arange(2), ["income"]).tolist() == [[0], [0]]


def test_the_users_of_movielens_1m_are_read(tmp_path):
    (tmp_path / "users.dat").write_bytes(b"1::F::1::10::48067\n2::M::56::16::70072-1234\n")
    users = read_table(tmp_path / "users.dat", "users")
    assert users.columns == ["user_id", "gender", "age", "occupation", "zip_code"]
    assert users.rows() == [("1", "F", "1", "10", "48067"), ("2", "M", "56", "16", "70072-1234")]


def test_rows_are_the_users_in_the_order_given():
    table = pl.DataFrame({"user_id": ["b", "z", "a"], "plan": ["2", "9", "1"]})
    assert with_columns(USERS, table).rows() == [("a", "1"), ("b", "2"), ("c", None), ("d", None)]
