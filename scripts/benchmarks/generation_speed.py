"""Lists per second of trained models, in turns: which family writes its lists faster, and by how much.

    python scripts/benchmarks/generation_speed.py --dataset DIR --json speed.json MODEL MODEL [...]

Each ``MODEL`` is a model folder of the same data set. Every round asks each of them once for the lists of the same
users, so that whatever else the machine does strikes all; the medians of the rounds and their ratios to the first model
are told. One thread, unless ``--threads`` says otherwise; searched by ``--beams`` beams of codes alone. ``--at-least``
leaves only users with so many items, where those are what is to be timed.
"""

import argparse
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from genrec import Dataset, DecodingConfig
from genrec.artifacts import result_file, write_result
from genrec.decoding import generate_lists
from genrec.pipeline.model_folder import open_model


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--json", type=result_file, required=True)
    parser.add_argument("--beams", type=int, default=50)
    parser.add_argument("--users", type=int, default=1024)
    parser.add_argument("--at-least", type=int, default=1, help="items in the history of a user")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    histories, _ = Dataset.load(arguments.dataset).evaluation("test")
    long_enough = np.flatnonzero(histories.lengths >= arguments.at_least)
    histories = histories.select(np.random.default_rng(0).permutation(long_enough)[: arguments.users])
    decoding = DecodingConfig(num_beams=arguments.beams, top_k=10)
    models = [open_model(folder).model for folder in arguments.models]
    seconds: list[list[float]] = [[] for _ in models]
    for _ in range(arguments.rounds + 1):
        for model, spent in zip(models, seconds, strict=True):
            start = time.perf_counter()
            generate_lists(model, histories, decoding=decoding, top_k=10)
            spent.append(time.perf_counter() - start)
    speeds = [len(histories) / median(spent[1:]) for spent in seconds]
    rows = []
    for folder, model, speed in zip(arguments.models, models, speeds, strict=True):
        ratio = speeds[0] / speed
        rows.append({"model": str(folder), "family": model.config.family, "users_per_second": speed, "ratio": ratio})
        print(f"{folder}: {speed:,.0f} users/s, the first is {ratio:.2f} times as fast")
    settings = {name: getattr(arguments, name) for name in ("beams", "at_least", "rounds", "threads")}
    write_result(arguments.json, {**settings, "users": len(histories), "models": rows})


if __name__ == "__main__":
    main()
