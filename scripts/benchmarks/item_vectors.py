"""Collaborative item vectors: what they cost, and whether they rank held-out items better than popularity does.

    python scripts/benchmarks/item_vectors.py --dataset runs/NAME/dataset --json FILE [--encoders lightgcn,ultragcn]

Recall@20 on the validation part over the full catalogue without the items of the training part. ``lightgcn`` and
``ultragcn`` rank by the dot product of the user's vector and the item's, ``fastrp`` by the mean of the history's unit
vectors, ``popularity`` by the number of training interactions.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from genrec import Dataset, Histories
from genrec.artifacts import result_file, write_result
from genrec.config import parse_settings
from genrec.features import encoder_class
from genrec.features.base import unit_rows
from genrec.features.collaborative import training_edges
from genrec.features.fastrp import FastRPEncoder, FastRPSettings
from genrec.features.lightgcn import LightGCNSettings, train_lightgcn
from genrec.features.ultragcn import UltraGCNSettings, train_ultragcn

TOP_K, USERS = 20, 1024


def main() -> None:
    """Measure the encoders asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--encoders", default="popularity,fastrp,ultragcn,lightgcn")
    parser.add_argument("--settings", default="{}", help="JSON, settings of the encoder where only one is asked for")
    parser.add_argument("--json", type=result_file)
    arguments = parser.parse_args()
    dataset = Dataset.load(arguments.dataset)
    edges = training_edges(dataset, "benchmark")
    results = []
    for name in arguments.encoders.split(","):
        start, own = time.perf_counter(), time.process_time()
        users, items = vectors(name, dataset, edges, json.loads(arguments.settings))
        spent = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - own}
        spent = {key: round(value, 1) for key, value in spent.items()}
        results.append({"encoder": name, **spent, "recall@20": round(recall(users, items, dataset), 4)})
        print(json.dumps(results[-1]))
    if arguments.json:
        write_result(arguments.json, {"results": results})


def vectors(name: str, dataset: Dataset, edges: np.ndarray, given: dict[str, object]) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of users ``[U, D]`` and items ``[N, D]`` whose dot product ranks."""
    if name == "popularity":
        return np.ones((dataset.num_users, 1)), dataset.train_popularity()[:, None].astype(np.float64)
    settings = parse_settings(encoder_class(name).Settings, given, where="--settings")
    shape = (dataset.num_users, dataset.num_items)
    if isinstance(settings, FastRPSettings):
        items = unit_rows(FastRPEncoder(settings).fit(dataset).values)
        users = np.zeros((shape[0], items.shape[1]))
        np.add.at(users, edges[0], items[edges[1]])
        return users, items
    if isinstance(settings, UltraGCNSettings):
        found = train_ultragcn(edges, *shape, settings)
        return found[0].numpy(), found[1].numpy()
    if isinstance(settings, LightGCNSettings):
        both = train_lightgcn(edges, *shape, settings).numpy()
        return both[: shape[0]], both[shape[0] :]
    raise SystemExit(f"{name} has no vectors of users")


def recall(users: np.ndarray, items: np.ndarray, dataset: Dataset) -> float:
    """Share of the validation items among the first 20, users weighted equally."""
    histories, targets = dataset.evaluation("validation")
    found = [hits(users, items, histories, targets, start) for start in range(0, len(histories), USERS)]
    return float(np.concatenate(found).mean())


def hits(users: np.ndarray, items: np.ndarray, histories: Histories, targets: Histories, start: int) -> np.ndarray:
    """Recall of users ``start`` to ``start + USERS``, float64 ``[n]``."""
    rows = range(start, min(start + USERS, len(histories)))
    scores = users[histories.users[rows.start : rows.stop]] @ items.T
    for position, row in enumerate(rows):
        scores[position, histories[row]] = -np.inf
    best = np.argpartition(-scores, TOP_K, axis=1)[:, :TOP_K]
    return np.array([np.isin(targets[row], best[position]).mean() for position, row in enumerate(rows)])


if __name__ == "__main__":
    main()
