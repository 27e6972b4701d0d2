"""Histories as a folder that ``datasets.load_from_disk`` reads and that maps into memory without a copy.

The file is written here and not with ``Dataset.save_to_disk``: that cuts the table into batches of a thousand rows,
whose columns cannot be seen as one array without copying, and stamps it with a random fingerprint.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from genrec.artifacts import fingerprint
from genrec.data.histories import Histories
from genrec.errors import ArtifactError

TABLE = "data-00000-of-00001.arrow"
FEATURES = {
    "user": {"dtype": "int64", "_type": "Value"},
    "items": {"feature": {"dtype": "int32", "_type": "Value"}, "_type": "LargeList"},
    "timestamps": {"feature": {"dtype": "int64", "_type": "Value"}, "_type": "LargeList"},
    "train_end": {"dtype": "int64", "_type": "Value"},
    "valid_end": {"dtype": "int64", "_type": "Value"},
}
COLUMNS = {
    "user": pa.int64(),
    "items": pa.large_list(pa.int32()),
    "timestamps": pa.large_list(pa.int64()),
    "train_end": pa.int64(),
    "valid_end": pa.int64(),
}


def write_histories(folder: Path, histories: Histories, train_end: np.ndarray, valid_end: np.ndarray) -> None:
    """Write histories and the ends of their parts as one Arrow record batch.

    Args:
        folder: Folder to create.
        histories: All interactions of every user.
        train_end: int64 [R], number of leading items that are for training.
        valid_end: int64 [R], number of leading items that are for training or validation.
    """
    folder.mkdir(parents=True)
    features = {name: feature for name, feature in FEATURES.items() if _present(name, histories)}
    columns = {
        "user": pa.array(histories.users),
        "items": pa.LargeListArray.from_arrays(histories.offsets, histories.items),
        "train_end": pa.array(np.asarray(train_end, dtype=np.int64)),
        "valid_end": pa.array(np.asarray(valid_end, dtype=np.int64)),
    }
    if histories.timestamps is not None:
        columns["timestamps"] = pa.LargeListArray.from_arrays(histories.offsets, histories.timestamps)
    info = {"features": features}
    batch = pa.record_batch({name: columns[name] for name in features})
    schema = batch.schema.with_metadata({"huggingface": json.dumps({"info": info})})
    with pa.OSFile(str(folder / TABLE), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(batch.replace_schema_metadata(schema.metadata))
    state: dict[str, Any] = {
        "_data_files": [{"filename": TABLE}],
        "_fingerprint": fingerprint({"users": len(histories), "items": len(histories.items)})[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    _write(folder / "state.json", state)
    _write(folder / "dataset_info.json", {"citation": "", "description": "", **info, "homepage": "", "license": ""})


def read_histories(folder: Path) -> tuple[Histories, np.ndarray, np.ndarray]:
    """Map a folder of :func:`write_histories` into memory.

    Returns:
        The histories (read-only views of the file), train_end int64 [R], valid_end int64 [R].

    Raises:
        ArtifactError: If the file is missing, cut short or not of this shape.
    """
    try:
        table = pa.ipc.open_stream(pa.memory_map(str(folder / TABLE))).read_all()
        _check_columns(table)
        table = table.combine_chunks()
        users, train_end, valid_end = (_plain(table, name) for name in ("user", "train_end", "valid_end"))
        offsets, items = _lists(table, "items")
        timestamps = None
        if "timestamps" in table.column_names:
            others, timestamps = _lists(table, "timestamps")
            if not np.array_equal(offsets, others):
                raise ValueError("there is not one timestamp per item")
    except (OSError, pa.ArrowException, KeyError, ValueError, IndexError) as error:
        raise ArtifactError(
            f"the histories cannot be read: {error}", where=str(folder / TABLE), fix="prepare the data set again"
        ) from error
    return Histories(users, offsets, items, timestamps), train_end, valid_end


def check_histories(histories: Histories, train_end: np.ndarray, valid_end: np.ndarray, num_items: int) -> None:
    """Refuse histories that point outside of themselves or of the catalogue; every number is looked at once.

    Args:
        histories: As mapped.
        train_end: int64 [R], number of leading items that are for training.
        valid_end: int64 [R], number of leading items that are for training or validation.
        num_items: N, the size of the catalogue.

    Raises:
        ArtifactError: Naming what is out of range.
    """
    offsets, items, rows = histories.offsets, histories.items, len(histories)
    problem = ""
    if not np.array_equal(histories.users, np.arange(rows)):
        problem = "the users are not numbered from 0 on"
    elif len(offsets) != rows + 1 or offsets[0] != 0 or offsets[-1] != len(items) or (offsets[1:] < offsets[:-1]).any():
        problem = "the offsets do not cut the items into one part per user"
    elif len(items) and (items.min() < 0 or items.max() >= num_items):
        problem = f"there are items outside of 0 to {num_items - 1}"
    elif (train_end < 0).any() or (valid_end < train_end).any() or (histories.lengths < valid_end).any():
        problem = "a part of a history ends outside of it"
    if problem:
        raise ArtifactError(
            f"the histories cannot be used: {problem}",
            where=TABLE,
            expected="histories of the items of the data set",
            fix="prepare the data set again",
        )


def write_parquet(table: pl.DataFrame | pl.LazyFrame, path: Path) -> None:
    """Write a table; polars hides the operating system's refusal in the text of its error, here it is an OSError.

    Raises:
        OSError: With its number, such as ENOSPC where the disk is full.
    """
    try:
        # polars takes a leading ~ for the home folder.
        table.lazy().sink_parquet(path.absolute())
    except (pl.exceptions.PolarsError, OSError) as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def _check_columns(table: pa.Table) -> None:
    """Refuse a table whose arrays cannot be taken as they are."""
    table.validate(full=True)
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.type != COLUMNS.get(name) or column.null_count:
            raise ValueError(f"the column {name!r} is {column.type} with {column.null_count} empty cells")


def _present(name: str, histories: Histories) -> bool:
    return name != "timestamps" or histories.timestamps is not None


def _plain(table: pa.Table, name: str) -> np.ndarray:
    chunks = table.column(name).chunks
    return chunks[0].to_numpy(zero_copy_only=True) if chunks else np.empty(0, dtype=np.int64)


def _lists(table: pa.Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    chunk = table.column(name).chunk(0)
    return chunk.offsets.to_numpy(zero_copy_only=True), chunk.values.to_numpy(zero_copy_only=True)


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
