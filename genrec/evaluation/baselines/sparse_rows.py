"""Sparse matrices of items, row by row: sets of users' items, cells in falling order, the strongest of each row."""

import numpy as np
from scipy import sparse

from genrec.data.histories import Histories

CELLS_AT_ONCE = 8_000_000


def item_sets(histories: Histories, num_items: int) -> sparse.csr_array:
    rows = np.repeat(np.arange(len(histories)), histories.lengths)
    cells = np.unique(rows * num_items + histories.items)
    shape = (len(histories), num_items)
    return sparse.csr_array((np.ones(len(cells), np.float32), (cells // num_items, cells % num_items)), shape=shape)


def rows_at_once(num_items: int) -> int:
    # Few enough that row, score and column fit into one integer: see descending.
    return max(min(CELLS_AT_ONCE // num_items, 1 << (32 - num_items.bit_length())), 1)


def descending(row: np.ndarray, column: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells sorted by row, then by falling value, then by column; values are positive float32."""
    # The bits of a positive float32 order like the number: one integer per cell sorts ten times faster than three keys.
    width = int(column.max(initial=0)).bit_length()
    bits = np.int64(0x7FFFFFFF) - value.astype(np.float32).view(np.int32)
    keys = np.sort((row.astype(np.int64) << (31 + width)) | (bits << width) | column)
    value = (0x7FFFFFFF - (keys >> width & 0x7FFFFFFF)).astype(np.int32).view(np.float32)
    return keys >> (31 + width), keys & ((1 << width) - 1), value


def first_of_rows(matrix: sparse.csr_array, most: int) -> sparse.csr_array:
    lengths = np.diff(matrix.indptr)
    place = np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], lengths)
    starts = np.concatenate([[0], np.cumsum(np.minimum(lengths, most))])
    kept = place < most
    return sparse.csr_array((matrix.data[kept], matrix.indices[kept], starts), shape=matrix.shape)
