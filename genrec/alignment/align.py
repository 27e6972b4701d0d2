"""Alignment from start to end: rounds of gathering preferences and training, each an artefact, watched by guards.

One round is the ordinary case. Several are OneRec's iterative preference alignment (2025, section 3.4): each samples
from the model of the round before, which is also the reference, and starts from its weights. Processes that a launcher
started share the sampling, the batches and the validation; the first of them writes and speaks.
"""

import copy
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import load_model, save_model
from torch import nn

from genrec.alignment.batches import PairRows, PromptRows, mixed_loader
from genrec.alignment.monitor import EvalSet, Measurements, Monitor, score_candidates
from genrec.alignment.objectives import GroupObjective, Objective, PairObjective
from genrec.alignment.rewards import WeightedRewards
from genrec.alignment.sampling import by_blocks
from genrec.alignment.setup import TrainingMaterial, build_reward, check_recipe, load_reference, prepare_material
from genrec.artifacts import (
    MANIFEST,
    fingerprint,
    open_work_folder,
    read_json,
    read_manifest,
    remove_work_folder,
    write_artifact,
    write_json,
)
from genrec.config import AlignmentConfig, DecodingConfig
from genrec.distributed.launch import Launch
from genrec.distributed.world import World
from genrec.models.base import GenerativeRecommender, RecommenderModel
from genrec.models.checkpoint import WEIGHTS_FILE
from genrec.signals import StopSignals
from genrec.terminal.console import Terminal
from genrec.training.batches import EpochLoader, cut_windows, longer_windows, window_size
from genrec.training.checkpoints import CheckpointStore
from genrec.training.log import Display, MetricsLog
from genrec.training.memory import count_targets
from genrec.training.run import Run, StopReason
from genrec.training.strategies.expert_parallel import check_experts
from genrec.training.train import TrainingResult, continue_run

if TYPE_CHECKING:
    from genrec.data import Dataset

logger = logging.getLogger(__name__)

ITERATION_STAGE = "iteration"
PAIRS_FILE = "preferences.parquet"
RESULT_FILE = "result.json"
LOG_FILE = "metrics.jsonl"


@dataclass(frozen=True)
class IterationResult:
    """What one round came to.

    Attributes:
        start: Measurements before it.
        best: Measurements of the weights that were kept; those of the start where nothing was better.
        improved: Whether a step was better than the start.
        stopped: Why it ended.
        reason: What a guard had to say, if one did.
        steps: Updates done.
        seconds: Time spent.
        history: One record per validation.
    """

    start: dict[str, float]
    best: dict[str, float]
    improved: bool
    stopped: str
    reason: str | None
    steps: int
    seconds: float
    history: list[dict[str, Any]]


@dataclass(frozen=True)
class AlignmentResult:
    """What an alignment came to; the model holds the last improved weights.

    Attributes:
        iterations: One per iteration that was begun.
        reward_quality: Held-out AUC and calibration of a learned reward; empty without one.
    """

    iterations: list[IterationResult]
    reward_quality: dict[str, Any] = field(default_factory=dict)

    @property
    def start(self) -> dict[str, float]:
        """Measurements before anything."""
        return self.iterations[0].start

    @property
    def best(self) -> dict[str, float]:
        """Measurements of the weights that were kept."""
        return self.iterations[-1].best


class MonitoredRun(Run):
    """A run that also ends when a guard is broken."""

    section = "alignment.training"
    monitor: Monitor

    def stop_reason(self, step: int) -> StopReason | None:
        """Why the run is over after ``step``, or None."""
        if self.state.history and self.monitor.broken(self.state.history[-1]["validation"]):
            return "guard"
        return super().stop_reason(step)


@dataclass(frozen=True, eq=False)
class MonitoredValidation:
    """Asks the guards, each process for its rows.

    Attributes:
        guards: What is measured.
        policy: The model that is trained.
    """

    monitor: Monitor
    policy: GenerativeRecommender

    def measure_shard(self, model: nn.Module, world: World) -> Measurements:
        """What this process finds out."""
        return self.monitor.measure_shard(self.policy)

    def merge_shards(self, parts: list[Measurements]) -> dict[str, float]:
        """All numbers, from what each process found, by rank."""
        return self.monitor.merge_shards(parts, self.policy)

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Do it alone."""
        return self.monitor.measure(self.policy)


def join_processes(config: AlignmentConfig) -> tuple[Launch, World]:
    """Meet the other processes that a launcher started, if there are any.

    Raises:
        ConfigError: If they cannot follow their launcher, do not divide the batch, or would shard the model.
    """
    launch = Launch.from_environment()
    launch.refuse_shards()
    launch.check(config.training, section="alignment.training")
    return launch, launch.join()


def align_recommender(
    model: RecommenderModel,
    dataset: "Dataset",
    config: AlignmentConfig,
    decoding: DecodingConfig,
    out: Path,
    *,
    inputs: Mapping[str, str],
    console: Console | None = None,
) -> AlignmentResult:
    """Align a trained recommender in place; rerun with the same folder to continue exactly.

    Where a launcher started several processes, all of them must call this with equal arguments.

    Args:
        model: Writes sequence semantic IDs; it is left with the best weights, or as it was where nothing was better.
        dataset: Preferences and rewards are learned from its training part, selection is by its validation part.
        config: The recipe's section.
        decoding: How lists are written.
        out: Folder of the iterations, ``iteration-1`` and so on.
        inputs: Fingerprints of the model and whatever else decides the result.
        console: Where progress is shown; the standard error stream by default.

    Raises:
        ConfigError: If the model or the recipe cannot be used, or the processes cannot follow their launcher.
        DataError: If there is nothing to learn from, or a reward is NaN or constant.
        ArtifactError: If the reference does not match or the folder cannot be written.
        InterruptedRun: After SIGINT or SIGTERM, when a checkpoint is saved.
    """
    launch, world = join_processes(config)
    check_recipe(config, model, dataset)
    check_experts(model, config.training.expert_parallel, section="alignment.training")
    assert isinstance(model, GenerativeRecommender)  # check_recipe refused everything else
    out, console = out.absolute(), (console or Terminal(stderr=True)) if world.is_main else Terminal(quiet=True)
    reference = load_reference(Path(config.reference), model) if config.reference else copy.deepcopy(model)
    reward, quality = build_reward(config, dataset, model, decoding)
    identity = {**inputs, "dataset": dataset.fingerprint}
    open_work_folder(out)
    rounds: list[IterationResult] = []
    first_start: dict[str, float] | None = None
    for number in range(config.iterations):
        folder = out / f"iteration-{number + 1}"
        key = {**identity, "previous": fingerprint([asdict(result) for result in rounds])}
        known = _finished(folder, config, key)
        if known is None:
            task = Iteration(dataset, config, decoding, reward, number, console, launch)
            known = task.run(model, reference, folder, key, first_start)
        else:
            load_model(model, str(folder / WEIGHTS_FILE))
        rounds.append(known)
        first_start = rounds[0].start
        if not known.improved:
            break
        reference = copy.deepcopy(model)
    model.eval()
    return AlignmentResult(rounds, quality)


@dataclass(frozen=True, eq=False)
class Iteration:
    """One iteration: gather, train, keep.

    Attributes:
        dataset: See :func:`align_recommender`.
        config: See :func:`align_recommender`.
        decoding: See :func:`align_recommender`.
        reward: What items are worth; None without rewards.
        number: From 0.
        console: Where progress is shown.
        launch: How the processes were started.
    """

    dataset: "Dataset"
    config: AlignmentConfig
    decoding: DecodingConfig
    reward: WeightedRewards | None
    number: int
    console: Console
    launch: Launch = field(default_factory=Launch)

    def run(
        self,
        model: GenerativeRecommender,
        reference: GenerativeRecommender,
        folder: Path,
        key: Mapping[str, str],
        first_start: dict[str, float] | None,
    ) -> IterationResult:
        """Train one round and write its artefact; the model is left with what was kept."""
        config, seed, world = self.config, self.config.training.seed + self.number, World.current()
        before = copy.deepcopy(model)
        material = prepare_material(model, self.dataset, config, self.decoding, self.reward, seed)
        watch = EvalSet.of(self.dataset, config, self.decoding, material.measured, self.reward)
        monitor = Monitor(watch, config, reference, world)
        start = monitor.begin(model, first_start)
        if self.number == 0 and world.is_main:
            self._say(start, material)
        objective, loader = self._learner(model, reference, material, seed)
        result = self._train(objective, loader, monitor, start, folder, key)
        kept = result.best_step is not None
        if not kept:
            model.load_state_dict(before.state_dict())
        last = result.history[-1]["validation"] if result.history else start
        reason = monitor.broken(last) if result.stopped == "guard" else None
        best = next((r["validation"] for r in result.history if r["step"] == result.best_step), start)
        done = IterationResult(start, best, kept, result.stopped, reason, result.steps, result.seconds, result.history)
        if reason and world.is_main:
            logger.warning("alignment was stopped at step %d: %s", result.steps, reason)
        if not kept and world.is_main:
            logger.warning("no step was better than the start by %s: the model is as it was", config.training.metric)
        # The checkpoints go when it is saved, and all have read them by then.
        world.gather(None)
        world.run_on_main(partial(self._save, folder, model, material, done, key))
        return done

    def _learner(
        self, model: GenerativeRecommender, reference: GenerativeRecommender, material: TrainingMaterial, seed: int
    ) -> tuple[Objective, EpochLoader]:
        config, size = self.config, window_size(model)
        windows = cut_windows(self.dataset.train(), size)
        rows: PairRows | PromptRows
        if material.prompts is not None and self.reward is not None:
            rows = PromptRows(material.prompts)
            objective: Objective = GroupObjective(
                model,
                reference,
                config,
                decoding=self.decoding,
                prompts=material.prompts,
                reward=self.reward,
            )
        else:
            rows = self._pair_rows(reference, material)
            objective = PairObjective(model, config, self._item_weight)

        def count(lengths: np.ndarray) -> int:
            return count_targets(model, {"lengths": torch.from_numpy(lengths)})

        return objective, mixed_loader(
            windows,
            size,
            rows,
            count=count,
            max_history=model.max_history,
            training=config.training,
            share=config.share,
            seed=seed,
        )

    @property
    def _item_weight(self) -> float:
        # The normalizer of codes and item vectors together cancels only where two items of one history are compared.
        return 0.0 if self.config.method in ("kto", "grpo") else self.decoding.item_weight

    def _pair_rows(self, reference: GenerativeRecommender, material: TrainingMaterial) -> PairRows:
        pairs, config = material.pairs, self.config.training
        assert pairs is not None  # every method but grpo gathers pairs
        candidates = pairs.candidates
        if self.config.method == "kto":
            there = pairs.present[:, 0].reshape(-1, *[1] * (pairs.chosen.ndim - 1))
            known = np.where(there, pairs.chosen, pairs.rejected[:, 0])
            others = np.random.default_rng(self.config.training.seed).permutation(known)
            candidates = np.concatenate([candidates, others[:, None]], axis=1)

        def score(rows: np.ndarray) -> np.ndarray:
            # In the policy's own precision: differences between two precisions are no preferences.
            with torch.autocast(reference.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                return score_candidates(reference, pairs.histories.select(rows), candidates[rows], self._item_weight)

        return PairRows(pairs, candidates, by_blocks(len(pairs), score))

    def _train(
        self,
        objective: Objective,
        loader: EpochLoader,
        monitor: Monitor,
        start: dict[str, float],
        folder: Path,
        key: Mapping[str, str],
    ) -> TrainingResult:
        training, world = self.config.training, World.current()
        private = folder.with_name(f"{folder.name}.checkpoints")
        settings = _deciding(self.config)
        inner = {f"training.{name}": value for name, value in settings.pop("training").items()}
        settings = {f"alignment.{name}": value for name, value in (settings | inner).items()}
        settings |= longer_windows(objective.policy)
        store = CheckpointStore(private, settings, key, training.seed)
        validate = MonitoredValidation(monitor, objective.policy)
        log = MetricsLog(private / LOG_FILE, silent=not world.is_main)
        with StopSignals() as signals:
            display = Display(self.console, training.metric)
            # Selected is the best by the metric among those that keep the guard.
            selecting = training.model_copy(update={"metric": "selected"})
            run = MonitoredRun(selecting, loader, validate, store, log, display, signals)
            run.monitor, run.state.best_metric = monitor, start["selected"]
            run.name_users, run.launch, run.world = self.dataset.users_named, self.launch, world
            return continue_run(objective, run)

    def _save(
        self,
        folder: Path,
        model: GenerativeRecommender,
        material: TrainingMaterial,
        result: IterationResult,
        key: Mapping[str, str],
    ) -> None:
        private = folder.with_name(f"{folder.name}.checkpoints")
        settings, seed = _deciding(self.config), self.config.training.seed
        with write_artifact(folder, ITERATION_STAGE, config=settings, inputs=key, seed=seed) as target:
            save_model(model, str(target.path / WEIGHTS_FILE))
            write_json(target.path / RESULT_FILE, asdict(result))
            if material.pairs is not None:
                material.pairs.save(target.path / PAIRS_FILE, self.dataset.item_ids)
            if (private / LOG_FILE).is_file():
                shutil.copyfile(private / LOG_FILE, target.path / LOG_FILE)
            target.counts = {"steps": result.steps, "iteration": self.number + 1}
        remove_work_folder(private)

    def _say(self, start: Mapping[str, float], material: TrainingMaterial) -> None:
        pairs, prompts = material.pairs, material.prompts
        what = f"{len(pairs)} preferences ({pairs.source})" if pairs is not None else f"{len(prompts or ())} prompts"
        watched = {self.config.training.metric: 0, self.config.guard: 0}
        numbers = ", ".join(f"{name} {start[name]:.4f}" for name in watched)
        logger.info("aligning by %s from %s; at the start %s", self.config.method, what, numbers)


def _deciding(config: AlignmentConfig) -> dict[str, Any]:
    """The settings that decide what a round comes to."""
    return config.model_dump(mode="json", exclude={"iterations"})


def _finished(folder: Path, config: AlignmentConfig, key: Mapping[str, str]) -> IterationResult | None:
    """What a finished iteration came to, if it is this one."""
    if not (folder / MANIFEST).is_file():
        return None
    manifest = read_manifest(folder, ITERATION_STAGE)
    if manifest.inputs != dict(key) or manifest.config != _deciding(config):
        return None
    return IterationResult(**read_json(folder / RESULT_FILE))
