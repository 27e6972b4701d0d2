"""Lists and held-out items as TREC run and qrels files, so that others can check the figures with their own tools.

``qrels.txt``: ``USER 0 ITEM 1``. Runs: ``USER Q0 ITEM RANK SCORE TAG``. Evaluators order by score, so the score is the
length of the list + 1 - rank. White space, control characters and ``%`` in ids are percent-encoded as in URLs.
"""

import re
from pathlib import Path
from urllib.parse import quote

import numpy as np

from genrec.data.histories import Histories

QRELS = "qrels.txt"
# What separates fields for some reader, and the sign of the encoding itself.
_UNSAFE = re.compile(r"[\s%\x00-\x20\x7f-\xa0]")


def trec_id(text: str) -> str:
    """An id without white space, one to one: ``%`` and white space become the hex codes of their bytes in UTF-8."""
    return _UNSAFE.sub(lambda found: quote(found[0], safe=""), text)


def write_qrels(path: Path, targets: Histories, user_ids: list[str], item_ids: list[str]) -> None:
    """Write the held-out items.

    Args:
        path: File to write.
        targets: R rows of held-out items; one that is held out twice is written once.
        user_ids: External ids by dense user.
        item_ids: External ids by dense item.
    """
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for row, user in enumerate(targets.users.tolist()):
            name = trec_id(user_ids[user])
            stream.writelines(f"{name} 0 {trec_id(item_ids[item])} 1\n" for item in np.unique(targets[row]).tolist())


def write_run(
    path: Path, recommended: np.ndarray, users: np.ndarray, user_ids: list[str], item_ids: list[str], tag: str
) -> None:
    """Write the lists of one run.

    A place without a known item that has items below it is written as ``%none-PLACE``, which no encoded id can be: left
    out, what is below it would move up. So is the first place of an empty list: without it, some tools leave the user
    out of the mean.

    Args:
        path: File to write.
        recommended: int [R, K], dense items, best first, -1 = none.
        users: int [R], dense user of each row.
        user_ids: External ids by dense user.
        item_ids: External ids by dense item.
        tag: Name of the run, without white space after encoding.
    """
    names, tag = [trec_id(item) for item in item_ids], trec_id(tag)
    places = np.arange(1, recommended.shape[1] + 1)
    lengths = np.maximum(np.where(recommended >= 0, places, 1).max(axis=1), 1)
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for user, listed, length in zip(users.tolist(), recommended.tolist(), lengths.tolist(), strict=True):
            name = trec_id(user_ids[user])
            for rank, item in enumerate(listed[:length], start=1):
                document = names[item] if item >= 0 else f"%none-{rank}"
                stream.write(f"{name} Q0 {document} {rank} {len(listed) + 1 - rank} {tag}\n")
