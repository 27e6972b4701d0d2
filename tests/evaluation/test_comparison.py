"""The table of systems: scopes, letters, Holm over all of its comparisons, and what it says of its own methods."""

import numpy as np
import pytest

from genrec.errors import DataError
from genrec.evaluation.comparison import System, compare_systems
from genrec.evaluation.comparison_tables import FORMATS
from genrec.evaluation.metrics import Evaluation
from genrec.evaluation.significance import holm


def evaluated(values, coverage=0.5):
    values = np.asarray(values, dtype=float)
    return Evaluation(np.arange(len(values)), {"ndcg@10": values, "recall@10": values}, {"coverage@10": coverage})


def system(name, level, runs=1, **options):
    random = np.random.default_rng(len(name) + runs)
    return System(name, tuple(evaluated(level + random.normal(0, 0.1, 80)) for _ in range(runs)), **options)


@pytest.fixture
def comparison():
    systems = [
        system("pop", 0.1, has_seed=False),
        system("knn", 0.5, has_seed=False),
        system("single", 0.9),
        system("three", 0.7, runs=3),
        system("late", 0.2, runs=3, stopped="stopped by time at 1.0 of 2 epochs"),
    ]
    return compare_systems(systems, ["ndcg@10", "recall@10", "coverage@10"])


def test_what_each_comparison_is_about(comparison):
    found = {(one.first, one.second): (one.scope, one.test) for one in comparison.pairs if one.metric == "ndcg@10"}
    assert found == {
        ("pop", "knn"): ("systems", "permutation"),
        ("pop", "single"): ("runs", "permutation"),
        ("pop", "three"): ("systems", "crossed"),
        ("pop", "late"): ("stopped", "crossed"),
        ("knn", "single"): ("runs", "permutation"),
        ("knn", "three"): ("systems", "crossed"),
        ("knn", "late"): ("stopped", "crossed"),
        ("single", "three"): ("runs", "permutation"),
        ("single", "late"): ("stopped", "permutation"),
        ("three", "late"): ("stopped", "crossed"),
    }


def test_holm_is_over_all_tested_comparisons_of_the_table(comparison):
    tested = [one for one in comparison.pairs if one.p_value is not None]
    assert len(tested) == 12
    assert [one.corrected for one in tested] == holm([one.p_value for one in tested])
    assert any("over the 12 comparisons tested" in line for line in comparison.explanations)


def test_letters_name_the_worse_systems_where_systems_were_tested(comparison):
    assert comparison.beaten("knn", "ndcg@10") == ["a"]
    assert comparison.beaten("three", "ndcg@10") == ["a", "b"]
    assert comparison.beaten("single", "ndcg@10") == []
    assert comparison.beaten("late", "ndcg@10") == []
    assert comparison.beaten("three", "coverage@10") == []


def test_metrics_of_all_lists_are_shown_and_not_tested(comparison):
    assert {one.metric for one in comparison.pairs} == {"ndcg@10", "recall@10"}
    row = comparison.table.rows[3]
    assert row.text("coverage@10") == "0.5000 ± 0.0000"
    assert "coverage@10" not in row.interval


def test_with_a_reference_the_others_are_compared_with_it_only():
    systems = [system(name, 0.5, has_seed=False) for name in ("a", "bb", "ccc")]
    found = compare_systems(systems, ["ndcg@10"], reference="bb").pairs
    assert [(one.first, one.second) for one in found] == [("a", "bb"), ("bb", "ccc")]


def test_letters_go_on_after_z():
    names = [f"s{number}" for number in range(28)]
    found = compare_systems([system(name, 0.5) for name in names], ["ndcg@10"], reference="s0")
    assert [found.letter(name) for name in ("s0", "s25", "s26", "s27")] == ["a", "z", "aa", "ab"]


def test_one_user_is_too_few():
    with pytest.raises(DataError, match="only one user"):
        compare_systems([System("a", (evaluated([1.0]),))], ["ndcg@10"])


@pytest.mark.parametrize("style", ["latex", "markdown"])
def test_the_methods_are_said_in_the_output(style, comparison):
    text = FORMATS[style](comparison)
    for words in ("bootstrap over users", "Satterthwaite", "permutation", "Holm", "stopped by time at 1.0 of 2 epochs"):
        assert words in text
