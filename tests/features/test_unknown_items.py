"""Items without a training interaction have zeros in every collaborative vector, however it is scaled afterwards."""

import numpy as np
import polars as pl
import pytest

from genrec.artifacts import write_artifact
from genrec.config import DataConfig, FeaturesConfig, RecommenderConfig
from genrec.data import Dataset, make_dataset
from genrec.features import build_encoder, load_encoder
from genrec.models import build_recommender
from genrec.tokenizers.families.aligned import AlignedSettings, AlignedTokenizer
from genrec.tokenizers.families.set_tokens import SetSettings, SetTokenizer

NEVER, HELD_OUT = ["i03", "i17"], "i30"
QUICK = {"lightgcn": {"epochs": 2}, "ultragcn": {"epochs": 2}, "fastrp": {}}


@pytest.fixture(scope="module")
def dataset(tiny_items, tiny_interactions, tmp_path_factory) -> Dataset:
    """The small world where no one took two of the items, and a third is somebody's test target and nothing else."""
    last = pl.DataFrame({"user_id": ["u05"], "item_id": [HELD_OUT], "timestamp": [2_000_000_000], "rating": [4.0]})
    kept = tiny_interactions.filter(~pl.col("item_id").is_in([*NEVER, HELD_OUT])).vstack(last)
    made = make_dataset(kept, tiny_items, DataConfig(k_core=0), tmp_path_factory.mktemp("cold") / "dataset")
    assert [made.item_ids[item] for item in np.flatnonzero(made.train_popularity() == 0)] == [*NEVER, HELD_OUT]
    return made


@pytest.fixture(scope="module")
def cold(dataset) -> np.ndarray:
    return np.array([item in (*NEVER, HELD_OUT) for item in dataset.item_ids])


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("encoder", QUICK)
def test_they_are_zeros_and_only_they(dataset, cold, encoder, normalize):
    config = FeaturesConfig(encoder=encoder, dim=8, normalize=normalize, **QUICK[encoder])
    features = build_encoder(config).fit(dataset)
    assert not features.values[cold].any()
    assert features.values[~cold].any(axis=1).all()
    assert features.description["counts"] == {"items_without_interactions": 3}


@pytest.mark.parametrize("normalize", ["rows", "scale", "none"])
def test_beside_other_vectors_they_stay_zeros_as_those_of_new_items(dataset, cold, normalize, tmp_path):
    parts = [{"encoder": "lexical", "dim": 6}, {"encoder": "lightgcn", "dim": 4, "epochs": 2}]
    encoder = build_encoder(FeaturesConfig(encoder="concat", parts=parts, normalize=normalize, new_items="zero"))
    values = encoder.fit(dataset).values
    assert not values[cold, 6:].any()
    assert values[~cold, 6:].any(axis=1).all()
    encoder.save(tmp_path / "encoder")
    added = load_encoder(tmp_path / "encoder").transform(dataset.items.filter(pl.Series(cold)))
    np.testing.assert_allclose(added, values[cold], atol=1e-6)


def test_a_trained_sasrec_has_none_for_them_either(dataset, cold, tmp_path):
    model = build_recommender(RecommenderConfig(name="sasrec", hidden_size=8, num_layers=1), num_items=40)
    with write_artifact(tmp_path / "model", "model", inputs={"dataset": dataset.fingerprint}) as folder:
        model.save_pretrained(folder.path)
        pl.DataFrame({"item_id": dataset.item_ids}).write_parquet(folder.path / "items.parquet")
    encoder = build_encoder(FeaturesConfig(encoder="sasrec", path=str(tmp_path / "model")))
    features = encoder.fit(dataset)
    expected = np.where(cold[:, None], 0, model.items.table().detach().numpy())
    np.testing.assert_array_equal(features.values, expected)
    assert features.description["counts"] == {"items_without_interactions": 3}
    encoder.save(tmp_path / "encoder")
    np.testing.assert_array_equal(load_encoder(tmp_path / "encoder").transform(dataset.items), expected)


@pytest.fixture(scope="module")
def both(dataset):
    """Encoder and vectors of two kinds."""
    parts = [{"encoder": "lexical", "dim": 10}, {"encoder": "lightgcn", "dim": 6, "epochs": 3}]
    encoder = build_encoder(FeaturesConfig(encoder="concat", parts=parts, new_items="zero"))
    return encoder, encoder.fit(dataset)


def test_aligned_puts_them_where_their_texts_are(dataset, cold, both):
    encoder, features = both
    small = {"num_levels": 2, "codebook_size": 6, "epochs": 5, "batch_size": 16}
    tokenizer = AlignedTokenizer(AlignedSettings(**small))
    tokenizer.fit(dataset, features)
    known, adapted = np.split(tokenizer.to_code_space(features.values), 2, axis=1)
    np.testing.assert_array_equal(known[cold], adapted[cold])
    assert (known[~cold] != adapted[~cold]).any(axis=1).all()
    added = encoder.transform(dataset.items.filter(pl.Series(cold)))
    np.testing.assert_array_equal(tokenizer.encode(added), tokenizer.encode(features.values)[cold])


def test_set_gives_them_a_collaborative_token_of_zeros(dataset, cold, both):
    encoder, features = both
    small = {"num_levels": 3, "codebook_size": 6, "hidden_sizes": (16,), "epochs": 2, "batch_size": 16}
    tokenizer = SetTokenizer(SetSettings(**small))
    tokenizer.fit(dataset, features)
    assert tokenizer.catalogue_tokens[:, 0].any(axis=1).tolist() == (~cold).tolist()
    added = encoder.transform(dataset.items.filter(pl.Series(cold)))
    np.testing.assert_allclose(tokenizer.tokens(added), tokenizer.catalogue_tokens[cold], atol=1e-6)
