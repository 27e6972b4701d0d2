"""One training run: its parts, what it knows, and what its steps ask: validate, stop, is this the best so far?"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from genrec.config import TrainingConfig
from genrec.errors import ConfigError
from genrec.training.batches import EpochLoader
from genrec.training.checkpoints import CheckpointStore
from genrec.training.log import Display, MetricsLog
from genrec.training.signals import StopSignals

Validation = Callable[[nn.Module], dict[str, float]]
StopReason = Literal["epochs", "patience", "time", "guard"]


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
