"""What is watched, by hand and by walking the trie node by node."""

import numpy as np
import pytest
import torch
from tiny_alignment import NUM_ITEMS, make_model

from genrec.alignment.guards import Guards, Watch, list_diversity, pair_numbers, score_candidates
from genrec.alignment.preferences import Preferences
from genrec.alignment.prompts import Prompts
from genrec.config import AlignmentConfig, DecodingConfig
from genrec.data.histories import Histories
from genrec.errors import ConfigError

DECODING = DecodingConfig(num_beams=20, top_k=10)
PROMPTS = Prompts(
    Histories.from_lists([[3, 4, 5], [7], [1, 2, 3, 4], [9, 30]]), Histories.from_lists([[6], [8], [0], [39]])
)


def preferences() -> Preferences:
    return Preferences(
        Histories.from_lists([[1, 2], [3]]),
        np.array([4, 5]),
        np.array([[6, 7], [8, -1]]),
        np.array([1.0, 3.0], dtype=np.float32),
        "mine",
    )


def guards(model, reference=None, **changes) -> Guards:
    watch = Watch(PROMPTS, preferences(), None, DECODING, NUM_ITEMS)
    training = {"metric": changes.pop("metric", "ndcg@10")}
    return Guards(watch, AlignmentConfig(method="dpo", training=training, **changes), reference or model)


def walk(model, row: int) -> tuple[list[torch.Tensor], list[float]]:
    """Distributions along one target's path and the mass of the codes that some item has there."""
    history = torch.from_numpy(PROMPTS.histories[row].astype(np.int64))[None]
    codes = model.item_codes.tolist()
    target = codes[int(PROMPTS.targets[row][0])]
    context, levels, mass = model.encode(history, torch.tensor([history.shape[1]])), [], []
    for level in range(model.num_levels):
        prefix = torch.tensor(target[:level], dtype=torch.int64).view(1, 1, level)
        own = model.next_code_logits(context, prefix)[0, 0].softmax(-1)
        legal = {code[level] for code in codes if code[:level] == target[:level]}
        levels.append(own)
        mass.append(float(own[sorted(legal)].sum()))
    return levels, mass


def test_kl_entropy_and_legal_mass_are_those_of_a_walk(family):
    model, reference = make_model(family, 0), make_model(family, 1)
    found = guards(model, reference).measure(model)
    kl, entropy, mass = [], [], []
    with torch.no_grad():
        for row in range(4):
            own, legal = walk(model, row)
            other, _ = walk(reference, row)
            kl.append(sum(float((p * (p / q).log()).sum()) for p, q in zip(own, other, strict=True)))
            entropy.append(-sum(float((p * p.log()).sum()) for p in own))
            mass.append(legal)
    assert found["kl"] == pytest.approx(np.mean(kl), abs=1e-4)
    assert found["entropy"] == pytest.approx(np.mean(entropy), abs=1e-4)
    assert found["legal_mass"] == pytest.approx(np.mean(mass), abs=1e-5)


def test_nothing_has_moved_at_the_start():
    model = make_model()
    found = guards(model).begin(model)
    assert found["kl"] == pytest.approx(0, abs=1e-6)
    assert found["margin"] == pytest.approx(0, abs=1e-6)
    assert found["selected"] == found["ndcg@10"]


def test_pair_numbers_by_hand():
    rows = preferences()
    scores = np.array([[-1.0, -2.0, -0.5], [-3.0, -4.0, 0.0]], dtype=np.float32)
    reference = np.array([[-1.5, -1.0, -0.5], [-3.0, -2.0, 0.0]], dtype=np.float32)
    found = pair_numbers(scores, reference, rows, beta=0.5)
    # Row 1 has two pairs of half weight, one in order; row 2 one pair of weight 3, in order.
    assert found["pair_accuracy"] == pytest.approx((0.5 + 3) / 4)
    margins = [0.5 * ((0.5 - -1.0) + (0.5 - 0.0)), 3 * (0.0 - -2.0)]
    assert found["margin"] == pytest.approx(0.5 * sum(margins) / 4)
    assert found["chosen_log_prob"] == pytest.approx(-2.0)
    assert found["rejected_log_prob"] == pytest.approx(np.mean([-2.0, -0.5, -4.0]))


def test_candidates_are_scored_in_their_rows_whatever_the_order_of_lengths():
    model, rows = make_model(), preferences()
    found = score_candidates(model, rows.histories, rows.candidates, 0.0)
    for row in range(2):
        alone = rows.select(np.array([row]))
        np.testing.assert_allclose(
            score_candidates(model, alone.histories, alone.candidates, 0.0)[0], found[row], atol=1e-5
        )
    assert found[1, 2] == 0


def test_diversity_counts_pairs_of_different_first_codes():
    codes = np.array([[0, 1], [0, 2], [1, 1], [2, 0]])
    assert list_diversity(np.array([[0, 1, 2], [3, -1, -1]]), codes) == pytest.approx(2 / 3)


def test_a_fall_of_the_guard_is_named():
    own = guards(make_model(), stop_fall=0.1)
    own.start = {"ndcg@10": 0.5, "coverage@10": 0.6, "entropy": 4.0, "legal_mass": 0.9}
    fine = own.start | {"ndcg@10": 0.46}
    assert own.broken(fine) is None
    assert own.broken(fine | {"ndcg@10": 0.44}).startswith("ndcg@10 fell to 0.4400, below 0.4500 (the start, 0.5000")


def test_what_fell_further_than_tolerated_is_not_kept():
    model = make_model()
    for tolerance, kept in ((0.05, False), (0.2, True)):
        own = guards(model, guard="entropy", metric="legal_mass", tolerance=tolerance, stop_fall=0.9)
        now = own.begin(model)
        own.start = now | {"entropy": now["entropy"] / 0.9}
        assert own.broken(now) is None
        assert own.measure(model)["selected"] == (now["legal_mass"] if kept else float("-inf"))


@pytest.mark.parametrize(("name", "value"), [("coverage@10", 0.2), ("entropy", 0.5), ("legal_mass", 0.3)])
def test_a_collapse_is_named(name, value):
    own = guards(make_model())
    own.start = {"ndcg@10": 0.5, "coverage@10": 0.6, "entropy": 4.0, "legal_mass": 0.9}
    assert f"the model collapses: {name} fell from" in own.broken(own.start | {name: value})


@pytest.mark.parametrize("key", ["training.metric", "guard"])
def test_a_metric_that_is_not_measured_is_refused(key):
    model = make_model()
    with pytest.raises(ConfigError, match=f"alignment.{key} = 'reward@10' is not measured"):
        guards(model, **{key.removeprefix("training."): "reward@10"}).begin(model)
