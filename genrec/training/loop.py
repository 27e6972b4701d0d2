"""The training loop: epochs of optimizer updates, each of some micro-batches.

accelerate wraps the model and runs the backward pass (:mod:`genrec.training.strategies`). What happens around an update
is a ``transformers.TrainerCallback``: ours (:mod:`genrec.training.callbacks`) and those of others, such as the
integrations of transformers, are called alike. Everything that is drawn comes from the global generators, in an order
that neither validations nor saves change.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, skip_first_batches
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed

from genrec.models.layers.moe import expert_layers
from genrec.signals import StopNow
from genrec.training.callbacks import CheckpointCallback, LogCallback, ValidationCallback, deciding_callbacks
from genrec.training.memory import Batch, RecoverableStep, count_targets, draw_targets
from genrec.training.optimizer import build_scheduler
from genrec.training.run import Run
from genrec.training.serialization import reseed
from genrec.training.strategies.build import build_strategy

# An update that takes longer than this after a signal is given up between two micro-batches.
PATIENCE_AFTER_SIGNAL = 10.0


class TrainingLoop:
    """Trains a model over the batches of a :class:`Run`.

    Attributes:
        strategy: How several processes train one model; holds the wrapped model and its optimizer.
        scheduler: Learning rate by update.
        state: What transformers' callbacks read: ``global_step``, ``epoch`` and so on.
        control: What callbacks ask for: log, evaluate, save, stop.
        losses, grad_norm, learning_rate: Of the last update: of its micro-batches, weighted; before clipping; used.

    Args:
        model: Returns an output with ``loss``, the mean over its targets, from the keywords of a batch.
        run: The parts.
        args: Passed to callbacks.
        callbacks: Further ones.
        resumed: The checkpoint to continue from, whose weights the model holds already; None to begin.
    """

    def __init__(
        self,
        model: nn.Module,
        run: Run,
        args: TrainingArguments,
        callbacks: Sequence[TrainerCallback] = (),
        resumed: int | None = None,
    ) -> None:
        self.network, self.run, self.args, self.resumed = model, run, args, resumed
        config, step = run.config, resumed or 0
        self.strategy = build_strategy(model, run.launch, run.world, config.expert_parallel)
        set_seed(config.seed)
        if run.world.rank:
            # Equal generators in all processes would draw the same dropout for different users.
            reseed(config.seed, run.world.rank, 0)
        # Batches of some models leave parts of them unused; buffers that move are kept equal where they move.
        ddp = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
        self.strategy.prepare(Accelerator(kwargs_handlers=[ddp]), config)
        self.scheduler = build_scheduler(self.strategy.optimizer, config, run.total_steps)
        self.recoverable = RecoverableStep(self.strategy.trained, run.state.pieces)
        self.experts = expert_layers(self.strategy.trained.modules())
        self.losses: list[Tensor] = []
        self.grad_norm, self.learning_rate = torch.zeros(()), config.learning_rate
        self.control = TrainerControl()
        self.state = TrainerState(global_step=step, epoch=self.epoch_of(step), max_steps=run.total_steps)
        self.state.num_train_epochs, self.state.is_world_process_zero = config.epochs, run.world.is_main
        self.log, self.validation = LogCallback(self), ValidationCallback(self)
        self.checkpoint = CheckpointCallback(self)
        self.callbacks = [*deciding_callbacks(self), *callbacks, self.log, self.validation, self.checkpoint]
        if resumed is not None:
            self.checkpoint.load(resumed)
        self.notify("on_init_end")

    def train(self) -> None:
        """Train to the end of the last epoch, or until a callback sets ``control.should_training_stop``."""
        self.notify("on_train_begin")
        if self.resumed is not None:
            self.checkpoint.load_random(self.resumed)
            self.validation.catch_up()
        first, done = divmod(self.state.global_step, self.run.loader.batches.updates)
        for epoch in range(first, self.run.config.epochs):
            if self.control.should_training_stop:
                break
            self.control.should_epoch_stop = False
            self.notify("on_epoch_begin")
            for micro_batches in self.updates(epoch, done):
                self.update(micro_batches)
                if self.control.should_training_stop or self.control.should_epoch_stop:
                    break
            done = 0
            self.notify("on_epoch_end")
        self.checkpoint.save()
        self.notify("on_train_end")

    def updates(self, epoch: int, done: int) -> Iterator[list[Batch]]:
        """The micro-batches of each update of an epoch, without the first ``done`` updates."""
        loader, size = self.run.loader, self.run.config.gradient_accumulation_steps
        loader.set_epoch(epoch)
        batches = iter(skip_first_batches(loader, done * size) if done else loader)
        while micro_batches := list(islice(batches, size)):
            yield micro_batches

    def update(self, micro_batches: list[Batch]) -> None:
        """One optimizer update: forward and backward of its micro-batches, clip, step."""
        self.control.should_log = self.control.should_evaluate = self.control.should_save = False
        self.notify("on_step_begin")
        # Before anything is drawn for the update, so that one that is given up is drawn again.
        self.recoverable.begin()
        shares, users = self.weigh(micro_batches)
        self.strategy.model.train()
        self.losses = []
        for number, (batch, share) in enumerate(zip(micro_batches, shares, strict=True), start=1):
            if number > 1 and self.run.world.size == 1 and self.run.signals.waited(PATIENCE_AFTER_SIGNAL):
                raise StopNow
            with self.strategy.accumulate(last=number == len(micro_batches)):
                self.losses.append(self.recoverable.add(batch, share, self.forward_backward))
            if number < len(micro_batches):
                self.notify("on_substep_end")
        self.grad_norm = self.strategy.clip(self.run.config.max_grad_norm)
        self.strategy.verify(float(self.grad_norm))
        self.notify("on_pre_optimizer_step")
        self.strategy.optimizer.step()
        self.notify("on_optimizer_step")
        self.learning_rate = float(self.scheduler.get_last_lr()[0])
        self.scheduler.step()
        self.strategy.model.zero_grad()
        self.run.state.users += users
        self.state.global_step += 1
        self.state.epoch = self.epoch_of(self.state.global_step)
        self.notify("on_step_end")

    def weigh(self, micro_batches: list[Batch]) -> tuple[list[float], int]:
        """Each micro-batch's share of all targets of the update, and the update's users, over all processes.

        The only place where targets are counted over an update: its loss is the mean over all of them.
        """
        world, users = self.run.world, sum(len(batch["lengths"]) for batch in micro_batches)
        for batch in micro_batches:
            draw_targets(self.network, batch)
        if len(micro_batches) == 1 and world.size == 1:
            return [1.0], users
        targets = [count_targets(self.network, batch) for batch in micro_batches]
        all_targets, all_users = world.gather_numbers(sum(targets), users).sum(0).tolist()
        # A batch of several kinds of rows (alignment) says itself what share of each it holds.
        counted = zip(micro_batches, targets, strict=True)
        return [1.0 if "shares" in batch else count / all_targets for batch, count in counted], int(all_users)

    def forward_backward(self, batch: Batch, share: float) -> Tensor:
        """Add the gradients of a micro-batch or a piece of one; returns its loss times its share of the update."""
        inputs = batch if (present := bool(len(batch["lengths"]))) else self.run.loader.stand_in()
        inputs = {name: tensor.to(self.strategy.accelerator.device) for name, tensor in inputs.items()}
        for layer in self.experts:
            layer.counted = present
        with self.strategy.autocast(self.run.config.precision):
            loss: Tensor = self.strategy.model(**inputs).loss
        # Every wrapper takes the mean over the processes; the sum is wanted, of losses that are shares.
        share *= self.run.world.size
        loss = loss if share == 1.0 else loss * share
        self.strategy.backward(loss)
        return loss.detach()

    def drop_update(self) -> None:
        """Leave out the update that is being made: the optimizer passes by parameters without a gradient."""
        self.strategy.trained.zero_grad(set_to_none=True)
        self.recoverable.restore_buffers()
        self.losses = []

    def give_up_update(self) -> None:
        """Forget the update that is being made, and save what was before it."""
        self.recoverable.rewind()
        self.checkpoint.save()

    def epoch_of(self, step: int) -> float:
        """Epochs that are done after so many updates, by micro-batches."""
        epoch, update = divmod(step - 1, (batches := self.run.loader.batches).updates)
        return epoch + min((update + 1) * batches.accumulation, len(batches)) / len(batches)

    def notify(self, event: str, **details: object) -> None:
        """Call a method of every callback, in their order."""
        for callback in self.callbacks:
            changed = getattr(callback, event)(
                self.args,
                self.state,
                self.control,
                model=self.strategy.trained,
                processing_class=None,
                optimizer=self.strategy.optimizer,
                lr_scheduler=self.scheduler,
                train_dataloader=self.run.loader,
                eval_dataloader=None,
                **details,
            )
            self.control = changed or self.control
