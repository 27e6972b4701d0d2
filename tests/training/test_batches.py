"""Windows and their order against brute force."""

import numpy as np
import pytest
import torch

from genrec.data.histories import Histories
from genrec.training.batches import EpochBatches, EpochLoader, WindowDataset, cut_windows, update_rows

LISTS = [[0, 1, 2, 3, 4, 5, 6], [], [7], [8, 9, 10], [11, 12, 13, 14, 15, 16]]


def loader(workers: int, batch_size: int = 2, accumulation: int = 1) -> EpochLoader:
    windows = cut_windows(Histories.from_lists(LISTS), 3)
    batches = EpochBatches(windows.lengths, batch_size, accumulation, seed=1)
    return EpochLoader(WindowDataset(windows, 3), batches, workers)


def test_windows_are_full_at_the_newest_end():
    windows = cut_windows(Histories.from_lists(LISTS), 3)
    assert [windows[row].tolist() for row in range(len(windows))] == [
        [0],
        [1, 2, 3],
        [4, 5, 6],
        [7],
        [8, 9, 10],
        [11, 12, 13],
        [14, 15, 16],
    ]
    assert windows.users.tolist() == [0, 0, 0, 2, 3, 4, 4]


@pytest.mark.parametrize("size", [1, 2, 3, 6, 7, 50])
def test_every_item_is_in_exactly_one_window_and_nothing_is_copied(size: int):
    rng = np.random.default_rng(size)
    histories = Histories.from_lists([rng.integers(99, size=n).tolist() for n in rng.integers(0, 20, size=40)])
    windows = cut_windows(histories, size)
    assert np.shares_memory(windows.items, histories.items)
    assert windows.lengths.min() >= 1
    assert windows.lengths.max() <= size
    for user in range(40):
        pieces = [windows[row] for row in np.flatnonzero(windows.users == user)]
        assert np.concatenate([*pieces, []]).tolist() == histories[user].tolist()


def test_no_histories_give_no_windows():
    assert len(cut_windows(Histories.from_lists([[], []]), 4)) == 0
    assert len(cut_windows(Histories.from_lists([]), 4)) == 0


@pytest.mark.parametrize(("rows", "size"), [(1, 4), (8, 4), (1003, 4), (1003, 2000), (5, 1)])
def test_an_epoch_has_every_row_once_and_only_the_last_update_is_short(rows: int, size: int):
    lengths = np.random.default_rng(0).integers(1, 50, size=rows)
    updates = update_rows(lengths, size, seed=5, epoch=2)
    assert sorted(np.concatenate(updates).tolist()) == list(range(rows))
    assert all(len(update) == size for update in updates[:-1])


def test_the_order_is_a_function_of_seed_and_epoch():
    lengths = np.random.default_rng(0).integers(1, 50, size=500)
    first, again = (np.concatenate(update_rows(lengths, 8, 1, 0)) for _ in range(2))
    assert first.tolist() == again.tolist()
    for seed, epoch in [(1, 1), (2, 0)]:
        assert first.tolist() != np.concatenate(update_rows(lengths, 8, seed, epoch)).tolist()


def test_batches_hold_similar_lengths_but_come_in_mixed_order():
    lengths = np.random.default_rng(0).geometric(0.1, size=20_000)
    updates = update_rows(lengths, 64, 1, 0)[:-1]
    padded = sum(lengths[update].max() * len(update) for update in updates)
    assert padded < 1.1 * sum(lengths[update].sum() for update in updates)
    means = np.array([lengths[update].mean() for update in updates])
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.2


@pytest.mark.parametrize("rows", [64, 65, 71, 7])
def test_one_by_eight_and_eight_by_one_update_on_the_same_users(rows: int):
    lengths = np.random.default_rng(0).integers(1, 9, size=rows)
    whole, pieces = EpochBatches(lengths, 8, 1, seed=3), EpochBatches(lengths, 1, 8, seed=3)
    assert len(list(whole)) == len(whole) == whole.updates == pieces.updates
    assert len(list(pieces)) == len(pieces) == rows
    assert np.concatenate(list(whole)).tolist() == np.concatenate(list(pieces)).tolist()


def test_workers_change_nothing_and_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    alone, helped = loader(0), loader(2)
    for epoch in (0, 1):
        alone.set_epoch(epoch)
        helped.set_epoch(epoch)
        for one, two in zip(alone, helped, strict=True):
            assert one["items"].tolist() == two["items"].tolist()
            assert one["lengths"].tolist() == two["lengths"].tolist()
    assert torch.equal(before, torch.get_rng_state())


def test_a_batch_is_padded_on_the_right_with_lengths():
    dataset = loader(0).dataset
    batch = dataset.__getitems__(np.array([0, 1]))
    assert batch["items"].tolist() == [[0, 0, 0], [1, 2, 3]]
    assert batch["lengths"].tolist() == [1, 3]
    assert batch["items"].dtype == batch["lengths"].dtype == torch.int64
    assert dataset[1]["items"].tolist() == [[1, 2, 3]]
