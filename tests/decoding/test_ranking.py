import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from genrec.decoding import RankedItems, rank_items, top_items

values = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, 3e38, -3e38, float("-inf")]), st.floats(width=32)
).filter(lambda value: value == value and value != float("inf"))


@given(arrays.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 30)), elements=values), st.integers(1, 40))
@settings(max_examples=200, deadline=None)
def test_ranking_equals_sorting_by_score_then_item(scores, top_k):
    items = np.random.default_rng(0).choice(10_000_000, scores.shape[1], replace=False)
    found = rank_items(torch.from_numpy(scores), torch.from_numpy(items).expand(scores.shape), top_k)
    for row, line in enumerate(scores):
        order = sorted(range(len(line)), key=lambda column: (-line[column], items[column]))
        order = [column for column in order if line[column] != -np.inf][:top_k]
        missing = top_k - len(order)
        assert found.items[row].tolist() == [*items[order].tolist(), *[-1] * missing]
        assert found.scores[row].tolist() == [*line[order].tolist(), *[-np.inf] * missing]


def test_top_items_leaves_out_what_is_excluded_or_not_allowed():
    scores = torch.tensor([[5.0, 4, 3, 2, 1], [1, 1, 1, 1, 1]], dtype=torch.bfloat16)
    allowed = torch.tensor([True, True, True, False, True])
    found = top_items(scores, 3, torch.tensor([[0, -1, 0], [1, 2, 4]]), allowed)
    assert found.items.tolist() == [[1, 2, 4], [0, -1, -1]]
    assert found.scores.tolist() == [[4, 3, 1], [1, -np.inf, -np.inf]]
    assert scores[0, 0] == 5
    assert top_items(scores, 2).items.tolist() == [[0, 1], [0, 1]]


def test_nothing_is_an_empty_list_for_everybody():
    nothing = RankedItems.nothing(2, 3)
    assert nothing.items.tolist() == [[-1] * 3] * 2
    assert torch.isneginf(nothing.scores).all()
