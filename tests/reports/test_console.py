import io
import re

import pytest
from rich.console import Console

from genrec.reports.console import print_examples, print_results
from genrec.reports.content import Example, Listed


@pytest.fixture
def screen():
    return Console(file=io.StringIO(), width=110, color_system=None)


def test_results_stand_beside_the_baselines_with_their_conditions(screen, run):
    print_results(screen, [run | {"notes": ["[red]beware[/red]"]}], "depth")
    shown = screen.file.getvalue()
    lines = shown.splitlines()
    popular = next(index for index, line in enumerate(lines) if "Popularity" in line)
    assert "depth" in lines[popular + 1]
    assert f"{run['metrics']['ndcg@10']:.4f}" in lines[popular + 1]
    assert "test part, 57 users" in shown
    assert "seen items: left out of the lists" in " ".join(shown.split())
    assert "note: [red]beware[/red]" in shown


def test_results_fit_a_narrow_terminal(run):
    screen = Console(file=io.StringIO(), width=80, color_system=None)
    print_results(screen, [run], "depth")
    assert max(map(len, screen.file.getvalue().splitlines())) <= 80
    assert "NDCG@10" in screen.file.getvalue()
    assert f"{run['metrics']['coverage@10']:.4f}" in screen.file.getvalue()


def test_no_figure_is_cut_on_a_narrow_terminal(run):
    wide, narrow = (Console(file=io.StringIO(), width=width) for width in (200, 78))
    for screen in (wide, narrow):
        print_results(screen, [run], "a system with a name that is longer than its column")
    figures, kept = (re.findall(r"\d\.\d{4}", screen.file.getvalue()) for screen in (wide, narrow))
    assert len(figures) > 5
    assert figures == kept
    assert "…" not in narrow.file.getvalue()


def test_examples_show_history_list_and_outcome(screen):
    hit = Example(
        "u1", ("Alien", "[b]Brazil[/b]"), 5, (Listed("Contact", -1.5), Listed("Dune", -2.25, held_out=True)), ("Dune",)
    )
    miss = Example("u2", ("Alien",), 1, (Listed("Contact"),), ("Dune",))
    print_examples(screen, [hit, miss, Example("u3", (), 0, ())])
    shown = screen.file.getvalue()
    assert "... 3 earlier" in shown
    assert "[b]Brazil[/b]" in shown
    assert "2 > Dune" in shown
    assert "-2.25" in shown
    assert "> held-out item in place 2" in shown
    assert "not listed: Dune" in shown
    assert "user u3" in shown


def test_long_titles_are_cut_not_wrapped(screen):
    print_examples(screen, [Example("u", ("x" * 300,), 1, (Listed("y" * 300, -1.0),))])
    assert len(screen.file.getvalue().splitlines()) == 4
    assert "…" in screen.file.getvalue()
