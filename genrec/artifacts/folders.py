"""Folders that stages write: whole or not at all.

A stage writes into a temporary folder next to its target; every file is hashed and fsynced, ``manifest.json`` comes
last. A new folder is renamed into place; an older one is exchanged with it in one step of the kernel, so that at every
instant one of the two is there. Where the file system cannot exchange, the older one is renamed out of the way first,
and :func:`recover` brings it back if the process dies between the two renames.
"""

import ctypes
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from genrec.artifacts import versions
from genrec.artifacts.contents import is_sealed, unlisted_entries
from genrec.artifacts.files import file_sha256, reporting_write_errors, sync, temporary_name, temporary_names
from genrec.artifacts.manifest import MANIFEST, FileRecord, Manifest, read_manifest, write_manifest
from genrec.artifacts.targets import check_folder_target, overwriting
from genrec.errors import ConfigError

# Linux: renameat2(AT_FDCWD, old, AT_FDCWD, new, RENAME_EXCHANGE). macOS: renamex_np(old, new, RENAME_SWAP).
_AT_FDCWD, _RENAME_EXCHANGE, _RENAME_SWAP = -100, 2, 2


class ArtifactFolder:
    """The folder being written: put files under ``path``, numbers worth knowing into ``counts``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counts: dict[str, Any] = {}


@contextmanager
def write_artifact(
    target: Path,
    stage: str,
    *,
    config: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
    seed: int | None = None,
) -> Iterator[ArtifactFolder]:
    """Write a stage's folder atomically; on any error the target is as it was.

    Args:
        target: Folder to create, or to replace where :mod:`genrec.artifacts.targets` allows it.
        stage: What the folder is: ``dataset``, ``features``, ``tokenizer``, ``model`` ...
        config: The resolved settings it was made with.
        inputs: Fingerprints of what it was made from, by name.
        seed: The seed it was made with.

    Raises:
        ConfigError: If the target must not be replaced.
        ArtifactError: If the place cannot be written or the disk is full.
    """
    place = check_folder_target(target, stage)
    temporary = temporary_name(place)
    with reporting_write_errors(place):
        temporary.mkdir(parents=True)
        if place.exists():
            temporary.chmod(stat.S_IMODE(place.stat().st_mode))
    try:
        folder = ArtifactFolder(temporary)
        with reporting_write_errors(place):
            yield folder
            _finish(folder, stage, dict(config or {}), dict(inputs or {}), seed)
            # What is there now may not be what was there when the work began.
            check_folder_target(target, stage)
            _put_in_place(temporary, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def recover(place: Path) -> None:
    """Bring back a folder that a killed process had renamed out of the way, and remove what else it left there.

    Only while the lock of the place is held.
    """
    leftovers = temporary_names(place)
    old = [path for path in leftovers if path.suffix == ".old" and is_sealed(path)]
    if old and not os.path.lexists(place):
        os.rename(max(old, key=lambda path: path.stat().st_mtime), place)
    for path in leftovers:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def discard_folder(place: Path, stage: str) -> None:
    """Remove a stage's folder; one with anything in it that genrec did not write is left as it is."""
    with overwriting():
        try:
            check_folder_target(place, stage)
        except ConfigError:
            return
    shutil.rmtree(place, ignore_errors=True)


def _finish(
    folder: ArtifactFolder, stage: str, config: dict[str, Any], inputs: dict[str, str], seed: int | None
) -> None:
    """Permissions as the umask says, every byte on the disk, and the manifest."""
    mode = stat.S_IMODE(folder.path.stat().st_mode)
    files = {}
    for path in sorted(folder.path.rglob("*")):
        if path.is_file() and path != folder.path / MANIFEST:
            # Some libraries write files that only their owner can read.
            path.chmod(mode & 0o666)
            sync(path)
            name = path.relative_to(folder.path).as_posix()
            files[name] = FileRecord(size=path.stat().st_size, sha256=file_sha256(path))
    manifest = Manifest(
        stage=stage,
        config=config,
        inputs=inputs,
        counts=folder.counts,
        seed=seed,
        versions=versions.environment(),
        git_commit=versions.git_commit(),
        files=files,
    )
    write_manifest(folder.path, manifest)
    # The names of the files must be as lasting as their bytes before the folder takes its place.
    for path in (*folder.path.rglob("*"), folder.path):
        if path.is_dir():
            sync(path)


def _put_in_place(temporary: Path, place: Path) -> None:
    """Rename a finished folder to its place; a folder that is there ends up under the temporary name."""
    if not place.exists():
        # Fails, and loses nothing, if anything but an empty folder has come there in the meantime.
        os.rename(temporary, place)
    elif _exchange(temporary, place):
        if added := _added(temporary):
            _exchange(temporary, place)
            raise _came_late(place, added)
    else:
        aside = temporary_name(place, "old")
        os.rename(place, aside)
        try:
            if added := _added(aside):
                raise _came_late(place, added)
            os.rename(temporary, place)
        except BaseException:
            os.rename(aside, place)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    sync(place.parent)


def _added(replaced: Path) -> list[str]:
    """What came into a folder between the last look at it and its replacement."""
    if (replaced / MANIFEST).is_file():
        return unlisted_entries(replaced, read_manifest(replaced))
    return sorted(entry.name for entry in replaced.iterdir())


def _came_late(place: Path, added: list[str]) -> ConfigError:
    return ConfigError(
        f"{added[0]!r} came into {place} while this command worked",
        where="--out",
        expected="a folder with nothing added",
        fix="move it out of the folder, and run the same command again",
    )


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step; False where the system or the file system cannot."""
    call = _exchange_call()
    return call is not None and call(os.fsencode(one), os.fsencode(other)) == 0


@cache
def _exchange_call() -> Callable[[bytes, bytes], int] | None:
    library = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "linux" and hasattr(library, "renameat2"):
        return lambda one, other: library.renameat2(_AT_FDCWD, one, _AT_FDCWD, other, _RENAME_EXCHANGE)
    if sys.platform == "darwin" and hasattr(library, "renamex_np"):
        return lambda one, other: library.renamex_np(one, other, _RENAME_SWAP)
    return None
