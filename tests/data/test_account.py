"""The account of a prepared data set: it adds up, it is stored and checked, and it is shown in 80 columns."""

import json
import logging
import unicodedata

import polars as pl
import pytest

from genrec.artifacts import read_manifest, write_manifest
from genrec.cli import main
from genrec.config import DataConfig
from genrec.data import Dataset, make_dataset, prepare_dataset
from genrec.data.account import DatasetAccount, TableAccount, kind_of
from genrec.errors import ArtifactError, DataError

LOG = """customer,sku,at,rating,shop
u1,a,2024-05-01 10:00:00 UTC,5,x
u1,a,2024-05-01 10:00:00 UTC,5,x
u1,b,2024-05-01 10:00:01.5 UTC,1,x
u1,c,2024-05-03,5,y
u2,a,2024-05-03,5,y
u2,c,2024-05-04,5,y
u2,c,2024-05-04,5,z
u2,zz,2024-05-05,5,z
u3,a,2024-05-05,5,z
"""
ITEMS = "item_id,product,price\na,Enamel kettle,3.5\na,Enamel kettle,3.5\nb,Lamp,2\nc,Garden lantern,1\n"
USERS = "user_id,age\nu1,3\nu9,4\n"
COLUMNS = {"user_id": "customer", "item_id": "sku", "timestamp": "at", "title": "product"}


@pytest.fixture
def config(tmp_path) -> DataConfig:
    """Three tables of which something of every kind is left out."""
    for name, text in (("log", LOG), ("items", ITEMS), ("users", USERS)):
        (tmp_path / f"{name}.csv").write_text(text)
    places = {"interactions": "log", "items": "items", "users": "users"}
    files = {key: str(tmp_path / f"{name}.csv") for key, name in places.items()}
    return DataConfig(**files, columns=COLUMNS, k_core=2, min_rating=2, unknown_items="drop")


def test_every_row_that_is_not_kept_is_counted_with_examples(config, tmp_path):
    account = prepare_dataset(config, tmp_path / "out").account
    log, items, users = account.interactions, account.items, account.users
    assert (log.rows_read, log.rows_kept) == (9, 5)
    assert {reason: (entry.rows, entry.examples) for reason, entry in log.left_out.items()} == {
        "exact repeats": (1, ["row 2: user_id 'u1', item_id 'a', timestamp 1714557600"]),
        "low ratings": (1, ["user_id 'u1', item_id 'b', rating 1.0"]),
        "unknown items": (1, ["user_id 'u2', item_id 'zz'"]),
        "k-core": (1, ["user_id 'u3', item_id 'a'"]),
    }
    assert {reason: entry.rows for reason, entry in items.left_out.items()} == {"exact repeats": 1, "k-core": 1}
    assert (items.rows_read, items.rows_kept) == (4, 2)
    assert (users.rows_read, users.rows_kept, list(users.left_out)) == (2, 1, ["users without interactions"])
    assert users.notes == ["nothing is known of 1 of 2 users"]
    assert all(table.balanced for table in account.tables)


def test_columns_say_what_they_were_read_as_and_where_they_come_from(config, tmp_path):
    account = prepare_dataset(config, tmp_path / "out").account
    assert account.interactions.columns == {
        "user_id": "text",
        "item_id": "text",
        "timestamp": "dates and times, UTC",
        "rating": "whole number",
        "shop": "text",
    }
    assert account.interactions.renamed == {"user_id": "customer", "item_id": "sku", "timestamp": "at"}
    assert account.items.columns == {"item_id": "text", "title": "text", "price": "number"}
    assert account.items.renamed == {"title": "product"}


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        (pl.String, "text"),
        (pl.UInt8, "whole number"),
        (pl.Float32, "number"),
        (pl.Categorical, "category"),
        (pl.List(pl.List(pl.String)), "list of list of text"),
        (pl.Boolean, "true or false"),
        (pl.Datetime("ms"), "date and time"),
        (pl.Null, "empty"),
    ],
)
def test_kinds_of_columns(dtype, kind):
    assert kind_of(pl.Series([], dtype=dtype).dtype) == kind


def test_statistics_say_what_the_account_says(config, tmp_path):
    dataset = prepare_dataset(config, tmp_path / "out")
    wanted = {"duplicates": 1, "low_ratings": 1, "unknown_items": 1, "k_core": 1}
    assert dataset.statistics["dropped"] == wanted
    assert sum(wanted.values()) == dataset.account.interactions.rows_read - dataset.num_interactions


def test_tables_in_memory_have_an_account(tmp_path, tiny_interactions, tiny_items):
    account = make_dataset(tiny_interactions, tiny_items, DataConfig(k_core=5), tmp_path / "out").account
    assert account.interactions.rows_read == tiny_interactions.height
    assert account.items.rows_read == tiny_items.height
    assert account.users is None
    assert all(table.balanced for table in account.tables)
    assert "k-core" in account.interactions.left_out


def test_the_stored_account_is_a_file_of_the_data_set_and_knows_no_place(config, tmp_path):
    first = prepare_dataset(config, tmp_path / "out")
    assert "account.json" in read_manifest(first.path).files
    assert str(tmp_path) not in (first.path / "account.json").read_text()
    copied = prepare_dataset(DataConfig(path=str(first.path)), tmp_path / "copy")
    assert copied.account == Dataset.load(first.path, verify=True).account


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda value: value["interactions"].update(rows_kept=4), "the rows of interactions do not add up"),
        (lambda value: value["interactions"].update(rows_read="many"), "interactions.rows_read"),
        (lambda value: value["items"].update(columns=["a"]), "items.columns"),
        (lambda value: value.pop("interactions"), "interactions"),
        (lambda value: value.update(users=[1]), "users"),
    ],
)
def test_a_stored_account_that_cannot_be_one_is_refused(config, tmp_path, edit, message):
    path = prepare_dataset(config, tmp_path / "out").path / "account.json"
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))
    with pytest.raises(ArtifactError, match=message):
        _ = Dataset.load(path.parent).account


def test_a_data_set_without_an_account_opens(tiny_dataset, tmp_path):
    old = make_dataset(tiny_dataset.interactions, None, DataConfig(k_core=0), tmp_path / "old")
    manifest = read_manifest(old.path)
    del manifest.files["account.json"]
    (old.path / "account.json").unlink()
    write_manifest(old.path, manifest)
    assert Dataset.load(old.path).num_items == old.num_items
    with pytest.raises(ArtifactError, match=r"has no account.json[\s\S]*prepare the data set again"):
        _ = Dataset.load(old.path).account


def test_prepare_ends_with_the_account_in_80_columns(config, tmp_path, capsys):
    places = [f"--{name}={getattr(config, name)}" for name in ("interactions", "items", "users")]
    settings = [f"--set=columns={json.dumps(COLUMNS)}", "--set=min_rating=2", "--set=unknown_items=drop"]
    assert main(["prepare", *places, *settings, "--k-core", "2", "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr()
    page = shown.out[shown.out.index("interactions: 9 rows read, 5 kept") :]
    assert max(map(len, page.removesuffix(f"{tmp_path / 'out'}\n").splitlines())) <= 80
    assert "  left out: exact repeats, 1\n    such as row 2: user_id 'u1', item_id 'a'," in page
    assert "  column 'timestamp': dates and times, UTC, from the column 'at'\n" in page
    assert "items: 4 rows read, 2 kept" in page
    summary = "left out: 4 of 9 interactions (exact repeats 1, low ratings 1, unknown items 1, k-core 1); 2 of 4 items"
    assert summary in shown.err


def test_nothing_left_out_is_nothing_said(tmp_path, caplog):
    log = pl.DataFrame({"user_id": ["u", "u"], "item_id": ["a", "b"]})
    with caplog.at_level(logging.INFO):
        dataset = make_dataset(log, None, DataConfig(k_core=0), tmp_path / "out")
    assert dataset.account.summary() == ""
    assert "left out" not in caplog.text


def test_characters_of_the_data_do_not_act_on_a_terminal(tmp_path):
    evil = "a\x1b[2J\u202e\x07"
    log = pl.DataFrame({"user_id": ["u"] * 4, "item_id": [evil, evil, "b", "c"], "timestamp": [1, 1, 2, 3], evil: "x"})
    page = make_dataset(log, None, DataConfig(k_core=0), tmp_path / "out").account.page()
    assert not [letter for letter in page if unicodedata.category(letter) in ("Cc", "Cf") and letter != "\n"]
    assert r"\x1b[2J\u202e\x07" in page


def test_only_two_examples_are_kept():
    account = TableAccount("interactions", rows_read=5)
    for row in range(5):
        account.leave_out("odd", 1, [f"row {row}"])
    account.leave_out("nothing", 0, [])
    assert {reason: (entry.rows, entry.examples) for reason, entry in account.left_out.items()} == {
        "odd": (5, ["row 0", "row 1"])
    }
    assert account.balanced
    assert DatasetAccount(account).summary() == "left out: 5 of 5 interactions (odd 5)"


def test_users_of_whom_none_is_in_the_interactions_are_refused(config, tmp_path):
    (tmp_path / "users.csv").write_text("user_id,age\nU1,3\nU2,4\n")
    with pytest.raises(DataError, match="none of the 2 users of the interactions is in the table of users") as caught:
        prepare_dataset(config, tmp_path / "out")
    assert "user ids such as 'u1'; there are ids such as 'U1'" in str(caught.value)
    assert not (tmp_path / "out").exists()
