"""The transition baseline against its definition in loops over dense tables."""

import itertools

import numpy as np
import polars as pl
import pytest

from genrec.config import DataConfig
from genrec.data import make_dataset
from genrec.data.histories import Histories
from genrec.evaluation.baselines import Transition, TransitionSettings, fit_baseline, sparse_rows, transition
from genrec.evaluation.baselines.transition import text_vectors


def counts_by_definition(train, num_items, direction):
    counts = np.zeros((num_items, num_items))
    for row in range(len(train)):
        for before, after in itertools.pairwise(train[row].tolist()):
            counts[before, after] += before != after
    return counts + counts.T if direction == "both" else counts


def links_by_definition(train, num_items, settings, vectors, similar=100):
    counts = counts_by_definition(train, num_items, settings.direction)
    links = np.zeros_like(counts)
    cosines = (vectors @ vectors.T).astype(np.float64)
    np.fill_diagonal(cosines, -1)
    for i, j in itertools.permutations(range(num_items), 2):
        if counts[i, j]:
            links[i, j] += np.log1p(counts[i, j]) / np.log1p(counts[i].max()) + settings.linked
        elif any(counts[i, k] and counts[k, j] for k in range(num_items)):
            links[i, j] += settings.two_steps
        if j in np.argsort(-cosines[i], kind="stable")[:similar]:
            links[i, j] += settings.text * max(cosines[i, j], 0)
    return links


def unit_vectors(num_items, width=5):
    vectors = np.random.default_rng(2).normal(size=(num_items, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("rows_at_once", [7, 10_000])
@pytest.mark.parametrize(
    "settings",
    [
        TransitionSettings(),
        TransitionSettings(direction="forward", linked=0.0, two_steps=0.0, text=0.0, last_n=1),
        TransitionSettings(direction="forward", two_steps=0.4, text=2.0, last_n=None, decay=1.0),
    ],
)
def test_lists_equal_the_definition(skewed, settings, rows_at_once, monkeypatch):
    monkeypatch.setattr(sparse_rows, "CELLS_AT_ONCE", 60 * rows_at_once)
    monkeypatch.setattr(transition, "SIMILAR_TEXTS", 12)
    train, popularity, vectors = skewed.train(), skewed.train_popularity(), unit_vectors(60)
    model = Transition.fit(train, popularity, settings, vectors)
    expected = links_by_definition(train, 60, settings, vectors, similar=12)
    np.testing.assert_allclose(model.links.toarray(), expected, atol=1e-6)
    histories, _ = skewed.evaluation("test")
    items, scores = model.recommend(histories, top_k=10)
    for row in range(len(histories)):
        history = histories[row]
        wanted = np.zeros(60)
        for age, item in enumerate(history[::-1][: settings.last_n]):
            wanted += settings.decay**age * expected[item]
        wanted[history] = -np.inf
        found = items[row]
        np.testing.assert_allclose(scores[row], np.sort(wanted)[::-1][:10], atol=1e-5)
        np.testing.assert_allclose(wanted[found], scores[row], atol=1e-5)


def test_a_hand_worked_example():
    # 0 -> 1 twice, 0 -> 2 once, 1 -> 3 once; no one goes from 3.
    train = Histories.from_lists([[0, 1], [0, 1, 3], [0, 2]])
    settings = TransitionSettings(direction="forward", linked=0.5, two_steps=0.25, text=0.0)
    links = Transition.fit(train, np.array([3, 2, 1, 1]), settings).links.toarray()
    expected = np.zeros((4, 4))
    expected[0, 1], expected[0, 2], expected[0, 3] = 1.5, np.log(2) / np.log(3) + 0.5, 0.25
    expected[1, 3] = 1.5
    np.testing.assert_allclose(links, expected, rtol=1e-6)


def test_direction_matters():
    train = Histories.from_lists([[0, 1]] * 3 + [[2, 1]])
    one_way = TransitionSettings(direction="forward", text=0.0)
    both = one_way.model_copy(update={"direction": "both"})
    popularity = np.array([3, 4, 1])
    assert Transition.fit(train, popularity, one_way).links[[1]].nnz == 0
    assert set(Transition.fit(train, popularity, both).links[[1]].indices.tolist()) == {0, 2}


def test_an_item_after_itself_is_no_transition():
    train = Histories.from_lists([[0, 0, 1], [1, 1]])
    links = Transition.fit(train, np.array([2, 3]), TransitionSettings(direction="forward", text=0.0)).links
    assert links.nnz == 1
    assert links[0, 1] > 0


def test_in_large_catalogues_two_steps_follow_the_strongest_links(skewed, monkeypatch):
    monkeypatch.setattr(transition, "MAX_PAIRS", 60 * 4)
    settings = TransitionSettings(linked=0.0, text=0.0, two_steps=1.0)
    model = Transition.fit(skewed.train(), skewed.train_popularity(), settings)
    every = Transition.fit(skewed.train(), skewed.train_popularity(), settings.model_copy(update={"two_steps": 0.0}))
    added = (model.links - every.links).tocoo()
    assert np.bincount(added.row[added.data > 0.5], minlength=60).max() <= 4


def test_without_texts_only_transitions_count(make, tmp_path):
    dataset = make(tmp_path / "d", {f"u{user}": ["a", "b", "c", "d"] for user in range(5)})
    interactions = dataset.interactions.select("user_id", "item_id", "timestamp")
    bare = make_dataset(interactions, None, DataConfig(k_core=0), tmp_path / "bare")
    assert text_vectors(bare) is None
    fitted = fit_baseline("transition", bare)
    assert fitted.settings["text"] == 0.0
    items, _ = fitted.recommend(Histories.from_lists([[0]]), top_k=1)
    assert items.tolist() == [[1]]


def test_similar_texts_lead_to_items_without_interactions(tmp_path):
    table = pl.DataFrame(
        {"user_id": ["u", "u", "u", "v", "v", "v"], "item_id": list("abcabc"), "timestamp": [1, 2, 3] * 2}
    )
    items = pl.DataFrame({"item_id": list("abcd"), "title": ["red kettle", "red kettle", "green sock", "green sock"]})
    dataset = make_dataset(table, items, DataConfig(k_core=0), tmp_path / "d")
    vectors = text_vectors(dataset)
    model = Transition.fit(dataset.train(), dataset.train_popularity(), TransitionSettings(text=5.0), vectors)
    listed, _ = model.recommend(Histories.from_lists([[2]]), top_k=1)
    assert listed.tolist() == [[3]]


def test_held_out_items_do_not_change_it(make, sequences, skewed, tmp_path):
    catalogue = [f"i{item}" for item in range(60)]
    other = {user: [*held[:-1], next(i for i in catalogue if i not in held)] for user, held in sequences.items()}
    changed = make(tmp_path / "changed", other, catalogue)
    first, second = Transition.tuned(skewed), Transition.tuned(changed)
    assert first.settings == second.settings
    for part in ("data", "indices", "indptr"):
        assert getattr(first.links, part).tobytes() == getattr(second.links, part).tobytes()
