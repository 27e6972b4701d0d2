"""Words borrowed by their letters, against the cosine worked out from the letters themselves."""

import math

import numpy as np

from genrec.features.spelling import LETTERS, NEAREST, borrowed_weights

TERMS = ["box", "kettle", "kettle box", "kettles", "lamp", "lamps", "红"]
RARITY = np.array([1.0, 2.0, 9.0, 3.0, 1.5, 2.5, 4.0], dtype=np.float32)


def runs(word: str) -> list[str]:
    padded = f" {word} "
    return [
        padded[at : at + size] for size in range(LETTERS[0], LETTERS[1] + 1) for at in range(len(padded) - size + 1)
    ]


def likeness(word: str, known: list[str]) -> list[float]:
    frequency = {run: sum(run in runs(other) for other in known) for other in known for run in runs(other)}

    def vector(text: str) -> dict[str, float]:
        counts = {run: runs(text).count(run) for run in runs(text) if run in frequency}
        weights = {
            run: (1 + math.log(count)) * (math.log((1 + len(known)) / (1 + frequency[run])) + 1)
            for run, count in counts.items()
        }
        length = math.sqrt(sum(weight**2 for weight in weights.values())) or 1.0
        return {run: weight / length for run, weight in weights.items()}

    own = vector(word)
    return [sum(own.get(run, 0) * weight for run, weight in vector(other).items()) for other in known]


def test_weights_are_the_likeness_of_letters_times_rarity():
    known = [term for term in TERMS if " " not in term]
    found = borrowed_weights([["kettling"], ["lampe", "boxer"]], TERMS, RARITY).toarray()
    for row, words in zip(found, [["kettling"], ["lampe", "boxer"]], strict=True):
        total = np.sum([likeness(word, known) for word in words], axis=0) * np.delete(RARITY, 2)
        np.testing.assert_allclose(np.delete(row, 2), total / np.linalg.norm(total), atol=1e-6)
        assert row[2] == 0, "terms of several words are not compared"


def test_what_shares_no_letter_borrows_nothing():
    found = borrowed_weights([["зонт"], ["★"], []], TERMS, RARITY)
    assert found.shape == (3, len(TERMS))
    assert found.nnz == 0
    assert borrowed_weights([["lamp"]], [], np.zeros(0, dtype=np.float32)).shape == (1, 0)


def test_only_the_nearest_count_and_more_words_at_once_change_nothing():
    terms = [f"word{number:03d}" for number in range(300)]
    texts = [[f"wordy{number}"] for number in range(300)]
    rarity = np.ones(300, dtype=np.float32)
    together = borrowed_weights(texts, terms, rarity)
    assert (np.diff(together.tocsr().indptr) == NEAREST).all()
    alone = borrowed_weights(texts[270:271], terms, rarity).toarray()[0]
    np.testing.assert_array_equal(together.toarray()[270], alone)
