"""Fit and tune the baseline ``transition`` on a made-up log in a process of its own, and print time and peak memory.

    python scripts/benchmarks/transitions_memory.py --json transitions.json
    python scripts/benchmarks/transitions_memory.py --items 100000 --text-size 64       # with vectors of texts

Items are drawn independently by a Zipf law, so that nearly every transition is another pair: the most links that a log
of this size can have. The last two events of each user are held out, as leave-one-out does.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np

from genrec import Histories
from genrec.artifacts import write_json
from genrec.evaluation.baselines import transition

BOUND_GB = 12
DRAWN_AT_ONCE = 5_000_000


class Log:
    """What the baseline reads of a :class:`genrec.data.Dataset`.

    Args:
        users: Each has at least four events.
        items: N; low numbers are popular.
        interactions: Events in all.
        seed: Draws everything.
    """

    def __init__(self, users: int, items: int, interactions: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.num_items = items
        lengths = 4 + rng.multinomial(interactions - 4 * users, rng.dirichlet(np.ones(users)))
        mass = np.cumsum(1 / (np.arange(items) + 10.0))
        drawn = np.empty(interactions, dtype=np.int32)
        for first in range(0, interactions, DRAWN_AT_ONCE):
            part = drawn[first : first + DRAWN_AT_ONCE]
            part[:] = np.searchsorted(mass, rng.random(len(part)) * mass[-1])
        self._all = Histories(np.arange(users), np.concatenate([[0], np.cumsum(lengths)]), drawn)

    def train(self) -> Histories:
        """All but the last two events of each user."""
        return self._all.slice(self._all.users, self._all.offsets[:-1], self._all.lengths - 2)

    def evaluation(self, part: Literal["validation", "test"]) -> tuple[Histories, Histories]:
        """Histories and the event after each."""
        known = self._all.lengths - (2 if part == "validation" else 1)
        targets = self._all.slice(self._all.users, self._all.offsets[:-1] + known, np.ones(len(known), dtype=np.int64))
        return self._all.slice(self._all.users, self._all.offsets[:-1], known), targets

    def train_popularity(self) -> np.ndarray:
        """Events of each item in the training part, int64 ``[N]``."""
        return np.bincount(self.train().items, minlength=self.num_items).astype(np.int64)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Make the log, tune on it, and write lists for some users; peak memory in GB after each."""
    found: dict[str, Any] = {
        name: getattr(arguments, name) for name in ("users", "items", "interactions", "text_size", "seed")
    }
    clock = [time.perf_counter(), time.process_time()]

    def note(stage: str) -> None:
        wall, processor = time.perf_counter(), time.process_time()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6 / 1.024)
        found[stage] = {
            "seconds": round(wall - clock[0], 1),
            "processor_seconds": round(processor - clock[1], 1),
            "peak_gb": round(peak, 2),
        }
        print(stage, json.dumps(found[stage]), file=sys.stderr, flush=True)
        clock[:] = wall, processor

    log: Any = Log(arguments.users, arguments.items, arguments.interactions, arguments.seed)
    note("log")
    vectors = None
    if arguments.text_size:
        vectors = np.random.default_rng(1).standard_normal((arguments.items, arguments.text_size), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    setattr(transition, "text_vectors", lambda dataset: vectors)  # noqa: B010
    model = transition.Transition.tuned(log)
    found["links"], found["settings"] = int(model.links.nnz), model.settings
    note("tuned")
    histories, _ = log.evaluation("test")
    model.recommend(histories.select(np.arange(1000)), top_k=10)
    note("lists of 1,000 users")
    found["within_bound"] = found["lists of 1,000 users"]["peak_gb"] <= BOUND_GB
    return found


def main() -> None:
    """Run the measurement in a child process, whose peak is that of nothing else."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_500_000)
    parser.add_argument("--items", type=int, default=500_000)
    parser.add_argument("--interactions", type=int, default=50_000_000)
    parser.add_argument("--text-size", type=int, default=0, help="numbers of each item's text vector; 0: no texts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for the result")
    arguments = parser.parse_args()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(measure, (arguments,))
    print(json.dumps(found, indent=2))
    if arguments.json:
        write_json(arguments.json, found)


if __name__ == "__main__":
    main()
