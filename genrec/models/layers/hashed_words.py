"""Words of item texts as numbers, without a vocabulary: a word's number is its checksum."""

import re
from collections.abc import Sequence
from zlib import crc32

import numpy as np

WORD = re.compile(r"[^\W_]+")
NO_WORD = -1


def hash_words(texts: Sequence[str], most: int, buckets: int) -> np.ndarray:
    """The first words of each text by number, so that texts never seen before have numbers, too.

    Args:
        texts: n texts; case does not matter, and neither does what stands between words.
        most: W, words kept of each.
        buckets: How many numbers there are; words may share one.

    Returns:
        int32 ``[n, W]``, -1 behind the last word.
    """
    numbers = np.full((len(texts), most), NO_WORD, dtype=np.int32)
    for row, text in enumerate(texts):
        for place, word in zip(range(most), WORD.finditer(text.lower()), strict=False):
            numbers[row, place] = crc32(word.group().encode()) % buckets
    return numbers
