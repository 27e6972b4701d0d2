"""Work on the rows of a catalogue that several processes share: fixed blocks, each done once."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np

from genrec.errors import GenrecError

T = TypeVar("T")
Part = TypeVar("Part")


class Peers(Protocol):
    """The processes that share the work, as ``genrec.distributed.world.World``."""

    @property
    def rank(self) -> int:
        """Number of this one, from 0."""

    @property
    def size(self) -> int:
        """How many there are."""

    def gather(self, value: T) -> list[T]:
        """What each process has to say, by rank."""

    def run_on_main(self, work: Callable[[], T]) -> T:
        """Let the first process do something while the others wait; all get what came of it, or its GenrecError."""


def share_blocks(peers: Peers, blocks: Sequence[Part], work: Callable[[Part], np.ndarray], what: str) -> np.ndarray:
    """What some work makes of every block, joined in the order of the blocks; all processes get all of it.

    Args:
        peers: Who shares; each does every ``size``-th block.
        blocks: At least one.
        work: From a block to an array that depends on the block alone.
        what: The work, for the message.

    Raises:
        GenrecError: If the work raises it, here or in another process.
    """
    problem: GenrecError | None = None
    own: list[np.ndarray] | None = None
    try:
        own = [work(block) for block in blocks[peers.rank :: peers.size]]
    except GenrecError as error:
        # The others wait for this process, so it has something to say to them first.
        problem = error
    parts = peers.gather(own)
    if problem is not None:
        raise problem
    failed = [rank for rank, part in enumerate(parts) if part is None]
    if failed:
        raise GenrecError(
            f"process {failed[0]} could not do its share of {what}", fix="see what that process says, and run again"
        )
    shares = [part or [] for part in parts]
    return np.concatenate([shares[number % peers.size][number // peers.size] for number in range(len(blocks))])
