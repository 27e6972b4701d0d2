"""From files to a data set: what is dropped and counted, what is refused, and that nothing half-written is left."""

import json
import logging
from pathlib import Path

import polars as pl
import pytest

from genrec.config import DataConfig
from genrec.data import Dataset, make_dataset, prepare_dataset
from genrec.data.prepare import input_fingerprints
from genrec.errors import ArtifactError, ConfigError, DataError

NAMES = ["user_id", "item_id", "timestamp"]


def log(*rows: tuple) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=NAMES[: len(rows[0])], orient="row", strict=False)


def make(tmp_path: Path, interactions, items=None, **settings) -> Dataset:
    return make_dataset(interactions, items, DataConfig(**{"k_core": 0} | settings), tmp_path / "out")


def refusal(tmp_path: Path, interactions, items=None, **settings) -> str:
    with pytest.raises(DataError) as caught:
        make(tmp_path, interactions, items, **settings)
    assert list(tmp_path.iterdir()) == []
    return str(caught.value)


THREE = log(("u", "a", 1), ("u", "b", 2), ("u", "c", 3))


def test_without_timestamps_the_file_says_the_order(tmp_path):
    dataset = make(tmp_path, log(("u", "c"), ("v", "a"), ("u", "a"), ("u", "b")))
    assert [dataset.item_ids[i] for i in dataset.full()[0]] == ["c", "a", "b"]
    assert dataset.item_ids == ["a", "b", "c"]


def test_equal_times_keep_the_order_of_the_file(tmp_path):
    dataset = make(tmp_path, log(("u", "c", 5), ("u", "a", 5), ("u", "b", 1)))
    assert [dataset.item_ids[i] for i in dataset.full()[0]] == ["b", "c", "a"]


def test_unknown_times_come_first(tmp_path):
    dataset = make(tmp_path, log(("u", "c", 5), ("u", "a", None), ("u", "b", 1)))
    assert [dataset.item_ids[i] for i in dataset.full()[0]] == ["a", "b", "c"]
    assert dataset.full().timestamps.tolist() == [-1, 1, 5]
    assert dataset.statistics["time"]["known"] == 2


def test_order_has_the_last_word(tmp_path):
    dataset = make(tmp_path, THREE.with_columns(order=pl.Series([2, 0, 1])))
    assert [dataset.item_ids[i] for i in dataset.full()[0]] == ["b", "c", "a"]


def test_orders_too_far_apart_to_be_packed_into_one_number(tmp_path):
    two_users = pl.concat([THREE, THREE.with_columns(user_id=pl.lit("t"))])
    dataset = make(tmp_path, two_users.with_columns(order=pl.Series([2**62, -(2**62), 0] * 2)))
    assert [[dataset.item_ids[i] for i in dataset.full()[row]] for row in (0, 1)] == [["b", "c", "a"]] * 2


def test_duplicates_are_dropped_with_a_count(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        dataset = make(tmp_path, pl.concat([THREE, THREE[:2], log(("u", "a", 9))]))
    assert dataset.num_interactions == 4
    assert dataset.statistics["dropped"]["duplicates"] == 2
    assert "2 of 6 interactions repeat an earlier row exactly: dropped" in caplog.text


def test_the_catalogue_keeps_its_order_and_its_items_without_interactions(tmp_path):
    items = pl.DataFrame({"item_id": ["c", "z", "a", "b"], "title": ["C", "Z", "A", "B"]})
    dataset = make(tmp_path, THREE, items)
    assert dataset.item_ids == ["c", "z", "a", "b"]
    assert dataset.titles == ["C", "Z", "A", "B"]
    assert dataset.full()[0].tolist() == [2, 3, 0]
    assert dataset.statistics["items_without_interactions"] == 1


def test_a_core_filter_cuts_users_items_and_catalogue(tmp_path):
    rows = [(u, i, n) for u in "pqr" for n, i in enumerate("abc")] + [("lonely", "a", 1), ("p", "rare", 7)]
    items = pl.DataFrame({"item_id": ["rare", "c", "b", "a", "never"]})
    dataset = make(tmp_path, log(*rows), items, k_core=3)
    assert dataset.item_ids == ["c", "b", "a"]
    assert dataset.user_ids == ["p", "q", "r"]
    assert dataset.full().items.tolist() == [2, 1, 0] * 3
    assert dataset.statistics["dropped"]["k_core"] == 2
    assert dataset.interactions.height == 9


def test_low_ratings_are_dropped_and_missing_ones_kept(tmp_path):
    dataset = make(tmp_path, THREE.with_columns(rating=pl.Series([5.0, 2.0, None])), min_rating=3)
    assert dataset.item_ids == ["a", "c"]
    assert dataset.statistics["dropped"]["low_ratings"] == 1


def test_further_columns_are_kept_in_the_order_of_the_histories(tmp_path):
    dataset = make(tmp_path, THREE.reverse().with_columns(shop=pl.Series(["z", "y", "x"])))
    assert dataset.interactions.columns == [*NAMES, "shop"]
    assert dataset.interactions["shop"].to_list() == ["x", "y", "z"]


def test_users_with_one_item_are_for_training_only(tmp_path, caplog):
    dataset = make(tmp_path, log(("u", "a", 1), ("v", "b", 1)))
    assert len(dataset.train()) == 2
    assert len(dataset.evaluation("test")[0]) == 0
    assert dataset.statistics["training_only_users"] == 2
    assert "no user has enough interactions to be evaluated" in caplog.text


ITEMS = pl.DataFrame({"item_id": ["a", "b"], "title": ["A", "B"]})


def test_unknown_items_are_refused(tmp_path):
    unknown = log(*[("u", f"x{n}", n) for n in range(7)], ("u", "a", 9))
    message = refusal(tmp_path, unknown, ITEMS)
    assert "7 items of the interactions are not in the items table: 'x0', 'x1', 'x2', 'x3', 'x4', ...\n" in message
    assert "interactions, rows 1, 2, 3, 4, 5, ... (7 in all); items in items" in message
    assert "set data.unknown_items to drop (their interactions) or keep (without text)" in message


def test_unknown_items_are_dropped_or_kept_on_request(tmp_path, caplog):
    dropped = make(tmp_path, THREE, ITEMS, unknown_items="drop")
    assert dropped.item_ids == ["a", "b"]
    assert dropped.statistics["dropped"]["unknown_items"] == 1
    assert "1 interactions with 1 unknown items: dropped" in caplog.text
    kept = make(tmp_path, THREE, ITEMS, unknown_items="keep")
    assert kept.titles == ["A", "B", "c"]
    assert kept.item_texts() == ["A", "B", ""]
    assert "1 interactions with 1 unknown items: kept, without text" in caplog.text


def test_interactions_of_which_no_item_is_known(tmp_path):
    message = refusal(tmp_path, THREE, pl.DataFrame({"item_id": ["x", "y"]}), unknown_items="drop")
    assert "no interaction has an item of the items table" in message


@pytest.mark.parametrize("items", [None, pl.DataFrame({"item_id": ["a"]})])
def test_a_catalogue_of_one_item_is_refused(tmp_path, items):
    message = refusal(tmp_path, log(("u", "a", 1), ("v", "a", 2)), items)
    assert "the catalogue has one item" in message
    assert "at least two items" in message


def test_a_core_filter_that_leaves_nothing(tmp_path):
    message = refusal(tmp_path, THREE, k_core=5)
    assert "no interaction is left after the 5-core filter" in message
    assert "lower data.k_core (now 5)" in message


def test_ratings_asked_for_but_not_there(tmp_path):
    assert "there is no column 'rating'" in refusal(tmp_path, THREE, min_rating=3)
    assert "no interaction is rated at least 3.0" in refusal(tmp_path, THREE.with_columns(rating=1), min_rating=3)


def test_a_temporal_split_without_times_leaves_nothing_behind(tmp_path):
    assert "have no timestamp" in refusal(tmp_path, THREE.drop("timestamp"), split="temporal")


def test_tables_of_the_datasets_library(tmp_path):
    datasets = pytest.importorskip("datasets")
    interactions = datasets.Dataset.from_dict({"customer": ["u"] * 3, "item_id": ["a", "b", "c"]})
    items = datasets.Dataset.from_dict({"item_id": ["a", "b", "c"], "tags": [["x"], [], ["y", "z"]]})
    dataset = make(tmp_path, interactions, items, columns={"user_id": "customer"})
    assert dataset.item_texts() == ["x", "", "y, z"]


@pytest.fixture
def folder(tmp_path, tiny_interactions, tiny_items) -> Path:
    """A folder as a user might have it: a CSV and a Parquet file."""
    folder = tmp_path / "mine"
    folder.mkdir()
    tiny_interactions.write_csv(folder / "interactions.csv")
    tiny_items.write_parquet(folder / "items.parquet")
    return folder


def test_a_folder_of_tables(folder, tmp_path, tiny_dataset):
    dataset = prepare_dataset(DataConfig(path=str(folder), k_core=0), tmp_path / "out")
    assert dataset.full().items.tolist() == tiny_dataset.full().items.tolist()
    assert dataset.item_texts() == tiny_dataset.item_texts()
    names = {path.name for path in dataset.path.iterdir()}
    tables = "items.parquet interactions.parquet users.parquet histories"
    assert names == {*tables.split(), "statistics.json", "statistics.md", "account.json", "manifest.json"}
    assert json.loads((dataset.path / "statistics.json").read_text()) == dataset.statistics
    assert "| users | 60 |" in (dataset.path / "statistics.md").read_text()


def test_files_given_one_by_one(folder, tmp_path, tiny_dataset):
    interactions, items = str(folder / "interactions.csv"), str(folder / "items.parquet")
    both = prepare_dataset(DataConfig(interactions=interactions, items=items, k_core=0), tmp_path / "a")
    assert both.items.equals(tiny_dataset.items)
    alone = prepare_dataset(DataConfig(interactions=interactions, k_core=0), tmp_path / "b")
    assert alone.items.columns == ["item_id"]
    assert alone.num_interactions == tiny_dataset.num_interactions


def test_the_users_of_a_folder_are_found_unless_others_are_named(folder, tmp_path):
    (folder / "users.csv").write_text("user_id,taste\nu00,space\n")
    (tmp_path / "others.csv").write_text("user_id,age\nu00,30\n")
    found = DataConfig(path=str(folder), k_core=0)
    assert set(input_fingerprints(found)) == {"interactions", "items", "users"}
    assert prepare_dataset(found, tmp_path / "a").profiles.columns == ("taste",)
    named = DataConfig(path=str(folder), users=str(tmp_path / "others.csv"), k_core=0)
    assert prepare_dataset(named, tmp_path / "b").profiles.columns == ("age",)


def test_the_place_of_the_files_changes_no_fingerprint(folder, tmp_path):
    first = prepare_dataset(DataConfig(path=str(folder)), tmp_path / "a")
    moved = folder.rename(tmp_path / "moved")
    assert prepare_dataset(DataConfig(path=str(moved)), tmp_path / "b").fingerprint == first.fingerprint
    other = prepare_dataset(DataConfig(path=str(moved), k_core=2), tmp_path / "c")
    assert other.fingerprint != first.fingerprint


def test_input_fingerprints_follow_the_content(folder):
    config = DataConfig(path=str(folder))
    before = input_fingerprints(config)
    assert set(before) == {"interactions", "items"}
    with (folder / "interactions.csv").open("a") as stream:
        stream.write("u00,i00,1600000001,5.0\n")
    after = input_fingerprints(config)
    assert after["items"] == before["items"]
    assert after["interactions"] != before["interactions"]


def test_a_prepared_data_set_is_taken_as_it_is(folder, tmp_path, caplog):
    first = prepare_dataset(DataConfig(path=str(folder), k_core=3), tmp_path / "a")
    config = DataConfig(path=str(first.path), k_core=9)
    again = prepare_dataset(config, tmp_path / "b")
    assert again.fingerprint == first.fingerprint
    assert again.num_interactions == first.num_interactions
    assert "was prepared with k_core=3; data.k_core=9 has no effect" in caplog.text
    assert input_fingerprints(config) == {"dataset": first.fingerprint}
    assert prepare_dataset(config, first.path).fingerprint == first.fingerprint


def test_a_damaged_prepared_data_set_is_refused(folder, tmp_path):
    first = prepare_dataset(DataConfig(path=str(folder)), tmp_path / "a")
    (first.path / "items.parquet").write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"items.parquet was changed after it was written"):
        prepare_dataset(DataConfig(path=str(first.path)), tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("settings", "what"),
    [({}, "come from nowhere"), ({"path": "a", "source": "ml-100k"}, "come from path and source")],
)
def test_there_must_be_exactly_one_place_of_data(tmp_path, settings, what):
    with pytest.raises(ConfigError, match=what) as caught:
        prepare_dataset(DataConfig(**settings), tmp_path / "out")
    assert "--set data.source=ml-100k" in str(caught.value)


def test_places_that_do_not_exist(folder, tmp_path):
    with pytest.raises(DataError, match=r"there is no folder [\s\S]*check the path"):
        prepare_dataset(DataConfig(path=str(tmp_path / "no")), tmp_path / "out")
    with pytest.raises(DataError, match=r"there is no file .*no.csv"):
        prepare_dataset(DataConfig(interactions=str(tmp_path / "no.csv")), tmp_path / "out")
    with pytest.raises(DataError, match=r"there is no file .*no.csv"):
        prepare_dataset(DataConfig(path=str(folder), items="no.csv"), tmp_path / "out")


def test_an_output_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"is below .*file, which is a file"):
        make_dataset(THREE, None, DataConfig(k_core=0), tmp_path / "file" / "out")


@pytest.mark.parametrize("full", ["items.parquet", "interactions.parquet"])
def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, full):
    write = pl.LazyFrame.sink_parquet

    def write_to_full_disk(self, file, *rest, **options):
        return write(self, "/dev/full" if Path(file).name == full else file, *rest, **options)

    monkeypatch.setattr(pl.LazyFrame, "sink_parquet", write_to_full_disk)
    with pytest.raises(ArtifactError, match=r"the disk is full while writing .*out[\s\S]*free some space"):
        make(tmp_path, THREE)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_run_leaves_the_last_good_data_set(tmp_path):
    first = make(tmp_path, THREE)
    with pytest.raises(DataError):
        make(tmp_path, THREE, k_core=9)
    assert Dataset.load(first.path, verify=True).fingerprint == first.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
