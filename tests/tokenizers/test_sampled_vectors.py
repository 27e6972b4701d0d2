"""Samples are drawn by seed, and blocks cover all rows."""

import numpy as np

from genrec.tokenizers.parts import sampling
from genrec.tokenizers.parts.sampling import draw_rows, row_blocks


def test_few_rows_are_all_taken_and_of_many_a_sample_without_repeats():
    assert draw_rows(4, 4, 0).tolist() == [0, 1, 2, 3]
    drawn = draw_rows(1000, 50, 3)
    assert len(set(drawn.tolist())) == 50
    assert (np.diff(drawn) > 0).all()
    np.testing.assert_array_equal(drawn, draw_rows(1000, 50, 3))
    assert drawn.tolist() != draw_rows(1000, 50, 4).tolist()


def test_blocks_cover_all_rows_once(monkeypatch):
    monkeypatch.setattr(sampling, "BLOCK_ROWS", 4)
    rows = np.arange(10)
    assert [rows[block].tolist() for block in row_blocks(10)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert list(row_blocks(0)) == []
