"""What every item tokenizer is: fitted on a catalogue, then able to say which codes name an item."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field, field_validator

from genrec.artifacts import read_json, write_json
from genrec.artifacts.reading import reading
from genrec.config import Section, parse_settings
from genrec.config.ranges import Codes, Levels, Seed
from genrec.errors import ArtifactError, ConfigError, DataError, first_rows
from genrec.features.base import ItemFeatures, load_arrays, save_arrays
from genrec.tokenizers.parts.sampling import row_blocks
from genrec.tokenizers.registry import tokenizer_class

if TYPE_CHECKING:
    from genrec.data import Dataset

CONFIG_FILE = "config.json"
CODEBOOKS_FILE = "codebooks.safetensors"
CollisionPolicy = Literal["suffix", "reassign", "bucket", "error"]
Kind = Literal["sequence", "set"]


class TokenizerSettings(Section):
    """Settings that every family has."""

    collisions: CollisionPolicy = Field("suffix", description="what to do with items of equal codes")
    allow_collapse: bool = Field(False, description="accept a first level that uses less than a fifth of its codes")
    seed: Seed = 42


class CodebookSettings(TokenizerSettings):
    """Settings of the families whose levels and sizes are chosen beforehand."""

    num_levels: Levels = Field(3, description="codes per item")
    codebook_size: Codes | tuple[Codes, ...] = Field(256, description="codes of every level, or of each in turn")

    @field_validator("codebook_size")
    @classmethod
    def _positive(cls, value: int | tuple[int, ...]) -> int | tuple[int, ...]:
        if min(value if isinstance(value, tuple) else (value,), default=0) < 1:
            raise ValueError("codebook sizes are at least 1")
        return value

    @property
    def level_sizes(self) -> tuple[int, ...]:
        """Codebook size of every level.

        Raises:
            ConfigError: If the list of sizes does not have one size per level.
        """
        if isinstance(self.codebook_size, int):
            return (self.codebook_size,) * self.num_levels
        if len(self.codebook_size) != self.num_levels:
            raise ConfigError(
                f"codebook_size lists {len(self.codebook_size)} sizes for {self.num_levels} levels",
                where="tokenizer",
                expected="one size, or one per level",
                fix=f"set num_levels: {len(self.codebook_size)}, or change the list",
            )
        return self.codebook_size


class ItemTokenizer(ABC):
    """Turns items into short semantic IDs.

    Families that read vectors override :meth:`_fit` and :meth:`_encode`. Families that read texts override
    :meth:`encode_items`; families that only know the items they were fitted on override :meth:`encode_catalogue` and
    say in :meth:`_encode` why a new item cannot be named.

    Args:
        settings: The family's validated settings.

    Raises:
        ConfigError: If the settings contradict each other.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[TokenizerSettings]]
    kind: ClassVar[Kind] = "sequence"
    # Not of the class alone: what is put together from other tokenizers can do what its parts can.
    encodes_new_items: bool = True

    def __init__(self, settings: TokenizerSettings) -> None:
        self.settings = settings
        self.level_sizes: tuple[int, ...] = settings.level_sizes if isinstance(settings, CodebookSettings) else ()
        self.width: int | None = None
        # Where a family that is trained epoch by epoch keeps its progress while it fits; nowhere if None.
        self.checkpoint_path: Path | None = None

    def fit(self, dataset: "Dataset", features: ItemFeatures) -> None:
        """Learn the codes; ``level_sizes`` are known afterwards.

        Args:
            dataset: The catalogue; collaborative families read its training part.
            features: Vectors of the catalogue, rows in the order of ``dataset.item_ids``.

        Raises:
            DataError: If the vectors do not belong to the data set, are not finite, or are too few or too much alike.
        """
        check_row_order(dataset.item_ids, features.item_ids)
        self.width = features.values.shape[1]
        self._check_vectors(features.values)
        self._check_catalogue(dataset, features)
        self._fit(dataset, features)

    def encode_catalogue(self, dataset: "Dataset", features: ItemFeatures) -> np.ndarray:
        """Codes of the catalogue that the tokenizer was fitted on.

        Returns:
            int32 ``[N, L]``, before the collision policy; -1 fills the tail of a shorter semantic ID.
        """
        return self.encode_items(dataset.items, features.values)

    def encode_items(self, items: pl.DataFrame, features: np.ndarray) -> np.ndarray:
        """Name items by what is known of them, also items that did not exist at fitting.

        Args:
            items: Rows of an items table, n of them.
            features: float ``[n, D]``, their vectors in the same order.

        Returns:
            As :meth:`encode`.
        """
        return self.encode(features)

    def encode(self, features: np.ndarray) -> np.ndarray:
        """Name items by their vectors, also items that did not exist at fitting.

        Args:
            features: float ``[n, D]``.

        Returns:
            int32 ``[n, L]``, before the collision policy: items that are alike may share all codes.

        Raises:
            ConfigError: If the tokenizer has not been fitted.
            DataError: If the width differs from that at fitting, or a number is not finite.
        """
        return self._encode(self._check_vectors(np.asarray(features)))

    def _check_catalogue(self, dataset: "Dataset", features: ItemFeatures) -> None:
        """Refuse a catalogue that this family cannot name; by default one with too few different vectors."""
        if self.level_sizes:
            check_distinct(features.values, self.level_sizes)

    @abstractmethod
    def _fit(self, dataset: "Dataset", features: ItemFeatures) -> None:
        """Learn from checked vectors."""

    @abstractmethod
    def _encode(self, values: np.ndarray) -> np.ndarray:
        """Codes int32 ``[n, L]`` of checked float32 vectors ``[n, D]``; ConfigError if only fitted items have any."""

    @abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """What was learned, by name."""

    @abstractmethod
    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` gave."""

    def last_level_costs(self, features: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """How badly each code of the last level would fit each item, given its earlier codes; comparable between items.

        Args:
            features: float ``[n, D]``.
            codes: int ``[n, L]``, of which all but the last count.

        Returns:
            float64 ``[n, K]`` with K of the last level.

        Raises:
            ConfigError: If the family has no such measure.
        """
        raise cannot_reassign(self.name)

    @classmethod
    def reassigns(cls) -> bool:
        """Whether :meth:`last_level_costs` says anything, so that items can be given other codes."""
        return cls.last_level_costs is not ItemTokenizer.last_level_costs

    def reconstruct(self, codes: np.ndarray) -> np.ndarray | None:
        """Vectors float32 ``[n, D]`` that codes int ``[n, L]`` stand for, or None where the method has none."""
        return None

    def residual_energy(self, features: np.ndarray, codes: np.ndarray) -> np.ndarray | None:
        """Mean squared distance to what the first 0..L codes stand for, float64 ``[L + 1]``; None without residuals.

        Args:
            features: float ``[n, D]``.
            codes: int ``[n, L]``, those of the vectors.
        """
        return None

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``codebooks.safetensors``.

        Raises:
            ArtifactError: If the place cannot be written or the disk is full.
        """
        described = {
            "tokenizer": self.name,
            "settings": self.settings.model_dump(mode="json"),
            "level_sizes": list(self.level_sizes),
            "width": self.width,
        }
        save_arrays(Path(folder) / CODEBOOKS_FILE, self.state())
        write_json(Path(folder) / CONFIG_FILE, described)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "ItemTokenizer":
        """A fitted tokenizer of whatever family from its folder.

        Raises:
            ArtifactError: If a file is missing or unreadable, or the folder holds another family than this class.
        """
        path = Path(folder) / CONFIG_FILE
        with reading(path.parent):
            return cls._from_folder(path)

    @classmethod
    def _from_folder(cls, path: Path) -> "ItemTokenizer":
        folder, described = path.parent, read_json(path)
        if not isinstance(described, dict) or not {"tokenizer", "settings", "level_sizes", "width"} <= described.keys():
            raise ArtifactError(f"{CONFIG_FILE} is not an item tokenizer", where=str(folder), fix="fit it again")
        family = tokenizer_class(described["tokenizer"])
        if not issubclass(family, cls):
            raise ArtifactError(
                f"{folder} holds the tokenizer {family.name}", expected=cls.name, fix="load it with ItemTokenizer"
            )
        tokenizer = family(parse_settings(family.Settings, described["settings"], where=str(path)))
        tokenizer.width = _stored_size(described["width"], path)
        tokenizer.level_sizes = tuple(_stored_size(size, path) for size in described["level_sizes"])
        tokenizer.restore(load_arrays(folder / CODEBOOKS_FILE))
        return tokenizer

    def _check_fitted(self) -> None:
        if self.width is None:
            raise ConfigError(f"the tokenizer {self.name} has not been fitted", fix="call fit or from_pretrained first")

    def _check_vectors(self, values: np.ndarray) -> np.ndarray:
        self._check_fitted()
        if values.ndim != 2 or values.shape[1] != self.width:
            raise DataError(
                f"the vectors have the shape {values.shape}",
                where=f"tokenizer {self.name}",
                expected=f"[items, {self.width}], as at fitting",
                fix="encode the items with the feature encoder that the tokenizer was fitted with",
            )
        finite = np.ones(len(values), dtype=bool)
        for part in row_blocks(len(values)):
            finite[part] = np.isfinite(values[part]).all(axis=1)
        if not finite.all():
            raise DataError(
                "a vector holds NaN or infinity",
                where=first_rows(np.flatnonzero(~finite).tolist()),
                expected="finite numbers only",
                fix="make the features again",
            )
        return np.ascontiguousarray(values, dtype=np.float32)


def _stored_size(value: Any, path: Path) -> int:
    if type(value) is not int or not 0 <= value < 2**31:
        raise ArtifactError(
            f"{value!r} is not a size", where=str(path), expected="an integer from 0 on", fix="fit the tokenizer again"
        )
    return value


def cannot_reassign(name: str) -> ConfigError:
    """The error for ``collisions: reassign`` with a family that does not say how badly other codes would fit.

    Args:
        name: Of the tokenizer.
    """
    return ConfigError(
        f"the tokenizer {name} cannot reassign codes",
        where="tokenizer.collisions",
        expected="suffix, bucket or error",
        fix="choose one of these",
    )


def check_row_order(catalogue: Sequence[str], vectors: Sequence[str]) -> None:
    """Refuse features whose rows are not the catalogue's items in its order.

    Raises:
        DataError: Naming the first item without a vector, or the first row out of place.
    """
    if list(catalogue) == list(vectors):
        return
    known = set(vectors)
    missing = [row for row, item in enumerate(catalogue) if item not in known]
    if missing:
        what = f"item {catalogue[missing[0]]!r} has no vector"
        where = f"items, {first_rows(missing)}"
    else:
        differing = [row for row, (item, other) in enumerate(zip(catalogue, vectors, strict=False)) if item != other]
        what = "the vectors belong to other items or are in another order"
        where = f"features, {first_rows(differing)}" if differing else f"features, {len(vectors)} rows"
    raise DataError(
        what, where=where, expected="one row per item in the order of the data set", fix="make the features again"
    )


def check_distinct(values: np.ndarray, level_sizes: Sequence[int]) -> None:
    """Refuse catalogues with fewer different vectors than a codebook has codes.

    Args:
        values: float32 ``[N, D]``.
        level_sizes: Codebook size of every level.

    Raises:
        DataError: With the largest size possible.
    """
    largest = max(level_sizes)
    seen: set[bytes] = set()
    for row in values:
        seen.add(row.tobytes())
        if len(seen) >= largest:
            return
    level = list(level_sizes).index(largest) + 1
    raise DataError(
        f"level {level} has {largest} codes but the {len(values)} items have {len(seen)} different vectors",
        where="tokenizer.codebook_size",
        expected=f"at most {len(seen)} codes per level",
        fix=f"set tokenizer.codebook_size: {len(seen)} or smaller, or use features that tell the items apart",
    )
