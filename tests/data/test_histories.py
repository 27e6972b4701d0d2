"""Histories against plain Python lists."""

import numpy as np
import pytest

from genrec.data import Histories, pad_histories
from genrec.data.histories import pad_time_deltas

LISTS = [[3, 1, 2], [], [7], [5, 5, 6, 0, 9]]


def with_timestamps() -> Histories:
    plain = Histories.from_lists(LISTS)
    return Histories(plain.users + 10, plain.offsets, plain.items, np.arange(9, dtype=np.int64) * 100)


def test_rows_are_the_lists_they_were_made_from():
    histories = Histories.from_lists(LISTS)
    assert [histories[row].tolist() for row in range(len(histories))] == LISTS
    assert histories[-1].tolist() == LISTS[-1]
    assert histories.lengths.tolist() == [3, 0, 1, 5]
    assert (histories.items.dtype, histories.offsets.dtype, histories.users.dtype) == (np.int32, np.int64, np.int64)
    with pytest.raises(IndexError):
        histories[4]


def test_rows_are_views():
    histories = Histories.from_lists(LISTS)
    assert np.shares_memory(histories[3], histories.items)


@pytest.mark.parametrize("rows", [[3, 0], [1], [], [2, 2, 3]])
def test_select_takes_rows_in_the_order_given(rows):
    histories = with_timestamps()
    chosen = histories.select(np.array(rows, dtype=np.int64))
    assert [chosen[row].tolist() for row in range(len(chosen))] == [LISTS[row] for row in rows]
    assert chosen.users.tolist() == [10 + row for row in rows]
    times = [histories.timestamps[histories.offsets[r] : histories.offsets[r + 1]].tolist() for r in rows]
    assert chosen.timestamps.tolist() == [time for row in times for time in row]


def test_select_accepts_a_mask():
    chosen = with_timestamps().select(np.array([True, False, False, True]))
    assert [chosen[0].tolist(), chosen[1].tolist()] == [LISTS[0], LISTS[3]]


@pytest.mark.parametrize("max_history", [1, 2, 3, 50])
def test_padding_keeps_the_last_items_to_the_left(max_history):
    rows = np.array([3, 1, 0, 2])
    items, lengths = pad_histories(Histories.from_lists(LISTS), rows, max_history)
    kept = [LISTS[row][-max_history:] for row in rows]
    width = max(len(row) for row in kept)
    assert lengths.tolist() == [len(row) for row in kept]
    assert items.tolist() == [row + [0] * (width - len(row)) for row in kept]
    assert items.dtype == lengths.dtype == np.int64


def test_a_batch_of_empty_histories_is_one_wide():
    items, lengths = pad_histories(Histories.from_lists([[], []]), np.array([0, 1]), 10)
    assert items.tolist() == [[0], [0]]
    assert lengths.tolist() == [0, 0]


def test_gaps_are_those_between_items_of_the_block():
    plain = Histories.from_lists(LISTS)
    times = np.array([100, 160, 160, 7, 50, -1, 90, 80, 1_000_000_080])
    histories = Histories(plain.users, plain.offsets, plain.items, times)
    rows = np.array([3, 1, 0, 2])
    # Unknown: the first of a row, next to an unknown time, and where time runs against the order.
    whole = [[-1, -1, -1, -1, 1_000_000_000], [-1] * 5, [-1, 60, 0, -1, -1], [-1] * 5]
    assert pad_time_deltas(histories, rows, 50).tolist() == whole
    assert pad_time_deltas(histories, rows, 2).tolist() == [[-1, 1_000_000_000], [-1, -1], [-1, 0], [-1, -1]]
    assert pad_time_deltas(plain, rows, 2).tolist() == [[-1, -1]] * 4
