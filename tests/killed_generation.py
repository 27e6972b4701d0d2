"""Lists written by processes that are killed: a program of its own, because it forks before anything has threads.

Prints as JSON how often a killed and repeated command led to the bytes of one that was never stopped.
"""

import json
import os
import random
import shutil
import signal
import socket
import sys
from pathlib import Path

import torch

from genrec import generation
from genrec.decoding import generate
from genrec.generation import GenerationRequest, Job, write_lists
from genrec.recommender import Recommender

TRACED = ("shards.py", "output.py", "artifacts/files.py", "generation.py")
POINTS = 50


class Lines:
    """Counts the lines that run in the files that write, and kills the process at one of them."""

    def __init__(self, kill_at: int) -> None:
        self.left = kill_at

    def __call__(self, frame, event, argument):
        if not frame.f_code.co_filename.endswith(TRACED):
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return self


class World:
    """One request that processes of this program answer again and again."""

    def __init__(self, model: Path, dataset: Path, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.request = GenerationRequest(dataset=dataset, decoding={"top_k": 3}, explain=True)
        recommender = Recommender.from_pretrained(model, device="cpu")
        job = Job.open(recommender, self.request)
        blocks, description = list(job.blocks(range(8), progress=False)), job.description()
        # All of this once and here: it takes long, and a forked process must not use the threads of polars.
        Recommender.from_pretrained = lambda *_args, **_kwargs: recommender
        Job.open = lambda *_args: job
        Job.description = lambda _job: description
        Job.blocks = lambda _job, numbers, **_kwargs: (blocks[number] for number in numbers)

    def start(self, out: Path, kill_at: int = 0, **environment: str) -> int:
        """Begin a process; it kills itself at a line if ``kill_at`` is one."""
        child = os.fork()
        if child:
            return child
        code = 1
        try:
            os.environ.update(environment)
            lines = Lines(kill_at)
            if kill_at:
                sys.settrace(lines)
            write_lists(self.model, self.request, out)
            sys.settrace(None)
            (self.folder / "lines").write_text(str(kill_at - lines.left))
            code = 0
        finally:
            os._exit(code)

    def together(self, out: Path, count: int, kill_at: int = 0) -> list[int]:
        """Several processes at once, of which the last may kill itself and takes the others with it."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(count)}
        children = [self.start(out, kill_at * (rank == count - 1), RANK=str(rank), **place) for rank in range(count)]
        ended = [os.waitstatus_to_exitcode(os.waitpid(children[-1], 0)[1])]
        for child in children[:-1]:
            if ended[0]:
                os.kill(child, signal.SIGKILL)
            ended.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        return ended


def main(model: Path, dataset: Path, folder: Path) -> None:
    """Kill at random lines, go on, compare."""
    torch.set_num_threads(1)
    generate.BLOCK_USERS = generation.BLOCK_USERS = 8
    world, draw = World(model, dataset, folder), random.Random(3)
    whole = folder / "whole.parquet"
    assert world.together(whole, 1, kill_at=-1) == [0]
    expected, lines = whole.read_bytes(), int((folder / "lines").read_text())
    counts = {"killed": 0, "continued": 0, "identical": 0}
    for _ in range(POINTS):
        out = folder / "again" / "lists.parquet"
        killed = world.together(out, 1, kill_at=draw.randrange(1, lines))
        counts["killed"] += killed == [-signal.SIGKILL]
        counts["continued"] += any(out.parent.glob(".lists.parquet.parts/*.parquet"))
        if draw.random() < 0.3:
            world.together(out, 1, kill_at=draw.randrange(1, lines))
        finished = world.together(out, 1)
        counts["identical"] += finished == [0] and out.read_bytes() == expected and list(out.parent.iterdir()) == [out]
        shutil.rmtree(out.parent)
    for count in (2, 4):
        assert world.together(out, count) == [0] * count
        counts[f"by {count} processes"] = out.read_bytes() == expected
        shutil.rmtree(out.parent)
    assert world.together(out, 2, kill_at=lines // 6)[0] == -signal.SIGKILL
    assert not out.exists()
    assert world.together(out, 3) == [0] * 3
    counts["by 3 after 2 were killed"] = out.read_bytes() == expected
    print(json.dumps(counts))


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
