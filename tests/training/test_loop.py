"""The loop against ``transformers.Trainer``: the same weights to the bit, and the same events for callbacks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_training import TinyData, TinyModel, settings
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from genrec.config import RecommenderConfig, TrainingConfig
from genrec.distributed.world import World
from genrec.models import build_recommender
from genrec.tokenizers.index import ItemIndex
from genrec.training.optimizer import build_optimizer, decayed_parameters
from genrec.training.train import make_loader

EVENTS = ("train_begin", "epoch_begin", "step_begin", "substep_end", "pre_optimizer_step", "optimizer_step", "step_end")
EVENTS += ("epoch_end", "train_end", "log", "evaluate", "save")
# Trainer has these at other times: we log and validate as the recipe says.
OURS = ("log", "evaluate", "save")


class Recorder(TrainerCallback):
    """Notes what happens and where; ``then`` may do more."""

    def __init__(self, then: Any = None) -> None:
        self.seen: list[tuple[str, int, float]] = []
        self.then = then


def record(event: str) -> Any:
    def method(self: Recorder, args: Any, state: Any, control: Any, **given: Any) -> None:
        assert {"model", "optimizer", "lr_scheduler", "train_dataloader"} <= given.keys()
        self.seen.append((event, state.global_step, state.epoch))
        if self.then is not None:
            self.then(event, state, control)

    return method


for name in EVENTS:
    setattr(Recorder, f"on_{name}", record(name))


class Reference(Trainer):
    """transformers' loop over our batches."""

    def get_train_dataloader(self) -> Any:
        return self.loader

    def compute_loss(self, model: nn.Module, inputs: Any, *_: Any, **__: Any) -> Any:
        return model(**inputs).loss


def reference(folder: Path, config: TrainingConfig, recorder: Recorder) -> nn.Module:
    model = TinyModel()
    loader = make_loader(model, TinyData(), config, World())
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=config.epochs,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_steps=int(config.warmup_ratio * loader.batches.updates * config.epochs),
        lr_scheduler_type={"constant": "constant_with_warmup"}.get(config.scheduler, config.scheduler),
        max_grad_norm=config.max_grad_norm,
        bf16=config.precision == "bf16",
        use_cpu=True,
        seed=config.seed,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Reference(model, arguments, train_dataset=loader.dataset, callbacks=[recorder])
    trainer.loader, trainer.model_accepts_loss_kwargs = loader, False
    trainer.train()
    return model


def ours(monkeypatch: pytest.MonkeyPatch, train: Any, recorder: Recorder, **changes: Any) -> Any:
    monkeypatch.setattr("genrec.training.train._tracking", lambda folder, resumed: [recorder])
    return train("ours", **changes)


@pytest.mark.parametrize("scheduler", ["constant", "linear", "cosine"])
def test_weights_are_those_of_trainer(train, tmp_path: Path, scheduler: str):
    """Dropout, order, schedule, warm-up, clipping and weight decay; one micro-batch an update needs no weighting."""
    changes: dict[str, Any] = {"max_grad_norm": 0.3, "weight_decay": 0.1, "scheduler": scheduler}
    expected = reference(tmp_path / "reference", settings(**changes), Recorder()).state_dict()
    train("ours", **changes)
    found = load_file(tmp_path / "ours" / "checkpoint-27" / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_callbacks_see_what_trainer_shows_them(train, tmp_path: Path, monkeypatch, accumulation: int):
    """The last update of an epoch has fewer micro-batches."""
    changes = {"gradient_accumulation_steps": accumulation, "batch_size": 4}
    expected, found = Recorder(), Recorder()
    reference(tmp_path / "reference", settings(**changes), expected)
    ours(monkeypatch, train, found, **changes)
    assert [event for event in found.seen if event[0] not in OURS] == [e for e in expected.seen if e[0] not in OURS]


def test_callbacks_see_records_validations_and_saves(train, monkeypatch):
    found = Recorder()
    ours(monkeypatch, train, found, epochs=2, batch_size=72)
    steps = [(event, step) for event, step, _ in found.seen if event in OURS]
    # Two updates, each an epoch: a record, the validation, its record, the checkpoint.
    assert steps == [(event, step) for step in (1, 2) for event in ("log", "evaluate", "log", "save")]


def test_a_callback_may_stop_and_the_next_run_goes_on(train, tmp_path: Path, monkeypatch):
    def stop(event: str, state: Any, control: Any) -> None:
        if event == "step_end" and state.global_step == 4:
            control.should_training_stop = True

    assert ours(monkeypatch, train, Recorder(stop)).steps == 4
    result = ours(monkeypatch, train, Recorder())
    assert (result.steps, result.notes) == (27, ["continuing from checkpoint-4 of 27 steps"])
    whole, stopped = TinyModel(), TinyModel()
    train("whole", model=whole)
    train("ours", model=stopped)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), stopped.parameters(), strict=True))


def test_a_callback_may_ask_for_more(train, tmp_path: Path, monkeypatch):
    def ask(event: str, state: Any, control: Any) -> None:
        if event == "step_end" and state.global_step == 4:
            control.should_log = control.should_evaluate = control.should_save = True

    found = Recorder(ask)
    ours(monkeypatch, train, found, epochs=1, batch_size=2, save_steps=1000)
    assert [event for event, step, _ in found.seen if step == 4 and event in OURS] == ["log", "evaluate", "log", "save"]
    lines = map(json.loads, (tmp_path / "ours" / "metrics.jsonl").read_text().splitlines())
    assert [sorted({"loss", "validation"} & line.keys()) for line in lines if line["step"] == 4] == [
        ["loss"],
        ["validation"],
    ]


@pytest.mark.parametrize("name", ["sasrec", "decoder", "depth", "seq2seq"])
def test_weight_decay_leaves_out_what_trainer_leaves_out(name: str):
    codes = np.stack(np.unravel_index(np.arange(20), (4, 5)), axis=1).astype(np.int32)
    index = ItemIndex(codes, (4, 5), [str(item) for item in range(20)])
    sizes = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "max_history": 5}
    config = RecommenderConfig(name=name, **sizes, **({"use_features": False} if name == "depth" else {}))
    model = build_recommender(config, num_items=20, index=index)
    named = dict(model.named_parameters())
    expected = set(Trainer.get_decay_parameter_names(None, model)) & named.keys()
    assert decayed_parameters(model) == expected
    assert 0 < len(expected) < len(named)
    decayed, others = build_optimizer(model, settings(weight_decay=0.1)).param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert {id(weight) for weight in decayed["params"]} == {id(named[name]) for name in expected}
    assert len(decayed["params"]) + len(others["params"]) == len(named)
