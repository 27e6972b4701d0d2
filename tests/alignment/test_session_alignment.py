"""Whole lists compared with whole lists: scored as one sequence, paired by what they are worth, and learned from."""

import copy

import numpy as np
import polars as pl
import pytest
import torch
from rich.console import Console
from simulator import DECODING, PER_GENRE, World, recipe
from tiny_alignment import NUM_ITEMS, make_model

from genrec.alignment.align import align_recommender
from genrec.alignment.monitor import EvalSet, Monitor
from genrec.alignment.pairs import session_pairs
from genrec.alignment.preferences import LIST_SIDES, Preferences
from genrec.alignment.prompts import Prompts, training_prompts
from genrec.alignment.rewards import Values, WeightedRewards
from genrec.alignment.sampling import best_sessions, score_sessions
from genrec.alignment.scoring import sequence_log_probs
from genrec.alignment.setup import build_reward, check_recipe
from genrec.config import PairsConfig
from genrec.data.histories import Histories
from genrec.decoding import SearchOptions, generate_lists, trie_of, write_sessions
from genrec.errors import ConfigError, DataError

SESSIONS = DECODING.model_copy(update={"mode": "session", "session_size": 3, "num_beams": 8})
IDS = ["a", "b", "c", "d", "e"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world") / "dataset", users=80)


@pytest.fixture(scope="module")
def supervised(world):
    return world.supervised(family="decoder")


def test_a_list_scores_as_item_after_item_by_a_model_that_reads_on(histories):
    model, (items, lengths) = make_model("decoder"), histories
    lists = torch.randint(NUM_ITEMS, (5, 2, 3), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        together = sequence_log_probs(model, items, lengths, lists)
        for row in range(5):
            for place in range(2):
                history, total = items[row, : lengths[row]], 0.0
                for item in lists[row, place]:
                    read = history[None] if len(history) else torch.zeros(1, 1, dtype=torch.int64)
                    total += float(sequence_log_probs(model, read, torch.tensor([len(history)]), item.view(1, 1)))
                    history = torch.cat([history, item.view(1)])
                assert float(together[row, place]) == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize("family", ["decoder", "seq2seq"])
def test_teacher_forced_lists_have_the_probabilities_of_the_search(family, histories):
    settings = {"session_size": 3} if family == "seq2seq" else {}
    model, (items, lengths) = make_model(family, **settings), histories
    with torch.no_grad():
        found = write_sessions(
            model, trie_of(model), model.encode(items, lengths), SearchOptions(num_beams=6), 3, items[:, :0]
        )
        assert torch.allclose(sequence_log_probs(model, items, lengths, found.items), found.scores[..., -1], atol=1e-5)
        shorter = found.items.clone()
        shorter[..., 2] = -1
        shorter[0, 5] = -1
        scores = sequence_log_probs(model, items, lengths, shorter)
    assert scores[0, 5] == 0
    assert torch.allclose(scores[1:], found.scores[1:, :, 1], atol=1e-5)


def lists() -> Preferences:
    return Preferences(
        Histories.from_lists([[0, 1], [2]]),
        np.array([[2, 3], [4, -1]]),
        np.array([[[3, 4], [2, 0]], [[0, 1], [-1, -1]]]),
        np.array([1.0, 0.5], dtype=np.float32),
        "mine",
    )


def test_saved_lists_are_loaded(tmp_path):
    lists().save(tmp_path / "p.parquet", IDS)
    frame = pl.read_parquet(tmp_path / "p.parquet")
    assert {name: frame.schema[name] for name in LIST_SIDES} == LIST_SIDES
    assert frame.row(0)[:3] == (["a", "b"], ["c", "d"], [["d", "e"], ["c", "a"]])
    loaded = Preferences.load(tmp_path / "p.parquet", IDS)
    np.testing.assert_array_equal(loaded.candidates, lists().candidates)
    np.testing.assert_array_equal(loaded.present, [[True, True, True], [True, True, False]])
    np.testing.assert_array_equal(loaded.paired, [True, True])


def test_equal_lists_on_both_sides_are_refused():
    same = lists()
    same.rejected[0, 1] = [2, 3]
    with pytest.raises(DataError, match="the chosen list is among the rejected ones"):
        same.check("here")
    lists().check("here")


def test_the_best_list_stands_against_the_worst():
    sessions = np.array([[[0, 1], [2, 3], [4, 5], [6, 7]], [[1, 0], [3, 2], [-1, -1], [-1, -1]]])
    worth = np.array([[0.1, 0.9, 0.5, 0.0], [0.2, 0.2, 0.0, 0.0]])
    prompts = Prompts(Histories.from_lists([[8], [9]]), Histories.from_lists([[0], [0]]))
    pairs = session_pairs(prompts, sessions, worth, PairsConfig(rejected=2))
    # The lists of the second history are worth the same: they teach nothing.
    np.testing.assert_array_equal(pairs.chosen, [[2, 3]])
    np.testing.assert_array_equal(pairs.rejected, [[[6, 7], [0, 1]]])
    np.testing.assert_array_equal(pairs.histories[0], [8])


def test_a_list_is_worth_the_mean_of_its_places_or_what_its_reward_says():
    class Strategy:
        def __call__(self, prompts, lists):
            raise AssertionError("asked for places")

        def whole(self, prompts, lists):
            return np.array([1.0, 2.0])

    prompts = Prompts(Histories.from_lists([[8], [9]]), Histories.from_lists([[0], [0]]))
    mixture = WeightedRewards([("values", 2.0, Values(np.arange(10.0))), ("whole", 0.5, Strategy())])
    found = mixture.whole(prompts, np.array([[1, 2, 6], [4, -1, -1]]))
    np.testing.assert_allclose(found, [2 * 3 + 0.5, 2 * 4 + 1.0])


def test_sampled_sessions_are_those_of_the_search(world, supervised):
    prompts = training_prompts(world.dataset, per_user=1, horizon=1, max_history=12, seed=0)
    sessions = best_sessions(supervised, prompts.histories, 10, decoding=SESSIONS)
    assert sessions.shape == (len(prompts), 10, 3)
    listed, _ = generate_lists(
        supervised, prompts.histories, decoding=SESSIONS.model_copy(update={"num_beams": 10}), top_k=3
    )
    np.testing.assert_array_equal(sessions[:, 0], listed)
    worth = score_sessions(WeightedRewards([("truth", 1.0, world.reward)]), prompts, sessions)
    np.testing.assert_allclose(worth[:, 4], world.reward(prompts, sessions[:, 4]).mean(1))


def test_groups_of_lists_teach_lists_by_their_own_reward(world, supervised, tmp_path, monkeypatch):
    monkeypatch.setattr("genrec.training.train._tracking", lambda folder, resumed: [])
    asked = []

    def reward(prompts, lists):
        asked.append(lists.shape)
        return world.reward(prompts, lists)

    monkeypatch.setattr("genrec.alignment.setup.load_function", lambda name: reward)
    model = copy.deepcopy(supervised)
    pairs = {"per_user": 2, "list_size": 8}
    config = recipe(method="grpo", epochs=1, preference_weight=3.0, metric="reward@3", pairs=pairs)
    result = align_recommender(
        model, world.dataset, config, SESSIONS, tmp_path / "run", inputs={}, console=Console(quiet=True)
    )
    assert result.iterations[0].history[-1]["validation"]["reward@3"] > result.start["reward@3"] + 0.01
    # Groups and what the guards measure are lists of three.
    assert {shape[1] for shape in asked} == {3}


@pytest.mark.parametrize("size", [3, 12])
def test_the_guards_measure_sessions_by_the_reward_that_pairs_are_compared_by(size, world, supervised):
    """A reward of whole lists that no sum over places gives: how many genres a list has."""

    class Genres:
        def __call__(self, prompts, lists):
            raise AssertionError("whole lists were compared, not places")

        def whole(self, prompts, lists):
            return np.array([len({item // PER_GENRE for item in row if item >= 0}) for row in world.item_of[lists]])

    decoding = SESSIONS.model_copy(update={"session_size": size, "num_beams": 12})
    watch = EvalSet.of(world.dataset, recipe(), decoding, None, WeightedRewards([("genres", 0.5, Genres())]))
    found = Monitor(watch, recipe(), supervised).measure(supervised)
    written, _ = generate_lists(supervised, watch.prompts.histories, decoding=decoding, top_k=size)
    counts = [len({item // PER_GENRE for item in row}) for row in world.item_of[written]]
    assert found[f"reward@{size}"] == pytest.approx(0.5 * np.mean(counts))
    assert [name for name in found if name.startswith("reward@")] == [f"reward@{size}"]


def list_file(path, size: int):
    """Two preferences between lists of so many items, of two users."""
    chosen, rejected = ([f"i{item:02d}" for item in range(first, first + size)] for first in (10, 20))
    rows = {"history": [["i01"], ["i02"]], "chosen": [chosen] * 2, "rejected": [[rejected]] * 2}
    pl.DataFrame(rows).write_parquet(path)
    return str(path)


@pytest.mark.parametrize(
    ("family", "settings", "words"),
    [
        ("depth", {}, "this 'depth' model writes single items"),
        ("parallel", {}, "this 'parallel' model writes single items"),
        ("discrec", {}, "this 'discrec' model writes single items"),
        ("seq2seq", {}, "this 'seq2seq' model writes single items"),
        ("seq2seq", {"session_size": 2}, "this 'seq2seq' model writes sessions of at most 2 items"),
    ],
)
def test_lists_from_a_file_are_refused_by_models_that_do_not_write_them(family, settings, words, world, tmp_path):
    config = recipe(
        rewards={}, metric="ndcg@10", pairs={"source": "file", "path": list_file(tmp_path / "p.parquet", 3)}
    )
    model = make_model(family, **settings)
    with pytest.raises(ConfigError, match=words) as refused:
        check_recipe(config, model, world.dataset)
    assert refused.value.exit_code == 2
    assert "p.parquet: lists of up to 3 items are compared" in str(refused.value)
    with pytest.raises(ConfigError, match=words):
        sequence_log_probs(model, torch.tensor([[1]]), torch.tensor([1]), torch.tensor([[[1, 2, 3]]]))


def test_lists_from_a_file_are_taken_by_models_that_write_them(world, tmp_path):
    config = recipe(
        rewards={}, metric="ndcg@10", pairs={"source": "file", "path": list_file(tmp_path / "p.parquet", 3)}
    )
    for model in (make_model("decoder"), make_model("seq2seq", session_size=3)):
        check_recipe(config, model, world.dataset)


def test_a_learned_reward_is_for_sessions_and_measured_among_the_models_own(world, supervised):
    config = recipe(rewards={"lists": 1.0}, objectives={"liked": 1.0}, pairs={"list_size": 8})
    mixture, quality = build_reward(config, world.dataset, supervised, SESSIONS)
    assert mixture.parts[0][2].longest == quality["longest"] == 3
    assert 0 <= quality["beam_auc"] <= 1
    mixture, quality = build_reward(config, world.dataset, supervised, DECODING)
    assert mixture.parts[0][2].longest == quality["longest"] == 1
    assert 0 <= quality["beam_auc"] <= 1


@pytest.mark.parametrize("method", ["sdpo", "kto", "simpo"])
def test_lists_become_better_by_comparing_lists(method, world, supervised, tmp_path, monkeypatch):
    monkeypatch.setattr("genrec.training.train._tracking", lambda folder, resumed: [])
    monkeypatch.setattr("genrec.alignment.setup.load_function", lambda name: world.reward)
    model = copy.deepcopy(supervised)
    pairs = {"source": "self-play", "per_user": 2, "list_size": 12, "per_list": 3, "rejected": 2}
    weight = {"beta": 2.0, "preference_weight": 1.0} if method == "simpo" else {"preference_weight": 10.0}
    result = align_recommender(
        model,
        world.dataset,
        recipe(method=method, epochs=2, metric="reward@3", pairs=pairs, **weight),
        SESSIONS,
        tmp_path / "run",
        inputs={},
        console=Console(quiet=True),
    )
    after = result.iterations[0].history[-1]["validation"]
    assert after["reward@3"] > result.start["reward@3"] + 0.01
    assert after["pair_accuracy"] > result.start["pair_accuracy"]
    kept = Preferences.load(tmp_path / "run" / "iteration-1" / "preferences.parquet", world.dataset.item_ids)
    assert kept.chosen.shape[1] == 3
    assert kept.rejected.shape[1:] == (2, 3)
