"""One writer at a time: a lock on the target of a command, and what a killed command left there cleared away.

The lock is an empty hidden file next to the target. The kernel releases it when its process ends, however it ends; the
file goes with the lock. Everything temporary next to a target has its name, so that whoever holds the lock may clear
away what is left of a dead process.
"""

import fcntl
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from genrec.artifacts.files import TEMPORARY, rechecking, reporting_write_errors
from genrec.artifacts.folders import recover
from genrec.artifacts.targets import WORK_MARKER, check_file_target, check_folder_target, check_work_folder
from genrec.errors import ArtifactError, ConfigError


@contextmanager
def reserve_folder(target: Path, stage: str, *, reads: Iterable[Path | None] = (), lock: bool = True) -> Iterator[Path]:
    """Check a folder target (:func:`~genrec.artifacts.targets.check_folder_target`) and keep other writers out.

    Args:
        target: The folder that will be written.
        stage: What it will be.
        reads: Files and folders that the work reads.
        lock: Whether this process takes the lock; one process of several that work together does.

    Yields:
        The place with links followed.

    Raises:
        ConfigError: If the target must not be written.
        ArtifactError: If another process is writing it, or the place cannot be written.
    """
    reads = list(reads)
    place = check_folder_target(target, stage, reads=reads)
    seen = _identity(place)
    with _locked(place) if lock else nullcontext():
        if lock:
            recover(place)
        if _identity(place) != seen:
            # Brought back just now, or finished by another process between the check and the lock.
            check_folder_target(target, stage, reads=reads)
        yield place


@contextmanager
def reserve_file(target: Path, *, reads: Iterable[Path | None] = (), lock: bool = True) -> Iterator[Path]:
    """Check a file target (:func:`~genrec.artifacts.targets.check_file_target`) and keep other writers out.

    Arguments, what is yielded and what is raised: :func:`reserve_folder`.
    """
    reads = list(reads)
    place = check_file_target(target, reads=reads)
    with _locked(place) if lock else nullcontext():
        if lock:
            recover(place)
        check_file_target(target, reads=reads)
        with rechecking(place, lambda: check_file_target(target, reads=reads)):
            yield place


@contextmanager
def reserve_work_folder(folder: Path, *, reads: Iterable[Path | None] = ()) -> Iterator[Path]:
    """Make or reopen a folder for work in progress, such as a run, and keep other writers out.

    Arguments, what is yielded and what is raised: :func:`reserve_folder`.
    """
    reads = list(reads)
    place = check_work_folder(folder, reads=reads)
    foreign = place.exists() and not (place / WORK_MARKER).exists()
    open_work_folder(place, reads=reads)
    with _locked(place):
        for name in {found[1] for path in place.iterdir() if (found := TEMPORARY.fullmatch(path.name))}:
            recover(place / name)
        try:
            yield place
        finally:
            # A command that was refused leaves nothing new.
            if [path.name for path in place.iterdir()] == [WORK_MARKER]:
                with suppress(OSError):
                    (place / WORK_MARKER).unlink()
                    if not foreign:
                        place.rmdir()


def open_work_folder(folder: Path, *, reads: Iterable[Path | None] = ()) -> Path:
    """Make a folder for work in progress, or reopen one; it is marked as genrec's by the file ``.genrec``.

    Raises:
        ConfigError: If the folder holds something else.
        ArtifactError: If it cannot be written.
    """
    place = check_work_folder(folder, reads=reads)
    with reporting_write_errors(place):
        place.mkdir(parents=True, exist_ok=True)
        (place / WORK_MARKER).touch()
    return place


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    path = place.with_name(f".{place.name}.lock")
    with reporting_write_errors(place):
        path.parent.mkdir(parents=True, exist_ok=True)
    handle = _acquire(path, place)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        os.close(handle)


def _acquire(path: Path, place: Path) -> int:
    while True:
        _check_lock(path)
        with reporting_write_errors(place):
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The process that held the lock before removes the file: a lock on a removed file keeps no one out.
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        except FileNotFoundError:
            pass
        except OSError as error:
            os.close(handle)
            raise ArtifactError(
                f"another process is writing {place}",
                expected="one process at a time",
                fix="wait for it, or give another --out",
            ) from error
        os.close(handle)


def _check_lock(path: Path) -> None:
    """Refuse a file of somebody else's in the place of the lock: the lock is removed at the end."""
    try:
        found = path.lstat()
    except OSError:
        return
    if not stat.S_ISREG(found.st_mode) or found.st_size:
        raise ConfigError(
            f"{path} is not a lock of genrec",
            expected="nothing there, or the empty file that a command makes while it writes",
            fix="move it away, or give another --out",
        )


def _identity(place: Path) -> tuple[int, int] | None:
    """Which folder is at a place: its device and inode."""
    try:
        found = place.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
