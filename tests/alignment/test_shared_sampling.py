"""Sampling and scoring that several processes share: the pairs of one process, each block done once."""

import json
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE, STDOUT

import numpy as np
import pytest
import shared_sampling
import torch

from genrec.alignment import sampling
from genrec.decoding import generate
from genrec.distributed.world import World
from genrec.errors import DataError, GenrecError

HERE = Path(__file__).resolve().parent


def test_two_processes_make_the_pairs_of_one(tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "BLOCK_USERS", generate.BLOCK_USERS)
    threads, weights = torch.get_num_threads(), tmp_path / "weights.safetensors"
    alone, blocks = shared_sampling.pairs_of(tmp_path / "alone", weights)
    command = [sys.executable, str(HERE / "shared_sampling.py"), str(tmp_path)]
    with subprocess.Popen(command, stdout=PIPE, stderr=STDOUT, text=True) as second:
        with shared_sampling.together(tmp_path, 0):
            first, mine = shared_sampling.pairs_of(tmp_path / "first", weights)
        output, _ = second.communicate(timeout=120)
    torch.set_num_threads(threads)
    assert second.returncode == 0, output[-2000:]
    others = json.loads((tmp_path / "done.json").read_text())
    assert len(blocks) > 3
    assert sorted(mine + others) == sorted(blocks)
    assert mine == blocks[::2]
    for shared in (first, np.load(tmp_path / "pairs.npz")):
        assert sorted(shared) == sorted(alone)
        for name, values in alone.items():
            np.testing.assert_array_equal(shared[name], values, err_msg=name)


def test_every_row_is_worked_on_once_and_in_its_place(monkeypatch):
    monkeypatch.setattr(generate, "BLOCK_USERS", 4)
    calls = []

    def work(rows):
        calls.append(rows.tolist())
        return rows[:, None] * 10

    np.testing.assert_array_equal(sampling.by_blocks(10, work)[:, 0], np.arange(10) * 10)
    assert calls == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_failure_reaches_all_processes(monkeypatch):
    heard = []

    class Two(World):
        def gather(self, value):
            heard.append(value)
            return [value, None]

    monkeypatch.setattr(World, "current", classmethod(lambda cls: Two(0, 2)))
    with pytest.raises(GenrecError, match="process 1 could not do its share of the lists"):
        sampling.by_blocks(3, lambda rows: rows)

    def fails(rows):
        raise DataError("mine")

    with pytest.raises(DataError, match="mine"):
        sampling.by_blocks(3, fails)
    assert heard[-1] is None
