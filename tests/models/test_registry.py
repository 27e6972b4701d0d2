"""Building and loading recommenders: what does not fit is said, and nothing else is changed."""

import json
import sys

import numpy as np
import pytest

from genrec.config import RecommenderConfig
from genrec.errors import ArtifactError, ConfigError
from genrec.models import GenerativeRecommender, GenrecConfig, build_recommender, load_recommender
from genrec.models.registry import FAMILIES, parse_recommender, recommender_class
from genrec.tokenizers.index import ItemIndex


def index(num_items: int = 4, kind: str = "sequence") -> ItemIndex:
    codes = np.stack([np.arange(num_items), np.zeros(num_items, int)], axis=1).astype(np.int32)
    return ItemIndex(codes, (num_items, 1), [str(i) for i in range(num_items)], kind)


def test_unknown_family_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'decoder'"):
        build_recommender(RecommenderConfig(name="decodr"), num_items=4, index=index())


def test_unknown_setting_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'hidden_size'"):
        build_recommender(RecommenderConfig(name="decoder", hiden_size=8), num_items=4, index=index())


def test_identifiers_are_required():
    with pytest.raises(ConfigError, match="run the tokenizer stage first"):
        build_recommender(RecommenderConfig(name="decoder"), num_items=4)


def test_identifiers_of_another_catalogue_are_refused():
    with pytest.raises(ArtifactError, match="names 4 items, the data set has 5"):
        build_recommender(RecommenderConfig(name="decoder"), num_items=5, index=index())


def test_set_identifiers_are_refused():
    with pytest.raises(ConfigError, match="expected: ordered semantic IDs"):
        build_recommender(RecommenderConfig(name="decoder"), num_items=4, index=index(kind="set"))


def test_missing_features_are_named():
    with pytest.raises(ConfigError, match="use_features=false"):
        build_recommender(RecommenderConfig(name="depth"), num_items=4, index=index())


def test_features_of_another_catalogue_are_refused():
    with pytest.raises(ArtifactError, match="describe 3 items, the data set has 4"):
        build_recommender(
            RecommenderConfig(name="depth"), num_items=4, index=index(), features=np.ones((3, 2), np.float32)
        )


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match=r"hidden_size 30 cannot be divided over 4 heads"):
        build_recommender(RecommenderConfig(name="decoder", hidden_size=30, num_heads=4), num_items=4, index=index())


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ArtifactError, match="holds no genrec model"):
        load_recommender(tmp_path)


def test_missing_weights_are_named(tmp_path):
    model = build_recommender(RecommenderConfig(name="decoder", hidden_size=8), num_items=4, index=index())
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ArtifactError, match="weights cannot be loaded"):
        load_recommender(tmp_path)


def test_truncated_weights_are_named(tmp_path):
    model = build_recommender(RecommenderConfig(name="decoder", hidden_size=8), num_items=4, index=index())
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(ArtifactError, match="weights cannot be loaded"):
        load_recommender(tmp_path)


@pytest.mark.parametrize(
    ("family", "settings", "needed"),
    [
        ("llm", {"vocabulary_size": 300}, {"backbone": None}),
        ("llm", {"feed_forward_size": 64}, {"backbone": None}),
        ("llm", {"lora_alpha": 4.0}, {"lora_rank": 2}),
        ("llm", {"text_rows": 3}, {"text_weight": 0.5}),
        ("llm", {"text_length": 9}, {"text_weight": 0.5, "new_rows": "random"}),
        ("depth", {"item_negatives": 64}, {"item_loss": 1.0}),
        ("parallel", {"feature_dropout": 0.2}, {"use_features": True}),
        ("decoder", {"user_columns": ["age"]}, {"use_user_features": True}),
        ("sasrec", {"feature_dropout": 0.2}, {"use_features": True}),
        ("recgpt", {"kernels": 2}, {"item_loss": 1.0}),
        ("seq2seq", {"targets_per_user": 2}, {"targets": "uniform"}),
        ("colarec", {"word_buckets": 500}, {"use_texts": True}),
        ("depth", {"experts_per_token": 1}, {"experts": 4}),
        ("sasrec", {"bias_step": 0.1, "experts": 4}, {"balance": "bias"}),
        ("sasrec", {"balance_weight": 0.2, "experts": 4}, {"balance": "aux"}),
    ],
)
def test_a_setting_that_nothing_reads_is_refused(family, settings, needed):
    """Each is accepted with what it needs, and refused, or left at its default, without."""
    without = {
        "backbone": "facebook/opt-125m",
        "text_weight": 0.0,
        "targets": "last",
        "balance": "none",
        "new_rows": "random",
    }
    off = {name: without.get(name, 0 if isinstance(value, (int, float)) else value) for name, value in needed.items()}
    off |= {name: False for name, value in needed.items() if value is True}
    name = next(iter(settings))
    parse_recommender(RecommenderConfig(name=family, **settings, **needed))
    with pytest.raises(ConfigError, match=f"{name} = .* is read by nothing here") as caught:
        parse_recommender(RecommenderConfig(name=family, **settings, **off))
    default = recommender_class(family).Settings.model_fields[name].default
    assert f"set recommender.{name}={json.dumps(default)}" in str(caught.value)
    assert caught.value.exit_code == 2
    parse_recommender(RecommenderConfig(name=family, **{**settings, name: default}, **off))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_may_be_unread_is_a_setting(family):
    settings = recommender_class(family).Settings()
    assert settings.unread.keys() <= type(settings).model_fields.keys()


def write_module(folder, monkeypatch, name: str, text: str) -> None:
    (folder / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)


OUTSIDE = "from genrec.models.families.decoder import Decoder\nclass Mine(Decoder): pass\nnumber = 3\n"


def test_a_family_outside_the_package_is_imported_by_a_recipe_but_not_by_a_folder(tmp_path, monkeypatch):
    write_module(tmp_path, monkeypatch, "outside_family", OUTSIDE)
    config = RecommenderConfig(name="outside_family:Mine", hidden_size=8)
    model = build_recommender(config, num_items=4, index=index())
    assert type(model).__name__ == "Mine"
    model.save_pretrained(tmp_path / "model")
    assert type(load_recommender(tmp_path / "model")) is type(model)
    monkeypatch.delitem(sys.modules, "outside_family")
    with pytest.raises(ArtifactError, match="the module 'outside_family' of its family is not imported") as caught:
        load_recommender(tmp_path / "model")
    assert caught.value.exit_code == 4
    assert "outside_family" not in sys.modules


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:Mine", "cannot be imported: No module named 'no_such_module'"),
        ("outside_names:Other", "cannot be imported: module 'outside_names' has no attribute 'Other'"),
        ("outside_names:number", "'outside_names:number' is no recommender"),
        (":Mine", "cannot be imported: Empty module name"),
    ],
)
def test_an_outside_name_that_is_no_family_is_refused(tmp_path, monkeypatch, name, message):
    write_module(tmp_path, monkeypatch, "outside_names", OUTSIDE)
    with pytest.raises(ConfigError, match=message) as caught:
        recommender_class(name)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("missing", ["forward", "encode", "beam_step", "code_logits"])
def test_a_family_that_lacks_a_method_cannot_be_made(missing):
    methods = {name: lambda *_: None for name in ("forward", "encode", "beam_step", "code_logits") if name != missing}
    with pytest.raises(TypeError, match=f"abstract.*{missing}"):
        type("Unfinished", (GenerativeRecommender,), methods)(GenrecConfig(num_items=2, level_sizes=[2]))
