"""The layout of ``recommendations.parquet``: one row per user and rank, one row group per block of users.

Lists are made as Parquet, and written as other formats at the end where the file's name asks for it.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genrec.data.parquet import scan_parquet
from genrec.decoding.generate import UserBlock
from genrec.errors import ConfigError

logger = logging.getLogger(__name__)

LISTS = [
    ("user_id", pa.string()),
    ("rank", pa.int32()),
    ("item_id", pa.string()),
    ("score", pa.float32()),
    ("short_by", pa.int32()),
]
EXPLANATIONS = [("codes", pa.list_(pa.int32())), ("code_log_probs", pa.list_(pa.float32()))]
BY_ITEM = [("item_log_prob", pa.float32())]
BY_TRANSITION = [("transition_log_prob", pa.float32())]
SEPARATORS = {".csv": ",", ".tsv": "\t"}
PARQUET = ("", ".parquet")
FORMATS = (".parquet", *SEPARATORS, ".jsonl")


def check_format(path: Path, *, explained: bool = False) -> None:
    """Refuse names of files whose ending says no format that lists can be written in.

    Args:
        path: Of the lists.
        explained: Whether they hold codes, which a table of plain values cannot hold.

    Raises:
        ConfigError: If so.
    """
    ending = path.suffix.lower()
    if ending not in (*PARQUET, *FORMATS):
        raise ConfigError(
            f"{path.name} does not say in which format the lists are wanted",
            where="--out",
            expected=f"a name that ends with one of {', '.join(FORMATS)}",
            fix=f"write {path.name}.parquet",
        )
    if explained and ending in SEPARATORS:
        raise ConfigError(
            f"{path.name} cannot hold explanations: an item has several codes",
            where="--explain",
            expected="a name that ends with .parquet or .jsonl",
            fix=f"write {path.with_suffix('.parquet').name}, or leave out --explain",
        )


def convert_lists(parquet: Path, target: Path, ending: str) -> None:
    """Write lists in another format, piece by piece.

    Args:
        parquet: The lists.
        target: File to write.
        ending: Which format: one of :data:`FORMATS`, not ``.parquet``.
    """
    lists = scan_parquet(parquet)
    separator = SEPARATORS.get(ending)
    if separator is None:
        lists.sink_ndjson(target)
    else:
        lists.sink_csv(target, separator=separator)


@dataclass
class Written:
    """What lists hold.

    Attributes:
        users: Users who have a list.
        short_users: Users with fewer than k items.
        empty_users: Users without any item.
    """

    users: int = 0
    short_users: int = 0
    empty_users: int = 0

    @classmethod
    def of(cls, block: UserBlock) -> "Written":
        """The counts of one block."""
        lengths = (block.items >= 0).sum(axis=1)
        return cls(len(lengths), int((lengths < block.items.shape[1]).sum()), int((lengths == 0).sum()))

    def add(self, other: "Written") -> None:
        """Count further lists."""
        self.users += other.users
        self.short_users += other.short_users
        self.empty_users += other.empty_users

    def warn(self) -> None:
        """Say so if lists are shorter than asked for."""
        if self.short_users:
            logger.warning(
                "%d of %d users get fewer items than asked for, %d of them none: no more of the items that they may "
                "get are left (see the column short_by)",
                self.short_users, self.users, self.empty_users,
            )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Names:
    """How dense numbers become external ids.

    Attributes:
        users: int64 ``[R]``, dense user of every row of the histories.
        user_ids: External ids by dense user.
        item_ids: External ids by dense item.
    """

    users: np.ndarray
    user_ids: pa.Array
    item_ids: pa.Array

    @classmethod
    def of(cls, users: np.ndarray, user_ids: Sequence[str], item_ids: Sequence[str]) -> "Names":
        """From any sequences of text."""
        return cls(users, pa.array(user_ids, pa.string()), pa.array(item_ids, pa.string()))


def schema_of(*, explained: bool = False, by_item: bool = False, by_transition: bool = False) -> pa.Schema:
    """Columns of the file.

    ``user_id``, ``rank`` (1..k), ``item_id``, ``score`` (natural log-probability of the semantic ID, or the score that
    ranked), ``short_by`` (how many items the user's list lacks; 0 if it is full). A user without any item has one row
    in which rank, item and score are null.

    Args:
        explained: With ``codes`` (the item's semantic ID) and ``code_log_probs`` (log p of each of its codes).
        by_item: With ``item_log_prob``, log p of the item by its item vector, which took part in the score.
        by_transition: With ``transition_log_prob``, log q of the item by transitions, which took part in the score.
    """
    optional = ((EXPLANATIONS, explained), (BY_ITEM, by_item), (BY_TRANSITION, by_transition))
    return pa.schema(LISTS + [column for columns, wanted in optional if wanted for column in columns])


def write_group(writer: pq.ParquetWriter, table: pa.Table) -> None:
    """Write the table of one block as one row group."""
    writer.write_table(table, row_group_size=max(table.num_rows, 1))


def block_table(block: UserBlock, names: Names) -> pa.Table:
    """The rows of one block; columns as in :func:`schema_of`."""
    present = block.items >= 0
    lengths = present.sum(axis=1)
    # One row per user and listed item, and one row with nulls for a user without any item.
    kept = present.copy()
    kept[:, 0] |= lengths == 0
    row, column = np.nonzero(kept)
    missing = ~present[row, column]
    columns = [
        names.user_ids.take(pa.array(names.users[block.rows][row])),
        pa.array((column + 1).astype(np.int32), mask=missing),
        names.item_ids.take(pa.array(block.items[row, column], mask=missing)),
        pa.array(block.scores[row, column], mask=missing),
        pa.array((block.items.shape[1] - lengths)[row].astype(np.int32)),
    ]
    if block.codes is not None and block.code_log_probs is not None:
        codes = block.codes[row, column]
        columns += [
            _lists(codes.astype(np.int32), codes >= 0, missing),
            _lists(block.code_log_probs[row, column], codes >= 0, missing),
        ]
    if block.item_log_probs is not None:
        columns.append(pa.array(block.item_log_probs[row, column], mask=missing))
    if block.transition_log_probs is not None:
        columns.append(pa.array(block.transition_log_probs[row, column], mask=missing))
    schema = schema_of(
        explained=block.codes is not None,
        by_item=block.item_log_probs is not None,
        by_transition=block.transition_log_probs is not None,
    )
    return pa.table(columns, schema=schema)


def _lists(values: np.ndarray, real: np.ndarray, missing: np.ndarray) -> pa.Array:
    """Rows of ``values [n, L]`` where ``real [n, L]`` as lists; null where ``missing [n]``."""
    offsets = np.concatenate([[0], np.cumsum(real.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values[real]), mask=pa.array(missing))
