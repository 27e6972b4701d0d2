"""Targets that are alternatives, slices by ties, and what a result says of them."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from genrec.alignment.prompts import Prompts
from genrec.alignment.rewards import Hit
from genrec.config import DataConfig, EvaluationConfig
from genrec.data import Dataset, make_dataset
from genrec.data.histories import Histories
from genrec.evaluation import evaluate_lists, evaluate_slices
from genrec.evaluation.baselines import fit_baseline
from genrec.evaluation.protocol import Protocol, metrics_json, score_lists
from genrec.evaluation.recommendations import score_recommendations
from genrec.training.validation import DecodingValidation

DOCS = Path(__file__).parents[2] / "docs" / "evaluation.md"
DAYS = {"ann": ("ab", "c", "de", "fgh"), "bob": ("a", "c", "d"), "cem": ("abc", "de")}
LISTS = {"ann": "xgyf", "bob": "xyzd"}


def dataset_of(out: Path, **settings) -> Dataset:
    rows = [
        (user, item, day * 86_400) for user, days in DAYS.items() for day, items in enumerate(days) for item in items
    ]
    interactions = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    items = pl.DataFrame({"item_id": list("abcdefghxyz")})
    return make_dataset(interactions, items, DataConfig(k_core=0, **settings), out)


def dense(dataset: Dataset, lists: dict[str, str]) -> np.ndarray:
    histories, _ = dataset.evaluation("test")
    wanted = [lists[dataset.user_ids[user]] for user in histories.users]
    return np.array([[dataset.item_ids.index(item) for item in letters] for letters in wanted])


@pytest.fixture
def excluded(tmp_path) -> Dataset:
    return dataset_of(tmp_path / "excluded", ties="exclude")


def test_the_example_of_the_documentation(excluded):
    """Worked by hand: g is at place 2 of ann's list, d at place 4 of bob's; cem has two days and is not measured."""
    protocol = Protocol.on(excluded, "test", exclude_seen=False)
    config = EvaluationConfig(ks=(1, 2, 4, 10), bootstrap_samples=0)
    result = score_lists("x", dense(excluded, LISTS), excluded, protocol, config)
    ann, bob = 1 / np.log2(3), 1 / np.log2(5)
    found = {name: values.tolist() for name, values in result.evaluation.per_user.items()}
    assert found["recall@1"] == [0, 0]
    assert found["recall@2"] == [1, 0]
    assert found["recall@4"] == found["recall@10"] == [1, 1]
    assert found["ndcg@2"] == pytest.approx([ann, 0])
    assert found["ndcg@10"] == pytest.approx([ann, bob])
    assert found["mrr@10"] == [0.5, 0.25]
    text = DOCS.read_text(encoding="utf-8")
    for number in (ann, bob, (ann + bob) / 2):
        assert f"{number:.4f}" in text


def test_any_of_several_items_against_every_order_of_lists():
    """Brute force: the first place at which the list has any of the row's items."""
    random = np.random.default_rng(0)
    lists = np.stack([random.permutation(20)[:8] for _ in range(300)])
    rows = [random.integers(0, 20, random.integers(1, 5)).tolist() for _ in range(300)]
    targets = Histories.from_lists(rows)
    alternatives = Histories(targets.users, targets.offsets, targets.items, any_of=True)
    found = evaluate_lists(lists, alternatives, num_items=20, ks=(3, 8)).per_user
    for row, wanted in enumerate(rows):
        place = next((place for place, item in enumerate(lists[row].tolist(), 1) if item in wanted), None)
        for k in (3, 8):
            hit = place is not None and place <= k
            assert found[f"recall@{k}"][row] == hit
            assert found[f"ndcg@{k}"][row] == pytest.approx(1 / np.log2(place + 1) if hit else 0)
            assert found[f"mrr@{k}"][row] == pytest.approx(1 / place if hit else 0)
    assert found["recall@8"].mean() > evaluate_lists(lists, targets, num_items=20, ks=(8,)).metrics["recall@8"]


def test_one_alternative_is_a_plain_target():
    lists, targets = np.array([[3, 1], [0, 2]]), Histories.from_lists([[1], [3]])
    alternatives = Histories(targets.users, targets.offsets, targets.items, any_of=True)
    plain, other = (evaluate_lists(lists, held, num_items=4, ks=(1, 2)) for held in (targets, alternatives))
    assert plain.metrics == other.metrics


def test_alternatives_in_several_popularity_groups_count_in_each():
    """The head item is at place 3, the tail item at place 1; another tail item is not listed and no miss."""
    popularity = np.array([9, 1, 1, 1, 1])
    targets = Histories(np.arange(1), np.array([0, 3]), np.array([0, 1, 2], np.int32), any_of=True)
    slices = evaluate_slices(
        np.array([[1, 3, 0]]), Histories.from_lists([[4]]), targets, popularity=popularity, ks=(1, 3)
    )["item_popularity"]
    assert (slices["tail"].metrics["recall@1"], slices["tail"].targets) == (1.0, 2)
    assert (slices["head"].metrics["recall@1"], slices["head"].metrics["mrr@3"]) == (0.0, pytest.approx(1 / 3))


def test_validation_and_selection_see_the_same_rule(excluded):
    """Whoever scores held-out items gets them from the data set, marked as alternatives; subsets stay marked."""
    histories, targets = excluded.evaluation("validation")
    validation = DecodingValidation(histories, targets.select([1, 0]).select([1, 0]), None, excluded.num_items, [2])
    lists = np.array([[excluded.item_ids.index("x"), excluded.item_ids.index("e")], [0, 1]], dtype=np.int32)
    assert validation.join([lists])["recall@2"] == 0.5
    assert validation.join([lists])["ndcg@2"] == pytest.approx(0.5 / np.log2(3))


def test_a_hit_on_an_alternative_is_worth_one(excluded):
    histories, targets = excluded.evaluation("test")
    worth = Hit()(Prompts(histories, targets), dense(excluded, LISTS))
    assert worth.tolist() == [[0, 1, 0, 1], [0, 0, 0, 1]]


def test_slices_of_tied_and_untied_targets(tmp_path):
    """In the order of the file ann's target h has the time of g before it, bob's d and cem's e: e has that of d."""
    dataset = dataset_of(tmp_path / "file")
    lists = dense(dataset, {"ann": "xh", "bob": "dx", "cem": "xy"})
    config = EvaluationConfig(ks=(1, 2), bootstrap_samples=0)
    result = score_lists("x", lists, dataset, Protocol.on(dataset, "test", exclude_seen=True), config)
    tied, untied = result.slices["ties"]["tied"], result.slices["ties"]["untied"]
    assert list(result.slices["ties"]) == ["tied", "untied"]
    assert (tied.users, tied.metrics["recall@2"], tied.metrics["recall@1"]) == (2, 0.5, 0)
    assert (untied.users, untied.metrics["recall@1"]) == (1, 1)


def test_targets_of_unknown_time_are_neither_tied_nor_untied():
    histories = Histories(
        np.arange(3), np.array([0, 1, 3, 4]), np.array([0, 0, 0, 0], np.int32), np.array([5, 5, -1, 5])
    )
    targets = Histories(np.arange(3), np.array([0, 2, 3, 4]), np.array([1, 2, 1, 1], np.int32), np.array([5, 6, 7, -1]))
    slices = evaluate_slices(np.array([[1]] * 3), histories, targets, popularity=np.ones(3, int), ks=(1,))["ties"]
    assert {group: (part.users, part.targets) for group, part in slices.items()} == {"tied": (1, 1), "untied": (1, 1)}


def test_there_is_no_slice_without_ties_or_times(excluded, make, tmp_path):
    untimed = pl.DataFrame([("u", item) for item in "abc"], schema=["user_id", "item_id"], orient="row")
    for dataset in (
        excluded,
        make(tmp_path / "distinct", {"u": ["a", "b", "c"]}),
        make_dataset(untimed, None, DataConfig(k_core=0), tmp_path / "untimed"),
    ):
        histories, _ = dataset.evaluation("test")
        lists = np.tile([0, 1], (len(histories), 1))
        protocol = Protocol.on(dataset, "test", exclude_seen=False)
        result = score_lists("x", lists, dataset, protocol, EvaluationConfig(ks=(2,), bootstrap_samples=0))
        assert set(result.slices) == {"item_popularity", "history_length"}


@pytest.mark.parametrize(
    ("settings", "said", "words"),
    [
        ({}, ("file", None), None),
        ({"ties": "shuffle", "ties_seed": 3}, ("shuffle", 3), "in an order drawn with seed 3"),
        ({"ties": "exclude"}, ("exclude", None), "any item of a user's last distinct time is a hit"),
    ],
)
def test_every_result_says_what_was_done_about_ties(tmp_path, settings, said, words):
    dataset = dataset_of(tmp_path / "out", **settings)
    histories, _ = dataset.evaluation("test")
    popularity = fit_baseline("popularity", dataset)
    lists, _ = popularity.recommend(histories, top_k=3, exclude_seen=True)
    protocol = Protocol.on(dataset, "test", exclude_seen=True)
    config = EvaluationConfig(ks=(3,), bootstrap_samples=0)
    measured = metrics_json(score_lists("popularity", lists, dataset, protocol, config))
    table = pl.DataFrame(
        [
            (dataset.user_ids[user], rank, dataset.item_ids[item])
            for user, items in zip(histories.users, lists.tolist(), strict=True)
            for rank, item in enumerate(items, 1)
        ],
        schema=["user_id", "rank", "item_id"],
        orient="row",
    )
    table.write_csv(tmp_path / "lists.csv")
    read = score_recommendations(tmp_path / "lists.csv", dataset, "test", config).as_json()
    for result in (measured, read):
        assert (result["protocol"]["ties"], result["protocol"]["ties_seed"]) == said
    assert measured["metrics"] == read["metrics"]
    shown = dict(Protocol.model_validate(measured["protocol"]).in_words()).get("Ties")
    assert shown is None if words is None else words in shown


def test_results_of_earlier_versions_are_those_of_the_file(tiny_dataset):
    protocol = Protocol.on(tiny_dataset, "test", exclude_seen=True).model_dump(mode="json")
    del protocol["ties"], protocol["ties_seed"]
    assert Protocol.model_validate(protocol).ties == "file"
