import itertools

import numpy as np
import pytest

from genrec.data.histories import Histories
from genrec.errors import ConfigError
from genrec.evaluation.baselines import (
    ItemKNN,
    ItemKNNSettings,
    Popularity,
    fit_baseline,
    item_graph,
    itemknn,
    sparse_rows,
)
from genrec.evaluation.metrics import evaluate_lists


def sets_of(train):
    return [set(train[row].tolist()) for row in range(len(train))]


def similarity_by_definition(train, num_items, neighbors, shrinkage):
    sets = sets_of(train)
    users = [{row for row, held in enumerate(sets) if item in held} for item in range(num_items)]
    table = np.zeros((num_items, num_items))
    for i, j in itertools.permutations(range(num_items), 2):
        shared = len(users[i] & users[j])
        if shared:
            table[i, j] = shared / (np.sqrt(len(users[i]) * len(users[j])) + shrinkage)
    for row in table if neighbors else ():
        weakest = np.lexsort((np.arange(num_items), -row))[neighbors:]
        row[weakest] = 0
    return table


def scores_by_definition(history, table, settings, exclude_seen):
    scores = np.zeros(len(table))
    for age, item in enumerate(history[::-1][: settings.last_n]):
        scores += settings.decay**age * table[item]
    if exclude_seen:
        scores[history] = -np.inf
    return scores


@pytest.mark.parametrize(
    "settings",
    [
        ItemKNNSettings(neighbors=None, shrinkage=0.0, decay=1.0, last_n=None),
        ItemKNNSettings(neighbors=4, shrinkage=5.0, decay=0.5, last_n=3),
        ItemKNNSettings(neighbors=1, shrinkage=1.0, decay=0.8, last_n=1),
    ],
)
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_item_knn_equals_its_definition(skewed, settings, exclude_seen, monkeypatch):
    monkeypatch.setattr(sparse_rows, "CELLS_AT_ONCE", 60 * 17)
    train, popularity = skewed.train(), skewed.train_popularity()
    model = ItemKNN.fit(train, popularity, settings)
    table = similarity_by_definition(train, 60, settings.neighbors, settings.shrinkage)
    np.testing.assert_allclose(model.links.toarray(), table, rtol=1e-6)
    histories, _ = skewed.evaluation("test")
    items, scores = model.recommend(histories, top_k=55, exclude_seen=exclude_seen)
    for row in range(len(histories)):
        expected = scores_by_definition(histories[row], table, settings, exclude_seen)
        listed = items[row][items[row] >= 0]
        assert len(set(listed)) == len(listed) == min(55, np.isfinite(expected).sum())
        # The list is right if its items have the best scores: equal ones may differ in the last bit, in either order.
        np.testing.assert_allclose(expected[listed], -np.sort(-expected)[: len(listed)], rtol=1e-5)
        np.testing.assert_allclose(scores[row][: len(listed)], expected[listed], rtol=1e-5)


def test_ties_go_to_the_popular_and_lists_are_filled_with_the_popular():
    # Item 0 was with 1 and 2 once each, and 2 is more popular; nothing connects it with 3 and 4.
    train = Histories.from_lists([[0, 1], [0, 2], [2], [4], [4], [4], [3]])
    popularity = np.bincount(train.items, minlength=5)
    settings = ItemKNNSettings(shrinkage=0.0)
    similarity = ItemKNN.fit(train, popularity, settings).links
    similarity.data[:] = 0.5
    items, scores = ItemKNN(similarity, popularity, settings).recommend(Histories.from_lists([[0]]), top_k=5)
    assert items.tolist() == [[2, 1, 4, 3, -1]]
    assert scores.tolist() == [[0.5, 0.5, 0.0, 0.0, -np.inf]]


def test_popularity_equals_its_definition(skewed):
    popularity = skewed.train_popularity()
    histories, _ = skewed.evaluation("validation")
    items, scores = Popularity(popularity).recommend(histories, top_k=10)
    order = sorted(range(60), key=lambda item: (-popularity[item], item))
    for row in range(len(histories)):
        unseen = [item for item in order if item not in histories[row]][:10]
        assert items[row].tolist() == unseen
        assert scores[row].tolist() == popularity[unseen].tolist()
    everything, _ = Popularity(popularity).recommend(histories, top_k=10, exclude_seen=False)
    assert (everything == order[:10]).all()


@pytest.mark.parametrize(
    "make_model", [Popularity, lambda p: ItemKNN.fit(Histories.from_lists([[0, 1]]), p, ItemKNNSettings())]
)
def test_lists_end_where_the_catalogue_does(make_model):
    model = make_model(np.array([2, 1, 0]))
    items, scores = model.recommend(Histories.from_lists([[0, 0], [], [0, 1, 2]]), top_k=5)
    assert items.dtype == np.int32
    assert scores.dtype == np.float32
    assert items.tolist() == [[1, 2, -1, -1, -1], [0, 1, 2, -1, -1], [-1] * 5]
    assert np.isneginf(scores[items < 0]).all()


def test_reading_does_not_change_the_histories(skewed):
    histories, _ = skewed.evaluation("test")
    items, offsets = histories.items.copy(), histories.offsets.copy()
    fit_baseline("itemknn", skewed).recommend(histories, top_k=3)
    np.testing.assert_array_equal(histories.items, items)
    np.testing.assert_array_equal(histories.offsets, offsets)


def test_one_big_matrix_of_pairs_is_never_kept(skewed, monkeypatch):
    monkeypatch.setattr(itemknn, "MAX_PAIRS", 60 * 7)
    model = ItemKNN.fit(skewed.train(), skewed.train_popularity(), ItemKNNSettings(neighbors=None))
    assert np.diff(model.links.indptr).max() == 7


def test_tuning_beats_popularity_and_the_defaults_on_validation(tiny_dataset):
    histories, targets = tiny_dataset.evaluation("validation")
    tuned = ItemKNN.tuned(tiny_dataset)
    default = ItemKNN.fit(tiny_dataset.train(), tiny_dataset.train_popularity(), ItemKNNSettings())
    popular = fit_baseline("popularity", tiny_dataset)
    values = [
        evaluate_lists(model.recommend(histories, top_k=10)[0], targets, num_items=40, ks=(10,)).metrics["ndcg@10"]
        for model in (tuned, default, popular)
    ]
    assert values[0] >= values[1] > 1.5 * values[2]
    assert set(tuned.settings) == {"neighbors", "shrinkage", "decay", "last_n"}


def test_nothing_held_out_moves_a_byte(make, sequences, skewed, tmp_path):
    """Poison: every held-out item is replaced by another one."""
    catalogue = [f"i{item}" for item in range(60)]
    poisoned = {
        user: [*held[:-2], *[other for other in catalogue if other not in held][:2]] for user, held in sequences.items()
    }
    other = make(tmp_path / "poisoned", poisoned, catalogue)
    assert (other.evaluation("test")[1].items != skewed.evaluation("test")[1].items).all()
    settings = ItemKNNSettings(neighbors=10)
    first, second = (ItemKNN.fit(data.train(), data.train_popularity(), settings) for data in (skewed, other))
    for part in ("data", "indices", "indptr"):
        assert getattr(first.links, part).tobytes() == getattr(second.links, part).tobytes()
    probe, _ = skewed.evaluation("validation")
    for name in ("popularity", "itemknn"):
        models = [
            Popularity(data.train_popularity()) if name == "popularity" else model
            for data, model in ((skewed, first), (other, second))
        ]
        lists = [model.recommend(probe, top_k=20) for model in models]
        assert lists[0][0].tobytes() == lists[1][0].tobytes()
        assert lists[0][1].tobytes() == lists[1][1].tobytes()


def test_the_test_part_does_not_tune(make, sequences, skewed, tmp_path):
    catalogue = [f"i{item}" for item in range(60)]
    poisoned = {
        user: [*held[:-1], next(other for other in catalogue if other not in held)] for user, held in sequences.items()
    }
    other = make(tmp_path / "poisoned", poisoned, catalogue)
    first, second = ItemKNN.tuned(skewed), ItemKNN.tuned(other)
    assert first.settings == second.settings
    assert first.links.data.tobytes() == second.links.data.tobytes()


def test_without_validation_users_the_defaults_stand(make, tmp_path):
    dataset = make(tmp_path / "short", {"u": ["a", "b"], "v": ["b", "a"]})
    assert ItemKNN.tuned(dataset).settings == {"neighbors": "all", "shrinkage": 10.0, "decay": 0.5, "last_n": 20}


def test_tuning_draws_users_where_there_are_many(skewed, monkeypatch):
    monkeypatch.setattr(item_graph, "TUNING_USERS", 5)
    asked = []
    plain = ItemKNN.recommend
    monkeypatch.setattr(
        ItemKNN,
        "recommend",
        lambda self, histories, **options: asked.append(histories.users.tolist()) or plain(self, histories, **options),
    )
    ItemKNN.tuned(skewed, seed=1)
    assert {len(users) for users in asked} == {5}
    assert len({tuple(users) for users in asked}) == 1


def test_an_unknown_baseline_is_refused(skewed):
    with pytest.raises(
        ConfigError, match=r"no baseline 'bpr'\n.*evaluation.baselines\n.*popularity, itemknn, transition or sasrec"
    ):
        fit_baseline("bpr", skewed)
