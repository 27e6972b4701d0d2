"""Where new items go in a catalogue whose semantic IDs are fixed, worked out by hand."""

import numpy as np
import pytest

from genrec.errors import ArtifactError, DataError
from genrec.tokenizers import ItemIndex
from genrec.tokenizers.collisions import Catalogue
from genrec.tokenizers.placement import place_catalogue, place_new_items

NO_COSTS = {"last_level_costs": lambda rows: np.zeros((len(rows), 1))}


def index_of(codes, sizes):
    return ItemIndex(np.array(codes, dtype=np.int32), sizes, [f"i{item}" for item in range(len(codes))])


def place(index, codes, policy, **costs):
    return place_new_items(index, np.array(codes, dtype=np.int32), policy, **(costs or NO_COSTS)).tolist()


def test_suffix_takes_the_lowest_free_one_and_then_the_least_crowded():
    index = index_of([[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 2]], (2, 2, 3))
    new = [[0, 0], [1, 0], [1, 1], [0, 0], [1, 0], [0, 0]]
    # Below (0, 0) the suffixes 0 and 1 are taken, below (1, 0) the suffix 2, below (1, 1) none.
    assert place(index, new, "suffix") == [[0, 0, 2], [1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 0, 1], [0, 0, 1]]


def test_suffix_without_a_level_of_suffixes_shares():
    index = index_of([[0, 0], [1, 1]], (2, 2))
    assert place(index, [[0, 0], [0, 1]], "suffix") == [[0, 0], [0, 1]]


def test_bucket_shares():
    index = index_of([[0, 0], [0, 0]], (2, 2))
    assert place(index, [[0, 0], [1, 1]], "bucket") == [[0, 0], [1, 1]]


def test_reassign_takes_the_nearest_free_code_below_the_prefix():
    index = index_of([[0, 1], [0, 2], [1, 0]], (2, 4))
    costs = {"last_level_costs": lambda rows: np.array([[3.0, 0.0, 1.0, 2.0]]).repeat(len(rows), axis=0)}
    # Below 0 the codes 1 and 2 are taken: the next nearest is 3, then 0; then the nearest of all is shared.
    assert place(index, [[0, 1], [1, 1], [0, 1], [0, 1]], "reassign", **costs) == [[0, 3], [1, 1], [0, 0], [0, 1]]


def test_error_names_the_rows_that_collide():
    index = index_of([[0, 0], [1, 1]], (2, 2))
    assert place(index, [[0, 1]], "error") == [[0, 1]]
    with pytest.raises(DataError, match=r"1 new items get codes that are taken.*the item 'i1'") as caught:
        place(index, [[0, 1], [1, 1]], "error")
    assert "row 2" in str(caught.value)
    with pytest.raises(DataError, match=r"2 new items .* another new item"):
        place(index, [[0, 1], [0, 1]], "error")


def test_codes_of_another_tokenizer_are_refused():
    with pytest.raises(ArtifactError, match="writes 1 codes, the item index has 3 levels"):
        place(index_of([[0, 0, 0]], (2, 2, 2)), [[0]], "suffix")


def place_all(policy, codes, sizes):
    """Codes and order within shared semantic IDs of a whole other catalogue."""
    names, nobody = [str(item) for item in range(len(codes))], np.zeros(len(codes), dtype=np.int64)
    catalogue = Catalogue(names, nobody, lambda rows: np.zeros((len(rows), sizes[-1])))
    named = place_catalogue(policy, np.array(codes, dtype=np.int32), sizes, catalogue)
    assert named.level_sizes == tuple(sizes)
    return named.codes.tolist(), named.priority.tolist()


def test_another_catalogue_has_as_many_suffixes_as_the_model_knows():
    """Of four items with equal codes and three suffixes, the last shares that of the first and comes after it."""
    codes, priority = place_all("suffix", [[1, 0], [1, 0], [0, 0], [1, 0], [1, 0]], (2, 1, 3))
    assert codes == [[1, 0, 0], [1, 0, 1], [0, 0, 0], [1, 0, 2], [1, 0, 0]]
    assert priority == [0, 0, 0, 0, 1]


def test_another_catalogue_shares_where_the_model_knows_no_suffix():
    assert place_all("suffix", [[1, 0], [1, 0]], (2, 1)) == ([[1, 0], [1, 0]], [0, 1])
    assert place_all("bucket", [[1, 0], [1, 0]], (2, 1)) == ([[1, 0], [1, 0]], [0, 1])


def test_another_catalogue_is_reassigned_or_refused_by_the_policy():
    assert place_all("reassign", [[1, 0], [1, 0]], (2, 2))[0] == [[1, 0], [1, 1]]
    with pytest.raises(DataError, match="2 items share their codes with another item"):
        place_all("error", [[1, 0], [1, 0]], (2, 1))
