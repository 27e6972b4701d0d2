"""The mark by which a single file of genrec is known again: a run's report, lists, metrics, a model card.

The mark is a short text at the start or end of the file, in whatever place the format keeps for such things: a comment,
a key, the metadata of a Parquet or PNG file. Texts that people may edit end with a comment that also holds their hash.
"""

import hashlib
import re
from pathlib import Path

MARK = "generated-by-genrec"
# Read at each end of a file; the metadata of the formats that we write lie there.
SEARCHED_BYTES = 1 << 16
_STAMP = re.compile(rf"\n<!-- {MARK} sha256=([0-9a-f]{{64}}) -->\n\Z")


def is_generated(path: Path) -> bool:
    """Whether a file carries the mark of genrec and, where the mark has a hash, is as genrec wrote it."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        ends = stream.read(SEARCHED_BYTES)
        stream.seek(max(size - SEARCHED_BYTES, 0))
        ends += stream.read()
    if MARK.encode() not in ends:
        return False
    return not has_stamp(path) or is_as_stamped(path)


def stamped(text: str) -> str:
    """A Markdown text with a last comment that holds the mark and the hash of what is above it."""
    return f"{text.rstrip()}\n\n<!-- {MARK} sha256={_digest(text)} -->\n"


def has_stamp(path: Path) -> bool:
    """Whether a text file ends with the comment of :func:`stamped`."""
    return _STAMP.search(_text(path)) is not None


def is_as_stamped(path: Path) -> bool:
    """Whether a text file is as :func:`stamped` made it."""
    text = _text(path)
    found = _STAMP.search(text)
    return found is not None and _digest(text[: found.start()]) == found[1]


def without_stamp(text: str) -> str:
    """The text that was given to :func:`stamped`, or the text itself."""
    return _STAMP.sub("", text).rstrip() + "\n"


def _digest(text: str) -> str:
    return hashlib.sha256(text.rstrip().encode()).hexdigest()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""
