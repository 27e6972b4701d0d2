"""The path of an item through the categories of the catalogue, one code per category.

Source: Hua et al., How to Index Item IDs for Recommendation Foundation Models, arXiv 2305.06569 (SemID). The
counter of the paper is the collision policy ``suffix``.
"""

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import polars as pl
from pydantic import Field

from genrec.config.ranges import Levels
from genrec.errors import DataError, first_rows
from genrec.features.base import ItemFeatures
from genrec.tokenizers.base import TokenizerSettings
from genrec.tokenizers.parts.paths import fill_paths
from genrec.tokenizers.parts.texts import Missing, TextTokenizer, pack_json, read_column, refuse_empty, unpack_json

if TYPE_CHECKING:
    from genrec.data import Dataset


class SemanticPathSettings(TokenizerSettings):
    """Settings of the tokenizer ``semantic-path``."""

    column: str = Field("categories", description="texts with a separator, lists of names, or lists of such lists")
    separator: str = Field(" > ", min_length=1, description="between the names of a text")
    num_levels: Levels = Field(4, description="categories per item; the finer ones of a longer path are left out")
    missing_categories: Missing = Field("error", description="items without: error, or a first code of their own")


class SemanticPathTokenizer(TextTokenizer):
    """Categories from the coarsest to the finest; a name has one code per depth, wherever it is.

    Categories above all items (``Beauty`` in a catalogue of beauty products) are left out. A shorter path goes on with
    the code of its end. New items may lack the finer categories: their path ends before the first one that is unknown.
    """

    name: ClassVar[str] = "semantic-path"
    Settings: ClassVar[type[TokenizerSettings]] = SemanticPathSettings
    reads: ClassVar[str] = "categories"
    settings: SemanticPathSettings

    def __init__(self, settings: SemanticPathSettings) -> None:
        super().__init__(settings)
        self.root: list[str] = []
        self.names: list[dict[str, int]] = []

    def _encode_texts(self, items: pl.DataFrame) -> np.ndarray:
        paths = self._read(items)
        depth = len(self.root)
        known = [self._known(path[depth:]) if path[:depth] == self.root else [] for path in paths]
        lost = [row for row, codes in enumerate(known) if not codes and paths[row]]
        if lost and self.settings.missing_categories == "error":
            raise DataError(
                f"the category {self.settings.separator.join(paths[lost[0]])!r} is not known",
                where=f"items, {first_rows(lost)}",
                expected=f"a path that begins as those at fitting: {', '.join(list(self.names[0])[:5])} ...",
                fix="correct the categories, or fit the tokenizer again with tokenizer.missing_categories: own",
            )
        return fill_paths(known, [len(names) for names in self.names])

    def _fit(self, dataset: "Dataset", features: ItemFeatures) -> None:
        paths = [path for path in self._read(dataset.items) if path]
        if not paths:
            raise DataError(
                "no item has a category",
                where=f"items, column {self.settings.column!r}",
                expected="a path of categories for most items",
                fix="set tokenizer.column, or use a tokenizer that reads vectors, such as rqkmeans",
            )
        common = 0
        while all(len(path) > common + 1 and path[common] == paths[0][common] for path in paths):
            common += 1
        self.root = paths[0][:common]
        depth = min(max(len(path) for path in paths), common + self.settings.num_levels)
        levels = [sorted({path[level] for path in paths if len(path) > level}) for level in range(common, depth)]
        self.names = [{name: code for code, name in enumerate(names)} for names in levels]
        if len(paths) == dataset.num_items and [len(names) for names in self.names] == [1]:
            raise DataError(
                f"all items have the category {paths[0][-1]!r}",
                where=f"items, column {self.settings.column!r}",
                expected="at least two categories",
                fix="set tokenizer.column, or use a tokenizer that reads vectors, such as rqkmeans",
            )
        # The first level has no end unless an item may be without any category.
        ends = [int(self.settings.missing_categories == "own")] + [1] * (len(self.names) - 1)
        self.level_sizes = tuple(len(names) + end for names, end in zip(self.names, ends, strict=True))

    def _known(self, path: list[str]) -> list[int]:
        """Codes up to the first name that is not known."""
        codes: list[int] = []
        for name, names in zip(path, self.names, strict=False):
            if name not in names:
                break
            codes.append(names[name])
        return codes

    def _read(self, items: pl.DataFrame) -> list[list[str]]:
        column = read_column(items, self.settings.column, "tokenizer.column")
        paths = [_path(value, self.settings.separator) for value in column.to_list()]
        if self.settings.missing_categories == "error":
            empty = [row for row, path in enumerate(paths) if not path]
            refuse_empty(items, empty, self.settings.column, "tokenizer.missing_categories")
        return paths

    def state(self) -> dict[str, np.ndarray]:
        """``categories``: the names left out and the names of every level in the order of their codes, packed."""
        return {"categories": pack_json({"root": self.root, "names": [list(names) for names in self.names]})}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` gave."""
        known = unpack_json(arrays["categories"])
        self.root = known["root"]
        self.names = [{name: code for code, name in enumerate(names)} for names in known["names"]]


def _path(value: object, separator: str) -> list[str]:
    """The names of one cell; of several paths the first."""
    while isinstance(value, list) and any(isinstance(part, list) for part in value):
        value = next((part for part in value if part), [])
    names = value if isinstance(value, list) else str(value or "").split(separator)
    return [name.strip() for name in names if name and name.strip()]
