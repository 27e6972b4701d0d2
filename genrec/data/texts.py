"""Columns of an items table as text: the one place that says which columns are text and how lists become one."""

from collections.abc import Sequence

import polars as pl
from polars.datatypes import DataTypeClass

PLAIN = (pl.String, pl.Categorical, pl.Enum)


def is_text(dtype: pl.DataType | DataTypeClass) -> bool:
    """Whether a column holds texts: plain ones, lists of texts to any depth, or structs with a field of them."""
    if isinstance(dtype, pl.Struct):
        return any(is_text(field.dtype) for field in dtype.fields)
    return is_text(dtype.inner) if isinstance(dtype, pl.List | pl.Array) else dtype in PLAIN


def text_of(items: pl.DataFrame, name: str) -> pl.Expr:
    """A column as one text per row, "" where there is none.

    Members of a list are joined by ``", "``; inner lists are paths, ``A > B | A > C``, and what is nested deeper is
    more such paths. Of a struct the fields that hold texts are joined by ``", "``.
    """
    return _text(pl.col(name), items.schema[name]).fill_null("")


def row_texts(items: pl.DataFrame, columns: Sequence[str]) -> list[str]:
    """One text per row: its columns joined by ``". "``, in the order given; "" where all are empty."""
    if not columns:
        return [""] * items.height
    joined = pl.concat_str(
        [_text(pl.col(name), items.schema[name]) for name in columns], separator=". ", ignore_nulls=True
    )
    return items.select(joined.fill_null("").alias("text"))["text"].to_list()


def _text(column: pl.Expr, dtype: pl.DataType | DataTypeClass, *, nested: bool = False) -> pl.Expr:
    """Null where there is no text, so that joining leaves it out."""
    if isinstance(dtype, pl.Struct):
        fields = [field for field in dtype.fields if is_text(field.dtype)] or dtype.fields
        parts = [_text(column.struct.field(field.name), field.dtype) for field in fields]
        text = pl.concat_str(parts, separator=", ", ignore_nulls=True)
    elif isinstance(dtype, pl.List | pl.Array):
        inner = dtype.inner
        if isinstance(dtype, pl.Array):
            column = column.arr.to_list()
        between = " | " if isinstance(inner, pl.List | pl.Array) else " > " if nested else ", "
        text = column.list.eval(_text(pl.element(), inner, nested=True)).list.drop_nulls().list.join(between)
    else:
        text = column.cast(pl.String).str.strip_chars()
    return pl.when(text != "").then(text)
