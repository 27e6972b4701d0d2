"""Train a recommender on a data set: the one entry point, for every family and for the SASRec baseline alike."""

import importlib.util
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from torch import nn
from transformers import TrainerCallback, TrainingArguments
from transformers.integrations import TensorBoardCallback

from genrec.artifacts import fingerprint, open_work_folder
from genrec.config import DecodingConfig, TrainingConfig
from genrec.data.histories import Histories
from genrec.distributed.launch import Launch
from genrec.distributed.world import World
from genrec.errors import DataError, InterruptedRun, NonFiniteLossError
from genrec.signals import StopNow, StopSignals
from genrec.terminal.console import Terminal
from genrec.training.batches import EpochBatches, EpochLoader, WindowDataset, cut_windows, longer_windows, window_size
from genrec.training.checkpoints import CheckpointStore
from genrec.training.gradient_checkpointing import recomputed
from genrec.training.log import Display, MetricsLog
from genrec.training.loop import TrainingLoop
from genrec.training.memory import is_memory_error, memory_error
from genrec.training.optimizer import SCHEDULERS
from genrec.training.run import Run, StopReason, Validation
from genrec.training.strategies.expert_parallel import check_experts
from genrec.training.validation import ValidationData, decoding_validation

LOGS_PER_EPOCH = 10
MAX_STEPS_BETWEEN_LOGS = 100


class TrainingData(ValidationData, Protocol):
    """What training needs of a :class:`genrec.data.Dataset`."""

    @property
    def fingerprint(self) -> str:
        """Changes with the data."""

    def train(self) -> Histories:
        """The training part of every user."""


@dataclass(frozen=True)
class TrainingResult:
    """What a run came to; the model holds the weights of ``best_step``.

    Attributes:
        best_metric: The selecting metric's best value; None if it never was a number.
        best_step: Optimizer updates at the best validation.
        steps: Updates done.
        epochs: Epochs done.
        seconds: Time spent, over all sessions.
        stopped: Why it ended: all ``epochs``, no improvement (``patience``), the ``time`` budget, or a ``guard``.
        history: One record per validation: step, epoch, seconds, validation_seconds, validation (metrics).
        notes: What happened on the way: resumed, checkpoints skipped and why.
    """

    best_metric: float | None
    best_step: int | None
    steps: int
    epochs: float
    seconds: float
    stopped: StopReason
    history: list[dict[str, Any]]
    notes: list[str]


def train_recommender(
    model: nn.Module,
    dataset: TrainingData,
    config: TrainingConfig,
    decoding: DecodingConfig,
    out: Path,
    *,
    validate: Validation | None = None,
    log: Path | None = None,
    console: Console | None = None,
) -> TrainingResult:
    """Train, validate by real decoding, keep the best weights in the model; rerun to continue exactly.

    Where a launcher started several processes, all of them must call this with equal arguments.

    Args:
        model: Takes ``items [B, T]`` and ``lengths [B]``, returns an output with ``loss``, the mean over its targets;
            has ``max_history``. ``count_targets(lengths)`` says how many targets a batch has if that is not every item.
        dataset: A prepared data set; only its training part is learned from.
        config: The recipe's section.
        decoding: How validation lists are written.
        out: The run's private folder of checkpoints.
        validate: Model in, metrics out; by default lists for the validation users (:func:`decoding_validation`).
        log: The training log; ``metrics.jsonl`` in ``out`` by default.
        console: Where progress is shown; the standard error stream by default.

    Raises:
        ConfigError: If the settings changed since the checkpoints were written, the selecting metric is unknown, or
            the processes cannot follow their launcher, cannot share the model's experts or do not train together.
        DataError: If there is no training history.
        ArtifactError: If checkpoints cannot be written or belong to another model or data set.
        NonFiniteLossError: Before the update that a non-finite loss or gradient would have spoilt.
        InterruptedRun: After SIGINT or SIGTERM, when a checkpoint is saved.
        MemoryExhaustedError: If memory runs out.
    """
    launch = Launch.from_environment()
    launch.check(config)
    check_experts(model, config.expert_parallel)
    world, out = launch.join(), out.absolute()
    display = Display((console or Terminal(stderr=True)) if world.is_main else Terminal(quiet=True), config.metric)
    with StopSignals() as signals:
        run = Run(
            config,
            make_loader(model, dataset, config, world),
            validate or decoding_validation(dataset, config, decoding),
            _store(model, dataset, config, decoding, out),
            MetricsLog(log or out / "metrics.jsonl", silent=not world.is_main),
            display,
            signals,
        )
        run.name_users = getattr(dataset, "users_named", None)
        run.launch, run.world = launch, world
        return continue_run(model, run)


def continue_run(model: nn.Module, run: Run) -> TrainingResult:
    """Bring a run to its end, from its newest checkpoint if there is one; the best weights stay in the model.

    Args:
        model: Takes the loader's batches as keywords, returns an output with ``loss``.
        run: The parts; its signals are entered by the caller.

    Raises:
        ConfigError, ArtifactError, NonFiniteLossError, InterruptedRun, MemoryExhaustedError: See
            :func:`train_recommender`.
    """
    out = run.store.folder
    open_work_folder(out)
    run.log.check()
    step, notes = _restore(run)
    for note in notes:
        run.display.say(note)
    done = step is not None and run.stop_reason(step) is not None and not run.validation_due(step)
    if not done:
        step = _train(model, run, step, out)
    if run.signals.number is not None:
        raise InterruptedRun(
            run.signals.number,
            f"training was stopped by {run.signals.name} at step {step} and saved",
            fix="run the same command again to continue from there",
        )
    return _result(model, run, step or 0, notes)


def _train(model: nn.Module, run: Run, resumed: int | None, out: Path) -> int:
    if resumed is not None:
        run.store.load_weights(resumed, model)
    callbacks = _tracking(run.log.path.parent, resumed) if run.world.is_main else []
    with run.launch.told_to_accelerate():
        loop = TrainingLoop(model, run, _arguments(run, out), callbacks, resumed)
    run.display.begin(epochs=run.config.epochs, total=run.total_steps, step=resumed or 0)
    try:
        with recomputed(loop.strategy.trained, run.config.gradient_checkpointing):
            loop.train()
    except (StopNow, NonFiniteLossError) as error:
        loop.give_up_update()
        if isinstance(error, NonFiniteLossError):
            raise
    except (RuntimeError, MemoryError) as error:
        if not is_memory_error(error):
            raise
        step, size = loop.state.global_step + 1, run.config.batch_size
        raise memory_error(run.section, size, step, validating=not model.training) from error
    finally:
        run.display.end()
        run.state.seconds = run.seconds
    return loop.state.global_step


def make_loader(model: nn.Module, dataset: TrainingData, config: TrainingConfig, world: World) -> EpochLoader:
    """The training samples of a model in their order.

    Args:
        model: Has ``max_history``, and ``settings`` if it reads more than items.
        dataset: Only its training part is looked at.
        config: The recipe's section.
        world: The processes that share each batch.

    Raises:
        DataError: If there is no training history.
        ConfigError: If the histories lack what the model is to read of them.
    """
    size = window_size(model)
    windows = cut_windows(dataset.train(), size)
    if len(windows) == 0:
        raise DataError(
            "no user has a training history",
            expected="at least one interaction in the training part",
            fix="give more interactions, or lower data.k_core",
        )
    settings: Any = getattr(model, "settings", None)
    if settings is not None:
        settings.check_side_inputs(windows)
    batches = EpochBatches(windows.lengths, config.batch_size, config.gradient_accumulation_steps, config.seed, world)
    return EpochLoader(WindowDataset(windows, size, settings), batches, config.num_workers)


def _store(
    model: nn.Module, dataset: TrainingData, config: TrainingConfig, decoding: DecodingConfig, out: Path
) -> CheckpointStore:
    settings = {f"training.{key}": value for key, value in config.model_dump(mode="json").items()}
    settings |= {f"decoding.{key}": value for key, value in decoding.model_dump(mode="json").items()}
    # Only their product decides what an update sees; what changes no list is left out, too.
    del settings["training.batch_size"], settings["training.gradient_accumulation_steps"]
    del settings["decoding.batch_size"], settings["decoding.transition_weight"]
    settings["users per update"] = config.batch_size * config.gradient_accumulation_steps
    settings |= longer_windows(model)
    inputs = {"model": _describe(model), "data set": dataset.fingerprint}
    return CheckpointStore(out, settings, inputs, config.seed)


def _describe(model: nn.Module) -> str:
    """Fingerprint of what an untrained model is: shapes, settings, and the bytes of its tables summed."""
    shapes = {name: [str(value.dtype), *value.shape] for name, value in model.state_dict().items()}
    tables = {
        name: int(table.detach().cpu().contiguous().reshape(-1).view(torch.uint8).sum(dtype=torch.int64))
        for name, table in model.named_buffers()
    }
    config: Any = getattr(model, "config", None)
    settings = config.to_dict() if hasattr(config, "to_dict") else {}
    settings = {key: value for key, value in settings.items() if key not in ("transformers_version", "use_cache")}
    if settings.get("routes_ended", False):
        # As in the models of earlier versions, which did not say it.
        del settings["routes_ended"]
    return fingerprint({"class": type(model).__name__, "shapes": shapes, "tables": tables, "settings": settings})


def _restore(run: Run) -> tuple[int | None, list[str]]:
    step, notes = run.world.run_on_main(partial(_find_newest, run))
    if step is not None:
        run.restore(run.store.state(step)["run"])
    run.agree()
    return step, notes


def _find_newest(run: Run) -> tuple[int | None, list[str]]:
    step, notes = run.store.newest()
    if step is not None:
        notes.append(f"continuing from checkpoint-{step} of {run.total_steps} steps")
    elif notes:
        notes.append("no checkpoint is usable: training starts anew")
    run.store.discard_after(step or 0)
    run.log.rewind(step or 0)
    for note in notes:
        run.log.write({"step": step or 0, "note": note})
    return step, notes


def _arguments(run: Run, out: Path) -> TrainingArguments:
    """What callbacks are given; making it also lets accelerate choose the device."""
    config = run.config
    steps = run.loader.batches.updates
    return TrainingArguments(
        output_dir=str(out),
        per_device_train_batch_size=config.batch_size // run.world.size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        num_train_epochs=config.epochs,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_steps=int(config.warmup_ratio * run.total_steps),
        lr_scheduler_type=SCHEDULERS[config.scheduler],
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        logging_steps=max(1, min(MAX_STEPS_BETWEEN_LOGS, steps // LOGS_PER_EPOCH)),
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        **_device_arguments(run.launch),
    )


def _device_arguments(launch: Launch) -> dict[str, Any]:
    if launch.alone:
        return {}
    if launch.wrapper == "deepspeed":
        return {"ddp_backend": "gloo"} if launch.cpu else {}
    return {"use_cpu": launch.cpu}


def _tracking(folder: Path, resumed: int | None) -> list[TrainerCallback]:
    if importlib.util.find_spec("tensorboard") is None:
        return []
    from torch.utils.tensorboard import SummaryWriter

    purge = None if resumed is None else resumed + 1
    return [TensorBoardCallback(SummaryWriter(str(folder / "tensorboard"), purge_step=purge))]


def _result(model: nn.Module, run: Run, step: int, notes: list[str]) -> TrainingResult:
    state = run.state
    kept = state.best_step if state.best_step is not None else step
    run.store.load_weights(kept, model)
    model.eval()
    finish = getattr(model, "finish_training", None)
    chosen = [] if finish is None else finish(partial(_measure_finished, model, run))
    for note in chosen:
        run.display.say(note)
    return TrainingResult(
        best_metric=state.best_metric,
        best_step=state.best_step,
        steps=step,
        epochs=step / run.loader.batches.updates,
        seconds=state.seconds,
        stopped=run.stop_reason(step) or "epochs",
        history=state.history,
        notes=[*notes, *chosen],
    )


def _measure_finished(model: nn.Module, run: Run) -> float:
    """The selecting metric of validation users with the final weights."""
    metrics = run.measure(model)
    if metrics is None:
        raise InterruptedRun(
            run.signals.number or 0,
            f"training was stopped by {run.signals.name} after its last step and is saved",
            fix="run the same command again to continue from there",
        )
    return metrics[run.config.metric]
