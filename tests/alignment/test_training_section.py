"""``alignment.training`` is what ``training`` is: its keys, the old names of some of them, and numbers in bfloat16."""

import logging

import pytest
import torch
from rich.console import Console
from simulator import DECODING, World, recipe

from genrec.alignment.align import Round, align_recommender
from genrec.alignment.choice import gather
from genrec.alignment.guards import score_candidates
from genrec.config import AlignmentConfig, AlignmentTraining, TrainingConfig, load_recipe
from genrec.errors import ConfigError

OLD = {
    "epochs": 7,
    "batch_size": 16,
    "learning_rate": 0.5,
    "max_minutes": 2,
    "eval_epochs": 3,
    "eval_users": 9,
    "patience": 4,
    "metric": "mrr",
    "seed": 1,
}
PAIRS = {"source": "explicit", "column": "liked", "good": 1, "bad": 0}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world") / "dataset", users=60)


def test_its_keys_are_those_of_training():
    assert set(AlignmentTraining.model_fields) == set(TrainingConfig.model_fields)
    assert isinstance(AlignmentConfig().training, TrainingConfig)
    changed = load_recipe(None, ["alignment.training.precision=bf16"]).alignment.training
    assert (changed.precision, changed.epochs, changed.batch_size, changed.learning_rate) == ("bf16", 3, 64, 1e-4)


def test_old_names_are_read_and_said_to_be_old(caplog):
    with caplog.at_level(logging.WARNING):
        found = load_recipe(None, [f"alignment.{key}={value}" for key, value in OLD.items()]).alignment
    assert {key: getattr(found.training, key) for key in OLD} == OLD
    assert "alignment.epochs is alignment.training.epochs now" in caplog.text
    assert len(caplog.records) == len(OLD)
    # What is written to a run's recipe has the new names and is read again without a word.
    caplog.clear()
    assert AlignmentConfig.model_validate(found.model_dump(mode="json")) == found
    assert not caplog.records


def test_a_key_by_both_names_is_refused():
    with pytest.raises(ConfigError, match=r"epochs is given twice: it is a key of alignment\.training now"):
        load_recipe(None, ["alignment.epochs=2", "alignment.training.epochs=3"])


@pytest.mark.parametrize("key", ["alignment.epochs", "alignment.training.epochs"])
def test_a_wrong_value_is_named_as_it_was_written(key):
    with pytest.raises(ConfigError) as refused:
        load_recipe(None, [f"{key}=none"])
    assert str(refused.value).startswith(f"{key} = 'none' cannot be used")


def test_pairs_are_compared_with_a_reference_in_the_precision_of_the_policy(world):
    model = world.supervised(epochs=5)
    found = {}
    for precision in ("fp32", "bf16"):
        config = recipe(rewards={}, pairs=PAIRS, precision=precision)
        material = gather(model, world.dataset, config, DECODING, None, 0)
        rows = Round(world.dataset, config, DECODING, None, 0, Console(quiet=True))._pair_rows(model, material)
        found[precision] = torch.from_numpy(rows.reference)
    histories = material.pairs.histories
    with torch.autocast("cpu", torch.bfloat16):
        expected = score_candidates(model, histories, material.pairs.candidates, 0.0)
    assert torch.equal(found["bf16"], torch.from_numpy(expected))
    assert not torch.equal(found["bf16"], found["fp32"])
    torch.testing.assert_close(found["bf16"], found["fp32"], atol=0.2, rtol=0)


@pytest.mark.parametrize("method", ["dpo", "grpo"])
def test_alignment_in_bfloat16_learns_as_in_float32(method, world, tmp_path, monkeypatch):
    monkeypatch.setattr("genrec.training.train._tracking", lambda folder, resumed: [])
    monkeypatch.setattr("genrec.alignment.choice.load_function", lambda name: world.reward)
    gained, weights = {}, {}
    for precision in ("fp32", "bf16"):
        pairs = {"source": "self-play", "per_user": 2, "list_size": 10}
        model = world.supervised()
        result = align_recommender(
            model,
            world.dataset,
            recipe(method=method, epochs=1, preference_weight=5.0, pairs=pairs, precision=precision),
            DECODING,
            tmp_path / precision,
            inputs={},
            console=Console(quiet=True),
        )
        gained[precision] = result.best["reward@10"] - result.start["reward@10"]
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
        weights[precision] = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    assert gained["fp32"] > 0.005
    assert gained["bf16"] == pytest.approx(gained["fp32"], abs=0.015)
    assert not torch.equal(weights["bf16"], weights["fp32"])
