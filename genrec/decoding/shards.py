"""Shards: resumable list files, one per block of users, joined into the target when all are written.

Next to the target is a private folder with ``request.json`` (what the lists are made from), one Parquet file per block
and the commit lists ``commits-RANK.jsonl``, one per process: a line has a block's number, SHA-256 and counts.

Design choices:

- A block counts as done if a line says so and its file has that hash, so a torn file is never taken for whole. Price:
  files are hashed again when a run continues.
- Blocks do not depend on each other or on the process that makes them: a resumed run, with any number of processes,
  gives the same bytes.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from genrec.artifacts import (
    MARK,
    file_sha256,
    open_work_folder,
    read_json,
    remove_work_folder,
    reporting_write_errors,
    write_file,
    write_json,
)
from genrec.artifacts.files import replace_file
from genrec.decoding.generate import UserBlock, count_blocks
from genrec.decoding.output import PARQUET, Names, Written, block_table, convert_lists, write_group
from genrec.errors import ArtifactError

logger = logging.getLogger(__name__)

REQUEST_FILE = "request.json"
# From numbers of blocks to these blocks, in order.
Generate = Callable[[Sequence[int]], Iterator[UserBlock]]


@dataclass(frozen=True)
class Commit:
    """One line of a commit list.

    Attributes:
        block: Number of the block.
        sha256: Of its file.
        users: Users in it.
        short_users: Those with fewer than k items.
        empty_users: Those without any item.
    """

    block: int
    sha256: str
    users: int
    short_users: int
    empty_users: int


class Shards:
    """The private folder of lists that are being made.

    Args:
        target: The file that they become.
        blocks: How many blocks there are.
        rank: Number of the process that writes.
    """

    def __init__(self, target: Path, blocks: int, rank: int = 0) -> None:
        self.target, self.blocks = target.absolute(), blocks
        self.folder = self.target.with_name(f".{target.name}.parts")
        self._list = self.folder / f"commits-{rank}.jsonl"

    def open(self, request: Mapping[str, Any]) -> None:
        """Begin, or go on where an earlier process was stopped; by one process, before the others commit.

        Args:
            request: Everything that the lists depend on, JSON-able: lists made for another request are thrown away.

        Raises:
            ArtifactError: If the folder cannot be written or the disk is full.
        """
        request = json.loads(json.dumps(request))
        if self.folder.exists():
            earlier = self._request()
            changed = sorted(key for key in {*earlier, *request} if earlier.get(key) != request.get(key))
            if not changed:
                done = self.blocks - len(self.missing(range(self.blocks)))
                logger.info("continuing %s: %d of %d blocks of users are there", self.target.name, done, self.blocks)
                return
            if earlier:
                logger.warning(
                    "lists begun in %s were of another request (%s): all are made anew", self.folder, ", ".join(changed)
                )
            remove_work_folder(self.folder)
        open_work_folder(self.folder)
        try:
            write_json(self.folder / REQUEST_FILE, request)
        except ArtifactError:
            remove_work_folder(self.folder)
            raise

    def missing(self, blocks: Iterable[int]) -> list[int]:
        """Those of some blocks that are not there yet, whole."""
        commits = self._commits()
        return [number for number in blocks if self._whole(number, commits) is None]

    def commit(self, number: int, block: UserBlock, names: Names) -> None:
        """Write one block; it is done when its line is in the commit list.

        Raises:
            ArtifactError: If the folder cannot be written or the disk is full.
        """
        sink = pa.BufferOutputStream()
        table = block_table(block, names)
        with pq.ParquetWriter(sink, table.schema, compression="zstd") as writer:
            write_group(writer, table)
        content = sink.getvalue()
        commit = Commit(number, hashlib.sha256(content).hexdigest(), **asdict(Written.of(block)))
        temporary = self.folder / f"{number}.{os.getpid()}.part"
        with reporting_write_errors(self.target):
            # Not synced: a file that a power cut tore does not have the hash in its line.
            temporary.write_bytes(content)
            os.replace(temporary, self._path(number))
            with self._list.open("a", encoding="utf-8") as stream:
                # A line begins with the end of the line before, which may be torn.
                stream.write("\n" + json.dumps(asdict(commit)))

    def join(self, schema: pa.Schema) -> Written:
        """Make one file of all blocks, in order, one row group each, and remove the folder.

        Args:
            schema: Columns, for a file without any block.

        Raises:
            ArtifactError: If a block is missing or was changed; if the place cannot be written or the disk is full.
        """
        commits, written = self._commits(), Written()
        joined, marked = self.folder / "joined.parquet", schema.with_metadata({"generator": MARK})
        with write_file(joined) as temporary, pq.ParquetWriter(temporary, marked, compression="zstd") as writer:
            for number in range(self.blocks):
                commit = self._whole(number, commits)
                if commit is None:
                    raise ArtifactError(
                        f"block {number} of {self.blocks} is missing or was changed while the lists were made",
                        where=str(self.folder),
                        expected="that no one else writes there",
                        fix="run the same command again: it makes what is missing",
                    )
                write_group(writer, pq.read_table(self._path(number), partitioning=None))
                written.add(Written(commit.users, commit.short_users, commit.empty_users))
        ending = self.target.suffix.lower()
        if ending not in PARQUET:
            parquet, joined = joined, self.folder / f"joined{ending}"
            with write_file(joined) as temporary:
                convert_lists(parquet, temporary, ending)
        with reporting_write_errors(self.target):
            replace_file(joined, self.target)
        remove_work_folder(self.folder)
        written.warn()
        return written

    def _path(self, number: int) -> Path:
        return self.folder / f"{number}.parquet"

    def _whole(self, number: int, commits: Mapping[tuple[int, str], Commit]) -> Commit | None:
        """The commit of the file that is there; None if there is no file, or not the one that was committed."""
        path = self._path(number)
        return commits.get((number, file_sha256(path))) if path.is_file() else None

    def _commits(self) -> dict[tuple[int, str], Commit]:
        commits = (commit for path in sorted(self.folder.glob("commits-*.jsonl")) for commit in _read_commits(path))
        return {(commit.block, commit.sha256): commit for commit in commits}

    def _request(self) -> dict[str, Any]:
        try:
            request = read_json(self.folder / REQUEST_FILE)
        except ArtifactError:
            return {}
        return request if isinstance(request, dict) else {}


def write_recommendations(
    path: Path, generate: Generate, names: Names, *, schema: pa.Schema, request: Mapping[str, Any]
) -> Written:
    """Write the lists of all users by this one process; rerun after a kill it makes what is missing.

    Args:
        path: File to create or replace; it appears when all lists are there.
        generate: Makes blocks.
        names: External ids.
        schema: Columns of what is made.
        request: Everything that the lists depend on, JSON-able.

    Raises:
        ArtifactError: If the folder cannot be written or the disk is full.
    """
    shards = Shards(path, count_blocks(len(names.users)))
    shards.open(request)
    commit_blocks(shards, generate, names, range(shards.blocks))
    return shards.join(schema)


def commit_blocks(shards: Shards, generate: Generate, names: Names, numbers: Iterable[int]) -> None:
    """Make those of a process's blocks that are missing.

    Args:
        shards: Where they go.
        generate: Makes blocks.
        names: External ids.
        numbers: Blocks of this process.

    Raises:
        ArtifactError: If the folder cannot be written or the disk is full.
    """
    missing = shards.missing(numbers)
    if not missing:
        return
    for number, block in zip(missing, generate(missing), strict=True):
        shards.commit(number, block, names)


def _read_commits(path: Path) -> Iterator[Commit]:
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield Commit(**json.loads(line))
        except (json.JSONDecodeError, TypeError):
            # Torn by a kill in the middle of the line: that block is made again.
            continue
