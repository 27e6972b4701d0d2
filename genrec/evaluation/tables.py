"""Results side by side: one row per system, mean and deviation over its runs, in the formats that papers need."""

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from genrec.errors import ConfigError
from genrec.terminal.text import visible

RANKED = ("recall", "ndcg", "mrr")
DEFAULT_METRICS = ("recall@5", "ndcg@5", "recall@10", "ndcg@10", "mrr@10", "coverage@10")
SYSTEMS = {"popularity": "Popularity", "itemknn": "Item-kNN", "transition": "Transitions", "sasrec": "SASRec"}
DAGGER = "†"
LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    DAGGER: r"\dag{}",
}
NAMES = {"recall": "Recall", "ndcg": "NDCG", "mrr": "MRR", "coverage": "Coverage", "gini": "Gini"}


@dataclass(frozen=True)
class Row:
    """One system.

    Attributes:
        system: What it is called.
        runs: Number of runs.
        mean: Metric to mean over runs.
        deviation: Metric to sample standard deviation over runs; empty for a single run.
        interval: Metric to bootstrap interval over users; only for a single run.
        stopped: Why and where a training ended before its budget; None if all were finished.
    """

    system: str
    runs: int
    mean: dict[str, float]
    deviation: dict[str, float] = field(default_factory=dict)
    interval: dict[str, tuple[float, float]] = field(default_factory=dict)
    stopped: str | None = None

    @property
    def label(self) -> str:
        """The name with a dagger where a training was not finished."""
        return f"{self.system} {DAGGER}" if self.stopped else self.system

    def text(self, metric: str, digits: int = 4, plus_minus: str = " ± ") -> str:
        """The number as it is printed: ``0.0831`` or ``0.0831 ± 0.0004``, ``-`` where there is none."""
        if metric not in self.mean:
            return "-"
        text = f"{self.mean[metric]:.{digits}f}"
        return f"{text}{plus_minus}{self.deviation[metric]:.{digits}f}" if metric in self.deviation else text


@dataclass(frozen=True)
class ResultsTable:
    """Systems by metrics.

    Attributes:
        metrics: Columns, such as ``ndcg@10``.
        rows: One per system, in the order given.
    """

    metrics: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def footnotes(self) -> list[str]:
        """One line for each system whose training was not finished."""
        return [f"{DAGGER} {row.system}: {row.stopped}" for row in self.rows if row.stopped]

    def best(self, metric: str, place: int = 0) -> str | None:
        """The system that is best (or next, at ``place`` 1, ...) in a metric where more is better.

        Args:
            metric: A column.
            place: 0 for the best.

        Returns:
            Its name; None where more is not better, or there is no one at that place.
        """
        if metric.split("@")[0] not in RANKED:
            return None
        values = sorted((row for row in self.rows if metric in row.mean), key=lambda row: -row.mean[metric])
        return values[place].system if place < len(values) else None


def results_table(
    results: Mapping[str, Sequence[Mapping[str, Any]]], metrics: Sequence[str] = DEFAULT_METRICS
) -> ResultsTable:
    """Put results side by side.

    Args:
        results: System to its runs, each as in ``metrics.json`` (:meth:`genrec.evaluation.protocol.Result.as_json`).
        metrics: Wanted columns; one that no system has is left out.
    """
    rows = []
    for system, runs in results.items():
        values = {
            name: [float(run["metrics"][name]) for run in runs]
            for name in metrics
            if runs and all(run["metrics"].get(name) is not None for run in runs)
        }
        mean = {name: float(np.mean(numbers)) for name, numbers in values.items()}
        stops = [run.get("protocol", {}).get("stopped") for run in runs]
        stopped = next(filter(None, stops), None)
        if len(runs) > 1:
            deviation = {name: float(np.std(numbers, ddof=1)) for name, numbers in values.items()}
            rows.append(Row(system, len(runs), mean, deviation, stopped=stopped))
        else:
            found = runs[0].get("confidence", {}).get("intervals", {}) if runs else {}
            interval = {name: (found[name][0], found[name][1]) for name in mean if name in found}
            rows.append(Row(system, len(runs), mean, interval=interval, stopped=stopped))
    return ResultsTable(tuple(name for name in metrics if any(name in row.mean for row in rows)), tuple(rows))


def with_system_names(run: Mapping[str, Any]) -> dict[str, Any]:
    """A run with its baselines under the names that people know: ``Item-kNN`` for ``itemknn``."""
    named = {SYSTEMS.get(name, name): part for name, part in run.get("baselines", {}).items()}
    return {**run, "baselines": named, "variants": run.get("variants", {})}


def side_by_side(
    runs: Sequence[Mapping[str, Any]], name: str, metrics: Sequence[str] = DEFAULT_METRICS
) -> ResultsTable:
    """The table of a run, its baselines and variants, from one ``metrics.json`` per seed; the run's system is last.

    Args:
        runs: As made by :func:`genrec.evaluation.protocol.metrics_json`.
        name: What to call the run's system.
        metrics: Wanted columns.
    """
    named = [with_system_names(run) for run in runs]
    named = [run["baselines"] | run["variants"] for run in named]
    systems = dict.fromkeys(system for baselines in named for system in baselines)
    results = {system: [baselines[system] for baselines in named if system in baselines] for system in systems}
    return results_table(results | {name: list(runs)}, metrics)


def metric_name(metric: str) -> str:
    """A metric as it is printed: ``NDCG@10`` for ``ndcg@10``."""
    kind, at, k = metric.partition("@")
    return NAMES.get(kind, kind.replace("_", " ").capitalize()) + at + k


def to_csv(table: ResultsTable) -> str:
    """Comma-separated values in full precision: per metric mean, ``_sd``, ``_low``, ``_high``; empty where unknown."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    parts = ("", "_sd", "_low", "_high")
    writer.writerow(["system", "runs", *(metric + part for metric in table.metrics for part in parts)])
    for row in table.rows:
        cells: list[Any] = [escape_csv(row.system), row.runs]
        for metric in table.metrics:
            interval = row.interval.get(metric, ("", ""))
            cells += [row.mean.get(metric, ""), row.deviation.get(metric, ""), *interval]
        writer.writerow(cells)
    return stream.getvalue()


def to_json(table: ResultsTable) -> str:
    """A JSON list of rows at full precision."""
    rows = [
        {
            "system": row.system,
            "runs": row.runs,
            "mean": row.mean,
            "sd": row.deviation,
            "interval": {name: list(ends) for name, ends in row.interval.items()},
            "stopped": row.stopped,
        }
        for row in table.rows
    ]
    return json.dumps(rows, indent=2, ensure_ascii=False) + "\n"


def to_markdown(table: ResultsTable) -> str:
    """A Markdown table; the best of a column is bold."""
    lines = [
        "| system | " + " | ".join(metric_name(metric) for metric in table.metrics) + " |",
        "|---|" + "---:|" * len(table.metrics),
    ]
    for row in table.rows:
        cells = [_marked(table, row, metric, row.text(metric), ("**", "**")) for metric in table.metrics]
        lines.append(f"| {escape_markdown(row.label)} | " + " | ".join(cells) + " |")
    notes = [f"\n{escape_markdown(note)}" for note in table.footnotes]
    return "\n".join([*lines, *notes]) + "\n"


def to_latex(table: ResultsTable) -> str:
    """A LaTeX table for ``booktabs``; the best of a column is bold, the next one underlined."""
    lines = [
        r"\begin{tabular}{l" + "r" * len(table.metrics) + "}",
        r"\toprule",
        " & ".join(["System", *(escape_latex(metric_name(metric)) for metric in table.metrics)]) + r" \\",
        r"\midrule",
    ]
    for row in table.rows:
        cells = []
        for metric in table.metrics:
            cell = row.text(metric, plus_minus=r" $\pm$ ")
            cell = _marked(table, row, metric, cell, (r"\textbf{", "}"))
            cells.append(_marked(table, row, metric, cell, (r"\underline{", "}"), place=1))
        lines.append(" & ".join([escape_latex(row.label), *cells]) + r" \\")
    notes = [escape_latex(note) for note in table.footnotes]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *notes]) + "\n"


FORMATS: dict[str, Callable[[ResultsTable], str]] = {
    "csv": to_csv,
    "json": to_json,
    "latex": to_latex,
    "markdown": to_markdown,
}


def render_table(table: ResultsTable, style: str) -> str:
    """The table as text in one of ``FORMATS``.

    Raises:
        ConfigError: If there is no such format.
    """
    if style not in FORMATS:
        raise ConfigError(f"there is no table format {style!r}", expected=f"one of {', '.join(FORMATS)}")
    return FORMATS[style](table)


def escape_markdown(text: str) -> str:
    """Text that stays text in a Markdown table, including HTML in it."""
    text = re.sub(r"([\\`*_\[\]|~#])", r"\\\1", visible(" ".join(text.split())))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def escape_latex(text: str) -> str:
    """Text that stays text in LaTeX, on one line."""
    return re.sub(
        r"[\\&%$#_{}~^†<>|]", lambda match: LATEX.get(match[0], "\\" + match[0]), visible(" ".join(text.split()))
    )


def escape_csv(text: str) -> str:
    """Text that stays text in a spreadsheet: one that would begin a formula there begins with an apostrophe."""
    text = visible(" ".join(text.split()))
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _marked(table: ResultsTable, row: Row, metric: str, cell: str, marks: tuple[str, str], place: int = 0) -> str:
    return f"{marks[0]}{cell}{marks[1]}" if len(table.rows) > 1 and table.best(metric, place) == row.system else cell
