"""The public face: any way of giving histories gives the same lists."""

import shutil

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from tiny_run import copy_run, tiny_home

import genrec
from genrec import Recommender
from genrec.data import Dataset
from genrec.errors import ArtifactError, ConfigError, DataError
from genrec.pipeline.model_folder import open_model
from genrec.recommender import item_names

LISTS = [["i00", "i01", "i02"], ["i39"], ["i10", "i11", "i12", "i13"]]


@pytest.fixture(scope="module")
def recommender():
    return Recommender.from_pretrained(tiny_home() / "run" / "model")


def as_rows(lists):
    """The lists as an interactions table whose rows are shuffled; the timestamp tells the order."""
    rows = [(f"u{user}", item, 100 + step) for user, items in enumerate(lists) for step, item in enumerate(items)]
    table = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    return table.sample(fraction=1.0, shuffle=True, seed=2)


def by_user(found):
    return {
        user: (ids, scores) for user, ids, scores in zip(found.users, found.ids, found.scores.tolist(), strict=True)
    }


def test_lists_have_k_distinct_unseen_items_with_titles(recommender):
    found = recommender.recommend(LISTS, k=7)
    assert len(found) == 3
    for history, ids, titles, scores in zip(LISTS, found.ids, found.titles, found.scores, strict=True):
        assert len(set(ids)) == 7
        assert not set(ids) & set(history)
        assert titles == [recommender.titles[recommender.item_ids.index(name)] for name in ids]
        assert (np.diff(scores) <= 0).all()


def test_scores_are_the_log_probabilities_that_the_model_gives(recommender):
    """Every item's semantic ID is scored code by code, without trie or beams, and the lists are the best of them."""
    model, history = recommender.model, LISTS[2]
    items = torch.tensor([[recommender.dense_items[name] for name in history]])
    codes = model.item_codes.long()
    scores = torch.zeros(recommender.num_items)
    with torch.no_grad():
        for level in range(codes.shape[1]):
            prefix = codes[None, :, :level] if level else torch.zeros(1, 1, 0, dtype=torch.long)
            logits = model.next_code_logits(model.encode(items, torch.tensor([4])), prefix)
            chances = logits.log_softmax(dim=-1).expand(1, len(codes), -1)[0]
            scores += chances.gather(1, codes[:, level : level + 1])[:, 0]
    scores[items[0]] = -torch.inf
    best = scores.sort(descending=True, stable=True)
    exact = recommender.decoding.model_copy(update={"num_beams": 40})
    found = recommender.recommend([history], k=5, decoding=exact)
    assert found.items[0].tolist() == best.indices[:5].tolist()
    np.testing.assert_allclose(found.scores[0], best.values[:5].numpy(), atol=1e-4)


def test_seen_items_may_be_kept(recommender):
    kept = recommender.recommend(LISTS, k=40, exclude_seen=False)
    assert all(set(history) <= set(ids) for history, ids in zip(LISTS, kept.ids, strict=True))
    left = recommender.recommend(LISTS, k=40)
    assert [len(ids) for ids in left.ids] == [40 - len(history) for history in LISTS]


@pytest.mark.parametrize(
    "convert",
    [
        lambda table: table,
        lambda table: table.to_pandas(),
        lambda table: table.to_arrow(),
        lambda table: datasets.Dataset.from_polars(table),
        lambda table: table.rename({"timestamp": "order"}),
    ],
    ids=["polars", "pandas", "arrow", "datasets", "order"],
)
def test_tables_of_any_kind_give_the_same_lists(convert, recommender):
    expected = recommender.recommend(LISTS, k=5)
    found = by_user(recommender.recommend(convert(as_rows(LISTS)), k=5))
    for user, (ids, scores) in by_user(expected).items():
        assert found[f"u{user}"][0] == ids
        np.testing.assert_allclose(found[f"u{user}"][1], scores, atol=1e-5)


def test_a_column_of_lists_gives_the_same_lists(recommender):
    table = datasets.Dataset.from_dict({"user_id": ["a", "b", "c"], "item_id": LISTS})
    found = recommender.recommend(table, k=5)
    assert found.users == ["a", "b", "c"]
    assert found.ids == recommender.recommend(LISTS, k=5).ids


def test_users_stand_in_the_order_given_and_do_not_depend_on_each_other(recommender):
    together = recommender.recommend(LISTS, k=5)
    backwards = recommender.recommend(LISTS[::-1], k=5)
    assert backwards.ids == together.ids[::-1]
    for row, history in enumerate(LISTS):
        alone = recommender.recommend([history], k=5)
        assert alone.ids[0] == together.ids[row]
        np.testing.assert_allclose(alone.scores[0], together.scores[row], atol=1e-5)


def test_ids_may_be_numbers_and_become_text(recommender):
    with pytest.raises(DataError, match="'7'"):
        recommender.recommend([[7]])


def test_ids_with_white_space_and_whole_floats_are_the_ids(recommender, tmp_path):
    wanted = recommender.recommend(LISTS, k=3)
    untidy = [[f" {item}\u200b" for item in history] for history in LISTS]
    assert recommender.recommend(untidy, k=3).ids == wanted.ids
    assert recommender.recommend(pl.DataFrame({"item_id": untidy}), k=3).ids == wanted.ids
    allowed = recommender.filter_items([" i07", "i08"], None)
    assert np.flatnonzero(allowed).tolist() == [recommender.dense_items["i07"], recommender.dense_items["i08"]]
    for value, shown in ((5.0, "'5'"), (np.float32(5), "'5'"), (np.int64(5), "'5'"), (2**70, f"'{2**70}'")):
        with pytest.raises(DataError, match=f"1 items are not in the model's catalogue: {shown}"):
            recommender.recommend([[value]], k=3)
        with pytest.raises(DataError, match=f"1 items are not in the model's catalogue: {shown}"):
            recommender.filter_items(None, [value])


@pytest.mark.parametrize("value", [None, 5.5, 2.0**53, True, b"i00", ("i00",)])
def test_what_is_no_id_is_refused_in_lists(recommender, value):
    for call in (lambda: recommender.recommend([["i00"], [value]]), lambda: recommender.filter_items([value], None)):
        with pytest.raises(DataError, match="is not an id"):
            call()


def test_an_empty_history_gets_what_is_expected_of_a_stranger(recommender):
    found = recommender.recommend([[], ["i00"], []], k=5)
    assert found.ids[0] == found.ids[2]
    assert len(found.ids[0]) == 5
    skipped = recommender.recommend([["nobody-knows-this"]], k=5, unknown="skip")
    assert skipped.ids == found.ids[:1]


def test_no_histories_at_all(recommender):
    found = recommender.recommend([])
    assert (len(found), found.ids, found.to_polars().height) == (0, [], 0)


def test_unknown_items_are_an_error_unless_told_otherwise(recommender, caplog):
    histories = [["i00", "x1"], ["x2", "x1"]]
    with pytest.raises(DataError, match="2 items are not in the model's catalogue: 'x1', 'x2'") as caught:
        recommender.recommend(histories)
    assert "--unknown-items skip" in str(caught.value)
    assert caplog.text == ""
    found = recommender.recommend(histories, k=3, unknown="warn")
    assert "2 items that the model does not know are left out: 'x1', 'x2'" in caplog.text
    assert found.ids[0] == recommender.recommend([["i00"]], k=3).ids[0]


UNKNOWN = pl.DataFrame({"user_id": ["x", "y"], "item_id": ["n1", "n2"], "timestamp": [1, 2]})


@pytest.mark.parametrize(
    "histories",
    [
        UNKNOWN,
        UNKNOWN.drop("timestamp").to_pandas(),
        UNKNOWN.rename({"timestamp": "order"}),
        UNKNOWN[:1],
        UNKNOWN.select("user_id", pl.concat_list("item_id")),
        [["n1"], ["n2", "n1"]],
    ],
    ids=["times", "pandas", "order", "one user", "lists", "plain lists"],
)
@pytest.mark.parametrize("unknown", ["warn", "skip"])
def test_users_of_unknown_items_alone_get_the_list_of_a_new_user(recommender, caplog, histories, unknown):
    found = recommender.recommend(histories, k=5, unknown=unknown)
    assert found.ids == recommender.recommend([[]] * len(found), k=5).ids
    wanted = f"{len(found)} of {len(found)} users have no item that the model knows: each gets the list of a new user"
    assert (wanted in caplog.text) == (unknown == "warn")


@pytest.mark.parametrize(
    "histories",
    [
        pl.DataFrame({"user_id": ["x"], "item_id": [[]]}),
        pl.DataFrame(
            {"user_id": ["x"], "item_id": [None]}, schema={"user_id": pl.String, "item_id": pl.List(pl.String)}
        ),
        pd.DataFrame({"user_id": ["x"], "item_id": [[]]}),
        [[]],
    ],
    ids=["polars", "null", "pandas", "lists"],
)
def test_one_empty_history(recommender, histories, caplog):
    assert recommender.recommend(histories, k=5).ids == recommender.recommend([[], ["i00"]], k=5).ids[:1]
    assert caplog.text == ""


@pytest.mark.parametrize(
    "histories", [UNKNOWN.clear(), UNKNOWN.clear().to_pandas(), pl.DataFrame({"user_id": [], "item_id": []})]
)
def test_a_table_of_events_without_rows_is_refused(recommender, histories):
    with pytest.raises(DataError, match="the table has no rows"):
        recommender.recommend(histories)
    assert recommender.recommend(pl.DataFrame(schema={"item_id": pl.List(pl.String)})).ids == []


@pytest.mark.parametrize(
    "row", [{"user_id": "x", "item_id": ["i00", None]}, {"user_id": None, "item_id": ["i00"]}, {"item_id": [None]}]
)
def test_lists_with_empty_ids_are_refused(recommender, row):
    schema = {"user_id": pl.String, "item_id": pl.List(pl.String)}
    table = pl.DataFrame([row], schema={name: schema[name] for name in row})
    with pytest.raises(
        DataError, match=r"(a history has an empty id: \[|user_id is empty: None)[\s\S]*the histories, row 1"
    ):
        recommender.recommend(table, unknown="warn")


def test_arrays_are_lists(recommender):
    schema = {"user_id": pl.String, "item_id": pl.Array(pl.String, 3)}
    table = pl.DataFrame({"user_id": ["a"], "item_id": [LISTS[0]]}, schema=schema)
    assert recommender.recommend(table, k=5).ids == recommender.recommend(LISTS[:1], k=5).ids


def test_histories_whose_order_has_another_name_are_refused(recommender):
    with pytest.raises(DataError, match="there is no column 'timestamp', but 'Timestamp'"):
        recommender.recommend(as_rows(LISTS).rename({"timestamp": "Timestamp"}))


def test_users_of_whom_nothing_is_known_are_counted(recommender, caplog):
    users = pl.DataFrame({"user_id": ["0", "9"], "age": ["30", "40"]})
    recommender.recommend(LISTS, k=5, users=users)
    assert "nothing is known of 2 of 3 users: the table of users lacks them" in caplog.text


def test_the_table_of_results(recommender):
    found = recommender.recommend(as_rows(LISTS), k=4)
    table = found.to_polars()
    assert table.columns == ["user_id", "rank", "item_id", "title", "score"]
    assert table.height == 12
    assert table["user_id"].unique(maintain_order=True).to_list() == found.users
    assert table.filter(table["user_id"] == found.users[1])["item_id"].to_list() == found.ids[1]
    assert table["rank"].to_list() == [1, 2, 3, 4] * 3


def test_items_may_be_allowed_and_blocked(recommender):
    names = [f"i{number:02d}" for number in range(10, 20)]
    found = recommender.recommend(LISTS[:1], k=10, allowed=names, blocked=names[:4])
    assert set(found.ids[0]) == set(names[4:])
    assert found.short_by.tolist() == [4]
    with pytest.raises(DataError, match="'nothing'") as caught:
        recommender.recommend(LISTS, blocked=["nothing"])
    assert "take them out of the list" in str(caught.value)


def test_a_filter_that_leaves_nothing_gives_empty_lists_and_a_warning(recommender, caplog):
    found = recommender.recommend(LISTS, k=4, allowed=["i00"])
    assert found.ids == [[], ["i00"], ["i00"]]
    assert found.short_by.tolist() == [4, 3, 3]
    assert "1 of 3 users get no item" in caplog.text
    names = ["i07", "i08"]
    nothing = recommender.recommend(LISTS, k=4, allowed=names, blocked=names)
    assert (nothing.ids, nothing.to_polars().height) == ([[], [], []], 0)
    assert "3 of 3 users get no item" in caplog.text


def test_items_are_selected_by_a_condition_on_what_the_model_keeps_of_them(recommender):
    assert recommender.items.columns == ["item_id", "title", "genres"]
    names = recommender.select_items("genres = 'river crime' AND title LIKE '%or%'")
    frame = recommender.items.filter((pl.col("genres") == "river crime") & pl.col("title").str.contains("or"))
    assert names == frame["item_id"].to_list()
    assert 0 < len(names) < 10
    found = recommender.recommend(LISTS, k=20, allowed=names)
    assert set(found.ids[0]) == set(names)


@pytest.mark.parametrize(
    ("where", "problem"),
    [
        ("price < 20", 'unable to find column "price"'),
        ("title", "Boolean"),
        ("genres = = 3", "genres = = 3"),
        ("", "''"),
    ],
)
def test_a_condition_that_cannot_be_used_names_the_columns(where, problem, recommender):
    with pytest.raises(ConfigError, match="cannot be used") as caught:
        recommender.select_items(where)
    assert problem in str(caught.value)
    assert "expected: an SQL condition on the columns item_id, title, genres" in str(caught.value)


@pytest.mark.parametrize(
    ("histories", "message"),
    [
        (["i00", "i01"], "history 0 is 'i00'"),
        ([3], "history 0 is 3"),
        ([{"item": "i00"}], "history 0 is {'item': 'i00'}"),
        (pl.DataFrame({"user": ["a"], "item_id": ["i00"]}), "there is no column 'user_id'; the nearest is 'user'"),
        (pd.DataFrame({"user_id": ["a"], "item_id": ["i00"], "timestamp": [-1]}), "timestamp is negative"),
        (pl.DataFrame({"user_id": ["a", "a"], "item_id": [["i00"], ["i01"]]}), "user 'a' has several rows"),
    ],
)
def test_histories_that_cannot_be_meant_are_refused(histories, message, recommender):
    with pytest.raises(DataError, match=message.replace("{", r"\{")):
        recommender.recommend(histories)


@pytest.mark.parametrize("k", [0, -1, "5", 5.0, 1.5, True, None, [5], 2**63, np.float64(5), float("nan")])
def test_the_length_of_lists_is_a_whole_number(k, recommender):
    with pytest.raises(ConfigError, match=r"k = .* cannot be used") as caught:
        recommender.recommend(LISTS, k=k)
    assert "at least 1" in str(caught.value)


@pytest.mark.parametrize("k", [3, np.int64(3), np.uint8(3)])
def test_any_kind_of_whole_number_is_a_length(k, recommender):
    assert [len(ids) for ids in recommender.recommend(LISTS, k=k).ids] == [3, 3, 3]


@pytest.mark.parametrize("given", ["i07", b"i07", {"i07": 1}, 7])
@pytest.mark.parametrize("name", ["allowed", "blocked"])
def test_a_filter_is_a_list_of_ids_and_not_one_text(name, given, recommender):
    with pytest.raises(ConfigError, match="is not a list of item ids"):
        recommender.recommend(LISTS, **{name: given})


@pytest.mark.parametrize("given", [{"i07", "i08"}, ("i07", "i08"), iter(["i07", "i08"]), np.array(["i07", "i08"])])
def test_a_filter_may_be_any_collection(given, recommender):
    assert {name for ids in recommender.recommend(LISTS, allowed=given, k=5).ids for name in ids} == {"i07", "i08"}


@pytest.mark.parametrize("history", [{"i00", "i01"}, frozenset(["i00"]), {"i00": 1}.keys()])
def test_a_set_is_no_history(history, recommender):
    with pytest.raises(DataError, match="history 1 is a set, which has no order"):
        recommender.recommend([["i00"], history])


@pytest.mark.parametrize("item", [None, float("nan"), 1.5, float("inf"), 2.0**53, True])
def test_what_cannot_be_an_item_is_refused(item, recommender):
    with pytest.raises(DataError, match="is not an id"):
        recommender.recommend([["i00", item]])


def test_whole_floats_are_whole_numbers():
    assert item_names([50.0, np.float32(7), 8, np.int64(9), "x", 2**60], {}, "here") == [
        "50",
        "7",
        "8",
        "9",
        "x",
        str(2**60),
    ]


@pytest.mark.parametrize(
    "kind", [pl.Array(pl.String, 2), pl.List(pl.String), pl.List(pl.Categorical)], ids=["array", "list", "categories"]
)
def test_columns_of_lists_of_any_kind_are_histories(kind, recommender):
    table = pl.DataFrame({"user_id": ["a"], "item_id": [["i00", "i01"]]}).with_columns(pl.col("item_id").cast(kind))
    assert recommender.recommend(table, k=5).ids == recommender.recommend([["i00", "i01"]], k=5).ids


@pytest.mark.parametrize("column", ["timestamp", "order"])
@pytest.mark.parametrize("as_array", [False, True])
def test_lists_of_times_say_the_order_of_lists_of_items(column, as_array, recommender):
    rows = {"item_id": [["i02", "i00", "i01"], ["i13", "i11", "i12"]], column: [[30, 10, 20], [9, 7, 8]]}
    table = pl.DataFrame({"user_id": ["a", "b"], **rows})
    if as_array:
        table = table.with_columns(pl.col(column).cast(pl.Array(pl.Int64, 3)))
    found, expected = (
        recommender.recommend(table, k=5),
        recommender.recommend([["i00", "i01", "i02"], ["i11", "i12", "i13"]], k=5),
    )
    assert (found.users, found.ids) == (["a", "b"], expected.ids)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


def test_users_without_items_keep_their_place_among_lists_with_times(recommender):
    table = pl.DataFrame(
        {"user_id": ["a", "b", "c"], "item_id": [[], ["i01", "i00"], None], "timestamp": [[], [2, 1], None]},
        schema_overrides={"item_id": pl.List(pl.String), "timestamp": pl.List(pl.Int64)},
    )
    found, expected = recommender.recommend(table, k=5), recommender.recommend([[], ["i00", "i01"], []], k=5)
    assert (found.users, found.ids) == (["a", "b", "c"], expected.ids)
    nobody = recommender.recommend(table.filter(pl.col("user_id") == "a"), k=5)
    assert nobody.ids == expected.ids[:1]


@pytest.mark.parametrize("times", [[[1]], [[1, 2, 3]], [5]])
def test_times_that_do_not_belong_to_the_items_are_refused(times, recommender):
    table = pl.DataFrame({"user_id": ["a"], "item_id": [["i00", "i01"]], "timestamp": times})
    with pytest.raises(DataError, match="timestamp has not one value for each item") as caught:
        recommender.recommend(table)
    assert "row 1" in str(caught.value)


def test_arguments_that_cannot_be_meant_are_refused(recommender):
    with pytest.raises(ConfigError, match="unknown = 'ignore' cannot be used"):
        recommender.recommend(LISTS, unknown="ignore")
    with pytest.raises(ConfigError, match="the device 'warp' cannot be used"):
        Recommender.from_pretrained(tiny_home() / "run" / "model", device="warp")


def test_the_model_folder_alone_can_recommend(tmp_path, recommender):
    run = copy_run(tmp_path / "run")
    model = (run / "model").rename(tmp_path / "alone")
    shutil.rmtree(run)
    assert Recommender.from_pretrained(model).recommend(LISTS, k=5).ids == recommender.recommend(LISTS, k=5).ids


def test_the_model_card_may_be_edited(tmp_path):
    model = copy_run(tmp_path / "run") / "model"
    (model / "README.md").write_text("mine")
    assert Recommender.from_pretrained(model).num_items == 40


def test_a_baseline_of_a_run_is_a_recommender_too():
    found = Recommender.from_pretrained(tiny_home() / "run" / "baselines" / "sasrec").recommend(LISTS, k=3)
    assert [len(ids) for ids in found.ids] == [3, 3, 3]


def test_a_data_set_of_other_items_is_refused_for_measuring(tmp_path):
    trained = open_model(tiny_home() / "run" / "model")
    dataset = Dataset.load(tiny_home() / "run" / "dataset")
    trained.check_catalogue(dataset)
    dataset.item_ids = dataset.item_ids[::-1]
    with pytest.raises(ArtifactError, match="the data set does not match the model"):
        trained.check_catalogue(dataset)


def test_it_is_the_only_name_that_the_package_exports_lazily():
    assert genrec.Recommender is Recommender
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = genrec.Nothing


@pytest.mark.parametrize("user", [{"a": 1}, True, "", None, b"u"])
def test_users_of_lists_have_ids_too(recommender, user):
    with pytest.raises(DataError, match=r"user_id is"):
        recommender.recommend(pl.DataFrame({"user_id": [user], "item_id": [["i00"]]}))


@pytest.mark.parametrize(
    ("items", "times"), [([["i00"], ["i01"]], [[1], None]), ([["i00"], None], [[1], [1]]), ([["i00"]], [[]])]
)
def test_lists_and_their_times_are_of_one_length(recommender, items, times):
    with pytest.raises(DataError, match="timestamp has not one value for each item"):
        recommender.recommend(pl.DataFrame({"item_id": items, "timestamp": times}))


@pytest.mark.parametrize("decoding", [5, "beam", {"num_beams": 2}])
def test_decoding_is_settings(recommender, decoding):
    with pytest.raises(ConfigError, match=r"decoding = .* cannot be used"):
        recommender.recommend(LISTS, decoding=decoding)


def test_repeated_rows_are_one_event_as_in_prepared_data(recommender, caplog):
    table = as_rows(LISTS)
    wanted = by_user(recommender.recommend(table))
    assert by_user(recommender.recommend(pl.concat([table, table.head(3)]))) == wanted
    assert "3 rows repeat an earlier one exactly: dropped" in caplog.text
