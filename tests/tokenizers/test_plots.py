"""Plots are pictures, the same bytes twice, also of families with nothing but codes."""

import json

import numpy as np
import pytest

from genrec.tokenizers.families.rqkmeans import ResidualKMeansSettings, ResidualKMeansTokenizer
from genrec.tokenizers.quality.level_words import first_codes
from genrec.tokenizers.quality.plots import draw_bucket_sizes, draw_quality
from genrec.tokenizers.quality.report import bucket_sizes, level_quality, measure_quality

PNG = b"\x89PNG\r\n\x1a\n"
BARE = {"residual_energy": None, "likeness": {"vectors": None, "users": None}, "kind": "sequence"}


@pytest.fixture(scope="module")
def fitted(tiny_dataset, tiny_features):
    tokenizer = ResidualKMeansTokenizer(ResidualKMeansSettings(codebook_size=(6, 4, 2)))
    tokenizer.fit(tiny_dataset, tiny_features)
    codes = tokenizer.encode(tiny_features.values)
    return measure_quality(tokenizer, codes, tiny_features, tiny_dataset), codes


def test_plots_are_pictures_and_the_same_bytes_twice(fitted, tmp_path):
    report, codes = fitted
    for name in ("a", "b"):
        draw_quality(json.loads(json.dumps(report)), codes, bucket_sizes(codes), tmp_path / name)
    names = ["bucket_sizes.png", "codebook_use.png", "first_codes.png", "likeness.png", "residual_energy.png"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == names
    for name in names:
        data = (tmp_path / "a" / name).read_bytes()
        assert data.startswith(PNG)
        assert data == (tmp_path / "b" / name).read_bytes()


def test_families_with_nothing_but_codes(tmp_path):
    codes = np.stack([np.arange(40) % 4, np.arange(40) // 4], axis=1)
    codes[:3, 1] = -1
    levels = [level_quality(codes[:, 0], 4), level_quality(codes[:, 1], 2000)]
    report = {**BARE, "items": 40, "levels": levels, "first_codes": first_codes(codes, None)}
    draw_quality(report, codes, bucket_sizes(codes), tmp_path / "plots")
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["bucket_sizes.png", "codebook_use.png"]


def test_a_dollar_sign_in_a_title_is_no_formula(fitted, tmp_path):
    report, codes = fitted
    node = {"code": 1, "items": 3, "words": ["$5", "ca$h $a$"], "children": []}
    priced = {**report, "first_codes": [node]}
    draw_quality(priced, codes, bucket_sizes(codes), tmp_path / "plots")
    assert (tmp_path / "plots" / "first_codes.png").read_bytes().startswith(PNG)


def test_a_million_buckets_are_drawn_as_fast_as_a_thousand(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn = []
    monkeypatch.setattr(Axes, "legend", lambda *_, **__: None)
    monkeypatch.setattr(Axes, "step", lambda self, x, y, **_: drawn.append((np.asarray(x), np.asarray(y))))
    sizes = np.arange(200_000, 0, -1)
    draw_bucket_sizes({"1": sizes.tolist()}, tmp_path / "many.png")
    rank, height = drawn[0]
    assert len(rank) <= 2000
    assert (rank[0], rank[-1]) == (1, 200_000)
    np.testing.assert_array_equal(height, sizes[rank - 1])
