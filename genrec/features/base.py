"""One float32 vector per item, and what makes such vectors."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import polars as pl
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from genrec.artifacts import read_json, write_file, write_json
from genrec.artifacts.reading import reading
from genrec.config import Section, parse_settings
from genrec.errors import ArtifactError, DataError, first_rows
from genrec.features.sharing import Peers

if TYPE_CHECKING:
    from genrec.data import Dataset

EMBEDDINGS_FILE = "embeddings.safetensors"
ITEM_IDS_FILE = "item_ids.json"
DESCRIPTION_FILE = "description.json"
ENCODER_FILE = "encoder.json"
ARRAYS_FILE = "arrays.safetensors"


@dataclass(frozen=True, eq=False)
class ItemFeatures:
    """Vectors of a whole catalogue.

    Args:
        values: float32 ``[N, D]``; row i belongs to dense item i.
        item_ids: External id of every row, length N.
        description: How the vectors were made, JSON-able.

    Raises:
        DataError: If the shape is not ``[N, D]`` or the ids do not match the rows.
    """

    values: np.ndarray
    item_ids: list[str]
    description: dict[str, Any]

    def __post_init__(self) -> None:
        values = np.asarray(self.values)
        if values.ndim != 2 or values.shape[0] != len(self.item_ids) or not values.size:
            raise DataError(
                f"features have the shape {values.shape} for {len(self.item_ids)} items",
                expected="one row per item and at least one column",
                fix="make the features again from this data set",
            )
        object.__setattr__(self, "values", np.ascontiguousarray(values, dtype=np.float32))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over values and item ids: equal features have equal fingerprints."""
        digest = hashlib.sha256(json.dumps([list(self.values.shape), self.item_ids]).encode())
        digest.update(self.values.astype("<f4", copy=False).data)
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write ``embeddings.safetensors``, ``item_ids.json`` and ``description.json`` into ``folder``.

        Raises:
            ArtifactError: If the place cannot be written or the disk is full.
        """
        save_arrays(folder / EMBEDDINGS_FILE, {"values": self.values})
        write_json(folder / ITEM_IDS_FILE, self.item_ids)
        write_json(folder / DESCRIPTION_FILE, self.description)

    @classmethod
    def load(cls, folder: Path) -> "ItemFeatures":
        """Read what :meth:`save` wrote; the vectors stay in the file until they are used.

        Raises:
            ArtifactError: If a file is missing or unreadable, or the files do not belong together.
        """
        with reading(folder):
            values = map_array(folder / EMBEDDINGS_FILE, "values")
            item_ids, description = read_json(folder / ITEM_IDS_FILE), read_json(folder / DESCRIPTION_FILE)
            _check_stored_ids(item_ids, folder)
            return cls(values, item_ids, dict(description))


class FeatureEncoder(ABC):
    """Makes item vectors; fitted once on a data set, then able to encode new items where the method allows.

    Args:
        settings: The family's validated settings.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[Section]]
    encodes_new_items: ClassVar[bool] = True
    # Whether :meth:`fit` encodes blocks of items that ``peers`` can share; else one process makes all vectors.
    shares: ClassVar[bool] = False

    def __init__(self, settings: Section) -> None:
        self.settings = settings
        self.peers: Peers | None = None

    @abstractmethod
    def fit(self, dataset: "Dataset") -> ItemFeatures:
        """Learn from a data set (its training part only, where interactions are used) and encode its items.

        Raises:
            DataError: If the data cannot be encoded.
        """

    @abstractmethod
    def transform(self, items: pl.DataFrame) -> np.ndarray:
        """Encode items that need not have existed at fitting.

        Args:
            items: Table of items with the columns that the encoder reads.

        Returns:
            float32 ``[rows, D]``.

        Raises:
            DataError: With the reason, if the method has no vectors for new items or a row cannot be encoded.
        """

    def outside_paths(self) -> list[str]:
        """Files and folders outside of its own folder that the encoder reads to make vectors; most read none."""
        return []

    @abstractmethod
    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What was learned: JSON-able values and arrays."""

    @abstractmethod
    def restore(self, values: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` gave."""

    def save(self, folder: Path) -> None:
        """Write ``encoder.json`` and ``arrays.safetensors`` into ``folder``.

        Raises:
            ArtifactError: If the place cannot be written or the disk is full.
        """
        values, arrays = self.state()
        settings = self.settings.model_dump(mode="json")
        save_arrays(folder / ARRAYS_FILE, arrays)
        write_json(folder / ENCODER_FILE, {"encoder": self.name, "settings": settings, "state": values})

    @classmethod
    def load(cls, folder: Path) -> "FeatureEncoder":
        """Read what :meth:`save` wrote.

        Raises:
            ArtifactError: If a file is missing, unreadable or of another encoder.
        """
        with reading(folder):
            described = read_json(folder / ENCODER_FILE)
            if described.get("encoder") != cls.name:
                raise ArtifactError(
                    f"{ENCODER_FILE} holds the encoder {described.get('encoder')!r}",
                    where=str(folder),
                    expected=repr(cls.name),
                    fix="load it with load_encoder, which chooses the class",
                )
            encoder = cls(parse_settings(cls.Settings, described["settings"], where=str(folder / ENCODER_FILE)))
            encoder.restore(described["state"], load_arrays(folder / ARRAYS_FILE))
        return encoder


def check_rows(
    values: np.ndarray,
    item_ids: Sequence[str],
    *,
    where: str,
    constant_rows: bool = True,
    constant_columns: bool = True,
    unknown: np.ndarray | None = None,
) -> None:
    """Refuse vectors that would poison every distance: not finite, of a length that float32 has no square of, or
    carrying nothing.

    Args:
        values: ``[N, D]``.
        item_ids: Id of every row, for the message.
        where: What made the vectors, for the message.
        constant_rows: Refuse rows whose numbers are all the same.
        constant_columns: Refuse columns whose numbers are all the same.
        unknown: bool ``[N]``, rows that may be constant because nothing is known of the item; none if None.

    Raises:
        DataError: Naming the first rows or columns at fault.
    """
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        _refuse(np.flatnonzero(~finite), item_ids, "a vector holds NaN or infinity", where, "finite numbers only")
    squares = np.einsum("nd,nd->n", values, values, dtype=np.float64)
    limits = np.finfo(np.float32)
    lost = np.flatnonzero((squares > float(limits.max) / 8) | ((squares > 0) & (squares < float(limits.tiny))))
    if len(lost):
        _refuse(
            lost, item_ids, "the square of a vector's length does not fit float32", where, "lengths of 1e-19 to 6e18"
        )
    if constant_columns and len(values) > 1:
        same = np.flatnonzero((values == values[:1]).all(axis=0))
        if len(same):
            raise DataError(
                f"column {same[0]} has the same value for every item ({len(same)} such columns of {values.shape[1]})",
                where=where,
                expected="columns that differ between items",
                fix="remove these columns, or set drop_constant_columns: true for the encoder matrix",
            )
    if constant_rows and values.shape[1] > 1:
        constant = (values == values[:, :1]).all(axis=1)
        same = np.flatnonzero(constant if unknown is None else constant & ~unknown)
        if len(same):
            _refuse(
                same, item_ids, "a vector has the same number in every column", where, "a vector that says something"
            )


def unit_rows(values: np.ndarray) -> np.ndarray:
    """Rows float32 ``[n, D]`` scaled to length 1; rows of zeros stay zeros."""
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.divide(values, lengths, out=np.zeros_like(values), where=lengths > 0)


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays as one safetensors file, atomically.

    Raises:
        ArtifactError: If the place cannot be written or the disk is full.
    """
    with write_file(path) as temporary:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, str(temporary))


def load_arrays(path: Path, names: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Read one safetensors file.

    Args:
        path: The file.
        names: Arrays that must be in it.

    Raises:
        ArtifactError: If it is missing, unreadable or lacks one of ``names``.
    """
    if not path.is_file():
        raise ArtifactError(f"{path.name} is missing", where=str(path.parent), fix="make the folder again")
    try:
        arrays = load_file(str(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(
            f"{path.name} is not a readable safetensors file: {error}", where=str(path), fix="make the file again"
        ) from error
    missing = [name for name in names if name not in arrays]
    if missing:
        raise ArtifactError(f"{path.name} lacks {missing[0]!r}", where=str(path), expected=f"arrays {', '.join(names)}")
    return arrays


def map_array(path: Path, name: str) -> np.ndarray:
    """One float32 array of a safetensors file, mapped: what is written to it never reaches the file.

    Args:
        path: The file.
        name: The array.

    Raises:
        ArtifactError: If it is missing, unreadable, lacks the array, or holds other numbers than float32.
    """
    if not path.is_file():
        raise ArtifactError(f"{path.name} is missing", where=str(path.parent), fix="make the folder again")
    try:
        # The library checks the header; it does not tell where in the file an array begins.
        with safe_open(str(path), framework="numpy") as checked:
            names = list(checked.keys())
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(
            f"{path.name} is not a readable safetensors file: {error}", where=str(path), fix="make the file again"
        ) from error
    if name not in names or header[name]["dtype"] != "F32":
        raise ArtifactError(f"{path.name} lacks {name!r}", where=str(path), expected=f"the float32 array {name}")
    start, shape = 8 + length + header[name]["data_offsets"][0], tuple(header[name]["shape"])
    if not all(shape):
        return np.empty(shape, dtype=np.float32)
    return np.memmap(path, dtype="<f4", mode="c", offset=start, shape=shape)


def _check_stored_ids(item_ids: Any, folder: Path) -> None:
    if not isinstance(item_ids, list) or not all(isinstance(item, str) for item in item_ids):
        raise ArtifactError(
            f"{ITEM_IDS_FILE} is not a list of item ids",
            where=str(folder),
            expected="one text per row of the vectors",
            fix="make the features again",
        )


def _refuse(rows: np.ndarray, item_ids: Sequence[str], what: str, where: str, expected: str) -> None:
    raise DataError(
        f"{what}: item {item_ids[int(rows[0])]!r}",
        where=f"{where}, {first_rows(rows.tolist())}",
        expected=expected,
        fix="correct or remove these items and make the features again",
    )
