"""Every recipe builds, every family has a page and a recipe, and pages name settings that exist."""

import re
from pathlib import Path

import pytest

from genrec.config import TokenizerConfig, load_recipe
from genrec.tokenizers import TOKENIZERS, build_tokenizer, tokenizer_class

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "tokenizers").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_builds(path):
    config = load_recipe(path).tokenizer
    tokenizer = build_tokenizer(config)
    assert tokenizer.name == config.name
    assert f"tokenizers/{path.name}" in path.read_text(encoding="utf-8"), "it says its own command"


@pytest.mark.parametrize("name", sorted(TOKENIZERS))
def test_a_family_has_a_page_and_a_recipe(name):
    assert name in {load_recipe(path).tokenizer.name for path in RECIPES}
    page = (ROOT / "docs" / "tokenizers" / f"{name}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {name}\n")
    fields = tokenizer_class(name).Settings.model_fields
    settings = page.partition("| setting |")[2].partition("\n\n")[0]
    named = {word for row in settings.splitlines()[2:] for word in re.findall(r"`([a-z_]+)`", row.split("|")[1])}
    assert named <= set(fields)
    own = set(fields) - {"collisions", "allow_collapse", "seed"}
    assert own <= named, "every setting of the family is explained"


def test_the_hybrids_of_the_paper_are_ready():
    parts = {}
    for path in RECIPES:
        config = load_recipe(path).tokenizer
        if config.name == "hybrid":
            parts[path.stem] = tuple(TokenizerConfig(**config.settings[part]).name for part in ("first", "second"))
    assert parts == {
        "sid+iid": ("sequential", "independent"),
        "cid+iid": ("cid", "independent"),
        "semantic+iid": ("semantic-path", "independent"),
        "semantic+cid": ("semantic-path", "cid"),
    }
