"""``trie.safetensors``: a trie as it is in memory, so that loading is mapping a file.

Pages are read when they are touched and shared by all processes that map the file. The safetensors library copies what
it reads into numpy, hence the few lines here that read its header.
"""

import json
import mmap
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from genrec.artifacts import write_file
from genrec.errors import ArtifactError
from genrec.tokenizers.trie import Trie

TRIE_FILE = "trie.safetensors"
DTYPES = {"U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "I32": np.int32}


def save_trie(path: Path, trie: Trie, fingerprint: str) -> None:
    """Write a trie, atomically; equal tries give equal bytes.

    Args:
        path: File to create or replace.
        trie: Level-order arrays.
        fingerprint: Of the item index that it belongs to.

    Raises:
        ArtifactError: If the place cannot be written or the disk is full.
    """
    arrays = {"leaf_start": trie.leaf_start, "leaf_items": trie.leaf_items}
    for depth in range(trie.num_levels):
        arrays[f"child_start_{depth}"] = trie.child_start[depth]
        arrays[f"child_code_{depth}"] = trie.child_code[depth]
    description = {
        "index": fingerprint,
        "level_sizes": list(trie.level_sizes),
        "variable_length": trie.variable_length,
    }
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with write_file(path) as temporary:
        # One entry: the library writes several in an order that differs from run to run.
        save_file(arrays, str(temporary), metadata={"trie": json.dumps(description, sort_keys=True)})


def load_trie(path: Path, fingerprint: str, num_items: int) -> Trie:
    """Map a trie into memory; nothing is built and pages are read when they are needed.

    Args:
        path: File written by :func:`save_trie`.
        fingerprint: Of the item index that it must belong to.
        num_items: N, the size of that index.

    Raises:
        ArtifactError: If the file is unreadable or belongs to another item index.
    """
    try:
        with path.open("rb") as stream:
            # Private pages: a tensor on them may be written to without touching the file.
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        header_end = 8 + int.from_bytes(mapped[:8], "little")
        header = json.loads(mapped[8:header_end])
        description = json.loads(header["__metadata__"]["trie"])
        found, sizes = description["index"], tuple(int(size) for size in description["level_sizes"])
        levels = range(len(sizes))
        trie = Trie(
            sizes,
            [_array(mapped, header, header_end, f"child_start_{depth}") for depth in levels],
            [_array(mapped, header, header_end, f"child_code_{depth}") for depth in levels],
            _array(mapped, header, header_end, "leaf_start"),
            _array(mapped, header, header_end, "leaf_items"),
            bool(description["variable_length"]),
        )
        whole = _sizes_agree(trie, num_items)
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise ArtifactError(
            f"{path.name} is not a readable trie", where=str(path), fix="make the folder again"
        ) from error
    if found != fingerprint or not whole:
        raise ArtifactError(
            f"{path.name} does not belong to the item index next to it",
            where=str(path),
            expected=f"the trie of the index {fingerprint[:16]}...",
            fix="make the folder again, or delete this file: it is built from the codes where it is missing",
        )
    return trie


def _array(mapped: mmap.mmap, header: dict[str, Any], header_end: int, name: str) -> np.ndarray:
    entry = header[name]
    first, last = entry["data_offsets"]
    dtype = np.dtype(DTYPES[entry["dtype"]])
    array: np.ndarray = np.frombuffer(mapped, dtype, (last - first) // dtype.itemsize, header_end + first)
    return array


def _sizes_agree(trie: Trie, num_items: int) -> bool:
    rows = [*trie.child_start, trie.leaf_start]
    entries = [*trie.child_code, trie.leaf_items]
    return (
        trie.num_items == num_items
        and all(len(start) - 1 == nodes for start, nodes in zip(rows, trie.num_nodes, strict=True))
        and all(int(start[-1]) == len(entry) for start, entry in zip(rows, entries, strict=True))
    )
