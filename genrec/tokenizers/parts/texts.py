"""What the families share that name items by texts of the items table: reading a column, keeping words in arrays."""

import json
from abc import abstractmethod
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl

from genrec.data.texts import PLAIN
from genrec.errors import ConfigError, DataError, first_rows
from genrec.tokenizers.base import ItemTokenizer

Missing = Literal["error", "own"]


class TextTokenizer(ItemTokenizer):
    """Names items by a column of the items table and not by their vectors; a family says how.

    Args:
        settings: The family's validated settings.
    """

    reads: ClassVar[str]

    def encode_items(self, items: pl.DataFrame, features: np.ndarray) -> np.ndarray:
        """Name items by their texts, also items that did not exist at fitting; the vectors are not read.

        Args:
            items: Rows of an items table, n of them.
            features: Not read.

        Returns:
            int32 ``[n, L]``, before the collision policy.

        Raises:
            ConfigError: If the tokenizer has not been fitted.
            DataError: If the column is missing, or rows have nothing in it that can be read.
        """
        self._check_fitted()
        return self._encode_texts(items)

    @abstractmethod
    def _encode_texts(self, items: pl.DataFrame) -> np.ndarray:
        """Codes int32 ``[n, L]`` of the rows of an items table."""

    def _encode(self, values: np.ndarray) -> np.ndarray:
        raise ConfigError(
            f"the tokenizer {self.name} cannot name items by their vectors: it reads their {self.reads}",
            where="tokenizer.name",
            expected="rows of an items table",
            fix="give the items' table to encode_items, or choose a family that reads vectors",
        )


def read_column(items: pl.DataFrame, column: str, where: str) -> pl.Series:
    """A column of texts, of lists of texts or of lists of such lists.

    Args:
        items: Rows of an items table.
        column: Its name.
        where: The setting that holds the name, for the message.

    Raises:
        DataError: If there is no such column, or it holds something else.
    """
    if column not in items.columns:
        raise DataError(
            f"the items have no column {column!r}",
            where=where,
            expected=f"one of {', '.join(items.columns)}",
            fix=f"set {where} to a column of texts, or use a tokenizer that reads vectors, such as rqkmeans",
        )
    inner = items.schema[column]
    while isinstance(inner, pl.List | pl.Array):
        inner = inner.inner  # type: ignore[assignment]
    if inner not in PLAIN:
        raise DataError(
            f"the column {column!r} holds {items.schema[column]}",
            where=where,
            expected="texts, or lists of texts",
            fix=f"set {where} to another column",
        )
    return items[column]


def refuse_empty(items: pl.DataFrame, empty: list[int], column: str, setting: str) -> None:
    """Refuse items of whose text nothing is left.

    Args:
        items: Rows of an items table.
        empty: The rows meant.
        column: The column that was read.
        setting: The setting that would accept them.

    Raises:
        DataError: Naming the first item and the rows, if there are any.
    """
    if empty:
        accepting = f"fill it in, or set {setting}: own, which gives these items one name for all that they lack"
        elsewhere = "set tokenizer.column, or use a tokenizer that reads vectors, such as rqkmeans"
        raise DataError(
            f"item {str(items['item_id'][empty[0]])!r} has nothing in the column {column!r}",
            where=f"items, {first_rows(empty)}",
            expected=f"a text with words for every item ({setting}: error)",
            fix=accepting if len(empty) < items.height else elsewhere,
        )


def pack_json(value: Any) -> np.ndarray:
    """A JSON-able value as uint8 ``[bytes]``, for the file of arrays."""
    return np.frombuffer(json.dumps(value, ensure_ascii=False).encode(), dtype=np.uint8)


def unpack_json(array: np.ndarray) -> Any:
    """What :func:`pack_json` packed."""
    return json.loads(array.tobytes().decode())
