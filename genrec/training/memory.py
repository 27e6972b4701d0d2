"""One optimizer update that can be begun again: where memory ran out in smaller pieces, or by the next run."""

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from genrec.distributed.world import number_of
from genrec.errors import MemoryExhaustedError
from genrec.training.serialization import capture_random, restore_random

Batch = dict[str, Tensor]
# The tensors of a batch that holds users and nothing else.
PLAIN = {"items", "lengths", "time_deltas", "user_values", "cuts"}
SIGNS = ("out of memory", "can't allocate memory", "not enough memory")


class RecoverableStep:
    """The micro-batches of one optimizer update and what it began with.

    It began with the random generators and with the buffers that forward passes move; weights and optimizer change only
    after it. Which buffers move is told by their versions, so tables are copied once and never again.

    Args:
        network: What is trained.
        pieces: Into how many pieces micro-batches are cut, in a run that is continued.
    """

    def __init__(self, network: nn.Module, pieces: int = 1) -> None:
        self.network, self.pieces = network, pieces
        self.loss: Tensor | float = 0.0
        self._done: list[tuple[Batch, float]] = []
        self._random = capture_random()
        self._buffers: dict[str, Tensor] = {}
        self._versions: dict[str, tuple[int, int]] = {}
        self._moving: set[str] | None = None

    def begin(self) -> None:
        """Note what this update begins with."""
        self.loss, self._done, self._random = 0.0, [], capture_random()
        buffers = dict(self.network.named_buffers())
        versions = {name: (id(buffer), buffer._version) for name, buffer in buffers.items()}
        if self._versions:
            changed = {name for name, version in versions.items() if self._versions.get(name) != version}
            self._moving = changed | (self._moving or set())
        copied = buffers if self._moving is None else {name: buffers[name] for name in self._moving if name in buffers}
        self._buffers = {name: buffer.detach().cpu().clone() for name, buffer in copied.items()}
        self._versions = versions

    def add(self, batch: Batch, share: float, step: Callable[[Batch, float], Tensor]) -> Tensor:
        """Forward and backward of one more micro-batch; where memory runs out, of all so far in smaller pieces.

        Args:
            batch: Tensors whose first dimension is the users.
            share: Its weight in the loss of the update.
            step: Does it, and returns the weighted loss.

        Returns:
            The weighted loss of this micro-batch.

        Raises:
            torch.OutOfMemoryError, RuntimeError, MemoryError: If memory runs out and nothing can be cut any more.
        """
        self._done.append((batch, share))
        waiting = [(batch, share)]
        while True:
            try:
                for micro_batch, weight in waiting:
                    loss = self._in_pieces(micro_batch, weight, step)
                    self.loss = self.loss + loss
                return loss
            except (RuntimeError, MemoryError) as error:
                if not is_memory_error(error) or not self._can_be_cut():
                    raise
            # Outside the handler, whose error holds the frames that hold the memory.
            self.rewind()
            self.pieces *= 2
            waiting = self._done

    def rewind(self) -> None:
        """Put gradients, generators and buffers back to where the update began."""
        self.network.zero_grad(set_to_none=True)
        self.restore_buffers()
        restore_random(*self._random)
        self.loss = 0.0
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @torch.no_grad()
    def restore_buffers(self) -> None:
        """Put the buffers back to where the update began."""
        buffers = dict(self.network.named_buffers())
        for name, saved in self._buffers.items():
            buffers[name].copy_(saved)

    def _in_pieces(self, batch: Batch, share: float, step: Callable[[Batch, float], Tensor]) -> Tensor:
        if self.pieces == 1:
            return step(batch, share)
        cut: Callable[[Batch, int], list[tuple[Batch, float]]] | None = getattr(self.network, "cut_batch", None)
        parts = cut(batch, self.pieces) if cut is not None else self._cut(batch)
        losses = [step(piece, share * part) for piece, part in parts]
        return torch.stack(losses).sum()

    def _cut(self, batch: Batch) -> list[tuple[Batch, float]]:
        """Pieces of the users of a batch, each with its share of the batch's targets."""
        pieces, total = cut_rows(batch, self.pieces), count_targets(self.network, batch)
        return [(piece, count_targets(self.network, piece) / total) for piece in pieces]

    def _can_be_cut(self) -> bool:
        # Other processes would wait for a step that this one begins anew.
        if number_of("WORLD_SIZE", 1) > 1:
            return False
        # What else a batch holds besides users, only the model knows how to divide.
        divisible = [batch for batch, _ in self._done if hasattr(self.network, "cut_batch") or set(batch) <= PLAIN]
        return any(min(map(len, batch.values())) > self.pieces for batch in divisible)


def cut_rows(batch: Batch, pieces: int) -> list[Batch]:
    """Divide the rows of a batch into at most so many pieces of equal size; the last one may be smaller."""
    size = -(-len(next(iter(batch.values()))) // pieces)
    return [
        dict(zip(batch, parts, strict=True)) for parts in zip(*(t.split(size) for t in batch.values()), strict=True)
    ]


def draw_targets(network: nn.Module, batch: Batch) -> None:
    """Add to a batch what the model must draw before its targets can be counted; most models draw nothing."""
    draw: Any = getattr(network, "draw_targets", None)
    if draw is not None:
        batch.update(draw(batch["lengths"]))


def count_targets(network: nn.Module, batch: Batch) -> int:
    """How many targets a batch has: as many as items, unless the model counts otherwise."""
    count: Any = getattr(network, "count_targets", None)
    drawn = {"cuts": batch["cuts"]} if "cuts" in batch else {}
    return int(batch["lengths"].sum()) if count is None else int(count(batch["lengths"], **drawn))


def is_memory_error(error: BaseException) -> bool:
    """Whether an error says that the machine or the accelerator has no memory left."""
    text = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in text for words in SIGNS)


def memory_error(section: str, batch_size: int, step: int, *, validating: bool) -> MemoryExhaustedError:
    """What to say where memory ran out and nothing could be cut any more.

    Args:
        section: Of the recipe: ``training`` or ``alignment.training``.
        batch_size: Users per micro-batch and process.
        step: The update that was being made.
        validating: Whether it was in a validation.
    """
    if validating:
        fix = "lower decoding.batch_size and run again: it continues from the last checkpoint"
    elif section == "alignment.training":
        fix = "lower alignment.training.batch_size or alignment.pairs.list_size, and align into another folder"
    elif batch_size > 1 and number_of("WORLD_SIZE", 1) > 1:
        fix = (
            "run again with a smaller training.batch_size and as much more training.gradient_accumulation_steps: the"
            " same updates with less memory, from the last checkpoint on"
        )
    else:
        fix = (
            "one user at a time is still too much: lower recommender.max_history, recommender.hidden_size or"
            " recommender.num_layers, set training.precision=bf16, or take a machine with more memory"
        )
    return MemoryExhaustedError(
        f"memory ran out while {'validating' if validating else 'training'}",
        where=f"step {step}, {section}.batch_size={batch_size}",
        fix=fix,
    )
