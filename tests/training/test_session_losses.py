"""Sessions in training: windows that hold whole ones, and updates that weigh every item alike however they are cut."""

import os
import signal
from typing import Any

import numpy as np
import pytest
import torch
from test_train import weights
from tiny_training import NUM_ITEMS, TinyData, settings
from torch import nn

from genrec.config import RecommenderConfig
from genrec.data.histories import Histories, pad_histories
from genrec.distributed.world import World
from genrec.errors import ConfigError, InterruptedRun
from genrec.models import build_recommender
from genrec.tokenizers.index import ItemIndex
from genrec.training.batches import cut_windows, update_rows, window_size
from genrec.training.memory import RecoverableStep, count_targets, draw_targets
from genrec.training.train import make_loader

PLAN: dict[str, Any] = {"epochs": 2, "warmup_ratio": 0.0, "scheduler": "constant", "weight_decay": 0.0}


def make_model(**changes: Any) -> Any:
    torch.manual_seed(7)
    codes = np.stack(np.unravel_index(np.arange(NUM_ITEMS), (4, 5)), axis=1).astype(np.int32)
    index = ItemIndex(codes, (4, 5), [str(item) for item in range(NUM_ITEMS)])
    sizes = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "head_size": 8, "feed_forward_size": 16}
    values = {"session_size": 3, "max_history": 4, "dropout": 0.0}
    values |= {} if changes.get("targets") == "last" else {"targets_per_user": 2}
    config = RecommenderConfig(name="seq2seq", **{**sizes, **values, **changes})
    return build_recommender(config, num_items=NUM_ITEMS, index=index)


def better(model: nn.Module) -> dict[str, float]:
    """The last step is the best one."""
    better.calls += 1  # type: ignore[attr-defined]
    return {"quality": float(better.calls)}  # type: ignore[attr-defined]


better.calls = 0  # type: ignore[attr-defined]


# --- windows ----------------------------------------------------------------------------------------------------------


def test_every_history_that_the_model_reads_teaches_a_whole_session_where_the_user_goes_on():
    """Forty items, histories of 20, sessions of five: the window of 25 has five items after each of its histories."""
    model = make_model(session_size=5, max_history=20, targets_per_user=400)
    data = TinyData()
    data.lists = [[item % NUM_ITEMS for item in range(40)]]
    loader = make_loader(model, data, settings(batch_size=8), World())
    assert loader.dataset.windows.lengths.tolist() == [15, 25]
    batch = loader.dataset.__getitems__(np.array([1]))
    torch.manual_seed(0)
    rows, cuts = model._draw_targets(batch["lengths"])
    sessions = model._sessions(batch["items"], batch["lengths"], rows, cuts)
    assert set(cuts.tolist()) == set(range(1, 21))
    for cut, session in zip(cuts.tolist(), sessions.tolist(), strict=True):
        assert session == [(15 + cut + place) % NUM_ITEMS for place in range(5)]


@pytest.mark.parametrize(("session_size", "expected"), [(1, 5), (3, 7)])
def test_a_window_is_what_is_read_and_what_is_learned_behind_it(session_size: int, expected: int):
    model = make_model(session_size=session_size)
    assert window_size(model) == expected
    assert window_size(make_model(session_size=1, max_history=9)) == 10


def test_checkpoints_of_shorter_windows_are_refused(train, monkeypatch: pytest.MonkeyPatch):
    """As earlier versions wrote them; those of models that learn one item at a time go on."""
    with monkeypatch.context() as before:
        before.setattr("genrec.training.train.longer_windows", lambda model: {})
        for size in (1, 3):
            train(f"of-{size}", model=make_model(session_size=size), validate=better, **PLAN)
    train("of-1", model=make_model(session_size=1), validate=better, **PLAN)
    with pytest.raises(ConfigError, match="items per window: None -> 7"):
        train("of-3", model=make_model(), validate=better, **PLAN)


# --- weights of micro-batches -----------------------------------------------------------------------------------------


def by_hand(size: int, **changes: Any) -> torch.Tensor:
    """Plain PyTorch: one mean over all items of an update."""
    model = make_model(**changes).train()
    windows = cut_windows(TinyData().train(), 7)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.0)
    for epoch in range(PLAN["epochs"]):
        for rows in update_rows(windows.lengths, size, 42, epoch):
            items, lengths = map(torch.from_numpy, pad_histories(windows, rows, 7))
            optimizer.zero_grad()
            model(items, lengths).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return weights(model)


@pytest.mark.parametrize("targets", ["last", "uniform"])
@pytest.mark.parametrize(("batch_size", "accumulation"), [(8, 1), (2, 4), (1, 8)])
def test_an_update_is_the_mean_over_its_items_however_it_is_cut(
    train, monkeypatch: pytest.MonkeyPatch, targets: str, batch_size: int, accumulation: int
):
    """Sessions have one to three items here; places are not drawn, so that all ways learn the same."""
    monkeypatch.setattr("genrec.models.families.seq2seq.draw_cuts", lambda lengths: lengths // 2)
    model = make_model(targets=targets)
    plan = PLAN | {"batch_size": batch_size, "gradient_accumulation_steps": accumulation}
    train(model=model, validate=better, **plan)
    torch.testing.assert_close(weights(model), by_hand(8, targets=targets), atol=2e-5, rtol=0)


@pytest.mark.parametrize("pieces", [2, 3, 5])
def test_pieces_of_a_batch_add_up_to_the_whole(pieces: int):
    windows = cut_windows(Histories.from_lists([[1, 2, 3, 4, 5, 6, 7], [3, 4], [5], [9, 8, 7], [2, 4, 6, 8]]), 7)
    items, lengths = map(torch.from_numpy, pad_histories(windows, np.arange(5), 7))
    batch, gradients = {"items": items, "lengths": lengths}, []
    model = make_model().train()
    torch.manual_seed(1)
    draw_targets(model, batch)
    assert batch["cuts"].shape == (5, 2)
    pairs = zip(lengths.tolist(), batch["cuts"].tolist(), strict=True)
    real = [min(3, max(1, length - cut)) for length, row in pairs for cut in row]
    assert count_targets(model, batch) == sum(real)
    for number in (1, pieces):
        model.zero_grad()
        update = RecoverableStep(model, number)
        update.begin()

        def step(piece: dict[str, torch.Tensor], share: float) -> torch.Tensor:
            loss = model(**piece).loss * share
            loss.backward()
            return loss.detach()

        update.add(batch, 1.0, step)
        gradients.append(torch.cat([value.grad.flatten() for value in model.parameters()]))
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("lengths", [[7, 7, 7], [7, 5, 2, 1], [1], [3]])
def test_items_that_are_still_to_be_drawn_are_counted_as_they_are_on_average(lengths: list[int]):
    model = make_model(targets_per_user=5)
    expected = 0.0
    for length in lengths:
        cuts = range(1, min(length - 1, 4) + 1) or [0]
        expected += 5 * float(np.mean([min(3, length - cut) for cut in cuts]))
    assert model.count_targets(torch.tensor(lengths)) == round(expected)
    assert model.count_targets(torch.tensor([], dtype=torch.int64)) == 0


def test_an_update_that_is_given_up_is_drawn_again(train, monkeypatch: pytest.MonkeyPatch):
    """What was drawn for it is as if it had not been; dropout tells that the generators are the same."""
    monkeypatch.setattr("genrec.training.loop.PATIENCE_AFTER_SIGNAL", -1.0)
    plan = PLAN | {"batch_size": 4, "gradient_accumulation_steps": 2}
    whole, stopped, again = (make_model(dropout=0.2) for _ in range(3))
    calls: list[None] = []

    def stop(*_: Any) -> None:
        calls.append(None)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    stopped.register_forward_hook(stop)
    train("whole", model=whole, validate=better, **plan)
    with pytest.raises(InterruptedRun):
        train("cut", model=stopped, validate=better, **plan)
    assert len(calls) == 5
    train("cut", model=again, validate=better, **plan)
    assert torch.equal(weights(again), weights(whole))
