"""Our metrics are those of trec_eval, as ir-measures computes them from the files that we write."""

import ir_measures
import numpy as np
import pytest
from ir_measures import RR, R, nDCG

from genrec.data.histories import Histories
from genrec.evaluation.metrics import evaluate_lists
from genrec.evaluation.trec import trec_id, write_qrels, write_run

ITEMS, USERS, LENGTH, KS = 60, 300, 20, (1, 5, 10, 20)


def written(tmp_path, lists, targets, user_ids, item_ids):
    write_qrels(tmp_path / "qrels.txt", targets, user_ids, item_ids)
    write_run(tmp_path / "a.run", lists, targets.users, user_ids, item_ids, "a")
    return (
        list(ir_measures.read_trec_qrels(str(tmp_path / "qrels.txt"))),
        list(ir_measures.read_trec_run(str(tmp_path / "a.run"))),
    )


def histories(rows, users=None):
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    users = np.arange(len(rows)) if users is None else users
    return Histories(np.asarray(users, dtype=np.int64), offsets, np.concatenate(rows).astype(np.int32))


@pytest.mark.parametrize("most", [1, 6])
def test_metrics_are_those_of_ir_measures_on_random_lists(most, tmp_path):
    random = np.random.default_rng(5)
    targets = histories([random.choice(ITEMS, random.integers(1, most + 1), replace=False) for _ in range(USERS)])
    lists = np.stack([random.permutation(ITEMS)[:LENGTH] for _ in range(USERS)])
    # Some lists are shorter, one is empty, some have an unknown item above known ones.
    for row, length in enumerate(random.integers(0, LENGTH, 40)):
        lists[row, length:] = -1
    lists[0], lists[50:60, 2] = -1, -1
    ours = evaluate_lists(lists, targets, num_items=ITEMS, ks=KS)
    user_ids, item_ids = [f"u {row}" for row in range(USERS)], [f"item\t{n} %" for n in range(ITEMS)]
    qrels, run = written(tmp_path, lists, targets, user_ids, item_ids)
    for name, measure in (("recall", R), ("ndcg", nDCG), ("mrr", RR)):
        for k in KS:
            found = {one.query_id: one.value for one in ir_measures.iter_calc([measure @ k], qrels, run)}
            theirs = [found[trec_id(user)] for user in user_ids]
            np.testing.assert_allclose(theirs, ours.per_user[f"{name}@{k}"], atol=1e-12)
            mean = ir_measures.calc_aggregate([measure @ k], qrels, run)[measure @ k]
            assert mean == pytest.approx(ours.metrics[f"{name}@{k}"], abs=1e-12)


def test_the_files_line_by_line(tmp_path):
    lists = np.array([[2, -1, 0], [-1, -1, -1]])
    targets = histories([[0, 0, 1], [2]], users=[3, 1])
    written(tmp_path, lists, targets, ["", "b", "", "Ann Lee"], ["x", "50% off", "%20"])
    assert (tmp_path / "qrels.txt").read_text().splitlines() == [
        "Ann%20Lee 0 x 1",
        "Ann%20Lee 0 50%25%20off 1",
        "b 0 %2520 1",
    ]
    assert (tmp_path / "a.run").read_text().splitlines() == [
        "Ann%20Lee Q0 %2520 1 3 a",
        "Ann%20Lee Q0 %none-2 2 2 a",
        "Ann%20Lee Q0 x 3 1 a",
        "b Q0 %none-1 1 3 a",
    ]


@pytest.mark.parametrize("text", ["a b", "a\tb", "a\n", "a\u00a0b", "a\u2028b", "a\u3000b", "%", "%20", "é=|&"])
def test_ids_have_no_white_space_and_stay_different(text):
    assert trec_id(text).split() == [trec_id(text)]
    assert trec_id(text.replace(" ", "_")) != trec_id(f"{text} ")
    from urllib.parse import unquote

    assert unquote(trec_id(text)) == text
