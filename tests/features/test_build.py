"""The features folder, the registry, the checks of rows, and that held-out interactions change nothing."""

import json

import numpy as np
import pytest

from genrec.artifacts import read_manifest, verify_artifact
from genrec.config import FeaturesConfig
from genrec.errors import ArtifactError, ConfigError, DataError
from genrec.features import ENCODERS, ItemFeatures, build_features, encoder_class, load_encoder
from genrec.features.base import FeatureEncoder, check_rows
from genrec.features.lightgcn import LightGCNEncoder

LEXICAL = FeaturesConfig(encoder="lexical", dim=8)


def test_the_folder_holds_vectors_ids_and_the_encoder(tiny_dataset, tmp_path):
    features = build_features(LEXICAL, tiny_dataset, tmp_path / "features")
    manifest = verify_artifact(tmp_path / "features", "features")
    assert set(manifest.files) == {
        "embeddings.safetensors",
        "item_ids.json",
        "description.json",
        "encoder/encoder.json",
        "encoder/arrays.safetensors",
    }
    assert manifest.inputs == {"dataset": tiny_dataset.fingerprint}
    assert manifest.config["encoder"] == "lexical"
    assert manifest.config["min_items"] == 2, "defaults are written out"
    assert manifest.counts == {"items": 40, "width": 8, "items_without_text": 0, "items_without_known_words": 0}
    assert manifest.seed == 42
    loaded = ItemFeatures.load(tmp_path / "features")
    np.testing.assert_array_equal(loaded.values, features.values)
    assert loaded.item_ids == tiny_dataset.item_ids
    assert loaded.description == features.description
    assert loaded.fingerprint == features.fingerprint
    encoder = load_encoder(tmp_path / "features" / "encoder")
    np.testing.assert_allclose(encoder.transform(tiny_dataset.items), features.values, atol=1e-6)


def test_the_same_bytes_twice(tiny_dataset, tmp_path):
    fingerprints = set()
    for name in ("a", "b"):
        build_features(LEXICAL, tiny_dataset, tmp_path / name)
        fingerprints.add(read_manifest(tmp_path / name).fingerprint)
    assert len(fingerprints) == 1


def test_nothing_is_written_if_the_items_cannot_be_encoded(tiny_dataset, tmp_path):
    with pytest.raises(DataError):
        build_features(FeaturesConfig(encoder="lexical", columns=["nothing"]), tiny_dataset, tmp_path / "features")
    assert not list(tmp_path.iterdir())


def test_the_registry_knows_every_encoder():
    for name in ENCODERS:
        cls = encoder_class(name)
        assert issubclass(cls, FeatureEncoder)
        assert cls.name == name


def test_an_unknown_encoder_names_the_nearest(tiny_dataset, tmp_path):
    with pytest.raises(
        ConfigError, match=r"(?s)there is no feature encoder 'lexcial'.*did you mean 'lexical'"
    ) as caught:
        build_features(FeaturesConfig(encoder="lexcial"), tiny_dataset, tmp_path / "features")
    assert caught.value.exit_code == 2
    with pytest.raises(ConfigError, match=r"there is no feature encoder 'xxxxxxxx'\n.*\n.*expected: one of concat"):
        encoder_class("xxxxxxxx")


def test_an_unknown_setting_names_the_nearest(tiny_dataset, tmp_path):
    with pytest.raises(ConfigError, match=r"(?s)unknown key dims.*did you mean 'dim'"):
        build_features(FeaturesConfig(encoder="lexical", dims=3), tiny_dataset, tmp_path / "features")


def test_features_of_a_wrong_shape_are_refused():
    with pytest.raises(DataError, match=r"features have the shape \(2, 3\) for 1 items"):
        ItemFeatures(np.zeros((2, 3)), ["a"], {})


def test_rows_are_checked():
    good = np.array([[1.0, 2.0], [3.0, 5.0]], dtype=np.float32)
    check_rows(good, ["a", "b"], where="here")
    with pytest.raises(DataError, match="a vector holds NaN or infinity: item 'b'"):
        check_rows(np.array([[1, 2], [np.inf, 0]]), ["a", "b"], where="here")
    with pytest.raises(DataError, match="column 1 has the same value for every item"):
        check_rows(np.array([[1, 2], [3, 2]]), ["a", "b"], where="here")
    with pytest.raises(DataError, match="a vector has the same number in every column: item 'a'"):
        check_rows(np.array([[0, 0], [3, 2]]), ["a", "b"], where="here")


def test_an_encoder_refuses_anothers_folder(tiny_dataset, tmp_path):
    build_features(LEXICAL, tiny_dataset, tmp_path / "features")
    with pytest.raises(ArtifactError, match=r"encoder\.json holds the encoder 'lexical'"):
        LightGCNEncoder.load(tmp_path / "features" / "encoder")


def test_a_broken_encoder_folder_is_named(tmp_path):
    (tmp_path / "encoder.json").write_text(json.dumps({"something": 1}))
    with pytest.raises(ArtifactError, match=r"encoder\.json does not name an encoder"):
        load_encoder(tmp_path)


def test_missing_and_broken_vectors_are_named(tiny_dataset, tmp_path):
    build_features(LEXICAL, tiny_dataset, tmp_path / "features")
    file = tmp_path / "features" / "embeddings.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ArtifactError, match=r"embeddings\.safetensors is not a readable safetensors file"):
        ItemFeatures.load(tmp_path / "features")
    file.unlink()
    with pytest.raises(ArtifactError, match=r"embeddings\.safetensors is missing"):
        ItemFeatures.load(tmp_path / "features")


@pytest.mark.parametrize(
    "config",
    [
        LEXICAL,
        FeaturesConfig(encoder="metadata", columns=["genres"]),
        FeaturesConfig(encoder="lightgcn", dim=8, epochs=3),
        FeaturesConfig(encoder="ultragcn", dim=8, epochs=3),
        FeaturesConfig(encoder="fastrp", dim=8),
    ],
    ids=lambda config: config.encoder,
)
def test_poisoned_held_out_interactions_change_no_byte(config, tiny_dataset, poisoned_dataset, tmp_path):
    assert poisoned_dataset.fingerprint != tiny_dataset.fingerprint
    files = []
    for dataset, name in ((tiny_dataset, "clean"), (poisoned_dataset, "poisoned")):
        build_features(config, dataset, tmp_path / name)
        files.append({key: record.sha256 for key, record in read_manifest(tmp_path / name).files.items()})
    assert files[0] == files[1]
