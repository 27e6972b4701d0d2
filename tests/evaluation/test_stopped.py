"""A training that the clock ended is marked wherever its figures are, and no difference to it counts."""

import numpy as np
import pytest

from genrec.config import EvaluationConfig
from genrec.evaluation import Protocol, metrics_json, score_lists
from genrec.evaluation.tables import render_table, side_by_side, to_csv
from genrec.reports.content import ReportContent
from genrec.reports.html import render_report, summary_sentence
from genrec.reports.model_card import render_model_card

STOPPED = "stopped by time at 10.7 of 40 epochs"


@pytest.fixture(scope="module")
def results(skewed):
    """Scores of lists that always hit, of lists that never do, by a training that was stopped or not."""
    _, targets = skewed.evaluation("test")
    hits = np.stack([np.roll(np.arange(60), -int(targets[row][0]))[:10] for row in range(len(targets))])
    misses = np.full_like(hits, -1)

    def score(name, lists, stopped=None):
        protocol = Protocol(split="leave-one-out", part="test", catalogue=60, exclude_seen=False, stopped=stopped)
        return score_lists(name, lists, skewed, protocol, EvaluationConfig(ks=(10,), bootstrap_samples=50))

    return lambda ours, baseline: metrics_json(
        score("depth", hits, ours), [score("sasrec", misses, baseline)], [score("depth, codes only", hits)]
    )


@pytest.mark.parametrize(("ours", "baseline"), [(STOPPED, None), (None, STOPPED)])
def test_every_place_has_the_mark(ours, baseline, results):
    run = results(ours, baseline)
    name = "depth" if ours else "SASRec"
    assert any(STOPPED in note for note in run["notes"])
    content = ReportContent(name="x", system="depth", runs=[run])
    table = side_by_side([run], "depth")
    for style in ("markdown", "latex", "json"):
        assert STOPPED in render_table(table, style)
    assert table.footnotes == [f"\u2020 {name}: {STOPPED}"]
    page = render_report(content)
    assert f"{name} \u2020" in page
    assert STOPPED in page
    assert STOPPED in render_model_card(content, location="x")


def test_no_difference_to_an_unfinished_training_is_said_to_count(results):
    finished = ReportContent(name="x", system="depth", runs=[results(None, None)])
    assert "the difference says nothing" not in summary_sentence(finished, 10)
    assert "+1.0000" in render_report(finished) or "excludes zero" in render_report(finished)
    for stops in ((STOPPED, None), (None, STOPPED)):
        content = ReportContent(name="x", system="depth", runs=[results(*stops)])
        page = render_report(content)
        sasrec = page[page.index("SASRec") :]
        assert "+" not in sasrec[: sasrec.index("</tr>")].replace("\u2212", "-")


def test_the_strongest_baseline_is_no_variant_of_the_system(results):
    content = ReportContent(name="x", system="depth", runs=[results(None, None)])
    assert "codes only" not in summary_sentence(content, 10)
    assert "codes only" in render_table(side_by_side(content.runs, "depth"), "markdown")
    assert "codes only" in to_csv(side_by_side(content.runs, "depth"))
