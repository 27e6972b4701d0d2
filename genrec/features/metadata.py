"""Item vectors from what the catalogue says in columns, not in words: categories, brands, prices, genres.

Source: the idea of M2TRec (Shalaby et al., RecSys 2022), where an item is the concatenation of embeddings of its
metadata and so needs neither an id table nor a text. There the embeddings are learned with the recommender; here they
are the directions of a truncated SVD over all columns, which needs no training and no interactions.
"""

import logging
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import polars as pl
from polars.datatypes import DataTypeClass
from pydantic import Field
from scipy.sparse import csr_array, hstack
from sklearn.decomposition import TruncatedSVD

from genrec.config import Section
from genrec.config.ranges import Count, Factor, Seed, Share, Width
from genrec.data.texts import PLAIN, is_text
from genrec.errors import DataError, first_rows
from genrec.features.base import FeatureEncoder, ItemFeatures, check_rows, unit_rows
from genrec.features.text import check_columns
from genrec.features.words import plain_text

if TYPE_CHECKING:
    from genrec.data import Dataset

logger = logging.getLogger(__name__)

# Directions this much weaker than the strongest are rounding noise of a catalogue with few independent values.
SMALLEST_SINGULAR_VALUE = 1e-6


class MetadataSettings(Section):
    """Settings of the encoder ``metadata``."""

    columns: tuple[str, ...] | None = Field(None, description="columns to read; all but free texts if null")
    weights: dict[str, Factor] = Field(default_factory=dict, description="factor of a column; 1 if not given")
    separators: tuple[str, ...] = Field((" | ", ", "), description="what is between several values in one text")
    path_separator: str = Field(" > ", min_length=1, description="what is between the levels of a category path")
    dim: Width = Field(64, description="width at most; fewer when the columns have fewer independent values")
    num_bins: Width = Field(10, ge=2, description="steps of a number, of equal shares of the items")
    min_items: Count = Field(2, description="a value must occur in this many items")
    max_distinct: Share = Field(0.5, gt=0, description="more distinct texts per item than this are free text")
    missing: Literal["error", "zero"] = Field("error", description="items of which nothing is known: error, or zeros")
    seed: Seed = 42


class MetadataEncoder(FeatureEncoder):
    """Columns as multi-hot rows of equal length, then a truncated SVD; encodes new items.

    A text is its values; a path ``A > B`` is the values ``A`` and ``A > B``, so that items of one department are alike;
    a number is the list of the steps that it reaches, so that near prices are alike. Rare values weigh more.
    """

    name: ClassVar[str] = "metadata"
    Settings: ClassVar[type[Section]] = MetadataSettings
    settings: MetadataSettings

    def __init__(self, settings: MetadataSettings) -> None:
        super().__init__(settings)
        # Whether values are compared in the composed form of Unicode; encoders that do not say so took them as written.
        self.composed = True
        self.vocabulary: dict[str, list[str]] = {}
        self.bounds: dict[str, list[float]] = {}
        self.rarity: dict[str, np.ndarray] = {}
        self.components = np.zeros((0, 0), dtype=np.float32)

    def fit(self, dataset: "Dataset") -> ItemFeatures:
        """Learn values, their rarity and directions from all items; interactions are not read."""
        items = dataset.items
        for name in self._choose_columns(items):
            if items.schema[name].is_numeric():
                self.bounds[name] = _steps(items[name], self.settings.num_bins)
            counts = Counter(value for values in self._values(items, name) for value in set(values))
            kept = sorted(value for value, count in counts.items() if count >= min(self.settings.min_items, len(items)))
            self.vocabulary[name] = kept
            total = np.array([counts[value] for value in kept], dtype=np.float64)
            self.rarity[name] = (np.log((1 + len(items)) / (1 + total)) + 1).astype(np.float32)
        weights = self._weights(items)
        self._fit_directions(weights)
        values = self._project(items, weights)
        zeros = self.settings.missing == "zero"
        check_rows(values, dataset.item_ids, where="features metadata", constant_rows=not zeros)
        described = {
            "encoder": self.name,
            "columns": list(self.vocabulary),
            "width": values.shape[1],
            "counts": {"items_without_known_values": int((np.diff(weights.indptr) == 0).sum())},
        }
        return ItemFeatures(values, dataset.item_ids, described)

    def transform(self, items: pl.DataFrame) -> np.ndarray:
        """Encode new items by their columns; values never seen at fitting and missing columns count nothing.

        Raises:
            DataError: If nothing is known of an item, unless ``missing: zero``.
        """
        return self._project(items, self._weights(items))

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Values and steps of every column, their rarity, and directions ``[D, V]``."""
        arrays = {f"rarity.{name}": array for name, array in self.rarity.items()}
        values = {"vocabulary": self.vocabulary, "bounds": self.bounds, "composed": self.composed}
        return values, {**arrays, "components": self.components}

    def restore(self, values: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` gave."""
        self.vocabulary, self.bounds = values["vocabulary"], values["bounds"]
        self.composed = values.get("composed", False)
        self.rarity = {name: arrays[f"rarity.{name}"] for name in self.vocabulary}
        self.components = arrays["components"]

    def _choose_columns(self, items: pl.DataFrame) -> list[str]:
        available = [name for name, dtype in items.schema.items() if name != "item_id" and _is_usable(dtype)]
        wanted = (*(self.settings.columns or ()), *self.settings.weights)
        missing = "the items have no column {} of texts, lists of texts, truth values or numbers"
        check_columns(wanted, available, missing, "a column besides item_id")
        chosen = self.settings.columns or [
            name for name in available if not _is_free_text(items[name], self.settings.max_distinct)
        ]
        known = [name for name in chosen if any(self._texts_or_numbers(items, name))]
        if not known:
            raise DataError(
                "no column tells anything that several items share",
                where=f"items, columns {', '.join(chosen or available) or '(none)'}",
                expected="a column of categories, brands, prices or the like",
                fix="name columns in features.columns, or use features.encoder: lexical for texts",
            )
        return known

    def _texts_or_numbers(self, items: pl.DataFrame, name: str) -> Iterable[bool]:
        column = items[name]
        return column.is_not_null().to_list() if column.dtype.is_numeric() else map(bool, self._values(items, name))

    def _values(self, items: pl.DataFrame, name: str) -> list[list[str]]:
        column = items[name]
        if column.dtype.is_numeric():
            bounds = np.asarray(self.bounds[name])
            numbers = column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
            # "known" tells the lowest step from a missing number.
            return [
                [] if np.isnan(number) else ["known", *map(str, range(int((bounds <= number).sum())))]
                for number in numbers
            ]
        if column.dtype.is_nested():
            lists = [self._members(value) for value in column.to_list()]
        else:
            lists = [self._split(text) for text in column.cast(pl.String).fill_null("").to_list()]
        form = plain_text if self.composed else str
        return [[part for text in texts for part in self._prefixes(form(text))] for texts in lists]

    def _members(self, value: list[Any] | None) -> list[str]:
        """The texts of a list; the names of an inner one are a path, and what is nested deeper holds such paths."""
        found: list[str] = []
        for part in value or []:
            if not isinstance(part, list):
                found.append(part or "")
            elif any(isinstance(inner, list) for inner in part):
                found += self._members(part)
            else:
                found.append(self.settings.path_separator.join(name for name in part if name))
        return found

    def _split(self, text: str) -> list[str]:
        values = [text]
        for separator in self.settings.separators:
            # A comma inside a path belongs to the name of a category.
            if separator in text and not (separator == ", " and self.settings.path_separator in text):
                values = [part for value in values for part in value.split(separator)]
        return values

    def _prefixes(self, value: str) -> list[str]:
        levels = [level.strip() for level in value.split(self.settings.path_separator)]
        levels = [level for level in levels if level]
        return [self.settings.path_separator.join(levels[: end + 1]) for end in range(len(levels))]

    def _weights(self, items: pl.DataFrame) -> csr_array:
        blocks = []
        for name, kept in self.vocabulary.items():
            position = {value: number for number, value in enumerate(kept)}
            values = self._values(items, name) if name in items.columns else [[] for _ in range(len(items))]
            rows = [(row, position[value]) for row, own in enumerate(values) for value in set(own) if value in position]
            index = np.asarray(rows, dtype=np.int64).reshape(-1, 2)
            data = self.rarity[name][index[:, 1]].astype(np.float64)
            length = np.sqrt(np.bincount(index[:, 0], weights=data**2, minlength=len(items)))
            data *= self.settings.weights.get(name, 1.0) / length[index[:, 0]]
            blocks.append(csr_array((data, (index[:, 0], index[:, 1])), shape=(len(items), len(kept))))
        return csr_array(hstack(blocks, format="csr"))

    def _fit_directions(self, weights: csr_array) -> None:
        dim = min(self.settings.dim, *weights.shape)
        if not dim:
            raise DataError(
                f"the columns of {weights.shape[0]} items have {weights.shape[1]} values that items share",
                where="features metadata",
                expected="values that several items share",
                fix="name more columns in features.columns, or lower features.min_items",
            )
        svd = TruncatedSVD(dim, n_iter=5, random_state=self.settings.seed).fit(weights)
        strong = svd.singular_values_ > SMALLEST_SINGULAR_VALUE * svd.singular_values_[0]
        self.components = np.ascontiguousarray(svd.components_[strong], dtype=np.float32)

    def _project(self, items: pl.DataFrame, weights: csr_array) -> np.ndarray:
        unknown = np.flatnonzero(np.diff(weights.indptr) == 0)
        if len(unknown) and self.settings.missing == "error":
            raise DataError(
                f"nothing is known of item {str(items['item_id'][int(unknown[0])])!r}",
                where=f"items, {first_rows(unknown.tolist())}, columns {', '.join(self.vocabulary)}",
                expected="a value that other items share in at least one column",
                fix="fill the columns in, name more in features.columns, or set features.missing: zero",
            )
        if len(unknown):
            logger.warning(
                "metadata: nothing is known of %d of %d items, such as %r: they get the zero vector",
                *(len(unknown), len(items), str(items["item_id"][int(unknown[0])])),
            )
        return unit_rows(np.asarray(weights @ self.components.T, dtype=np.float32))


def _is_usable(dtype: pl.DataType) -> bool:
    if isinstance(dtype, pl.List | pl.Array):
        return is_text(dtype.inner) and not _has_struct(dtype)
    return dtype in PLAIN or dtype.is_numeric() or dtype == pl.Boolean


def _has_struct(dtype: pl.DataType | DataTypeClass) -> bool:
    return _has_struct(dtype.inner) if isinstance(dtype, pl.List | pl.Array) else isinstance(dtype, pl.Struct)


def _is_free_text(column: pl.Series, max_distinct: float) -> bool:
    """Whether nearly every item says something else, as titles and descriptions do."""
    if column.dtype != pl.String:
        return False
    texts = column.drop_nulls().str.strip_chars()
    texts = texts.filter(texts != "")
    return len(texts) > 0 and texts.n_unique() > max_distinct * len(texts)


def _steps(column: pl.Series, num_bins: int) -> list[float]:
    """Bounds between shares of equal size; fewer where numbers repeat."""
    numbers = column.drop_nulls().cast(pl.Float64).to_numpy()
    numbers = numbers[np.isfinite(numbers)]
    return np.unique(np.quantile(numbers, np.linspace(0, 1, num_bins + 1)[1:-1])).tolist() if len(numbers) else []
