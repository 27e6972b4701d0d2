"""k-means and the rotation for every size and kind of vectors that faiss itself does not survive."""

import subprocess
import sys

import faiss
import numpy as np
import pytest

from genrec.errors import DataError
from genrec.tokenizers.parts.clustering import kmeans, learn_rotation

# What each line does to faiss without a guard: memory beyond its own (fewer vectors than numbers), an exception,
# a division by zero, an abort of the process. All in one process: whatever kills it fails the test.
SIZES = """
import numpy as np
from genrec.errors import DataError
from genrec.tokenizers.parts.clustering import kmeans, learn_rotation

random = np.random.default_rng(0)
for rows, width, parts, size in [
    (30, 48, 4, 16), (47, 48, 4, 16), (48, 48, 4, 16), (10, 16, 4, 4), (15, 16, 4, 4), (8, 16, 4, 16),
    (1, 1, 1, 1), (1, 4, 2, 1), (2, 3, 2, 2), (3, 5, 5, 256), (1, 7, 3, 8),
]:
    vectors = random.standard_normal((rows, width)).astype(np.float32)
    for sample in (vectors, np.asfortranarray(vectors), vectors.astype(np.float64), vectors * 0, vectors[::-1]):
        rotation = learn_rotation(sample, parts, size, 3)
        assert rotation.shape == (-(-width // parts) * parts, width), (rows, width, parts, size)
        np.testing.assert_allclose(rotation.T @ rotation, np.eye(width), atol=1e-4)
for rows, width, size in [(1, 1, 1), (10, 1, 3), (10, 4, 10), (7, 3, 2)]:
    vectors = random.standard_normal((rows, width)).astype(np.float32)
    for sample in (vectors, np.asfortranarray(vectors), vectors.astype(np.float64), vectors * 0 + 1):
        centroids = kmeans(sample, size, 5, seed=2**40)
        assert centroids.shape == (size, width) and np.isfinite(centroids).all()
four = random.standard_normal((40, 12)).astype(np.float32)
with_nan = four.copy()
with_nan[3, 2] = np.nan
for wrong in (four[:0], four[:, :0], four[0], with_nan, four * np.inf, four * 1e30):
    for call in (lambda: kmeans(wrong, 4, 5, 1), lambda: learn_rotation(wrong, 3, 8, 3)):
        try:
            call()
        except DataError:
            continue
        raise AssertionError(wrong)
print("survived")
"""


def test_no_size_and_no_kind_of_vectors_ends_the_process():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SIZES], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "survived"), done.stderr


def test_vectors_that_repeat_leave_the_rotation_as_good_as_it_was():
    # Three strong directions that cutting puts into one part; five vectors, of six numbers each.
    random = np.random.default_rng(1)
    vectors = (random.standard_normal((5, 6)) * [5, 5, 5, 0.1, 0.1, 0.1]).astype(np.float32)
    rotation = learn_rotation(vectors, 2, 4, 20)
    library = faiss.OPQMatrix(6, 2)
    library.niter, library.max_train_points = 20, 10
    library.pq = quantizer = faiss.ProductQuantizer(6, 2, 2)
    quantizer.cp.min_points_per_centroid = 1
    library.train(np.concatenate([vectors, vectors]))
    np.testing.assert_array_equal(rotation, faiss.vector_to_array(library.A).reshape(6, 6))
    rotated = vectors @ rotation.T
    spread = [((part - part.mean(axis=0)) ** 2).sum() for part in np.split(rotated, 2, axis=1)]
    assert max(spread) < 0.9 * sum(spread), "both parts have a share of what differs"


def test_a_catalogue_smaller_than_its_codebooks_is_named():
    with pytest.raises(DataError, match=r"(?s)shape \[3, 2\] cannot have 4 centroids.*at least 4 vectors.*smaller"):
        kmeans(np.ones((3, 2), dtype=np.float32), 4, 5, 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e19, 3e38])
def test_numbers_whose_distances_have_no_place_in_float32_are_refused(value):
    vectors = np.ones((4, 2), dtype=np.float32)
    vectors[2, 1] = value
    with pytest.raises(DataError, match=r"(?s)not finite, or so long.*shorter than 6\.5e\+18.*scale the vectors"):
        kmeans(vectors, 2, 5, 1)


def test_seeds_beyond_those_of_faiss_are_seeds_too():
    vectors = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    np.testing.assert_array_equal(kmeans(vectors, 4, 5, 2**32 + 7), kmeans(vectors, 4, 5, 7))
    assert not np.array_equal(kmeans(vectors, 4, 1, 7), kmeans(vectors, 4, 1, 2**31 + 7))
