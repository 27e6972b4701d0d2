"""Pictures of an item tokenizer's quality, drawn without a display."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, PALE, ACCENT = "#1f2933", "#7b8794", "#e4e7eb", "#2f6f9f"
# Without this the file would name the matplotlib version and differ between machines.
METADATA = {"Software": None}


def draw_codebook_use(codes: np.ndarray, level_sizes: tuple[int, ...], path: Path) -> None:
    """A heat map: one row per level, one cell per code, coloured by its items, most used first.

    Args:
        codes: int ``[N, L]``.
        level_sizes: Codebook size of every level.
        path: PNG file to write.
    """
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import FuncFormatter

    widest = max(level_sizes)
    counts = np.full((len(level_sizes), widest), np.nan)
    labels = []
    for level, size in enumerate(level_sizes):
        used = np.sort(np.bincount(codes[:, level], minlength=size))[::-1]
        counts[level, :size] = used
        labels.append(f"level {level + 1}\n{(used > 0).sum()} of {size}")
    note = "" if min(level_sizes) == widest else "; grey is past the end of a smaller codebook"
    figure, axes = _canvas("Items per code", f"{len(codes):,} items; white cells are codes that no item has{note}")
    figure.set_size_inches(8, 1.9 + 0.55 * len(level_sizes))
    top = max(float(np.nanmax(counts)), 2.0)
    colours = colormaps["viridis_r"].with_extremes(under="white", bad=PALE)
    # A logarithm has no colour for 0: any number below 1 stands for a code without items.
    shown = np.where(counts == 0, 0.5, counts)
    image = axes.imshow(shown, aspect="auto", cmap=colours, norm=LogNorm(1, top), interpolation="nearest")
    axes.set_yticks(range(len(level_sizes)), labels)
    axes.set_xlabel("codes, most used first")
    axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, pad=0.02, format=FuncFormatter(_count))
    bar.set_label("items")
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=INK, labelsize=9)
    _write(figure, path)


def draw_bucket_sizes(buckets: dict[str, list[int]], path: Path) -> None:
    """How many items share a prefix of each length, from the largest bucket to the smallest.

    Args:
        buckets: See :func:`genrec.tokenizers.quality.bucket_sizes`.
        path: PNG file to write.
    """
    from matplotlib import colormaps
    from matplotlib.ticker import FuncFormatter

    figure, axes = _canvas("Items that share a prefix", "flat and low is good: every prefix holds about as many items")
    figure.set_size_inches(9.5, 4.2)
    shades = colormaps["viridis"](np.linspace(0.1, 0.8, len(buckets)))
    for shade, (depth, sizes) in zip(shades, buckets.items(), strict=True):
        label = f"first {depth} codes: {len(sizes):,} prefixes, largest {sizes[0]:,}"
        rank = np.arange(1, len(sizes) + 1)
        axes.step(
            rank, sizes, where="mid", color=shade, linewidth=1.8, label=label.replace("first 1 codes", "first code")
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(_count))
    axes.set_ylim(bottom=0.8)
    axes.set_xlabel("prefixes, largest first")
    axes.set_ylabel("items of the prefix")
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    _write(figure, path)


def draw_residual_energy(energy: list[float], path: Path) -> None:
    """What is left of the vectors after each level.

    Args:
        energy: Share of the energy left after 0..L levels.
        path: PNG file to write.
    """
    figure, axes = _canvas("Residual energy", "share of the vectors' variance that the codes so far do not tell")
    figure.set_size_inches(min(1.8 + 1.1 * len(energy), 12), 3.8)
    bars = axes.bar(range(len(energy)), energy, color=[MUTED] + [ACCENT] * (len(energy) - 1), width=0.65)
    axes.bar_label(bars, [f"{value:.1%}" for value in energy], padding=3, color=INK, fontsize=9)
    axes.set_xticks(range(len(energy)), ["no code", *(f"level {level}" for level in range(1, len(energy)))])
    axes.set_ylim(0, max(max(energy), 1e-9) * 1.15)
    axes.yaxis.set_visible(False)
    axes.spines["left"].set_visible(False)
    _write(figure, path)


def draw_quality(report: dict[str, Any], codes: np.ndarray, buckets: dict[str, list[int]], folder: Path) -> None:
    """Write every plot that the report has numbers for.

    Args:
        report: See :func:`genrec.tokenizers.quality.measure_quality`.
        codes: int ``[N, L]``, before the collision policy.
        buckets: See :func:`genrec.tokenizers.quality.bucket_sizes`.
        folder: Folder to write the PNG files into.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sizes = tuple(level["size"] for level in report["levels"])
    draw_codebook_use(codes, sizes, folder / "codebook_use.png")
    draw_bucket_sizes(buckets, folder / "bucket_sizes.png")
    if report["residual_energy"] is not None:
        draw_residual_energy(report["residual_energy"], folder / "residual_energy.png")


def _canvas(title: str, subtitle: str) -> tuple["Figure", "Axes"]:
    # A figure of its own with the Agg canvas: pyplot would keep every figure and look for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)
    axes.set_title(title, loc="left", pad=24, fontsize=13, color=INK, fontweight="bold")
    axes.annotate(
        subtitle, (0, 1), (0, 9), xycoords="axes fraction", textcoords="offset points", fontsize=9, color=MUTED
    )
    return figure, axes


def _count(value: float, _: int | None) -> str:
    return f"{value:,.0f}"


def _write(figure: "Figure", path: Path) -> None:
    figure.savefig(path, dpi=130, metadata=METADATA)
