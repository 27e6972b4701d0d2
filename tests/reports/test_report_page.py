import copy
import errno
import re
from html.parser import HTMLParser
from unittest.mock import Mock

import pytest

from genrec.artifacts import write_json
from genrec.artifacts.marks import without_stamp
from genrec.errors import ArtifactError
from genrec.reports.content import ReportContent
from genrec.reports.html import headline_k, render_report, summary_sentence, write_report

VOID = {"meta", "br", "link", "img", "hr", "input", "rect", "circle", "line", "path"}


class Page(HTMLParser):
    """Tags in order, open ones checked against closing ones, visible text."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.text = [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID or tag in ("rect", "circle", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text += data


@pytest.fixture(scope="module")
def page(content):
    return render_report(content)


def test_the_page_is_well_formed_and_has_all_sections(page):
    parsed = Page(page)
    assert parsed.open == []
    ids = {attributes["id"] for tag, attributes in parsed.tags if tag == "section"}
    assert ids == {"results", "slices", "examples", "training", "semantic-ids", "protocol", "run"}
    links = {attributes["href"][1:] for tag, attributes in parsed.tags if tag == "a"}
    assert links == ids


def test_nothing_is_loaded_from_elsewhere(page):
    parsed = Page(page)
    assert not {"script", "link", "iframe", "img", "object", "embed"} & {tag for tag, _ in parsed.tags}
    assert not [name for _, attributes in parsed.tags for name in attributes if name.startswith("on") or name == "src"]
    assert "url(" not in page
    assert "@import" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "default-src 'none'" in page


def test_text_of_users_stays_text(page, content):
    assert "<script" not in page
    assert "<b>" not in page.replace("k_core", "")
    assert "&lt;script&gt;" in page
    assert content.name in Page(page).text
    assert content.recipe in Page(page).text


def test_every_chart_has_a_label(page):
    charts = [attributes for tag, attributes in Page(page).tags if tag == "svg"]
    assert len(charts) == 9
    assert all(chart["role"] == "img" and len(chart["aria-label"]) > 10 for chart in charts)


def test_numbers_on_the_page_are_those_of_the_run(page, run):
    text = Page(page).text
    for system in (run, run["baselines"]["popularity"]):
        assert f"{system['metrics']['ndcg@10']:.4f}" in text
        assert f"{system['metrics']['coverage@10']:.4f}" in text
    low, high = run["confidence"]["intervals"]["recall@10"]
    assert f"{low:.4f}–{high:.4f}" in text
    assert f"{run['baselines']['popularity']['difference']['ndcg@10'][0]:+.4f}" in text
    assert "best 0.3000 at epoch 20" in text
    assert "6 of 8" in text
    assert "hidden size 8" in text
    assert "dropout" not in text
    assert "1:15 min" in text
    assert "genrec run" in text


def test_examples_mark_the_held_out_item(page, content):
    marked = [attributes for tag, attributes in Page(page).tags if tag == "li" and attributes.get("class") == "held"]
    assert len(marked) == sum(item.held_out for example in content.examples for item in example.recommended)
    assert f"held-out item in place {content.examples[0].place}" in page
    assert "−1.25" in page


def test_a_bare_run_gives_a_page_without_empty_sections(run):
    bare = {
        key: value
        for key, value in copy.deepcopy(run).items()
        if key not in ("baselines", "slices", "confidence", "notes")
    }
    page = render_report(ReportContent("x", "depth", [bare]))
    parsed = Page(page)
    assert {attributes["id"] for tag, attributes in parsed.tags if tag == "section"} == {"results", "protocol", "run"}
    assert "minus this" not in page
    assert "undefined" not in page.lower()


def test_a_run_scored_on_few_ks_uses_the_largest(run):
    small = copy.deepcopy(run)
    for system in (small, small["baselines"]["popularity"]):
        system["metrics"] = {name: value for name, value in system["metrics"].items() if not name.endswith("@10")}
    assert headline_k(small["metrics"]) == 5
    assert "Recall@5" in render_report(ReportContent("x", "depth", [{**small, "slices": {}}]))


def test_several_seeds_are_averaged(run):
    other = copy.deepcopy(run)
    other["metrics"]["ndcg@10"] += 0.02
    page = render_report(ReportContent("x", "depth", [run, other]))
    assert f"{run['metrics']['ndcg@10'] + 0.01:.4f} ± 0.0141" in page
    assert "standard deviation over 2 runs" in page


def test_metrics_json_read_back_gives_the_same_page(run, tmp_path, content):
    from genrec.artifacts import read_json

    write_json(tmp_path / "metrics.json", run)
    again = read_json(tmp_path / "metrics.json")
    assert render_report(ReportContent("x", "depth", [again])) == render_report(ReportContent("x", "depth", [run]))


def with_difference(run, mean, low, high):
    changed = copy.deepcopy(run)
    beside = changed["baselines"]["popularity"]
    beside["metrics"]["ndcg@10"] = changed["metrics"]["ndcg@10"] - mean
    beside["difference"]["ndcg@10"] = [mean, low, high]
    return ReportContent("x", "depth", [changed])


def test_the_summary_says_what_was_found_and_against_whom(run):
    found = f"{run['metrics']['recall@10']:.1%}"
    value = run["metrics"]["ndcg@10"]
    sure = summary_sentence(with_difference(run, value / 5, 0.01, 0.5), 10).replace("\u00a0", " ")
    assert sure == (
        f"depth lists the held-out item among its first 10 for {found} of 57 users (NDCG@10 {value:.4f}). That is "
        "25.0% more NDCG@10 than Popularity, the strongest baseline."
    )
    far = summary_sentence(with_difference(run, value / 2, 0.01, 0.5), 10)
    assert "That is 2.0 times the NDCG@10 of Popularity" in far
    worse = summary_sentence(with_difference(run, -value, -0.5, -0.1), 10)
    assert "That is 50.0% less NDCG@10 than Popularity" in worse
    unsure = summary_sentence(with_difference(run, value / 2, -0.01, 0.5), 10)
    assert unsure.endswith("; the choice of users could explain the difference.")


def test_the_summary_of_other_splits_counts_items(run):
    ratio = copy.deepcopy(run)
    ratio["protocol"]["split"] = "ratio"
    ratio["baselines"] = {}
    assert re.search(
        r"lists .*% of the held-out items of 57.users", summary_sentence(ReportContent("x", "m", [ratio]), 10)
    )


def test_writing_replaces_the_page_or_says_why_not(content, tmp_path, monkeypatch):
    write_report(tmp_path / "report.html", content)
    assert without_stamp((tmp_path / "report.html").read_text(encoding="utf-8")) == render_report(content) + "\n"
    before = (tmp_path / "report.html").read_bytes()
    full_disk = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("genrec.artifacts.files.os.replace", Mock(side_effect=full_disk))
    with pytest.raises(ArtifactError, match="the disk is full"):
        write_report(tmp_path / "report.html", content)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_bytes() == before
