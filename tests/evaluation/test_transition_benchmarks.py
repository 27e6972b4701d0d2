"""The benchmarks of transitions and of runs under load: their logs and comparisons, and that they run through."""

import argparse
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

SCRIPTS = Path(__file__).parents[2] / "scripts" / "benchmarks"
MEMORY = SimpleNamespace(**runpy.run_path(str(SCRIPTS / "transitions_memory.py"), run_name="benchmark"))
LOAD = SimpleNamespace(**runpy.run_path(str(SCRIPTS / "load_independence.py"), run_name="benchmark"))


def test_the_log_holds_out_the_last_two_events():
    log = MEMORY.Log(users=30, items=50, interactions=400, seed=1)
    train, (histories, targets), (later, last) = log.train(), log.evaluation("validation"), log.evaluation("test")
    assert len(train.items) == 400 - 2 * 30
    assert train.lengths.min() >= 2
    for user in range(30):
        assert histories[user].tolist() == train[user].tolist()
        assert later[user].tolist() == [*train[user], *targets[user]]
        assert len(last[user]) == 1
    assert log.train_popularity().sum() == 340
    assert np.bincount(np.concatenate([MEMORY.Log(30, 50, 5000, 1).train().items]), minlength=50)[:10].sum() > 1500


def test_the_measurement_runs_through(monkeypatch):
    monkeypatch.setattr("genrec.evaluation.baselines.transition.text_vectors", None)
    arguments = argparse.Namespace(users=1100, items=40, interactions=6000, text_size=4, seed=0)
    found = MEMORY.measure(arguments)
    assert found["links"] > 0
    assert 0 < found["log"]["peak_gb"] <= found["tuned"]["peak_gb"] < 12
    assert found["within_bound"] is True


def test_every_figure_is_compared():
    alone = {"metrics": {"ndcg@10": 0.1, "recall@10": 0.2}, "notes": ["a"], "seeds": []}
    loaded = {"metrics": {"ndcg@10": 0.1 + 2**-56, "recall@10": 0.2}, "notes": []}
    found = LOAD.compare(LOAD.figures(alone), LOAD.figures(loaded))
    assert found["figures"] == 3
    assert found["different"] == {"/metrics/ndcg@10": [0.1, 0.1 + 2**-56], "/notes/0": ["a", None]}
    assert LOAD.compare(LOAD.figures(alone), LOAD.figures(alone))["different"] == {}


def test_busy_processes_end_with_the_block(monkeypatch):
    started, start = [], subprocess.Popen

    def noted(*arguments, **options):
        started.append(start(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", noted)
    with LOAD.busy_processes(2):
        assert [process.args[0] for process in started] == [sys.executable] * 2
        assert [process.poll() for process in started] == [None, None]
    assert all(process.returncode for process in started)
