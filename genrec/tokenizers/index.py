"""The only truth of item <-> codes: which semantic ID each item of the catalogue has."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import InitVar, dataclass
from functools import cached_property
from pathlib import Path
from typing import cast, get_args

import numpy as np
import polars as pl

from genrec.artifacts import read_json, write_file, write_json
from genrec.artifacts.reading import reading
from genrec.data.arrow import write_parquet
from genrec.data.parquet import read_parquet
from genrec.errors import ArtifactError, first_rows
from genrec.tokenizers.base import Kind
from genrec.tokenizers.trie import Trie, build_trie, is_trie_of, refuse_prefixes
from genrec.tokenizers.trie.edit import extend_trie, rank_in_leaf, shrink_trie
from genrec.tokenizers.trie.file import TRIE_FILE, load_trie, save_trie

CODES_FILE = "codes.parquet"
INDEX_FILE = "index.json"


@dataclass(frozen=True, eq=False)
class ItemIndex:
    """Semantic IDs of a whole catalogue.

    Args:
        codes: int32 ``[N, L]``; row i is the semantic ID of dense item i; -1 fills the tail of a shorter one.
            Read-only.
        level_sizes: Codebook size K_l of every level, length L.
        item_ids: External id of every dense item, length N, no two alike.
        kind: ``sequence`` if the codes are read in order, ``set`` if they are side by side.
        priority: int32 ``[N]``, the rank of every item among those that share its semantic ID (0 comes first); by
            position if None.
        known_trie: The trie of these semantic IDs, if there is one already; built at first use if None.

    Raises:
        ArtifactError: If shapes disagree, a code is out of range, an id occurs twice, or one semantic ID of a catalogue
            with semantic IDs of different lengths is the beginning of another.
    """

    codes: np.ndarray
    level_sizes: tuple[int, ...]
    item_ids: list[str]
    kind: Kind = "sequence"
    priority: np.ndarray | None = None
    known_trie: InitVar[Trie | None] = None

    def __post_init__(self, known_trie: Trie | None) -> None:
        codes = np.asarray(self.codes)
        object.__setattr__(self, "level_sizes", tuple(int(size) for size in self.level_sizes))
        _check_shape(codes, self.level_sizes, self.item_ids, self.kind)
        _check_codes(codes, self.level_sizes)
        _check_ids(self.item_ids)
        codes = np.ascontiguousarray(codes, dtype=np.int32).view()
        codes.setflags(write=False)
        object.__setattr__(self, "codes", codes)
        if known_trie is not None:
            self.__dict__["trie"] = known_trie
        if self.variable_length:
            _ = self.trie

    @property
    def num_items(self) -> int:
        """N, the size of the catalogue."""
        return self.codes.shape[0]

    @property
    def num_levels(self) -> int:
        """L, the number of codes of the longest semantic ID."""
        return self.codes.shape[1]

    @property
    def variable_length(self) -> bool:
        """Whether some semantic ID is shorter than L."""
        return bool((self.codes[:, -1] < 0).any())

    @cached_property
    def trie(self) -> Trie:
        """The tree of all semantic IDs: mapped from the folder it was loaded from, or built at first use."""
        return build_trie(self.codes, self.level_sizes, self.priority)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over codes, level sizes, kind and item ids: equal indexes have equal fingerprints."""
        header = json.dumps([list(self.codes.shape), list(self.level_sizes), self.kind])
        digest = hashlib.sha256(header.encode())
        digest.update(self.codes.astype("<i4", copy=False).data)
        digest.update(json.dumps(self.item_ids).encode())
        if self.priority is not None:
            digest.update(self.priority.astype("<i4", copy=False).tobytes())
        return digest.hexdigest()

    def semantic_id(self, item: int) -> tuple[int, ...]:
        """The codes of one dense item, without the filled tail."""
        return tuple(int(code) for code in self.codes[item] if code >= 0)

    def extended(self, codes: np.ndarray, item_ids: Sequence[str]) -> "ItemIndex":
        """The index with further items after the old ones, which keep their numbers; the trie is not built again.

        Args:
            codes: int ``[n, L]``; -1 fills the tail of a shorter semantic ID. A semantic ID that is taken is shared:
                the new item comes after the old ones.
            item_ids: External ids of the new items.

        Raises:
            ArtifactError: If shapes disagree, a code is out of range, an id is taken, or one semantic ID would be the
                beginning of another.
        """
        codes = np.asarray(codes)
        _check_shape(codes, self.level_sizes, item_ids, self.kind)
        _check_codes(codes, self.level_sizes)
        stacked = np.concatenate([self.codes, codes.astype(np.int32)])
        trie = extend_trie(self.trie, stacked)
        return self._edited(stacked, [*self.item_ids, *item_ids], trie)

    def without(self, items: np.ndarray) -> "ItemIndex":
        """The index without some items; the others are numbered anew in their order and the trie is not built again.

        Args:
            items: Dense items to remove, int ``[n]``.

        Raises:
            ArtifactError: If there is no such item, or none would be left.
        """
        items = np.asarray(items, dtype=np.int64).reshape(-1)
        wrong = items[(items < 0) | (items >= self.num_items)]
        if len(wrong):
            raise ArtifactError(f"there is no item {int(wrong[0])}", expected=f"items 0 to {self.num_items - 1}")
        kept = np.ones(self.num_items, dtype=np.bool_)
        kept[items] = False
        if not kept.any():
            raise ArtifactError("no item would be left", expected="at least one item that stays")
        names = [name for name, stays in zip(self.item_ids, kept.tolist(), strict=True) if stays]
        return self._edited(self.codes[kept], names, shrink_trie(self.trie, kept))

    def _edited(self, codes: np.ndarray, item_ids: list[str], trie: Trie) -> "ItemIndex":
        priority = None if self.priority is None else rank_in_leaf(trie)
        return ItemIndex(codes, self.level_sizes, item_ids, self.kind, priority, trie)

    def save(self, folder: Path) -> None:
        """Write ``codes.parquet`` (item_id, code_0 ..), ``trie.safetensors`` and ``index.json``, each atomically.

        Raises:
            ArtifactError: If the place cannot be written or the disk is full.
        """
        columns: dict[str, pl.Series] = {"item_id": pl.Series(self.item_ids, dtype=pl.String)}
        for level in range(self.num_levels):
            columns[f"code_{level}"] = pl.Series(np.ascontiguousarray(self.codes[:, level]))
        if self.priority is not None:
            columns["priority"] = pl.Series(np.ascontiguousarray(self.priority))
        with write_file(folder / CODES_FILE) as path:
            write_parquet(pl.DataFrame(columns), path)
        if self.kind == "sequence":
            save_trie(folder / TRIE_FILE, self.trie, self.fingerprint)
        description = {
            "kind": self.kind,
            "level_sizes": list(self.level_sizes),
            "num_items": self.num_items,
            "fingerprint": self.fingerprint,
        }
        write_json(folder / INDEX_FILE, description)

    @classmethod
    def load(cls, folder: Path) -> "ItemIndex":
        """Read what :meth:`save` wrote; the trie is mapped into memory, or built at first use if its file is missing.

        Raises:
            ArtifactError: If a file is missing, unreadable or does not belong to the others.
        """
        with reading(folder):
            return cls._load(folder)

    @classmethod
    def _load(cls, folder: Path) -> "ItemIndex":
        description = read_json(folder / INDEX_FILE)
        if not isinstance(description, dict) or not {"kind", "level_sizes", "fingerprint"} <= description.keys():
            raise ArtifactError(f"{INDEX_FILE} is not an item index", where=str(folder), fix="make the folder again")
        sizes = _stored_sizes(description["level_sizes"], folder)
        table = _read_codes(folder / CODES_FILE, len(sizes))
        priority = table["priority"].to_numpy() if "priority" in table.columns else None
        codes = table.drop("item_id", "priority", strict=False).to_numpy()
        saved = folder / TRIE_FILE
        trie = load_trie(saved, str(description["fingerprint"]), len(codes)) if saved.is_file() else None
        index = cls(codes, tuple(sizes), table["item_id"].to_list(), cast(Kind, description["kind"]), priority, trie)
        if index.fingerprint != description["fingerprint"]:
            raise ArtifactError(
                f"{CODES_FILE} and {INDEX_FILE} do not belong together",
                where=str(folder),
                expected=f"codes with fingerprint {str(description['fingerprint'])[:16]}...",
                fix="make the folder again, or restore both files",
            )
        if trie is not None:
            index._check_trie(trie, saved)
        return index

    def _check_trie(self, trie: Trie, path: Path) -> None:
        """The stored trie is derived from the codes: it must be theirs."""
        if not is_trie_of(trie, self.codes, self.level_sizes, self.priority):
            raise ArtifactError(
                f"{path.name} and {CODES_FILE} do not belong together",
                where=str(path),
                expected="the trie of the codes",
                fix="make the folder again, or delete this file: it is built from the codes where it is missing",
            )
        if trie.variable_length:
            refuse_prefixes(trie, self.codes)


def _read_codes(path: Path, num_levels: int) -> pl.DataFrame:
    if not path.is_file():
        raise ArtifactError(f"{path.name} is missing", where=str(path.parent), fix="make the folder again")
    columns = ["item_id", *(f"code_{level}" for level in range(num_levels))]
    try:
        table = read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        problem = str(error).splitlines()[0]
        raise ArtifactError(
            f"{path.name} is unreadable: {problem}", where=str(path), fix="make the folder again"
        ) from error
    found = table.columns[:-1] if table.columns[-1:] == ["priority"] else table.columns
    if found != columns or not all(table[name].dtype.is_integer() for name in table.columns[1:]):
        raise ArtifactError(
            f"{path.name} has the columns {', '.join(table.columns)}",
            where=str(path),
            expected=f"{', '.join(columns)}, the codes as integers",
            fix="make the folder again",
        )
    if sum(table.null_count().row(0)):
        raise ArtifactError(f"{path.name} has empty cells", where=str(path), fix="make the folder again")
    return table.with_columns(pl.col("item_id").cast(pl.String), pl.exclude("item_id").cast(pl.Int32))


def _stored_sizes(sizes: object, folder: Path) -> list[int]:
    if isinstance(sizes, list) and sizes and all(type(size) is int and 0 < size < 2**31 for size in sizes):
        return sizes
    raise ArtifactError(
        f"{INDEX_FILE} has the level sizes {sizes!r}",
        where=str(folder),
        expected="one positive integer per level",
        fix="make the folder again",
    )


def _check_shape(codes: np.ndarray, level_sizes: Sequence[int], item_ids: Sequence[str], kind: str) -> None:
    if codes.ndim != 2 or not np.issubdtype(codes.dtype, np.integer):
        raise ArtifactError(
            f"codes are {codes.dtype} of shape {codes.shape}", expected="integers of shape [items, levels]"
        )
    if not codes.shape[0] or not codes.shape[1]:
        raise ArtifactError(f"codes have the shape {codes.shape}", expected="at least one item and one level")
    if codes.shape[1] != len(level_sizes):
        raise ArtifactError(f"codes have {codes.shape[1]} levels but there are {len(level_sizes)} level sizes")
    if codes.shape[0] != len(item_ids):
        raise ArtifactError(f"codes have {codes.shape[0]} rows but there are {len(item_ids)} item ids")
    if kind not in get_args(Kind):
        raise ArtifactError(f"the kind of an item index is {kind!r}", expected=" or ".join(get_args(Kind)))


def _check_codes(codes: np.ndarray, level_sizes: Sequence[int]) -> None:
    for level, size in enumerate(level_sizes):
        column = codes[:, level]
        # The first code must exist; once a shorter semantic ID has ended, nothing follows.
        wrong = (column >= size) | (column < (-1 if level else 0))
        if level:
            wrong |= (codes[:, level - 1] < 0) & (column >= 0)
        if wrong.any():
            rows = np.flatnonzero(wrong)
            raise ArtifactError(
                f"code {int(column[rows[0]])} at level {level} of item {int(rows[0])}",
                where=first_rows(rows.tolist()),
                expected=f"codes 0 to {size - 1}; -1 only after the end of a shorter semantic ID",
                fix="fit the tokenizer again",
            )


def _check_ids(item_ids: Sequence[str]) -> None:
    if len(set(item_ids)) == len(item_ids):
        return
    twice = next(name for name, count in Counter(item_ids).items() if count > 1)
    rows = [row for row, name in enumerate(item_ids) if name == twice]
    raise ArtifactError(f"item id {twice!r} is {len(rows)} times", where=first_rows(rows), expected="every item once")
