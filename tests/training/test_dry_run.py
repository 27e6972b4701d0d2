"""A trial step: on the largest batch, with an estimate that adds up, and without a trace."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from test_memory import Small
from tiny_training import TinyData, TinyModel, settings

from genrec.cli import main
from genrec.data import Dataset
from genrec.errors import ConfigError, MemoryExhaustedError
from genrec.training import dry_run
from genrec.training.batches import cut_windows, update_rows

MODULE = sys.modules["genrec.training.dry_run"]


def test_it_takes_the_longest_windows():
    class Watching(TinyModel):
        def forward(self, items, lengths):
            seen.append(sorted(lengths.tolist()))
            return super().forward(items, lengths)

    seen: list[list[int]] = []
    data = TinyData()
    estimate = dry_run(Watching(), data, settings(batch_size=8, gradient_accumulation_steps=2))
    longest = sorted(cut_windows(data.train(), 6).lengths.tolist())[-8:]
    assert seen[0] == longest
    # The first update warms up, two are timed, each of two micro-batches.
    assert seen == [longest] * 6
    assert (estimate.users, estimate.items) == (8, 6)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_estimate_goes_by_padded_positions(monkeypatch: pytest.MonkeyPatch, accumulation: int):
    monkeypatch.setattr(MODULE, "_timed", lambda *_: 2.0)
    data, model = TinyData(), TinyModel()
    config = settings(epochs=3, batch_size=8, gradient_accumulation_steps=accumulation)
    estimate = dry_run(model, data, config)
    lengths = cut_windows(data.train(), 6).lengths
    positions = 0
    for rows in update_rows(lengths, 8 * accumulation, 42, 0):
        for start in range(0, len(rows), 8):
            micro_batch = [int(lengths[row]) for row in rows[start : start + 8]]
            positions += len(micro_batch) * max(micro_batch)
    assert estimate.seconds == pytest.approx(3 * 2.0 * positions / (8 * 6 * accumulation))
    assert estimate.step_seconds == 2.0
    assert estimate.updates == 3 * len(update_rows(lengths, 8 * accumulation, 42, 0))
    weights = sum(p.numel() for p in model.parameters())
    assert estimate.parameters == weights
    # Two kept, the best, one being written: each the weights, a buffer of 20 numbers, and two moments per weight.
    assert estimate.disk == 4 * 4 * (3 * weights + 20)


def test_the_peak_is_at_least_what_the_model_takes():
    class Wasteful(TinyModel):
        def forward(self, items, lengths):
            held = torch.ones(50_000_000)  # 200 MB
            return super().forward(items, lengths) if held[0] else None

    before = dry_run(TinyModel(), TinyData(), settings()).memory
    after = dry_run(Wasteful(), TinyData(), settings()).memory
    assert before is not None
    assert after is not None
    assert after > 190_000_000
    assert after >= before


def test_it_says_into_how_many_pieces_a_batch_must_be_cut():
    text = dry_run(Small(3), TinyData(), settings(batch_size=8)).text()
    assert "largest batch: 8 users of up to 6 items, cut into 4 pieces to fit into memory" in text
    with pytest.raises(MemoryExhaustedError, match="memory ran out while training"):
        dry_run(Small(0), TinyData(), settings(batch_size=8))


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="a dry run was started in several processes") as caught:
        dry_run(TinyModel(), TinyData(), settings())
    assert "without a launcher" in caught.value.fix


RECIPE = """
recommender: {name: sasrec, hidden_size: 16, num_layers: 1, num_heads: 1, max_history: 10}
training: {epochs: 2, batch_size: 16, precision: bf16}
"""


def test_the_command_writes_nothing(tiny_dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    command = [str(recipe), "--dataset", str(tiny_dataset.path), "--out", str(tmp_path / "out" / "model"), "--dry-run"]
    assert main(["train", *command]) == 0
    told = capsys.readouterr().out
    assert "largest batch: 16 users of up to 11 items" in told
    assert "memory at its peak: " in told
    assert "updates: about 0:0" in told
    assert "nothing was written" in told
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_the_script_does_the_same(tiny_dataset, tmp_path, monkeypatch, capsys):
    script = Path(__file__).parents[2] / "scripts" / "train_recommender.py"
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    out = ["--dataset", str(tiny_dataset.path), "--out", str(tmp_path / "model")]
    monkeypatch.setattr("sys.argv", [str(script), str(tmp_path / "recipe.yaml"), *out, "--dry-run"])
    with pytest.raises(SystemExit) as done:
        runpy.run_path(str(script), run_name="__main__")
    assert done.value.code == 0
    assert "nothing was written" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]
