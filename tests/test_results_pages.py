"""Pages of results show the figures of the file that lies next to them."""

import json
import re
import runpy
from pathlib import Path

import pytest

from genrec.errors import ConfigError

ROOT = Path(__file__).parents[1]
PAGE, FIGURES = (ROOT / "docs" / "results" / name for name in ("ties.md", "ties.json"))
SCRIPT = ROOT / "scripts" / "benchmarks" / "ties.py"


@pytest.fixture(scope="module")
def script() -> dict:
    return runpy.run_path(str(SCRIPT))


def run(script: dict, monkeypatch, capsys, *arguments: object) -> str:
    monkeypatch.setattr("sys.argv", ["ties.py", *map(str, arguments)])
    script["main"]()
    return capsys.readouterr().out


def test_the_page_of_ties_has_every_row_of_its_figures(script, monkeypatch, capsys):
    rows = [line for line in run(script, monkeypatch, capsys, "table", FIGURES).splitlines() if line]
    page = PAGE.read_text(encoding="utf-8").splitlines()
    assert len(rows) > 10
    assert [row for row in rows if row not in page] == []
    # And no row that is not in the figures.
    shown = [line for line in page if line.startswith("|")]
    assert [line for line in shown if line not in rows] == []


def test_figures_of_a_run_are_added_and_drawn(script, monkeypatch, capsys, tmp_path):
    metrics = {f"{name}@{k}": 0.1 for name in ("recall", "ndcg") for k in (5, 10)}
    slices = {"ties": {"tied": {"users": 3, "targets": 3, "metrics": metrics}}}
    for number, protocol in enumerate(({}, *({"ties": "shuffle", "ties_seed": seed} for seed in (1, 2)))):
        values = {name: value * (1 + number) for name, value in metrics.items()}
        run_ = {"system": "depth", "users": 7, "metrics": values, "slices": slices, "settings": {}}
        run_ |= {"protocol": {"seeds": [5], **protocol}}
        run_ |= {"baselines": {"sasrec": {**run_, "system": "sasrec"}}, "variants": {}}
        (tmp_path / f"{number}.json").write_text(json.dumps(run_), encoding="utf-8")
    figures = tmp_path / "figures.json"
    for _ in range(2):
        run(script, monkeypatch, capsys, "add", figures, "--name", "Mine", *sorted(tmp_path.glob("[012].json")))
    assert len(json.loads(figures.read_text(encoding="utf-8"))["results"]) == 6
    printed = run(script, monkeypatch, capsys, "table", figures)
    deviation = 0.1 / 2**0.5
    assert re.search(rf"\| SASRec \| 0.1000 \| 0.2500 ± {deviation:.4f} \| - \| .* \| \+150.0% \|", printed)
    assert "| depth | 0.1000 | 0.1000 ± 0.0000 | - | - |" in printed
    page = tmp_path / "page.md"
    head = printed.splitlines()[0]
    page.write_text(printed.replace("0.2500", "old") + "\nText after.\n", encoding="utf-8")
    run(script, monkeypatch, capsys, "table", figures, "--page", page)
    assert page.read_text(encoding="utf-8") == printed + "\nText after.\n"
    page.write_text("No table.\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="has 0 tables with this head") as refused:
        run(script, monkeypatch, capsys, "table", figures, "--page", page)
    assert head in str(refused.value)
    run(script, monkeypatch, capsys, "draw", figures, "--figure", tmp_path / "ties.png")
    assert (tmp_path / "ties.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_data_are_counted_and_baselines_measured(script, monkeypatch, capsys, tmp_path):
    rows = [(f"u{user}", f"i{item:02}", item // 3) for user in range(12) for item in range(user % 4, 12 + user % 4)]
    (tmp_path / "data").mkdir()
    lines = ["user_id,item_id,timestamp", *(",".join(map(str, row)) for row in rows)]
    (tmp_path / "data" / "interactions.csv").write_text("\n".join(lines), encoding="utf-8")
    common = (tmp_path / "figures.json", "--data", f"Mine={tmp_path / 'data'}", "--work", tmp_path / "work")
    run(script, monkeypatch, capsys, "count", *common)
    run(script, monkeypatch, capsys, "measure", *common, "--seeds", 1, 2, "--systems", "popularity")
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert figures["datasets"]["Mine"]["ascending"] == 1.0
    orders = [(record["ties"], record["ties_seed"]) for record in figures["results"]]
    assert orders == [("file", None), ("shuffle", 1), ("shuffle", 2), ("exclude", None)]
