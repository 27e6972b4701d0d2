"""A prepared data set against the tables it was made from, user by user in plain Python."""

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from genrec.config import DataConfig
from genrec.data import Dataset, make_dataset
from genrec.errors import ArtifactError, ConfigError


def sequences(interactions: pl.DataFrame) -> dict[str, list[tuple[int, str]]]:
    """Every user's (time, item), oldest first."""
    found = defaultdict(list)
    for user, item, time in interactions.select("user_id", "item_id", "timestamp").rows():
        found[user].append((time, item))
    return {user: sorted(rows) for user, rows in found.items()}


def as_ids(dataset: Dataset, histories) -> dict[str, list[str]]:
    return {
        dataset.user_ids[user]: [dataset.item_ids[item] for item in histories[row]]
        for row, user in enumerate(histories.users)
    }


def test_the_names_of_some_users(tiny_dataset):
    users = np.array([7, 0, 7])
    assert tiny_dataset.users_named(users) == [tiny_dataset.user_ids[user] for user in (7, 0, 7)]


def test_leave_one_out_is_the_last_two_items_of_every_user(tiny_dataset, tiny_interactions):
    wanted = {user: [item for _, item in rows] for user, rows in sequences(tiny_interactions).items()}
    held_out = {user: items for user, items in wanted.items() if len(items) >= 3}
    assert 0 < len(wanted) - len(held_out) <= 3
    train = {user: items[:-2] if user in held_out else items for user, items in wanted.items()}
    assert as_ids(tiny_dataset, tiny_dataset.train()) == train
    assert as_ids(tiny_dataset, tiny_dataset.full()) == wanted
    histories, targets = tiny_dataset.evaluation("validation")
    assert as_ids(tiny_dataset, histories) == {user: items[:-2] for user, items in held_out.items()}
    assert as_ids(tiny_dataset, targets) == {user: items[-2:-1] for user, items in held_out.items()}
    histories, targets = tiny_dataset.evaluation("test")
    assert as_ids(tiny_dataset, histories) == {user: items[:-1] for user, items in held_out.items()}
    assert as_ids(tiny_dataset, targets) == {user: items[-1:] for user, items in held_out.items()}
    assert histories.users.tolist() == targets.users.tolist()


def test_timestamps_travel_with_their_items(tiny_dataset, tiny_interactions):
    wanted = sequences(tiny_interactions)
    for histories, part in [(tiny_dataset.full(), slice(None)), (tiny_dataset.evaluation("test")[1], slice(-1, None))]:
        for row, user in enumerate(histories.users):
            times = histories.timestamps[histories.offsets[row] : histories.offsets[row + 1]]
            assert times.tolist() == [time for time, _ in wanted[tiny_dataset.user_ids[user]]][part]


def test_counts_and_popularity(tiny_dataset, tiny_interactions):
    assert (tiny_dataset.num_users, tiny_dataset.num_items) == (60, 40)
    assert tiny_dataset.num_interactions == tiny_interactions.height
    assert tiny_dataset.has_timestamps
    wanted = Counter()
    for rows in sequences(tiny_interactions).values():
        wanted.update(item for _, item in (rows[:-2] if len(rows) >= 3 else rows))
    popularity = tiny_dataset.train_popularity()
    assert {name: int(n) for name, n in zip(tiny_dataset.item_ids, popularity, strict=True)} == {
        name: wanted[name] for name in tiny_dataset.item_ids
    }
    assert popularity.dtype == np.int64


def test_ratio_targets_may_be_many(tmp_path, tiny_interactions, tiny_items):
    config = DataConfig(k_core=0, split="ratio", validation_ratio=0.2, test_ratio=0.3)
    dataset = make_dataset(tiny_interactions, tiny_items, config, tmp_path / "d")
    histories, targets = dataset.evaluation("test")
    for row, user in enumerate(histories.users):
        everything = dataset.full()[user].tolist()
        assert histories[row].tolist() + targets[row].tolist() == everything
        assert len(targets[row]) == max(1, int(len(everything) * 0.3))


def test_temporal_leaves_new_users_out_of_training_and_evaluation(tmp_path):
    rows = [("old", f"i{n}", 10 * n) for n in range(10)] + [("new", "i1", 95), ("new", "i2", 96)]
    interactions = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    config = DataConfig(k_core=0, split="temporal", validation_ratio=0.1, test_ratio=0.2)
    dataset = make_dataset(interactions, None, config, tmp_path / "d")
    assert dataset.num_users == 2
    assert list(as_ids(dataset, dataset.train())) == ["old"]
    assert list(as_ids(dataset, dataset.evaluation("validation")[0])) == ["old"]
    assert list(as_ids(dataset, dataset.evaluation("test")[0])) == ["old"]


def test_histories_are_views_of_the_mapped_file(tiny_dataset):
    histories = tiny_dataset.full()
    for array in (histories.items, histories.offsets, histories.timestamps, histories.users):
        assert not array.flags.owndata
        assert not array.flags.writeable


def test_histories_are_a_folder_for_the_datasets_library(tiny_dataset):
    datasets = pytest.importorskip("datasets")
    table = datasets.load_from_disk(str(tiny_dataset.path / "histories"))
    assert table.column_names == ["user", "items", "timestamps", "train_end", "valid_end"]
    assert table["items"][7] == tiny_dataset.full()[7].tolist()
    assert len(table["items"][7]) == table["valid_end"][7] + 1 == table["train_end"][7] + 2


def test_loading_gives_the_same_data_set(tiny_dataset):
    again = Dataset.load(tiny_dataset.path, verify=True)
    assert again.fingerprint == tiny_dataset.fingerprint
    assert again.item_ids == tiny_dataset.item_ids
    assert again.items.equals(tiny_dataset.items)
    assert again.full().items.tolist() == tiny_dataset.full().items.tolist()
    assert again.statistics == tiny_dataset.statistics
    assert "60 users, 40 items" in repr(again)


def test_the_order_of_rows_does_not_matter(tmp_path, tiny_dataset, tiny_interactions, tiny_items):
    shuffled = tiny_interactions.sample(fraction=1.0, shuffle=True, seed=1)
    again = make_dataset(shuffled, tiny_items, DataConfig(k_core=0), tmp_path / "d")
    assert again.fingerprint == tiny_dataset.fingerprint


def test_what_is_held_out_shapes_nothing_that_models_learn_from(tmp_path, tiny_dataset, tiny_items):
    """Other items in the last two places of every user: training part, numbering and popularity stay."""
    frame = tiny_dataset.interactions
    random = np.random.default_rng(0)
    place = pl.int_range(pl.len()).over("user_id")
    length = pl.len().over("user_id")
    held_out = frame.select((length >= 3) & (place >= length - 2)).to_series()
    other = pl.Series([f"i{n:02d}" for n in random.integers(0, 40, frame.height)])
    poisoned = frame.with_columns(pl.when(held_out).then(other).otherwise("item_id").alias("item_id"))
    dataset = make_dataset(poisoned, tiny_items, DataConfig(k_core=0), tmp_path / "d")
    assert dataset.full().items.tolist() != tiny_dataset.full().items.tolist()
    assert dataset.train().items.tolist() == tiny_dataset.train().items.tolist()
    assert dataset.train().timestamps.tolist() == tiny_dataset.train().timestamps.tolist()
    assert dataset.train_popularity().tolist() == tiny_dataset.train_popularity().tolist()
    assert dataset.item_ids == tiny_dataset.item_ids
    assert dataset.user_ids == tiny_dataset.user_ids


def small(tmp_path: Path, items: pl.DataFrame) -> Dataset:
    interactions = pl.DataFrame({"user_id": ["u"] * items.height, "item_id": items["item_id"]})
    return make_dataset(interactions, items, DataConfig(k_core=0), tmp_path / "small")


def test_texts_join_columns_and_skip_what_is_missing(tmp_path):
    items = pl.DataFrame(
        {
            "item_id": ["a", "b", "c"],
            "title": ["Lamp", None, " "],
            "price": [1.5, 2.0, None],
            "tags": [["red", None, "small"], [], None],
            "paths": [[["Home", "Light"], ["Gifts"]], None, []],
            "brand": pl.Series(["Acme", "Acme", None], dtype=pl.Categorical),
        }
    )
    dataset = small(tmp_path, items)
    assert dataset.item_texts() == ["Lamp. red, small. Home > Light | Gifts. Acme", "Acme", ""]
    assert dataset.item_texts(["brand", "price"]) == ["Acme. 1.5", "Acme. 2.0", ""]
    assert dataset.titles == ["Lamp", "b", "c"]
    assert dataset.title(0) == "Lamp"
    with pytest.raises(ConfigError, match=r"the items have no column 'color'[\s\S]*title, price"):
        dataset.item_texts(["color"])


def test_items_without_text_are_called_by_their_id(tmp_path):
    dataset = small(tmp_path, pl.DataFrame({"item_id": ["a", "b", "c"]}))
    assert dataset.titles == ["a", "b", "c"]
    assert dataset.item_texts() == ["", "", ""]
    assert not dataset.has_timestamps
    assert dataset.full().timestamps is None
    assert dataset.train().timestamps is None


def test_the_name_serves_where_the_title_is_missing(tmp_path):
    items = pl.DataFrame({"item_id": ["a", "b", "c"], "Name": ["N", "M", ""], "title": ["T", None, ""]})
    assert small(tmp_path, items).titles == ["T", "M", "c"]


def test_a_part_of_another_name(tiny_dataset):
    with pytest.raises(ConfigError, match=r"no part 'train'[\s\S]*validation or test"):
        tiny_dataset.evaluation("train")


def test_a_folder_that_is_no_data_set(tmp_path):
    with pytest.raises(ArtifactError, match="there is no folder"):
        Dataset.load(tmp_path / "nothing")
    with pytest.raises(ArtifactError, match=r"has no manifest.json"):
        Dataset.load(tmp_path)


@pytest.mark.parametrize("name", ["items.parquet", "histories/data-00000-of-00001.arrow"])
def test_a_file_cut_short_is_told_on_loading(tmp_path, name):
    dataset = small(tmp_path, pl.DataFrame({"item_id": ["a", "b", "c"]}))
    path = dataset.path / name
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ArtifactError, match=r"cannot be read[\s\S]*prepare the data set again"):
        Dataset.load(dataset.path)
    with pytest.raises(ArtifactError, match="was changed after it was written"):
        Dataset.load(dataset.path, verify=True)


def test_a_changed_byte_is_told_on_verifying(tmp_path):
    dataset = small(tmp_path, pl.DataFrame({"item_id": ["a", "b", "c"]}))
    path = dataset.path / "users.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ArtifactError, match=r"users.parquet was changed"):
        Dataset.load(dataset.path, verify=True)
