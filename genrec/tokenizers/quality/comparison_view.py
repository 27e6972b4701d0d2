"""A comparison of item tokenizers as a table for the terminal and as one picture."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from genrec.artifacts import reserve_file, write_file
from genrec.errors import ConfigError
from genrec.tokenizers.quality.canvas import ACCENT, INK, MUTED, SECOND, new_figure, write_figure
from genrec.tokenizers.quality.comparison import Candidate, Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table

WIDTH = 140
HINT = (
    "The order is the mean rank in collisions and in what semantic IDs find; a trained recommender has the last word.\n"
    "* of the first level, over what chance gives groups of its sizes"
)
COLUMNS: tuple[tuple[str, Callable[[Candidate], float | None], str, bool], ...] = (
    ("collisions", lambda one: one.collision_rate, "percent", False),
    ("largest\nbucket", lambda one: one.largest_bucket, "count", False),
    ("least\nuse", lambda one: min(one.use), "percent", True),
    ("uneven\n(Gini)", lambda one: one.gini, "number", False),
    ("energy\nleft", lambda one: one.energy_left, "percent", False),
    ("finds by\nvectors", lambda one: one.found_by_vectors, "percent", True),
    ("finds by\nusers", lambda one: one.found_by_users, "percent", True),
    ("category\nNMI*", lambda one: one.nmi, "number", True),
    ("other\nseed", lambda one: one.stability, "number", True),
    ("new\nitems", lambda one: one.new_items, "percent", True),
)
BARS = (
    ("collision rate", lambda one: one.collision_rate, MUTED),
    ("finds nearest vectors", lambda one: one.found_by_vectors, ACCENT),
    ("finds items of the same users", lambda one: one.found_by_users, SECOND),
    ("category NMI over chance", lambda one: one.nmi, ACCENT),
)


def comparison_as_text(comparison: Comparison) -> str:
    """The table, below it the reading and what to bear in mind.

    Args:
        comparison: See :func:`genrec.tokenizers.quality.comparison.compare_tokenizers`.
    """
    from rich.text import Text

    from genrec.terminal.console import Terminal

    console = Terminal(width=WIDTH, highlight=False)
    with console.capture() as captured:
        console.print(comparison_table(comparison))
        console.print(Text.assemble(("reading: ", "bold"), comparison.reading))
        console.print(HINT)
        for note in comparison.notes:
            console.print(f"note: {note}", markup=False)
    return captured.get().rstrip()


def comparison_table(comparison: Comparison) -> "Table":
    """One row per tokenizer, the most promising first, the best of a column in bold; without columns that are empty.

    Args:
        comparison: See :func:`genrec.tokenizers.quality.comparison.compare_tokenizers`.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    candidates = comparison.candidates
    table = Table(box=box.SIMPLE_HEAD, title=f"{comparison.items:,} items", title_justify="left", title_style="bold")
    table.add_column("tokenizer", overflow="fold")
    table.add_column("levels", no_wrap=True)
    shown = []
    for title, value, unit, more_is_better in COLUMNS:
        values = [value(candidate) for candidate in candidates]
        known = [number for number in values if number is not None]
        if not known:
            continue
        best = max(known) if more_is_better else min(known)
        table.add_column(title, justify="right", no_wrap=True)
        bold = len(candidates) > 1 and len(set(known)) > 1
        shown.append([Text(_cell(one, unit), style="bold" if bold and one == best else "") for one in values])
    for row, candidate in enumerate(candidates):
        table.add_row(Text(candidate.name), sizes_in_words(candidate.level_sizes), *(column[row] for column in shown))
    return table


def sizes_in_words(level_sizes: tuple[int, ...]) -> str:
    """Level sizes in short: ``3x256+13`` for three levels of 256 and one of 13."""
    parts: list[list[int]] = []
    for size in level_sizes:
        if parts and parts[-1][1] == size:
            parts[-1][0] += 1
        else:
            parts.append([1, size])
    return "+".join(f"{count}x{size}" if count > 1 else str(size) for count, size in parts)


def draw_comparison(comparison: Comparison, path: Path, *, reads: Sequence[Path] = ()) -> None:
    """Bars per tokenizer for what tells them apart, and the use of every level.

    Args:
        comparison: See :func:`genrec.tokenizers.quality.comparison.compare_tokenizers`.
        path: PNG file to write.
        reads: The folders that are compared.

    Raises:
        ConfigError: If the file is not to be a PNG, or must not be written.
        ArtifactError: If it cannot be written.
    """
    if path.suffix.lower() != ".png":
        raise ConfigError(f"{path} is no picture", expected="a file that ends in .png", fix="give --out PICTURE.png")
    candidates = comparison.candidates
    panels = [panel for panel in BARS if any(panel[1](candidate) is not None for candidate in candidates)]
    figure = new_figure(2.4 * (len(panels) + 1) + 1.5, 1.5 + 0.36 * len(candidates))
    axes = figure.subplots(1, len(panels) + 1, sharey=True, width_ratios=[1.0] * len(panels) + [1.2])
    rows = np.arange(len(candidates))
    for panel, (title, value, color) in zip(axes[:-1], panels, strict=True):
        values = [value(candidate) for candidate in candidates]
        numbers = [max(number or 0.0, 0.0) for number in values]
        bars = panel.barh(rows, numbers, color=color, height=0.7)
        texts = ["none" if number is None else f"{number:.1%}" for number in values]
        panel.bar_label(bars, texts, padding=3, color=INK, fontsize=9)
        panel.set_xlim(0, max(*numbers, 1e-9) * 1.3)
        panel.set_title(title, loc="left", fontsize=10, color=INK)
        panel.xaxis.set_visible(False)
        for side in ("top", "right", "bottom"):
            panel.spines[side].set_visible(False)
        panel.tick_params(length=0, colors=INK, labelsize=9.5)
    _draw_use(axes[-1], comparison)
    axes[0].set_yticks(rows, [candidate.name for candidate in candidates])
    axes[0].set_ylim(len(candidates) - 0.5, -0.5)
    title = f"{len(candidates)} item tokenizers of {comparison.items:,} items, the most promising first"
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, color=INK, fontweight="bold")
    with reserve_file(path, reads=reads) as place, write_file(place) as temporary:
        write_figure(figure, temporary)


def _draw_use(axes: "Axes", comparison: Comparison) -> None:
    from matplotlib import colormaps

    levels = max(len(candidate.use) for candidate in comparison.candidates)
    shown = np.full((len(comparison.candidates), levels), np.nan)
    for row, candidate in enumerate(comparison.candidates):
        shown[row, : len(candidate.use)] = candidate.use
    colors = colormaps["Blues"].with_extremes(bad="white")
    axes.imshow(shown, aspect="auto", cmap=colors, vmin=0, vmax=1.6, interpolation="nearest")
    for row, column in np.argwhere(~np.isnan(shown)):
        axes.text(column, row, f"{100 * shown[row, column]:.0f}", ha="center", va="center", fontsize=8.5, color=INK)
    axes.set_title("codes in use per level, %", loc="left", fontsize=10, color=INK)
    axes.set_xticks([])
    axes.tick_params(length=0)
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_visible(False)


def _cell(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    if unit == "percent":
        return f"{value:.1%}"
    return f"{value:,.0f}" if unit == "count" else f"{value:.2f}"
