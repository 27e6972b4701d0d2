"""Numbers of the quality report on cases small enough to work out."""

import math

import numpy as np
import pytest

from genrec.tokenizers.families.rqkmeans import ResidualKMeansSettings, ResidualKMeansTokenizer
from genrec.tokenizers.parts.sampling import draw_rows
from genrec.tokenizers.quality import report as quality
from genrec.tokenizers.quality.report import (
    bucket_sizes,
    gini,
    level_quality,
    measure_quality,
    neighbors_in_titles,
    prefix_quality,
    reconstruction_error,
    relative_energy,
)


def test_a_level_by_hand():
    # Codes 0, 1 and 3 of five, with 4, 2 and 2 items.
    quality = level_quality(np.array([0, 0, 0, 0, 1, 1, 3, 3]), 5)
    entropy = -(0.5 * math.log2(0.5) + 2 * 0.25 * math.log2(0.25))
    assert quality == {
        "size": 5,
        "used": 3,
        "use": pytest.approx(0.6),
        "entropy_bits": pytest.approx(entropy),
        "perplexity": pytest.approx(2**entropy),
        "largest": 4,
        "smallest": 0,
        "gini": pytest.approx(0.5),
    }


def test_gini_is_the_mean_difference_over_twice_the_mean():
    counts = np.random.default_rng(3).integers(0, 50, 30)
    differences = np.abs(counts[:, None] - counts[None]).mean()
    assert gini(counts) == pytest.approx(differences / (2 * counts.mean()))
    assert gini(np.full(7, 4)) == pytest.approx(0.0)
    assert gini(np.array([0, 0, 0, 12])) == pytest.approx(0.75)
    assert gini(np.zeros(3, dtype=int)) == 0.0


def test_prefixes_by_hand():
    quality = prefix_quality(bucket_sizes(np.array([[0, 0], [0, 1], [0, 1], [1, 1]])))
    assert quality == [
        {"prefixes": 2, "largest": 3, "collision_rate": 0.5},
        {"prefixes": 3, "largest": 2, "collision_rate": 0.25},
    ]


def test_shorter_identifiers_are_prefixes_of_their_own():
    assert bucket_sizes(np.array([[0, -1], [0, -1], [0, 1]])) == {"1": [3], "2": [2, 1]}


def test_use_counts_codes_that_could_be_used():
    assert level_quality(np.array([7, 1, 3]), 100)["use"] == pytest.approx(1.0)


def test_even_use_has_the_perplexity_of_its_size():
    assert level_quality(np.repeat(np.arange(16), 3), 16)["perplexity"] == pytest.approx(16)


def test_bucket_sizes_by_hand():
    codes = np.array([[0, 0], [0, 1], [0, 1], [1, 1]])
    assert bucket_sizes(codes) == {"1": [3, 1], "2": [2, 1, 1]}


def test_reconstruction_error_of_the_mean_is_one():
    values = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    assert reconstruction_error(values, np.tile(values.mean(axis=0), (30, 1))) == pytest.approx(1.0, rel=1e-5)
    assert reconstruction_error(values, values) == 0
    assert reconstruction_error(values, None) is None
    assert reconstruction_error(np.ones((3, 2), dtype=np.float32), np.ones((3, 2))) == 0


def test_relative_energy():
    assert relative_energy([4.0, 1.0]) == [1.0, 0.25]
    assert relative_energy([0.0, 0.0]) == [0.0, 0.0]


def test_neighbors_share_the_longest_beginning(tiny_dataset):
    genre, number = np.arange(40) // 10, np.arange(40) % 10
    codes = np.stack([genre, number // 5, number // 2], axis=1)
    examples = neighbors_in_titles(codes, tiny_dataset)
    assert len(examples) == 4, "one of each first code"
    titles = tiny_dataset.titles
    for example in examples:
        item = titles.index(example["item"])
        shared = [near["shared_codes"] for near in example["neighbors"]]
        assert shared == sorted(shared, reverse=True)
        assert example["item"] not in [near["item"] for near in example["neighbors"]]
        best = max(sum(1 for _ in iterate_shared(codes[item], codes[other])) for other in range(40) if other != item)
        assert shared[0] == best
    popularity = tiny_dataset.train_popularity()
    assert popularity[titles.index(examples[0]["item"])] == popularity.max()


def iterate_shared(first, second):
    for one, other in zip(first, second, strict=True):
        if one != other:
            return
        yield one


def test_a_whole_report(tiny_dataset, tiny_features):
    tokenizer = ResidualKMeansTokenizer(ResidualKMeansSettings(codebook_size=6, normalize_residuals=False))
    tokenizer.fit(tiny_dataset, tiny_features)
    codes = tokenizer.encode(tiny_features.values)
    report = measure_quality(tokenizer, codes, tiny_features, tiny_dataset)
    assert report["items"] == 40
    assert [level["used"] for level in report["levels"]] == [len(np.unique(column)) for column in codes.T]
    rebuilt = tokenizer.reconstruct(codes)
    left = np.sqrt(((tiny_features.values - rebuilt) ** 2).sum(axis=1).mean())
    assert report["residual_norm"][-1] == pytest.approx(left, rel=1e-4)
    assert report["residual_energy"][0] == 1.0
    assert 0 < report["reconstruction_error"] < 1
    assert report["prefixes"][-1]["prefixes"] == len(np.unique(codes, axis=0))
    assert report["likeness"]["category"]["column"] == "genres"
    assert report["first_codes"][0]["items"] == report["levels"][0]["largest"]
    assert report["stability"] is None


def test_distances_are_measured_on_a_sample_of_many_items(tiny_dataset, tiny_features, monkeypatch):
    tokenizer = ResidualKMeansTokenizer(ResidualKMeansSettings(codebook_size=6, normalize_residuals=False))
    tokenizer.fit(tiny_dataset, tiny_features)
    codes = tokenizer.encode(tiny_features.values)
    monkeypatch.setattr(quality, "MAX_MEASURED", 20)
    rows = draw_rows(40, 20, quality.SEED)
    report = measure_quality(tokenizer, codes, tiny_features, tiny_dataset)
    expected = tokenizer.residual_energy(tiny_features.values[rows], codes[rows])
    assert report["residual_norm"] == pytest.approx(np.sqrt(expected).tolist())
    assert report["items"] == 40
    assert report["levels"][0]["used"] == len(np.unique(codes[:, 0]))
