"""Batches of pairs that do not fit into memory: the pieces teach what the whole would have taught."""

import numpy as np
import pytest
import torch
from tiny_alignment import NUM_ITEMS, make_model
from torch import Tensor

from genrec.alignment.learners import PairLearner
from genrec.config import AlignmentConfig
from genrec.training.memory import Update

METHODS = ["dpo", "cdpo", "sdpo", "ipo", "simpo"]


def make_batch(windows: int, pairs: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    candidates = np.stack([np.random.default_rng(row).permutation(NUM_ITEMS)[:3] for row in range(pairs)])
    return {
        "items": torch.randint(NUM_ITEMS, (windows, 8), generator=generator),
        "lengths": torch.randint(2, 9, (windows,), generator=generator),
        "histories": torch.randint(NUM_ITEMS, (pairs, 6), generator=generator),
        "history_lengths": torch.randint(1, 7, (pairs,), generator=generator),
        "candidates": torch.from_numpy(candidates),
        "reference": -10 * torch.rand(pairs, 3, generator=generator),
        "weights": torch.rand(pairs, generator=generator),
    }


def gradients(learner: PairLearner, batch: dict[str, Tensor], pieces: int) -> tuple[float, Tensor]:
    """Loss and gradient of an update in so many pieces."""
    learner.zero_grad()
    learner.train()
    update = Update(learner, pieces)
    update.begin()

    def step(piece: dict[str, Tensor], share: float) -> Tensor:
        loss = learner(**piece).loss * share
        loss.backward()
        return loss.detach()

    loss = update.add(batch, 1.0, step)
    return float(loss), torch.cat([p.grad.flatten() for p in learner.parameters() if p.grad is not None])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("windows", "pairs"), [(6, 4), (4, 4), (3, 9)])
def test_pieces_add_up_to_the_whole(method: str, windows: int, pairs: int):
    config = AlignmentConfig(method=method, anchor_weight=0.7, preference_weight=2.0)
    learner = PairLearner(make_model(dropout=0.0, depth_dropout=0.0), config, item_weight=0.0)
    batch = make_batch(windows, pairs)
    loss, gradient = gradients(learner, batch, pieces=1)
    for pieces in (2, 3, 8):
        loss_of_pieces, gradient_of_pieces = gradients(learner, batch, pieces)
        assert loss_of_pieces == pytest.approx(loss, abs=1e-5)
        torch.testing.assert_close(gradient_of_pieces, gradient, atol=1e-5, rtol=1e-4)


def test_pieces_weigh_their_sessions_by_the_items_that_there_are(monkeypatch: pytest.MonkeyPatch):
    """Sessions of one to three items; places are not drawn, so that the pieces learn what the whole does."""
    monkeypatch.setattr("genrec.models.seq2seq.draw_cuts", lambda lengths: lengths // 2)
    model = make_model("seq2seq", session_size=3, dropout=0.0)
    learner = PairLearner(model, AlignmentConfig(method="dpo", anchor_weight=0.7), item_weight=0.0)
    batch = make_batch(6, 4)
    loss, gradient = gradients(learner, batch, pieces=1)
    for pieces in (2, 3):
        loss_of_pieces, gradient_of_pieces = gradients(learner, batch, pieces)
        assert loss_of_pieces == pytest.approx(loss, abs=1e-5)
        torch.testing.assert_close(gradient_of_pieces, gradient, atol=1e-5, rtol=1e-4)
    assert "cuts" not in batch


def test_every_piece_has_a_window_and_a_pair():
    learner = PairLearner(make_model(), AlignmentConfig(method="dpo"), item_weight=0.0)
    parts = learner.cut_batch(make_batch(5, 3), 4)
    assert [(len(part["lengths"]), len(part["candidates"])) for part, _ in parts] == [(2, 1), (2, 1), (1, 1)]
    assert sum(part["shares"] for part, _ in parts).tolist() == pytest.approx([1.0, 1.0])


def test_memory_that_runs_out_halves_mixed_batches():
    learner = PairLearner(make_model(dropout=0.0, depth_dropout=0.0), AlignmentConfig(method="dpo"), item_weight=0.0)
    batch, tried = make_batch(8, 4), []
    update = Update(learner)
    update.begin()

    def step(piece: dict[str, Tensor], share: float) -> Tensor:
        tried.append((len(piece["lengths"]), len(piece["candidates"])))
        if len(piece["lengths"]) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return learner(**piece).loss.detach()

    loss = update.add(batch, 1.0, step)
    assert tried == [(8, 4), (4, 2), (2, 1), (2, 1), (2, 1), (2, 1)]
    assert float(loss) == pytest.approx(float(learner(**batch).loss.detach()), abs=1e-5)
