"""A small data set for tests: 60 users with a favorite genre, 40 items in four genres."""

from pathlib import Path

import numpy as np
import polars as pl

from genrec.config import DataConfig, FeaturesConfig
from genrec.data import Dataset, make_dataset
from genrec.features import ItemFeatures, build_encoder

GENRES = ("space adventure", "garden cooking", "river crime", "winter romance")
NOUNS = ("Lantern", "Harbor", "Orchard", "Comet", "Violin", "Falcon", "Mirror", "Bridge", "Kettle", "Compass")
NUM_USERS, NUM_ITEMS = 60, len(GENRES) * len(NOUNS)


def tiny_items() -> pl.DataFrame:
    """40 items with item_id, title and genres: item i is of genre i // 10, which both texts name."""
    rows = [
        {"item_id": f"i{10 * g + n:02d}", "title": f"{noun} of {genre.split()[0]}", "genres": genre}
        for g, genre in enumerate(GENRES)
        for n, noun in enumerate(NOUNS)
    ]
    return pl.DataFrame(rows)


def tiny_interactions() -> pl.DataFrame:
    """60 users with 2 to 14 interactions: they walk through the items of a favorite genre, with a few excursions."""
    random = np.random.default_rng(7)
    rows = []
    for user in range(NUM_USERS):
        favorite, start = user % len(GENRES), int(random.integers(10))
        length = 2 if user < 3 else int(random.integers(6, 15))
        for step in range(length):
            stays = random.random() < 0.85
            item = favorite * 10 + (start + step) % 10 if stays else int(random.integers(NUM_ITEMS))
            rows.append((f"u{user:02d}", f"i{item:02d}", 1_600_000_000 + 86_400 * step + 60 * user, float(3 + stays)))
    columns = ["user_id", "item_id", "timestamp", "rating"]
    order = random.permutation(len(rows))
    return pl.DataFrame(rows, schema=columns, orient="row")[order]


def tiny_dataset(out: Path, interactions: pl.DataFrame | None = None) -> Dataset:
    """The data set in a new folder, split by leave-one-out; three users are too short to be evaluated.

    Args:
        out: Folder to write.
        interactions: In place of :func:`tiny_interactions`.
    """
    table = tiny_interactions() if interactions is None else interactions
    return make_dataset(table, tiny_items(), DataConfig(k_core=0), out)


def tiny_features(dataset: Dataset) -> ItemFeatures:
    """Vectors float32 ``[40, 16]`` of two parts: texts, and the graph of training interactions."""
    parts = [{"encoder": "lexical", "dim": 12}, {"encoder": "fastrp", "dim": 4}]
    return build_encoder(FeaturesConfig(encoder="concat", parts=parts)).fit(dataset)


def corrupt_held_out(interactions: pl.DataFrame, num_items: int = NUM_ITEMS) -> pl.DataFrame:
    """Interactions in which the last two items of every user with three or more are other items.

    Whatever learns from the training part only is the same to the bit with these as with the original ones.

    Args:
        interactions: user_id (``u`` and a number), item_id (``i`` and a number) and timestamp, no ties within a user.
        num_items: The catalogue is i00 .. one less than this.
    """
    rank = pl.col("timestamp").rank("ordinal", descending=True).over("user_id")
    held_out = (rank <= 2) & (pl.len().over("user_id") >= 3)
    number = pl.col("item_id").str.slice(1).cast(pl.Int64)
    other = (number + 7 + pl.col("user_id").str.slice(1).cast(pl.Int64) % 11) % num_items
    name = pl.format("i{}", other.cast(pl.String).str.zfill(2))
    return interactions.with_columns(item_id=pl.when(held_out).then(name).otherwise(pl.col("item_id")))
