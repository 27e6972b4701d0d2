"""Make a data set that no laptop wants as one table, take it through all stages, and print what each took, as JSON.

    python scripts/benchmarks/beyond_memory.py /tmp/beyond

Interactions and items are folders of Parquet shards, as Spark or DuckDB write them. Every stage is a process of its
own, whose highest resident memory is measured; mapped files count as far as they are resident. A stage that is done is
not repeated.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl

from genrec.artifacts import open_work_folder, work_folder

ROWS = 1_000_000
BOUND_GB = 12
WIDTH = 64


def make_tables(folder: Path, users: int, items: int, interactions: int) -> None:
    """Write shards of interactions in no order of users, shards of items, and a vector for every item.

    Args:
        folder: Gets ``raw/interactions``, ``raw/items``, ``raw/sample.parquet`` and ``raw/vectors``.
        users: Each has ``interactions / users`` events, spread over all shards.
        items: Low numbers are popular.
        interactions: Rows in all.
    """
    raw = folder / "raw"
    for name in ("interactions", "items", "vectors"):
        (raw / name).mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, interactions, ROWS)):
        rows = np.arange(start, min(start + ROWS, interactions))
        random = np.random.default_rng(number)
        frame = pl.DataFrame(
            {
                "user_id": rows % users * _coprime(users) % users,
                "item_id": (items * random.random(len(rows)) ** 2).astype(np.int64),
                "timestamp": 1_300_000_000 + rows + random.integers(0, 100_000_000, len(rows)),
            }
        ).with_columns(pl.format("u{}", "user_id").alias("user_id"), pl.format("i{}", "item_id").alias("item_id"))
        frame.write_parquet(raw / "interactions" / f"part-{number:05d}.parquet")
        if number == 0:
            frame.filter(
                pl.col("user_id").is_in(frame["user_id"].unique(maintain_order=True)[:1000].implode())
            ).write_parquet(raw / "sample.parquet")
    (raw / "interactions" / "_SUCCESS").touch()
    for number, start in enumerate(range(0, items, ROWS)):
        ids = pl.Series("item_id", np.arange(start, min(start + ROWS, items))).cast(pl.String)
        frame = pl.DataFrame({"item_id": "i" + ids, "title": "Title of " + ids})
        frame.write_parquet(raw / "items" / f"part-{number:05d}.parquet")
    _make_vectors(raw / "vectors", items)


def stages(folder: Path, minutes: float) -> dict[str, list[str]]:
    """The command of every stage, by name."""
    raw, recipe = folder / "raw", folder / "recipe.yaml"
    tokenizer = {"name": "rqkmeans", "num_levels": 3, "codebook_size": 256, "max_points": 64, "allow_collapse": True}
    recommender = {"name": "depth", "hidden_size": 64, "num_layers": 2}
    training = {"epochs": 1, "batch_size": 1024, "eval_users": 500, "max_minutes": minutes}
    recipe.write_text(json.dumps({"tokenizer": tokenizer, "recommender": recommender, "training": training}))
    data, features = ["--dataset", str(folder / "dataset")], ["--features", str(folder / "features")]
    named = ["--tokenizer", str(folder / "tokenizer")]
    vectors = ["--set", "encoder=matrix", "--set", f"path={raw / 'vectors' / 'vectors.npy'}"]
    tables = ["--interactions", str(raw / "interactions"), "--items", str(raw / "items"), "--k-core", "0"]
    return {
        "prepare": ["prepare", *tables],
        "embed": ["embed", *data, *vectors],
        "tokenize": ["tokenize", str(recipe), *data, *features],
        "train": ["train", str(recipe), *data, *features, *named],
        "generate": ["generate", "--model", str(folder / "model"), "--histories", str(raw / "sample.parquet")],
    }


RESULTS = {
    "prepare": "dataset",
    "embed": "features",
    "tokenize": "tokenizer",
    "train": "model",
    "generate": "lists.parquet",
}


def measure(command: list[str], log: Path) -> dict[str, float | int]:
    """Run a command to its end; its exit code, seconds and highest resident memory in GB."""
    start = time.perf_counter()
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return {
        "exit_code": process.returncode,
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_gb": round(used.ru_maxrss / 2**20, 2),
    }


def run(arguments: argparse.Namespace) -> dict[str, object]:
    """Make the tables, run every stage that is not done, and keep what is known in ``report.json``."""
    folder: Path = arguments.folder
    sizes = {name: getattr(arguments, name) for name in ("users", "items", "interactions")}
    path = folder / "report.json"
    report: dict[str, dict[str, float | int]] = json.loads(path.read_text())["stages"] if path.is_file() else {}
    given = [f"--{name}={value}" for name, value in sizes.items()]
    commands = {"make": [sys.executable, __file__, str(folder), "--make", *given]}
    for name, verb in stages(folder, arguments.minutes).items():
        commands[name] = [sys.executable, "-m", "genrec.cli", *verb, "--out", str(folder / RESULTS[name])]
    for name, command in commands.items():
        if report.get(name, {}).get("exit_code") == 0:
            continue
        report[name] = measure(command, folder / f"{name}.log")
        peak = max(stage["peak_gb"] for stage in report.values())
        told = {**sizes, "stages": report, "peak_gb": peak, "bound_gb": BOUND_GB, "within": peak <= BOUND_GB}
        path.write_text(json.dumps(told, indent=2))
        if report[name]["exit_code"]:
            sys.exit(f"{name} failed: see {folder / name}.log")
    found: dict[str, object] = json.loads(path.read_text())
    return found


def _coprime(users: int) -> int:
    return next(step for step in range(max(users * 5 // 8, 1), 2 * users + 2) if np.gcd(step, users) == 1)


def _make_vectors(folder: Path, items: int) -> None:
    """Float32 ``[items, 64]``, a thousand groups and noise, written in pieces."""
    centres = np.random.default_rng(0).normal(size=(1000, WIDTH)).astype(np.float32)
    values = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float32, (items, WIDTH))
    for number, start in enumerate(range(0, items, ROWS)):
        rows = np.arange(start, min(start + ROWS, items))
        noise = np.random.default_rng(number).standard_normal((len(rows), WIDTH), dtype=np.float32)
        values[rows] = centres[rows % len(centres)] + 0.5 * noise
    values.flush()
    (folder / "item_ids.json").write_text(json.dumps([f"i{row}" for row in range(items)]))


def main() -> None:
    """Read the arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=work_folder)
    parser.add_argument("--users", type=int, default=5_000_000)
    parser.add_argument("--items", type=int, default=2_000_000)
    parser.add_argument("--interactions", type=int, default=50_000_000)
    parser.add_argument("--minutes", type=float, default=1.0, help="longest training")
    parser.add_argument("--make", action="store_true", help="only write the tables")
    arguments = parser.parse_args()
    open_work_folder(arguments.folder)
    if arguments.make:
        make_tables(arguments.folder, arguments.users, arguments.items, arguments.interactions)
        return
    print(json.dumps(run(arguments), indent=2))


if __name__ == "__main__":
    main()
