import csv
import io
import json

import pytest

from genrec.errors import ConfigError
from genrec.evaluation.tables import (
    FORMATS,
    escape_latex,
    escape_markdown,
    metric_name,
    render_table,
    results_table,
    side_by_side,
)


def run(recall, ndcg, interval=True):
    found = {"metrics": {"recall@10": recall, "ndcg@10": ndcg, "coverage@10": 0.5}}
    return found | ({"confidence": {"intervals": {"ndcg@10": [ndcg - 0.01, ndcg + 0.01]}}} if interval else {})


RESULTS = {
    "pop_1 & co": [run(0.1, 0.05)],
    "ours": [run(0.20, 0.11), run(0.22, 0.10), run(0.24, 0.09)],
    "knn": [run(0.3, 0.08)],
}


@pytest.fixture
def table():
    return results_table(RESULTS)


def test_mean_and_sample_deviation_over_runs(table):
    assert table.metrics == ("recall@10", "ndcg@10", "coverage@10")
    ours = table.rows[1]
    assert ours.runs == 3
    assert ours.mean["recall@10"] == pytest.approx(0.22)
    assert ours.deviation["recall@10"] == pytest.approx(0.02)
    assert ours.interval == {}
    assert ours.text("recall@10") == "0.2200 ± 0.0200"
    assert table.rows[0].text("recall@10") == "0.1000"
    assert table.rows[0].interval == {"ndcg@10": (0.04, pytest.approx(0.06))}
    assert table.rows[0].text("mrr@10") == "-"


def test_best_only_where_more_is_better(table):
    assert (table.best("recall@10"), table.best("ndcg@10"), table.best("coverage@10")) == ("knn", "ours", None)
    assert table.best("recall@10", 1) == "ours"
    assert table.best("recall@10", 3) is None


def test_csv_reads_back_in_full_precision(table):
    rows = list(csv.DictReader(io.StringIO(render_table(table, "csv"))))
    assert [row["system"] for row in rows] == list(RESULTS)
    assert float(rows[1]["recall@10"]) == table.rows[1].mean["recall@10"]
    assert float(rows[1]["recall@10_sd"]) == table.rows[1].deviation["recall@10"]
    assert rows[1]["ndcg@10_low"] == ""
    assert float(rows[0]["ndcg@10_high"]) == pytest.approx(0.06)


def test_json_reads_back(table):
    rows = json.loads(render_table(table, "json"))
    assert rows[1]["runs"] == 3
    assert rows[1]["sd"] == table.rows[1].deviation
    assert rows[0]["interval"]["ndcg@10"][0] == 0.04


def test_markdown(table):
    assert render_table(table, "markdown").splitlines() == [
        "| system | Recall@10 | NDCG@10 | Coverage@10 |",
        "|---|---:|---:|---:|",
        r"| pop\_1 &amp; co | 0.1000 | 0.0500 | 0.5000 |",
        "| ours | 0.2200 ± 0.0200 | **0.1000 ± 0.0100** | 0.5000 ± 0.0000 |",
        "| knn | **0.3000** | 0.0800 | 0.5000 |",
    ]


def test_latex(table):
    lines = render_table(table, "latex").splitlines()
    assert lines[:4] == [
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        r"System & Recall@10 & NDCG@10 & Coverage@10 \\",
        r"\midrule",
    ]
    assert lines[4] == r"pop\_1 \& co & 0.1000 & 0.0500 & 0.5000 \\"
    assert lines[5] == (
        r"ours & \underline{0.2200 $\pm$ 0.0200} & \textbf{0.1000 $\pm$ 0.0100} & 0.5000 $\pm$ 0.0000 \\"
    )
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]


def test_a_single_system_has_no_best_mark():
    assert "**" not in render_table(results_table({"one": [run(0.1, 0.2)]}), "markdown")


def test_baselines_stand_before_the_run_and_average_over_its_seeds():
    seeds = [run(0.2, 0.1) | {"baselines": {"itemknn": run(value, 0.1), "mine": run(0, 0)}} for value in (0.1, 0.3)]
    table = side_by_side(seeds, "ours", ["recall@10"])
    assert [(row.system, row.runs) for row in table.rows] == [("Item-kNN", 2), ("mine", 2), ("ours", 2)]
    assert table.rows[0].mean["recall@10"] == pytest.approx(0.2)


def test_a_metric_that_a_run_lacks_is_left_open():
    table = results_table(
        {"a": [run(0.1, 0.1)], "b": [{"metrics": {"recall@10": 0.2, "ndcg@10": None}}]}, ["recall@10", "ndcg@10"]
    )
    assert table.rows[1].text("ndcg@10") == "-"
    assert render_table(table, "csv").splitlines()[2] == "b,1,0.2,,,,,,,"


def test_an_unknown_format_is_refused(table):
    with pytest.raises(ConfigError, match=r"no table format 'xlsx'\n.*csv, json, latex, markdown"):
        render_table(table, "xlsx")
    assert list(FORMATS) == ["csv", "json", "latex", "markdown"]


def test_escapes():
    assert (
        escape_latex(r"50% of_all {x} \ ~^")
        == r"50\% of\_all \{x\} \textbackslash{} \textasciitilde{}\textasciicircum{}"
    )
    assert escape_markdown("a|b\n<script>*x*") == r"a\|b &lt;script&gt;\*x\*"


def test_names():
    assert [metric_name(name) for name in ("ndcg@10", "popularity_rank@5")] == ["NDCG@10", "Popularity rank@5"]
