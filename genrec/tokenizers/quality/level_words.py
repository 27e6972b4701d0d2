"""What the items of a code have in common, in the words of their titles."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, pairwise
from typing import Any

import numpy as np

from genrec.features.words import can_be_short, is_unspaced, words_of
from genrec.tokenizers.collisions import group_of
from genrec.tokenizers.parts.sampling import draw_rows

FIRST_CODES = 12
SECOND_CODES = 4
WORDS = 4
MAX_TITLES = 20_000
MAX_NODE_TITLES = 1000
SEED = 8191
SHORTEST = 3
STOP_WORDS = frozenset(("and", "for", "from", "into", "not", "the", "und", "with", "you", "your"))


def first_codes(codes: np.ndarray, titles: Sequence[str] | None) -> list[dict[str, Any]]:
    """The most frequent first codes, under each its most frequent second codes, in numbers and words.

    Args:
        codes: int ``[N, L]``; items without a second code are in none.
        titles: Title of every item; None if they have none, and then there are no words.

    Returns:
        Nodes of ``code``, ``items``, ``words`` (frequent in its titles and rare elsewhere) and, for first codes,
        ``children``; the largest node first.
    """
    everywhere = None if titles is None else _document_frequency(titles)

    def node(rows: np.ndarray, level: int) -> dict[str, Any]:
        described = {"code": int(codes[rows[0], level]), "items": len(rows), "words": []}
        if titles is not None and everywhere is not None:
            described["words"] = _telling_words([titles[row] for row in rows[:MAX_NODE_TITLES].tolist()], everywhere)
        return described

    nodes = []
    for rows in _largest_groups(np.arange(len(codes)), codes[:, 0], FIRST_CODES):
        children = []
        if codes.shape[1] > 1:
            named = rows[codes[rows, 1] >= 0]
            children = [node(inner, 1) for inner in _largest_groups(named, codes[named, 1], SECOND_CODES)]
        nodes.append({**node(rows, 0), "children": children})
    return nodes


def _largest_groups(rows: np.ndarray, codes: np.ndarray, limit: int) -> list[np.ndarray]:
    group = group_of(codes[:, None])
    sizes = np.bincount(group)
    largest = np.lexsort((np.arange(len(sizes)), -sizes))[:limit]
    return [rows[group == number] for number in largest]


def _document_frequency(titles: Sequence[str]) -> tuple[Counter[str], int]:
    rows = draw_rows(len(titles), MAX_TITLES, SEED)
    counted: Counter[str] = Counter()
    for row in rows.tolist():
        counted.update(_words(titles[row]))
    return counted, len(rows)


def _telling_words(titles: Sequence[str], everywhere: tuple[Counter[str], int]) -> list[str]:
    counted: Counter[str] = Counter()
    for title in titles:
        counted.update(_words(title))
    documents, total = everywhere
    weights = {word: count * float(np.log((total + 1) / (documents[word] + 1))) for word, count in counted.items()}
    telling = [word for word, count in counted.items() if weights[word] > 0 and (count > 1 or len(titles) == 1)]
    return sorted(telling, key=lambda word: (-weights[word], word))[:WORDS]


def _words(title: str) -> set[str]:
    """Words of some length and without digits; pairs of letters where a script has no spaces between words."""
    found: set[str] = set()
    for unspaced, run in groupby(words_of(title), is_unspaced):
        words = ["".join(pair) for pair in pairwise(run)] if unspaced else _long_words(run)
        found.update(words)
    return found - STOP_WORDS


def _long_words(words: Iterable[str]) -> Iterator[str]:
    for word in words:
        parts = [part for part in re.split(r"[\d_]+", word) if part]
        yield from (part for part in parts if len(part) >= SHORTEST or can_be_short(part))
