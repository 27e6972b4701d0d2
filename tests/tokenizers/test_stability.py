"""Fitting again: the part of a catalogue that is fitted, and what is compared."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from genrec.config import TokenizerConfig
from genrec.data.histories import Histories
from genrec.tokenizers import fit_tokenizer
from genrec.tokenizers.families.rqkmeans import ResidualKMeansSettings, ResidualKMeansTokenizer
from genrec.tokenizers.quality import stability as module
from genrec.tokenizers.quality.stability import PartOfCatalogue, keep_items, measure_stability, same_groups


def test_histories_of_some_items():
    histories = Histories.from_lists([[0, 3, 1], [2], [3, 3, 4]])
    kept = keep_items(histories, np.array([1, 3]), 5)
    assert [kept[row].tolist() for row in range(len(kept))] == [[1, 0], [1, 1]]
    np.testing.assert_array_equal(kept.users, [0, 1])


def test_a_part_of_a_catalogue_is_a_data_set_of_its_training_part(tiny_dataset):
    rows = np.array([3, 7, 12, 30])
    part = PartOfCatalogue(tiny_dataset, rows)
    assert part.num_items == 4
    assert part.item_ids == [tiny_dataset.item_ids[row] for row in rows]
    assert part.titles == [tiny_dataset.title(row) for row in rows]
    np.testing.assert_array_equal(part.train_popularity(), tiny_dataset.train_popularity()[rows])
    assert len(part.evaluation("test")[0]) == 0, "nothing is held out"


def test_groups_are_compared_whatever_their_numbers():
    codes = np.array([[0, 1], [0, 1], [1, 0], [1, 2], [2, 2]])
    renamed = np.array([[4, 0], [4, 0], [0, 7], [0, 1], [3, 1]])
    assert same_groups(codes, renamed, "sequence") == [1.0, 1.0]
    random = np.random.default_rng(0)
    first, second = random.integers(0, 3, (2, 50, 2))
    expected = [adjusted_rand_score(first[:, level], second[:, level]) for level in range(2)]
    assert same_groups(first, second, "set") == pytest.approx(expected)


def test_a_refit_of_separate_groups_finds_them_again(tiny_dataset, with_vectors):
    random = np.random.default_rng(4)
    centres = 10 * np.eye(2, 6, dtype=np.float32)
    features = with_vectors(centres[np.arange(40) % 2] + 0.1 * random.standard_normal((40, 6)))
    settings = ResidualKMeansSettings(num_levels=2, codebook_size=2)
    report = measure_stability(ResidualKMeansTokenizer, settings, tiny_dataset, features)
    assert report["items"] == 40
    assert report["other_seed"][0] == pytest.approx(1.0)
    assert report["more_items"][0] == pytest.approx(1.0)
    assert len(report["other_seed"]) == len(report["more_items"]) == 2
    assert report["new_items"]["queries"] == 4
    assert report["new_items"]["levels"][0]["recall"] == pytest.approx(1.0)


def test_it_is_measured_on_a_sample_and_only_when_asked(tiny_dataset, tiny_features, tmp_path, monkeypatch):
    import json

    monkeypatch.setattr(module, "MAX_ITEMS", 25)
    config = TokenizerConfig(name="rqkmeans", num_levels=2, codebook_size=5)
    fit_tokenizer(config, tiny_dataset, tiny_features, tmp_path / "asked", stability=True)
    report = json.loads((tmp_path / "asked" / "quality.json").read_text())
    assert report["stability"]["items"] == 25
    assert len(report["stability"]["more_items"]) == 2


def test_too_few_items_to_leave_some_out(tiny_dataset, tiny_features, caplog):
    settings = ResidualKMeansSettings(num_levels=1, codebook_size=40)
    report = measure_stability(ResidualKMeansTokenizer, settings, tiny_dataset, tiny_features)
    assert report["more_items"] is None
    assert report["new_items"] is None
    assert "stability under new items is not measured: level 1 has 40 codes but the 36 items" in caplog.text
