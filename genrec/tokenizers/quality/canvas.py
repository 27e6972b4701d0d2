"""What all pictures of item tokenizers share: colours, titles with a line below them, and how they are saved."""

from pathlib import Path
from typing import TYPE_CHECKING

from genrec.artifacts import MARK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, PALE, ACCENT, SECOND = "#1f2933", "#7b8794", "#e4e7eb", "#2f6f9f", "#c7662b"
# Without this the file would name the matplotlib version and differ between machines.
METADATA = {"Software": MARK}


def new_figure(width: float, height: float, *, constrained: bool = True) -> "Figure":
    """An empty figure.

    Args:
        width: In inches.
        height: In inches.
        constrained: Let matplotlib find the margins, which takes its time where there are many texts.
    """
    # A figure of its own with the Agg canvas: pyplot would keep every figure and look for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained" if constrained else None, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def dress(axes: "Axes", title: str, subtitle: str) -> None:
    """Give axes a title with a quiet line below it, and take away what frames them.

    Args:
        axes: The axes.
        title: What is shown.
        subtitle: How to read it.
    """
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)
    axes.set_title(title, loc="left", pad=24, fontsize=13, color=INK, fontweight="bold")
    axes.annotate(
        subtitle, (0, 1), (0, 9), xycoords="axes fraction", textcoords="offset points", fontsize=9, color=MUTED
    )


def count_label(value: float, _: int | None) -> str:
    """A tick as a whole number with separators of thousands."""
    return f"{value:,.0f}"


def plain(text: str) -> str:
    """Text as it is: a dollar sign would start a formula."""
    return text.replace("$", r"\$")


def write_figure(figure: "Figure", path: Path) -> None:
    """Save as PNG, the same bytes for the same picture."""
    figure.savefig(path, dpi=130, format="png", metadata=METADATA)
