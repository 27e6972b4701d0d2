"""A table in a folder: every file is read or named, in the order that people number them."""

import random

import polars as pl
import pytest

from genrec.data.account import TableAccount
from genrec.data.folders import natural_key
from genrec.data.readers import read_table
from genrec.errors import DataError


def write(path, *rows, head="user_id,item_id"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([head, *rows]) + "\n")


def test_inner_folders_are_read(tmp_path):
    write(tmp_path / "part-0.csv", "u1,a", "u1,b")
    write(tmp_path / "2024-02" / "part-1.csv", "u1,c")
    write(tmp_path / "2024-02" / "night" / "part-2.csv", "u2,a")
    write(tmp_path / "2024-10" / "part-1.csv", "u2,b")
    account = TableAccount("interactions")
    table = read_table(tmp_path, "interactions", account=account)
    assert sorted(table.rows()) == [("u1", "a"), ("u1", "b"), ("u1", "c"), ("u2", "a"), ("u2", "b")]
    assert (account.files, account.rows_read, account.notes) == (4, 5, [])


@pytest.mark.parametrize("name", ["part-{}.csv", "{}.csv", "2024/{}/x.csv", "v1.{}.csv"])
def test_parts_are_in_the_order_of_their_numbers(tmp_path, name):
    numbers = [1, 2, 3, 10, 11, 100, 99]
    random.Random(0).shuffle(numbers)
    for number in numbers:
        write(tmp_path / name.format(number), f"u1,day{number}")
    found = read_table(tmp_path, "interactions")["item_id"].to_list()
    assert found == [f"day{number}" for number in sorted(numbers)]


def test_names_sort_by_their_numbers():
    names = ["²", "b", "a10", "a2", "a1b", "a01c", "a1", "a"]
    assert sorted(names, key=natural_key) == ["a", "a01c", "a1", "a1b", "a2", "a10", "b", "²"]


def test_what_is_not_read_is_named(tmp_path):
    write(tmp_path / "log" / "part-0.csv", "u1,a")
    write(tmp_path / "log" / "_temporary" / "part-1.csv", "u1,b")
    write(tmp_path / "log" / ".part-2.csv", "u1,c")
    (tmp_path / "log" / "_SUCCESS").touch()
    (tmp_path / "log" / ".DS_Store").touch()
    write(tmp_path / "elsewhere" / "part-3.csv", "u1,d")
    (tmp_path / "log" / "more").symlink_to(tmp_path / "elsewhere")
    account = TableAccount("interactions")
    assert read_table(tmp_path / "log", "interactions", account=account).rows() == [("u1", "a")]
    assert account.notes == [
        "2 entries of the folder are not read, names begin with . or _: .part-2.csv, _temporary/part-1.csv",
        "1 entries of the folder are not read, links to folders: more",
    ]


def test_a_delta_table_is_noted(tmp_path):
    pl.DataFrame({"user_id": ["u"], "item_id": ["a"]}).write_parquet(tmp_path / "part-0.parquet")
    (tmp_path / "_delta_log").mkdir()
    (tmp_path / "_delta_log" / "0.json").write_text("{}")
    account = TableAccount("interactions")
    read_table(tmp_path, "interactions", account=account)
    assert [note for note in account.notes if "Delta table" in note and "deleted" in note] == account.notes != []


def test_files_of_another_format_are_named(tmp_path):
    write(tmp_path / "part-0.csv", "u1,a")
    (tmp_path / "README.md").write_text("hello")
    with pytest.raises(DataError, match=r"mixes formats: .csv, .md[\s\S]*README.md[\s\S]*move the other files"):
        read_table(tmp_path, "interactions")


def test_columns_that_some_files_lack_are_noted(tmp_path):
    write(tmp_path / "0.csv", "u1,a,1", head="user_id,item_id,timestamp")
    write(tmp_path / "1.csv", "u1,b,2", head="user_id,item_id,Timestamp")
    account = TableAccount("interactions")
    assert read_table(tmp_path, "interactions", account=account)["timestamp"].to_list() == [1, None]
    assert account.notes == [
        "the column 'timestamp' is not in 1 of 2 pieces",
        "the column 'Timestamp' is not in 1 of 2 pieces",
    ]


def test_a_column_of_the_folders_and_the_files(tmp_path):
    write(tmp_path / "day=2" / "0.csv", "u1,a,9", head="user_id,item_id,day")
    account = TableAccount("interactions")
    assert read_table(tmp_path, "interactions", account=account)["day"].to_list() == [2]
    assert list(account.columns_left_out) == ["day (in the files)"]


def test_a_saved_dataset_dict_names_its_splits(tmp_path):
    datasets = pytest.importorskip("datasets")
    part = datasets.Dataset.from_dict({"user_id": ["u", "u"], "item_id": ["a", "b"]})
    datasets.DatasetDict(train=part, valid=part).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match=r"DatasetDict[\s\S]*name the split: \S+/saved/train or \S+/saved/valid"):
        read_table(tmp_path / "saved", "interactions")
    assert read_table(tmp_path / "saved" / "train", "interactions").rows() == [("u", "a"), ("u", "b")]
