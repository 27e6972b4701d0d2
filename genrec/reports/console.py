"""What a run says at its end: the results with the baselines, and users' histories with their lists."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from genrec.evaluation.protocol import Protocol
from genrec.evaluation.tables import DEFAULT_METRICS, ResultsTable, metric_name, side_by_side
from genrec.reports.content import Example

HISTORY_SHOWN = 8


def print_results(console: Console, runs: Sequence[Mapping[str, Any]], system: str) -> None:
    """Print the results table and, below it, the conditions.

    Args:
        console: Where to.
        runs: One ``metrics.json`` per seed.
        system: What to call the run's system.
    """
    table = results_as_table(side_by_side(runs, system, DEFAULT_METRICS))
    table.title = f"{runs[0]['split']} part, {runs[0]['users']:,} users"
    console.print(table)
    for footnote in side_by_side(runs, system, DEFAULT_METRICS).footnotes:
        console.print(Text(footnote, style="yellow"))
    conditions = Protocol.model_validate(runs[0]["protocol"]).in_words()
    console.print(Text("; ".join(f"{name.lower()}: {value}" for name, value in conditions), style="dim"))
    for note in runs[0].get("notes", ()):
        console.print(Text(f"note: {note}", style="yellow"))


def results_as_table(results: ResultsTable) -> Table:
    """Systems by metrics for a terminal; the best of a column is bold, the last row is the run's."""
    table = Table(box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    table.add_column("system")
    for metric in results.metrics:
        # On a narrow terminal names are folded, figures never cut.
        whole = max(len(row.text(metric)) for row in results.rows)
        table.add_column(metric_name(metric), justify="right", min_width=whole, overflow="fold")
    for row in results.rows:
        last = len(results.rows) > 1 and row is results.rows[-1]
        cells = [
            Text(row.text(metric), style="bold" if len(results.rows) > 1 and results.best(metric) == row.system else "")
            for metric in results.metrics
        ]
        table.add_row(Text(row.label, style="bold cyan" if last else ""), *cells)
    return table


def print_examples(console: Console, examples: Sequence[Example]) -> None:
    """Print every user's history with the lists, in titles; what the user really had next is marked.

    Args:
        console: Where to.
        examples: See :func:`genrec.reports.content.make_examples`.
    """
    for example in examples:
        console.print(example_as_panel(example))


def example_as_panel(example: Example) -> Panel:
    """One user's history with the lists."""
    shown = example.history[-HISTORY_SHOWN:]
    earlier = example.history_length - len(shown)
    history: list[RenderableType] = [Text(f"... {earlier} earlier", style="dim")] if earlier else []
    history += [_cut(Text(title)) for title in shown]
    places = Table.grid(padding=(0, 1), expand=True)
    places.add_column(justify="right", no_wrap=True)
    places.add_column(no_wrap=True)
    places.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    places.add_column(justify="right", no_wrap=True)
    for place, item in enumerate(example.recommended, start=1):
        score = "" if item.score is None else f"{item.score:.2f}"
        mark, style = (">", "bold green") if item.held_out else ("", "")
        cells = (str(place), mark, item.title, score)
        styles = ("dim", style, style, "dim")
        places.add_row(*(_cut(Text(cell, style=name)) for cell, name in zip(cells, styles, strict=True)))
    sides = Table.grid(padding=(0, 3), expand=True)
    sides.add_column(ratio=1)
    sides.add_column(ratio=1)
    sides.add_row(Text("history, oldest first", style="dim"), Text("list", style="dim"))
    sides.add_row(Group(*history), places)
    title = Text.assemble(("user ", "dim"), (example.user, "bold"))
    return Panel(
        sides, title=title, title_align="left", subtitle=_outcome(example), subtitle_align="left", box=box.ROUNDED
    )


def _outcome(example: Example) -> Text | None:
    if example.place is not None:
        return Text(f"> held-out item in place {example.place}", style="green")
    return Text.assemble(("not listed: ", "dim"), "; ".join(example.held_out)) if example.held_out else None


def _cut(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
