"""A comparison of systems as Markdown, LaTeX, CSV or JSON; names are text in all of them."""

import csv
import io
import json
from collections.abc import Callable
from typing import Any

from genrec.evaluation.comparison import Comparison, Pair
from genrec.evaluation.tables import Row, escape_csv, escape_latex, escape_markdown, metric_name

COLUMNS = (
    "kind", "system", "other", "metric", "runs", "value", "sd", "low", "high", "p", "p_corrected", "significant",
    "scope", "test", "stopped",
)  # fmt: skip
PAIR_TITLES = ("Metric", "First", "Second", "Difference", "95% interval", "p", "p (Holm)", "About", "Test")


def runs_of(comparison: Comparison, row: Row) -> str:
    """How many runs a system has, as it is printed: a dash where it has no seed."""
    return str(row.runs) if comparison.has_seed[row.system] else "-"


def interval_text(low: float, high: float, digits: int = 4) -> str:
    """An interval as it is printed: ``[0.0810, 0.0889]``."""
    return f"[{low:.{digits}f}, {high:.{digits}f}]"


def pair_cells(pair: Pair, names: dict[str, str] | None = None) -> tuple[str, ...]:
    """One comparison as plain text, in the order of ``PAIR_TITLES``.

    Args:
        pair: The comparison.
        names: What to print for each system; its name if None.
    """
    names = names or {}
    found = pair.difference
    return (
        metric_name(pair.metric),
        names.get(pair.first, pair.first),
        names.get(pair.second, pair.second),
        f"{found.mean:+.4f}",
        f"[{found.low:+.4f}, {found.high:+.4f}]",
        *(_probability(value) for value in (pair.p_value, pair.corrected)),
        pair.scope,
        "-" if pair.p_value is None else pair.test,
    )


def comparison_markdown(comparison: Comparison) -> str:
    """Two Markdown tables, systems and comparisons, between the conditions and what the signs mean."""
    table = comparison.table
    lines = [f"{_conditions(comparison, escape_markdown)}.", ""]
    lines.append("| | system | runs | " + " | ".join(metric_name(metric) for metric in table.metrics) + " |")
    lines.append("|---|---|---:|" + "---:|" * len(table.metrics))
    for row in table.rows:
        cells = [_markdown_cell(comparison, row, metric) for metric in table.metrics]
        head = f"| {comparison.letter(row.system)} | {escape_markdown(row.label)} | {runs_of(comparison, row)} | "
        lines.append(head + " | ".join(cells) + " |")
    if comparison.pairs:
        lines += ["", "| " + " | ".join(PAIR_TITLES) + " |", "|---|---|---|---:|---:|---:|---:|---|---|"]
        lines += ["| " + " | ".join(map(escape_markdown, pair_cells(pair))) + " |" for pair in comparison.pairs]
    lines += ["", *(f"- {escape_markdown(line)}" for line in remarks(comparison))]
    return "\n".join(lines) + "\n"


def comparison_latex(comparison: Comparison) -> str:
    """Two LaTeX tables for ``booktabs``, systems and comparisons, with the conditions and signs as text below."""
    table = comparison.table
    head = ["", "System", "Runs", *(escape_latex(metric_name(metric)) for metric in table.metrics)]
    rows = [
        [
            comparison.letter(row.system),
            escape_latex(row.label),
            runs_of(comparison, row).replace("-", "--"),
            *(_latex_cell(comparison, row, metric) for metric in table.metrics),
        ]
        for row in table.rows
    ]
    lines = _tabular("llr" + "r" * len(table.metrics), head, rows)
    if comparison.pairs:
        names = {row.system: comparison.letter(row.system) for row in table.rows}
        cells = [[_latex_number(cell) for cell in pair_cells(pair, names)] for pair in comparison.pairs]
        lines += ["", *_tabular("lllrrrrll", [escape_latex(title) for title in PAIR_TITLES], cells)]
    text = [f"{_conditions(comparison, escape_latex)}.", *(f"{escape_latex(line)}." for line in remarks(comparison))]
    return "\n".join([*lines, "", *text]).replace("±", r"$\pm$") + "\n"


def comparison_csv(comparison: Comparison) -> str:
    """One row per system and metric, then one per comparison, in full precision; empty where unknown."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in comparison.table.rows:
        for metric in comparison.table.metrics:
            low, high = row.interval.get(metric, ("", ""))
            writer.writerow(
                {
                    "kind": "system",
                    "system": escape_csv(row.system),
                    "metric": metric,
                    "runs": row.runs,
                    "value": row.mean[metric],
                    "sd": row.deviation.get(metric, ""),
                    "low": low,
                    "high": high,
                    "stopped": escape_csv(row.stopped or ""),
                }
            )
    for pair in comparison.pairs:
        values = _pair_values(pair)
        names = {"system": escape_csv(pair.first), "other": escape_csv(pair.second)}
        writer.writerow({"kind": "comparison", **values, **names})
    return stream.getvalue()


def comparison_json(comparison: Comparison) -> str:
    """All of it as JSON, in full precision."""
    systems = [
        {
            "letter": comparison.letter(row.system),
            "system": row.system,
            "runs": row.runs,
            "has_seed": comparison.has_seed[row.system],
            "mean": row.mean,
            "sd": row.deviation,
            "interval": {metric: list(ends) for metric, ends in row.interval.items()},
            "stopped": row.stopped,
        }
        for row in comparison.table.rows
    ]
    values = {
        "conditions": dict(comparison.conditions),
        "systems": systems,
        "comparisons": [_pair_values(pair) for pair in comparison.pairs],
        "remarks": remarks(comparison),
    }
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


FORMATS: dict[str, Callable[[Comparison], str]] = {
    "csv": comparison_csv,
    "json": comparison_json,
    "latex": comparison_latex,
    "markdown": comparison_markdown,
}


def remarks(comparison: Comparison) -> list[str]:
    """What is below the table: what the signs mean, which trainings were not finished, notes."""
    return [*comparison.explanations, *comparison.table.footnotes, *comparison.notes]


def _pair_values(pair: Pair) -> dict[str, Any]:
    return {
        "system": pair.first,
        "other": pair.second,
        "metric": pair.metric,
        "value": pair.difference.mean,
        "low": pair.difference.low,
        "high": pair.difference.high,
        "p": pair.p_value,
        "p_corrected": pair.corrected,
        "significant": pair.significant,
        "scope": pair.scope,
        "test": pair.test,
    }


def _probability(value: float | None) -> str:
    return "-" if value is None else "<0.0001" if value < 1e-4 else f"{value:.4f}"


def _conditions(comparison: Comparison, escape: Callable[[str], str]) -> str:
    return "; ".join(escape(f"{name.lower()}: {value}") for name, value in comparison.conditions)


def _markdown_cell(comparison: Comparison, row: Row, metric: str) -> str:
    best = len(comparison.table.rows) > 1 and comparison.table.best(metric) == row.system
    text = f"**{row.text(metric)}**" if best else row.text(metric)
    letters = "".join(comparison.beaten(row.system, metric))
    interval = f" {interval_text(*row.interval[metric])}" if metric in row.interval else ""
    return text + (f"<sup>{letters}</sup>" if letters else "") + interval


def _latex_cell(comparison: Comparison, row: Row, metric: str) -> str:
    best = len(comparison.table.rows) > 1 and comparison.table.best(metric) == row.system
    text = row.text(metric, plus_minus=r" $\pm$ ")
    text = rf"\textbf{{{text}}}" if best else text
    letters = "".join(comparison.beaten(row.system, metric))
    interval = rf" {{\scriptsize {interval_text(*row.interval[metric])}}}" if metric in row.interval else ""
    return text + (f"$^{{{letters}}}$" if letters else "") + interval


def _latex_number(cell: str) -> str:
    """Signs of numbers in math mode, where minus and less-than are what they should be."""
    return f"${cell}$" if cell[:1] in "+-<[" and len(cell) > 1 else escape_latex(cell)


def _tabular(columns: str, head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", " & ".join(head) + r" \\", r"\midrule"]
    return [*lines, *(" & ".join(row) + r" \\" for row in rows), r"\bottomrule", r"\end{tabular}"]
