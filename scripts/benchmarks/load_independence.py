"""Run a recipe alone, then next to busy processes, and compare every metric to the last digit.

    python scripts/benchmarks/load_independence.py configs/quickstart.yaml load
    python scripts/benchmarks/load_independence.py configs/quickstart.yaml load --set training.epochs=2

Both runs have the same number of threads and budgets by epochs; the busy processes are started and ended here. The
folder gets ``alone/``, ``loaded/`` and ``load.json``; the exit code is 1 where a figure differs.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from genrec.artifacts import write_json

BUSY = "import numpy\nwhile True:\n    numpy.random.rand(400, 400) @ numpy.random.rand(400, 400)"


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """So many processes that compute without a pause, one thread each, until the end of the block."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY], env=one_thread()) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def one_thread() -> dict[str, str]:
    """The environment of processes that use one thread each."""
    return {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")}


def run(recipe: Path, out: Path, threads: int, overrides: Sequence[str]) -> dict[str, Any]:
    """Run a recipe in a process of its own; its metrics, seconds and highest load."""
    command = [sys.executable, "-m", "genrec.cli", "run", str(recipe), "--out", str(out)]
    for override in overrides:
        command += ["--set", override]
    started, load = time.monotonic(), 0.0
    with (out.parent / f"{out.name}.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, stdout=log, stderr=subprocess.STDOUT
        )
        while process.poll() is None:
            load = max(load, os.getloadavg()[0])
            time.sleep(1)
    if process.returncode:
        raise SystemExit(f"the run in {out} ended with exit code {process.returncode}: see {out}.log")
    seconds = time.monotonic() - started
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    return {"seconds": round(seconds, 1), "highest_load": round(load, 1), "metrics": figures(metrics)}


def figures(values: Any, name: str = "") -> dict[str, Any]:
    """Every number and text of a nested result by its path."""
    if isinstance(values, dict):
        parts = values.items()
    elif isinstance(values, list):
        parts = dict(enumerate(values)).items()
    else:
        return {name: values}
    return {key: value for part, inner in parts for key, value in figures(inner, f"{name}/{part}").items()}


def compare(alone: dict[str, Any], loaded: dict[str, Any]) -> dict[str, Any]:
    """What differs between two sets of figures."""
    names = sorted({*alone, *loaded})
    different = {name: [alone.get(name), loaded.get(name)] for name in names if alone.get(name) != loaded.get(name)}
    return {"figures": len(names), "different": different}


def main() -> int:
    """Run twice and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("out", type=Path, help="a folder for both runs")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--busy", type=int, default=2, help="busy processes besides the second run")
    parser.add_argument("--threads", type=int, default=1, help="threads of each run")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    given = (arguments.threads, arguments.overrides)
    alone = run(arguments.recipe, arguments.out / "alone", *given)
    with busy_processes(arguments.busy):
        loaded = run(arguments.recipe, arguments.out / "loaded", *given)
    result = compare(alone.pop("metrics"), loaded.pop("metrics"))
    result = {"threads": arguments.threads, "busy": arguments.busy, "alone": alone, "loaded": loaded, **result}
    write_json(arguments.out / "load.json", result)
    print(json.dumps(result, indent=2))
    return int(bool(result["different"]))


if __name__ == "__main__":
    sys.exit(main())
