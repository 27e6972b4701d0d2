"""Results for people: the table of systems, and users' histories beside their lists, in titles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from genrec.data import Dataset
from genrec.evaluation.tables import metric_name, side_by_side
from genrec.pipeline.environment import GIBIBYTE, peak_memory_bytes

SHOWN_METRICS = ("recall@5", "ndcg@5", "recall@10", "ndcg@10", "mrr@10", "coverage@10")
SHOWN_FILES = ("recommendations.parquet", "metrics.json", "report.html", "model")
SHOWN_HISTORY = 8
EXAMPLES_SEED = 0


@dataclass(frozen=True)
class Example:
    """One user as a person sees it.

    Attributes:
        user: External id.
        history: Titles, oldest first.
        recommended: Titles, best first.
    """

    user: str
    history: list[str]
    recommended: list[str]


def example_users(dataset: Dataset, count: int) -> list[int]:
    """A few dense users that have a history, drawn with a fixed seed."""
    candidates = np.flatnonzero(dataset.full().lengths > 0)
    drawn = np.random.default_rng(EXAMPLES_SEED).choice(candidates, min(count, len(candidates)), replace=False)
    return sorted(drawn.tolist())


def examples(dataset: Dataset, recommendations: Path, count: int) -> list[Example]:
    """A few users' histories beside their lists in a recommendations file.

    Args:
        dataset: For histories and titles.
        recommendations: ``recommendations.parquet``.
        count: How many users.
    """
    users = example_users(dataset, count)
    names = [dataset.user_ids[user] for user in users]
    lists = pl.scan_parquet(recommendations).filter(pl.col("user_id").is_in(names), pl.col("rank").is_not_null())
    titles = dict(zip(dataset.item_ids, dataset.titles, strict=True))
    found = {name: rows for (name,), rows in lists.sort("rank").collect().group_by("user_id")}
    histories = dataset.full()
    return [
        Example(
            name,
            [dataset.title(item) for item in histories[user].tolist()],
            [titles[item] for item in found[name]["item_id"]] if name in found else [],
        )
        for user, name in zip(users, names, strict=True)
    ]


def results(metrics: Mapping[str, Any]) -> RenderableType:
    """The table of a run and its baselines, from ``metrics.json``; the best of a column is bold.

    Args:
        metrics: The file's content.
    """
    shown = [name for name in SHOWN_METRICS if name in metrics["metrics"]] or list(metrics["metrics"])[:6]
    values = side_by_side([metrics], str(metrics["system"]), shown)
    table = Table(title=f"{metrics['split']} part, {metrics['users']:,} users, full catalogue", title_justify="left")
    table.add_column("system")
    for name in values.metrics:
        table.add_column(metric_name(name), justify="right")
    for row in values.rows:
        cells = [Text(row.text(name), "bold" if values.best(name) == row.system else "") for name in values.metrics]
        table.add_row(row.system, *cells)
    return table


def lists(shown: Sequence[Example]) -> RenderableType:
    """Histories beside lists, one small table per user."""
    tables = []
    for example in shown:
        table = Table(title=f"user {example.user}", title_justify="left", show_lines=False, expand=False)
        table.add_column(f"history ({len(example.history)}, newest first)")
        table.add_column("recommended")
        history = example.history[::-1][:SHOWN_HISTORY]
        for row in range(max(len(history), len(example.recommended))):
            table.add_row(
                *(Text(part[row]) if row < len(part) else Text("") for part in (history, example.recommended))
            )
        tables.append(table)
    return Group(*tables)


def show_run(console: Console, folder: Path, metrics: Mapping[str, Any], shown: Sequence[Example]) -> None:
    """Print what a run came to: results, examples, and where the files are.

    Args:
        console: Where.
        folder: The run's folder.
        metrics: The content of ``metrics.json``.
        shown: Users to show.
    """
    console.print(results(metrics))
    for note in metrics.get("notes", []):
        console.print(f"note: {note}", markup=False)
    if shown:
        console.print(lists(shown))
    written = [folder / name for name in SHOWN_FILES if (folder / name).exists()]
    console.print("\n".join(map(str, written)), markup=False, soft_wrap=True)
    console.print(f"peak memory {peak_memory_bytes() / GIBIBYTE:.1f} GiB", highlight=False)


def as_text(renderable: RenderableType, width: int = 120) -> str:
    """A table as plain text."""
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()
