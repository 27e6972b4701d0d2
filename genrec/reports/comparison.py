"""A comparison of systems for a terminal."""

from rich import box
from rich.table import Table
from rich.text import Text

from genrec.evaluation.comparison import Comparison
from genrec.evaluation.comparison_tables import PAIR_TITLES, interval_text, pair_cells, remarks, runs_of
from genrec.evaluation.tables import metric_name
from genrec.terminal.console import Terminal

WIDTH = 140


def comparison_as_text(comparison: Comparison) -> str:
    """The systems, below them the comparisons, and what the signs mean."""
    console = Terminal(width=WIDTH, color_system=None, highlight=False)
    with console.capture() as captured:
        console.print(Text("; ".join(f"{name.lower()}: {value}" for name, value in comparison.conditions)))
        console.print(systems_table(comparison))
        if comparison.pairs:
            console.print(pairs_table(comparison))
        for line in remarks(comparison):
            console.print(Text(line))
    return captured.get().rstrip()


def systems_table(comparison: Comparison) -> Table:
    """One row per system; after a figure the letters of the systems that are significantly worse."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    table.add_column("system", overflow="fold")
    table.add_column("runs", justify="right")
    for metric in comparison.table.metrics:
        table.add_column(metric_name(metric), no_wrap=True)
    for row in comparison.table.rows:
        cells = []
        for metric in comparison.table.metrics:
            interval = f" {interval_text(*row.interval[metric])}" if metric in row.interval else ""
            letters = " ".join(comparison.beaten(row.system, metric))
            cells.append(Text(f"{row.text(metric)}{interval} {letters}".rstrip()))
        table.add_row(comparison.letter(row.system), Text(row.label), runs_of(comparison, row), *cells)
    return table


def pairs_table(comparison: Comparison) -> Table:
    """One row per comparison."""
    table = Table(box=box.SIMPLE_HEAD)
    for title in PAIR_TITLES:
        numbers = title in ("Difference", "95% interval", "p", "p (Holm)")
        table.add_column(title.lower() if title[0].isupper() else title, justify="right" if numbers else "left")
    for pair in comparison.pairs:
        table.add_row(*(Text(cell) for cell in pair_cells(pair)))
    return table
