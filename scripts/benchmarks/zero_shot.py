"""A recommender on catalogues that it never saw: trained on some domains, measured on others, from titles alone.

    python scripts/benchmarks/zero_shot.py --train DIR [DIR ...] --test DIR [DIR ...] --out runs/zero-shot

Each ``DIR`` holds ``interactions.parquet`` and ``items.parquet`` of one domain. The domains of ``--train`` are joined
(their ids get the domain's name, their items keep the title) and ``configs/recgpt.yaml`` learns from them; every domain
of ``--test`` is then recommended as it is by the model's own encoder and tokenizer: by its codes, by what their scores
are above those of other histories (:class:`CentredScores`), by its neighborhoods (``recommender.item_loss``), and by
both, with ``--item-weights`` chosen on validation of the training domains. Next to it are what knows no more: lists
drawn evenly (the expected recall, in closed form), and the items whose vectors are nearest to that of the last item, as
they are and whitened. What learned from the new domain itself (popularity, item-kNN) is there to show how far there is
to go. ``--set`` changes the recipe. The same command again continues after an interruption; ``zero-shot.json`` and
``zero-shot.md`` are written.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import torch
from scipy import sparse

from genrec import DataConfig, Dataset, DecodingConfig, EvaluationConfig, Histories, load_recipe, make_dataset
from genrec.artifacts import open_work_folder, work_folder, write_file, write_json
from genrec.data import pad_histories, read_parquet
from genrec.decoding import generate_lists
from genrec.evaluation import Baseline, Protocol, fit_baseline, score_lists
from genrec.models.families.recgpt import RecGPT
from genrec.pipeline.catalogue import on_catalogue
from genrec.pipeline.evaluate import protocol_of
from genrec.pipeline.model_folder import open_model
from genrec.pipeline.run import run_recipe

RECIPE = Path(__file__).resolve().parents[2] / "configs" / "recgpt.yaml"
TITLES = "features.columns=[title]"
KS = (5, 10)
METRICS = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")


class NearestItems(Baseline):
    """Items whose vectors are nearest, by cosine, to that of the last item of a history.

    Args:
        vectors: float32 ``[N, D]``.
        name: Of the row.
    """

    def __init__(self, vectors: np.ndarray, name: str = "nearest to the last item") -> None:
        self.num_items, self.name = len(vectors), name
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        self.vectors = vectors / np.where(length > 0, length, 1)

    @property
    def settings(self) -> dict[str, Any]:
        """There are none."""
        return {}

    def rank(self, histories: Histories, excluded: sparse.csr_array, top_k: int) -> tuple[np.ndarray, np.ndarray]:
        """Lists for a block of rows; see :meth:`Baseline.rank`."""
        last = histories.items[histories.offsets[1:] - 1]
        scores = self.vectors[last] @ self.vectors.T
        return best_items(scores, excluded, top_k)


class CentredScores(Baseline):
    """A model's log-probabilities less their mean over histories, so that no item is first because its codes are usual.

    What is usual in the domains of training is in every score, and says nothing of another catalogue. The mean is over
    histories of the new domain; targets play no part in it.

    Args:
        model: Parallel heads, on the catalogue.
        histories: Of the new domain; at most ``sample`` rows of them are read for the mean.
        sample: How many.
    """

    name = "recgpt, by its codes, less the mean over histories"

    def __init__(self, model: RecGPT, histories: Histories, sample: int = 2000) -> None:
        self.model, self.num_items = model, len(model.item_codes)
        rows = np.random.default_rng(0).permutation(len(histories))[:sample]
        self.mean = self.log_probabilities(histories.select(rows)).mean(axis=0)

    @property
    def settings(self) -> dict[str, Any]:
        """There are none."""
        return {}

    @torch.no_grad()
    def log_probabilities(self, histories: Histories) -> np.ndarray:
        """log p of every item after every history, float32 ``[R, N]``."""
        padded = pad_histories(histories, np.arange(len(histories)), self.model.max_history)
        items, lengths = map(torch.from_numpy, padded)
        levels = self.model.all_code_logits(self.model.encode(items, lengths))
        codes = self.model.item_codes.long().T
        total = torch.zeros(len(items), self.num_items)
        for logits, chosen in zip(levels, codes, strict=True):
            total += logits.log_softmax(dim=-1)[:, chosen]
        return total.numpy()

    def rank(self, histories: Histories, excluded: sparse.csr_array, top_k: int) -> tuple[np.ndarray, np.ndarray]:
        """Lists for a block of rows; see :meth:`Baseline.rank`."""
        scores = self.log_probabilities(histories) - self.mean
        return best_items(scores, excluded, top_k)


def best_items(scores: np.ndarray, excluded: sparse.csr_array, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best items of ``scores [R, N]`` without the excluded ones, and their scores; of equal ones the first."""
    scores[excluded.nonzero()] = -np.inf
    items = np.argsort(-scores, axis=1, kind="stable")[:, :top_k].astype(np.int32)
    return items, np.take_along_axis(scores, items, axis=1)


def main() -> None:
    """Train once, measure every new domain, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, nargs="+", required=True)
    parser.add_argument("--test", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=work_folder, required=True)
    parser.add_argument(
        "--item-weights", type=float, nargs="*", default=[8.0], help="of neighborhoods, in addition to codes"
    )
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="SECTION.KEY=VALUE")
    arguments = parser.parse_args()
    open_work_folder(arguments.out)
    joined = arguments.out / "joined"
    join_domains(arguments.train, joined)
    recipe = load_recipe(RECIPE, [f"data.path={joined}", TITLES, *arguments.changes])
    run_recipe(recipe, arguments.out / "run", until="model")
    rows = []
    for folder in arguments.test:
        model = arguments.out / "run" / "model"
        rows += measure_domain(model, folder, arguments.out / folder.name, arguments.item_weights)
        write_table(arguments.out, rows)


def join_domains(folders: Sequence[Path], out: Path) -> None:
    """Write the tables of several domains as one, ids with the domain's name before them, items with their title."""
    if (out / "interactions.parquet").is_file():
        return
    out.mkdir(parents=True, exist_ok=True)
    named = [(folder.name, folder) for folder in folders]
    items = [
        read_parquet(folder / "items.parquet").select(prefixed(name, "item_id"), "title") for name, folder in named
    ]
    interactions = [
        read_parquet(folder / "interactions.parquet").with_columns(prefixed(name, "user_id"), prefixed(name, "item_id"))
        for name, folder in named
    ]
    pl.concat(items).write_parquet(out / "items.parquet")
    with write_file(out / "interactions.parquet") as path:
        pl.concat(interactions).write_parquet(path)


def prefixed(domain: str, column: str) -> pl.Expr:
    """A column of ids as ``DOMAIN:ID``."""
    return (pl.lit(f"{domain}:") + pl.col(column).cast(pl.String)).alias(column)


def measure_domain(model: Path, domain: Path, out: Path, item_weights: Sequence[float]) -> list[dict[str, Any]]:
    """Measure the model and what is next to it on the test part of one new domain.

    Args:
        model: The model folder.
        domain: Its tables.
        out: Where the prepared data set is kept.
        item_weights: Of neighborhoods next to codes, where the model has any.

    Returns:
        A row per system.
    """
    prepared = (out / "manifest.json").is_file()
    dataset = Dataset.load(out) if prepared else make_dataset(*tables_of(domain), DataConfig(k_core=5), out)
    trained = on_catalogue(open_model(model), dataset)
    recommender = cast(RecGPT, trained.model)
    protocol = protocol_of(model, trained, dataset, "test", trained.decoding)
    histories, targets = dataset.evaluation("test")
    rows = []
    for system, decoding in ways_of(recommender, trained.decoding, item_weights).items():
        lists, _ = generate_lists(recommender, histories, decoding=decoding, top_k=max(KS), progress=True)
        rows.append(measured(system, lists, dataset, protocol))
    features = recommender.get_buffer("items.features")
    beside: list[Baseline] = [CentredScores(recommender, histories), NearestItems(features.numpy())]
    if recommender.neighborhoods is not None:
        whitened = recommender.neighborhoods.vectors(features)
        beside.append(NearestItems(whitened.numpy(), "nearest to the last item, whitened"))
    beside += [fit_baseline(name, dataset) for name in ("popularity", "itemknn")]
    for baseline in beside:
        found, _ = baseline.recommend(histories, top_k=max(KS))
        rows.append(measured(baseline.name, found, dataset, protocol))
    rows.append({"system": "drawn evenly (expected)", **expected_of_chance(histories, dataset.num_items)})
    return [{"domain": domain.name, "users": len(targets), **row} for row in rows]


def ways_of(model: RecGPT, decoding: DecodingConfig, item_weights: Sequence[float]) -> dict[str, DecodingConfig]:
    """How the model's lists are made, by what the table calls it."""
    ways: dict[str, dict[str, Any]] = {"recgpt, by its codes": {"mode": "beam", "item_weight": 0.0}}
    if model.neighborhoods is not None:
        ways["recgpt, by its neighborhoods"] = {"mode": "items"}
        for weight in item_weights:
            ways[f"recgpt, codes + {weight:g} x neighborhoods"] = {"mode": "beam", "item_weight": weight}
    return {system: decoding.model_copy(update=changes) for system, changes in ways.items()}


def tables_of(domain: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Interactions and items of a domain."""
    return read_parquet(domain / "interactions.parquet"), read_parquet(domain / "items.parquet")


def measured(system: str, lists: np.ndarray, dataset: Dataset, protocol: Protocol) -> dict[str, Any]:
    """One row of the table."""
    result = score_lists(system, lists, dataset, protocol, EvaluationConfig(ks=KS, bootstrap_samples=0))
    return {"system": system, **{name: result.evaluation.metrics[name] for name in METRICS}}


def expected_of_chance(histories: Histories, num_items: int) -> dict[str, float]:
    """Expected metrics of lists drawn evenly from the items that a user has not seen."""
    share = float((1 / (num_items - histories.lengths)).mean())
    gains = 1 / np.log2(np.arange(2, max(KS) + 2))
    return {f"recall@{k}": k * share for k in KS} | {f"ndcg@{k}": float(gains[:k].sum()) * share for k in KS}


def write_table(out: Path, rows: list[dict[str, Any]]) -> None:
    """Write ``zero-shot.json`` and ``zero-shot.md``."""
    write_json(out / "zero-shot.json", rows)
    lines = [f"| domain | system | {' | '.join(METRICS)} |", "|---|---|" + "---:|" * len(METRICS)]
    for row in rows:
        cells = [f"{row[name]:.4f}" for name in METRICS]
        lines.append(f"| {row['domain']} | {row['system']} | {' | '.join(cells)} |")
    with write_file(out / "zero-shot.md") as path:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
