import json

import numpy as np
import pytest

from genrec.artifacts import read_json, write_json
from genrec.config import EvaluationConfig
from genrec.errors import DataError
from genrec.evaluation.baselines import fit_baseline
from genrec.evaluation.metrics import evaluate_lists
from genrec.evaluation.protocol import Protocol, metrics_json, score_lists

CONFIG = EvaluationConfig(ks=(1, 5, 10), bootstrap_samples=200)


def protocol(dataset, part="test", **more):
    return Protocol(split=dataset.split, part=part, catalogue=dataset.num_items, exclude_seen=True, **more)


def measured(dataset, name, part="test"):
    histories, _ = dataset.evaluation(part)
    items, _ = fit_baseline(name, dataset).recommend(histories, top_k=10)
    return score_lists(name, items, dataset, protocol(dataset, part), CONFIG), items


def test_metrics_json_holds_what_the_design_promises(tiny_dataset, tmp_path):
    result, items = measured(tiny_dataset, "itemknn")
    popular, _ = measured(tiny_dataset, "popularity")
    write_json(tmp_path / "metrics.json", metrics_json(result, [popular]))
    read = read_json(tmp_path / "metrics.json")
    _, targets = tiny_dataset.evaluation("test")
    direct = evaluate_lists(
        items, targets, num_items=40, popularity=tiny_dataset.train_popularity(), ks=(1, 5, 10)
    ).metrics
    assert read["split"] == "test"
    assert read["users"] == len(targets) == 57
    assert read["metrics"] == direct
    assert {"recall@10", "ndcg@5", "mrr@10", "coverage@10", "gini@10", "popularity_rank@10"} <= set(read["metrics"])
    assert read["protocol"]["split"] == "leave-one-out"
    assert read["protocol"]["catalogue"] == 40
    assert set(read["slices"]) == {"item_popularity", "history_length"}
    low, high = read["confidence"]["intervals"]["ndcg@10"]
    assert low < read["metrics"]["ndcg@10"] < high
    beside = read["baselines"]["popularity"]
    mean, low, high = beside["difference"]["recall@10"]
    assert mean == pytest.approx(read["metrics"]["recall@10"] - beside["metrics"]["recall@10"])
    assert low <= mean <= high


def test_validation_is_another_part_with_its_own_history(tiny_dataset):
    result, _ = measured(tiny_dataset, "popularity", "validation")
    assert result.as_json()["split"] == "validation"
    assert result.as_json() != measured(tiny_dataset, "popularity")[0].as_json()


def test_lists_of_other_users_are_refused(tiny_dataset):
    with pytest.raises(DataError, match="one row for each of 57 users"):
        score_lists("x", np.zeros((3, 1), int), tiny_dataset, protocol(tiny_dataset), CONFIG)


def test_baselines_of_another_part_are_refused(tiny_dataset, skewed):
    result, _ = measured(tiny_dataset, "popularity")
    other, _ = measured(skewed, "popularity")
    with pytest.raises(DataError, match="scored on different users"):
        metrics_json(result, [other])


def test_held_out_items_that_masking_hides_are_told(make, tmp_path):
    dataset = make(tmp_path / "repeats", {"u": ["a", "b", "a"], "v": ["a", "b", "c"]})
    lists = np.array([[2], [2]])
    masked = score_lists("x", lists, dataset, protocol(dataset), EvaluationConfig(ks=(1,), bootstrap_samples=0))
    assert masked.notes == ("1 held-out items are in their user's history: out of reach with seen items left out",)
    unmasked = protocol(dataset).model_copy(update={"exclude_seen": False})
    assert score_lists("x", lists, dataset, unmasked, CONFIG).notes == ()
    assert masked.as_json()["confidence"]["intervals"] == {}


def test_conditions_in_words_leave_out_the_unknown():
    full = Protocol(
        split="leave-one-out", part="test", catalogue=12101, exclude_seen=True, max_history=50, num_beams=40,
        encoder="lexical", tokenizer="rqkmeans 3 x 256", collision_rate=0.0123,
        selection="validation ndcg@10", seeds=(1, 2),
    )  # fmt: skip
    words = dict(full.in_words())
    assert words["Ranking"] == "item-level, full catalogue of 12,101 items"
    assert words["Split"] == "leave-one-out, test part"
    assert words["Collision rate"] == "1.23% before the policy"
    assert words["Seeds"] == "1, 2"
    bare = Protocol(split="ratio", part="validation", catalogue=3, exclude_seen=False)
    assert [name for name, _ in bare.in_words()] == ["Ranking", "Split", "Seen items", "Beams"]
    assert json.loads(json.dumps(full.model_dump(mode="json")))["seeds"] == [1, 2]
