"""Every command, option, setting and path that a page of the documentation shows is one that there is."""

import argparse
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import pytest
import typer.main
from accelerate.commands.launch import launch_command_parser
from documents import OPTION, PAGES, ROOT, Command, all_blocks, commands_of, page_name, spans_of, split_line
from torch.distributed.run import get_args_parser

from genrec.cli.verbs import app
from genrec.config import Recipe, Section, load_recipe
from genrec.features.registry import ENCODERS, encoder_class
from genrec.models.registry import FAMILIES, recommender_class
from genrec.pipeline.resolve import resolve_recipe
from genrec.tokenizers.registry import TOKENIZERS, tokenizer_class

VERBS = {str(command.name): command for command in typer.main.get_command(app).commands.values()}
COMMON = {"--debug", "--threads", "--help", "--version"}
LAUNCHERS = {"accelerate": launch_command_parser, "torchrun": get_args_parser}
# Programs that are not ours, and the options of theirs that are in the prose.
OTHERS = {"git", "cd", "pip", ".venv/bin/pip", ".venv/bin/pre-commit", "unzip", "export"}
OTHER_OPTIONS = {"--num_gpus", "--report", "--dry-run", "--cpu"}
# Recipes and folders that a reader makes.
PLACEHOLDERS = {"CONFIG.yaml", "TOKENIZER.yaml", "recipe.yaml", "r.yaml"}
# Verbs whose `--set` takes keys of one section.
SECTION_OF = {"embed": "features", "tokenize": "tokenizer", "prepare": "data", "evaluate": "evaluation"}
FAMILY_SETTINGS = {
    "features": [encoder_class(name).Settings for name in ENCODERS],
    "tokenizer": [tokenizer_class(name).Settings for name in TOKENIZERS],
    "recommender": [recommender_class(name).Settings for name in FAMILIES],
}
SETTING = re.compile(rf"({'|'.join(Recipe.model_fields)})\.([a-z_.]+)(?:(?:=|: ?).*)?")


@pytest.mark.parametrize("block", all_blocks("bash"), ids=lambda block: block.place)
def test_commands_of_blocks_are_accepted(block):
    commands = commands_of(block)
    assert commands or block.text.startswith("#!")
    for command in commands:
        check_command(command)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_options_and_settings_in_prose_are_known(page):
    for span in spans_of(page):
        words = split_span(span)
        if words and words[0] in (*VERBS, "genrec", "python", "make", *LAUNCHERS) and len(words) > 1:
            verb = words[0] in VERBS
            if not verb or OPTION.search(span):
                check_command(Command(page_name(page), ("genrec", *words, "...") if verb else (*words, "...")))
        elif setting := SETTING.fullmatch(span):
            assert setting[2].endswith("json") or knows(setting[1], setting[2]), f"{page_name(page)}: {span}"
        else:
            unknown = set(OPTION.findall(span)) - known_options() - OTHER_OPTIONS
            assert not unknown, f"{page_name(page)}: {span}: no verb, script or launcher has {unknown}"
            check_paths(page_name(page), words)


@pytest.mark.parametrize(
    "line",
    [
        "genrec trian CONFIG.yaml",
        "genrec train CONFIG.yaml --dataset D --out O --nothing",
        "genrec run configs/nowhere.yaml",
        "genrec run configs/quickstart.yaml --set decoding.topk=3",
        "genrec run configs/quickstart.yaml --set decoding.top_k=many",
        "genrec run configs/quickstart.yaml --set recommender.use_clock=true",
        "genrec embed --dataset D --out O --set decoding.top_k=3",
        "genrec generate --out lists.parquet",
        "genrec generate --outt lists.parquet ...",
        "python scripts/nothing.py",
        "python scripts/generate.py --model M --nothing",
        "python scripts/scaling.py runs/x --out y --nothing",
        "torchrun --nproc-of-node 2 scripts/generate.py --model M",
        "accelerate launch --config_file configs/accelerate/none.yaml scripts/generate.py --model M",
        "make nothing",
        "rm -r runs",
    ],
)
def test_what_does_not_exist_is_found(line, capsys):
    (words,) = split_line(line)
    try:
        check_command(Command("here", words))
    except (Exception, SystemExit):
        return
    pytest.fail(f"accepted: {line}")


def split_span(span: str) -> tuple[str, ...]:
    """The words of a piece of prose; none if it is no single command line."""
    try:
        parts = split_line(span.replace("(", "").replace(")", ""))
    except ValueError:
        return ()
    return parts[0] if len(parts) == 1 else ()


def check_command(command: Command) -> None:
    """Fail if a command line would not be accepted; where it has ``...``, what it says must be known."""
    check_paths(command.place, command.words)
    program, *arguments = command.words
    if program == "genrec":
        check_genrec(command, arguments)
    elif program == "python":
        check_script(command, arguments[0], arguments[1:])
    elif program == "make":
        done = subprocess.run(["make", "-n", arguments[0]], cwd=ROOT, capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, f"{command.place}: {command.words}"
    elif program in LAUNCHERS or program == "deepspeed":
        check_launcher(command, program, arguments)
    else:
        assert program in OTHERS, f"{command.place}: {program} is not known here"


def check_paths(place: str, words: Sequence[str]) -> None:
    """What is named as a file of the repository is there; names in capitals are the reader's."""
    for word in words:
        if re.match(r"(configs|tokenizers|scripts|genrec|tests|docs)/[A-Za-z0-9_/.-]*[a-z0-9]$", word):
            assert (ROOT / word).exists(), f"{place}: there is no {word}"


def check_genrec(command: Command, arguments: list[str]) -> None:
    """Parse as the command line does, and resolve what ``--set`` sets."""
    name, *rest = arguments
    if name in (*COMMON, "VERB"):
        return
    rest = [word for word in rest if word not in COMMON]
    assert name in VERBS, f"{command.place}: there is no verb {name}"
    options = {option for parameter in VERBS[name].params for option in options_of(parameter)}
    used = {word.partition("=")[0] for word in rest if word.startswith("--")}
    assert used <= options, f"{command.place}: genrec {name} has no {used - options}"
    if command.complete:
        values = VERBS[name].make_context(name, list(rest)).params
        config, changes = values.get("config"), values.get("overrides") or []
    else:
        config, changes = None, [after for word, after in pairwise(rest) if word == "--set"]
    check_settings(command, SECTION_OF.get(name), config, [change for change in changes if "..." not in change])


def options_of(parameter: Any) -> list[str]:
    """An option's names, also the one that turns it off."""
    return [*parameter.opts, *parameter.secondary_opts]


def check_settings(command: Command, section: str | None, config: object, changes: list[str]) -> None:
    """Every setting is one of its section, and a recipe that is there accepts all of them together."""
    recipe = None if config is None or str(config) in PLACEHOLDERS else ROOT / str(config)
    changes = [f"{section}.{change}" if section else change for change in changes]
    for change in changes:
        first, _, key = change.partition("=")[0].partition(".")
        assert change.startswith("section.key") or knows(first, key), f"{command.place}: {command.words}: {change}"
    if recipe is not None:
        resolve_recipe(load_recipe(recipe, changes))


def knows(section: str, key: str) -> bool:
    """Whether a section, or a family that may be in it, has a setting; ``a.b`` is one of a group."""
    field = Recipe.model_fields.get(section)
    if field is None:
        return False
    groups: list[type[Section]] = [field.annotation, *FAMILY_SETTINGS.get(section, [])]
    name, _, inner = key.partition(".")
    fields = [group.model_fields[name].annotation for group in groups if name in group.model_fields]
    return not key or any(not inner or inner in getattr(kind, "model_fields", {inner: kind}) for kind in fields)


def check_script(command: Command, script: str, arguments: list[str]) -> None:
    """A script that is a verb is checked as that verb, others by their own parser."""
    text = (ROOT / script).read_text(encoding="utf-8")
    if verb := re.search(r'main\(\["([\w-]+)"', text):
        follow = runpy.run_path(str(ROOT / script)).get("follow_launcher", list)
        with patch.dict(os.environ):
            check_genrec(command, [verb[1], *follow(arguments)])
        return
    if "parse_args()" not in text:
        assert not OPTION.findall(" ".join(arguments)), f"{command.place}: {script} has no options"
        return
    parser = parser_of(script)
    if command.complete:
        parser.parse_args(arguments)
    used = {word for word in arguments if word.startswith("--")}
    assert used <= set(OPTION.findall(parser.format_help())), f"{command.place}: {command.words}"


class _Found(Exception):
    """Carries a script's parser out of it."""


@cache
def parser_of(script: str) -> argparse.ArgumentParser:
    """The parser that a script makes, taken when it begins to parse."""
    path = ROOT / script

    def give(parser: argparse.ArgumentParser, *_: object) -> None:
        raise _Found(parser)

    with patch.object(argparse.ArgumentParser, "parse_args", give), patch.object(sys, "path", [*sys.path]):
        sys.path.insert(0, str(path.parent))
        try:
            runpy.run_path(str(path), run_name="__main__")
        except _Found as found:
            return found.args[0]
    raise AssertionError(f"{script} did not parse")


def check_launcher(command: Command, program: str, arguments: list[str]) -> None:
    """The launcher's options by its own parser (``deepspeed`` is not installed for the tests), the script as such."""
    arguments = [word for word in arguments if word != "launch"]
    scripts = [place for place, word in enumerate(arguments) if word.startswith("scripts/")]
    own = arguments[: scripts[0]] if scripts else [word for word in arguments if word != "..."]
    if program in LAUNCHERS:
        given = ["0" if word.startswith("$") else word for word in own]
        left = LAUNCHERS[program]().parse_known_args([*given, "script.py"])[1]
        assert left == [], f"{command.place}: {program} has no {left}"
    if scripts:
        check_script(command, arguments[scripts[0]], arguments[scripts[0] + 1 :])


@cache
def known_options() -> set[str]:
    """The options of all verbs, of the scripts that pages name, and of launchers."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    own = set(re.findall(r"scripts/[\w/]+\.py", text))
    helps = [parser_of(script).format_help() for script in own if "parse_args()" in (ROOT / script).read_text("utf-8")]
    helps += [launcher().format_help() for launcher in LAUNCHERS.values()]
    verbs = {option for verb in VERBS.values() for parameter in verb.params for option in options_of(parameter)}
    return COMMON | verbs | {option for page in helps for option in OPTION.findall(page)}
