import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.reports.plots import Bar, Line, bar_chart, grouped_bars, line_chart, number, thinned, ticks

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)


def parsed(chart):
    return ElementTree.fromstring(str(chart))


def rectangles(chart):
    return [(float(part.get("x")), float(part.get("width")), part.get("class")) for part in parsed(chart).iter("rect")]


def test_bars_are_as_long_as_their_values():
    chart = bar_chart([Bar("a", 0.1), Bar("b", 0.4, 0.3, 0.5, series=0)], title="Recall")
    (start, first, _), (other, second, accent) = rectangles(chart)
    assert start == other
    assert second == pytest.approx(4 * first, rel=0.01)
    assert accent == "series-0"
    whiskers = [part for part in parsed(chart).iter("line") if part.get("class") == "whisker"]
    low, high = (float(whiskers[0].get(name)) for name in ("x1", "x2"))
    assert (low - start) / second == pytest.approx(0.3 / 0.4, rel=0.01)
    assert (high - start) / second == pytest.approx(0.5 / 0.4, rel=0.01)


def test_charts_have_labels_for_screen_readers_and_tooltips():
    chart = bar_chart([Bar("itemknn", 0.0706, 0.06, 0.08)], title="Recall@10")
    assert parsed(chart).get("role") == "img"
    assert parsed(chart).get("aria-label") == "Recall@10: itemknn 0.0706"
    assert "itemknn: 0.0706 (0.0600 to 0.0800)" in [title.text for title in parsed(chart).iter("title")]


def test_text_is_escaped():
    nasty = '"><script>alert(1)</script>&'
    for chart in (
        bar_chart([Bar(nasty, 1.0)], title=nasty),
        grouped_bars([(nasty, nasty, [Bar(nasty, 1.0)])], title=nasty),
        line_chart(
            [Line(nasty, ((0, 1), (1, 2))), Line("b", ((0, 1),), 1)], title=nasty, x_label=nasty, mark=(0, 1, nasty)
        ),
    ):
        assert "<script" not in chart
        assert nasty in parsed(chart).get("aria-label")


def test_nothing_to_draw_and_zeros_are_drawn():
    assert rectangles(bar_chart([], title="x")) == []
    assert len(rectangles(bar_chart([Bar("a", 0.0)], title="x"))) == 1
    assert len(rectangles(grouped_bars([("g", "", [Bar("a", 0.0)])], title="x"))) == 1


def test_groups_share_one_scale():
    chart = grouped_bars(
        [("cold", "3 users", [Bar("a", 0.1)]), ("head", "9 users", [Bar("a", 0.2, series=0)])], title="x"
    )
    (_, first, _), (_, second, _) = rectangles(chart)
    assert second == pytest.approx(2 * first, rel=0.01)
    assert parsed(chart).get("aria-label") == "x: cold, a 0.100; head, a 0.200"


def points_of(chart):
    way = next(part.get("d") for part in parsed(chart).iter("path"))
    return [tuple(map(float, pair)) for pair in re.findall(r"[ML]([-\d.]+) ([-\d.]+)", way)]


def test_lines_go_where_the_points_are():
    chart = line_chart(
        [Line("loss", ((0, 4.0), (1, 2.0), (4, 3.0)))], title="Loss", x_label="epoch", mark=(1, 2.0, "best")
    )
    (x0, y0), (x1, y1), (x2, y2) = points_of(chart)
    assert (x2 - x0) == pytest.approx(4 * (x1 - x0), abs=0.5)
    assert (y1 - y0) == pytest.approx(2 * (y1 - y2), abs=0.5)
    ring = next(part for part in parsed(chart).iter("circle") if part.get("class") == "ring")
    assert (float(ring.get("cx")), float(ring.get("cy"))) == (x1, y1)


def test_given_x_values_stand_at_equal_distances():
    chart = line_chart([Line("a", ((1, 0.1), (5, 0.2), (50, 0.3)))], title="x", x_label="k", x_values=(1, 5, 50))
    xs = [x for x, _ in points_of(chart)]
    assert xs[2] - xs[1] == pytest.approx(xs[1] - xs[0], abs=0.2)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_any_points_stay_inside_the_drawing(points):
    chart = line_chart([Line("a", tuple(sorted(points)))], title="x", x_label="x")
    for x, y in points_of(chart):
        assert 0 <= x <= 520
        assert 0 <= y <= 250


def test_labels_of_close_lines_are_kept_apart():
    lines = [
        Line(name, ((0, 1.0), (1, value)), series)
        for series, (name, value) in enumerate({"a": 2.0, "b": 2.001, "c": 2.002}.items())
    ]
    chart = line_chart(lines, title="x", x_label="x")
    places = sorted(float(text.get("y")) for text in parsed(chart).iter("text") if text.text in ("a", "b", "c"))
    assert min(b - a for a, b in pairwise(places)) >= 14.9


@given(NUMBERS, NUMBERS)
@settings(deadline=None)
def test_ticks_cover_the_range_in_even_steps(first, second):
    low, high = sorted((first, second))
    found = ticks(low, high)
    slack = 1e-6 * (high - low) + 1e-9 * max(abs(low), abs(high)) + 1e-150
    assert found[0] <= low + slack
    assert found[-1] >= high - slack
    assert 2 <= len(found) <= 9


def test_ticks_are_round():
    assert ticks(0, 0.23) == [0, 0.05, 0.1, 0.15, 0.2, 0.25]
    assert ticks(2, 12, 4) == [0, 2.5, 5, 7.5, 10, 12.5]
    assert ticks(3, 3)[0] <= 3 < ticks(3, 3)[-1]


def test_long_logs_are_thinned_to_means():
    points = [(float(n), float(n % 2)) for n in range(1000)]
    small = thinned(points, 250)
    assert len(small) == 250
    assert small[0] == (1.5, 0.5)
    assert thinned(points[:5]) == tuple(points[:5])


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0706, "0.0706"), (1.5, "1.50"), (31.42, "31.4"), (512, "512"), (12345.6, "12,346"), (-0.5, "-0.500")],
)
def test_numbers_have_three_digits_that_count(value, text):
    assert number(value) == text
