"""Training of the learned families: until held-out items are rebuilt no better, going on from a checkpoint."""

import hashlib
import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from genrec.artifacts import write_file
from genrec.config import Section
from genrec.config.ranges import BatchSize, LearningRate, Rounds, Share
from genrec.errors import ArtifactError, ConfigError, InterruptedRun
from genrec.features.base import ItemFeatures
from genrec.features.progress import progress
from genrec.signals import StopSignals
from genrec.tokenizers.base import ItemTokenizer

if TYPE_CHECKING:
    from genrec.data import Dataset

logger = logging.getLogger(__name__)

# Short fits are not worth a file.
CHECKPOINT_SECONDS = 30.0
# Vectors that are looked at before training begins.
INITIAL_ROWS = 65_536
# Settings that may differ between the fit that was interrupted and the one that goes on: they choose no number of it.
SAFE_KEYS = frozenset({"epochs", "patience", "collisions", "allow_collapse"})


class LearningSettings(Section):
    """Settings of the families that are trained epoch by epoch."""

    epochs: Rounds = 50
    patience: Rounds = Field(5, description="epochs without a better held-out reconstruction before stopping")
    held_out: Share = Field(0.05, gt=0, lt=0.5, description="share of items that only decide when to stop")
    batch_size: BatchSize = Field(1024, ge=2)
    learning_rate: LearningRate = 1e-3


class TrainableTokenizer(nn.Module, ABC):
    """Everything that a family trains, with its loss."""

    def start(self, vectors: Tensor) -> None:
        """Set up what depends on the vectors float32 ``[n, D]`` that are learned from; nothing by default."""
        return

    @abstractmethod
    def loss(self, vectors: Tensor, rows: Tensor) -> Tensor:
        """The loss of a batch, a float32 scalar.

        Args:
            vectors: float32 ``[B, D]``.
            rows: int64 ``[B]``, their dense items.
        """

    @abstractmethod
    def error(self, vectors: Tensor) -> float:
        """How badly held-out vectors float32 ``[n, D]`` are rebuilt; changes nothing."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a fit keeps its progress, so that an interrupted one goes on where it was.

    Args:
        path: A ``.safetensors`` file next to the tokenizer's folder.
        settings: Of the tokenizer, with its name.
        inputs: Fingerprints of what it is fitted on, by name.
    """

    path: Path
    settings: dict[str, Any]
    inputs: dict[str, str]

    @classmethod
    def of(cls, tokenizer: ItemTokenizer, dataset: "Dataset", features: ItemFeatures) -> "Checkpoint | None":
        """The checkpoint of a tokenizer's fit, or None if it has no place to keep one."""
        if tokenizer.checkpoint_path is None:
            return None
        settings = {"name": tokenizer.name, **tokenizer.settings.model_dump(mode="json")}
        inputs = {"data set": dataset.fingerprint, "features": features.fingerprint}
        return cls(tokenizer.checkpoint_path, settings, inputs)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and numbers of the last save; None if there is none, or if it is damaged, which is said.

        Raises:
            ConfigError: If it was saved under other settings, naming them.
            ArtifactError: If it was saved for another data set or other features.
        """
        if not self.path.is_file():
            return None
        try:
            with safe_open(str(self.path), framework="pt") as file:
                described = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if described["digest"] != _digest(tensors, described["about"]):
                raise ValueError("it was changed after it was written")
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            logger.warning("skipped %s: %s; fitting starts anew", self.path, error)
            return None
        about = json.loads(described["about"])
        self._check_belongs(about["settings"], about["inputs"])
        return tensors, about["numbers"]

    def save(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Replace the last save, atomically, with a hash of everything in it."""
        about = json.dumps({"numbers": numbers, "settings": self.settings, "inputs": self.inputs})
        tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        with write_file(self.path) as temporary:
            save_file(tensors, str(temporary), {"about": about, "digest": _digest(tensors, about)})

    def clear(self) -> None:
        """Remove it."""
        self.path.unlink(missing_ok=True)

    def _check_belongs(self, settings: dict[str, Any], inputs: dict[str, str]) -> None:
        others = [name for name, value in self.inputs.items() if inputs.get(name) != value]
        fix = f"set them back, or delete {self.path} to fit from the start"
        if others:
            raise ArtifactError(
                f"the fit that was interrupted was of another {' and another '.join(others)}",
                where=str(self.path),
                fix=fix.replace("set them back", "give another --out"),
            )
        changed = [
            f"{key}: {settings.get(key)!r} -> {self.settings.get(key)!r}"
            for key in sorted({*settings, *self.settings} - SAFE_KEYS)
            if settings.get(key) != self.settings.get(key)
        ]
        if changed:
            raise ConfigError(
                f"the settings changed since the fit was interrupted: {'; '.join(changed)}",
                where=str(self.path),
                expected="the same settings; only " + ", ".join(sorted(SAFE_KEYS)) + " may change",
                fix=fix,
            )


def learn(
    learner: TrainableTokenizer,
    vectors: Tensor,
    settings: LearningSettings,
    description: str,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Train until held-out items are rebuilt no better; leaves the best state in the learner.

    An interrupted fit that goes on from its checkpoint ends in the same state as one that was not interrupted,
    wherever in an epoch that was.

    Args:
        learner: What is trained.
        vectors: float32 ``[N, D]``.
        settings: How long and how.
        description: What the progress bar says.
        checkpoint: Where to keep the progress; nowhere if None.

    Raises:
        InterruptedRun: After SIGINT or SIGTERM, when the progress is saved.
        ConfigError, ArtifactError: If the progress that is there is of another fit.
    """
    run = _Run(learner, vectors, settings)
    kept = checkpoint.load() if checkpoint is not None else None
    with nullcontext() if checkpoint is None else StopSignals() as signals:
        if kept is None:
            run.begin()
        else:
            run.resume(*kept)
        saved = time.monotonic()
        for _ in progress(range(run.epoch, settings.epochs), description, settings.epochs - run.epoch):
            if run.since >= settings.patience:
                break
            for _ in run.train_epoch():
                stopped = signals is not None and signals.number is not None
                if checkpoint is not None and (stopped or time.monotonic() - saved >= CHECKPOINT_SECONDS):
                    checkpoint.save(*run.progress())
                    saved = time.monotonic()
                if signals is not None and signals.number is not None:
                    raise InterruptedRun(
                        signals.number,
                        f"fitting {description} was stopped by {signals.name} in epoch {run.epoch + 1} and saved",
                        fix="run the same command again to go on from there",
                    )
    learner.load_state_dict(run.best_state)
    if checkpoint is not None:
        checkpoint.clear()


class _Run:
    """One fit: what has been learned so far and what is needed to go on."""

    def __init__(self, learner: TrainableTokenizer, vectors: Tensor, settings: LearningSettings) -> None:
        self.learner, self.vectors, self.batch_size = learner, vectors, settings.batch_size
        order = torch.randperm(len(vectors))
        held = max(1, round(settings.held_out * len(vectors)))
        self.held_out, self.seen = vectors[order[:held]], order[held:]
        self.optimizer = torch.optim.AdamW(learner.parameters(), lr=settings.learning_rate, weight_decay=0.0)
        self.epoch, self.since, self.best = 0, 0, float("inf")
        self.best_state: dict[str, Tensor] = {}
        # Batches of the epoch that are done, its order, and the generator that drew it.
        self.place, self.order, self.drawn_from = 0, order[:0], torch.get_rng_state()

    def begin(self) -> None:
        self.learner.train()
        with torch.no_grad():
            self.learner.start(self.vectors[self.seen])
        self.best_state = deepcopy(self.learner.state_dict())

    def train_epoch(self) -> Iterator[None]:
        """The rest of an epoch; between two of its batches the fit may be saved."""
        self.learner.train()
        if self.place == 0:
            self._draw_order(torch.get_rng_state())
        for part in self.order.split(self.batch_size)[self.place :]:
            rows = self.seen[part]
            loss = self.learner.loss(self.vectors[rows], rows)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.place += 1
            yield
        self.learner.eval()
        error = self.learner.error(self.held_out)
        self.epoch, self.since, self.place = self.epoch + 1, self.since + 1, 0
        if error < self.best:
            self.best, self.since, self.best_state = error, 0, deepcopy(self.learner.state_dict())
        yield

    def progress(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {"random": torch.get_rng_state(), "drawn_from": self.drawn_from}
        tensors |= {f"now.{name}": tensor for name, tensor in self.learner.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best_state.items()}
        for parameter, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{parameter}.{slot}": tensor for slot, tensor in slots.items()}
        return tensors, {"epoch": self.epoch, "place": self.place, "since": self.since, "best": self.best}

    def resume(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        self.learner.load_state_dict(_under("now.", tensors))
        self.best_state = _under("best.", tensors)
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under("optimizer.", tensors).items():
            parameter, _, slot = name.partition(".")
            slots.setdefault(int(parameter), {})[slot] = tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": slots, "param_groups": groups})
        self.epoch, self.since, self.best = numbers["epoch"], numbers["since"], numbers["best"]
        self.place = numbers["place"]
        self._draw_order(tensors["drawn_from"])
        torch.set_rng_state(tensors["random"])

    def _draw_order(self, generator: Tensor) -> None:
        self.drawn_from = generator
        torch.set_rng_state(generator)
        self.order = torch.randperm(len(self.seen))


def _digest(tensors: dict[str, Tensor], about: str) -> str:
    """SHA-256 of everything in a save."""
    digest = hashlib.sha256(about.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
