"""What alignment to ratings changed, on interactions that nothing was learned from.

    python scripts/benchmarks/preferences.py --dataset runs/quickstart/dataset runs/quickstart/model runs/aligned-42 ...

For a leave-one-out data set with a rating column: test recall@10 of the held-out items that their users rated well (4
and more), in the middle, and badly (2 and less); and of the users who rated one of their two held-out items well and
the other badly, the share for whom the model finds the well-rated one more probable.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np

from genrec import Dataset
from genrec.alignment import Preferences, feedback_column, score_candidates
from genrec.decoding import generate_lists
from genrec.models import GenerativeRecommender
from genrec.pipeline.model_folder import open_model

GOOD, BAD = 4.0, 2.0


class HeldOut(NamedTuple):
    """The rating of every test item, and the pairs of users with one good and one bad held-out item."""

    ratings: np.ndarray
    pairs: Preferences


def main() -> None:
    """Print one line per model folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--column", default="rating")
    arguments = parser.parse_args()
    dataset = Dataset.load(arguments.dataset)
    held_out = held_out_pairs(dataset, arguments.column)
    print(
        f"| model | recall@10 | well-rated | in the middle | badly rated | pairs in order, of {len(held_out.pairs)} |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    for folder in arguments.models:
        numbers = " | ".join(f"{value:.4f}" for value in measure(folder, dataset, held_out))
        print(f"| {folder.name} | {numbers} |", flush=True)


def held_out_pairs(dataset: Dataset, column: str) -> HeldOut:
    """Validation and test item of one user, where one was rated well and the other badly; the history ends before."""
    values, everything = feedback_column(dataset, column), dataset.full()
    last = everything.offsets[1:] - 1
    end = np.zeros(dataset.num_users, dtype=np.int64)
    end[everything.users] = last
    users = dataset.evaluation("test")[0].users
    place = end[users]
    test, before = values[place], values[place - 1]
    rows = np.flatnonzero(((test >= GOOD) & (before <= BAD)) | ((test <= BAD) & (before >= GOOD)))
    first, second = everything.items[place[rows]], everything.items[place[rows] - 1]
    well = test[rows] >= GOOD
    histories, _ = dataset.evaluation("validation")
    row_of = np.full(dataset.num_users, -1)
    row_of[histories.users] = np.arange(len(histories))
    pairs = Preferences(
        histories.select(row_of[users[rows]]),
        np.where(well, first, second).astype(np.int64),
        np.where(well, second, first).astype(np.int64)[:, None],
        np.ones(len(rows), dtype=np.float32),
        "held out",
    )
    return HeldOut(test, pairs)


def measure(folder: Path, dataset: Dataset, held_out: HeldOut) -> list[float]:
    """Recall@10 of all, well-rated, middling and badly rated test items, and the share of pairs in order."""
    trained = open_model(folder)
    trained.check_catalogue(dataset)
    if not isinstance(trained.model, GenerativeRecommender):
        raise TypeError(f"{folder} writes no semantic IDs")
    histories, targets = dataset.evaluation("test")
    lists, _ = generate_lists(trained.model, histories, decoding=trained.decoding, top_k=10)
    hits = (lists == targets.items[targets.offsets[:-1]][:, None]).any(axis=1)
    ratings, pairs = held_out
    scores = score_candidates(trained.model, pairs.histories, pairs.candidates, trained.decoding.item_weight)
    groups = (ratings >= GOOD, (ratings > BAD) & (ratings < GOOD), ratings <= BAD)
    return [
        float(hits.mean()),
        *(float(hits[group].mean()) for group in groups),
        float((scores[:, 0] > scores[:, 1]).mean()),
    ]


if __name__ == "__main__":
    main()
