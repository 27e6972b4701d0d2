"""The table of docs/alignment.md on simulated users: ``python tests/alignment/simulation_figures.py [SEEDS]``.

Every method starts from the same supervised model of each seed and does the same number of epochs. ``learned`` uses a
list reward that was trained on the simulated ratings; the truth is only used to measure.
"""

import copy
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from simulator import DECODING, World, recipe

from genrec.alignment import setup as choice
from genrec.alignment.align import align_recommender

SELF_PLAY = {"source": "self-play", "per_user": 4, "per_list": 5}
PAIRED = {"method": "dpo", "beta": 0.1, "preference_weight": 10.0, "learning_rate": 1.5e-3}
LEARNED = {"rewards": {"lists": 1.0}, "objectives": {"liked": 1.0}}
METHODS = {
    "one-shot DPO, 9 epochs": {**PAIRED, "epochs": 9, "pairs": SELF_PLAY},
    "iterative DPO, 3 x 3 epochs": {**PAIRED, "iterations": 3, "pairs": SELF_PLAY},
    "GRPO, 9 epochs": {"method": "grpo", "preference_weight": 3.0, "epochs": 9, "pairs": {"per_user": 4}},
    "iterative DPO, learned reward": {**PAIRED, **LEARNED, "iterations": 3, "pairs": SELF_PLAY},
    "GRPO, learned reward": {
        **LEARNED,
        "method": "grpo",
        "preference_weight": 3.0,
        "epochs": 9,
        "pairs": {"per_user": 4},
    },
}


def main(seeds: int, users: int = 160) -> None:
    """Print one line per method: mean and standard deviation over seeds, and the way there."""
    found: dict[str, list[tuple[float, float, float, str]]] = {}
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            world = World(Path(folder) / "dataset", seed, users=users)
            supervised = world.supervised(seed=seed)
            choice.load_function = lambda name, reward=world.reward: reward  # type: ignore[assignment,misc]
            found.setdefault("supervised", []).append((world.true_reward(supervised), 0.0, 1.0, ""))
            for name, changes in METHODS.items():
                model, began = copy.deepcopy(supervised), time.monotonic()
                result = align_recommender(
                    model,
                    world.dataset,
                    recipe(**changes, seed=seed),
                    DECODING,
                    Path(folder) / name,
                    inputs={},
                    console=Console(quiet=True),
                )
                way = " ".join(f"{part.best['reward@10']:.3f}" for part in result.iterations)
                coverage = result.best["coverage@10"] / result.start["coverage@10"]
                found.setdefault(name, []).append((world.true_reward(model), result.best["kl"], coverage, way))
                print(seed, name, f"{found[name][-1]} {time.monotonic() - began:.0f} s", flush=True)
    for name, values in found.items():
        rewards = np.array([value[0] for value in values])
        coverage = np.mean([value[2] for value in values])
        print(f"| {name} | {rewards.mean():.3f} +- {rewards.std(ddof=1):.3f} | {coverage:.2f} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
