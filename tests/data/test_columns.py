"""Names of columns: a mapping finds its column or is refused, and no order of events is lost to a name."""

import polars as pl
import pytest

from genrec.config import DataConfig
from genrec.data import Dataset, make_dataset, prepare_dataset
from genrec.data.account import TableAccount
from genrec.data.columns import rename_columns
from genrec.errors import ConfigError, DataError

LOG = pl.DataFrame({"user_id": ["u"] * 3, "item_id": ["c", "b", "a"]})


def make(tmp_path, log: pl.DataFrame, items: pl.DataFrame | None = None, **columns: str) -> Dataset:
    return make_dataset(log, items, DataConfig(k_core=0, columns=columns), tmp_path / "out")


def order_of(dataset: Dataset) -> list[str]:
    return [dataset.item_ids[item] for item in dataset.full()[0]]


def timed(name: str) -> pl.DataFrame:
    return LOG.with_columns(pl.Series(name, [3, 2, 1]))


@pytest.mark.parametrize(
    "name",
    [
        "Timestamp", "TIMESTAMP", "time_stamp", "time", "Time", "ts", "datetime", "date", "created_at", "createdAt",
        "event_ts", "unixReviewTime", "timestmap", "bought_at", "Order", "ORDER", "position", "step",
    ],
)  # fmt: skip
def test_an_order_of_events_by_another_name_is_refused_unless_it_is_mapped_or_none(tmp_path, name):
    ours = "order" if name.lower() in ("order", "position", "step") else "timestamp"
    with pytest.raises(DataError, match=f"there is no column '{ours}', but '{name}'") as caught:
        make(tmp_path, timed(name))
    assert f"columns: {{{ours}: {name}}}" in str(caught.value)
    assert f'columns: {{{ours}: ""}}' in str(caught.value)
    assert order_of(make(tmp_path, timed(name), **{ours: name})) == ["a", "b", "c"]
    ignored = make(tmp_path, timed(name), **{ours: ""})
    assert order_of(ignored) == ["c", "b", "a"]
    assert name in ignored.interactions.columns


@pytest.mark.parametrize("name", ["rating", "format", "runtime", "state", "float", "border", "order_id", "customer"])
def test_other_names_are_other_columns(tmp_path, name):
    assert order_of(make(tmp_path, timed(name))) == ["c", "b", "a"]


@pytest.mark.parametrize(("known", "other", "noted"), [("timestamp", "date", 0), ("order", "date", 1)])
def test_with_another_order_a_name_like_a_time_is_noted_at_most(tmp_path, known, other, noted):
    dataset = make(tmp_path, timed(known).with_columns(pl.Series(other, [1, 2, 3])))
    assert order_of(dataset) == ["a", "b", "c"]
    assert len(dataset.account.interactions.notes) == noted


def test_order_by_another_case_is_refused_although_there_are_times(tmp_path):
    with pytest.raises(DataError, match="there is no column 'order', but 'Order'"):
        make(tmp_path, timed("timestamp").with_columns(Order=pl.Series([1, 2, 3])))


def test_a_rating_by_another_case_is_noted_and_named_where_it_is_needed(tmp_path):
    log = LOG.with_columns(Rating=pl.Series([5, 5, 1]))
    assert make(tmp_path, log).account.interactions.notes == [
        "'Rating' is kept, but not read as the rating (data.columns maps it)"
    ]
    with pytest.raises(DataError, match=r"columns: \{rating: Rating\}"):
        make_dataset(log, None, DataConfig(k_core=0, min_rating=2), tmp_path / "low")
    config = DataConfig(k_core=0, min_rating=2, columns={"rating": "Rating"})
    assert make_dataset(log, None, config, tmp_path / "low").num_interactions == 2


@pytest.mark.parametrize(
    ("ours", "theirs", "nearest"),
    [("timestamp", "boughtat", "bought_at"), ("user_id", "user", "user_id"), ("rating", "xyz", None)],
)
def test_a_mapping_that_finds_nothing_is_refused(tmp_path, ours, theirs, nearest):
    log = LOG.with_columns(bought_at=pl.Series([3, 2, 1]))
    with pytest.raises(DataError, match=f"there is no column '{theirs}', which data.columns says is {ours}") as caught:
        make(tmp_path, log, **{"timestamp": "bought_at", ours: theirs})
    assert f"columns: {{{ours}: {nearest or 'YOUR_COLUMN'}}}" in str(caught.value)
    assert "one of the columns user_id, item_id, bought_at" in str(caught.value)


def test_a_mapping_may_be_of_one_table_only(tmp_path):
    items = pl.DataFrame({"sku": ["a", "b", "c"], "product": ["A", "B", "C"]})
    assert make(tmp_path, LOG, items, item_id="sku", title="product").titles == ["A", "B", "C"]
    # Times of items are not those of events.
    with pytest.raises(DataError, match=r"there is no column 'released', which data.columns says is timestamp"):
        make(tmp_path, LOG, items.with_columns(released=1), item_id="sku", timestamp="released")
    with pytest.raises(DataError, match=r"there is no column 'sky', which data.columns says is item_id"):
        make(tmp_path, LOG, items, item_id="sky")


@pytest.mark.parametrize(
    ("name", "meant"), [("timestmap", "timestamp"), ("User_Id", "user_id"), ("stars", "rating"), ("ts", "timestamp")]
)
def test_a_name_that_is_none_of_ours_is_refused(tmp_path, name, meant):
    with pytest.raises(ConfigError, match=f"columns names '{name}', which is none of our columns") as caught:
        make(tmp_path, LOG, **{name: "x"})
    assert f"did you mean columns: {{{meant}: x}}?" in str(caught.value)


def test_one_column_cannot_be_two(tmp_path):
    with pytest.raises(ConfigError, match="columns says that 'item_id' is user_id and item_id"):
        make(tmp_path, LOG, user_id="item_id", item_id="item_id")


def test_two_columns_may_change_places(tmp_path):
    dataset = make(tmp_path, LOG.with_columns(user_id=pl.Series(["x", "y", "z"])), user_id="item_id", item_id="user_id")
    assert (dataset.user_ids, dataset.item_ids) == (["a", "b", "c"], ["x", "y", "z"])


def test_what_a_mapping_replaces_is_in_the_account():
    account = TableAccount("interactions")
    frame = timed("timestamp").with_columns(bought=pl.Series([1, 2, 3]))
    renamed = rename_columns(frame, {"timestamp": "bought"}, account)
    assert renamed["timestamp"].to_list() == [1, 2, 3]
    assert account.renamed == {"timestamp": "bought"}
    assert account.columns_left_out == {"timestamp": "columns names 'bought' instead"}
    assert rename_columns(frame, {"timestamp": ""}).columns == ["user_id", "item_id", "bought"]


def test_files_are_mapped_as_tables_in_memory_are(tmp_path):
    timed("bought_at").rename({"user_id": "customer"}).write_csv(tmp_path / "log.csv")
    config = DataConfig(interactions=str(tmp_path / "log.csv"), k_core=0)
    columns = {"user_id": "customer", "timestamp": "bought_at"}
    assert order_of(prepare_dataset(config.model_copy(update={"columns": columns}), tmp_path / "out")) == list("abc")
    wrong = config.model_copy(update={"columns": columns | {"rating": "stars"}})
    with pytest.raises(DataError, match=r"'stars', which data.columns says is rating[\s\S]*log.csv"):
        prepare_dataset(wrong, tmp_path / "out")
