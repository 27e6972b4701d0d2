"""The mark by which a single file of genrec is known again: a report, lists, metrics, a model card, a picture.

Texts and JSON carry a hash of themselves, so that what somebody edited counts as theirs. Parquet, safetensors and PNG
files carry the mark in their metadata, which other programs do not copy. Other formats have no place for it: to replace
such a file takes ``--overwrite``.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genrec.artifacts.files import fingerprint, plain_json, write_json

MARK = "generated-by-genrec"
_STAMP = re.compile(rf"\n(?:<!-- |# |% ){MARK} sha256=([0-9a-f]{{64}})(?: -->)?\n\Z")
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_BYTES = 4096
_LONGEST_HEADER = 1 << 24


def is_generated(path: Path) -> bool:
    """Whether genrec wrote a file and, in formats that people edit, no one changed it since."""
    check = {".parquet": _marked_parquet, ".safetensors": _marked_tensors, ".png": _marked_png, ".json": _marked_json}
    try:
        return check.get(path.suffix.lower(), is_as_stamped)(path)
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return False


def stamped(text: str, comment: str = "<!-- {} -->") -> str:
    """A text with a last comment that holds the mark and the hash of what is above it.

    Args:
        text: Markdown, HTML, YAML or LaTeX.
        comment: How a comment is written; ``# {}`` in YAML, ``% {}`` in LaTeX.
    """
    return f"{text.rstrip()}\n\n{comment.format(f'{MARK} sha256={_digest(text)}')}\n"


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


def write_result(path: Path, values: Mapping[str, Any]) -> None:
    """Write a file of figures: JSON with the mark and the hash of everything else in it, atomically."""
    values = {name: value for name, value in plain_json(values).items() if name != "generator"}
    write_json(path, {"generator": f"{MARK} sha256={fingerprint(values)}", **values})


def _marked_json(path: Path) -> bool:
    values = json.loads(path.read_bytes())
    return values.pop("generator") == f"{MARK} sha256={fingerprint(values)}"


def _marked_parquet(path: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return (pq.read_schema(path).metadata or {}).get(b"generator") == MARK.encode()
    except pa.ArrowException:
        return False


def _marked_tensors(path: Path) -> bool:
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(min(length, _LONGEST_HEADER)))
    return header["__metadata__"]["generator"] == MARK


def _marked_png(path: Path) -> bool:
    with path.open("rb") as stream:
        head = stream.read(_PNG_BYTES)
    return head.startswith(_PNG) and MARK.encode() in head


def _digest(text: str) -> str:
    return hashlib.sha256(text.rstrip().encode()).hexdigest()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
