"""What all plots share: colors, fonts, titles with a line below them, and how they are saved."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from genrec.artifacts import MARK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontEntry

logger = logging.getLogger(__name__)

INK, MUTED, PALE, ACCENT, SECOND = "#1f2933", "#7b8794", "#e4e7eb", "#2f6f9f", "#c7662b"
# Without this the file would name the matplotlib version and differ between machines.
METADATA = {"Software": MARK}
# A font that comes with matplotlib and has a box for every letter there is.
PLACEHOLDERS = "Last Resort"


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
    """Save as PNG, the same bytes for the same picture and fonts.

    Letters that the usual font lacks come from other installed fonts. Those that none has are drawn as boxes, which is
    logged once per picture.
    """
    missing = _choose_fonts(figure)
    if missing:
        logger.warning(
            "%s: no installed font has %d of its letters, such as %s: they are drawn as boxes; a font of that script, "
            "such as one of Noto Sans, shows them",
            *(path.name, len(missing), ascii("".join(missing[:3]))),
        )
    with _quiet_fonts():
        figure.savefig(path, dpi=130, format="png", metadata=METADATA)


@contextmanager
def _quiet_fonts() -> Iterator[None]:
    """No line for every letter that is missing and every time it is measured, nor for fonts that have no bold."""
    log = logging.getLogger("matplotlib.font_manager")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"Glyph \d+ .*missing from")
            yield
    finally:
        log.setLevel(level)


def _choose_fonts(figure: "Figure") -> list[str]:
    """Let all texts of a figure fall back on fonts that have their letters; the letters that no font has, in order."""
    from matplotlib.font_manager import FontProperties, findfont, fontManager
    from matplotlib.text import Text

    for axes in figure.axes:
        # Labels of ticks are known only when they are asked for.
        axes.get_xticklabels()
        axes.get_yticklabels()
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    letters = {letter for text in texts for letter in text.get_text() if not letter.isspace()}
    missing = letters - _letters_of(findfont(FontProperties(family=["sans-serif"])))
    chosen = []
    known = sorted(fontManager.ttflist, key=_plainest) if missing else []
    fonts = {font.fname: font.name for font in known if not font.name.startswith(PLACEHOLDERS)}
    while missing and fonts:
        best = max(fonts, key=lambda name: len(missing & _letters_of(name)))
        found = missing & _letters_of(best)
        if not found:
            break
        chosen.append(fonts.pop(best))
        missing -= found
    if chosen:
        for text in texts:
            text.set_fontfamily(["sans-serif", *chosen])
    return sorted(missing)


def _plainest(font: "FontEntry") -> tuple[bool, bool, str, str]:
    return font.style != "normal", str(font.weight) not in ("400", "normal"), font.name, font.fname


@cache
def _letters_of(font_file: str) -> frozenset[str]:
    """The letters that a font has; none if it cannot be drawn with, as fonts of colored pictures cannot."""
    from matplotlib.font_manager import get_font

    try:
        return frozenset(map(chr, get_font(font_file).get_charmap()))
    except (RuntimeError, OSError):
        return frozenset()
