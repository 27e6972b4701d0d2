"""Numbers of the quality report on cases small enough to work out, and the plots."""

import math

import numpy as np
import pytest

from genrec.tokenizers.plots import draw_quality
from genrec.tokenizers.quality import (
    bucket_sizes,
    level_quality,
    measure_quality,
    neighbours_in_titles,
    reconstruction_error,
    relative_energy,
)
from genrec.tokenizers.rqkmeans import ResidualKMeansSettings, ResidualKMeansTokenizer

PNG = b"\x89PNG\r\n\x1a\n"


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
    }


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


def test_neighbours_share_the_longest_beginning(tiny_dataset):
    genre, number = np.arange(40) // 10, np.arange(40) % 10
    codes = np.stack([genre, number // 5, number // 2], axis=1)
    examples = neighbours_in_titles(codes, tiny_dataset)
    assert len(examples) == 4, "one of each first code"
    titles = tiny_dataset.titles
    for example in examples:
        item = titles.index(example["item"])
        shared = [near["shared_codes"] for near in example["neighbours"]]
        assert shared == sorted(shared, reverse=True)
        assert example["item"] not in [near["item"] for near in example["neighbours"]]
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
    tokenizer = ResidualKMeansTokenizer(ResidualKMeansSettings(codebook_size=6, normalise_residuals=False))
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


def test_plots_are_pictures_and_the_same_bytes_twice(tiny_dataset, tiny_features, tmp_path):
    tokenizer = ResidualKMeansTokenizer(ResidualKMeansSettings(codebook_size=(6, 4, 2)))
    tokenizer.fit(tiny_dataset, tiny_features)
    codes = tokenizer.encode(tiny_features.values)
    report = measure_quality(tokenizer, codes, tiny_features, tiny_dataset)
    for name in ("a", "b"):
        draw_quality(report, codes, bucket_sizes(codes), tmp_path / name)
    names = ["bucket_sizes.png", "codebook_use.png", "residual_energy.png"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == names
    for name in names:
        data = (tmp_path / "a" / name).read_bytes()
        assert data.startswith(PNG)
        assert data == (tmp_path / "b" / name).read_bytes()


def test_families_without_residuals_have_no_such_plot(tiny_dataset, tmp_path):
    codes = np.stack([np.arange(40) % 4, np.arange(40) // 4], axis=1)
    report = {"levels": [level_quality(codes[:, 0], 4), level_quality(codes[:, 1], 10)], "residual_energy": None}
    draw_quality(report, codes, bucket_sizes(codes), tmp_path / "plots")
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["bucket_sizes.png", "codebook_use.png"]
