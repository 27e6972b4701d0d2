"""``recommendations.parquet``: one row per user and rank, one row group per block of users, whole or not at all."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genrec.artifacts import write_file
from genrec.decoding.generate import Block

SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("rank", pa.int32()),
        ("item_id", pa.string()),
        ("score", pa.float32()),
        ("short_by", pa.int32()),
    ]
)


@dataclass
class Written:
    """What a file of recommendations holds.

    Attributes:
        users: Users in the file.
        short_users: Users with fewer than k items.
        empty_users: Users without any item.
    """

    users: int = 0
    short_users: int = 0
    empty_users: int = 0


def write_recommendations(
    path: Path,
    blocks: Iterable[Block],
    *,
    users: np.ndarray,
    user_ids: Sequence[str],
    item_ids: Sequence[str],
) -> Written:
    """Write lists as they are made; the file appears when all are there.

    Columns: ``user_id``, ``rank`` (1..k), ``item_id``, ``score`` (natural log-probability of the identifier, or the
    score that ranked), ``short_by`` (how many items the user's list lacks; 0 if it is full). A user without any item
    has one row in which rank, item and score are null.

    Args:
        path: File to create or replace.
        blocks: From :func:`genrec.decoding.generate.generate_blocks`.
        users: int64 ``[R]``, dense user of every row (``histories.users``).
        user_ids: External ids by dense user.
        item_ids: External ids by dense item.

    Raises:
        ArtifactError: If the place cannot be written or the disk is full.
    """
    written = Written()
    users_by_id, items_by_id = pa.array(user_ids, pa.string()), pa.array(item_ids, pa.string())
    with write_file(path) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
        for block in blocks:
            found = (block.items >= 0).sum(axis=1)
            dense = users[block.first : block.first + len(block.items)]
            table = _rows(block, dense, found, users_by_id, items_by_id)
            writer.write_table(table, row_group_size=max(table.num_rows, 1))
            written.users += len(found)
            written.short_users += int((found < block.items.shape[1]).sum())
            written.empty_users += int((found == 0).sum())
    return written


def _rows(block: Block, users: np.ndarray, found: np.ndarray, users_by_id: pa.Array, items_by_id: pa.Array) -> pa.Table:
    present = block.items >= 0
    kept = present.copy()
    kept[:, 0] |= found == 0
    row, column = np.nonzero(kept)
    missing = ~present[row, column]
    columns = [
        users_by_id.take(pa.array(users[row])),
        pa.array((column + 1).astype(np.int32), mask=missing),
        items_by_id.take(pa.array(block.items[row, column], mask=missing)),
        pa.array(block.scores[row, column], mask=missing),
        pa.array((block.items.shape[1] - found)[row].astype(np.int32)),
    ]
    return pa.table(columns, schema=SCHEMA)
