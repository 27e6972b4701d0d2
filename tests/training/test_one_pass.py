"""The benchmark of one pass per user compares like with like."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from genrec.data import Dataset

SCRIPT = Path(__file__).parents[2] / "scripts/benchmarks/one_pass.py"


def test_all_ways_have_the_same_loss_and_the_same_tokens_per_batch(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    figures = tmp_path / "figures.json"
    data = str(tiny_dataset.path)
    monkeypatch.setattr(
        sys, "argv", ["x", "--data", data, "--json", str(figures), "--batch-size", "16", "--rounds", "2"]
    )
    runpy.run_path(str(SCRIPT), run_name="__main__")
    result = json.loads(figures.read_text())
    losses = result["loss_on_the_same_targets"]
    assert losses["padded"] == pytest.approx(losses["one_pass"], rel=1e-5)
    assert losses["trimmed"] == pytest.approx(losses["one_pass"], rel=1e-5)
    ways = result["ways"]
    lengths = tiny_dataset.train().lengths
    assert ways["one_pass"]["samples"] == len(lengths)
    assert ways["padded"]["samples"] == ways["trimmed"]["samples"] == (lengths - 1).sum()
    assert ways["padded"]["epoch_tokens"] == (lengths - 1).sum() * 21 * 4
    assert ways["trimmed"]["epoch_tokens"] >= sum(n * (n + 1) // 2 - 1 for n in lengths) * 4
    assert ways["one_pass"]["batches_measured"] == ways["one_pass"]["batches"]
    assert result["padded_over_one_pass"] > 1
