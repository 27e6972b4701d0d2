"""Every recommender family on one data set, with the same time to train: accuracy, new items, speed, size.

    python scripts/benchmarks/families.py --dataset runs/x/dataset --features runs/x/features --out families
    python scripts/benchmarks/families.py ... seq2seq discrec --seeds 42 43 44        # adds to the same table

Each family is 64 wide with two layers and reads ``--history`` items; it trains for ``--minutes`` of this machine
(validations on 1,000 users included), the weights of the best validation are kept, and test lists of ten items are
measured once. What a family needs beyond ``--features`` (other semantic IDs, collaborative vectors, a trained SASRec)
is made by the recipe of its tokenizer, once for all seeds, and its time is reported separately. Users/s are those of
the test lists, with 20 beams where codes are searched. ``cold`` are the held-out items without a training interaction
(``cold_split.py`` makes a data set with many); the weight that ``setrec`` gives its semantic tokens is chosen on
validation, for all users and, for the cold column, for those with a cold target. What is done is skipped, so the same
command continues after an interruption. ``families.json`` and ``families.md`` are written after every run.
"""

import argparse
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from shelf import RESULT_FILE, Inputs, average, spread, tokenizer_recipe

from genrec import Dataset, DecodingConfig, EvaluationConfig, RecommenderConfig, TrainingConfig
from genrec.artifacts import MANIFEST, open_work_folder, read_json, work_folder, write_file, write_json
from genrec.decoding import generate_lists
from genrec.evaluation import Result, score_lists
from genrec.models import resolve_recommender
from genrec.models.families.setrec import SETRec
from genrec.pipeline.evaluate import protocol_of
from genrec.pipeline.model_folder import TRAINING_FILE, Companions, TrainedModel, open_model
from genrec.pipeline.tokenize import tokenize_items
from genrec.pipeline.train import TrainingPlan, train_model
from genrec.training.validation import DecodingValidation

SIZES = {"hidden_size": 64, "num_layers": 2, "num_heads": 2}
T5 = {"head_size": 32, "feed_forward_size": 256, "dropout": 0.1}
VALIDATION_USERS = 1000
METRICS = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")

logger = logging.getLogger("genrec.families")


@dataclass(frozen=True)
class Entry:
    """One row of the table.

    Attributes:
        family: ``recommender.name``.
        tokenizer: A recipe of ``tokenizers/``, with settings after a colon; None where no semantic IDs are read.
        settings: Of the recommender, besides :data:`SIZES`.
        decoding: How its lists are written.
        learning_rate: Of its training.
        sasrec: Whether it builds on the trained ``sasrec`` of the same seed.
    """

    family: str
    tokenizer: str | None = "rqkmeans"
    settings: dict[str, Any] = field(default_factory=dict)
    decoding: dict[str, Any] = field(default_factory=dict)
    learning_rate: float = 2e-3
    sasrec: bool = False


ENTRIES = {
    "sasrec": Entry("sasrec", None, {"use_features": True, "negatives": 1024}),
    "depth": Entry("depth", settings={"item_loss": 1.0, "item_negatives": 1024}, decoding={"item_weight": 8.0}),
    "depth, codes only": Entry("depth"),
    "parallel": Entry("parallel", "opq"),
    "decoder": Entry("decoder"),
    "seq2seq": Entry("seq2seq", settings=T5),
    "discrec": Entry("discrec", settings=T5 | {"branch_feed_forward_size": 256}),
    "colarec": Entry("colarec", "gid", T5),
    "p5": Entry("p5", "cid", T5),
    "recgpt": Entry("recgpt", "fsq:grid=[8,8,8],collisions=bucket,allow_collapse=true", {"dropout": 0.1}),
    "setrec": Entry("setrec", "set", {"negatives": 1024}),
    "setrec on T5": Entry("setrec", "set", {"negatives": 1024, "backbone": "t5", "dropout": 0.1}),
    "llm": Entry("llm", settings={"vocabulary_size": 2048, "dropout": 0.1, "text_rows": 4, "text_length": 24}),
    "allmrec, first stage": Entry("allmrec", None, {"stage": "align"}, sasrec=True),
}


def main() -> None:
    """Run what is missing and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("entries", nargs="*", help=f"all by default: {', '.join(ENTRIES)}")
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--out", type=work_folder, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--minutes", type=float, default=4.0, help="of training, per run")
    parser.add_argument("--history", type=int, default=20, help="items that are read")
    arguments = parser.parse_args()
    open_work_folder(arguments.out)
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO)
    inputs = Inputs(Dataset.load(arguments.dataset, verify=True), arguments.features, arguments.out)
    unknown = set(arguments.entries) - set(ENTRIES)
    if unknown:
        parser.error(f"there is no {sorted(unknown)[0]!r}; there are {', '.join(ENTRIES)}")
    for seed in arguments.seeds:
        for name in arguments.entries or ENTRIES:
            folder = arguments.out / folder_name(name) / f"seed-{seed}"
            if not (folder / RESULT_FILE).is_file():
                logger.info(f"{name}, seed {seed}")
                plan = plan_of(inputs, ENTRIES[name], seed, arguments.minutes, arguments.history)
                result = {"entry": name, "seed": seed, "minutes": arguments.minutes, "history": arguments.history}
                result |= run_entry(inputs, ENTRIES[name], folder, plan)
                write_json(folder / RESULT_FILE, result)
            write_tables(arguments.out)


def folder_name(name: str) -> str:
    """The folder of an entry."""
    return name.replace(", ", "-").replace(" ", "-")


def plan_of(inputs: Inputs, entry: Entry, seed: int, minutes: float, history: int) -> TrainingPlan:
    """The recommender, how it is trained and how it writes lists."""
    built_on = {"collaborative": str(inputs.out / "sasrec" / f"seed-{seed}" / "model")} if entry.sasrec else {}
    training = TrainingConfig(
        epochs=1000,
        max_minutes=minutes,
        batch_size=64,
        learning_rate=entry.learning_rate,
        scheduler="constant",
        eval_epochs=2,
        eval_users=VALIDATION_USERS,
        patience=1000,
        seed=seed,
    )
    sizes = {**SIZES, "max_history": history}
    recommender = RecommenderConfig.model_validate({"name": entry.family, **sizes, **entry.settings, **built_on})
    return TrainingPlan(
        resolve_recommender(recommender), training, DecodingConfig(top_k=10, num_beams=20, **entry.decoding)
    )


def run_entry(inputs: Inputs, entry: Entry, folder: Path, plan: TrainingPlan) -> dict[str, Any]:
    """Make what the family needs, train it and measure it; what is done is not done again."""
    features = inputs.features_of(entry.tokenizer) if entry.tokenizer else inputs.features
    tokenizer = inputs.out / "tokenizers" / folder_name(entry.tokenizer or "").partition(":")[0]
    if entry.tokenizer and not (tokenizer / MANIFEST).is_file():
        tokenize_items(tokenizer_recipe(entry.tokenizer, 42), inputs.dataset, features, tokenizer)
    model = folder / "model"
    if not (model / MANIFEST).is_file():
        train_model(plan, inputs.dataset, Companions(tokenizer if entry.tokenizer else None, features), model)
    training = read_json(model / TRAINING_FILE)
    validating = sum(record["validation_seconds"] for record in training["history"])
    return {
        "identifiers": entry.tokenizer,
        "epochs": training["epochs"],
        "seconds_per_epoch": (training["seconds"] - validating) / training["epochs"],
        "train_seconds": training["seconds"],
        "validation_ndcg@10": training["best_metric"],
        **measured(model, inputs.dataset),
    }


def measured(folder: Path, dataset: Dataset) -> dict[str, Any]:
    """What a model's test lists are worth and how fast they come."""
    trained = open_model(folder)
    model = trained.model
    popularity = dataset.train_popularity()
    chosen: dict[str, Any] = {}
    if isinstance(model, SETRec):
        chosen["semantic_weight"] = weight_on_validation(model, trained.decoding, dataset, popularity >= 0)
    result, speed = measured_lists(trained, dataset)
    cold = result.slices["item_popularity"].get("cold")
    if isinstance(model, SETRec) and cold:
        chosen["cold_recall@10 at this weight"] = cold.metrics["recall@10"]
        chosen["cold_semantic_weight"] = weight_on_validation(model, trained.decoding, dataset, popularity == 0)
        cold = measured_lists(trained, dataset)[0].slices["item_popularity"]["cold"]
    return {
        **{name: result.evaluation.metrics[name] for name in METRICS},
        "cold_users": cold.users if cold else 0,
        "cold_recall@10": cold.metrics["recall@10"] if cold else None,
        "users_per_second": speed,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **chosen,
    }


def measured_lists(trained: TrainedModel, dataset: Dataset) -> tuple[Result, float]:
    """The test lists of a model against what was held out, and how many users got theirs per second."""
    histories, _ = dataset.evaluation("test")
    start = time.perf_counter()
    lists, _ = generate_lists(trained.model, histories, decoding=trained.decoding, top_k=10, progress=True)
    seconds = time.perf_counter() - start
    protocol = protocol_of(trained.folder, trained, dataset, "test", trained.decoding)
    config = EvaluationConfig(ks=(5, 10), bootstrap_samples=0)
    return score_lists(trained.model.config.family, lists, dataset, protocol, config), len(lists) / seconds


def weight_on_validation(model: SETRec, decoding: DecodingConfig, dataset: Dataset, wanted: np.ndarray) -> float:
    """Give the semantic tokens the weight of the best recall@10 for users drawn from the validation part.

    Args:
        model: In eval mode.
        decoding: How lists are written.
        dataset: The data.
        wanted: bool ``[N]``; only users count whose target is True here. Where no one has one, the weight stays.
    """
    histories, targets = dataset.evaluation("validation")
    rows = np.random.default_rng(0).permutation(len(histories))
    rows = np.array([row for row in rows if wanted[targets[row][0]]][:VALIDATION_USERS])
    if not len(rows):
        return model.semantic_weight
    validation = DecodingValidation(histories.select(rows), targets.select(rows), decoding, dataset.num_items, [10])
    return model.choose_semantic_weight(lambda: validation(model)["recall@10"])[0]


def write_tables(out: Path) -> None:
    """Gather all results below a folder into ``families.json`` and ``families.md``, best first."""
    results = [json.loads(path.read_text()) for path in sorted(out.glob(f"*/seed-*/{RESULT_FILE}"))]
    write_json(out / "families.json", results)
    names = dict.fromkeys(result["entry"] for result in results)
    groups = [[result for result in results if result["entry"] == name] for name in names]
    groups.sort(key=lambda group: -mean(one["ndcg@10"] for one in group))
    accuracy = "| family | semantic IDs | R@5 | N@5 | R@10 | N@10 | cold R@10 |"
    head = f"{accuracy} epochs | s per epoch | users/s | parameters | seeds |"
    lines = [head, "|---|---|" + "---:|" * 10, *map(table_row, groups)]
    with write_file(out / "families.md") as path:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def table_row(group: Sequence[dict[str, Any]]) -> str:
    """One line of the table: mean and standard deviation over the seeds of an entry."""
    cells = [
        f"`{group[0]['entry']}`",
        f"`{group[0]['identifiers'].partition(':')[0]}`" if group[0]["identifiers"] else "-",
        *(spread(group, name) for name in METRICS),
        spread(group, "cold_recall@10") if group[0]["cold_users"] else "-",
        f"{average(group, 'epochs'):.0f}",
        f"{average(group, 'seconds_per_epoch'):.0f}",
        f"{average(group, 'users_per_second'):,.0f}",
        f"{average(group, 'parameters'):,.0f}",
        str(len(group)),
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
