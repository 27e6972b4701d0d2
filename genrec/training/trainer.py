"""The loop of ``transformers.Trainer`` with our data order, validation, checkpoints and stops.

Trainer runs the epochs, accumulation, clipping, optimizer and scheduler. Replaced here: the loader, what evaluation
means, everything that is saved and loaded (Trainer pickles), the weighting of micro-batches, and the last look at the
loss before the optimizer moves a weight.
"""

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from genrec.models.layers.moe import expert_layers
from genrec.signals import StopNow
from genrec.training.batches import WindowDataset
from genrec.training.finite import Losses, any_rank, non_finite_error, save_diagnosis, users_of_update
from genrec.training.memory import Batch, Update, count_targets, draw_targets
from genrec.training.run import Run
from genrec.training.states import capture_random, pack_optimizer, reseed, restore_random, unpack_optimizer
from genrec.training.wrapping import wrapping_for

# An update that takes longer than this after a signal is given up between two micro-batches.
PATIENCE_AFTER_SIGNAL = 10.0


class StepDecisions(TrainerCallback):
    """After every update: log, validate, save or stop?"""

    def __init__(self, run: Run, continue_log: Callable[[], None]) -> None:
        self.run, self.continue_log = run, continue_log

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Take up the mean of the losses since the last record where Trainer begins with none."""
        self.continue_log()
        return control

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Set the flags that Trainer acts on at once."""
        run, step = self.run, state.global_step
        run.agree()
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
        decisions = StepDecisions(run, self._continue_log)
        self.wrapping = wrapping_for(model, run.launch, run.world, run.config.expert_parallel)
        trained = self.wrapping.trained
        super().__init__(trained, args, train_dataset=run.loader.dataset, callbacks=[decisions, *callbacks])
        self.remove_callback(PrinterCallback)
        # The default scales the loss by a count of labels that our models never see.
        self.model_accepts_loss_kwargs = False
        self.run, self.network = run, model
        self.resumed_step: int | None = None
        self._autocast = self.wrapping.set_precision(self, run.config.precision)
        self._expert_layers = expert_layers(trained.modules())
        self._update, self._losses = Update(trained, run.state.pieces), Losses()
        self._update_is_new, self._users_elsewhere, self._random_is_loaded = True, 0, False
        self._before: tuple[Tensor, int] = (torch.zeros(()), 0)
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
        for batch in batch_samples:
            draw_targets(self.network, batch)
        if len(batch_samples) == 1 and self.run.world.size == 1:
            return None
        targets, users = sum(map(self._targets, batch_samples)), sum(len(batch["lengths"]) for batch in batch_samples)
        everywhere = self.run.world.gather_numbers(targets, users).sum(0)
        self._users_elsewhere = int(everywhere[1]) - users
        return int(everywhere[0])

    def _targets(self, batch: Batch) -> int:
        return count_targets(self.network, batch)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Batch], Any]:
        """The micro-batches of the next update."""
        self._update_is_new = True
        self._before = self._tr_loss.clone(), self.run.state.users
        # Trainer restores the generators after this where a run goes on within an epoch; a batch may draw here.
        self._load_rng_state(None)
        self._random_is_loaded = True
        # Before anything is drawn for it, so that an update that is given up is drawn again.
        self._update.begin()
        samples: tuple[list[Batch], Any] = super().get_batch_samples(*args, **kwargs)
        return samples

    def training_step(
        self, model: nn.Module, inputs: dict[str, Tensor], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward of one micro-batch, weighted by its share of the update's targets."""
        run = self.run
        if self._update_is_new:
            self._update_is_new = False
        elif self.args.world_size == 1 and run.signals.waited(PATIENCE_AFTER_SIGNAL):
            raise StopNow
        model.train()
        run.state.users += len(inputs["lengths"]) + self._users_elsewhere
        self._users_elsewhere = 0
        # A batch of several kinds of rows says itself what share of each it holds.
        weighed = num_items_in_batch is None or "shares" in inputs
        share = 1.0 if weighed else self._targets(inputs) / float(cast("Tensor | int", num_items_in_batch))
        loss = self._update.add(inputs, share, partial(self._forward_backward, model))
        if self._update.pieces != run.state.pieces:
            run.state.pieces = self._update.pieces
            step = self.state.global_step + 1
            run.note(step, f"memory ran out at step {step}: micro-batches are cut into {run.state.pieces} pieces now")
        return loss

    def _forward_backward(self, model: nn.Module, batch: Batch, share: float) -> Tensor:
        present = bool(len(batch["lengths"]))
        inputs = self._prepare_inputs(batch if present else self.run.loader.stand_in())
        for layer in self._expert_layers:
            layer.counted = present
        with self.autocast_smart_context_manager():
            loss: Tensor = model(**inputs).loss
        # Every wrapper takes the mean over the processes; the sum is wanted, of losses that are shares.
        share *= self.run.world.size
        loss = loss if share == 1.0 else loss * share
        self.accelerator.backward(loss, **self.wrapping.backward_options)
        return loss.detach()

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        norm = self.wrapping.clip(self, self.args.max_grad_norm)
        self.wrapping.verify(self, float(norm))
        loss = torch.as_tensor(self._update.loss)
        self._losses.add(loss)
        if any_rank(~torch.isfinite(norm + loss)):
            self._refuse_update(float(norm), float(loss))
        return norm

    def _refuse_update(self, norm: float, loss: float) -> None:
        """Write down what led here; then stop, or leave out the update if that many may be."""
        run, step = self.run, self.state.global_step + 1
        facts = {
            "step": step,
            "rank": self.args.process_index,
            "epoch": self.state.epoch or 0.0,
            "learning_rate": self._get_learning_rate(),
            "loss": loss,
            "grad_norm": norm,
            "last_losses": self._losses.values(),
        }
        users = users_of_update(run.loader.batches, cast(WindowDataset, run.loader.dataset), step)
        path = save_diagnosis(run.store.folder, facts, users, run.name_users)
        if run.state.skipped >= run.config.skip_nonfinite:
            raise non_finite_error(facts, path, run.state.skipped, run.section)
        run.state.skipped += 1
        run.note(
            step, f"the update of step {step} was left out: its loss was {loss}, its gradient norm {norm} ({path})"
        )
        # The optimizer passes by parameters without a gradient.
        self.model_wrapped.zero_grad(set_to_none=True)
        self._update.restore_buffers()
        self._tr_loss = self._before[0]

    def give_up_update(self) -> None:
        """Forget the update that was begun, and save what was before it."""
        self._update.rewind()
        self._tr_loss, self.run.state.users = self._before
        self._save_checkpoint(self.network, None)

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
        self.run.display.add_loss(logs["loss"], users - self._logged[1])
        self._logged, self._idle = (now, users), 0.0
        told = self._told_by_the_model()
        self.run.log.write(record | told)
        # What follows runs elsewhere takes single numbers only.
        record |= {name: value for name, value in told.items() if isinstance(value, float)}
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, record)

    def _told_by_the_model(self) -> dict[str, Any]:
        tell = getattr(self.wrapping.trained, "training_metrics", None)
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
        try:
            with self.wrapping.whole_network(self.args.device) as network:
                metrics = run.measure(network)
        finally:
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
        self.wrapping.gather_weights()
        moments, optimizer_rest = pack_optimizer(self.wrapping.optimizer_state(optimizer))
        random = run.world.gather(capture_random())
        files = {name_of_random(rank): tensors for rank, (tensors, _) in enumerate(random)}
        loss = run.world.gather_numbers(float(self._tr_loss)).mean()
        state = {
            "run": asdict(run.state),
            "optimizer": optimizer_rest,
            "scheduler": scheduler.state_dict(),
            "random": [rest for _, rest in random],
            "logged": {"step": self._globalstep_last_logged, "loss": float(loss)},
        }
        trainer = json.dumps(asdict(self.state), indent=2, sort_keys=True)
        save = partial(run.store.save, step, self.network, {"optimizer": moments, **files}, state, trainer)
        run.world.from_leader(save)
        self._saved = (step, run.state.evaluated_step)

    def _updaters(self) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        # Trainer makes both before the first step and before anything is loaded.
        return cast(
            "tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]", (self.optimizer, self.lr_scheduler)
        )

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        # Shards are where they belong, which may be main memory.
        if self.wrapping.trained is self.wrapping.network:
            super()._move_model_to_device(model, device)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Trainer's, seen by the wrapper before anything is done to it."""
        optimizer = super().create_optimizer(*args, **kwargs)
        self.wrapping.note_optimizer(optimizer)
        return optimizer

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        # Trainer would look for the files of DeepSpeed where ours are.
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        self._load_optimizer_and_scheduler(resume_from_checkpoint)
        return prepared

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """The weights were loaded before anything was wrapped."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.resumed_step is None:
            return
        state = self.run.store.state(self.resumed_step)
        tensors = self.run.store.tensors(self.resumed_step, "optimizer")
        optimizer, scheduler = self._updaters()
        fresh = {"param_groups": optimizer.param_groups}
        self.wrapping.load_optimizer(optimizer, unpack_optimizer(tensors, state["optimizer"], fresh))
        scheduler.load_state_dict(state["scheduler"])
        # Also here, not only where Trainer does: a validation that is still due comes first, and saves.
        self._load_rng_state(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if self.resumed_step is None or self._random_is_loaded:
            return
        rank, rests = self.run.world.rank, self.run.store.state(self.resumed_step)["random"]
        if rank < len(rests):
            restore_random(self.run.store.tensors(self.resumed_step, name_of_random(rank)), rests[rank])
        else:
            reseed(self.run.config.seed, rank, self.resumed_step)

    def _continue_log(self) -> None:
        if self.resumed_step is not None:
            logged = self.run.store.state(self.resumed_step)["logged"]
            self._globalstep_last_logged = logged["step"]
            self._tr_loss = torch.tensor(logged["loss"], device=self.args.device)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if not self.control.should_training_stop:
            super()._run_epoch(*args, **kwargs)


def name_of_random(rank: int) -> str:
    """The file of a process's generators in a checkpoint."""
    return "random" if rank == 0 else f"random-{rank}"
