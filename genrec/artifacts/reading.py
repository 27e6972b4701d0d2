"""Reading what somebody else may have written: plain files only, and one kind of error for everything else.

Links, pipes, sockets and devices are no part of a finished folder: whoever follows a link reads, copies or uploads a
file that the folder does not hold.
"""

import os
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from errno import ENOMEM
from pathlib import Path

from genrec.errors import ArtifactError, ConfigError, DataError, GenrecError

AGAIN = "restore the folder, or make it again"
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


@contextmanager
def reading(place: Path) -> Iterator[None]:
    """Read the contents of a finished folder: whatever they make any library raise is an :class:`ArtifactError`.

    Settings and tables in a finished folder were checked when it was written, so a :class:`ConfigError` or
    :class:`DataError` about them is damage of the folder, too; one about a package that is not installed is not.

    Args:
        place: The folder or file, for the message.

    Raises:
        ArtifactError: In place of all errors but those of memory and genrec's own of other kinds; it names the place.
    """
    try:
        with computing(place), _os_errors(place):
            yield
    except (ConfigError, DataError) as error:
        if isinstance(error.__cause__, ImportError):
            raise
        raise _placed(error, place) from error
    except ArtifactError as error:
        if error.where:
            raise
        raise _placed(error, place) from error


@contextmanager
def computing(place: Path) -> Iterator[None]:
    """Compute with what was read from a folder: what does not fit together there is an :class:`ArtifactError`.

    Genrec's own errors pass, and so do those of the operating system: both may be about something else than the folder.

    Args:
        place: The folder or file, for the message.

    Raises:
        ArtifactError: In place of whatever else a library raises.
    """
    try:
        yield
    except (GenrecError, MemoryError, OSError):
        raise
    except Exception as error:
        if any(text in str(error).lower() for text in OUT_OF_MEMORY):
            raise
        raise _damaged(place, error) from error
    except BaseException as error:
        # What libraries written in Rust raise where they gave up; it is no Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise _damaged(place, error) from error


def plain_files(folder: Path) -> list[str]:
    """Names of all files below a folder, with ``/`` between the parts, sorted.

    Raises:
        ArtifactError: If anything in it is a link, pipe, socket or device, or cannot be listed.
    """
    names, waiting = [], [""]
    with _os_errors(folder):
        while waiting:
            inner = waiting.pop()
            with os.scandir(folder / inner) as entries:
                for entry in entries:
                    name = f"{inner}/{entry.name}" if inner else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(name)
                    elif entry.is_file(follow_symlinks=False):
                        names.append(name)
                    else:
                        raise _not_plain(folder, name, "a link" if entry.is_symlink() else "no plain file")
    return sorted(names)


def copy_plain(source: Path, target: Path, *, leave_out: Collection[str] = ()) -> None:
    """Copy a file, or a folder into a new or existing one.

    Args:
        source: A file or folder without links.
        target: Where to.
        leave_out: Names, relative to the folder, of files that are not copied.

    Raises:
        ArtifactError: If there are links, pipes, sockets or devices, or it cannot be read.
        OSError: If the target cannot be written.
    """
    if source.is_symlink():
        raise _not_plain(source.parent, source.name, "a link")
    if not source.is_dir():
        _copy_file(source, target)
        return
    target.mkdir(parents=True, exist_ok=True)
    for name in plain_files(source):
        if name not in leave_out:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            _copy_file(source / name, target / name)


def _copy_file(source: Path, target: Path) -> None:
    try:
        # Not followed even if a link has come there since the folder was listed.
        handle = os.open(source, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise ArtifactError(f"{source.name!r} cannot be read: {error.strerror}", where=str(source.parent)) from error
    with open(handle, "rb") as stream:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise _not_plain(source.parent, source.name, "no plain file")
        with target.open("wb") as copy:
            shutil.copyfileobj(stream, copy, 1 << 20)


@contextmanager
def _os_errors(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == ENOMEM:
            raise MemoryError(str(error)) from error
        name = Path(str(error.filename)).name if error.filename else ""
        what = f"{name!r} cannot be read" if name else "the folder cannot be read"
        raise ArtifactError(f"{what}: {error.strerror or _first_line(error)}", where=str(place), fix=AGAIN) from error


def _placed(error: GenrecError, place: Path) -> ArtifactError:
    where, fix = error.where or str(place), error.fix or AGAIN
    return ArtifactError(error.what, where=where, expected=error.expected, fix=fix)


def _damaged(place: Path, error: BaseException) -> ArtifactError:
    return ArtifactError(
        f"what is stored cannot be used: {type(error).__name__}: {_first_line(error)}", where=str(place), fix=AGAIN
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _not_plain(folder: Path, name: str, what: str) -> ArtifactError:
    return ArtifactError(
        f"{name!r} is {what}",
        where=str(folder),
        expected="plain files and folders: what a link leads to is not part of the folder",
        fix="delete it, or make the folder again",
    )
