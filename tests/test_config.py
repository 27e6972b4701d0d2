"""Recipes: what is accepted, what wins, and what a refusal says."""

from pathlib import Path

import pytest
import yaml

from genrec.config import MAX_RECIPE_BYTES, Recipe, Section, load_recipe, parse_settings, read_yaml
from genrec.errors import ConfigError

ROOT = Path(__file__).resolve().parent.parent


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path | None, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


def test_without_a_file_everything_has_a_default():
    recipe = load_recipe(None)
    assert recipe == Recipe()
    assert recipe.evaluation.ks == (1, 5, 10, 20, 50)


def test_the_command_line_wins_over_the_file_and_the_file_over_the_default(tmp_path):
    path = write(tmp_path, "training: {epochs: 7, seed: 1}\n")
    recipe = load_recipe(path, ["training.seed=2", "training.seed=3"])
    assert (recipe.training.epochs, recipe.training.seed) == (7, 3)
    assert recipe.training.batch_size == Recipe().training.batch_size


def test_values_of_the_command_line_are_yaml():
    overrides = ["training.learning_rate=1e-3", "evaluation.ks=[1, 3]", "training.max_minutes=null", "data.path=a=b"]
    recipe = load_recipe(None, overrides)
    assert recipe.training.learning_rate == pytest.approx(0.001)
    assert recipe.evaluation.ks == (1, 3)
    assert recipe.training.max_minutes is None
    assert recipe.data.path == "a=b"


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "2.5e-4", "+1e2", "1.e3"])
def test_numbers_with_an_exponent_are_numbers(tmp_path, number):
    values = read_yaml(write(tmp_path, f"value: {number}\ntext: 1e-3x\n"))
    assert values == {"value": float(number), "text": "1e-3x"}


def test_settings_of_a_family_are_kept_for_its_own_check():
    recipe = load_recipe(None, ["tokenizer.name=rqvae", "tokenizer.codebook_size=64"])
    assert recipe.tokenizer.name == "rqvae"
    assert recipe.tokenizer.settings == {"codebook_size": 64}


def test_a_recipe_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Recipe().training.seed = 1


def test_an_unknown_key_names_the_nearest(tmp_path):
    message = refusal(write(tmp_path, "training:\n  epoch: 3\n"))
    assert "unknown key training.epoch" in message
    assert "did you mean 'epochs'?" in message
    assert str(tmp_path / "recipe.yaml") in message


def test_an_unknown_section_names_the_nearest():
    message = refusal(None, "trainin.epochs=3")
    assert "unknown key trainin" in message
    assert "did you mean 'training'?" in message


def test_an_unknown_key_without_a_neighbor_lists_the_known_ones():
    message = refusal(None, "decoding.zzzz=3")
    assert "expected: one of batch_size, beam_groups, diversity_penalty" in message
    assert "remove it" in message


def test_a_value_of_the_wrong_type_is_shown(tmp_path):
    message = refusal(write(tmp_path, "training: {batch_size: many}\n"))
    assert "training.batch_size = 'many' cannot be used" in message
    assert "expected: Input should be a number, not text" in message


def test_a_value_out_of_range_is_shown():
    assert "expected: Input should be greater than or equal to 1" in refusal(None, "training.epochs=0")


def test_a_section_that_is_no_mapping_is_refused(tmp_path):
    assert "training = [1, 2] cannot be used" in refusal(write(tmp_path, "training: [1, 2]\n"))


@pytest.mark.parametrize("text", ["training.seed", "=3", "training..seed=3", ".seed=3"])
def test_an_override_needs_a_key_and_a_value(text):
    message = refusal(None, text)
    assert f"--set {text!r} is not an assignment" in message
    assert "expected: section.key=value" in message


def test_an_override_below_a_plain_value_is_refused(tmp_path):
    path = write(tmp_path, "training: 3\n")
    assert "training is not a section" in refusal(path, "training.seed=3")


def test_an_override_that_is_not_yaml_is_refused():
    assert "the value is not YAML" in refusal(None, "evaluation.ks=[1, 2")


def test_a_missing_recipe_is_named(tmp_path):
    assert f"there is no recipe {tmp_path / 'no.yaml'}" in refusal(tmp_path / "no.yaml")


@pytest.mark.parametrize("text", ["a: [1, 2", "a: b: c", "\tx: 1", "%%%"])
def test_text_that_is_not_yaml_is_refused_with_its_place(tmp_path, text):
    message = refusal(write(tmp_path, text))
    assert "the recipe is not readable YAML" in message
    assert "recipe.yaml" in message


def test_bytes_that_are_not_text_are_refused(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"training: \xff\xfe\n")
    assert "the recipe is not readable YAML" in refusal(path)


@pytest.mark.parametrize(("text", "kind"), [("- 1\n", "list"), ("just words\n", "str"), ("3\n", "int")])
def test_a_recipe_must_be_a_mapping(tmp_path, text, kind):
    assert f"the recipe is a {kind}" in refusal(write(tmp_path, text))


def test_an_empty_recipe_is_the_default(tmp_path):
    assert load_recipe(write(tmp_path, "# nothing yet\n")) == Recipe()


def test_a_yaml_bomb_is_refused_before_it_expands(tmp_path):
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
    ]
    message = refusal(write(tmp_path, "\n".join(lines)))
    assert "aliases (*name) are not accepted in a recipe" in message


def test_a_deeply_nested_recipe_is_refused(tmp_path):
    assert "the recipe is not readable YAML" in refusal(write(tmp_path, "[" * 100_000))


def test_a_huge_recipe_is_refused_unread(tmp_path):
    message = refusal(write(tmp_path, "#" * (MAX_RECIPE_BYTES + 1)))
    assert "the recipe is too large" in message


def test_python_objects_are_not_made_from_yaml(tmp_path):
    marker = tmp_path / "made"
    text = f"training: !!python/object/apply:os.mkdir ['{marker}']\n"
    assert "the recipe is not readable YAML" in refusal(write(tmp_path, text))
    assert not marker.exists()


def test_a_key_that_stands_twice_is_refused(tmp_path):
    message = refusal(write(tmp_path, "training: {seed: 1}\ntraining: {seed: 2}\n"))
    assert "key 'training' occurs twice" in message


def test_the_settings_of_a_family_are_checked_in_the_same_words():
    class Settings(Section):
        codebook_size: int = 256

    assert parse_settings(Settings, {"codebook_size": 8}, where="tokenizer").codebook_size == 8
    with pytest.raises(ConfigError, match="did you mean 'codebook_size'"):
        parse_settings(Settings, {"codebok_size": 8}, where="tokenizer")


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_recipe_is_accepted_down_to_its_families(path):
    from genrec.pipeline.resolve import resolve_recipe

    resolved = resolve_recipe(load_recipe(path))
    again = Recipe.model_validate(yaml.safe_load(yaml.safe_dump(resolved.recipe.model_dump(mode="json"))))
    assert resolve_recipe(again) == resolved


def test_parts_of_features_are_checked_before_any_work():
    from genrec.pipeline.resolve import resolve_recipe

    parts = "[{encoder: lexical}, {encoder: lightgcn, dimm: 8}]"
    recipe = load_recipe(None, [f"features={{encoder: concat, parts: {parts}}}"])
    with pytest.raises(ConfigError, match="dimm") as caught:
        resolve_recipe(recipe)
    assert "did you mean 'dim'" in str(caught.value)
    assert "features.parts.1" in str(caught.value)


@pytest.mark.parametrize("decoding", [{"mode": "items"}, {"item_weight": 2.0}])
@pytest.mark.parametrize("family", ["recgpt", "depth", "decoder"])
def test_item_scores_of_a_model_that_learns_none_are_refused_before_any_work(decoding, family):
    from genrec.pipeline.resolve import resolve_recipe

    recipe = {"data": {"path": "x"}, "recommender": {"name": family}, "decoding": decoding}
    with pytest.raises(ConfigError, match="no item-level probabilities") as caught:
        resolve_recipe(Recipe.model_validate(recipe))
    assert "decoding.mode: items" in str(caught.value)
    if family != "decoder":
        recipe["recommender"]["item_loss"] = 1.0
        resolve_recipe(Recipe.model_validate(recipe))
