"""What a family can do is declared on its classes, with the base class as the list of what can be declared."""

import ast
from pathlib import Path

import pytest
from test_recommenders import DRAWING, FAMILIES, make_model, recommender_class

from genrec.config import RecommenderConfig
from genrec.errors import ConfigError
from genrec.models import RecommenderModel, parse_recommender
from genrec.models.base import BackboneSettings
from genrec.models.layers.moe import expert_layers
from genrec.models.registry import families_with

SOURCES = Path(__file__).resolve().parents[2] / "genrec"
# `training` is left out: it trains any network of torch.
PACKAGES = ("models", "decoding", "evaluation", "pipeline")
CAPABILITIES = [name for name in RecommenderModel.__annotations__ if name.startswith(("supports", "needs", "reads"))]
DECLARED = {*CAPABILITIES, "counts_flops", *vars(BackboneSettings), *BackboneSettings.model_fields}
DECLARED |= {name for family in FAMILIES for name in recommender_class(family).Settings.model_fields}


def guesses(text: str, names: set[str]) -> set[str]:
    """Names that a source asks for with a default, as if an object might not have declared them."""
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    asked = [call.args for call in calls if getattr(call.func, "id", "") == "getattr" and len(call.args) == 3]
    return {args[1].value for args in asked if isinstance(args[1], ast.Constant)} & names


def test_no_capability_is_asked_with_a_default():
    files = [path for package in PACKAGES for path in (SOURCES / package).rglob("*.py")]
    found = {path.name: guesses(path.read_text(encoding="utf-8"), DECLARED) for path in files}
    assert {name: names for name, names in found.items() if names} == {}


def test_the_checker_sees_a_default():
    text = 'a = getattr(x, "supports_experts", False)\nb = getattr(x, "longest_session")\nc = getattr(x, "other", 1)'
    assert guesses(text, DECLARED) == {"supports_experts"}


def test_families_without_experts_name_all_that_have_some():
    with pytest.raises(ConfigError) as caught:
        parse_recommender(RecommenderConfig(name="llm", experts=4))
    named = caught.value.expected.partition(": ")[2].split(", ")
    assert set(named) == {"depth", "parallel", "decoder", "seq2seq", "discrec", "recgpt", "sasrec"}


@pytest.mark.parametrize("family", families_with("supports_experts"))
def test_families_that_declare_experts_build_them(family):
    last = {"targets": "last"} if family in DRAWING else {}
    assert expert_layers(make_model(family, experts=4, **last).modules())


@pytest.mark.parametrize(
    ("family", "settings", "reads"),
    [
        ("depth", {}, {"features"}),
        ("depth", {"use_features": False}, set()),
        ("parallel", {}, {"features"}),
        ("recgpt", {"use_features": False}, set()),
        ("sasrec", {}, set()),
        ("sasrec", {"use_features": True}, {"features"}),
        ("decoder", {}, set()),
        ("seq2seq", {}, set()),
        ("colarec", {}, {"texts", "features", "histories"}),
        ("colarec", {"use_features": False}, {"texts"}),
        ("colarec", {"use_texts": False}, {"features", "histories"}),
        ("llm", {"text_weight": 0.0, "new_rows": "features"}, {"features"}),
        ("llm", {"text_weight": 0.0, "new_rows": "texts"}, {"texts"}),
        ("allmrec", {"stage": "align"}, {"features", "histories"}),
        ("allmrec", {"stage": "prompt"}, {"texts"}),
    ],
)
def test_settings_say_what_a_model_is_built_from(family, settings, reads):
    values = recommender_class(family).Settings(**settings)
    assert values.reads == reads


@pytest.mark.parametrize("family", ["depth", "parallel", "recgpt"])
def test_the_item_loss_gives_item_probabilities(family):
    settings = recommender_class(family).Settings
    assert not settings().has_item_probabilities
    assert settings(item_loss=0.5).has_item_probabilities


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_settings_with_switches_declare_what_they_switch(family):
    fields = recommender_class(family).Settings.model_fields
    for name in ("features", "texts"):
        if f"use_{name}" in fields:
            on, off = (recommender_class(family).Settings(**{f"use_{name}": value}).reads for value in (True, False))
            assert name in on - off
