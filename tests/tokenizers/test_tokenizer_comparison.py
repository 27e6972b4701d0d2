"""Tokenizers side by side: the order, the words, the picture, and folders that cannot be compared."""

import dataclasses
import json
import shutil

import numpy as np
import polars as pl
import pytest

from genrec.artifacts import write_artifact, write_json
from genrec.cli import main
from genrec.config import DataConfig, FeaturesConfig, TokenizerConfig
from genrec.data import make_dataset
from genrec.errors import ArtifactError, ConfigError
from genrec.features import ItemFeatures, build_encoder
from genrec.tokenizers import fit_tokenizer
from genrec.tokenizers.quality.comparison import Candidate, compare_tokenizers, mean_ranks, reading_of
from genrec.tokenizers.quality.comparison_view import comparison_as_text, draw_comparison, sizes_in_words

PLAIN = Candidate("one", "rqkmeans", (4, 4), (1.0, 0.5), 0.2, 0.1, 3, 0.4, 0.3, 0.2, 0.01, 0.6, None, None, {})


@pytest.fixture(scope="module")
def folders(tiny_dataset, tiny_features, tmp_path_factory):
    out = tmp_path_factory.mktemp("shelf")
    recipes = {"fine": {"codebook_size": 6}, "coarse": {"codebook_size": 2, "num_levels": 1}}
    for name, settings in recipes.items():
        config = TokenizerConfig(name="rqkmeans", **settings)
        fit_tokenizer(config, tiny_dataset, tiny_features, out / name, stability=name == "fine")
    return out / "fine", out / "coarse"


def test_ranks_are_means_and_ties_share_theirs():
    better = dataclasses.replace(PLAIN, collision_rate=0.0, found_by_vectors=0.4)
    worse = dataclasses.replace(PLAIN, found_by_users=0.1)
    # Collisions: 2.5, 1, 2.5; by vectors: 2.5, 1, 2.5; by users: 1.5, 1.5, 3.
    np.testing.assert_allclose(mean_ranks([PLAIN, better, worse]), [6.5 / 3, 3.5 / 3, 8 / 3])
    without = [dataclasses.replace(one, found_by_users=None) for one in (PLAIN, better)]
    np.testing.assert_allclose(mean_ranks(without), [2, 1])


def test_the_reading_names_the_best_and_what_says_nothing():
    mute = dataclasses.replace(PLAIN, name="random", found_by_vectors=0.011, found_by_users=0.009)
    assert reading_of([PLAIN, mute]) == (
        "one looks best: 10.0% of its items collide, its semantic IDs find 30.0% of an item's ten nearest vectors and "
        "20.0% of the ten items that share most users with it. random finds no more than chance would: a control, or "
        "nothing was learned."
    )
    alone = dataclasses.replace(PLAIN, found_by_vectors=None, found_by_users=None)
    assert reading_of([alone]) == "one: 10.0% of its items collide."


def test_a_comparison_of_folders(folders):
    comparison = compare_tokenizers(folders)
    assert comparison.items == 40
    assert [one.name for one in comparison.candidates] == ["fine", "coarse"]
    fine, coarse = comparison.candidates
    report = json.loads((folders[0] / "quality.json").read_text())
    assert fine.collision_rate == report["collisions"]["before"]["collision_rate"]
    assert fine.found_by_vectors == report["likeness"]["vectors"]["recall"] > coarse.found_by_vectors
    assert fine.stability == report["stability"]["other_seed"][0]
    assert coarse.stability is None
    assert fine.level_sizes[:3] == (6, 6, 6)
    assert comparison.reading.startswith("fine looks best: ")
    assert comparison.notes == ()


def test_energy_left_is_that_of_the_vectors_whatever_space_was_quantized(folders, tiny_dataset, tmp_path):
    parts = [{"encoder": "lexical", "dim": 12}, {"encoder": "fastrp", "dim": 4}]
    both = build_encoder(FeaturesConfig(encoder="concat", parts=parts)).fit(tiny_dataset)
    small = {"num_levels": 2, "codebook_size": 5, "epochs": 2}
    for name, more in {"rqvae": {"hidden_sizes": (12,), "latent_size": 6}, "aligned": {}}.items():
        fit_tokenizer(TokenizerConfig(name=name, **small, **more), tiny_dataset, both, tmp_path / name)
    reports = {path.name: json.loads((path / "quality.json").read_text()) for path in (folders[0], *tmp_path.iterdir())}
    assert {name: report["residual_space"] for name, report in reports.items()} == {
        "fine": "vectors",
        "rqvae": "own",
        "aligned": "own",
    }
    compared = compare_tokenizers([folders[0], tmp_path / "rqvae", tmp_path / "aligned"])
    assert {one.name: one.energy_left for one in compared.candidates} == {
        "fine": reports["fine"]["residual_energy"][-1],
        "rqvae": reports["rqvae"]["reconstruction_error"],
        "aligned": None,
    }


def test_the_table_has_a_row_per_folder_and_the_reading(folders):
    text = comparison_as_text(compare_tokenizers(folders))
    lines = text.splitlines()
    assert lines[0].strip() == "40 items"
    assert [line.split()[0] for line in lines if line.strip() and line.startswith("  ")][-2:] == ["fine", "coarse"]
    assert "reading: fine looks best" in text
    assert "a trained recommender has the last word" in text


def test_level_sizes_in_short():
    assert sizes_in_words((256, 256, 256, 13)) == "3x256+13"
    assert sizes_in_words((8,)) == "8"
    assert sizes_in_words((8, 4, 4)) == "8+2x4"


def test_runs_are_taken_for_the_tokenizers_in_them(folders, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(folders[0], tmp_path / name / "tokenizer")
    both = compare_tokenizers([tmp_path / "a", tmp_path / "b"])
    assert [one.name for one in both.candidates] == ["a", "b"]
    named = compare_tokenizers([tmp_path / "a" / "tokenizer", tmp_path / "b" / "tokenizer"])
    assert [one.name for one in named.candidates] == ["a/tokenizer", "b/tokenizer"]


def test_other_vectors_are_noted(folders, tiny_dataset, tiny_features, tmp_path):
    other = ItemFeatures(tiny_features.values[:, ::-1].copy(), tiny_features.item_ids, {})
    fit_tokenizer(TokenizerConfig(name="rqkmeans", codebook_size=6), tiny_dataset, other, tmp_path / "other")
    comparison = compare_tokenizers([folders[0], tmp_path / "other"])
    assert len(comparison.notes) == 1
    assert "note: the tokenizers were fitted on different vectors" in comparison_as_text(comparison)


def test_another_catalogue_is_refused(folders, tmp_path):
    items = pl.DataFrame({"item_id": [f"x{i}" for i in range(40)], "title": [f"thing {i}" for i in range(40)]})
    bought = pl.DataFrame({"user_id": ["u"] * 40, "item_id": items["item_id"], "timestamp": range(40)})
    dataset = make_dataset(bought, items, DataConfig(k_core=0), tmp_path / "dataset")
    values = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
    features = ItemFeatures(values, dataset.item_ids, {})
    fit_tokenizer(TokenizerConfig(name="rqkmeans", codebook_size=6), dataset, features, tmp_path / "others")
    with pytest.raises(ArtifactError, match=r"(?s)others names other items than .*fine.*of one catalogue"):
        compare_tokenizers([folders[0], tmp_path / "others"])


def test_a_folder_that_is_no_tokenizer_is_refused(folders, tiny_dataset, tmp_path):
    with pytest.raises(ArtifactError, match=r"(?s)manifest\.json|there is no"):
        compare_tokenizers([folders[0], tmp_path / "nothing"])
    with pytest.raises(ArtifactError, match=r"(?s)dataset.*expected: a tokenizer"):
        compare_tokenizers([tiny_dataset.path])


def test_a_report_of_an_earlier_version_is_refused(folders, tmp_path):
    report = json.loads((folders[0] / "quality.json").read_text())
    del report["likeness"]
    with write_artifact(tmp_path / "old", "tokenizer") as folder:
        for name in ("codes.parquet", "index.json"):
            shutil.copy(folders[0] / name, folder.path / name)
        write_json(folder.path / "quality.json", report)
    with pytest.raises(ArtifactError, match=r"(?s)has no 'likeness'.*fit this tokenizer again"):
        compare_tokenizers([tmp_path / "old"])


def test_the_picture_is_the_same_bytes_twice(folders, tmp_path):
    comparison = compare_tokenizers(folders)
    for name in ("a.png", "b.png"):
        draw_comparison(comparison, tmp_path / "pictures" / name)
    drawn = [(tmp_path / "pictures" / name).read_bytes() for name in ("a.png", "b.png")]
    assert drawn[0].startswith(b"\x89PNG")
    assert drawn[0] == drawn[1]
    with pytest.raises(ConfigError, match=r"(?s)table\.html is no picture.*ends in \.png"):
        draw_comparison(comparison, tmp_path / "table.html")


def test_the_verb(folders, tmp_path, capsys):
    names = [str(folder) for folder in folders]
    assert main(["compare-tokenizers", *names, "--out", str(tmp_path / "all.png")]) == 0
    assert "reading: fine looks best" in capsys.readouterr().out
    assert (tmp_path / "all.png").is_file()
    assert main(["compare-tokenizers", *names, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in printed["candidates"]] == ["fine", "coarse"]
    assert main(["compare-tokenizers", str(tmp_path)]) == 4
    assert "manifest.json" in capsys.readouterr().err
