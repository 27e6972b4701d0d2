"""Training of the learned families: until held-out items are rebuilt no better, going on from a checkpoint."""

import json
import time
from abc import ABC, abstractmethod
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from genrec.artifacts import fingerprint, write_file
from genrec.config import Section
from genrec.features.base import ItemFeatures
from genrec.features.progress import progress
from genrec.tokenizers.base import ItemTokenizer

if TYPE_CHECKING:
    from genrec.data import Dataset

# Short fits are not worth a file.
CHECKPOINT_SECONDS = 30.0
# Vectors that are looked at before training begins.
INITIAL_ROWS = 65_536


class LearningSettings(Section):
    """Settings of the families that are trained epoch by epoch."""

    epochs: int = Field(50, ge=1)
    patience: int = Field(5, ge=1, description="epochs without a better held-out reconstruction before stopping")
    held_out: float = Field(0.05, gt=0, lt=0.5, description="share of items that only decide when to stop")
    batch_size: int = Field(1024, ge=2)
    learning_rate: float = Field(1e-3, gt=0)


class Learner(nn.Module, ABC):
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
        path: A ``.safetensors`` file beside the tokenizer's folder.
        key: Fingerprint of settings and inputs; progress of another key is ignored.
    """

    path: Path
    key: str

    @classmethod
    def of(cls, tokenizer: ItemTokenizer, dataset: "Dataset", features: ItemFeatures) -> "Checkpoint | None":
        """The checkpoint of a tokenizer's fit, or None if it was not told where to keep one."""
        if tokenizer.checkpoint_path is None:
            return None
        settings = tokenizer.settings.model_dump(mode="json")
        key = fingerprint([tokenizer.name, settings, dataset.fingerprint, features.fingerprint])
        return cls(tokenizer.checkpoint_path, key)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and numbers of the last save; None if there is none, it is unreadable, or its key is another."""
        if not self.path.is_file():
            return None
        try:
            with safe_open(str(self.path), framework="pt") as file:
                described = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError):
            return None
        return (tensors, json.loads(described["numbers"])) if described.get("key") == self.key else None

    def save(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Replace the last save, atomically."""
        described = {"key": self.key, "numbers": json.dumps(numbers)}
        with write_file(self.path) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, str(temporary), described)

    def clear(self) -> None:
        """Remove it."""
        self.path.unlink(missing_ok=True)


def learn(
    learner: Learner,
    vectors: Tensor,
    settings: LearningSettings,
    description: str,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Train until held-out items are rebuilt no better; leaves the best state in the learner.

    An interrupted fit that goes on from its checkpoint ends in the same state as one that was not interrupted.

    Args:
        learner: What is trained.
        vectors: float32 ``[N, D]``.
        settings: How long and how.
        description: What the progress bar says.
        checkpoint: Where to keep the progress; nowhere if None.
    """
    run = _Run(learner, vectors, settings)
    kept = checkpoint.load() if checkpoint is not None else None
    if kept is None:
        run.begin()
    else:
        run.resume(*kept)
    saved = time.monotonic()
    for _ in progress(range(run.epoch, settings.epochs), description, settings.epochs - run.epoch):
        if run.since >= settings.patience:
            break
        run.train_epoch()
        if checkpoint is not None and time.monotonic() - saved >= CHECKPOINT_SECONDS:
            checkpoint.save(*run.progress())
            saved = time.monotonic()
    learner.load_state_dict(run.best_state)
    if checkpoint is not None:
        checkpoint.clear()


class _Run:
    """One fit: what has been learned so far and what is needed to go on."""

    def __init__(self, learner: Learner, vectors: Tensor, settings: LearningSettings) -> None:
        self.learner, self.vectors, self.batch_size = learner, vectors, settings.batch_size
        order = torch.randperm(len(vectors))
        held = max(1, round(settings.held_out * len(vectors)))
        self.held_out, self.seen = vectors[order[:held]], order[held:]
        self.optimiser = torch.optim.AdamW(learner.parameters(), lr=settings.learning_rate, weight_decay=0.0)
        self.epoch, self.since, self.best = 0, 0, float("inf")
        self.best_state: dict[str, Tensor] = {}

    def begin(self) -> None:
        self.learner.train()
        with torch.no_grad():
            self.learner.start(self.vectors[self.seen])
        self.best_state = deepcopy(self.learner.state_dict())

    def train_epoch(self) -> None:
        self.learner.train()
        for part in torch.randperm(len(self.seen)).split(self.batch_size):
            rows = self.seen[part]
            loss = self.learner.loss(self.vectors[rows], rows)
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
        self.learner.eval()
        error = self.learner.error(self.held_out)
        self.epoch, self.since = self.epoch + 1, self.since + 1
        if error < self.best:
            self.best, self.since, self.best_state = error, 0, deepcopy(self.learner.state_dict())

    def progress(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {"random": torch.get_rng_state()}
        tensors |= {f"now.{name}": tensor for name, tensor in self.learner.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best_state.items()}
        for parameter, slots in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{parameter}.{slot}": tensor for slot, tensor in slots.items()}
        return tensors, {"epoch": self.epoch, "since": self.since, "best": self.best}

    def resume(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        self.learner.load_state_dict(_under("now.", tensors))
        self.best_state = _under("best.", tensors)
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under("optimiser.", tensors).items():
            parameter, _, slot = name.partition(".")
            slots.setdefault(int(parameter), {})[slot] = tensor
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": slots, "param_groups": groups})
        self.epoch, self.since, self.best = numbers["epoch"], numbers["since"], numbers["best"]
        torch.set_rng_state(tensors["random"])


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
