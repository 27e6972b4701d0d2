"""Words that no other item has count as the known words that are spelled like them."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import TfidfVectorizer

# Runs of so many letters are compared, with a space at both ends of a word; of all the known words the nearest count.
LETTERS = (2, 4)
NEAREST = 10
_BLOCK_WORDS = 256


def borrowed_weights(texts: Sequence[Sequence[str]], terms: Sequence[str], rarity: np.ndarray) -> csr_array:
    """Weights of known terms for texts of which no word is known.

    Args:
        texts: The words of n texts.
        terms: V known terms; those of several words are not compared.
        rarity: float32 ``[V]``, weight of a term.

    Returns:
        float32 ``[n, V]`` with rows of length 1; empty rows where no known word shares letters with the text.
    """
    place = {term: number for number, term in enumerate(terms) if " " not in term}
    columns = np.fromiter(place.values(), dtype=np.int64, count=len(place))
    words = sorted({word for text in texts for word in text})
    likeness = _nearest(words, list(place))
    row_of = {word: row for row, word in enumerate(words)}
    entries = [(row, row_of[word]) for row, text in enumerate(texts) for word in dict.fromkeys(text)]
    rows, chosen = np.asarray(entries, dtype=np.int64).reshape(-1, 2).T
    holds = csr_array((np.ones(len(rows), dtype=np.float32), (rows, chosen)), shape=(len(texts), len(words)))
    found = csr_array(holds @ likeness).tocoo()
    weights = found.data * rarity[columns[found.col]]
    length = np.sqrt(np.bincount(found.row, weights=weights.astype(np.float64) ** 2, minlength=len(texts)))
    scaled = (weights / length[found.row]).astype(np.float32)
    return csr_array((scaled, (found.row, columns[found.col])), shape=(len(texts), len(terms)))


def _nearest(words: Sequence[str], known: Sequence[str]) -> csr_array:
    """Cosine of the letters of every word with those of its nearest known words, float32 ``[words, known]``."""
    shape = (len(words), len(known))
    if not words or not known:
        return csr_array(shape, dtype=np.float32)
    letters = TfidfVectorizer(
        analyzer="char_wb", ngram_range=LETTERS, lowercase=False, sublinear_tf=True, dtype=np.float32
    )
    others = csr_array(letters.fit_transform(known)).T.tocsr()
    rows, columns, values = [], [], []
    for start in range(0, len(words), _BLOCK_WORDS):
        block = csr_array(csr_array(letters.transform(words[start : start + _BLOCK_WORDS])) @ others)
        for row, (first, last) in enumerate(zip(block.indptr, block.indptr[1:], strict=False), start):
            own = slice(first, last)
            nearest = np.lexsort((block.indices[own], -block.data[own]))[:NEAREST]
            rows.append(np.full(len(nearest), row))
            columns.append(block.indices[own][nearest])
            values.append(block.data[own][nearest])
    return csr_array((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=shape)
