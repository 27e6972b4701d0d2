import numpy as np
import polars as pl
import pytest

from genrec.config import EvaluationConfig
from genrec.errors import DataError
from genrec.evaluation.baselines import fit_baseline
from genrec.evaluation.protocol import Protocol, score_lists
from genrec.evaluation.recommendations import read_recommendations, score_recommendations

CONFIG = EvaluationConfig(ks=(1, 2, 10), bootstrap_samples=50)


def frame(rows, columns=("user_id", "rank", "item_id")):
    return pl.DataFrame(rows, schema=list(columns), orient="row")


def write(tmp_path, rows, **options):
    path = tmp_path / "lists.parquet"
    frame(rows, **options).write_parquet(path)
    return path


# u1 (a b c | d) and u2 (b c ... ) as in the fixture: u1 has the history a b c and the target d; u2 has b c and e.
GOOD = [("u2", 1, "e"), ("u1", 2, "d"), ("u1", 1, "f")]


def test_lists_are_joined_by_id_whatever_their_order(small, tmp_path):
    result = score_recommendations(write(tmp_path, GOOD), small, "test", CONFIG)
    found = result.as_json()
    assert found["users"] == 2
    assert found["metrics"]["recall@1"] == 0.5
    assert found["metrics"]["recall@2"] == 1.0
    assert found["metrics"]["mrr@2"] == 0.75
    assert found["system"] == "lists.parquet"
    assert found["protocol"]["exclude_seen"] is True
    assert "recall@10" not in found["metrics"]
    assert any("longest list has 2 items" in note for note in found["notes"])


def test_a_file_scores_as_the_lists_that_it_was_made_of(skewed, tmp_path):
    histories, _ = skewed.evaluation("test")
    items, _ = fit_baseline("itemknn", skewed).recommend(histories, top_k=10)
    rows = [
        (skewed.user_ids[user], rank, skewed.item_ids[item])
        for user, listed in zip(histories.users, items, strict=True)
        for rank, item in enumerate(listed, start=1)
    ]
    protocol = Protocol(split=skewed.split, part="test", catalogue=60, exclude_seen=True)
    direct = score_lists("x", items, skewed, protocol, CONFIG)
    shuffled = frame(rows).sample(fraction=1.0, shuffle=True, seed=1)
    for name, save in (("a.parquet", "write_parquet"), ("a.csv", "write_csv"), ("a.jsonl", "write_ndjson")):
        getattr(shuffled, save)(tmp_path / name)
        read = score_recommendations(tmp_path / name, skewed, "test", CONFIG, system="x")
        assert read.as_json() == direct.as_json()


def test_our_own_files_are_read_with_their_empty_lists(small, tmp_path):
    path = tmp_path / "own.parquet"
    schema = {"user_id": pl.String, "rank": pl.Int32, "item_id": pl.String, "score": pl.Float32, "short_by": pl.Int32}
    rows = [("u1", 1, "d", -0.5, 0), ("u2", None, None, None, 1)]
    pl.DataFrame(rows, schema=schema, orient="row").write_parquet(path)
    lists = read_recommendations(path, small, "test")
    assert lists.recommended.tolist() == [[3], [-1]]
    assert lists.notes == ()


def test_what_is_ignored_is_counted_and_said(small, tmp_path, caplog):
    rows = [("u1", 1, "z1"), ("u1", 2, "d"), ("u1", 3, "a"), ("u3", 1, "b")]
    result = score_recommendations(write(tmp_path, rows), small, "test", CONFIG)
    told = "\n".join(result.notes)
    assert "1 recommendations are of items outside the catalogue, such as 'z1'" in told
    assert "1 of 2 users of the test part have no list: counted as misses" in told
    assert "1 users of the file have nothing held out in the test part: ignored" in told
    assert "1 recommended items are in their user's history" in told
    assert result.protocol.exclude_seen is False
    # The unknown item keeps the first place: d is second.
    assert result.evaluation.metrics["recall@1"] == 0
    assert result.evaluation.metrics["recall@2"] == 0.5
    assert "such as 'z1'" in caplog.text


def test_whole_numbers_may_be_floats_and_ids_numbers(make, tmp_path):
    dataset = make(tmp_path / "dataset", {"1": ["10", "20", "30"]})
    path = tmp_path / "numbers.parquet"
    frame([(1, 1.0, 30)]).write_parquet(path)
    assert read_recommendations(path, dataset, "test").recommended.tolist() == [[2]]


BAD = {
    "missing column": ([("u1", "d")], ("user_id", "item_id"), r"no column 'rank'\n.*parquet\n.*there are user_id"),
    "unknown user": ([*GOOD, ("who", 1, "a")], None, r"the user 'who' is not in the data set\n.*row 4"),
    "item twice": ([("u1", 1, "d"), ("u1", 2, "d")], None, r"a list names the item 'd' twice\n.*row 2"),
    "unknown item twice": ([("u1", 1, "q"), ("u1", 2, "q")], None, r"a list names the item 'q' twice"),
    "from zero": ([("u1", 0, "d"), ("u1", 1, "a")], None, r"the rank 0 is not a whole number from 1 on\n.*row 1\n"),
    "half rank": ([("u1", 1.5, "d")], None, r"the rank 1.5 is not a whole number"),
    "word as rank": ([("u1", "first", "d")], None, r"the rank 'first' is not a whole number"),
    "gap": ([("u1", 1, "d"), ("u1", 3, "a")], None, r"ranks are not 1..k, first user 'u1'\n.*\n.*1..2 for the 2"),
    "rank twice": ([("u1", 1, "d"), ("u1", 1, "a")], None, r"ranks are not 1..k, first user 'u1'"),
    "no item": ([("u1", 1, None), ("u2", 1, "e")], None, r"a row lacks its user, rank or item\n.*row 1"),
    "no user": ([(None, 1, "e"), ("u2", 1, "e")], None, r"a row lacks its user, rank or item\n.*row 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_files_that_cannot_be_scored_say_why(name, small, tmp_path):
    rows, columns, message = BAD[name]
    path = write(tmp_path, rows, columns=columns or ("user_id", "rank", "item_id"))
    with pytest.raises(DataError, match=message) as caught:
        score_recommendations(path, small, "test", CONFIG)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("ids", [([2.0, 5.0],), ([2, 5],), (["2 ", "\ufeff5"],), (["2"], [5.0]), ([2.0], ["5"])])
def test_ids_of_lists_are_those_of_the_data_set(ids, make, tmp_path):
    dataset = make(tmp_path / "dataset", {"7": ["1", "3", "2"], "8": ["2", "1", "5"]})
    (tmp_path / "lists").mkdir()
    users = iter([7.0, 8.0])
    for number, part in enumerate(ids):
        columns = {"user_id": [next(users) for _ in part], "rank": [1] * len(part), "item_id": part}
        pl.DataFrame(columns).write_parquet(tmp_path / "lists" / f"{number}.parquet")
    result = score_recommendations(tmp_path / "lists", dataset, "test", EvaluationConfig(ks=(1,), bootstrap_samples=10))
    assert result.as_json()["metrics"]["recall@1"] == 1.0


def test_an_empty_table_is_refused(small, tmp_path):
    path = tmp_path / "empty.parquet"
    pl.DataFrame(schema={"user_id": pl.String, "rank": pl.Int64, "item_id": pl.String}).write_parquet(path)
    with pytest.raises(DataError, match=r"there are no recommendations|no rows|empty"):
        score_recommendations(path, small)


@pytest.mark.parametrize("content", [None, b"PAR1 not really"])
def test_missing_and_broken_files_are_refused(content, small, tmp_path):
    path = tmp_path / "lists.parquet"
    if content:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"lists\.parquet"):
        score_recommendations(path, small)


def test_lists_shorter_than_every_k_are_refused(small, tmp_path):
    with pytest.raises(DataError, match=r"the longest list has 2 items\n.*\n.*at least 5"):
        score_recommendations(write(tmp_path, GOOD), small, "test", EvaluationConfig(ks=(5, 10)))


def test_many_users_are_named_by_the_first_and_counted(small, tmp_path):
    rows = [(f"x{n}", 1, "a") for n in range(9)]
    with pytest.raises(
        DataError, match=r"the user 'x0' is not in the data set\n.*rows 1, 2, 3, 4, 5, \.\.\. \(9 in all\)"
    ):
        score_recommendations(write(tmp_path, rows), small)


def test_targets_are_scored_in_the_order_of_the_data_set(skewed, tmp_path):
    _, targets = skewed.evaluation("test")
    rows = [
        (skewed.user_ids[user], 1, skewed.item_ids[item])
        for user, item in zip(targets.users, targets.items, strict=True)
    ]
    lists = read_recommendations(write(tmp_path, rows[::-1]), skewed, "test")
    np.testing.assert_array_equal(lists.recommended[:, 0], targets.items)


def from_full_histories(dataset, k=3):
    """Lists of all items that a user never took, as a system makes them for production."""
    full = dataset.full()
    rows = []
    for row, user in enumerate(full.users.tolist()):
        new = [item for item in range(dataset.num_items) if item not in full[row].tolist()]
        rows += [(dataset.user_ids[user], rank, dataset.item_ids[item]) for rank, item in enumerate(new[:k], start=1)]
    return rows


@pytest.mark.parametrize("part", ["validation", "test"])
def test_lists_from_histories_that_hold_the_targets_are_noticed(skewed, tmp_path, caplog, part):
    result = score_recommendations(write(tmp_path, from_full_histories(skewed)), skewed, part, CONFIG)
    assert result.evaluation.metrics["recall@2"] == 0
    wanted = f"no list has an item that is held out in the {part} part: all metrics are 0. Were the lists made from"
    assert any(note.startswith(wanted) for note in result.notes)
    assert wanted in caplog.text


def test_one_hit_is_enough_not_to_doubt_where_lists_come_from(skewed, tmp_path):
    histories, targets = skewed.evaluation("test")
    user, item = skewed.user_ids[int(histories.users[0])], skewed.item_ids[int(targets[0][0])]
    rows = [row for row in from_full_histories(skewed) if row[0] != user] + [
        (user, 1, item),
    ]
    result = score_recommendations(write(tmp_path, rows), skewed, "test", CONFIG)
    assert result.evaluation.metrics["recall@1"] == 1 / len(histories)
    assert not any("no list has" in note for note in result.notes)


def test_lists_of_unknown_items_alone_are_not_taken_for_lists_from_full_histories(small, tmp_path):
    result = score_recommendations(write(tmp_path, [("u1", 1, "z1"), ("u2", 1, "z2")]), small, "test", CONFIG)
    assert [note for note in result.notes if "no list has" in note] == []
    assert any("2 recommendations are of items outside the catalogue" in note for note in result.notes)


@pytest.mark.parametrize("rank", [float("nan"), float("inf"), 1e300, 2.0**31, 0, -1, 1.5, "first", [1], {"a": 1}, True])
def test_what_is_no_rank_is_refused(small, tmp_path, rank):
    with pytest.raises(DataError, match=r"rank is |rank .* is not a whole number from 1 on"):
        read_recommendations(write(tmp_path, [("u1", rank, "d")]), small, "test")


@pytest.mark.parametrize("item", [["d", "e"], {"a": "d"}, b"d", True])
@pytest.mark.parametrize("column", ["user_id", "item_id"])
def test_what_is_no_id_is_refused(small, tmp_path, item, column):
    rows = [(item, 1, "d") if column == "user_id" else ("u1", 1, item)]
    with pytest.raises(DataError, match=f"{column} is "):
        read_recommendations(write(tmp_path, rows), small, "test")
