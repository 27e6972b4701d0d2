"""The loop: against a loop written by hand, its stops, what it logs and what it refuses."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from tiny_training import NUM_ITEMS, TinyData, TinyModel, quality, settings
from torch import nn

from genrec.config import DecodingConfig
from genrec.data.histories import pad_histories
from genrec.errors import ConfigError, DataError, MemoryExhaustedError, NonFiniteLossError
from genrec.training import train_recommender
from genrec.training.batches import cut_windows, update_rows
from genrec.training.log import Display


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def constantly_better() -> object:
    calls = iter(range(1, 1000))
    return lambda model: {"quality": float(next(calls))}


def by_hand(epochs: int, size: int) -> TinyModel:
    """Plain PyTorch: one mean over all targets of an update, AdamW, clipping, linear warm-up to a constant rate."""
    model = TinyModel(dropout=0)
    windows = cut_windows(TinyData().train(), TinyModel.max_history + 1)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}], lr=0.01
    )
    steps = epochs * math.ceil(len(windows) / size)
    done, warmup = 0, int(0.1 * steps)
    for epoch in range(epochs):
        for rows in update_rows(windows.lengths, size, 42, epoch):
            items, lengths = pad_histories(windows, rows, 6)
            optimizer.zero_grad()
            model(torch.from_numpy(items), torch.from_numpy(lengths)).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * min(1, done / max(1, warmup))
            optimizer.step()
            done += 1
    return model


@pytest.mark.parametrize(("batch_size", "accumulation"), [(8, 1), (1, 8), (3, 4), (2, 4)])
def test_equals_a_loop_by_hand_however_an_update_is_cut(train, batch_size: int, accumulation: int):
    model = TinyModel(dropout=0)
    train(
        model=model,
        batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        scheduler="constant",
        validate=constantly_better(),
    )
    assert torch.allclose(weights(model), weights(by_hand(3, batch_size * accumulation)), atol=2e-6)


def test_a_model_may_say_how_many_targets_a_batch_has(train):
    def run(name: str, counted: bool) -> torch.Tensor:
        model = TinyModel(dropout=0)
        if counted:
            model.count_targets = len  # as if every user were one target: micro-batches weigh by their users
        train(name, model=model, batch_size=3, gradient_accumulation_steps=3)
        return weights(model)

    assert not torch.equal(run("items", False), run("users", True))


def test_leaves_the_best_weights_in_the_model(train, tmp_path: Path):
    values, seen = iter([0.1, 0.5, 0.2, 0.3]), []

    def validate(model: nn.Module) -> dict[str, float]:
        assert not model.training
        seen.append(weights(model))
        return {"quality": next(values)}

    model = TinyModel()
    result = train(model=model, epochs=4, validate=validate)
    assert torch.equal(weights(model), seen[1])
    assert not torch.equal(weights(model), seen[3])
    assert not model.training
    assert (result.best_metric, result.best_step, result.steps, result.epochs) == (0.5, 18, 36, 4)
    assert result.stopped == "epochs"
    assert [record["validation"]["quality"] for record in result.history] == [0.1, 0.5, 0.2, 0.3]


def test_stops_when_patience_is_over(train):
    values = iter([0.3, 0.5, 0.5, 0.4, 9.0])
    result = train(epochs=9, patience=2, validate=lambda model: {"quality": next(values)})
    assert (result.stopped, result.epochs, result.best_metric) == ("patience", 4, 0.5)


def test_validates_every_eval_epochs_and_after_the_last(train):
    result = train(epochs=5, eval_epochs=2)
    assert [record["epoch"] for record in result.history] == [2, 4, 5]


def test_a_time_budget_ends_the_run_with_a_validation(train):
    result = train(epochs=1000, max_minutes=1e-6)
    assert (result.stopped, result.steps, result.best_step) == ("time", 1, 1)
    again = train(epochs=1000, max_minutes=1e-6)
    assert (again.stopped, again.steps) == ("time", 1)


def test_a_run_that_is_done_returns_at_once(train):
    model, again = TinyModel(), TinyModel()
    first = train(model=model)
    second = train(model=again)
    assert again.calls == 0
    assert torch.equal(weights(model), weights(again))
    assert second.history == first.history
    assert second.notes == ["continuing from checkpoint-27 of 27 steps"]


def test_how_often_it_validates_does_not_change_what_it_learns(train):
    models = [TinyModel(), TinyModel()]
    for name, model, every in zip("ab", models, (1, 3), strict=True):
        better = constantly_better()
        train(name, model=model, eval_epochs=every, validate=lambda m: quality(m) | better(m))  # noqa: B023
    assert torch.equal(weights(models[0]), weights(models[1]))


def test_bf16_is_for_the_training_forward_only(train):
    training, validating = [], []

    class Watched(TinyModel):
        def forward(self, items, lengths):
            training.append(torch.is_autocast_enabled("cpu"))
            return super().forward(items, lengths)

    def validate(model):
        validating.append((torch.is_autocast_enabled("cpu"), model.head.weight.dtype))
        return {"quality": 1.0}

    train(model=Watched(), precision="bf16", validate=validate, epochs=1)
    assert set(training) == {True}
    assert validating == [(False, torch.float32)]


def test_the_log_holds_one_object_per_record(train, tmp_path: Path):
    train(data=TinyData(users=200), validate=lambda model: {"quality": 1.0, "broken": float("nan")})
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [record for record in records if "loss" in record]
    keys = {"step", "epoch", "loss", "learning_rate", "grad_norm", "seconds", "users_per_second"}
    assert all(set(record) == keys for record in losses)
    assert losses[-1]["loss"] < losses[0]["loss"]
    validations = [record for record in records if "validation" in record]
    assert [record["epoch"] for record in validations] == [1, 2, 3]
    assert validations[0]["validation"] == {"quality": 1.0, "broken": None}
    seconds = [record["seconds"] for record in records]
    assert seconds == sorted(seconds)


def test_a_quiet_place_gets_one_line_per_epoch(train):
    stream = io.StringIO()
    train(console=Console(file=stream, width=60))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("epoch 1/3  loss ")
    assert "  quality " in lines[2]
    assert "  best " in lines[2]
    assert lines[2].endswith("0:00 left")


def test_an_epoch_without_validation_gets_its_line_too(train):
    stream = io.StringIO()
    train(console=Console(file=stream, width=60), eval_epochs=2)
    lines = stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines] == ["1/3", "2/3", "3/3"]
    assert ["quality" in line for line in lines] == [False, True, True]


def test_a_terminal_gets_a_bar(train):
    stream = io.StringIO()
    train(console=Console(file=stream, force_terminal=True, width=120))
    assert "epoch 3/3" in stream.getvalue()
    assert "best" in stream.getvalue()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_broken_loss_stops_before_the_update(train, tmp_path: Path, bad: float, accumulation: int):
    model = TinyModel()
    kept = []

    def before_loss(call: int, loss: torch.Tensor) -> torch.Tensor:
        if call == 2 * accumulation + 1:
            kept.append(weights(model))
            return loss * bad
        return loss

    model.before_loss = before_loss
    with pytest.raises(NonFiniteLossError, match=f"the loss became {bad} at step 3") as caught:
        train(model=model, gradient_accumulation_steps=accumulation)
    assert caught.value.exit_code == 6
    assert "step 3" in caught.value.where
    assert "learning rate 0.0" in caught.value.where
    assert "lower training.learning_rate" in caught.value.fix
    assert torch.equal(weights(model), kept[0])


def test_a_broken_gradient_of_a_sound_loss_stops_too(train):
    model = TinyModel()

    def before_loss(call: int, loss: torch.Tensor) -> torch.Tensor:
        # The square root's slope at zero is infinite, its value is not.
        return loss + (model.head.weight.sum() * 0).abs().sqrt() if call == 3 else loss

    model.before_loss = before_loss
    with pytest.raises(NonFiniteLossError, match="the gradient norm became nan at step 3"):
        train(model=model)
    assert torch.isfinite(weights(model)).all()


def test_running_out_of_memory_in_validation_names_the_decoding(train):
    def validate(model: nn.Module) -> dict[str, float]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(MemoryExhaustedError, match="memory ran out while validating") as caught:
        train(validate=validate)
    assert "decoding.batch_size" in caught.value.fix


def test_other_errors_pass_through(train):
    def validate(model: nn.Module) -> dict[str, float]:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        train(validate=validate)


def test_an_unknown_metric_names_those_that_are_measured(train):
    with pytest.raises(ConfigError, match=r"training\.metric = 'ndcg@7' is not measured") as caught:
        train(metric="ndcg@7")
    assert caught.value.expected == "one of quality"


def test_a_data_set_without_training_histories_is_refused(train):
    data = TinyData()
    data.lists = [[], []]
    with pytest.raises(DataError, match="no user has a training history") as caught:
        train(data=data)
    assert "data.k_core" in caught.value.fix


def test_a_folder_that_cannot_be_made_is_refused(train, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"is below .*file, which is a file"):
        train("file/run")


def test_a_model_that_never_improves_keeps_its_last_weights(train):
    model = TinyModel()
    result = train(model=model, validate=lambda m: {"quality": float("nan")})
    assert (result.best_metric, result.best_step, result.steps) == (None, None, 27)
    assert torch.isfinite(weights(model)).all()


def test_event_files_are_written_where_tensorboard_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    pytest.importorskip("tensorboard")
    console, log = Console(quiet=True), tmp_path / "elsewhere" / "metrics.jsonl"
    train_recommender(
        TinyModel(), TinyData(), settings(epochs=1), DecodingConfig(), tmp_path / "run",
        validate=quality, log=log, console=console,
    )  # fmt: skip
    assert log.is_file()
    files = {path.suffix for path in (tmp_path / "run").rglob("*") if path.is_file() and path.name != ".genrec"}
    assert files == {".json", ".safetensors"}
    assert list((tmp_path / "elsewhere" / "tensorboard").glob("events*"))


def test_learns_what_can_be_learned(train):
    data = TinyData()
    data.lists = [[(start + i) % NUM_ITEMS for i in range(6)] for start in range(NUM_ITEMS)] * 4

    def accuracy(model: nn.Module) -> dict[str, float]:
        items = torch.tensor(data.lists)
        lengths = torch.full((len(items),), 6)
        return {"quality": -float(model(items, lengths).loss)}

    result = train(data=data, epochs=15, eval_epochs=3, validate=accuracy, learning_rate=0.1)
    assert np.diff([record["validation"]["quality"] for record in result.history])[:3].min() > 0
    assert result.best_metric > -1.5 > -math.log(NUM_ITEMS)


def test_the_loss_of_a_line_is_the_mean_since_the_line_before():
    lines: list[str] = []
    display = Display(Console(quiet=True), "ndcg@10")
    display.say = lines.append  # type: ignore[method-assign]
    display.begin(epochs=2, total=10, step=0)
    display.add_loss(4.0, 30)
    display.add_loss(1.0, 10)
    display.report(5, 1.0, None)
    display.add_loss(2.0, 10)
    display.report(10, 2.0, None)
    assert ["loss 3.2500" in lines[0], "loss 2.0000" in lines[1]] == [True, True]
