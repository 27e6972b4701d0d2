"""The processes that train together: which one this is, and how they agree.

One process is a world of one, in which every question is answered at once and nothing is sent.
"""

import atexit
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from genrec.errors import ConfigError, GenrecError

T = TypeVar("T")
MOST_PROCESSES = 1_000_000


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
    def initialize(cls, *, cpu: bool, patience: timedelta | None = None) -> "World":
        """Meet the other processes that the launcher started.

        Args:
            cpu: Whether to compute on the CPU although there may be a GPU.
            patience: How long one may wait for another; as torch has it by default.
        """
        if not distributed.is_initialized():
            if not cpu:
                torch.cuda.set_device(number_of("LOCAL_RANK"))
            distributed.init_process_group("gloo" if cpu else "cpu:gloo,cuda:nccl", timeout=patience)
            atexit.register(_leave)
        return cls.current()

    @property
    def is_main(self) -> bool:
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

    def run_on_main(self, work: Callable[[], T]) -> T:
        """Let the leading process do something while the others wait; all get what came of it.

        Raises:
            GenrecError: In every process, if the work raised it.
        """
        if self.size == 1:
            return work()
        done: list[Any] = [None, None]
        if self.is_main:
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


def number_of(name: str, default: int = 0, environment: Mapping[str, str] = os.environ) -> int:
    """A whole number that a launcher left in the environment.

    Args:
        name: Of the variable.
        default: Where it is not set.
        environment: Where to look.

    Raises:
        ConfigError: If it is no whole number from 0 on, such as ``WORLD_SIZE=abc``.
    """
    text = environment.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,7}", text) or int(text) > MOST_PROCESSES:
        raise ConfigError(
            f"{name}={text!r} is no number of processes",
            where="the environment",
            expected=f"a whole number from 0 to {MOST_PROCESSES}, as torchrun and accelerate launch set it",
            fix=f"unset {name}, or start with torchrun or accelerate launch",
        )
    return int(text)


def rank_and_size(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Number of this process and how many there are, as a launcher says: 0 and 1 without one.

    Raises:
        ConfigError: If these are no numbers, or the number is not below the count.
    """
    rank, size = number_of("RANK", 0, environment), number_of("WORLD_SIZE", 1, environment)
    if rank >= size:
        raise ConfigError(
            f"RANK={rank} of WORLD_SIZE={size} processes",
            where="the environment",
            expected="a rank from 0 to the number of processes less one",
            fix="unset RANK and WORLD_SIZE, or start with torchrun or accelerate launch",
        )
    return rank, size


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
