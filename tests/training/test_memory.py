"""Memory that runs out: the same update in smaller pieces, down to one user; then what to change."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import NUM_ITEMS, TinyModel
from torch import Tensor

from genrec.errors import InterruptedRun, MemoryExhaustedError
from genrec.training.memory import Update, cut_rows, is_memory_error, memory_error

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:116] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]


class Small(TinyModel):
    """Has memory for so many users at a time; runs out in the forward pass or, later, in the backward pass."""

    def __init__(self, room: int, error: BaseException = ERRORS[0], *, backward: bool = False, **rest: Any) -> None:
        super().__init__(**rest)
        self.room, self.error, self.backward, self.sizes = room, error, backward, []

    def forward(self, items: Tensor, lengths: Tensor) -> Any:
        self.sizes.append(len(lengths))
        output = super().forward(items, lengths)
        if len(lengths) > self.room:
            if not self.backward:
                raise self.error
            output.loss.register_hook(self._fail)
        return output

    def _fail(self, gradient: Tensor) -> Tensor:
        raise self.error


def weights(model: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("backward", [False, True])
def test_the_update_is_repeated_in_halves_and_stays_the_same(train, tmp_path: Path, error, backward: bool):
    plan = {"epochs": 2, "batch_size": 8, "gradient_accumulation_steps": 2}
    whole, small = TinyModel(dropout=0), Small(3, error, backward=backward, dropout=0)
    train("whole", model=whole, **plan)
    train("small", model=small, **plan)
    assert small.sizes[:6] == [8, 4, 2, 2, 2, 2]
    assert max(small.sizes[3:]) == 2
    torch.testing.assert_close(weights(small), weights(whole), atol=1e-5, rtol=0)
    # What forward passes count is counted once: the passes that failed are taken back.
    assert torch.equal(small.seen, whole.seen)
    notes = [line for line in (tmp_path / "small/metrics.jsonl").read_text().splitlines() if "note" in line]
    assert [json.loads(line)["note"] for line in notes] == [
        "memory ran out at step 1: micro-batches are cut into 4 pieces now"
    ]


def test_a_second_micro_batch_that_does_not_fit_repeats_the_first(train):
    class Later(Small):
        def forward(self, items: Tensor, lengths: Tensor) -> Any:
            self.room = 4 if len(self.sizes) > 10 else 8
            return super().forward(items, lengths)

    plan = {"epochs": 2, "batch_size": 8, "gradient_accumulation_steps": 2}
    whole, later = TinyModel(dropout=0), Later(8, dropout=0)
    train("whole", model=whole, **plan)
    train("later", model=later, **plan)
    # The twelfth pass is the first that does not fit; both micro-batches of its update are done anew.
    assert later.sizes[11:16] == [8, 4, 4, 4, 4]
    torch.testing.assert_close(weights(later), weights(whole), atol=1e-5, rtol=0)
    assert torch.equal(later.seen, whole.seen)


def test_a_model_counts_its_own_targets(train):
    models = [TinyModel(dropout=0), Small(2, dropout=0)]
    for name, model in zip("ab", models, strict=True):
        model.count_targets = lambda lengths: int(lengths.sum()) * 3
        train(name, model=model, epochs=1)
    torch.testing.assert_close(weights(models[0]), weights(models[1]), atol=1e-5, rtol=0)


def test_a_run_in_pieces_is_continued_in_pieces_bit_by_bit(train, tmp_path: Path):
    """Otherwise updates that fit as a whole would differ in the last bit from those of the run that was not stopped."""

    def stopping(call: int, loss: Tensor) -> Tensor:
        if call == 20:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    whole, stopped, again = Small(4), Small(4), Small(4)
    stopped.before_loss = stopping
    train("whole", model=whole, epochs=2)
    with pytest.raises(InterruptedRun):
        train("cut", model=stopped, epochs=2)
    train("cut", model=again, epochs=2)
    assert max(again.sizes) == 4
    assert torch.equal(weights(again), weights(whole))


def test_one_user_that_does_not_fit_says_what_to_change(train):
    with pytest.raises(MemoryExhaustedError, match="memory ran out while training") as caught:
        train(model=Small(0))
    assert caught.value.exit_code == 5
    assert caught.value.where == "step 1, training.batch_size=8"
    assert "lower recommender.max_history, recommender.hidden_size" in caught.value.fix
    assert "training.precision=bf16" in caught.value.fix


def test_other_errors_are_not_retried(train):
    model = Small(4, RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        train(model=model)
    assert len(model.sizes) == 1


def test_several_processes_are_told_to_accumulate(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    update = Update(Small(1))
    update.begin()
    batch = {"items": torch.zeros(4, 3, dtype=torch.int64), "lengths": torch.full((4,), 3)}
    with pytest.raises(torch.OutOfMemoryError):
        update.add(batch, 1.0, lambda batch, share: update.network(**batch).loss)
    assert "more training.gradient_accumulation_steps" in memory_error("training", 4, 1, validating=False).fix
    assert "alignment.training.batch_size" in memory_error("alignment.training", 1, 1, validating=False).fix


def test_batches_of_something_else_are_not_cut():
    update = Update(TinyModel())
    update.begin()
    batch = {name: torch.zeros(4, dtype=torch.int64) for name in ("items", "lengths", "prompt_rows")}

    def step(batch: dict[str, Tensor], share: float) -> Tensor:
        raise ERRORS[0]

    with pytest.raises(torch.OutOfMemoryError):
        update.add(batch, 1.0, step)
    assert update.pieces == 1


def test_only_buffers_that_move_are_copied_again():
    model = TinyModel(dropout=0)
    model.register_buffer("table", torch.zeros(1000))
    batch = {"items": torch.arange(NUM_ITEMS)[None], "lengths": torch.tensor([NUM_ITEMS])}
    update = Update(model)
    copied = []
    for _ in range(3):
        update.begin()
        copied.append(sorted(update._buffers))
        update.add(batch, 1.0, lambda batch, share: model(**batch).loss.detach())
    assert copied == [["seen", "table"], ["seen"], ["seen"]]
    update.restore_buffers()
    assert model.seen.tolist() == [2.0] * NUM_ITEMS


def test_pieces_hold_every_row_once():
    batch = {"items": torch.arange(10).reshape(5, 2), "lengths": torch.arange(5)}
    pieces = cut_rows(batch, 2)
    assert [piece["lengths"].tolist() for piece in pieces] == [[0, 1, 2], [3, 4]]
    assert torch.equal(torch.cat([piece["items"] for piece in pieces]), batch["items"])
    assert len(cut_rows(batch, 8)) == 5


def test_what_an_allocator_says_is_known():
    assert all(is_memory_error(error) for error in ERRORS)
    assert not is_memory_error(RuntimeError("shapes do not match"))
