"""Measuring in turns, and which part of a search takes the time.

Seconds are wall-clock, or with ``clock.use("cpu")`` those that this process had a processor: what to read on a machine
that others use as well, with one thread.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import Any

from genrec.decoding import DeviceTrie


class Clock:
    """What time is measured with."""

    def __init__(self) -> None:
        self.now: Callable[[], float] = time.perf_counter

    def use(self, kind: str) -> None:
        """``wall`` or ``cpu``."""
        self.now = {"wall": time.perf_counter, "cpu": time.process_time}[kind]


clock = Clock()


def seconds_of(run: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = clock.now()
    run()
    return clock.now() - start


def alternate(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each run, measured in turns so that a busy machine slows all alike; the first turn is lost."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            seconds[name].append(seconds_of(run))
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


class Watched:
    """Stands for an object; the time of each call of some of its methods is added to one entry of ``seconds``."""

    def __init__(self, target: Any, seconds: dict[str, float], part: str, methods: Collection[str]) -> None:
        self._target, self._seconds, self._part, self._methods = target, seconds, part, methods

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if name not in self._methods:
            return value

        def timed(*arguments: Any, **options: Any) -> Any:
            start = clock.now()
            result = value(*arguments, **options)
            self._seconds[self._part] += clock.now() - start
            return result

        return timed


def watch(model: Any, trie: DeviceTrie) -> tuple[Any, Any, dict[str, float]]:
    """A model and a trie to search with, and the seconds spent in each, which grow with every search."""
    seconds: dict[str, float] = defaultdict(float)
    watched = Watched(trie, seconds, "trie", {"exclusion", "items_at", "rank"})
    watched.__dict__["levels"] = [Watched(level, seconds, "trie", {"candidates", "follow"}) for level in trie.levels]
    return Watched(model, seconds, "model", {"encode", "next_code_logits"}), watched, seconds
