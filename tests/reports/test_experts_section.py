"""The section of experts: there for models with experts only, with every share of the measurement in its heat maps."""

from dataclasses import replace

import pytest

from genrec.reports.experts import expert_curves, expert_maps, experts_sentence
from genrec.reports.html import render_report
from genrec.reports.plots import heat_map

LAYER = {
    "load": [0.75, 0.25, 0.0],
    "max_load": 2.25,
    "idle": 1,
    "entropy": 1.0,
    "category": {"nmi": 0.31, "nmi_by_chance": 0.04, "shares": [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]},
    "level": None,
}
EXPERTS = {
    "users": 1500,
    "positions": 100,
    "experts": 3,
    "experts_per_token": 2,
    "category": {"column": "genre", "groups": 2, "names": ["Beauty > Skin <b>", "Bath"], "positions": [60, 40]},
    "level": None,
    "layers": [LAYER, {**LAYER, "max_load": 1.5, "idle": 0}],
}
RECORDS = [
    {"step": n, "epoch": n / 2, "loss": 1.0, "expert_max_load": 1 + n, "expert_entropy": 1.1, "expert_dropped": 0.0}
    for n in range(1, 5)
]


def test_the_sentence_says_loads_and_specialization():
    said = experts_sentence(EXPERTS)
    assert "3 experts in 2 layers, 2 for each position" in said
    assert "on 1,500 validation users" in said
    assert "1.50 to 2.25 times the mean, 1 of 6 are idle" in said
    assert "by the category 0.31 (by chance 0.04)" in said
    assert "level" not in said
    one = {**EXPERTS, "category": None, "layers": [{**LAYER, "idle": 0}]}
    assert experts_sentence(one).endswith("in 1 layer, 2 for each position; on 1,500 validation users the busiest of a "
                                          "layer does 2.25 times the mean, none is idle.")  # fmt: skip
    assert experts_sentence({}) == ""


def test_curves_are_those_of_the_log_and_flat_zeros_are_left_out():
    figures = expert_curves([{"step": 0, "note": "x"}, *RECORDS])
    assert [figure.title for figure in figures] == ["Largest load", "Router entropy"]
    assert "largest load from 2.00 to 5.00" in figures[0].chart
    dropping = [{**record, "expert_dropped": 0.1} for record in RECORDS]
    assert [figure.title for figure in expert_curves(dropping)][2] == "Dropped choices"
    assert expert_curves([{"step": 1, "epoch": 1.0, "loss": 2.0}]) == []


def test_maps_show_every_share_and_escape_names():
    figures = expert_maps(EXPERTS)
    assert [figure.title for figure in figures] == [f"Categories by expert, expert layer {n}" for n in (1, 2)]
    chart = figures[0].chart
    assert chart.count('class="cell"') == 6
    assert "Skin &lt;b&gt;, 1: 100.0%" in chart
    assert "Bath, 2: 50.0%" in chart
    assert "<b>" not in chart
    assert "an equal share is 33.3. Specialization 0.310, by chance 0.040" in figures[0].caption


def test_categories_that_end_alike_are_told_apart():
    names = ["Beauty > Skin > Lotions", "Beauty > Hair > Lotions", "Beauty > Bath", "others"]
    category = {"column": "c", "groups": 5, "names": names, "positions": [4, 3, 2, 1]}
    layer = {**LAYER, "category": {"nmi": 0.1, "nmi_by_chance": 0.0, "shares": [[1.0, 0.0, 0.0]] * 4}}
    (figure,) = expert_maps({**EXPERTS, "category": category, "layers": [layer]})
    for name in ("Lotions (Skin)", "Lotions (Hair)", "Bath", "others"):
        assert f">{name}</text>" in figure.chart


@pytest.mark.parametrize("columns", [4, 64])
def test_numbers_stand_in_cells_that_have_room(columns):
    chart = heat_map(["a"], [str(n) for n in range(columns)], [[1 / columns] * columns], title="x")
    assert chart.count('class="cell"') == columns
    assert chart.count("cell-text") == (columns if columns == 4 else 0)


def test_the_section_is_there_for_models_with_experts_only(content):
    assert 'id="experts"' not in render_report(content)
    page = render_report(replace(content, experts=EXPERTS, training=RECORDS))
    assert 'id="experts"' in page
    assert 'href="#experts"' in page
    assert page.count('class="cell"') == 12
    assert "1 of 6 are idle" in page
