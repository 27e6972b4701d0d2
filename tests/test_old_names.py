"""Keys and names in the spelling of earlier versions are taken, with a warning."""

import json
import logging

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from tiny_run import tiny_home, write_recipe

from genrec.config import load_recipe
from genrec.config.old_names import current_keys, current_name
from genrec.config.sections import DecodingConfig
from genrec.errors import ConfigError
from genrec.tokenizers.base import ItemTokenizer
from genrec.tokenizers.registry import tokenizer_class, tokenizer_settings


def test_old_spellings_of_keys_are_taken_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        assert DecodingConfig(renormalise=True).renormalize
        assert not tokenizer_settings("rqkmeans", {"normalise_residuals": False}, where="t").normalize_residuals
    assert "renormalise is now spelled renormalize" in caplog.text
    assert "normalise_residuals is now spelled normalize_residuals" in caplog.text


def test_what_was_never_a_key_stays_unknown():
    assert current_name("colourise", {"normalize"}) == "colourise"
    assert current_keys({"normalise": 1, "other": 2}, {"normalize", "other"}) == {"normalize": 1, "other": 2}
    with pytest.raises(ConfigError, match="normalise"):
        tokenizer_settings("pq", {"normalise": True}, where="tokenizer")


def test_both_spellings_at_once_are_refused(tmp_path):
    recipe = write_recipe(tmp_path, tmp_path)
    with pytest.raises(ConfigError, match="given twice"):
        load_recipe(recipe, ["decoding.renormalise=true", "decoding.renormalize=true"])


def test_old_name_of_a_family(caplog):
    with caplog.at_level(logging.WARNING):
        assert tokenizer_class("cf-regularised") is tokenizer_class("cf-regularized")
    assert "cf-regularised is now spelled cf-regularized" in caplog.text


def test_a_tokenizer_stored_with_old_keys_loads(tmp_path):
    source = tiny_home() / "run" / "tokenizer"
    for name in ("config.json", "codebooks.safetensors"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    described = json.loads((tmp_path / "config.json").read_text())
    described["settings"]["normalise_residuals"] = described["settings"].pop("normalize_residuals")
    (tmp_path / "config.json").write_text(json.dumps(described))
    vectors = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    old, new = ItemTokenizer.from_pretrained(tmp_path), ItemTokenizer.from_pretrained(source)
    assert np.array_equal(old.encode(vectors), new.encode(vectors))


def test_weights_of_an_older_recgpt_get_their_names_of_today(tmp_path):
    from genrec.models.checkpoint import load_weights

    weights = load_file(tiny_home() / "run" / "model" / "model.safetensors")
    old = {f"neighbourhoods.{name}": value for name, value in weights.items()}
    save_file(old, tmp_path / "model.safetensors")
    assert set(load_weights(tmp_path)) == {f"neighborhoods.{name}" for name in weights}
