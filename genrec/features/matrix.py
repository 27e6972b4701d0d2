"""A matrix of the user's own as item features: safetensors, NumPy or Parquet, rows named by item ids."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import polars as pl
from pydantic import Field
from safetensors import SafetensorError, safe_open

from genrec.artifacts import read_json
from genrec.config import Section
from genrec.config.ranges import Width
from genrec.data.ids import id_text, tidy_ids
from genrec.data.parquet import read_parquet
from genrec.errors import ArtifactError, DataError, first_rows
from genrec.features.base import ITEM_IDS_FILE, FeatureEncoder, ItemFeatures, check_rows

if TYPE_CHECKING:
    from genrec.data import Dataset

logger = logging.getLogger(__name__)

# Numbers that safetensors has and NumPy has not; torch reads them, and each is exact in float32.
TORCH_ONLY = ("BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0")


class MatrixSettings(Section):
    """Settings of the encoder ``matrix``."""

    path: str = Field(description="a .safetensors, .npy or .parquet file, or a features folder")
    ids: str | None = Field(
        None, description="JSON list of item ids; item_ids.json next to a .safetensors or .npy file if null"
    )
    tensor: str | None = Field(None, description="name of the tensor; needed if the safetensors file holds several")
    width: Width | None = Field(None, description="refuse vectors of another width")
    drop_constant_columns: bool = Field(False, description="leave out columns that are the same for every item")


class MatrixEncoder(FeatureEncoder):
    """Vectors read from a file; the file's rows may be in any order and hold further items.

    A Parquet file has the column ``item_id`` and either one list column or numeric columns. A safetensors file has one
    tensor ``[rows, D]`` (or one named by ``tensor``), a .npy file one array; both come with a JSON list of item ids.
    """

    name: ClassVar[str] = "matrix"
    Settings: ClassVar[type[Section]] = MatrixSettings
    settings: MatrixSettings

    def __init__(self, settings: MatrixSettings) -> None:
        super().__init__(settings)
        self.kept: np.ndarray | None = None

    def fit(self, dataset: "Dataset") -> ItemFeatures:
        """Take the rows of the data set's items; nothing is learned but which columns are constant."""
        values, unused = self._rows(dataset.item_ids)
        where = f"features matrix {self.settings.path}"
        check_rows(values, dataset.item_ids, where=where, constant_columns=not self.settings.drop_constant_columns)
        differing = (values != values[:1]).any(axis=0) if len(values) > 1 else np.ones(values.shape[1], dtype=bool)
        self.kept = np.flatnonzero(differing) if self.settings.drop_constant_columns else np.arange(values.shape[1])
        if not len(self.kept):
            raise DataError(
                "every column has the same value for every item", where=where, expected="vectors that tell items apart"
            )
        described = {
            "encoder": self.name,
            "file": Path(self.settings.path).name,
            "width": len(self.kept),
            "counts": {"rows_of_no_item": unused},
        }
        if unused:
            logger.warning("matrix: %d rows of %s belong to no item and are left out", unused, self.settings.path)
        return ItemFeatures(values[:, self.kept], dataset.item_ids, described)

    def transform(self, items: pl.DataFrame) -> np.ndarray:
        """Take the rows of further items from the same file."""
        ids = items["item_id"].cast(pl.String).to_list()
        values, _ = self._rows(ids)
        check_rows(values, ids, where=f"features matrix {self.settings.path}", constant_columns=False)
        return values if self.kept is None else np.ascontiguousarray(values[:, self.kept])

    def outside_paths(self) -> list[str]:
        """The file of vectors, and that of item ids."""
        return [path for path in (self.settings.path, self.settings.ids) if path is not None]

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The columns kept, int64 ``[D]``."""
        return {}, {} if self.kept is None else {"kept": self.kept}

    def restore(self, values: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` gave."""
        self.kept = arrays.get("kept")

    def _rows(self, wanted: list[str]) -> tuple[np.ndarray, int]:
        """Vectors float32 ``[n, D]`` of the items wanted, and how many rows of the file belong to none of them."""
        values, ids = read_matrix(self.settings)
        position = {item: row for row, item in enumerate(ids)}
        if len(position) < len(ids):
            twice = [row for row, item in enumerate(ids) if position[item] != row]
            raise DataError(
                f"item {ids[twice[0]]!r} occurs twice", where=f"{self.settings.path}, {first_rows(twice)}",
                expected="one row per item", fix="keep one of the rows",
            )  # fmt: skip
        missing = [row for row, item in enumerate(wanted) if item not in position]
        if missing:
            raise DataError(
                f"item {wanted[missing[0]]!r} has no vector",
                where=f"{self.settings.path}, items {first_rows(missing)}",
                expected="a row for every item of the data set",
                fix="add the rows, or leave these items out of the data set",
            )
        return self._in_float32(values[[position[item] for item in wanted]], wanted), len(ids) - len(set(wanted))

    def _in_float32(self, values: np.ndarray, item_ids: list[str]) -> np.ndarray:
        with np.errstate(over="ignore"):
            cast = np.ascontiguousarray(values, dtype=np.float32)
        lost = np.flatnonzero((np.isinf(cast) & np.isfinite(values)).any(axis=1))
        if len(lost):
            raise DataError(
                f"a number of item {item_ids[int(lost[0])]!r} is too large for float32",
                where=f"{self.settings.path}, items {first_rows(lost.tolist())}",
                expected=f"numbers up to {np.finfo(np.float32).max:.1e}",
                fix="scale the vectors",
            )
        return cast


def read_matrix(settings: MatrixSettings) -> tuple[np.ndarray, list[str]]:
    """Read vectors and the ids of their rows.

    Returns:
        float ``[rows, D]`` and ``rows`` ids.

    Raises:
        ArtifactError: If the file is missing or unreadable.
        DataError: If its contents are not a matrix with ids, or of another width than asked for.
    """
    path = Path(settings.path)
    if path.is_dir():
        path = path / "embeddings.safetensors"
    if not path.is_file():
        raise ArtifactError(f"there is no file {path}", where="features.path", fix="check the path")
    if path.suffix == ".safetensors":
        values, ids = _with_ids(_read_safetensors(path, settings), path, settings)
    elif path.suffix == ".npy":
        values, ids = _with_ids(_read_numpy(path), path, settings)
    elif path.suffix == ".parquet":
        values, ids = _read_parquet(path)
    else:
        raise DataError(
            f"{path.name} is none of .safetensors, .npy and .parquet",
            where="features.path",
            expected="a .safetensors or .npy file with item_ids.json next to it, or Parquet with the column item_id",
            fix="save the matrix in one of these formats",
        )
    if settings.width is not None and values.shape[1] != settings.width:
        raise DataError(
            f"the vectors have {values.shape[1]} columns",
            where=str(path),
            expected=f"{settings.width} (features.width)",
            fix="correct features.width, or give the right matrix",
        )
    return values, ids


def _read_safetensors(path: Path, settings: MatrixSettings) -> np.ndarray:
    try:
        with safe_open(str(path), framework="numpy") as file:
            names = sorted(file.keys())
            name = _tensor_name(names, path, settings)
            if file.get_slice(name).get_dtype() not in TORCH_ONLY:
                return np.asarray(file.get_tensor(name))
        with safe_open(str(path), framework="pt") as file:
            return np.asarray(file.get_tensor(name).float().numpy())
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        # Kinds of numbers that are newer than the library end in errors of Python.
        raise ArtifactError(
            f"{path.name} is not a readable safetensors file: {error}",
            where=str(path),
            expected="a tensor of float32, float16, bfloat16, float64 or whole numbers",
            fix="save the vectors as float32",
        ) from error


def _tensor_name(names: list[str], path: Path, settings: MatrixSettings) -> str:
    wanted = settings.tensor
    if wanted is not None and wanted not in names:
        raise ArtifactError(
            f"{path.name} lacks {wanted!r}", where=str(path), expected=f"one of {', '.join(names) or '(none)'}",
            fix="correct features.tensor",
        )  # fmt: skip
    if wanted is None and len(names) != 1:
        raise DataError(
            f"the file holds {len(names)} tensors: {', '.join(names)}",
            where=str(path),
            expected="one, or its name in features.tensor",
            fix="set features.tensor",
        )
    return wanted or names[0]


def _read_numpy(path: Path) -> np.ndarray:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{path.name} is not a readable array: {str(error).splitlines()[0]}",
            where=str(path),
            expected="numbers [rows, width] as numpy.save writes them, without Python objects",
            fix="save the array as float32",
        ) from error


def _with_ids(values: np.ndarray, path: Path, settings: MatrixSettings) -> tuple[np.ndarray, list[str]]:
    ids_path = Path(settings.ids) if settings.ids else path.parent / ITEM_IDS_FILE
    ids = read_json(ids_path)
    if not isinstance(ids, list) or values.ndim != 2 or len(ids) != len(values) or values.dtype.kind not in "fiu":
        raise DataError(
            f"the array is {values.dtype} of shape {values.shape}, {ids_path.name} has "
            f"{len(ids) if isinstance(ids, list) else 'no list of'} ids",
            where=str(path),
            expected="numbers [rows, width] and one id per row",
            fix="save both from the same table",
        )
    return values, [id_text(item, str(ids_path)) for item in ids]


def _read_parquet(path: Path) -> tuple[np.ndarray, list[str]]:
    try:
        table = read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        problem = str(error).splitlines()[0]
        raise DataError(f"{path.name} is not readable Parquet: {problem}", where=str(path)) from error
    if "item_id" not in table.columns:
        raise DataError(
            f"{path.name} has the columns {', '.join(table.columns)}",
            where=str(path),
            expected="the column item_id, and one list column or numeric columns",
            fix="rename the column of ids to item_id",
        )
    ids = tidy_ids(table["item_id"], str(path)).to_list()
    numbers = table.drop("item_id")
    if numbers.width == 1 and isinstance(numbers.dtypes[0], pl.List | pl.Array):
        return _stack(numbers.to_series(), ids, path), ids
    textual = [name for name, dtype in numbers.schema.items() if not dtype.is_numeric()]
    if textual or not numbers.width:
        raise DataError(
            f"column {textual[0]!r} is {numbers.schema[textual[0]]}" if textual else "there is no column of numbers",
            where=str(path),
            expected="item_id, and one list column or numeric columns",
            fix="remove the other columns",
        )
    # An empty cell becomes NaN, which the check of rows refuses by name.
    return numbers.cast(pl.Float64).fill_null(float("nan")).to_numpy(), ids


def _stack(vectors: pl.Series, ids: list[str], path: Path) -> np.ndarray:
    if isinstance(vectors.dtype, pl.Array):
        vectors = vectors.arr.to_list()
    inner = vectors.dtype.inner  # type: ignore[attr-defined]
    if not (inner.is_numeric() or inner in (pl.Boolean, pl.String, pl.Null)):
        raise DataError(
            f"column {vectors.name!r} holds lists of {inner}",
            where=str(path),
            expected="one list of numbers per item",
            fix="save the vectors as lists of float32",
        )
    widths = vectors.list.len().fill_null(0).to_numpy()
    usual = int(np.bincount(widths).argmax()) if len(widths) else 0
    wrong = np.flatnonzero(widths != usual)
    if len(wrong) or not usual:
        first = int(wrong[0]) if len(wrong) else 0
        raise DataError(
            f"a vector has {int(widths[first])} numbers where the others have {usual}: item {ids[first]!r}",
            where=f"{path}, {first_rows(wrong.tolist())}",
            expected="vectors of one width",
            fix="correct these rows",
        )
    numbers = vectors.explode().cast(pl.Float64, strict=False).fill_null(float("nan"))
    return numbers.to_numpy().reshape(len(vectors), usual)
