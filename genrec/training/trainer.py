"""The loop of ``transformers.Trainer`` with our data order, validation, checkpoints and stops.

Trainer runs the epochs, accumulation, clipping, optimizer and scheduler. Replaced here: the loader, what evaluation
means, everything that is saved and loaded (Trainer pickles), the weighting of micro-batches, and the last look at the
loss before the optimizer moves a weight.
"""

import json
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from genrec.errors import NonFiniteLossError
from genrec.training.run import Run
from genrec.training.signals import StopNow
from genrec.training.states import capture_random, pack_optimizer, restore_random, unpack_optimizer


class StepDecisions(TrainerCallback):
    """After every update: log, validate, save or stop?"""

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Set the flags that Trainer acts on at once."""
        run, step = self.run, state.global_step
        run.display.update(step, run.seconds_left)
        due = run.validation_due(step)
        if due or step % run.loader.batches.updates == 0:
            control.should_log = True
        if run.signals.number is not None:
            control.should_save = control.should_training_stop = True
            return control
        control.should_evaluate = due
        control.should_save = run.config.save_steps is not None and step % run.config.save_steps == 0
        if run.stop_reason(step) is not None:
            control.should_training_stop = True
        return control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Say that an epoch is over where no validation did."""
        step, run = state.global_step, self.run
        if step % run.loader.batches.updates == 0 and run.state.evaluated_step != step:
            run.display.report(step, state.epoch or 0.0, None)
        return control


class RecommenderTrainer(Trainer):
    """Trainer over a :class:`Run`; see the module.

    Args:
        model: Returns an output with ``loss``, the mean over its targets, from ``items`` and ``lengths``.
        args: With every evaluation and saving strategy off.
        run: The parts.
    """

    def __init__(self, model: nn.Module, args: TrainingArguments, run: Run, callbacks: list[TrainerCallback]) -> None:
        super().__init__(model, args, train_dataset=run.loader.dataset, callbacks=[StepDecisions(run), *callbacks])
        self.remove_callback(PrinterCallback)
        # The default scales the loss by a count of labels that our models never see.
        self.model_accepts_loss_kwargs = False
        self.run, self.network = run, model
        self.resumed_step: int | None = None
        self._autocast = run.config.precision == "bf16"
        self._step_loss: Tensor | float = 0.0
        self._saved: tuple[int, int] | None = None
        self._logged = (time.monotonic(), run.state.users)
        self._idle = 0.0

    # ---- steps

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Our loader as it is: its order must not depend on what wraps it."""
        return self.run.loader

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager[Any]:
        """bf16 for the forward pass where the recipe asks for it."""
        if not self._autocast:
            return nullcontext()
        return torch.autocast(self.args.device.type, torch.bfloat16, cache_enabled=bool(cache_enabled))

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: Trainer's estimate walks all parameters at every step."""
        return 0

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Tensor]], device: torch.device) -> int | None:
        """Targets of all micro-batches of one update, so that each weighs as much as it has targets."""
        return sum(self._targets(batch) for batch in batch_samples) if len(batch_samples) > 1 else None

    def _targets(self, batch: dict[str, Tensor]) -> int:
        count = getattr(self.network, "count_targets", None)
        return int(batch["lengths"].sum()) if count is None else int(count(batch["lengths"]))

    def training_step(
        self, model: nn.Module, inputs: dict[str, Tensor], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward of one micro-batch, weighted by its share of the update's targets."""
        model.train()
        self.run.state.users += len(inputs["lengths"])
        share = 1.0 if num_items_in_batch is None else self._targets(inputs) / float(num_items_in_batch)
        inputs = self._prepare_inputs(inputs)
        with self.autocast_smart_context_manager():
            loss: Tensor = model(**inputs).loss
        loss = loss if share == 1.0 else loss * share
        self.accelerator.backward(loss)
        loss = loss.detach()
        self._step_loss = self._step_loss + loss
        return loss

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        norm: Tensor = super()._clip_grad_norm(model)
        loss, self._step_loss = self._step_loss, 0.0
        if not torch.isfinite(norm + loss):
            step, rate = self.state.global_step + 1, self._get_learning_rate()
            bad = float(loss)
            what = f"the loss became {bad}" if bad - bad != 0 else f"the gradient norm became {float(norm)}"
            raise NonFiniteLossError(
                f"{what} at step {step}",
                where=f"step {step} (epoch {self.state.epoch or 0:.3g}), learning rate {rate:.3g}",
                expected="a finite loss; the update was not applied",
                fix="lower training.learning_rate, raise training.warmup_ratio, or set training.precision=fp32;"
                " then train into another folder",
            )
        return norm

    # ---- what is said

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write a training record; Trainer's own summary at the end is left out."""
        if "loss" not in logs:
            return
        now, users = time.monotonic(), self.run.state.users
        busy = max(now - self._logged[0] - self._idle, 1e-9)
        record = {
            "step": self.state.global_step,
            "epoch": round(self.state.epoch or 0.0, 6),
            "loss": logs["loss"],
            "learning_rate": logs["learning_rate"],
            "grad_norm": logs["grad_norm"],
            "seconds": round(self.run.seconds, 3),
            "users_per_second": round((users - self._logged[1]) / busy, 1),
        }
        self._logged, self._idle = (now, users), 0.0
        told = self._told_by_the_model()
        self.run.log.write(record | told)
        # What follows runs elsewhere takes single numbers only.
        record |= {name: value for name, value in told.items() if isinstance(value, float)}
        self.run.display.loss = f"  loss {record['loss']:.4f}"
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, record)

    def _told_by_the_model(self) -> dict[str, Any]:
        tell = getattr(self.network, "training_metrics", None)
        return {} if tell is None else dict(tell())

    # ---- validation

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Validate, note the result, save, and stop where patience or time is over.

        A signal abandons it; the checkpoint then says that this step is still to be validated. The generators are as
        before, so how often a run validates does not change what it learns.
        """
        run, step, began = self.run, self.state.global_step, time.monotonic()
        random = capture_random()
        run.display.stage(step, validating=True)
        self.network.eval()
        metrics: dict[str, float] | None = None
        try:
            run.signals.raising = True
            if run.signals.number is None:
                with torch.no_grad():
                    metrics = {name: float(value) for name, value in run.validate(self.network).items()}
            run.signals.raising = False
        except StopNow:
            metrics = None
        finally:
            run.signals.raising = False
            restore_random(*random)
        self._idle += time.monotonic() - began
        run.display.stage(step, validating=False)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        if metrics is None:
            self.control.should_training_stop = True
            self._save_checkpoint(self.network, None)
            return {}
        self._close_validation(step, metrics, time.monotonic() - began)
        return metrics

    def _close_validation(self, step: int, metrics: dict[str, float], seconds: float) -> None:
        run, epoch = self.run, self.state.epoch or 0.0
        improved = run.record(step, epoch, metrics, seconds)
        run.display.best = f"  best {run.state.best_metric:.4f}" if run.state.best_metric is not None else ""
        run.display.report(step, epoch, metrics)
        logs = {f"eval_{name}": value for name, value in metrics.items()}
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs)
        over = run.stop_reason(step) is not None
        if over:
            self.control.should_training_stop = True
        if improved or over or run.config.save_steps is None:
            self._save_checkpoint(self.network, None)

    # ---- checkpoints

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run, step = self.run, self.state.global_step
        if self._saved == (step, run.state.evaluated_step):
            return
        run.state.seconds = run.seconds
        optimizer, scheduler = self._updaters()
        moments, optimizer_rest = pack_optimizer(optimizer.state_dict())
        random, random_rest = capture_random()
        state = {
            "run": asdict(run.state),
            "optimizer": optimizer_rest,
            "scheduler": scheduler.state_dict(),
            "random": random_rest,
        }
        trainer = json.dumps(asdict(self.state), indent=2, sort_keys=True)
        run.store.save(step, self.network, {"optimizer": moments, "random": random}, state, trainer)
        self._saved = (step, run.state.evaluated_step)

    def _updaters(self) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        # Trainer makes both before the first step and before anything is loaded.
        return cast(
            "tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]", (self.optimizer, self.lr_scheduler)
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.resumed_step is not None:
            self.run.store.load_weights(self.resumed_step, self.network)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.resumed_step is None:
            return
        state = self.run.store.state(self.resumed_step)
        tensors = self.run.store.tensors(self.resumed_step, "optimizer")
        optimizer, scheduler = self._updaters()
        optimizer.load_state_dict(unpack_optimizer(tensors, state["optimizer"], optimizer.state_dict()))
        scheduler.load_state_dict(state["scheduler"])
        # Also here, not only where Trainer does: a validation that is still due comes first, and saves.
        self._load_rng_state(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if self.resumed_step is not None:
            rest = self.run.store.state(self.resumed_step)["random"]
            restore_random(self.run.store.tensors(self.resumed_step, "random"), rest)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if not self.control.should_training_stop:
            super()._run_epoch(*args, **kwargs)
