"""The library's pages: Python blocks run, recipes are accepted, examples have the form of the real files."""

import json
import re
import shutil
from pathlib import Path
from typing import Any, get_args, get_type_hints

import polars as pl
import pytest
import typer.main
from docs_world import GUIDES
from documents import PAGES, ROOT, CodeBlock, Command, all_blocks, blocks_of, commands_of, page_name
from tiny_run import copy_run, tiny_home, write_recipe

from genrec.cli import main
from genrec.cli.verbs import app
from genrec.config import Recipe, load_recipe, read_yaml
from genrec.pipeline.resolve import resolve_recipe

LANGUAGES = {"bash", "python", "yaml", "json", "csv", "text"}
# Recipes are YAML; so are these, which are not ours.
FOREIGN_YAML = {"PyTorchJob"}
SESSIONS = (
    "recommender={name: seq2seq, session_size: 5, hidden_size: 16, num_layers: 1, num_heads: 1, head_size: 16}",
    "decoding={mode: session, num_beams: 6, top_k: 5}",
    "training.epochs=1",
    "evaluation.baselines=[]",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The folders that the pages speak of: finished runs, raw tables, a table of new items."""
    folder = tmp_path_factory.mktemp("docs")
    copy_run(folder / "runs" / "mine")
    for seed in (1, 2, 3):
        (folder / f"runs/beauty-{seed}").mkdir()
        shutil.copy(tiny_home() / "run" / "metrics.json", folder / f"runs/beauty-{seed}")
    shutil.copytree(tiny_home() / "data", folder / "my-folder")
    shutil.copy(folder / "my-folder/interactions.csv", folder / "log.csv")
    copy_run(folder / "runs" / "my-data")
    shutil.copytree(folder / "runs/mine/dataset", folder / "data/mine")
    lists = pl.read_parquet(folder / "runs/mine/recommendations.parquet")
    lists.select("user_id", "rank", "item_id").write_csv(folder / "lists.csv")
    pl.read_parquet(folder / "my-folder/items.parquet").head(3).with_columns(
        item_id=pl.lit("new-") + pl.col("item_id")
    ).write_csv(folder / "new.csv")
    recipe = write_recipe(folder, folder / "my-folder")
    options = [word for change in SESSIONS for word in ("--set", change)]
    assert main(["run", str(recipe), "--out", str(folder / "runs/sessions"), "--until", "model", *options]) == 0
    return folder


def is_library(block: CodeBlock) -> bool:
    """Whether a block is of another page than those that are run from beginning to end."""
    return str(block.page.relative_to(ROOT)) not in GUIDES


def write_shown_files(page: Path, folder: Path) -> None:
    """The files that a page shows: its Python blocks whose first line is a comment with the name of a file."""
    for block in blocks_of(page, "python"):
        first = block.text.partition("\n")[0]
        if re.fullmatch(r"# \w+\.py", first):
            (folder / first.removeprefix("# ")).write_text(block.text, encoding="utf-8")


@pytest.mark.parametrize("block", filter(is_library, all_blocks("python")), ids=lambda block: block.place)
def test_python_blocks_run(block, home, monkeypatch):
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(home)
    write_shown_files(block.page, home)
    exec(compile(block.text, block.place, "exec"), {})


def test_commands_whose_inputs_are_there_run(home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    ran = []
    for command in (command for block in all_blocks("bash") if is_library(block) for command in commands_of(block)):
        if command.program == "genrec" and command.complete and all(Path(path).exists() for path in inputs_of(command)):
            assert main(command.words[1:]) == 0, f"{command.place}: {capsys.readouterr().err}"
            ran.append(command.words[1])
    assert set(ran) >= {"embed", "generate", "evaluate", "add-items"}


def inputs_of(command: Command) -> list[Path]:
    """The paths that a verb reads; one that is not there where it reads none."""
    verb = typer.main.get_command(app).commands[command.words[1]]
    values = verb.make_context(command.words[1], list(command.words[2:])).params
    function = next(each.callback for each in app.registered_commands if each.name == command.words[1])
    # Older versions of typer make a Path of a value only when the verb is called.
    kinds = {name: {kind, *get_args(kind)} for name, kind in get_type_hints(function).items()}
    given = {name: value for name, value in values.items() if name != "out" and Path in kinds[name]}
    paths = [Path(value) for value in given.values() if isinstance(value, str | Path)]
    return paths or [Path("nothing")]


@pytest.mark.parametrize("block", all_blocks("yaml"), ids=lambda block: block.place)
def test_recipes_in_pages_are_accepted(block, tmp_path):
    path = tmp_path / "shown.yaml"
    path.write_text(block.text, encoding="utf-8")
    values = read_yaml(path)
    if values.get("kind") in FOREIGN_YAML:
        return
    assert set(values) <= set(Recipe.model_fields)
    resolve_recipe(load_recipe(path))


@pytest.mark.parametrize("block", all_blocks("json"), ids=lambda block: block.place)
def test_the_example_of_metrics_has_the_form_of_real_ones(block):
    real = json.loads((tiny_home() / "run" / "metrics.json").read_text(encoding="utf-8"))
    assert differences(json.loads(block.text), real) == []


def differences(shown: Any, real: Any, place: str = "") -> list[str]:
    """Where an example has a key or a kind of value that the real file has not; figures may differ."""
    if isinstance(shown, dict) and isinstance(real, dict):
        absent = [f"{place}.{key} is not there" for key in shown if key not in real]
        return absent + [
            line for key in shown if key in real for line in differences(shown[key], real[key], f"{place}.{key}")
        ]
    numbers = (int, float)
    same = (isinstance(shown, numbers) and isinstance(real, numbers)) or type(shown) is type(real)
    return [] if same else [f"{place} is {type(real).__name__}, shown as {type(shown).__name__}"]


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_block_says_its_language(page):
    fences = [line for line in page.read_text(encoding="utf-8").splitlines() if line.lstrip().startswith("```")]
    assert [fence for fence in fences[::2] if fence.removeprefix("```") not in LANGUAGES] == []
    assert [fence for fence in fences[1::2] if fence != "```"] == []
