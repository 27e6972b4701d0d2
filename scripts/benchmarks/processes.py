"""Training in several processes against one: the same losses, whatever keeps the processes together?

    python scripts/benchmarks/processes.py --json processes.json

Trains a small model of a family for 50 updates on made-up users: in one process, then through ``accelerate launch``
with the files of ``configs/accelerate/`` on the CPU (fp32, no dropout, equal global batch). Tells the largest
difference of a loss and of a gradient norm from those of one process. With ``--resume`` the several processes take up
a run that one began. The ways through DeepSpeed run where the extra is installed.
"""

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from genrec import DecodingConfig, Histories, ItemIndex, RecommenderConfig, TrainingConfig
from genrec.artifacts import environment, result_file, write_result
from genrec.models import build_recommender, recommender_class
from genrec.training import train_recommender

ROOT = Path(__file__).resolve().parents[2]
WAYS = ("ddp", "fsdp2", "zero1", "zero2", "zero3")
LEVEL, UPDATES, EPOCHS, BATCH = 6, 10, 5, 32
SMALL: dict[str, Any] = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "max_history": 8, "dropout": 0.0}
FAMILY: dict[str, dict[str, Any]] = {
    "depth": {"use_features": False, "depth_dropout": 0.0},
    "seq2seq": {"targets": "last"},
}
KEPT = ("ACCELERATE_", "FSDP_")


class MadeUp:
    """Users walk at random over a circle of items."""

    fingerprint, num_items = "made up", LEVEL**3

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        users = UPDATES * BATCH - 7
        starts, lengths = rng.integers(self.num_items, size=users), rng.integers(2, SMALL["max_history"], size=users)
        steps = [rng.integers(1, 4, size=length).cumsum() for length in lengths]
        self.walks = [((start + step) % self.num_items).tolist() for start, step in zip(starts, steps, strict=True)]

    def train(self) -> Histories:
        """Every walk but its last step."""
        return Histories.from_lists([walk[:-1] for walk in self.walks])

    def evaluation(self, part: str) -> tuple[Histories, Histories]:
        """The last steps."""
        return self.train(), Histories.from_lists([walk[-1:] for walk in self.walks])


def train(folder: Path, family: str, accumulation: int, minutes: float | None) -> None:
    """Be one of the processes, or the only one."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    codes = np.stack(np.unravel_index(np.arange(MadeUp.num_items), (LEVEL, LEVEL, LEVEL)), axis=1)
    index = ItemIndex(codes, (LEVEL, LEVEL, LEVEL), [str(item) for item in range(MadeUp.num_items)])
    settings = RecommenderConfig(name=family, **SMALL, **FAMILY.get(family, {}))
    identified = recommender_class(family).needs_semantic_ids
    model = build_recommender(settings, num_items=MadeUp.num_items, index=index if identified else None)
    config = TrainingConfig(
        epochs=EPOCHS,
        batch_size=BATCH // accumulation,
        gradient_accumulation_steps=accumulation,
        learning_rate=3e-3,
        max_minutes=minutes,
        eval_users=32,
    )
    decoding = DecodingConfig(num_beams=10, top_k=10)
    train_recommender(model, MadeUp(), config, decoding, folder, console=Console(quiet=True))


def run(way: str, folder: Path, arguments: list[str], processes: int) -> float:
    """Start the processes of one way; seconds it took."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(KEPT)}
    variables |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable]
    if way != "one":
        variables["ACCELERATE_USE_CPU"] = "true"
        file = ROOT / "configs" / "accelerate" / f"{way}.yaml"
        command += ["-m", "accelerate.commands.launch", "--config_file", str(file), "--num_processes", str(processes)]
        command += ["--main_process_port", "0"]
    started = time.monotonic()
    worker = [str(Path(__file__).resolve()), "--worker", str(folder), *arguments]
    done = subprocess.run([*command, *worker], env=variables, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{way} failed:\n{done.stdout}\n{done.stderr}")
    return time.monotonic() - started


def read_log(folder: Path) -> np.ndarray:
    """Losses and gradient norms, float64 ``[updates, 2]``."""
    records = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return np.array([[record["loss"], record["grad_norm"]] for record in records if "loss" in record])


def compare(options: argparse.Namespace, ways: list[str]) -> dict[str, Any]:
    """Train every way and compare it with one process."""
    arguments = ["--family", options.family, "--accumulation", str(options.accumulation)]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        seconds = run("one", Path(name) / "one", arguments, 1)
        expected = read_log(Path(name) / "one")
        found["one"] = {"updates": len(expected), "first": expected[0, 0], "last": expected[-1, 0], "seconds": seconds}
        if options.resume:
            # Stopped by its time budget after the first update, to be taken up by several processes.
            run("one", Path(name) / "stopped", [*arguments, "--minutes", "1e-6"], 1)
        for way in ways:
            folder = Path(name) / way
            if options.resume:
                shutil.copytree(Path(name) / "stopped", folder)
            seconds = run(way, folder, arguments, options.processes)
            time_deltas = (np.abs(read_log(folder) - expected) / [1, expected[:, 1].max()]).max(0)
            found[way] = {"loss": time_deltas[0], "relative norm": time_deltas[1], "seconds": round(seconds, 1)}
            print(f"{way:6} largest difference of a loss {time_deltas[0]:.1e}, {seconds:.0f} s", flush=True)
    return found


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=result_file, help="file to write")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--family", default="depth")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--accumulation", type=int, default=1, help="micro-batches per update")
    parser.add_argument("--resume", action="store_true", help="take up a run of one process after its first update")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--minutes", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        train(options.worker, options.family, options.accumulation, options.minutes)
        return
    ways = [way for way in options.ways if not way.startswith("zero") or importlib.util.find_spec("deepspeed")]
    for way in set(options.ways) - set(ways):
        print(f"{way}: DeepSpeed is not installed (pip install 'genrec[deepspeed]')")
    found = compare(options, ways)
    values = {
        "family": options.family,
        "processes": options.processes,
        "accumulation": options.accumulation,
        "resumed": options.resume,
        "ways": found,
        "versions": environment(),
    }
    print(json.dumps(values["ways"], indent=2))
    if options.json is not None:
        write_result(options.json, values)


if __name__ == "__main__":
    main()
