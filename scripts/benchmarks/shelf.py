"""Every item tokenizer with the same small recommender after it: what the choice is worth.

    python scripts/benchmarks/shelf.py --dataset runs/x/dataset --features runs/x/features --out shelf
    python scripts/benchmarks/shelf.py ... rqkmeans rqvae rqkmeans:collisions=bucket --seeds 1 2 3 --max-minutes 8

Each recipe of ``tokenizers/`` (or those named; ``NAME:KEY=VALUE,...`` changes settings) is fitted, one ``decoder`` of
the same size is trained on its semantic IDs for the same number of epochs, the weights of the best validation are kept,
and test lists are measured once. A recipe with a section ``features`` gets those instead of ``--features``. The seed
sets tokenizer and training alike. What is done is skipped, so the same command continues after an interruption, and
more recipes or seeds can be added later. After every run ``shelf.json`` and ``shelf.md`` are written anew; a recipe
that cannot be used is there with the reason, and is tried again the next time.
"""

import argparse
import json
import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from genrec import (
    Dataset,
    DecodingConfig,
    EvaluationConfig,
    GenrecError,
    InterruptedRun,
    RecommenderConfig,
    TokenizerConfig,
    TrainingConfig,
    load_recipe,
)
from genrec.artifacts import (
    MANIFEST,
    fingerprint,
    open_work_folder,
    read_json,
    read_manifest,
    work_folder,
    write_file,
    write_json,
)
from genrec.config import read_yaml
from genrec.evaluation import metrics_json
from genrec.features import build_features
from genrec.models import resolve_recommender
from genrec.pipeline.evaluate import measure_model
from genrec.pipeline.model_folder import TRAINING_FILE, Companions
from genrec.pipeline.tokenize import tokenize_items
from genrec.pipeline.train import TrainingPlan, train_model
from genrec.tokenizers import tokenizer_class

RECIPES = Path(__file__).resolve().parents[2] / "tokenizers"
RESULT_FILE, FIT_FILE = "result.json", "fit.json"
METRICS = ("recall@10", "ndcg@10")
DECODER = {"hidden_size": 64, "num_layers": 2, "num_heads": 2, "dropout": 0.3, "max_history": 20}

logger = logging.getLogger("genrec.shelf")


@dataclass(frozen=True)
class Budget:
    """What every tokenizer gets alike.

    Attributes:
        max_minutes: Training stops after this long.
        epochs: And after so many epochs.
        validation_users: Users of a validation.
    """

    max_minutes: float
    epochs: int
    validation_users: int

    def plan(self, seed: int) -> TrainingPlan:
        """The recommender, how it is trained and how it writes lists."""
        training = TrainingConfig(
            epochs=self.epochs,
            max_minutes=self.max_minutes,
            batch_size=64,
            learning_rate=3e-3,
            scheduler="constant",
            eval_epochs=2,
            eval_users=self.validation_users,
            patience=4,
            seed=seed,
        )
        recommender = RecommenderConfig.model_validate({"name": "decoder", **DECODER})
        return TrainingPlan(resolve_recommender(recommender), training, DecodingConfig(top_k=10, num_beams=30))


@dataclass(frozen=True)
class Inputs:
    """Where data are read.

    Attributes:
        dataset: A prepared data set.
        features: A features folder of its items.
        out: Folder of all results.
    """

    dataset: Dataset
    features: Path
    out: Path

    def features_of(self, name: str) -> Path:
        """The folder of features that a recipe reads: those given, or those of its own section, made once."""
        path = recipe_path(name)
        if "features" not in read_yaml(path):
            return self.features
        config = load_recipe(path).features
        folder = self.out / "features" / fingerprint(config.model_dump(mode="json"))[:12]
        if not (folder / MANIFEST).is_file():
            build_features(config, self.dataset, folder)
        return folder


def main() -> None:
    """Run what is missing and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", help="names in tokenizers/, with settings after a colon; all by default")
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--out", type=work_folder, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--max-minutes", type=float, default=8.0, help="of training, per run")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--validation-users", type=int, default=1000)
    arguments = parser.parse_args()
    open_work_folder(arguments.out)
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO)
    inputs = Inputs(Dataset.load(arguments.dataset, verify=True), arguments.features, arguments.out)
    budget = Budget(arguments.max_minutes, arguments.epochs, arguments.validation_users)
    names = arguments.recipes or sorted(path.stem for path in RECIPES.glob("*.yaml"))
    for seed in arguments.seeds:
        for name in names:
            run_once(inputs, name, seed, budget)
            write_tables(inputs.out)


def run_once(inputs: Inputs, name: str, seed: int, budget: Budget) -> None:
    """Fit, train and measure one recipe with one seed, unless that is done; the result is written to its folder.

    Args:
        inputs: Data.
        name: A recipe's name, with settings after a colon.
        seed: Of tokenizer and training.
        budget: Of training.
    """
    folder = inputs.out / name.replace(":", "-").replace("=", "-").replace(",", "-") / f"seed-{seed}"
    if (folder / RESULT_FILE).is_file() and "refused" not in read_json(folder / RESULT_FILE):
        logger.info(f"{name}, seed {seed}: done before")
        return
    logger.info(f"{name}, seed {seed}")
    result: dict[str, Any] = {"recipe": name, "seed": seed, "max_minutes": budget.max_minutes}
    try:
        result |= fit(inputs, name, seed, folder)
        result |= train(inputs, inputs.features_of(name), budget.plan(seed), folder)
    except InterruptedRun:
        raise
    except GenrecError as error:
        logger.warning(f"{name}, seed {seed}: {error.what}")
        result["refused"] = error.what
    write_json(folder / RESULT_FILE, result)


def fit(inputs: Inputs, name: str, seed: int, folder: Path) -> dict[str, Any]:
    """Fit the tokenizer, unless its folder is there; what the report says, and the seconds that it took."""
    tokenizer, features = folder / "tokenizer", inputs.features_of(name)
    if not (folder / FIT_FILE).is_file():
        start = time.perf_counter()
        tokenize_items(tokenizer_recipe(name, seed), inputs.dataset, features, tokenizer)
        write_json(folder / FIT_FILE, {"fit_seconds": time.perf_counter() - start})
    quality = read_json(tokenizer / "quality.json")
    return read_json(folder / FIT_FILE) | {
        "level_sizes": read_json(tokenizer / "index.json")["level_sizes"],
        "collision_rate": quality["collisions"]["before"]["collision_rate"],
        "finds_by_vectors": (quality["likeness"]["vectors"] or {}).get("recall"),
        "finds_by_users": (quality["likeness"]["users"] or {}).get("recall"),
    }


def train(inputs: Inputs, features: Path, plan: TrainingPlan, folder: Path) -> dict[str, Any]:
    """Train the recommender, unless its folder is there, and measure it on the test part."""
    model = folder / "model"
    if not (model / MANIFEST).is_file():
        train_model(plan, inputs.dataset, Companions(folder / "tokenizer", features), model)
    training = read_json(model / TRAINING_FILE)
    measured = measure_model(model, inputs.dataset, "test", EvaluationConfig(ks=(10,), bootstrap_samples=0), None)
    return {
        "train_seconds": training["seconds"],
        "epochs": training["epochs"],
        "stopped": training["stopped"],
        "validation_ndcg@10": training["best_metric"],
        "parameters": read_manifest(model).counts["parameters"],
        **{name: metrics_json(measured)["metrics"][name] for name in METRICS},
    }


def tokenizer_recipe(name: str, seed: int) -> TokenizerConfig:
    """The tokenizer section of a recipe, with this seed and the settings that its name carries."""
    settings = re.split(r",(?![^\[]*\])", name.partition(":")[2])
    changes = [f"tokenizer.{setting}" for setting in settings if setting]
    config = load_recipe(recipe_path(name), changes).tokenizer
    seeded = {"seed": seed} if "seed" in tokenizer_class(config.name).Settings.model_fields else {}
    return TokenizerConfig.model_validate({"name": config.name, **config.settings, **seeded})


def recipe_path(name: str) -> Path:
    """The file of a recipe that may carry settings in its name."""
    return RECIPES / f"{name.partition(':')[0]}.yaml"


def write_tables(out: Path) -> None:
    """Gather all results below a folder into ``shelf.json`` and ``shelf.md``, best first."""
    results = [json.loads(path.read_text()) for path in sorted(out.glob(f"*/seed-*/{RESULT_FILE}"))]
    write_json(out / "shelf.json", results)
    names = dict.fromkeys(result["recipe"] for result in results)
    groups = [[result for result in results if result["recipe"] == name] for name in names]
    measured = [[one for one in group if "refused" not in one] for group in groups]
    measured = sorted(filter(None, measured), key=lambda group: -mean(one["ndcg@10"] for one in group))
    head = "| tokenizer | levels | R@10 | N@10 | collisions | finds by users | fit | training | epochs | seeds |"
    lines = [head, "|" + "---|" * 10, *(table_row(group) for group in measured)]
    refused = {result["recipe"]: result["refused"] for result in results if "refused" in result}
    lines += ["", *(f"- {name}: {reason}" for name, reason in refused.items())]
    with write_file(out / "shelf.md") as path:
        path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def spread(group: Sequence[dict[str, Any]], key: str) -> str:
    """Mean and, of several seeds, standard deviation."""
    values = [one[key] for one in group]
    return f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")


def average(group: Sequence[dict[str, Any]], key: str) -> float:
    """Mean over the seeds; what is missing counts as nothing."""
    return mean(one[key] or 0.0 for one in group)


def table_row(group: Sequence[dict[str, Any]]) -> str:
    """One line of the table: mean and standard deviation over the seeds of a recipe."""
    cells = [
        f"`{group[0]['recipe']}`",
        " ".join(map(str, group[0]["level_sizes"])),
        spread(group, "recall@10"),
        spread(group, "ndcg@10"),
        f"{average(group, 'collision_rate'):.1%}",
        f"{average(group, 'finds_by_users'):.1%}",
        f"{average(group, 'fit_seconds'):.0f} s",
        f"{average(group, 'train_seconds') / 60:.1f} min",
        f"{average(group, 'epochs'):.0f}",
        str(len(group)),
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
