"""The second of two processes that sample pairs together: ``python shared_sampling.py FOLDER`` next to a test.

It writes its pairs, the reference's log-probabilities, and which blocks it did itself to files in the folder.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import load_model, save_model
from simulator import DECODING, World, recipe
from torch import distributed

from genrec.alignment.align import Iteration
from genrec.alignment.rewards import WeightedRewards
from genrec.alignment.setup import prepare_material
from genrec.decoding import generate

BLOCK = 32
SELF_PLAY = {"source": "self-play", "per_user": 4, "per_list": 3, "list_size": 8}
RECIPES = {
    "self-play": {"pairs": SELF_PLAY},
    "beams": {"pairs": {"source": "implicit", "per_user": 2, "list_size": 6}, "rewards": {}},
}


def pairs_of(folder: Path, weights: Path) -> tuple[dict[str, np.ndarray], list[int]]:
    """Pairs and reference scores of all recipes, and the sizes of the blocks whose rewards this process computed.

    Processes that share the work hold the same weights, as after a broadcast: ``weights`` is written if it is missing.
    """
    generate.BLOCK_USERS = BLOCK
    torch.set_num_threads(1)
    world = World(folder / "dataset", users=50)
    model, done = world.supervised(epochs=1), []
    if not weights.exists():
        save_model(model, str(weights))
    load_model(model, str(weights))

    def reward(prompts, lists):
        done.append(len(lists))
        return world.reward(prompts, lists)

    found = {}
    for name, changes in RECIPES.items():
        config = recipe(**changes)
        mixture = WeightedRewards([("truth", 1.0, reward)]) if config.rewards else None
        material = prepare_material(model, world.dataset, config, DECODING, mixture, seed=3)
        assert material.pairs is not None
        rows = Iteration(world.dataset, config, DECODING, mixture, 0, Console(quiet=True))._pair_rows(model, material)
        found |= {f"{name} candidates": rows.candidates, f"{name} reference": rows.reference}
        found |= {f"{name} users": rows.preferences.histories.users}
    return found, done


@contextmanager
def together(folder: Path, rank: int) -> Iterator[None]:
    """Be one of two processes that meet through a file of the folder."""
    store = distributed.FileStore(str(folder / "meeting"), 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(minutes=3))
    try:
        yield
    finally:
        distributed.destroy_process_group()


def main() -> None:
    """Join the other, sample, write."""
    folder = Path(sys.argv[1])
    with together(folder, 1):
        found, done = pairs_of(folder / "second", folder / "weights.safetensors")
        np.savez(folder / "pairs.npz", **found)
        (folder / "done.json").write_text(json.dumps(done))


if __name__ == "__main__":
    main()
