"""Item vectors out of a trained SASRec's folder: the table that the model itself scores with."""

import json

import numpy as np
import polars as pl
import pytest
import torch

from genrec.artifacts import overwriting, write_artifact
from genrec.config import FeaturesConfig, RecommenderConfig
from genrec.errors import ArtifactError, DataError
from genrec.features import build_encoder, load_encoder
from genrec.models import build_recommender


@pytest.fixture
def make_model(tiny_dataset, tmp_path):
    """A function that writes a model folder as training does and returns it with the model."""

    def make(family="sasrec", dataset=tiny_dataset.fingerprint, **settings):
        torch.manual_seed(0)
        config = RecommenderConfig(name="sasrec", hidden_size=8, num_heads=2, num_layers=1, **settings)
        features = np.random.default_rng(0).standard_normal((40, 5)).astype(np.float32)
        model = build_recommender(config, num_items=40, features=features)
        model.config.family = family
        with write_artifact(tmp_path / "model", "model", inputs={"dataset": dataset}) as folder:
            model.save_pretrained(folder.path)
            # The model's own order of items need not be the data set's.
            pl.DataFrame({"item_id": tiny_dataset.item_ids}).write_parquet(folder.path / "items.parquet")
        return model

    return make


def encoder(tmp_path, **settings):
    return build_encoder(FeaturesConfig(encoder="sasrec", path=str(tmp_path / "model"), **settings))


@pytest.mark.parametrize(
    "settings",
    [{}, {"use_features": True}, {"use_features": True, "use_ids": False}],
    ids=["ids", "ids and features", "features"],
)
def test_vectors_are_those_that_the_model_scores_with(tiny_dataset, make_model, tmp_path, settings):
    model = make_model(**settings).eval()
    values = encoder(tmp_path).fit(tiny_dataset).values
    np.testing.assert_allclose(values, model.items.table().detach().numpy(), atol=1e-6)
    assert values.dtype == np.float32


def test_unit_length_on_demand_and_rows_by_item_id(tiny_dataset, make_model, tmp_path):
    table = make_model().items.table().detach().numpy()
    fitted = encoder(tmp_path, normalize=True)
    np.testing.assert_allclose(np.linalg.norm(fitted.fit(tiny_dataset).values, axis=1), 1, atol=1e-6)
    fitted.save(tmp_path / "encoder")
    rows = load_encoder(tmp_path / "encoder").transform(tiny_dataset.items[[7, 3]])
    np.testing.assert_allclose(rows, table[[7, 3]] / np.linalg.norm(table[[7, 3]], axis=1, keepdims=True), atol=1e-6)


def test_new_items_are_refused_with_the_reason(make_model, tmp_path):
    make_model()
    with pytest.raises(DataError, match=r"sasrec has no vectors for 1 new items, such as 'new'"):
        encoder(tmp_path).transform(pl.DataFrame({"item_id": ["i03", "new"]}))


def test_a_model_of_another_data_set_is_refused(tiny_dataset, make_model, tmp_path):
    make_model(dataset="0" * 64)
    with pytest.raises(ArtifactError, match="was trained on another data set") as caught:
        encoder(tmp_path).fit(tiny_dataset)
    assert "held out here" in str(caught.value)


def test_other_folders_are_refused(tiny_dataset, make_model, tmp_path):
    with pytest.raises(ArtifactError, match=r"there is no folder .*model"):
        encoder(tmp_path).fit(tiny_dataset)
    make_model(family="depth")
    with pytest.raises(ArtifactError, match="holds the recommender 'depth'") as caught:
        encoder(tmp_path).fit(tiny_dataset)
    assert "baselines/sasrec" in str(caught.value)
    with overwriting(), write_artifact(tmp_path / "model", "features") as folder:
        (folder.path / "config.json").write_text(json.dumps({"family": "sasrec"}))
    with pytest.raises(ArtifactError, match="holds a features"):
        encoder(tmp_path).fit(tiny_dataset)


def test_incomplete_folders_are_refused(tiny_dataset, make_model, tmp_path):
    make_model(use_ids=False, use_features=True)
    from safetensors.numpy import load_file, save_file

    path = tmp_path / "model" / "model.safetensors"
    weights = load_file(str(path))
    del weights["items.features"]
    save_file(weights, str(path))
    with pytest.raises(ArtifactError, match=r"model\.safetensors holds no item vectors"):
        encoder(tmp_path).fit(tiny_dataset)
    (tmp_path / "model" / "items.parquet").unlink()
    with pytest.raises(ArtifactError, match=r"items\.parquet cannot be read"):
        encoder(tmp_path).fit(tiny_dataset)
