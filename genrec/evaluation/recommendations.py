"""Scoring a file of recommendations that any system may have written."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from genrec.artifacts import MARK, write_file
from genrec.config import EvaluationConfig
from genrec.data.histories import Histories
from genrec.data.ids import check_id_types
from genrec.data.readers import read_table
from genrec.errors import DataError, first_rows
from genrec.evaluation.metrics import checked_ks, row_item_pairs
from genrec.evaluation.protocol import Part, Protocol, Result, score_lists

if TYPE_CHECKING:
    from genrec.data import Dataset

logger = logging.getLogger(__name__)
COLUMNS = ("user_id", "rank", "item_id")
MOST_RANKS = 2**31 - 1
# Key of the Parquet metadata in which measured lists say what made them.
DESCRIPTION = b"genrec"


@dataclass(frozen=True, eq=False)
class ReadLists:
    """Lists from a file, in dense ids.

    Attributes:
        recommended: int32 [R, K], best first, -1 = none or unknown item; rows as in ``dataset.evaluation(part)``.
        notes: What was found and ignored, in words.
    """

    recommended: np.ndarray
    notes: tuple[str, ...]


def score_recommendations(
    path: Path,
    dataset: "Dataset",
    part: Part = "test",
    config: EvaluationConfig | None = None,
    *,
    system: str | None = None,
) -> Result:
    """Measure a file of recommendations like any other system.

    Users of the part who are not in the file count as misses, and so do items outside the catalogue, which keep their
    place in the list. Only ks that the longest list reaches are measured.

    Args:
        path: See :func:`read_recommendations`.
        dataset: A prepared data set.
        part: Which held-out items.
        config: Which ks, how many bootstrap samples.
        system: What to call it; the file's name if None.

    Raises:
        DataError: If the file cannot be used.
    """
    config = config or EvaluationConfig()
    lists = read_recommendations(path, dataset, part)
    longest, notes = lists.recommended.shape[1], list(lists.notes)
    ks = tuple(k for k in checked_ks(config.ks) if k <= longest)
    if not ks:
        raise DataError(
            f"the longest list has {longest} items",
            where=str(path),
            expected=f"at least {min(config.ks)}, the smallest of evaluation.ks",
            fix="write longer lists or lower evaluation.ks",
        )
    if len(ks) < len(config.ks):
        notes.append(f"the longest list has {longest} items: metrics at larger k are left out")
    histories, targets = dataset.evaluation(part)
    if (lists.recommended >= 0).any() and not _listed_pairs(lists.recommended, targets, dataset.num_items):
        notes.append(
            f"no list has an item that is held out in the {part} part: all metrics are 0. Were the lists made from "
            "histories that contain these items, as those of `genrec run` and `genrec generate` are? `genrec evaluate "
            "--model` makes lists without them"
        )
    seen = _listed_pairs(lists.recommended, histories, dataset.num_items)
    if seen:
        notes.append(f"{seen} recommended items are in their user's history")
    for note in notes:
        logger.warning("%s: %s", path, note)
    protocol = Protocol.on(dataset, part, exclude_seen=seen == 0)
    config = config.model_copy(update={"ks": ks})
    return score_lists(system or path.name, lists.recommended, dataset, protocol, config, notes=notes)


def read_recommendations(path: Path, dataset: "Dataset", part: Part) -> ReadLists:
    """Read lists and put them into the order of a data set's part.

    Args:
        path: Parquet, CSV/TSV or JSON lines with ``user_id``, ``rank`` (1..k per user) and ``item_id``; other columns
            are ignored. A user with an empty list may have one row without rank and item.
        dataset: A prepared data set.
        part: Which users.

    Raises:
        DataError: If the file is missing, unreadable or empty, lacks a column, names a user that the data set does not
            have, ranks other than 1..k, or has an item twice in a list.
    """
    frame = _tidy(read_table(Path(path), "interactions"), str(path))
    users = pl.DataFrame({"user_id": dataset.user_ids}).with_row_index("user")
    items = pl.DataFrame({"item_id": dataset.item_ids}).with_row_index("item")
    frame = frame.join(users, on="user_id", how="left", maintain_order="left")
    _refuse(
        frame.filter(pl.col("user").is_null()),
        "the user {} is not in the data set",
        path,
        expected=f"user ids of {dataset.path}",
        fix="score the file on the data set that it was made for",
    )
    listed = frame.filter(pl.col("rank").is_not_null())
    _check_lists(listed, path)
    listed = listed.join(items, on="item_id", how="left", maintain_order="left")
    histories, _ = dataset.evaluation(part)
    recommended = _as_block(listed, histories, dataset.num_users)
    unknown = listed.filter(pl.col("item").is_null())
    others = np.setdiff1d(frame["user"].to_numpy(), histories.users)
    missing = np.setdiff1d(histories.users, frame["user"].to_numpy())
    notes = []
    if unknown.height:
        notes.append(
            f"{unknown.height} recommendations are of items outside the catalogue, such as {unknown['item_id'][0]!r}: "
            "they keep their place and count as misses"
        )
    if len(missing):
        notes.append(f"{len(missing)} of {len(histories)} users of the {part} part have no list: counted as misses")
    if len(others):
        notes.append(f"{len(others)} users of the file have nothing held out in the {part} part: ignored")
    return ReadLists(recommended, tuple(notes))


def write_measured(path: Path, result: Result, dataset: "Dataset", description: Mapping[str, Any]) -> None:
    """Write the lists that a result was measured on, as a file that :func:`read_recommendations` reads.

    Args:
        path: Parquet file to write.
        result: From :func:`genrec.evaluation.protocol.score_lists`, on ``dataset``.
        dataset: For the external ids.
        description: What made the lists, JSON-able; kept in the file's metadata.
    """
    assert result.recommended is not None
    listed = result.recommended
    # A row without rank and item says that a list is empty.
    empty = np.all(listed < 0, axis=1)
    row, place = np.nonzero((listed >= 0) | (empty[:, None] & (np.arange(listed.shape[1]) == 0)))
    missing = empty[row]
    columns = {
        "user_id": pa.array(dataset.user_ids, pa.string()).take(pa.array(result.evaluation.users[row])),
        "rank": pa.array((place + 1).astype(np.int32), mask=missing),
        "item_id": pa.array(dataset.item_ids, pa.string()).take(pa.array(listed[row, place], mask=missing)),
    }
    metadata = {b"generator": MARK.encode(), DESCRIPTION: json.dumps(description).encode()}
    with write_file(path) as temporary:
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), temporary)


def measured_description(path: Path) -> dict[str, Any] | None:
    """What :func:`write_measured` wrote down of the lists in a file; None for any other file."""
    try:
        found = (pq.read_schema(path).metadata or {}).get(DESCRIPTION)
        values = None if found is None else json.loads(found)
    except (pa.ArrowException, OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def _listed_pairs(recommended: np.ndarray, histories: Histories, num_items: int) -> int:
    """How many recommended items are in the row of their user."""
    listed = np.arange(len(recommended))[:, None] * num_items + recommended
    return int(np.isin(listed[recommended >= 0], row_item_pairs(histories, num_items)).sum())


def _tidy(frame: pl.DataFrame, where: str) -> pl.DataFrame:
    missing = [name for name in COLUMNS if name not in frame.columns]
    if missing:
        raise DataError(
            f"there is no column {missing[0]!r}",
            where=where,
            expected=f"the columns {', '.join(COLUMNS)}; there are {', '.join(frame.columns)}",
            fix="one row per user and item: rename the columns, and number each user's rows from 1, best first",
        )
    if frame.height == 0:
        raise DataError("there are no recommendations", where=where, expected="at least one row")
    check_id_types(frame, ("user_id", "item_id"), where)
    if frame.schema["rank"].is_nested():
        raise DataError(f"rank is {frame.schema['rank']}", where=where, expected="1, 2, ... k per user")
    frame = frame.select(COLUMNS).with_row_index("row", offset=1)
    rank = pl.col("rank").cast(pl.Float64, strict=False)
    if not frame.schema["rank"].is_numeric():
        frame = frame.with_columns(pl.col("rank").cast(pl.String))
    odd = frame.filter(
        pl.col("rank").is_not_null() & ~((rank == rank.round()) & rank.is_between(1, MOST_RANKS)).fill_null(False)
    )
    _refuse(odd, "the rank {} is not a whole number from 1 on", where, expected="1, 2, ... k per user", show="rank")
    frame = frame.with_columns(
        rank.cast(pl.Int64).alias("rank"), pl.col("user_id").cast(pl.String), pl.col("item_id").cast(pl.String)
    )
    empty = pl.col("rank").is_null() != pl.col("item_id").is_null()
    _refuse(
        frame.filter(pl.col("user_id").is_null() | empty),
        "a row lacks its user, rank or item",
        where,
        expected="all three (rank and item are both left out for an empty list)",
    )
    return frame


def _check_lists(listed: pl.DataFrame, path: Path) -> None:
    twice = listed.filter(
        pl.struct("user", "item_id").is_duplicated() & ~pl.struct("user", "item_id").is_first_distinct()
    )
    _refuse(twice, "a list names the item {} twice", path, expected="distinct items per user", show="item_id")
    ranks = listed.group_by("user_id", maintain_order=True).agg(
        pl.len().alias("count"), pl.col("rank").max().alias("last"), pl.col("rank").n_unique().alias("distinct")
    )
    odd = ranks.filter((pl.col("last") != pl.col("count")) | (pl.col("distinct") != pl.col("count")))
    if odd.height:
        user, count = odd["user_id"][0], odd["count"][0]
        raise DataError(
            f"{odd.height} users whose ranks are not 1..k, first user {user!r}",
            where=str(path),
            expected=f"the ranks 1..{count} for the {count} rows of this user, each once",
            fix="number every user's list from 1 without gaps",
        )


def _as_block(listed: pl.DataFrame, histories: Histories, num_users: int) -> np.ndarray:
    row_of_user = np.full(num_users, -1, dtype=np.int64)
    row_of_user[histories.users] = np.arange(len(histories))
    rows = row_of_user[listed["user"].to_numpy()]
    kept = rows >= 0
    ranks, items = listed["rank"].to_numpy(), listed["item"].cast(pl.Int64).fill_null(-1).to_numpy()
    block = np.full((len(histories), max(int(ranks[kept].max(initial=0)), 1)), -1, dtype=np.int32)
    block[rows[kept], ranks[kept] - 1] = items[kept]
    return block


def _refuse(
    bad: pl.DataFrame, what: str, path: Path | str, *, expected: str, fix: str = "", show: str = "user_id"
) -> None:
    if bad.height == 0:
        return
    raise DataError(
        what.format(repr(bad[show][0])), where=f"{path}, {first_rows(bad['row'].to_list())}", expected=expected, fix=fix
    )
