"""A data set in which some items are new: drawn items stay only where they are held out, so that nothing learns them.

    python scripts/benchmarks/cold_split.py --dataset runs/x/dataset --share 0.1 --seed 0 --out cold
    genrec embed --dataset cold/dataset --out cold/features --set encoder=sentence \\
      --set model=minilm --set missing_text=zero
    python scripts/benchmarks/families.py --dataset cold/dataset --features cold/features --out cold/families

``--dataset`` is a prepared leave-one-out split. Of every user the last two events stay; of the events before them,
those of a drawn item go. So each drawn item that is the target of somebody is a cold one, and the item before a cold
target is what it was. ``out/dataset`` is prepared from what is left, with nothing filtered.
"""

import argparse
from pathlib import Path
from typing import Final, Literal

import numpy as np
import polars as pl

from genrec import DataConfig, make_dataset
from genrec.artifacts import open_work_folder, work_folder
from genrec.data import read_parquet

PARTS: Final[tuple[Literal["validation", "test"], ...]] = ("validation", "test")


def main() -> None:
    """Write the data set and tell what is new in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--share", type=float, default=0.1, help="of the items")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=work_folder, required=True)
    arguments = parser.parse_args()
    open_work_folder(arguments.out)
    items = read_parquet(arguments.dataset / "items.parquet")
    events = read_parquet(arguments.dataset / "interactions.parquet")
    drawn = np.random.default_rng(arguments.seed).random(items.height) < arguments.share
    kept = without_earlier(events, items["item_id"].filter(drawn))
    dataset = make_dataset(kept, items, DataConfig(k_core=0), arguments.out / "dataset")
    popularity = dataset.train_popularity()
    for name, (_, targets) in {part: dataset.evaluation(part) for part in PARTS}.items():
        cold = int((popularity[targets.items[targets.offsets[:-1]]] == 0).sum())
        print(f"{name}: {cold:,} of {len(targets):,} users have a cold target")


def without_earlier(events: pl.DataFrame, new: pl.Series) -> pl.DataFrame:
    """The events without those of ``new`` items that are before a user's last two; ordered by user and position."""
    place = pl.int_range(pl.len()).over("user_id")
    held_out = place >= pl.len().over("user_id") - 2
    return events.filter(held_out | ~pl.col("item_id").is_in(new.implode()))


if __name__ == "__main__":
    main()
