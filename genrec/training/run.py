"""One training run: its parts, what it knows, and what its steps ask: validate, stop, is this the best so far?"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import nn

from genrec.config import TrainingConfig
from genrec.distributed.launch import Launch
from genrec.distributed.world import World
from genrec.errors import ConfigError
from genrec.signals import StopNow, StopSignals
from genrec.training.batches import EpochLoader
from genrec.training.checkpoints import CheckpointStore
from genrec.training.log import Display, MetricsLog

Validation = Callable[[nn.Module], dict[str, float]]
StopReason = Literal["epochs", "patience", "time", "guard"]


@runtime_checkable
class ShardedValidation(Protocol):
    """A validation whose users several processes can share."""

    def measure_shard(self, model: nn.Module, world: World) -> Any:
        """What this process finds out."""

    def merge_shards(self, parts: list[Any]) -> dict[str, float]:
        """Metrics from what all processes found, by rank."""

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Do it alone."""


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
        pieces: Into how many pieces micro-batches are cut since memory ran out.
        skipped: Updates that were left out because their loss was no number.
        history: One record per validation.
    """

    best_metric: float | None = None
    best_step: int | None = None
    evaluated_step: int = 0
    without_improvement: int = 0
    seconds: float = 0.0
    users: int = 0
    pieces: int = 1
    skipped: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


class Run:
    """The parts of one training run and the decisions that steps ask for.

    Attributes:
        section: Of the recipe that its settings are in.
        name_users: Gives the external ids of dense users, for what people read; None where they are unknown.
        launch: How the processes were started.
        world: The processes that train together.

    Args:
        config: The recipe's section.
        loader: Batches in their order.
        validate: Model in, metrics out.
        store: Checkpoints.
        log: ``metrics.jsonl``.
        display: What people see.
        signals: Entered by the caller.
    """

    section = "training"
    name_users: Callable[[np.ndarray], list[str]] | None = None
    launch = Launch()
    world = World()

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
        self._agreed: float | None = None

    def agree(self) -> None:
        """Let all processes know of one signal and one clock, so that they decide alike."""
        if self.world.size > 1:
            found = self.world.gather_numbers(self.signals.number or 0, time.monotonic() - self.started).amax(0)
            self.signals.number, self._agreed = int(found[0]) or None, float(found[1])

    def measure(self, network: nn.Module) -> dict[str, float] | None:
        """Validate, each process a part of the users where the validation can be divided.

        Returns:
            Metrics, the same in all processes; None where a signal came to any of them.
        """
        network.eval()
        part: Any = None
        try:
            self.signals.raising = True
            if self.signals.number is None:
                with torch.no_grad():
                    part = self._validate_part(network)
            self.signals.raising = False
        except StopNow:
            part = None
        finally:
            self.signals.raising = False
        parts = self.world.gather(part)
        self.agree()
        if any(part is None for part in parts):
            return None
        found = self.validate.merge_shards(parts) if isinstance(self.validate, ShardedValidation) else parts[0]
        return {name: float(value) for name, value in found.items()}

    def _validate_part(self, network: nn.Module) -> Any:
        if isinstance(self.validate, ShardedValidation):
            return self.validate.measure_shard(network, self.world)
        return self.validate(network)

    def note(self, step: int, text: str) -> None:
        """Say something that stays, on the terminal and in the log."""
        self.display.say(text)
        self.log.write({"step": step, "note": text})

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a saved :class:`RunState`."""
        self.state = RunState(**state)
        self.started = time.monotonic() - self.state.seconds

    @property
    def seconds(self) -> float:
        """Time spent, over all sessions."""
        return time.monotonic() - self.started if self._agreed is None else self._agreed

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
