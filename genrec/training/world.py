"""The processes that train together: which one this is, and how they agree.

One process is a world of one, in which every question is answered at once and nothing is sent.
"""

import atexit
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from genrec.errors import GenrecError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The processes of one training run.

    Attributes:
        rank: Number of this one, from 0; number 0 leads: it writes and speaks.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> "World":
        """The world that this process has joined, else one of its own."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    @classmethod
    def join(cls, *, cpu: bool, patience: timedelta | None = None) -> "World":
        """Meet the other processes that the launcher started.

        Args:
            cpu: Whether to compute on the CPU although there may be a GPU.
            patience: How long one may wait for another; as torch has it by default.
        """
        if not distributed.is_initialized():
            if not cpu:
                torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
            distributed.init_process_group("gloo" if cpu else "cpu:gloo,cuda:nccl", timeout=patience)
            atexit.register(_leave)
        return cls.current()

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """What each process has to say, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def gather_numbers(self, *numbers: float) -> torch.Tensor:
        """Some numbers of each process, float64 ``[processes, numbers]`` on the CPU; faster than :meth:`gather`."""
        own = torch.tensor(numbers, dtype=torch.float64)
        if self.size == 1:
            return own.unsqueeze(0)
        found = [torch.empty_like(own) for _ in range(self.size)]
        distributed.all_gather(found, own)
        return torch.stack(found)

    def from_leader(self, work: Callable[[], T]) -> T:
        """Let the leading process do something while the others wait; all get what came of it.

        Raises:
            GenrecError: In every process, if the work raised it.
        """
        if self.size == 1:
            return work()
        done: list[Any] = [None, None]
        if self.leads:
            try:
                done[0] = work()
            except GenrecError as error:
                done[1] = (
                    type(error),
                    error.what,
                    {name: getattr(error, name) for name in ("where", "expected", "fix")},
                )
        distributed.broadcast_object_list(done)
        if done[1] is not None:
            kind, what, parts = done[1]
            raise kind(what, **parts)
        result: T = done[0]
        return result


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
