"""Held-out interactions turned into nonsense, to prove that nothing learned from them."""

import polars as pl


def poisoned(interactions: pl.DataFrame, num_items: int) -> pl.DataFrame:
    """Interactions in which the last two items of every user with three or more are other items.

    Args:
        interactions: user_id, item_id (``i`` and a number) and timestamp without ties within a user.
        num_items: The catalogue is i00 .. one less than this.
    """
    rank = pl.col("timestamp").rank("ordinal", descending=True).over("user_id")
    held_out = (rank <= 2) & (pl.len().over("user_id") >= 3)
    number = pl.col("item_id").str.slice(1).cast(pl.Int64)
    other = (number + 7 + pl.col("user_id").str.slice(1).cast(pl.Int64) % 11) % num_items
    name = pl.format("i{}", other.cast(pl.String).str.zfill(2))
    return interactions.with_columns(item_id=pl.when(held_out).then(name).otherwise(pl.col("item_id")))
