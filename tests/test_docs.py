"""README, quickstart and your-own-data: every block runs, in order, in a folder as a reader has it."""

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from docs_world import GUIDES, cut_recipes, planned_by_make, publish_films, write_tables
from documents import ROOT, CodeBlock, Command, blocks_of, commands_of

from genrec.cli import main
from genrec.config import load_recipe
from genrec.data.readers import read_table
from genrec.pipeline.resolve import resolve_recipe

# All that is not as a reader has it. The commands are run as they are written, by genrec.cli.main in this process.
SUBSTITUTES = {
    "the files of MovieLens-100K": publish_films,
    "your tables": write_tables,
    "the recipes": cut_recipes,
}
# `make quickstart` is run without the installation: the commands of genrec that `make -n quickstart` plans.
PLANNED = ("make quickstart",)
# What a page shows and this test does not run, with the reason.
NOT_RUN = {"make test": "it runs these tests"}
# What the comment after a command promises of a finished run: the stages that it runs; others are fresh or not reached.
PROMISES = {
    "lists and measures anew, trains nothing": {"baselines", "evaluation", "generation", "report"},
    "from the tokenizer on": {"tokenizer", "model", "evaluation", "generation", "report"},
    "trains anew": {"model", "evaluation", "generation", "report"},
    "stops there": set(),
}


@pytest.fixture(params=GUIDES)
def guide(request, tmp_path, monkeypatch):
    """A page, read in a folder that has the reader's files."""
    for substitute in SUBSTITUTES.values():
        substitute(tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    return ROOT / request.param


def test_every_block_of_a_guide_runs(guide, capsys):
    for block in blocks_of(guide):
        RUNNERS[block.language](block, capsys)
    check_lists(guide)


def check_lists(guide: Path) -> None:
    """A table of lists that a page shows has the columns and ranks of the file that it speaks of."""
    shown = re.findall(r"^\| user_id \|.*\n\|[-| ]+\n((?:\|.*\n)+)", guide.read_text(encoding="utf-8"), re.M)
    for rows in shown:
        written = pl.read_parquet("runs/my-data/recommendations.parquet").head(rows.count("\n"))
        cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows.splitlines()]
        assert f"| {' | '.join(written.columns)} |" in guide.read_text(encoding="utf-8")
        assert [int(cell[1]) for cell in cells] == written["rank"].to_list()
        assert all(float(cell[3]) <= 0 for cell in cells)


def run_commands(block: CodeBlock, capsys: pytest.CaptureFixture[str]) -> None:
    for command in commands_of(block):
        line = shlex.join(command.words)
        if line in NOT_RUN:
            continue
        planned = planned_by_make(command.words[1]) if line in PLANNED else [line]
        assert planned, f"{command.place}: {line} runs nothing of genrec"
        promises = command.program == "genrec" and command.comment
        if promises:
            restore_runs()
        for arguments in map(shlex.split, planned):
            assert arguments[0] == "genrec", f"{command.place}: {line} is not run; is it for NOT_RUN?"
            code = main(arguments[1:])
            shown = capsys.readouterr()
            assert code == 0, f"{command.place}: {line}\n{shown.err}"
        if promises:
            check_promise(command, shown.err)


def restore_runs() -> None:
    """Commands that say what they do to a finished run all begin with the same one."""
    runs, saved = Path("runs"), Path("finished-runs")
    if saved.exists():
        shutil.rmtree(runs)
    shutil.copytree(*((saved, runs) if saved.exists() else (runs, saved)))


def check_promise(command: Command, log: str) -> None:
    assert command.comment in PROMISES, f"{command.place}: which stages run where it says {command.comment!r}?"
    steps = [line.partition("] ")[2] for line in log.splitlines() if line.startswith("[")]
    ran = {step.partition(":")[0] for step in steps if not step.partition(": ")[2].startswith(("fresh", "not needed"))}
    assert ran == PROMISES[command.comment], f"{command.place}: {command.words}"


def run_python(block: CodeBlock, capsys: pytest.CaptureFixture[str]) -> None:
    """The examples end with ``lists``, of ten items for each of two histories, and print them."""
    names: dict[str, Any] = {}
    exec(compile(block.text, block.place, "exec"), names)
    assert [len(ids) for ids in names["lists"].ids] == [10, 10]
    assert names["lists"].titles[0][0] in capsys.readouterr().out


def check_recipe(block: CodeBlock, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("shown.yaml")
    path.write_text(block.text, encoding="utf-8")
    resolve_recipe(load_recipe(path))


def check_table(block: CodeBlock, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("shown.csv")
    path.write_text(block.text, encoding="utf-8")
    kind = "interactions" if block.text.startswith("user_id") else "items"
    table = read_table(path, kind)
    assert table.height == block.text.count("\n") - 1
    assert set(block.text.splitlines()[0].split(",")) <= set(table.columns)


def check_listing(block: CodeBlock, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder and what is in it: names, then two spaces, then words."""
    folder, *lines = block.text.splitlines()
    names = [name for line in lines for name in line.strip().split("  ")[0].split()]
    assert names
    assert [name for name in names if not (Path(folder) / name).exists()] == []


RUNNERS = {
    "bash": run_commands,
    "python": run_python,
    "yaml": check_recipe,
    "csv": check_table,
    "text": check_listing,
}
