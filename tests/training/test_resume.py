"""A run that was stopped anywhere and started again is bit for bit the run that was not."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tiny_training import TinyData, TinyModel, quality, settings
from torch import Tensor, nn

from genrec.config import DecodingConfig
from genrec.errors import ArtifactError, ConfigError, GenrecError, InterruptedRun
from genrec.training import train_recommender

PLAN: dict[str, Any] = {"epochs": 2, "batch_size": 8, "gradient_accumulation_steps": 2}
STEPS = 10  # two epochs of five updates; the last update of an epoch has one micro-batch, the others have two
STEP_OF_CALL = [*([1, 1, 2, 2, 3, 3, 4, 4, 5]), *([6, 6, 7, 7, 8, 8, 9, 9, 10])]
TENSORS = ("model.safetensors", "optimizer.safetensors", "random.safetensors")


def stopping_at(call: int, number: int = signal.SIGTERM) -> TinyModel:
    """A model whose forward pass number ``call`` brings a signal."""

    def before_loss(now: int, loss: Tensor) -> Tensor:
        if now == call:
            os.kill(os.getpid(), number)
        return loss

    model = TinyModel()
    model.before_loss = before_loss
    return model


def end_state(folder: Path, step: int = STEPS) -> dict[str, Any]:
    """Everything that the last checkpoint says, but times."""
    state = json.loads((folder / f"checkpoint-{step}/state.json").read_text())
    del state["run"]["seconds"]
    for record in state["run"]["history"]:
        del record["seconds"], record["validation_seconds"]
    return {name: (folder / f"checkpoint-{step}" / name).read_bytes() for name in TENSORS} | {"state": state}


def logged(folder: Path) -> list[dict[str, Any]]:
    """The training log without times and notes."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    times = ("seconds", "users_per_second", "validation_seconds")
    return [{k: v for k, v in record.items() if k not in times} for record in records if "note" not in record]


@pytest.mark.parametrize("workers", [0, 2])
def test_resumes_bit_by_bit_from_every_step(train, tmp_path: Path, workers: int):
    whole = TinyModel()
    expected_result = train("whole", model=whole, num_workers=workers, **PLAN)
    assert expected_result.steps == STEPS
    expected = end_state(tmp_path / "whole")
    for call, step in enumerate(STEP_OF_CALL, start=1):
        if workers and call not in (3, 9, 10, 14):
            continue
        name = f"stopped-{call}"
        with pytest.raises(InterruptedRun) as caught:
            train(name, model=stopping_at(call), num_workers=workers, **PLAN)
        assert f"stopped by SIGTERM at step {step} and saved" in caught.value.what
        model = TinyModel()
        result = train(name, model=model, num_workers=workers, **PLAN)
        assert result.notes == [f"continuing from checkpoint-{step} of {STEPS} steps"]
        assert end_state(tmp_path / name) == expected, call
        assert logged(tmp_path / name) == logged(tmp_path / "whole"), call
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), whole.parameters(), strict=True))
        assert result.best_step == expected_result.best_step


@pytest.mark.parametrize("workers", [0, 2, 4])
def test_no_sample_is_lost_or_repeated(train, workers: int):
    """What a stopped and a continued run saw, one after the other, is what the whole run saw, batch for batch."""

    def watching(seen: list[list[list[int]]], stop: int | None = None) -> TinyModel:
        class Watching(TinyModel):
            def forward(self, items: Tensor, lengths: Tensor) -> Any:
                seen.append([row[:length].tolist() for row, length in zip(items, lengths, strict=True)])
                if len(seen) == stop:
                    os.kill(os.getpid(), signal.SIGTERM)
                return super().forward(items, lengths)

        return Watching()

    whole: list[list[list[int]]] = []
    train("whole", model=watching(whole), num_workers=workers, **PLAN)
    parts: list[list[list[int]]] = []
    # In the middle of an update of the first epoch; the update is finished. Then in the second epoch.
    for stop in (3, 13):
        with pytest.raises(InterruptedRun):
            train("parts", model=watching(parts, stop), num_workers=workers, **PLAN)
    train("parts", model=watching(parts), num_workers=workers, **PLAN)
    assert parts == whole
    epoch = sorted(row for batch in whole[:9] for row in batch)
    assert epoch == sorted(row for batch in whole[9:] for row in batch)
    lists = TinyData().lists
    assert sum(map(len, epoch)) == sum(map(len, lists)), "every item is a target once per epoch"


def test_a_mean_that_was_begun_is_logged_as_if_nothing_had_been(train, tmp_path: Path):
    """With several updates per record, the record after a stop is the mean of updates before and after it."""
    plan = {"epochs": 2, "batch_size": 2, "data": TinyData(users=60)}
    train("whole", **plan)
    records = [record["step"] for record in logged(tmp_path / "whole") if "loss" in record]
    assert records[:2] == [3, 6] or records[1] - records[0] > 1
    for call in (records[0] + 1, records[3] - 1):
        with pytest.raises(InterruptedRun):
            train(f"cut-{call}", model=stopping_at(call), **plan)
        train(f"cut-{call}", **plan)
        assert logged(tmp_path / f"cut-{call}") == logged(tmp_path / "whole")


def test_a_long_update_is_given_up_between_micro_batches(train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("genrec.training.loop.PATIENCE_AFTER_SIGNAL", 0.0)
    plan = {"epochs": 2, "batch_size": 4, "gradient_accumulation_steps": 4}
    train("whole", **plan)
    for call, step in ((1, 0), (6, 1), (8, 2), (21, 5)):
        model = stopping_at(call)
        with pytest.raises(InterruptedRun, match=f"at step {step} and saved"):
            train(f"cut-{call}", model=model, **plan)
        assert model.calls == call
        train(f"cut-{call}", **plan)
        assert end_state(tmp_path / f"cut-{call}") == end_state(tmp_path / "whole")
        assert logged(tmp_path / f"cut-{call}") == logged(tmp_path / "whole")


def test_stopped_again_and_again_it_still_arrives(train, tmp_path: Path):
    train("whole", **PLAN)
    for _ in range(STEPS):
        with pytest.raises(InterruptedRun):
            train("often", model=stopping_at(1), **PLAN)
    train("often", **PLAN)
    assert end_state(tmp_path / "often") == end_state(tmp_path / "whole")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_says_its_exit_code_and_what_to_do(train, number: int, code: int):
    before = signal.getsignal(number)
    with pytest.raises(InterruptedRun) as caught:
        train(model=stopping_at(3, number), **PLAN)
    assert caught.value.exit_code == code
    assert caught.value.fix == "run the same command again to continue from there"
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("stopped", [1, 2])
def test_a_signal_while_validating_leaves_the_validation_to_the_next_run(train, tmp_path: Path, stopped: int):
    train("whole", **PLAN)
    calls = []

    def validate(model: nn.Module) -> dict[str, float]:
        calls.append(len(calls) + 1)
        if calls[-1] == stopped:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(30)
        return quality(model)

    began = time.monotonic()
    with pytest.raises(InterruptedRun, match=f"stopped by SIGINT at step {5 * stopped}"):
        train("cut", validate=validate, **PLAN)
    assert time.monotonic() - began < 20
    train("cut", validate=validate, **PLAN)
    assert calls == [1, 2, 3]
    assert end_state(tmp_path / "cut") == end_state(tmp_path / "whole")
    assert logged(tmp_path / "cut") == logged(tmp_path / "whole")


def test_patience_that_ends_in_a_repeated_validation_trains_no_further(train):
    values = iter([0.5, 0.4])

    def validate(model: nn.Module) -> dict[str, float]:
        if len(calls := seen) == 1:
            calls.append("stopped")
            os.kill(os.getpid(), signal.SIGTERM)
        seen.append("done")
        return {"quality": next(values)}

    seen: list[str] = []
    with pytest.raises(InterruptedRun):
        train(validate=validate, epochs=5, patience=1)
    model = TinyModel()
    result = train(validate=validate, model=model, epochs=5, patience=1)
    assert (result.stopped, result.epochs, model.calls) == ("patience", 2, 0)


def test_after_a_kill_the_steps_since_the_last_checkpoint_are_repeated(train, tmp_path: Path):
    train("whole", **PLAN)
    model = TinyModel()

    def killed(call: int, loss: Tensor) -> Tensor:
        if call == 15:
            raise SystemError("as good as kill -9")
        return loss

    model.before_loss = killed
    with pytest.raises(SystemError):
        train("killed", model=model, save_steps=3, **PLAN)
    result = train("killed", save_steps=3, **PLAN)
    assert result.notes == [f"continuing from checkpoint-6 of {STEPS} steps"]
    assert end_state(tmp_path / "killed") == end_state(tmp_path / "whole")
    assert logged(tmp_path / "killed") == logged(tmp_path / "whole")


def test_a_damaged_checkpoint_is_skipped_said_and_replaced(train, tmp_path: Path):
    train("whole", **PLAN)
    with pytest.raises(InterruptedRun):
        train("hurt", model=stopping_at(12), **PLAN)
    damaged = tmp_path / "hurt/checkpoint-7/optimizer.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    result = train("hurt", **PLAN)
    assert "skipped checkpoint-7: optimizer.safetensors was changed" in result.notes[0]
    assert result.notes[1] == f"continuing from checkpoint-5 of {STEPS} steps"
    assert end_state(tmp_path / "hurt") == end_state(tmp_path / "whole")
    text = (tmp_path / "hurt/metrics.jsonl").read_text()
    assert "skipped checkpoint-7" in text


def test_when_nothing_is_usable_it_says_so_and_starts_anew(train, tmp_path: Path):
    train("whole", **PLAN)
    with pytest.raises(InterruptedRun):
        train("hurt", model=stopping_at(5), **PLAN)
    (tmp_path / "hurt/checkpoint-3/manifest.json").unlink()
    result = train("hurt", **PLAN)
    assert result.notes[-1] == "no checkpoint is usable: training starts anew"
    assert end_state(tmp_path / "hurt") == end_state(tmp_path / "whole")


def test_a_full_disk_stops_the_run_and_keeps_the_older_checkpoint(
    train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    train("whole", **PLAN)
    saved = []

    def full(model: nn.Module, path: str) -> None:
        saved.append(path)
        if len(saved) == 2:
            raise OSError(28, "No space left on device")
        real(model, path)

    from genrec.training import checkpoints

    real = checkpoints.save_model
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_model", full)
        with pytest.raises(ArtifactError, match="the disk is full"):
            train("full", **PLAN)
    assert [path.name for path in (tmp_path / "full").glob("*checkpoint*")] == ["checkpoint-5"]
    train("full", **PLAN)
    assert end_state(tmp_path / "full") == end_state(tmp_path / "whole")


def test_micro_batches_may_be_cut_smaller_when_memory_ran_out(train, tmp_path: Path):
    whole = TinyModel(dropout=0)
    train("whole", model=whole, epochs=2, batch_size=8)
    stopped = stopping_at(7)
    stopped.dropout.p = 0.0
    with pytest.raises(InterruptedRun):
        train("cut", model=stopped, epochs=2, batch_size=8)
    model = TinyModel(dropout=0)
    result = train("cut", model=model, epochs=2, batch_size=4, gradient_accumulation_steps=2)
    assert result.notes == ["continuing from checkpoint-7 of 18 steps"]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(model.parameters(), whole.parameters(), strict=True))


def test_changed_settings_and_other_models_are_refused(train):
    with pytest.raises(InterruptedRun):
        train(model=stopping_at(3), **PLAN)
    with pytest.raises(ConfigError, match=r"training\.learning_rate: 0\.01 -> 0\.02"):
        train(learning_rate=0.02, **PLAN)
    with pytest.raises(ConfigError, match="users per update: 16 -> 8"):
        train(**{**PLAN, "gradient_accumulation_steps": 1})
    other = TinyModel()
    other.head = nn.Linear(8, 20, bias=False)
    with pytest.raises(ArtifactError, match="belong to another model"):
        train(model=other, **PLAN)
    tables = TinyModel()
    tables.seen += 1
    with pytest.raises(ArtifactError, match="belong to another model"):
        train(model=tables, **PLAN)
    assert train(num_workers=2, patience=50, save_steps=2, max_minutes=10, **PLAN).steps == STEPS


def test_a_larger_time_budget_continues_a_run_that_time_ended(train):
    assert train(max_minutes=1e-6, **PLAN).stopped == "time"
    result = train(max_minutes=10, **PLAN)
    assert (result.stopped, result.steps) == ("epochs", STEPS)


class Child:
    """A training in a process of its own, which tells of every step; a group, as Ctrl-C reaches loader workers, too."""

    def __init__(self, folder: Path, workers: int, pause: float) -> None:
        context = multiprocessing.get_context("fork")
        self.told, tell = context.Pipe(duplex=False)
        self.process = context.Process(target=self._work, args=(tell, folder, workers, pause))
        self.process.start()
        tell.close()

    @staticmethod
    def _work(tell: Any, folder: Path, workers: int, pause: float) -> None:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)

        class Slow(TinyModel):
            def forward(self, items: Tensor, lengths: Tensor) -> Any:
                tell.send("step")
                time.sleep(pause)
                return super().forward(items, lengths)

        config, console = settings(epochs=100, num_workers=workers), Console(quiet=True)
        try:
            train_recommender(Slow(), TinyData(), config, DecodingConfig(), folder, validate=quality, console=console)
        except GenrecError as error:
            tell.send(str(error))
            os._exit(error.exit_code)

    def signalled(self, number: int) -> None:
        pid = self.process.pid
        assert pid is not None
        os.killpg(pid, number)

    def ended(self, seconds: float) -> int | None:
        # Not by joining: the loader's workers hold what that waits for, and see only after a while that they are alone.
        end = time.monotonic() + seconds
        while self.process.is_alive() and time.monotonic() < end:
            time.sleep(0.02)
        return self.process.exitcode


@pytest.mark.parametrize(("number", "code", "workers"), [(signal.SIGINT, 130, 2), (signal.SIGTERM, 143, 0)])
def test_a_process_saves_and_exits(tmp_path: Path, number: int, code: int, workers: int):
    child = Child(tmp_path / "run", workers, pause=0.05)
    for _ in range(3):
        assert child.told.recv() == "step"
    child.signalled(number)
    assert child.ended(30) == code
    last = "step"
    while last == "step":
        last = child.told.recv()
    checkpoints = [path.name for path in (tmp_path / "run").glob("checkpoint-*")]
    assert len(checkpoints) == 1
    step = checkpoints[0].split("-")[1]
    assert f"training was stopped by {signal.Signals(number).name} at step {step} and saved" in last


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_process_at_once(tmp_path: Path, number: int):
    """In the middle of a step that would take a minute, with loader workers that ignore signals."""
    child = Child(tmp_path / "run", workers=2, pause=60)
    assert child.told.recv() == "step"
    child.signalled(number)
    assert child.ended(0.3) is None, "the first asks to finish the step"
    began = time.monotonic()
    child.signalled(number)
    assert child.ended(20) == -number  # a shell says 128 + number
    assert time.monotonic() - began < 5
    assert not list(tmp_path.glob("run/checkpoint-*"))


def test_a_second_signal_acts_at_once(train):
    model = TinyModel()

    def before_loss(call: int, loss: Tensor) -> Tensor:
        if call == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        return loss

    model.before_loss = before_loss
    with pytest.raises(KeyboardInterrupt):
        train(model=model, **PLAN)
    assert settings().seed == 42
