"""Words of item texts as numbers, without a vocabulary: a word's number is its checksum."""

from collections.abc import Sequence
from itertools import islice
from zlib import crc32

import numpy as np

from genrec.features.words import every_word

NO_WORD = -1


def hash_words(texts: Sequence[str], most: int, buckets: int) -> np.ndarray:
    """The first words of each text by number, so that texts never seen before have numbers, too.

    Args:
        texts: n texts; case does not matter, and neither does what is between words.
        most: W, words kept of each.
        buckets: How many numbers there are; words may share one.

    Returns:
        int32 ``[n, W]``, -1 after the last word.
    """
    numbers = np.full((len(texts), most), NO_WORD, dtype=np.int32)
    for row, text in enumerate(texts):
        words = (part for word in every_word(text) for part in word.split("_") if part)
        for place, word in enumerate(islice(words, most)):
            numbers[row, place] = crc32(word.encode()) % buckets
    return numbers
