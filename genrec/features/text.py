"""Texts of items for the encoders that read words."""

from collections.abc import Sequence
from typing import Literal

import polars as pl

from genrec.errors import DataError, first_rows

MissingText = Literal["error", "zero"]


def read_texts(items: pl.DataFrame, columns: Sequence[str] | None, missing: MissingText) -> list[str]:
    """One text per item: the columns joined by ". ", empty parts skipped.

    Args:
        items: Table with ``item_id`` and text columns (strings or lists of strings).
        columns: Columns to read, in this order; every text column if None.
        missing: ``error`` refuses items without any text, ``zero`` gives them the empty text.

    Raises:
        DataError: If a column does not exist, no column holds text, or an item has no text.
    """
    available = [name for name, dtype in items.schema.items() if name != "item_id" and _is_text(dtype)]
    unknown = [name for name in columns or () if name not in available]
    if unknown:
        raise DataError(
            f"the items have no text column {unknown[0]!r}",
            where="features.columns",
            expected=f"one of {', '.join(available)}" if available else "a text column",
            fix="correct the column's name",
        )
    chosen = list(columns) if columns is not None else available
    texts = _join(items, chosen) if chosen else [""] * len(items)
    if not any(texts):
        raise DataError(
            "no item has any text",
            where=f"items, columns {', '.join(chosen) or '(none)'}",
            expected="at least one column of words, such as title",
            fix="give a table of items with text, or use features.encoder: lightgcn, which needs none",
        )
    empty = [row for row, text in enumerate(texts) if not text]
    if empty and missing == "error":
        raise DataError(
            f"item {str(items['item_id'][empty[0]])!r} has no text",
            where=f"items, {first_rows(empty)}, columns {', '.join(chosen)}",
            expected="some text for every item",
            fix="fill the text in, name more columns in features.columns, or set features.missing_text: zero",
        )
    return texts


def _is_text(dtype: pl.DataType) -> bool:
    return dtype in (pl.String, pl.Categorical, pl.Enum) or (isinstance(dtype, pl.List) and dtype.inner == pl.String)


def _join(items: pl.DataFrame, columns: Sequence[str]) -> list[str]:
    parts = []
    for name in columns:
        column = pl.col(name)
        text = column.list.join(", ") if isinstance(items.schema[name], pl.List) else column.cast(pl.String)
        text = text.str.strip_chars()
        parts.append(pl.when(text.str.len_chars() > 0).then(text))
    joined = items.select(pl.concat_str(parts, separator=". ", ignore_nulls=True).fill_null("").alias("text"))
    return joined["text"].to_list()
