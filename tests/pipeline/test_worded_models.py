"""Families with words, from a prepared data set to a folder that recommends: what they read, and what they keep."""

from types import SimpleNamespace

import polars as pl
import pytest
from tiny_run import tiny_home

from genrec import Recommender
from genrec.config import DecodingConfig, RecommenderConfig, TrainingConfig
from genrec.data import Dataset
from genrec.models import resolve_recommender
from genrec.pipeline.catalogue import add_new_items
from genrec.pipeline.model_folder import Companions, open_model
from genrec.pipeline.train import TrainingPlan, texts_of, train_model

SMALL = {"hidden_size": 16, "num_layers": 1, "num_heads": 1, "max_history": 10}
SETTINGS = {
    "p5": {**SMALL, "head_size": 16, "feed_forward_size": 32},
    "llm": {**SMALL, "vocabulary_size": 300, "text_length": 12, "text_rows": 4},
}


def test_an_id_is_not_a_title():
    table = SimpleNamespace(
        titles=["Red kettle", "i2"], item_ids=["i1", "i2"], item_texts=lambda: ["Red kettle. tin", ""]
    )
    texts = texts_of(table)
    assert list(texts.titles) == ["Red kettle", ""]
    assert list(texts.texts) == ["Red kettle. tin", ""]


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_trained_saved_served_and_extended(name, tmp_path):
    run = tiny_home() / "run"
    dataset = Dataset.load(run / "dataset")
    plan = TrainingPlan(
        resolve_recommender(RecommenderConfig(name=name, **SETTINGS[name])),
        TrainingConfig(epochs=1, batch_size=32),
        DecodingConfig(num_beams=10, top_k=5),
    )
    result = train_model(plan, dataset, Companions(run / "tokenizer", run / "features"), tmp_path / "model")
    assert result.steps > 0
    lists = Recommender.from_pretrained(tmp_path / "model").recommend([["i00", "i01"], ["i11"], []], k=5)
    for seen, found in zip((["i00", "i01"], ["i11"], []), lists.ids, strict=True):
        assert len(set(found)) == 5
        assert not set(found) & set(seen)
    new = pl.DataFrame({"item_id": ["n1"], "title": ["Teapot of space"], "genres": ["space adventure"]})
    new.write_csv(tmp_path / "new.csv")
    assert add_new_items(tmp_path / "model", tmp_path / "new.csv", tmp_path / "larger").items == 1
    before, after = (open_model(tmp_path / folder, device="cpu").model for folder in ("model", "larger"))
    assert after.config.num_items == before.config.num_items + 1
    assert after.words.get_vocab() == before.words.get_vocab()
