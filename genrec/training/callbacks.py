"""What happens around the updates of a :class:`genrec.training.loop.TrainingLoop`, one callback each.

They are called in the order of the file, those of others before :class:`LogCallback`: what to do after an update is
decided first (``control.should_log, should_evaluate, should_save, should_training_stop``), and then done.
"""

import time
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import TrainerCallback

from genrec.training.batches import WindowDataset
from genrec.training.nonfinite import Losses, any_rank, non_finite_error, save_diagnosis, users_of_update
from genrec.training.serialization import capture_random, pack_optimizer, reseed, restore_random, unpack_optimizer

if TYPE_CHECKING:
    from genrec.training.loop import TrainingLoop


class LoopCallback(TrainerCallback):
    """A callback that knows its loop; what transformers passes next to it is the loop's own."""

    def __init__(self, loop: "TrainingLoop") -> None:
        self.loop, self.run = loop, loop.run


class ScheduleCallback(LoopCallback):
    """Decides after every update: log, validate, save or stop?"""

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Set the flags; all processes set the same ones."""
        run, step, control = self.run, self.loop.state.global_step, self.loop.control
        run.agree()
        due = run.validation_due(step)
        epoch_is_over = step % run.loader.batches.updates == 0
        if due or epoch_is_over or step % self.loop.args.logging_steps == 0:
            control.should_log = True
        if run.signals.number is not None:
            control.should_save = control.should_training_stop = True
            return
        control.should_evaluate = due
        control.should_save = run.config.save_steps is not None and step % run.config.save_steps == 0
        if run.stop_reason(step) is not None:
            control.should_training_stop = True


class NonFiniteCallback(LoopCallback):
    """Looks at loss and gradient norm before the optimizer moves a weight."""

    def __init__(self, loop: "TrainingLoop") -> None:
        super().__init__(loop)
        self.losses = Losses()

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Write down what led to a number that is none; then stop, or leave out the update if that many may be.

        Raises:
            NonFiniteLossError: In all processes.
        """
        norm, loss = self.loop.grad_norm, torch.as_tensor(self.loop.recoverable.loss)
        self.losses.add(loss)
        if not any_rank(~torch.isfinite(norm + loss)):
            return
        run, step = self.run, self.loop.state.global_step + 1
        facts = {
            "step": step,
            "rank": run.world.rank,
            "epoch": self.loop.state.epoch,
            "learning_rate": self.loop.scheduler.get_last_lr()[0],
            "loss": float(loss),
            "grad_norm": float(norm),
            "last_losses": self.losses.values(),
        }
        users = users_of_update(run.loader.batches, cast(WindowDataset, run.loader.dataset), step)
        path = save_diagnosis(run.store.folder, facts, users, run.name_users)
        if run.state.skipped >= run.config.skip_nonfinite:
            raise non_finite_error(facts, path, run.state.skipped, run.section)
        run.state.skipped += 1
        seen = f"its loss was {facts['loss']}, its gradient norm {facts['grad_norm']} ({path})"
        run.note(step, f"the update of step {step} was left out: {seen}")
        self.loop.drop_update()


class OutOfMemoryCallback(LoopCallback):
    """Keeps and reports into how many pieces micro-batches are cut since memory ran out."""

    def on_substep_end(self, *_: Any, **__: Any) -> None:
        """After a micro-batch."""
        pieces, step = self.loop.recoverable.pieces, self.loop.state.global_step + 1
        if pieces != self.run.state.pieces:
            self.run.state.pieces = pieces
            self.run.note(step, f"memory ran out at step {step}: micro-batches are cut into {pieces} pieces now")

    # The last micro-batch of an update.
    on_pre_optimizer_step = on_substep_end


class DisplayCallback(LoopCallback):
    """Moves the progress bar."""

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Show the step."""
        self.run.display.update(self.loop.state.global_step, self.run.seconds_left)

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        """Close an epoch where no validation did."""
        step, run = self.loop.state.global_step, self.run
        if step % run.loader.batches.updates == 0 and run.state.evaluated_step != step:
            run.display.report(step, self.loop.state.epoch, None)


def deciding_callbacks(loop: "TrainingLoop") -> list[TrainerCallback]:
    """Those that are called before the callbacks of others."""
    kinds = (ScheduleCallback, NonFiniteCallback, OutOfMemoryCallback, DisplayCallback)
    return [kind(loop) for kind in kinds]


class LogCallback(LoopCallback):
    """Writes training records: the mean loss since the last one, learning rate, gradient norm, speed."""

    def __init__(self, loop: "TrainingLoop") -> None:
        super().__init__(loop)
        self.loss, self.step = torch.zeros((), device=loop.strategy.accelerator.device), loop.state.global_step
        # When the last record was written, the users until then, and seconds of validation since.
        self.written, self.users, self.idle = time.monotonic(), loop.run.state.users, 0.0

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Add the losses of the update; write a record if it is time."""
        for loss in self.loop.losses:
            self.loss += loss
        self.on_epoch_end()

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        """Write a record if some callback asks for it."""
        if self.loop.control.should_log and self.loop.state.global_step > self.step:
            self.write()
        self.loop.control.should_log = False

    def write(self) -> None:
        """Write a record of the updates since the last one."""
        loop, run, now = self.loop, self.run, time.monotonic()
        step, users = loop.state.global_step, run.state.users - self.users
        loss = float(loop.strategy.accelerator.gather(self.loss).mean()) / (step - self.step)
        record = {
            "step": step,
            "epoch": round(loop.state.epoch, 6),
            "loss": loss,
            "learning_rate": loop.learning_rate,
            "grad_norm": float(loop.grad_norm),
            "seconds": round(run.seconds, 3),
            "users_per_second": round(users / max(now - self.written - self.idle, 1e-9), 1),
        }
        run.display.add_loss(loss, users)
        self.loss, self.step = torch.zeros_like(self.loss), step
        self.written, self.users, self.idle = now, run.state.users, 0.0
        measure = getattr(loop.strategy.trained, "training_metrics", None)
        metrics: dict[str, Any] = {} if measure is None else dict(measure())
        run.log.write(record | metrics)
        # Integrations take single numbers only.
        numbers = {name: value for name, value in metrics.items() if isinstance(value, float)}
        loop.notify("on_log", logs=record | numbers)

    def saved_state(self) -> dict[str, Any]:
        """For a checkpoint: the sum of losses, as a mean over the processes, since the last record; all take part."""
        return {"step": self.step, "loss": float(self.run.world.gather_numbers(float(self.loss)).mean())}

    def load_state(self, state: dict[str, Any]) -> None:
        """Undo :meth:`saved_state`."""
        self.step, self.loss = state["step"], torch.full_like(self.loss, state["loss"])


class ValidationCallback(LoopCallback):
    """Validates, notes the result, saves, and stops where patience or time is over.

    A signal abandons a validation; the checkpoint then says that the step is still to be validated. The generators are
    as before, so how often a run validates does not change what it learns.
    """

    def catch_up(self) -> None:
        """Validate the step of a checkpoint that says so."""
        if self.run.validation_due(self.loop.state.global_step):
            self.validate()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Validate if some callback asks for it."""
        if self.loop.control.should_evaluate:
            self.validate()
        self.loop.control.should_evaluate = False

    on_epoch_end = on_step_end

    def validate(self) -> None:
        """Measure the model as it is now."""
        loop, run, step, began = self.loop, self.run, self.loop.state.global_step, time.monotonic()
        random = capture_random()
        run.display.stage(step, validating=True)
        try:
            with loop.strategy.whole_network(loop.strategy.accelerator.device) as network:
                metrics = run.measure(network)
        finally:
            restore_random(*random)
        loop.log.idle += time.monotonic() - began
        run.display.stage(step, validating=False)
        loop.notify("on_evaluate", metrics=metrics)
        if metrics is None:
            loop.control.should_training_stop = True
            loop.checkpoint.save()
            return
        self._close(step, metrics, time.monotonic() - began)

    def _close(self, step: int, metrics: dict[str, float], seconds: float) -> None:
        loop, run = self.loop, self.run
        improved = run.record(step, loop.state.epoch, metrics, seconds)
        run.display.best = f"  best {run.state.best_metric:.4f}" if run.state.best_metric is not None else ""
        run.display.report(step, loop.state.epoch, metrics)
        loop.notify("on_log", logs={f"eval_{name}": value for name, value in metrics.items()})
        is_over = run.stop_reason(step) is not None
        if is_over:
            loop.control.should_training_stop = True
        if improved or is_over or run.config.save_steps is None:
            loop.checkpoint.save()


class CheckpointCallback(LoopCallback):
    """Writes and reads checkpoints: weights, optimizer, schedule, generators of every process, state of the run."""

    def __init__(self, loop: "TrainingLoop") -> None:
        super().__init__(loop)
        self.saved: tuple[int, int] | None = None

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Save if some callback asks for it."""
        if self.loop.control.should_save:
            self.save()
        self.loop.control.should_save = False

    on_epoch_end = on_step_end

    def save(self) -> None:
        """Save, unless this step was saved and not validated since; all processes must take part.

        Raises:
            ArtifactError: If the disk is full or not writable.
        """
        loop, run, step = self.loop, self.run, self.loop.state.global_step
        if self.saved == (step, run.state.evaluated_step):
            return
        run.state.seconds = run.seconds
        loop.strategy.gather_weights()
        moments, optimizer = pack_optimizer(loop.strategy.optimizer_state())
        random = run.world.gather(capture_random())
        tensors = {"optimizer": moments, **{name_of_random(rank): states for rank, (states, _) in enumerate(random)}}
        state = {
            "run": asdict(run.state),
            "optimizer": optimizer,
            "scheduler": loop.scheduler.state_dict(),
            "random": [rest for _, rest in random],
            "logged": loop.log.saved_state(),
        }
        run.world.run_on_main(partial(run.store.save, step, loop.network, tensors, state))
        self.saved = (step, run.state.evaluated_step)
        loop.notify("on_save")

    def load(self, step: int) -> None:
        """Take up optimizer, schedule and log; the weights are loaded before anything is wrapped."""
        loop, state = self.loop, self.run.store.state(step)
        fresh = {"param_groups": loop.strategy.optimizer.param_groups}
        tensors = self.run.store.tensors(step, "optimizer")
        loop.strategy.load_optimizer(unpack_optimizer(tensors, state["optimizer"], fresh))
        loop.scheduler.load_state_dict(state["scheduler"])
        loop.log.load_state(state["logged"])

    def load_random(self, step: int) -> None:
        """Take up the generators of this process, or new ones where there were fewer processes."""
        rank, rests = self.run.world.rank, self.run.store.state(step)["random"]
        if rank < len(rests):
            restore_random(self.run.store.tensors(step, name_of_random(rank)), rests[rank])
        else:
            reseed(self.run.config.seed, rank, step)


def name_of_random(rank: int) -> str:
    """The file of a process's generators in a checkpoint."""
    return "random" if rank == 0 else f"random-{rank}"
