"""Whole alignments in a world whose preferences are known: what rises, what stops, what is resumed."""

import copy
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from rich.console import Console
from simulator import DECODING, World, recipe

from genrec.alignment import align
from genrec.alignment.align import align_recommender
from genrec.alignment.batches import MixedBatches
from genrec.alignment.monitor import EvalSet
from genrec.alignment.prompts import training_prompts
from genrec.alignment.setup import build_reward, check_recipe, load_reference
from genrec.artifacts import read_manifest
from genrec.config import DataConfig, RecommenderConfig
from genrec.data import make_dataset
from genrec.errors import ArtifactError, ConfigError, DataError, InterruptedRun
from genrec.models import build_recommender

SELF_PLAY = {"source": "self-play", "per_user": 2, "per_list": 5}
INPUTS = {"model": "sft"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world") / "dataset")


@pytest.fixture(scope="module")
def supervised(world):
    return world.supervised()


@pytest.fixture
def run(world, supervised, tmp_path, monkeypatch):
    """Align a copy of the supervised model; returns it with what came out."""
    monkeypatch.setattr("genrec.training.train._tracking", lambda folder, resumed: [])
    monkeypatch.setattr("genrec.artifacts.versions.environment", dict)
    monkeypatch.setattr("genrec.artifacts.versions.git_commit", lambda: None)
    monkeypatch.setattr("os.fsync", lambda handle: None)
    monkeypatch.setattr("gc.collect", lambda *_: 0)
    monkeypatch.setattr("genrec.alignment.setup.load_function", lambda name: world.reward)

    def go(name: str = "run", **changes):
        model = copy.deepcopy(supervised)
        result = align_recommender(
            model,
            world.dataset,
            recipe(**changes),
            DECODING,
            tmp_path / name,
            inputs=INPUTS,
            console=Console(quiet=True),
        )
        return model, result

    return go


def equal(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_true_reward_rises_in_each_of_three_iterations(run, world, supervised, tmp_path):
    pairs = {**SELF_PLAY, "per_user": 4}
    model, result = run(preference_weight=10.0, learning_rate=1.5e-3, iterations=3, pairs=pairs)
    assert [part.improved for part in result.iterations] == [True] * 3
    rewards = [result.start["reward@10"], *(part.best["reward@10"] for part in result.iterations)]
    assert all(later > earlier + 0.002 for earlier, later in pairwise(rewards))
    assert world.true_reward(model) > world.true_reward(supervised) + 0.06
    folders = sorted(path.name for path in (tmp_path / "run").glob("iteration-*"))
    assert folders == ["iteration-1", "iteration-2", "iteration-3"]
    for number in (2, 3):
        # The reference of a round is the model of the round before: nothing has moved when it begins.
        assert result.iterations[number - 1].start["kl"] == pytest.approx(0, abs=1e-5)


def test_group_policy_optimization_beats_the_supervised_model(run, world, supervised):
    model, result = run(method="grpo", preference_weight=3.0, pairs={"per_user": 2})
    assert world.true_reward(model) > world.true_reward(supervised) + 0.05
    assert result.best["coverage@10"] > 0.6 * result.start["coverage@10"]
    assert result.best["entropy"] > 0.7 * result.start["entropy"]


@pytest.mark.parametrize("method", ["sdpo", "cdpo", "ipo", "simpo", "kto"])
def test_every_method_learns_what_is_liked(method, run):
    changes = {"ipo": {"beta": 1.0}, "simpo": {"beta": 2.0}}.get(method, {})
    weight = {"ipo": 1.0, "simpo": 1.0}.get(method, 10.0)
    _, result = run(method=method, preference_weight=weight, epochs=1, pairs=SELF_PLAY, **changes)
    after = result.iterations[0].history[0]["validation"]
    assert after["reward@10"] > result.start["reward@10"] + 0.015
    assert after["pair_accuracy"] > result.start["pair_accuracy"]


def test_explicit_feedback_orders_pairs_of_users_that_taught_nothing(run):
    pairs = {"source": "explicit", "column": "liked", "good": 1, "bad": 0, "eval_share": 0.3}
    _, result = run(method="kto", metric="pair_accuracy", preference_weight=10.0, pairs=pairs)
    assert result.best["pair_accuracy"] > result.start["pair_accuracy"] + 0.01


def test_hard_negatives_of_implicit_feedback(run, tmp_path):
    _, result = run(metric="ndcg@10", rewards={}, epochs=1, pairs={"source": "implicit", "per_user": 2})
    assert "reward@10" not in result.start
    assert result.iterations[0].history[0]["validation"]["margin"] > 0
    assert (tmp_path / "run" / "iteration-1" / "preferences.parquet").is_file()


def test_a_guard_stops_and_leaves_the_model_as_it_was(run, supervised, caplog):
    changes = {"stop_fall": 0.0, "anchor_weight": 0.0, "preference_weight": 300.0, "learning_rate": 0.05}
    model, result = run(pairs=SELF_PLAY, **changes)
    (only,) = result.iterations
    assert only.stopped == "guard"
    assert only.reason.startswith(("ndcg@10 fell to", "the model collapses"))
    assert "alignment was stopped at step 5" in caplog.text
    assert not only.improved
    assert "the model is as it was" in caplog.text
    assert equal(model, supervised)
    assert only.best == only.start


@pytest.mark.parametrize(
    "changes", [{"pairs": SELF_PLAY, "iterations": 2}, {"method": "grpo", "pairs": {"per_user": 1, "list_size": 8}}]
)
def test_an_interrupted_alignment_continues_bit_by_bit(changes, run, monkeypatch, tmp_path):
    changes |= {"epochs": 2, "batch_size": 80, "eval_users": 40}
    whole, _ = run("whole", **changes)
    measure_shard, calls = align.Monitor.measure_shard, []

    def interrupted(self, model):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure_shard(self, model)

    monkeypatch.setattr(align.Monitor, "measure_shard", interrupted)
    with pytest.raises((KeyboardInterrupt, InterruptedRun)):
        run("cut", **changes)
    assert list((tmp_path / "cut" / "iteration-1.checkpoints").glob("checkpoint-*"))
    monkeypatch.setattr(align.Monitor, "measure_shard", measure_shard)
    again, result = run("cut", **changes)
    assert equal(whole, again)
    assert not list((tmp_path / "cut").glob("*.checkpoints"))
    monkeypatch.setattr(align, "prepare_material", lambda *_: pytest.fail("a finished iteration is not done again"))
    finished, repeated = run("cut", **changes)
    assert equal(whole, finished)
    assert [part.steps for part in repeated.iterations] == [part.steps for part in result.iterations]


def test_an_iteration_says_what_it_was_made_from(run, world, tmp_path):
    run(epochs=1, pairs=SELF_PLAY)
    manifest = read_manifest(tmp_path / "run" / "iteration-1", "iteration")
    assert manifest.inputs["model"] == "sft"
    assert manifest.inputs["dataset"] == world.dataset.fingerprint
    assert manifest.config["pairs"]["per_list"] == 5
    lines = (tmp_path / "run" / "iteration-1" / "metrics.jsonl").read_text().splitlines()
    assert any("validation" in json.loads(line) for line in lines)


def test_pairs_follow_windows_and_are_repeated():
    batches = MixedBatches(np.array([3, 3, 3, 3, 3]), 2, 1, extra=3, share=1.0, seed=0)
    parts = [(rows[rows < 5].tolist(), (rows[rows >= 5] - 5).tolist()) for rows, *_ in batches]
    assert sorted(row for windows, _ in parts for row in windows) == list(range(5))
    pairs = [row for _, rows in parts for row in rows]
    assert sorted(pairs[:3]) == sorted(pairs[3:]) == [0, 1, 2]
    first = [part.rows.tolist() for part in batches]
    assert [part.rows.tolist() for part in batches] == first
    assert [batches.rows_of_update(number).tolist() for number in range(3)] == first
    batches.set_epoch(1)
    assert [part.rows.tolist() for part in batches] != first


def test_an_update_is_the_same_in_one_batch_and_in_several():
    whole, cut = (MixedBatches(np.full(20, 3), size, 8 // size, extra=30, share=0.4, seed=0) for size in (8, 1))
    updates = [part.rows.tolist() for part in whole]
    found = list(cut)
    assert len(found) == 20
    assert len(cut) == 20
    assert [cut.rows_of_update(number).tolist() for number in range(cut.updates)] == updates
    assert [part.part for part in found[:8]] == list(range(8))


def test_a_share_is_never_less_than_one_pair():
    assert MixedBatches(np.full(100, 3), 10, 1, extra=50, share=0.01, seed=0).extra_size == 1


# --- what is refused ------------------------------------------------------------------------------------------------


def test_a_constant_reward_is_refused(run, world, monkeypatch):
    monkeypatch.setattr(
        "genrec.alignment.setup.load_function", lambda name: lambda prompts, lists: np.ones(lists.shape)
    )
    for changes in ({"pairs": SELF_PLAY}, {"method": "grpo"}):
        with pytest.raises(DataError, match="the reward is 1 for every item of every list"):
            run(**changes)


def test_a_reward_that_is_nan_is_refused(run, monkeypatch):
    monkeypatch.setattr(
        "genrec.alignment.setup.load_function", lambda name: lambda prompts, lists: np.full(lists.shape, np.nan)
    )
    with pytest.raises(DataError, match="the reward 'function' is nan"):
        run(pairs=SELF_PLAY)


def test_a_model_without_identifiers_is_refused(world):
    scorer = build_recommender(RecommenderConfig(name="sasrec", hidden_size=8, num_heads=1), num_items=80)
    with pytest.raises(ConfigError, match="a 'sasrec' model has no sequence semantic IDs"):
        check_recipe(recipe(), scorer, world.dataset)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "none"}, "the recipe asks for no alignment"),
        ({"pairs": {"source": "file"}}, "alignment.pairs.path is not given"),
        ({"rewards": {"scorer": 1}}, "alignment.scorer is not given"),
        ({"rewards": {}, "method": "grpo"}, "need a reward"),
        ({"pairs": {"source": "explicit", "column": "like"}}, "no feedback column 'like'"),
        ({"objectives": {"likd": 1}}, "no feedback column 'likd'"),
    ],
)
def test_a_recipe_that_lacks_something_is_refused(changes, message, world, supervised):
    with pytest.raises(ConfigError, match=message):
        check_recipe(recipe(**changes), supervised, world.dataset)


def test_single_sides_need_kto(run, tmp_path, world):
    rows = {"history": [["i01"], ["i02"]], "chosen": ["i03", "i04"], "rejected": [[], []]}
    path = tmp_path / "mine.parquet"
    pl.DataFrame(rows, schema_overrides={"rejected": pl.List(pl.String)}).write_parquet(path)
    with pytest.raises(ConfigError, match="no preference has both a chosen and a rejected item") as refused:
        run(pairs={"source": "file", "path": str(path)})
    assert "alignment.method: kto" in str(refused.value)


def reference_folder(model, folder: Path) -> Path:
    from genrec.artifacts import write_artifact

    with write_artifact(folder, "model") as target:
        model.save_pretrained(target.path)
    return folder


def test_a_reference_of_another_architecture_or_tokenizer_is_refused(supervised, world, tmp_path):
    same = load_reference(reference_folder(supervised, tmp_path / "same"), supervised)
    assert equal(same, supervised)
    other = copy.deepcopy(supervised)
    other.config.settings = {**supervised.config.settings, "num_layers": 2}
    with pytest.raises(ArtifactError, match="the reference is of another architecture"):
        load_reference(tmp_path / "same", other)
    other = copy.deepcopy(supervised)
    other.config.index_fingerprint = "different"
    with pytest.raises(ArtifactError, match="the reference is of another item tokenizer"):
        load_reference(tmp_path / "same", other)
    other.config.family = "decoder"
    with pytest.raises(ArtifactError, match="the reference is of another family"):
        load_reference(tmp_path / "same", other)


def test_a_scorer_that_scores_no_items_or_knows_other_data_is_refused(supervised, world, tmp_path):
    folder = reference_folder(supervised, tmp_path / "writes")
    config = recipe(rewards={"scorer": 1}, scorer=str(folder))
    with pytest.raises(ConfigError, match="a 'depth' model does not score items") as refused:
        build_reward(config, world.dataset, supervised, DECODING)
    assert "recommender.name: sasrec" in str(refused.value)
    scorer = build_recommender(RecommenderConfig(name="sasrec", hidden_size=8, num_heads=1), num_items=80)
    config = recipe(rewards={"scorer": 1}, scorer=str(reference_folder(scorer, tmp_path / "scores")))
    with pytest.raises(ArtifactError, match="the scorer was trained on another data set") as refused:
        build_reward(config, world.dataset, supervised, DECODING)
    assert "train the scorer on this data set" in str(refused.value)


def test_data_in_which_nobody_goes_on_are_refused(tmp_path):
    rows = {"user_id": ["a", "b"], "item_id": ["x", "y"], "timestamp": [1, 2]}
    items = pl.DataFrame({"item_id": ["x", "y"]})
    short = make_dataset(pl.DataFrame(rows), items, DataConfig(k_core=0), tmp_path / "short")
    with pytest.raises(DataError, match="no user has two interactions in the training part"):
        training_prompts(short, per_user=1, horizon=1, max_history=5, seed=0)
    with pytest.raises(DataError, match="no user has both a history and a validation item"):
        EvalSet.of(short, recipe(), DECODING, None, None)
