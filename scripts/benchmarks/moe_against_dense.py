"""A model with sparse experts against the dense one of equal work per position: loss, step time, load of the experts.

    python scripts/benchmarks/moe_against_dense.py --run runs/beauty --out moe --json moe.json --seeds 1 2 3

Both are a ``decoder`` of one width on the same semantic IDs, users, order and number of updates; an expert's inner
width
is that of the dense layer over the experts of a position, so that both do the same work but for the router. Loss: nats
per validation item. Load: on validation users, after training. Step time: whole updates on the same batches, in rounds
that alternate between the two, so that whatever else the machine does strikes both; the median of each is told. What is
trained is not trained again.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genrec import Dataset, DecodingConfig, RecommenderConfig, TrainingConfig, load_recipe
from genrec.artifacts import MANIFEST, open_work_folder, read_json, result_file, work_folder, write_result
from genrec.data import pad_histories
from genrec.models import RecommenderModel, resolve_recommender
from genrec.pipeline.model_folder import EXPERTS_FILE, Companions
from genrec.pipeline.scaling import train_point
from genrec.pipeline.tokenize import tokenize_items
from genrec.pipeline.train import TrainingPlan, new_model
from genrec.training.batches import cut_windows, update_rows

TOKENIZER = Path(__file__).resolve().parents[2] / "tokenizers" / "rqkmeans.yaml"
KINDS = ("dense", "experts")
BATCH = 64


def plan_of(kind: str, seed: int, arguments: argparse.Namespace) -> TrainingPlan:
    """One of the two models and how it is trained."""
    inner = 4 * arguments.hidden_size
    settings: dict[str, Any] = {"feed_forward_size": inner}
    if kind == "experts":
        settings = {
            "feed_forward_size": inner // arguments.experts_per_token,
            "experts": arguments.experts,
            "experts_per_token": arguments.experts_per_token,
            **dict(change.split("=", 1) for change in arguments.changes),
        }
    shape = {"hidden_size": arguments.hidden_size, "num_layers": 2, "num_heads": 2, "dropout": 0.1, "max_history": 20}
    training = TrainingConfig(
        epochs=arguments.epochs,
        batch_size=BATCH,
        learning_rate=3e-3,
        eval_epochs=arguments.epochs,
        eval_users=arguments.validation_users,
        seed=seed,
    )
    recommender = RecommenderConfig.model_validate({"name": "decoder", **shape, **settings})
    return TrainingPlan(resolve_recommender(recommender), training, DecodingConfig(top_k=10, num_beams=20))


def train_both(dataset: Dataset, companions: Companions, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Train and measure both models with every seed."""
    points = []
    for seed in arguments.seeds:
        for kind in KINDS:
            folder = arguments.out / kind / f"seed-{seed}"
            point = train_point(plan_of(kind, seed, arguments), dataset, companions, folder)
            layers = read_json(folder / "model" / EXPERTS_FILE)["layers"] if kind == "experts" else []
            loads = {
                "max_load": max((layer["max_load"] for layer in layers), default=None),
                "idle": sum(layer["idle"] for layer in layers) if layers else None,
            }
            points.append({"kind": kind, "seed": seed, **point, **loads})
            print(json.dumps(points[-1]), flush=True)
    return points


def time_steps(dataset: Dataset, companions: Companions, arguments: argparse.Namespace) -> dict[str, float]:
    """Median milliseconds of an update of each model."""
    seed = arguments.seeds[0]
    models = {kind: new_model(plan_of(kind, seed, arguments), dataset, companions).train() for kind in KINDS}
    optimizers = {kind: torch.optim.AdamW(model.parameters(), lr=1e-4) for kind, model in models.items()}
    windows = cut_windows(dataset.train(), models["dense"].max_history + 1)
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number, rows in enumerate(update_rows(windows.lengths, BATCH, seed, 0)[: arguments.rounds]):
        items, lengths = map(torch.from_numpy, pad_histories(windows, rows, models["dense"].max_history + 1))
        for kind in KINDS if number % 2 else reversed(KINDS):
            began = time.perf_counter()
            update(models[kind], optimizers[kind], items, lengths)
            times[kind].append(1000 * (time.perf_counter() - began))
    return {kind: statistics.median(values) for kind, values in times.items()}


def update(model: RecommenderModel, optimizer: torch.optim.Optimizer, items: Tensor, lengths: Tensor) -> None:
    """Forward, backward, clipping and the optimizer's step."""
    loss = model(items, lengths).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def table(points: list[dict[str, Any]], times: dict[str, float]) -> str:
    """Mean and standard deviation over the seeds, as Markdown."""
    lines = [
        "| model | parameters | active | validation loss | Recall@10 | ms per step | max/mean load | idle |",
        "|" + "---|" * 8,
    ]
    for kind in KINDS:
        mine = [point for point in points if point["kind"] == kind]
        cells = [f"{mine[0]['parameters']:,}", f"{mine[0]['active_parameters']:,}"]
        cells += [spread([point["loss"] for point in mine], 3), spread([point["recall@10"] for point in mine], 4)]
        cells += [f"{times[kind]:.0f}"]
        dense = mine[0]["max_load"] is None
        cells += ["", ""] if dense else [spread([point["max_load"] for point in mine], 2), str(sum_idle(mine))]
        lines.append(f"| {' | '.join([kind, *cells])} |")
    return "\n".join(lines)


def sum_idle(points: list[dict[str, Any]]) -> int:
    """Experts without a position, over all seeds."""
    return sum(point["idle"] for point in points)


def spread(values: list[float], digits: int) -> str:
    """Mean and standard deviation."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def main() -> None:
    """Train, measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="a folder with dataset/ and features/")
    parser.add_argument("--out", type=work_folder, required=True, help="folder of the models")
    parser.add_argument("--json", type=result_file, required=True, help="where the figures are written")
    parser.add_argument("--hidden-size", type=int, default=64)
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--experts-per-token", type=int, default=2)
    parser.add_argument(
        "--set", dest="changes", action="append", default=[], metavar="KEY=VALUE", help="settings of the experts"
    )
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--validation-users", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=60, help="timed updates of each model")
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER, help="a recipe of semantic IDs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    arguments = parser.parse_args()
    open_work_folder(arguments.out)
    dataset = Dataset.load(arguments.run / "dataset", verify=True)
    companions = Companions(arguments.out / "tokenizer", arguments.run / "features")
    if not (arguments.out / "tokenizer" / MANIFEST).is_file():
        recipe = load_recipe(arguments.tokenizer).tokenizer
        tokenize_items(recipe, dataset, arguments.run / "features", arguments.out / "tokenizer")
    times = time_steps(dataset, companions, arguments)
    points = train_both(dataset, companions, arguments)
    figures = {
        "command": " ".join(["python", *sys.argv]),
        "machine": {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "processor": platform.machine()},
        "milliseconds_per_step": times,
        "step_time_ratio": times["experts"] / times["dense"],
        "points": points,
    }
    write_result(arguments.json, figures)
    print(table(points, times))
    print(f"step time {figures['step_time_ratio']:.2f} times that of the dense model")


if __name__ == "__main__":
    main()
