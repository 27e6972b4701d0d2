"""Pictures of one item tokenizer's quality, drawn without a display."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genrec.tokenizers.quality.canvas import (
    ACCENT,
    INK,
    MUTED,
    PALE,
    SECOND,
    count_label,
    dress,
    new_figure,
    plain,
    write_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELLS = 1024
STEPS = 2000
LIKENESS = (("vectors", "nearest by their vectors", ACCENT), ("users", "most often had by the same users", SECOND))


def draw_codebook_use(codes: np.ndarray, level_sizes: tuple[int, ...], path: Path) -> None:
    """A heat map: one row per level from its most used code to its least, colored by items per code.

    Args:
        codes: int ``[N, L]``.
        level_sizes: Codebook size of every level.
        path: PNG file to write.
    """
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import FuncFormatter, PercentFormatter

    counts, labels = np.empty((len(level_sizes), CELLS)), []
    for level, size in enumerate(level_sizes):
        column = codes[:, level]
        used = np.sort(np.bincount(column[column >= 0], minlength=size))[::-1]
        counts[level] = used[np.arange(CELLS) * size // CELLS]
        labels.append(f"level {level + 1}\n{(used > 0).sum():,} of {size:,}")
    figure = new_figure(8, 1.9 + 0.55 * len(level_sizes))
    axes = figure.add_subplot()
    dress(axes, "Items per code", f"{len(codes):,} items; even color is good, white codes are those that no item has")
    top = max(float(counts.max()), 2.0)
    # A logarithm has no color for 0: any number below 1 stands for a code without items.
    shown = np.where(counts == 0, 0.5, counts)
    colors = colormaps["viridis_r"].with_extremes(under="white")
    extent = (0.0, 1.0, len(level_sizes) - 0.5, -0.5)
    image = axes.imshow(shown, aspect="auto", cmap=colors, norm=LogNorm(1, top), interpolation="nearest", extent=extent)
    axes.set_yticks(range(len(level_sizes)), labels)
    axes.hlines(np.arange(1, len(level_sizes)) - 0.5, 0, 1, color="white", linewidth=2)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("codes of the level, most used first", color=INK)
    axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, pad=0.02, format=FuncFormatter(count_label))
    bar.set_label("items", color=INK)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=INK, labelsize=9)
    write_figure(figure, path)


def draw_bucket_sizes(buckets: dict[str, list[int]], path: Path) -> None:
    """How many items share a prefix of each length, from the largest bucket to the smallest.

    Args:
        buckets: See :func:`genrec.tokenizers.quality.report.bucket_sizes`.
        path: PNG file to write.
    """
    from matplotlib import colormaps
    from matplotlib.ticker import FuncFormatter

    figure = new_figure(9.5, 4.2)
    axes = figure.add_subplot()
    dress(axes, "Items that share a prefix", "flat and low is good: every prefix holds about as many items")
    shades = colormaps["viridis"](np.linspace(0.1, 0.8, len(buckets)))
    for shade, (depth, sizes) in zip(shades, buckets.items(), strict=True):
        first = "first code" if depth == "1" else f"first {depth} codes"
        # A curve of a million points looks like one of two thousand.
        rank = np.unique(np.geomspace(1, len(sizes), STEPS).round().astype(np.int64))
        label = f"{first}: {len(sizes):,} prefixes, largest {sizes[0]:,}"
        axes.step(rank, np.asarray(sizes)[rank - 1], where="mid", color=shade, linewidth=1.8, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(count_label))
    axes.set_ylim(bottom=0.8)
    axes.set_xlabel("prefixes, largest first", color=INK)
    axes.set_ylabel("items of the prefix", color=INK)
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    write_figure(figure, path)


def draw_residual_energy(energy: list[float], space: str, path: Path) -> None:
    """What is left of the vectors after each level.

    Args:
        energy: Share of the energy left after 0..L levels.
        space: Where it was measured: ``vectors``, or ``own``.
        path: PNG file to write.
    """
    figure = new_figure(min(1.8 + 1.1 * len(energy), 12), 3.8)
    axes = figure.add_subplot()
    meant = "a space of its own" if space == "own" else "the vectors"
    dress(axes, "Residual energy", f"variance of {meant} left untold")
    bars = axes.bar(range(len(energy)), energy, color=[MUTED] + [ACCENT] * (len(energy) - 1), width=0.65)
    axes.bar_label(bars, [f"{value:.1%}" for value in energy], padding=3, color=INK, fontsize=9)
    axes.set_xticks(range(len(energy)), ["no code", *(f"level {level}" for level in range(1, len(energy)))])
    axes.set_ylim(0, max(max(energy), 1e-9) * 1.15)
    axes.yaxis.set_visible(False)
    axes.spines["left"].set_visible(False)
    write_figure(figure, path)


def draw_likeness(likeness: dict[str, Any], kind: str, path: Path) -> None:
    """Do an item's nearest items share its codes: bars per number of codes, with what chance would give.

    Args:
        likeness: See :func:`~genrec.tokenizers.quality.neighborhoods.measure_likeness`; ``vectors`` or ``users`` is
            there.
        kind: ``sequence`` or ``set``.
        path: PNG file to write.
    """
    from matplotlib.ticker import PercentFormatter

    known = [(likeness[name], label, color) for name, label, color in LIKENESS if likeness[name] is not None]
    levels = len(known[0][0]["levels"])
    figure = new_figure(min(4.6 + 0.9 * levels, 13), 3.9)
    axes = figure.add_subplot()
    dress(axes, "Do like items share codes?", "share of an item's ten nearest that have as many codes in common")
    width = 0.8 / len(known)
    for place, (found, label, color) in enumerate(known):
        middle = np.arange(levels) + (place - (len(known) - 1) / 2) * width
        recall = [level["recall"] for level in found["levels"]]
        bars = axes.bar(
            middle, recall, width * 0.92, color=color, label=f"{label} (lists of ten: {found['recall']:.1%})"
        )
        axes.bar_label(bars, [f"{value:.1%}" for value in recall], padding=3, color=INK, fontsize=8.5)
        chance = [level["chance"] for level in found["levels"]]
        named = "" if place else "by chance"
        axes.hlines(chance, middle - width * 0.46, middle + width * 0.46, color=INK, linewidth=1.6, label=named)
    counts = ["code", *(f"{level} codes" for level in range(2, levels + 1))]
    axes.set_xticks(range(levels), [("any " if kind == "set" else "first ") + count for count in counts])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.margins(y=0.12)
    figure.legend(frameon=False, fontsize=9, loc="outside lower left")
    write_figure(figure, path)


def draw_first_codes(nodes: list[dict[str, Any]], items: int, path: Path) -> None:
    """A tree of the most frequent first codes and, of each, the most frequent second codes, in the words of titles.

    Args:
        nodes: See :func:`genrec.tokenizers.quality.level_words.first_codes`.
        items: N, the size of the catalogue.
        path: PNG file to write.
    """
    from matplotlib.collections import LineCollection

    height = sum(_rows_of(node) + 0.6 for node in nodes)
    figure = new_figure(11, 0.9 + 0.245 * height, constrained=False)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.005, top=1 - 0.7 / (0.9 + 0.245 * height))
    axes = figure.add_subplot()
    shown = sum(node["items"] for node in nodes) / items
    dress(
        axes,
        "What the first codes stand for",
        f"the {len(nodes)} most frequent first codes ({shown:.0%} of the items) and their most frequent second codes: "
        "items, and words frequent here and rare elsewhere",
    )
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(height, -0.1)
    children = [child for node in nodes for child in node["children"]]
    middles, places, branches, top = [], [], [], 0.0
    for node in nodes:
        middle = top + _rows_of(node) / 2
        own = [top + row + 0.5 for row in range(len(node["children"]))]
        branches += [[(0.43, middle), (0.445, middle), (0.445, place), (0.46, place)] for place in own]
        middles.append(middle)
        places += own
        top += _rows_of(node) + 0.6
    _bars(axes, nodes, middles, (0.0, 0.42), [_rows_of(node) - 0.14 for node in nodes], ACCENT, "bold")
    _bars(axes, children, places, (0.465, 0.53), [0.82] * len(children), SECOND, "normal")
    axes.add_collection(LineCollection(branches, colors=PALE, linewidths=1.2))
    write_figure(figure, path)


def _rows_of(node: dict[str, Any]) -> int:
    return max(len(node["children"]), 1)


def _bars(
    axes: "Axes",
    nodes: list[dict[str, Any]],
    middles: list[float],
    place: tuple[float, float],
    heights: list[float],
    color: str,
    weight: str,
) -> None:
    left, width = place
    largest = max((node["items"] for node in nodes), default=1)
    lengths = [width * node["items"] / largest for node in nodes]
    axes.barh(middles, lengths, left=left, height=heights, color=color, alpha=0.17)
    for node, middle in zip(nodes, middles, strict=True):
        words = ", ".join(node["words"]) or "no words in common"
        text = plain(f"code {node['code']} · {node['items']:,} items · {words}")
        axes.text(left + 0.006, middle, text, va="center", fontsize=9.5, color=INK, fontweight=weight)


def draw_quality(report: dict[str, Any], codes: np.ndarray, buckets: dict[str, list[int]], folder: Path) -> None:
    """Write every plot that the report has numbers for.

    Args:
        report: See :func:`genrec.tokenizers.quality.report.measure_quality`.
        codes: int ``[N, L]``, before the collision policy.
        buckets: See :func:`genrec.tokenizers.quality.report.bucket_sizes`.
        folder: Folder to write the PNG files into.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sizes = tuple(level["size"] for level in report["levels"])
    draw_codebook_use(codes, sizes, folder / "codebook_use.png")
    draw_bucket_sizes(buckets, folder / "bucket_sizes.png")
    if any(node["words"] for node in report["first_codes"]):
        draw_first_codes(report["first_codes"], report["items"], folder / "first_codes.png")
    if report["residual_energy"] is not None:
        draw_residual_energy(report["residual_energy"], report["residual_space"], folder / "residual_energy.png")
    if report["likeness"]["vectors"] is not None or report["likeness"]["users"] is not None:
        draw_likeness(report["likeness"], report["kind"], folder / "likeness.png")
