"""Charts as inline SVG: colors come from the page's style, so they follow light, dark and print.

All text is escaped; every chart has a label for screen readers and every mark a tooltip.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

WIDTH = 520
LABELS = 170
ROW = 34
MARGIN = 8
PLOT_HEIGHT = 250


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        label: Left of it.
        value: Its length, from 0.
        low: Lower end of the interval, or None.
        high: Upper end of the interval, or None.
        series: Which color: 0 is the accent.
    """

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    series: int = 1


@dataclass(frozen=True)
class Figure:
    """A chart with its caption.

    Attributes:
        chart: SVG.
        title: Above it.
        caption: Below it.
        legend: Names of the colors, in their order.
    """

    chart: Markup
    title: str
    caption: str = ""
    legend: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
        label: At its right end.
        points: Pairs (x, y), x ascending.
        series: Which color: 0 is the accent.
    """

    label: str
    points: tuple[tuple[float, float], ...]
    series: int = 0


def number(value: float) -> str:
    """A value on an axis or a bar: three digits that count, no trailing zeros beyond them."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{max(2 - math.floor(math.log10(abs(value))), 0)}f}"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round values that cover ``low`` to ``high``, about ``count`` of them."""
    size = max(abs(low), abs(high))
    if size < 1e-200 or high - low < 1e-9 * size:
        high = low + (size if size >= 1e-200 else 1.0)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def bar_chart(bars: Sequence[Bar], *, title: str, shown: Callable[[float], str] = number) -> Markup:
    """Horizontal bars from zero with their values and, where there are any, intervals.

    Args:
        bars: From top to bottom.
        title: What is drawn; it becomes the label for screen readers together with the values.
        shown: How values are written.
    """
    largest = max([bar.high if bar.high is not None else bar.value for bar in bars], default=0.0) or 1.0
    scale = (WIDTH - LABELS - 72) / largest
    rows = []
    for index, bar in enumerate(bars):
        top = MARGIN + index * ROW
        end = LABELS + bar.value * scale
        tip = f"{bar.label}: {shown(bar.value)}"
        if bar.low is not None and bar.high is not None:
            tip += f" ({shown(bar.low)} to {shown(bar.high)})"
        rows.append(
            _text(LABELS - 10, top + 19, _short(bar.label, 25), "label end" + (" strong" if bar.series == 0 else ""))
        )
        rows.append(
            Markup(
                '<rect class="series-{}" x="{}" y="{}" width="{}" height="20" rx="3"><title>{}</title></rect>'
            ).format(bar.series, LABELS, top + 4, _at(max(bar.value * scale, 1)), tip)
        )
        if bar.low is not None and bar.high is not None:
            rows.append(_whisker(LABELS + bar.low * scale, LABELS + bar.high * scale, top + 14))
            end = max(end, LABELS + bar.high * scale)
        rows.append(_text(end + 8, top + 19, shown(bar.value), "value" + (" strong" if bar.series == 0 else "")))
    rows.append(_line(LABELS, MARGIN, LABELS, MARGIN + len(bars) * ROW - 6, "axis"))
    said = "; ".join(f"{bar.label} {shown(bar.value)}" for bar in bars)
    return _svg(rows, 2 * MARGIN + len(bars) * ROW, f"{title}: {said}")


def grouped_bars(
    groups: Sequence[tuple[str, str, Sequence[Bar]]], *, title: str, shown: Callable[[float], str] = number
) -> Markup:
    """Horizontal bars in groups that share one scale.

    Args:
        groups: Name, remark (such as the number of users) and bars of each; a bar's label is its series' name.
        title: What is drawn.
        shown: How values are written.
    """
    largest = max([bar.value for _, _, bars in groups for bar in bars], default=0.0) or 1.0
    scale = (WIDTH - LABELS - 72) / largest
    rows, top = [], MARGIN
    said = []
    for name, remark, bars in groups:
        middle = top + len(bars) * 9
        rows.append(_text(LABELS - 10, middle - 1, name, "label end strong"))
        rows.append(_text(LABELS - 10, middle + 14, remark, "remark end"))
        for index, bar in enumerate(bars):
            said.append(f"{name}, {bar.label} {shown(bar.value)}")
            rows.append(
                Markup(
                    '<rect class="series-{}" x="{}" y="{}" width="{}" height="14" rx="2"><title>{}</title></rect>'
                ).format(bar.series, LABELS, top + index * 18, _at(max(bar.value * scale, 1)), said[-1])
            )
            rows.append(_text(LABELS + bar.value * scale + 7, top + index * 18 + 11, shown(bar.value), "value small"))
        top += max(len(bars) * 18, 30) + 14
    rows.append(_line(LABELS, MARGIN - 4, LABELS, top - 12, "axis"))
    return _svg(rows, top, f"{title}: {'; '.join(said)}")


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    from_zero: bool = False,
    x_values: Sequence[float] | None = None,
    mark: tuple[float, float, str] | None = None,
) -> Markup:
    """Lines over a common x axis, named at their right ends.

    Args:
        lines: At least one, each with at least one point.
        title: What is drawn.
        x_label: What the x axis is.
        from_zero: Whether the y axis begins at zero.
        x_values: Draw these x values at equal distances, instead of a continuous axis.
        mark: A point (x, y) to point out, and what to call it.
    """
    left, right, top, bottom = 58, 118 if len(lines) > 1 else 24, 14, PLOT_HEIGHT - 40
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points] + ([0.0] if from_zero else [])
    y_ticks = ticks(min(ys), max(ys), 4)
    x_ticks = list(x_values) if x_values else _inside(ticks(min(xs), max(xs), 6), min(xs), max(xs))
    place = {x: index for index, x in enumerate(x_values or ())}
    x_low, x_high = (0.0, max(len(place) - 1.0, 1.0)) if x_values else (min(xs), max(xs))
    span = (x_high - x_low) or 1.0

    def x_of(x: float) -> float:
        return left + (place.get(x, x) - x_low) / span * (WIDTH - left - right)

    def y_of(y: float) -> float:
        return bottom - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (bottom - top)

    rows = []
    for y in y_ticks:
        rows.append(_line(left, y_of(y), WIDTH - right, y_of(y), "grid"))
        rows.append(_text(left - 8, y_of(y) + 4, f"{y:g}", "tick end"))
    for x in x_ticks:
        rows.append(_text(x_of(x), bottom + 19, f"{x:g}", "tick middle"))
    rows.append(_text((left + WIDTH - right) / 2, PLOT_HEIGHT - 4, x_label, "tick middle"))
    for line in sorted(lines, key=lambda line: -line.series):
        rows.append(_path([(x_of(x), y_of(y)) for x, y in line.points], line))
        if len(line.points) <= 60:
            rows += [
                _dot(x_of(x), y_of(y), line.series, f"{line.label}, {x_label} {x:g}: {number(y)}")
                for x, y in line.points
            ]
    if len(lines) > 1:
        ends = _spread([y_of(line.points[-1][1]) for line in lines], 15)
        for line, y in zip(lines, ends, strict=True):
            name = "label" + (" strong" if line.series == 0 else "")
            rows.append(_text(WIDTH - right + 20, y + 4, _short(line.label, 15), name))
            rows.append(_line(WIDTH - right + 6, y, WIDTH - right + 15, y, f"key stroke-{line.series}"))
    if mark is not None:
        rows += _marked_point(x_of(mark[0]), y_of(mark[1]), bottom, mark[2])
    said = "; ".join(f"{line.label} from {number(line.points[0][1])} to {number(line.points[-1][1])}" for line in lines)
    return _svg(rows, PLOT_HEIGHT, f"{title} over {x_label}: {said}")


def heat_map(rows: Sequence[str], columns: Sequence[str], shares: Sequence[Sequence[float]], *, title: str) -> Markup:
    """Cells whose color is a share; in percent where there is room.

    Args:
        rows: Names, from top to bottom.
        columns: Names, from left to right.
        shares: From 0 to 1, a value per row and column.
        title: What is drawn.
    """
    size, height, largest = (WIDTH - LABELS - MARGIN) / len(columns), 22, max(map(max, shares)) or 1.0
    drawn = [
        _text(LABELS + (index + 0.5) * size, MARGIN + 12, name, "tick middle")
        for index, name in enumerate(columns)
        if size >= 22 or index % 8 == 0
    ]
    for row, (name, values) in enumerate(zip(rows, shares, strict=True)):
        top = MARGIN + 20 + row * height
        drawn.append(_text(LABELS - 10, top + 15, _short(name, 23), "label end"))
        for index, value in enumerate(values):
            left, tip = LABELS + index * size, f"{name}, {columns[index]}: {value:.1%}"
            drawn.append(
                Markup(
                    '<rect class="cell" x="{}" y="{}" width="{}" height="{}" opacity="{}"><title>{}</title></rect>'
                ).format(_at(left), _at(top), _at(size - 1), height - 1, f"{0.04 + 0.96 * value / largest:.3f}", tip)
            )
            if size >= 22:
                over = " over" if value > 0.55 * largest else ""
                drawn.append(_text(left + size / 2, top + 15, f"{100 * value:.0f}", f"cell-text middle{over}"))
    peaks = ((name, max(range(len(values)), key=values.__getitem__)) for name, values in zip(rows, shares, strict=True))
    said = "; ".join(f"{name} mostly {columns[peak]}" for name, peak in peaks)
    return _svg(drawn, 2 * MARGIN + 20 + len(rows) * height, f"{title}: {said}")


def thinned(points: Sequence[tuple[float, float]], most: int = 300) -> tuple[tuple[float, float], ...]:
    """Means of neighboring points, so that a long log is a small drawing; short ones stay as they are."""
    size = math.ceil(len(points) / most)
    if size <= 1:
        return tuple(points)
    blocks = [points[first : first + size] for first in range(0, len(points), size)]
    return tuple((sum(x for x, _ in block) / len(block), sum(y for _, y in block) / len(block)) for block in blocks)


def _svg(rows: Sequence[Markup], height: float, label: str) -> Markup:
    opening = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
        WIDTH, _at(height), label
    )
    return opening + Markup("").join(rows) + Markup("</svg>")


def _at(value: float) -> str:
    return f"{value:.1f}"


def _text(x: float, y: float, text: str, name: str) -> Markup:
    return Markup('<text x="{}" y="{}" class="{}">{}</text>').format(_at(x), _at(y), name, text)


def _line(x1: float, y1: float, x2: float, y2: float, name: str) -> Markup:
    return Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"/>').format(_at(x1), _at(y1), _at(x2), _at(y2), name)


def _whisker(low: float, high: float, y: float) -> Markup:
    ends = ((low, y, high, y), (low, y - 4, low, y + 4), (high, y - 4, high, y + 4))
    return Markup("").join(_line(*end, name) for name in ("halo", "whisker") for end in ends)


def _path(points: Sequence[tuple[float, float]], line: Line) -> Markup:
    way = " ".join(f"{'M' if index == 0 else 'L'}{_at(x)} {_at(y)}" for index, (x, y) in enumerate(points))
    return Markup('<path d="{}" class="line stroke-{}"><title>{}</title></path>').format(way, line.series, line.label)


def _dot(x: float, y: float, series: int, tip: str) -> Markup:
    circle = '<circle cx="{}" cy="{}" r="{}" class="dot series-{}"><title>{}</title></circle>'
    return Markup(circle).format(_at(x), _at(y), 3.5 if series == 0 else 2.6, series, tip)


def _marked_point(x: float, y: float, bottom: float, text: str) -> list[Markup]:
    ring = Markup('<circle cx="{}" cy="{}" r="7" class="ring"><title>{}</title></circle>').format(_at(x), _at(y), text)
    # Left of the line in the right half of the drawing, so that the text stays inside.
    side = "end" if x > WIDTH / 2 else ""
    label = _text(x + (-8 if side else 8), bottom - 9, text, f"value small {side}")
    return [_line(x, y + 7, x, bottom, "drop"), ring, label]


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def _inside(values: Sequence[float], low: float, high: float) -> list[float]:
    return [value for value in values if low - 1e-9 <= value <= high + 1e-9] or [low]


def _spread(places: Sequence[float], gap: float) -> list[float]:
    """Move places apart until neighbors are ``gap`` apart, in their order."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved = list(places)
    for before, here in pairwise(order):
        moved[here] = max(moved[here], moved[before] + gap)
    shift = sum(a - b for a, b in zip(moved, places, strict=True)) / len(places)
    return [value - shift for value in moved]
