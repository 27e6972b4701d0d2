"""The loop of ``transformers.Trainer`` with our data order, validation, checkpoints and stops.

Trainer runs the epochs, accumulation, clipping, optimizer and scheduler. Replaced here: the loader, what evaluation means,
everything that is saved and loaded (Trainer pickles), the weighting of micro-batches, and the last look at the loss before
the optimizer moves a weight.
"""

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from genrec.config import TrainingConfig
from genrec.errors import ConfigError, NonFiniteLossError
from genrec.training.batches import EpochLoader
from genrec.training.checkpoints import CheckpointStore
from genrec.training.log import Display, MetricsLog
from genrec.training.signals import StopNow, StopSignals
from genrec.training.states import capture_random, pack_optimizer, restore_random, unpack_optimizer

Validation = Callable[[nn.Module], dict[str, float]]
StopReason = Literal["epochs", "patience", "time"]


@dataclass
class RunState:
    """What a run knows beyond weights and optimizer; saved with every checkpoint.

    Attributes:
        best_metric: Best validation metric so far.
        best_step: The step it was measured at; its checkpoint is kept.
        evaluated_step: The last step that was validated.
        without_improvement: Validations since the best one.
        seconds: Time spent, over all sessions.
        users: Training samples seen.
        history: One record per validation.
    """

    best_metric: float | None = None
    best_step: int | None = None
    evaluated_step: int = 0
    without_improvement: int = 0
    seconds: float = 0.0
    users: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


class Run:
    """The parts of one training run and the decisions that steps ask for.

    Args:
        config: The recipe's section.
        loader: Batches in their order.
        validate: Model in, metrics out.
        store: Checkpoints.
        log: ``metrics.jsonl``.
        display: What people see.
        signals: Entered by the caller.
    """

    def __init__(
        self,
        config: TrainingConfig,
        loader: EpochLoader,
        validate: Validation,
        store: CheckpointStore,
        log: MetricsLog,
        display: Display,
        signals: StopSignals,
    ) -> None:
        self.config, self.loader, self.validate = config, loader, validate
        self.store, self.log, self.display, self.signals = store, log, display, signals
        self.state = RunState()
        self.total_steps = loader.batches.updates * config.epochs
        self.started = time.monotonic()

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a saved :class:`RunState`."""
        self.state = RunState(**state)
        self.started = time.monotonic() - self.state.seconds

    @property
    def seconds(self) -> float:
        """Time spent, over all sessions."""
        return time.monotonic() - self.started

    @property
    def seconds_left(self) -> float | None:
        """What the time budget leaves; None without one."""
        return None if self.config.max_minutes is None else self.config.max_minutes * 60 - self.seconds

    def stop_reason(self, step: int) -> StopReason | None:
        """Why the run is over after ``step``, or None."""
        if step >= self.total_steps:
            return "epochs"
        if self.state.without_improvement >= self.config.patience:
            return "patience"
        if self.seconds_left is not None and self.seconds_left <= 0:
            return "time"
        return None

    def validation_due(self, step: int) -> bool:
        """Whether ``step`` must be validated and was not yet."""
        if step == 0 or self.state.evaluated_step == step:
            return False
        interval = self.loader.batches.updates * self.config.eval_epochs
        return step % interval == 0 or self.stop_reason(step) in ("epochs", "time")

    def record(self, step: int, epoch: float, metrics: dict[str, float], seconds: float) -> bool:
        """Note a validation; True if it is the best so far.

        Raises:
            ConfigError: If the metric that selects the model was not measured.
        """
        if self.config.metric not in metrics:
            raise ConfigError(
                f"training.metric = {self.config.metric!r} is not measured",
                where="training.metric",
                expected=f"one of {', '.join(sorted(metrics))}",
                fix="choose one of these",
            )
        value, state = metrics[self.config.metric], self.state
        improved = value > (float("-inf") if state.best_metric is None else state.best_metric)
        if improved:
            state.best_metric, state.best_step, state.without_improvement = value, step, 0
        else:
            state.without_improvement += 1
        state.evaluated_step = step
        state.history.append(
            {
                "step": step,
                "epoch": round(epoch, 6),
                "seconds": round(self.seconds, 3),
                "validation_seconds": round(seconds, 3),
                "validation": metrics,
            }
        )
        self.log.write(state.history[-1])
        return improved


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
        self.run = run
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
        count = getattr(self.model, "count_targets", None)
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
        self.run.log.write(record)
        self.run.display.loss = f"  loss {record['loss']:.4f}"
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, record)

    # ---- validation

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Validate, note the result, save, and stop where patience or time is over.

        A signal abandons it; the checkpoint then says that this step is still to be validated. The generators are as
        before, so how often a run validates does not change what it learns.
        """
        run, step, began = self.run, self.state.global_step, time.monotonic()
        random = capture_random()
        run.display.stage(step, validating=True)
        self.model.eval()
        metrics: dict[str, float] | None = None
        try:
            run.signals.raising = True
            if run.signals.number is None:
                with torch.no_grad():
                    metrics = {name: float(value) for name, value in run.validate(self.model).items()}
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
            self._save_checkpoint(self.model, None)
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
            self._save_checkpoint(self.model, None)

    # ---- checkpoints

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run, step = self.run, self.state.global_step
        if self._saved == (step, run.state.evaluated_step):
            return
        run.state.seconds = run.seconds
        optimizer, optimizer_rest = pack_optimizer(self.optimizer.state_dict())
        random, random_rest = capture_random()
        state = {
            "run": asdict(run.state),
            "optimizer": optimizer_rest,
            "scheduler": self.lr_scheduler.state_dict(),
            "random": random_rest,
        }
        trainer = json.dumps(asdict(self.state), indent=2, sort_keys=True)
        run.store.save(step, self.model, {"optimizer": optimizer, "random": random}, state, trainer)
        self._saved = (step, run.state.evaluated_step)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.resumed_step is not None:
            self.run.store.load_weights(self.resumed_step, self.model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.resumed_step is None:
            return
        state = self.run.store.state(self.resumed_step)
        tensors = self.run.store.tensors(self.resumed_step, "optimizer")
        self.optimizer.load_state_dict(unpack_optimizer(tensors, state["optimizer"], self.optimizer.state_dict()))
        self.lr_scheduler.load_state_dict(state["scheduler"])
        # Also here, not only where Trainer does: a validation that is still due comes first, and saves.
        self._load_rng_state(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if self.resumed_step is not None:
            rest = self.run.store.state(self.resumed_step)["random"]
            restore_random(self.run.store.tensors(self.resumed_step, "random"), rest)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if not self.control.should_training_stop:
            super()._run_epoch(*args, **kwargs)
