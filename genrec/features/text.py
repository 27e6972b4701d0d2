"""Texts of items for the encoders that read words."""

import logging
from collections.abc import Iterable, Sequence
from typing import Literal

import polars as pl

from genrec.data.texts import is_text, row_texts
from genrec.errors import DataError, first_rows
from genrec.features.words import plain_text

logger = logging.getLogger(__name__)

MissingText = Literal["error", "zero"]


def read_texts(
    items: pl.DataFrame, columns: Sequence[str] | None, missing: MissingText, *, composed: bool = True
) -> list[str]:
    """One text per item: the columns joined by ". ", empty parts skipped (see :mod:`genrec.data.texts`).

    Args:
        items: Table with ``item_id`` and text columns (strings, lists of them to any depth, structs with texts).
        columns: Columns to read, in this order; every text column if None.
        missing: ``error`` refuses items without any text, ``zero`` gives them the empty text.
        composed: Bring the texts into one normal form (:func:`~genrec.features.words.plain_text`), so that a title
            is one text however it was typed; False leaves them as they are.

    Raises:
        DataError: If a column does not exist, no column holds text, or an item has no text.
    """
    available = [name for name, dtype in items.schema.items() if name != "item_id" and is_text(dtype)]
    check_columns(columns or (), available, "the items have no text column {}", "a text column")
    chosen = list(columns) if columns is not None else available
    if columns is None:
        _report_unread(items, available)
    texts = row_texts(items, chosen)
    if composed:
        texts = [plain_text(text) for text in texts]
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
    if empty:
        first = str(items["item_id"][empty[0]])
        logger.warning("%d of %d items are without text, such as %r", len(empty), len(texts), first)
    return texts


def _report_unread(items: pl.DataFrame, available: Sequence[str]) -> None:
    """Numbers, dates and truth values are no texts; lists and bytes may have been meant as such."""
    kinds = {name: dtype for name, dtype in items.schema.items() if dtype.is_nested() or dtype == pl.Binary}
    unread = [f"{name} ({dtype})" for name, dtype in kinds.items() if name not in available]
    if unread:
        logger.warning("columns of the items that hold no text are not read: %s", ", ".join(unread))


def check_columns(wanted: Iterable[str], available: Sequence[str], missing: str, otherwise: str) -> None:
    """Refuse names of columns that cannot be read.

    Args:
        wanted: The names in the settings.
        available: The columns that can be read.
        missing: What the error says, with ``{}`` for the first name that is missing.
        otherwise: What was expected, where no column can be read.

    Raises:
        DataError: If a name is missing.
    """
    unknown = [name for name in wanted if name not in available]
    if unknown:
        raise DataError(
            missing.format(repr(unknown[0])),
            where="features.columns",
            expected=f"one of {', '.join(available)}" if available else otherwise,
            fix="correct the column's name",
        )
