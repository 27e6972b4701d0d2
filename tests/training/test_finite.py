"""A loss that is no number: what is written down, what may be left out, and that the next run can go on."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_resume import end_state
from tiny_training import TinyData, TinyModel
from torch import Tensor

from genrec.data.histories import Histories
from genrec.errors import NonFiniteLossError
from genrec.training.batches import cut_windows, update_rows
from genrec.training.finite import any_rank, non_finite_error, users_of_update


class Named(TinyData):
    """The tiny data with names of its users."""

    def users_named(self, users: np.ndarray) -> list[str]:
        return [f"user {user}" for user in users]


def broken_at(*calls: int) -> TinyModel:
    """A model whose forward passes with these numbers give NaN."""
    model = TinyModel()
    model.before_loss = lambda call, loss: loss * float("nan") if call in calls else loss
    return model


def weights(model: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_a_diagnosis_says_step_users_and_last_losses(train, tmp_path: Path):
    losses = []

    def before_loss(call: int, loss: Tensor) -> Tensor:
        losses.append(float(loss.detach()))
        return loss * float("inf") if call == 14 else loss

    model = TinyModel()
    model.before_loss = before_loss
    data = Named()
    with pytest.raises(NonFiniteLossError, match="the loss became inf at step 14") as caught:
        train(model=model, data=data)
    path = tmp_path / "run" / "diagnosis-step-14-rank-0.json"
    assert str(path) in caught.value.where
    found = json.loads(path.read_text())
    windows = cut_windows(data.train(), TinyModel.max_history + 1)
    # Nine updates an epoch: the fourteenth is the fifth of the second epoch.
    users = np.unique(windows.users[update_rows(windows.lengths, 8, 42, 1)[4]])
    assert found["users"] == users.tolist()
    assert found["user_ids"] == [f"user {row}" for row in users]
    assert (found["step"], found["rank"], found["loss"]) == (14, 0, "inf")
    assert found["last_losses"] == [*losses[:13], "inf"]
    assert found["epoch"] == pytest.approx(13 / 9)
    assert set(found) >= {"learning_rate", "grad_norm"}


def test_users_are_those_that_the_loader_gave(train):
    data = TinyData()
    windows = cut_windows(data.train(), 6)
    seen: list[Tensor] = []

    class Watching(TinyModel):
        def forward(self, items: Tensor, lengths: Tensor) -> Any:
            seen.append(items[torch.arange(items.shape[1]) < lengths[:, None]].sort().values)
            return super().forward(items, lengths)

    from genrec.training.batches import EpochBatches, WindowDataset

    train(model=Watching(), epochs=1, batch_size=4, gradient_accumulation_steps=2)
    batches, dataset = EpochBatches(windows.lengths, 4, 2, 42), WindowDataset(windows, 6)
    for step in range(1, batches.updates + 1):
        users = users_of_update(batches, dataset, step)
        items = torch.cat(seen[2 * step - 2 : 2 * step]).tolist()
        available = Histories.from_lists([data.lists[user] for user in users]).items.tolist()
        assert all(items.count(item) <= available.count(item) for item in set(items))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_updates_may_be_left_out_up_to_a_cap(train, tmp_path: Path, accumulation: int):
    plan = {"epochs": 1, "gradient_accumulation_steps": accumulation, "batch_size": 8 // accumulation}
    calls = (2 * accumulation, 5 * accumulation)
    model = broken_at(*calls)
    result = train(model=model, skip_nonfinite=2, **plan)
    assert result.steps == 9
    assert torch.isfinite(weights(model)).all()
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    notes = [record["note"] for record in records if "note" in record]
    assert [note.split(":")[0] for note in notes] == [f"the update of step {step} was left out" for step in (2, 5)]
    losses = [record["loss"] for record in records if "loss" in record]
    assert all(loss is not None and math.isfinite(loss) for loss in losses)
    assert len(list((tmp_path / "run").glob("diagnosis-*.json"))) == 2
    with pytest.raises(NonFiniteLossError, match=r"at step 5 \(1 updates were left out before it\)"):
        train("capped", model=broken_at(*calls), skip_nonfinite=1, **plan)


def test_what_is_left_out_leaves_no_trace(train):
    """Weights, moments and counters after an update that was left out are those before it."""
    kept: list[dict[str, Tensor]] = []

    def before_loss(call: int, loss: Tensor) -> Tensor:
        if call in (3, 4):
            kept.append({name: value.clone() for name, value in model.state_dict().items()})
        return loss * float("nan") if call == 3 else loss

    model = TinyModel()
    model.before_loss = before_loss
    train(model=model, skip_nonfinite=1, epochs=1)
    before, after = kept
    # The hook comes after the forward pass has counted its items.
    counted = before.pop("seen"), after.pop("seen")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert counted[0].sum() != counted[1].sum()
    windows = cut_windows(TinyData().train(), 6)
    rows = update_rows(windows.lengths, 8, 42, 0)
    assert counted[1].sum() == sum(windows.lengths[rows[update]].sum() for update in (0, 1, 3))


def test_the_next_run_may_leave_out_what_stopped_this_one(train, tmp_path: Path):
    train("whole", model=broken_at(12), skip_nonfinite=1, epochs=2)
    with pytest.raises(NonFiniteLossError, match="at step 12"):
        train("stopped", model=broken_at(12), epochs=2)
    # It was saved as it was before the update, and fails again in the same way.
    assert (tmp_path / "stopped" / "checkpoint-11").is_dir()
    with pytest.raises(NonFiniteLossError, match="at step 12"):
        train("stopped", model=broken_at(1), epochs=2)
    result = train("stopped", model=broken_at(1), epochs=2, skip_nonfinite=1)
    assert result.notes == ["continuing from checkpoint-11 of 18 steps"]
    assert end_state(tmp_path / "stopped", 18) == end_state(tmp_path / "whole", 18)


def test_what_to_do_is_said(tmp_path: Path):
    facts = {"step": 3, "epoch": 0.5, "learning_rate": 0.1, "loss": 1.0, "grad_norm": float("inf")}
    error = non_finite_error(facts, tmp_path / "diagnosis.json", 0, "training")
    assert error.what == "the gradient norm became inf at step 3"
    assert "training.skip_nonfinite=10" in error.fix
    assert error.exit_code == 6
    assert "alignment.training.learning_rate" in non_finite_error(facts, tmp_path, 0, "alignment.training").fix


def test_one_process_asks_nobody():
    assert any_rank(torch.tensor(True))
    assert not any_rank(torch.tensor(False))
