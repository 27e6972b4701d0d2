import numpy as np

from genrec.data.histories import Histories
from genrec.reports.content import Example, Listed, make_examples


def test_examples_are_in_titles_and_mark_what_was_held_out(tiny_dataset, lists):
    histories, targets = tiny_dataset.evaluation("test")
    found = make_examples(tiny_dataset, histories, *lists, targets=targets, count=5, top_k=10, seed=3)
    assert len(found) == len({example.user for example in found}) == 5
    for example in found:
        row = histories.users.tolist().index(tiny_dataset.user_ids.index(example.user))
        assert example.history == tuple(tiny_dataset.title(item) for item in histories[row][-12:])
        assert example.history_length == len(histories[row])
        assert [item.title for item in example.recommended] == [tiny_dataset.title(item) for item in lists[0][row]]
        assert [item.score for item in example.recommended] == lists[1][row].tolist()
        assert example.held_out == (tiny_dataset.title(targets[row][0]),)
        hits = [place for place, item in enumerate(lists[0][row], start=1) if item == targets[row][0]]
        assert example.place == (hits[0] if hits else None)
    assert found[0].place is not None
    again = make_examples(tiny_dataset, histories, *lists, targets=targets, count=5, seed=3)
    assert again == found
    assert make_examples(tiny_dataset, histories, *lists, targets=targets, count=5, seed=4) != found


def test_examples_without_scores_hits_or_targets(tiny_dataset):
    histories = Histories.from_lists([[0, 1]])
    lists = np.array([[3, -1]])
    (example,) = make_examples(tiny_dataset, histories, lists)
    assert example.recommended == (Listed(tiny_dataset.title(3), None, False),)
    assert example.held_out == ()
    assert example.place is None
    (missed,) = make_examples(tiny_dataset, histories, lists, targets=Histories.from_lists([[9]]))
    assert missed.held_out == (tiny_dataset.title(9),)
    assert make_examples(tiny_dataset, histories, lists, count=0) == []


def test_place_counts_from_one():
    example = Example("u", (), 0, (Listed("a"), Listed("b", held_out=True)))
    assert example.place == 2
