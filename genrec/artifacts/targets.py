"""The rule for what may be written where: every verb and script asks it before any work.

* A target may be created, or be an empty folder.
* A folder is replaced only if genrec wrote it, as the same stage, and nothing in it was changed or added since.
  ``--overwrite`` (:func:`overwriting`) also replaces changed folders and other stages, but never a folder that holds a
  file that genrec did not write.
* A file is replaced only if genrec wrote it, or with ``--overwrite``.
* Whatever is read, contains what is read, or is inside a finished folder of genrec is never a target; neither are
  devices, links to nothing, the working folder and its parents.
* Files and folders are compared by what they are, not by name: links of any kind, bind mounts and letter case.
* A link to a folder or file is followed: what it points to is the target.
"""

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from genrec.artifacts.contents import changed_files, is_sealed, unlisted_entries
from genrec.artifacts.manifest import MANIFEST, Manifest, read_manifest
from genrec.artifacts.marks import is_generated
from genrec.errors import ArtifactError, ConfigError

# In folders that hold work in progress next to other things: runs, checkpoints, iterations.
WORK_MARKER = ".genrec"
OTHER_OUT = "give another --out"
# Bytes. File systems allow 255, and what is written next to a target has its name and an ending.
LONGEST_NAME = 200

_OVERWRITE: ContextVar[bool] = ContextVar("overwrite", default=False)


@contextmanager
def overwriting(allowed: bool = True) -> Iterator[None]:
    """Replace changed folders, other stages' folders and files while entered; the option ``--overwrite``."""
    token = _OVERWRITE.set(allowed)
    try:
        yield
    finally:
        _OVERWRITE.reset(token)


def is_overwriting() -> bool:
    """Whether :func:`overwriting` is entered."""
    return _OVERWRITE.get()


def check_folder_target(target: Path, stage: str, *, reads: Iterable[Path | None] = ()) -> Path:
    """Refuse a place where a stage's folder must not be written.

    Args:
        target: The folder to create or replace.
        stage: What it will be.
        reads: Files and folders that the work reads.

    Returns:
        The place with links followed; it exists only if it may be replaced or is empty.

    Raises:
        ConfigError: With what is there.
    """
    place = _checked_place(target, reads)
    if not place.exists():
        return place
    if not place.is_dir():
        raise _refusal(target, f"is {_kind_of(place)}", f"a new or empty folder, or a {stage} folder of genrec")
    if os.path.ismount(place):
        raise _refusal(target, "is a mount point", "a folder below it", f"write {target / stage}")
    working = _working_folder()
    if working is not None and any(_same(place, folder) for folder in (working, *working.parents)):
        what = "is the working folder" if _same(place, working) else "contains the working folder"
        raise _refusal(target, what, "a folder below it", f"write {target / stage}")
    if any(place.iterdir()):
        _check_replaceable(target, place, stage)
    return place


def check_file_target(target: Path, *, reads: Iterable[Path | None] = ()) -> Path:
    """Refuse a place where a result file must not be written.

    Args:
        target: The file to create or replace.
        reads: Files and folders that the work reads.

    Returns:
        The place with links followed.

    Raises:
        ConfigError: With what is there.
    """
    place = _checked_place(target, reads)
    if place.is_dir():
        raise _refusal(target, "is a folder", "a file", f"write a file in it, such as {target / 'NAME'}")
    if place.exists() and not place.is_file():
        raise _refusal(target, f"is {_kind_of(place)}", "a new file, or one that genrec wrote")
    if place.is_file() and not is_generated(place) and not _OVERWRITE.get():
        raise _refusal(
            target,
            "is a file that genrec did not write",
            "a new file, or one that genrec wrote",
            f"{OTHER_OUT}, or --overwrite to replace the file",
        )
    return place


def check_work_folder(folder: Path, *, reads: Iterable[Path | None] = ()) -> Path:
    """Refuse a folder that is to hold a run or other work in progress, but holds something else.

    Args:
        folder: Absent, empty, or used for the same before (it then has the file ``.genrec``).
        reads: Files and folders that the work reads; they may be inside, where nothing but own files is replaced.

    Returns:
        The place with links followed.

    Raises:
        ConfigError: With what is there.
    """
    place = _target_place(folder)
    _check_ancestors(folder, place)
    for read in filter(None, reads):
        if _same(real_place(read), place):
            raise _refusal(folder, "is read by this command", "another folder")
    if place.exists() and not place.is_dir():
        raise _refusal(folder, f"is {_kind_of(place)}", "a new or empty folder, or one of an earlier run")
    if place.is_dir() and any(place.iterdir()) and not (place / WORK_MARKER).is_file():
        first = min(entry.name for entry in place.iterdir())
        raise _refusal(
            folder,
            f"is not empty and was not made by genrec: it holds {first!r}",
            "a new or empty folder, or one of an earlier run",
        )
    return place


def paths_named(settings: Any) -> list[Path]:
    """The files and folders that exist and that settings name, however deep in them."""
    if isinstance(settings, str):
        try:
            return [Path(settings)] if settings and os.path.lexists(settings) else []
        except (OSError, ValueError):
            return []
    inner = settings.values() if isinstance(settings, Mapping) else settings
    if not isinstance(settings, Mapping | list | tuple):
        return []
    return [path for value in inner for path in paths_named(value)]


def real_place(path: Path) -> Path:
    """An absolute path without links and ``..``.

    Raises:
        ConfigError: If it is a link to nothing, or to itself.
    """
    try:
        place = Path(os.path.realpath(path))
    except OSError as error:
        raise ConfigError(f"{path} cannot be used: {error.strerror}", fix=OTHER_OUT) from error
    if os.path.islink(path) and not os.path.lexists(place):
        raise _refusal(path, f"is a link to {place}, which does not exist", "a link to a folder or file that exists")
    if os.path.islink(place):
        raise _refusal(path, "is a link to itself", "a link to a folder or file that exists")
    return place


def _target_place(target: Path) -> Path:
    """The target's place, if a file or folder can be made and found again there."""
    parts = target.parts
    for number in (number for number, part in enumerate(parts) if part == ".."):
        above = Path(*parts[:number])
        if not above.exists():
            raise _refusal(target, f"leads through {above}, which does not exist", "a path through folders that exist")
    place = real_place(target)
    if len(os.fsencode(place.name)) > LONGEST_NAME:
        raise ArtifactError(
            f"{target} has a name of {len(os.fsencode(place.name))} bytes",
            where="--out",
            expected=f"at most {LONGEST_NAME}: temporary names are longer, and file systems end at 255",
            fix=OTHER_OUT,
        )
    return place


def _checked_place(target: Path, reads: Iterable[Path | None]) -> Path:
    """The target's place, after a look at what it would do to what is read and to the folders above it."""
    place = _target_place(target)
    for given in filter(None, reads):
        read = real_place(given)
        if _same(read, place):
            raise _refusal(target, "is read by this command", "another place than its input")
        if any(_same(place, parent) for parent in read.parents):
            raise _refusal(target, f"contains {given}, which this command reads", "a place outside of its parents")
        if read.is_dir() and any(_same(read, parent) for parent in place.parents):
            raise _refusal(target, f"is inside {given}, which this command reads", "a place outside of it")
    _check_ancestors(target, place)
    return place


def _same(one: Path, other: Path) -> bool:
    """Whether two paths are one file or folder, also by a hard link, a bind mount or other letter case."""
    try:
        return one == other or os.path.samefile(one, other)
    except OSError:
        return False


def _check_ancestors(target: Path, place: Path) -> None:
    for parent in place.parents:
        if is_sealed(parent):
            raise _refusal(target, f"is inside {parent}, a finished folder of genrec", "a place outside of it")
        if os.path.lexists(parent) and not parent.is_dir():
            raise _refusal(target, f"is below {parent}, which is {_kind_of(parent)}", "a place below a folder")


def _check_replaceable(target: Path, place: Path, stage: str) -> None:
    allowed = f"a new or empty folder, or a {stage} folder of genrec"
    manifest = _manifest_of(place)
    if manifest is None:
        first = min(entry.name for entry in place.iterdir())
        raise _refusal(target, f"is a folder that genrec did not write: it holds {first!r}", allowed)
    foreign = unlisted_entries(place, manifest)
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise _refusal(
            target,
            f"holds {foreign[0]!r}{more}, which genrec did not write",
            f"a {stage} folder with nothing added",
            f"move it out of the folder, or {OTHER_OUT}",
        )
    if _OVERWRITE.get():
        return
    fix = f"{OTHER_OUT}, or --overwrite to replace the folder"
    if manifest.stage != stage:
        raise _refusal(target, f"holds a {manifest.stage}", allowed, fix)
    changed = changed_files(place, manifest)
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise _refusal(target, f"was changed since genrec wrote it: {changed[0]}{more}", f"an unchanged {stage}", fix)


def _manifest_of(folder: Path) -> Manifest | None:
    try:
        return read_manifest(folder) if (folder / MANIFEST).is_file() else None
    except ArtifactError:
        return None


def _working_folder() -> Path | None:
    try:
        return Path.cwd().resolve()
    except OSError:
        return None


def _kind_of(place: Path) -> str:
    mode = place.lstat().st_mode
    kinds = (
        (stat.S_ISREG, "a file"),
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISLNK, "a link"),
    )
    return next((name for test, name in kinds if test(mode)), "a device")


def _refusal(target: Path, what: str, expected: str, fix: str = OTHER_OUT) -> ConfigError:
    return ConfigError(f"{target} {what}", where="--out", expected=expected, fix=fix)
