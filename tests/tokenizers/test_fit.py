"""The tokenizer folder, everything that can be wrong, and that held-out interactions change nothing."""

import json

import numpy as np
import polars as pl
import pytest

from genrec.artifacts import read_manifest, verify_artifact
from genrec.config import FeaturesConfig, TokenizerConfig
from genrec.errors import ArtifactError, ConfigError, DataError
from genrec.features import ItemFeatures, build_encoder
from genrec.tokenizers import ItemIndex, ItemTokenizer, fit_tokenizer, tokenizer_class
from genrec.tokenizers.families.rqvae import ResidualVAETokenizer
from genrec.tokenizers.fit import build_tokenizer, refuse_collapse

SMALL = TokenizerConfig(name="rqkmeans", codebook_size=5)


def config(**settings) -> TokenizerConfig:
    return SMALL.model_copy(update=settings)


def test_the_folder_holds_what_it_should(tiny_dataset, tiny_features, tmp_path):
    index = fit_tokenizer(SMALL, tiny_dataset, tiny_features, tmp_path / "tokenizer")
    manifest = verify_artifact(tmp_path / "tokenizer", "tokenizer")
    assert set(manifest.files) == {
        "config.json",
        "codebooks.safetensors",
        "codes.parquet",
        "index.json",
        "trie.safetensors",
        "quality.json",
        "plots/codebook_use.png",
        "plots/bucket_sizes.png",
        "plots/first_codes.png",
        "plots/likeness.png",
        "plots/residual_energy.png",
    }
    assert manifest.inputs == {"dataset": tiny_dataset.fingerprint, "features": tiny_features.fingerprint}
    assert manifest.config["name"] == "rqkmeans"
    assert manifest.config["num_levels"] == 3
    assert manifest.counts["levels"] == index.num_levels
    assert ItemIndex.load(tmp_path / "tokenizer").fingerprint == index.fingerprint
    tokenizer = ItemTokenizer.from_pretrained(tmp_path / "tokenizer")
    np.testing.assert_array_equal(tokenizer.encode(tiny_features.values), index.codes[:, :3])


def test_the_report_says_what_happened_to_collisions(tiny_dataset, tiny_features, tmp_path):
    coarse = config(num_levels=1, codebook_size=4)
    index = fit_tokenizer(coarse, tiny_dataset, tiny_features, tmp_path / "tokenizer")
    report = json.loads((tmp_path / "tokenizer" / "quality.json").read_text())["collisions"]
    largest = int(np.bincount(index.codes[:, 0]).max())
    assert index.level_sizes == (4, largest)
    assert len(np.unique(index.codes, axis=0)) == 40
    assert report["policy"] == "suffix"
    assert report["before"]["collision_rate"] == pytest.approx(1 - 4 / 40)
    assert report["before"]["largest_bucket"] == largest
    assert report["after"]["collision_rate"] == 0


@pytest.mark.parametrize("policy", ["suffix", "reassign", "bucket"])
def test_policies_from_the_recipe(tiny_dataset, tiny_features, tmp_path, policy):
    index = fit_tokenizer(
        config(collisions=policy, num_levels=2, codebook_size=(12, 10)),
        tiny_dataset,
        tiny_features,
        tmp_path / "tokenizer",
    )
    tokenizer = ItemTokenizer.from_pretrained(tmp_path / "tokenizer")
    raw = tokenizer.encode(tiny_features.values)
    assert len(np.unique(raw, axis=0)) < 40, "there is something to resolve"
    np.testing.assert_array_equal(index.codes[:, 0], raw[:, 0])
    if policy == "bucket":
        np.testing.assert_array_equal(index.codes, raw)
    else:
        assert len(np.unique(index.codes, axis=0)) == 40


def test_the_policy_error_refuses(tiny_dataset, tiny_features, tmp_path):
    with pytest.raises(DataError, match="items share their codes with another item"):
        fit_tokenizer(config(num_levels=1, collisions="error"), tiny_dataset, tiny_features, tmp_path / "tokenizer")
    assert not list(tmp_path.iterdir())


def test_reassign_costs_are_distances_to_the_last_codes(tiny_dataset, tiny_features):
    tokenizer = build_tokenizer(config(normalize_residuals=False))
    tokenizer.fit(tiny_dataset, tiny_features)
    codes = tokenizer.encode(tiny_features.values)
    left = tiny_features.values - sum(tokenizer.codebooks[level][codes[:, level]] for level in (0, 1))
    expected = ((left[:, None] - tokenizer.codebooks[2][None]) ** 2).sum(axis=2)
    costs = tokenizer.last_level_costs(tiny_features.values, codes)
    np.testing.assert_allclose(costs, expected, atol=1e-6)


def test_more_codes_than_items_is_refused_with_the_largest_size(tiny_dataset, tiny_features, tmp_path):
    with pytest.raises(DataError, match="level 1 has 64 codes but the 40 items have 40 different vectors") as caught:
        fit_tokenizer(config(codebook_size=64), tiny_dataset, tiny_features, tmp_path / "tokenizer")
    assert "set tokenizer.codebook_size: 40 or smaller" in str(caught.value)
    assert caught.value.exit_code == 3
    with pytest.raises(DataError, match="level 2 has 50 codes"):
        fit_tokenizer(config(codebook_size=(8, 50, 4)), tiny_dataset, tiny_features, tmp_path / "tokenizer")


def test_equal_vectors_count_once(tiny_dataset, tiny_features, with_vectors, tmp_path):
    values = tiny_features.values.copy()
    values[10:] = values[9]
    with pytest.raises(DataError, match="level 1 has 12 codes but the 40 items have 10 different vectors"):
        fit_tokenizer(config(codebook_size=12), tiny_dataset, with_vectors(values), tmp_path / "tokenizer")


def test_constant_vectors_are_refused(tiny_dataset, with_vectors, tmp_path):
    with pytest.raises(DataError, match="the 40 items have 1 different vectors"):
        fit_tokenizer(SMALL, tiny_dataset, with_vectors(np.zeros((40, 4))), tmp_path / "tokenizer")


def test_nan_is_refused(tiny_dataset, tiny_features, with_vectors, tmp_path):
    values = tiny_features.values.copy()
    values[[3, 8], 0] = np.nan
    with pytest.raises(DataError, match=r"(?s)a vector holds NaN or infinity.*rows 3, 8 \(2 in all\)"):
        fit_tokenizer(SMALL, tiny_dataset, with_vectors(values), tmp_path / "tokenizer")


def test_features_of_another_data_set_are_refused(tiny_dataset, tiny_features):
    tokenizer = build_tokenizer(SMALL)
    fewer = ItemFeatures(tiny_features.values[:39], tiny_features.item_ids[:39], {})
    with pytest.raises(DataError, match=r"(?s)item 'i39' has no vector.*row 39"):
        tokenizer.fit(tiny_dataset, fewer)
    swapped = ItemFeatures(tiny_features.values, ["i01", "i00", *tiny_features.item_ids[2:]], {})
    with pytest.raises(DataError, match=r"(?s)belong to other items or are in another order.*rows 0, 1"):
        tokenizer.fit(tiny_dataset, swapped)
    more = ItemFeatures(np.tile(tiny_features.values, (2, 1)), [*tiny_features.item_ids, *map(str, range(40))], {})
    with pytest.raises(DataError, match=r"(?s)belong to other items.*features, 80 rows"):
        tokenizer.fit(tiny_dataset, more)


def test_a_collapsed_first_level_is_refused_unless_allowed():
    level = {"use": 0.19, "used": 19, "size": 100}
    with pytest.raises(DataError, match="the first level collapsed: it uses 19 of 100 codes") as caught:
        refuse_collapse(level)
    assert "allow_collapse: true" in str(caught.value)
    refuse_collapse({"use": 0.2, "used": 20, "size": 100})


def test_collapse_is_measured_on_what_was_fitted(tiny_dataset, tiny_features, tmp_path, monkeypatch):
    def collapse(self, values):
        return np.zeros((len(values), 3), dtype=np.int32)

    monkeypatch.setattr(tokenizer_class("rqkmeans"), "_encode", collapse)
    with pytest.raises(DataError, match="it uses 1 of 6 codes"):
        fit_tokenizer(config(codebook_size=6), tiny_dataset, tiny_features, tmp_path / "tokenizer")
    allowed = config(codebook_size=6, allow_collapse=True)
    index = fit_tokenizer(allowed, tiny_dataset, tiny_features, tmp_path / "tokenizer")
    assert index.level_sizes == (6, 6, 6, 40)


def test_settings_are_checked(tiny_dataset, tiny_features, tmp_path):
    cases = {
        r"(?s)there is no item tokenizer 'rqkmean'.*did you mean 'rqkmeans'": TokenizerConfig(name="rqkmean"),
        r"(?s)unknown key latent_size.*tokenizer": config(latent_size=3),
        r"(?s)unknown key num_level.*did you mean 'num_levels'": config(num_level=3),
        r"codebook_size lists 2 sizes for 3 levels": config(codebook_size=(4, 4)),
        r"codebook_size = 0 cannot be used\n.*\n  expected: .* greater than or equal to 1": config(codebook_size=0),
        r"collisions = 'never' cannot be used": config(collisions="never"),
    }
    for message, wrong in cases.items():
        with pytest.raises(ConfigError, match=message):
            fit_tokenizer(wrong, tiny_dataset, tiny_features, tmp_path / "tokenizer")
    assert not list(tmp_path.iterdir())


def test_encoding_is_checked(tiny_dataset, tiny_features):
    tokenizer = build_tokenizer(SMALL)
    with pytest.raises(ConfigError, match="the tokenizer rqkmeans has not been fitted"):
        tokenizer.encode(tiny_features.values)
    tokenizer.fit(tiny_dataset, tiny_features)
    with pytest.raises(DataError, match=r"(?s)the vectors have the shape \(40, 3\).*expected: \[items, 12\]"):
        tokenizer.encode(tiny_features.values[:, :3])
    with pytest.raises(DataError, match="a vector holds NaN or infinity"):
        tokenizer.encode(np.full((1, 12), np.nan))


def test_a_family_without_costs_cannot_reassign(tiny_dataset, tiny_features):
    tokenizer = build_tokenizer(SMALL)
    with pytest.raises(ConfigError, match="the tokenizer rqkmeans cannot reassign codes"):
        ItemTokenizer.last_level_costs(tokenizer, tiny_features.values, np.zeros((40, 3), dtype=np.int32))


def test_a_folder_that_is_no_tokenizer_is_named(tiny_dataset, tiny_features, tmp_path):
    with pytest.raises(ArtifactError, match=r"config\.json is missing"):
        ItemTokenizer.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"config\.json is not an item tokenizer"):
        ItemTokenizer.from_pretrained(tmp_path)
    fit_tokenizer(SMALL, tiny_dataset, tiny_features, tmp_path / "tokenizer")
    with pytest.raises(ArtifactError, match=r"(?s)holds the tokenizer rqkmeans.*expected: rqvae"):
        ResidualVAETokenizer.from_pretrained(tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "codebooks.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"codebooks\.safetensors is missing"):
        ItemTokenizer.from_pretrained(tmp_path / "tokenizer")


@pytest.mark.parametrize("policy", ["suffix", "bucket", "reassign"])
def test_poisoned_held_out_interactions_change_no_byte(policy, tiny_dataset, poisoned_dataset, tmp_path):
    recipe = config(codebook_size=10, num_levels=2, collisions=policy)
    collaborative = FeaturesConfig(
        encoder="concat", parts=[{"encoder": "lexical", "dim": 8}, {"encoder": "lightgcn", "dim": 4, "epochs": 1}]
    )
    files = []
    for dataset, folder in ((tiny_dataset, "clean"), (poisoned_dataset, "poisoned")):
        fit_tokenizer(recipe, dataset, build_encoder(collaborative).fit(dataset), tmp_path / folder)
        files.append({key: record.sha256 for key, record in read_manifest(tmp_path / folder).files.items()})
    assert files[0] == files[1]


def test_a_new_item_lies_with_its_like(tiny_dataset, tiny_features, tmp_path):
    encoder = build_encoder(FeaturesConfig(encoder="lexical", dim=12))
    encoder.fit(tiny_dataset)
    fit_tokenizer(config(codebook_size=4, num_levels=1), tiny_dataset, tiny_features, tmp_path / "tokenizer")
    tokenizer = ItemTokenizer.from_pretrained(tmp_path / "tokenizer")
    new = pl.DataFrame({"item_id": ["new"], "title": ["Ladder of space"], "genres": ["space adventure"]})
    code = tokenizer.encode(encoder.transform(new))[0, 0]
    like = tokenizer.encode(tiny_features.values)[:10, 0]
    assert code == np.bincount(like).argmax()
