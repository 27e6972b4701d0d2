"""The queue of reproductions: what it runs, what it keeps of a finished run, and how it goes on after a failure."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
from tiny_run import tiny_home

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def reproduce(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("reproduce", ROOT / "scripts" / "reproduce.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "reproduce", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "LEDGER", tmp_path / "results" / "ledger.json")
    monkeypatch.setattr(module, "PAGE", tmp_path / "results" / "reproductions.md")
    return module


def entries_of(module, seeds=(42, 43)):
    return [module.Entry("tiny", "tiny.yaml", "shop", "file", None, seed, published=(0.0648, 0.0384)) for seed in seeds]


def test_shipped_queue_names_recipes_that_exist_and_settings_that_they_take(reproduce):
    from genrec.config import load_recipe

    entries = reproduce.read_queue()
    assert len({entry.key for entry in entries}) == len(entries) > 0
    for entry in entries:
        load_recipe(ROOT / entry.recipe, [*entry.overrides(), "data.path=x"])


def test_one_run_twice_in_a_queue_is_refused(reproduce, tmp_path):
    queue = tmp_path / "queue.yaml"
    run = "{name: a, recipe: r, data: [d], runs: [{ties: file, seed: 1}, {ties: file, seed: 1}]}"
    queue.write_text(f"- {run}\n")
    with pytest.raises(ValueError, match="two runs"):
        reproduce.read_queue(queue)


def test_a_failed_run_ends_with_its_exit_code_and_its_time_is_kept(reproduce, tmp_path, monkeypatch):
    entry = entries_of(reproduce)[0]
    code = "import sys, time; start = time.process_time()\nwhile time.process_time() < start + 0.3: pass\nsys.exit({})"
    for exit_code in (3, 0):
        monkeypatch.setattr(reproduce, "command", lambda *_, c=exit_code: [sys.executable, "-c", code.format(c)])
        if exit_code:
            with pytest.raises(SystemExit) as raised:
                reproduce.run_entry(entry, tmp_path, tmp_path)
            assert raised.value.code == exit_code
        else:
            assert reproduce.run_entry(entry, tmp_path, tmp_path)
    attempts = json.loads((tmp_path / f"{entry.key}.usage.json").read_text())
    assert [attempt["exit_code"] for attempt in attempts] == [3, 0]
    assert all(attempt["processor_seconds"] >= 0.3 for attempt in attempts)


def test_ledger_holds_what_the_run_measured(reproduce, tmp_path):
    runs, entries = tmp_path / "runs", entries_of(reproduce)
    for entry, seconds in zip(entries, ([60.0, 90.0], [30.0]), strict=True):
        shutil.copytree(tiny_home() / "run", runs / entry.key)
        usage = [{"processor_seconds": value, "exit_code": 0} for value in seconds]
        (runs / f"{entry.key}.usage.json").write_text(json.dumps(usage))
    # The second run is better by a known amount: mean and deviation follow by hand.
    metrics = json.loads((runs / entries[1].key / "metrics.json").read_text())
    first = metrics["metrics"]["recall@10"]
    metrics["metrics"]["recall@10"] = first + 0.02
    (runs / entries[1].key / "metrics.json").write_text(json.dumps(metrics))

    rows = reproduce.collect(entries, runs)

    assert [row["core_minutes"] for row in rows] == [2.5, 0.5]
    training = json.loads((runs / entries[0].key / "model" / "training.json").read_text())
    assert rows[0]["validation"][-1][2] == pytest.approx(training["history"][-1]["validation"]["ndcg@10"], abs=1e-6)
    assert rows[0]["command"][:5] == ["genrec", "run", "tiny.yaml", "--set", "training.seed=42"]
    assert rows[1]["test"]["depth"]["recall@10"] == pytest.approx(first + 0.02, abs=1e-6)
    assert {"popularity", "itemknn", "transition", "sasrec", "depth"} <= set(rows[0]["test"])
    page = reproduce.PAGE.read_text()
    assert f"| tiny | depth | 2 | {first + 0.01:.4f} ± 0.0141 |" in page
    assert "0.0648 / 0.0384" in page

    # What another machine measured stays in the ledger when its runs are not here.
    shutil.rmtree(runs / entries[0].key)
    assert [row["seed"] for row in reproduce.collect(entries, runs)] == [42, 43]
