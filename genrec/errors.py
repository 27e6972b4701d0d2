"""The exception tree: one class per exit code, one shape of message.

A message says what is wrong, where, what was expected and what to do, in that order, each part on its own line.
:func:`explain` turns what the operating system and other libraries raise into these classes.
"""

import errno
import os
import re
from collections.abc import Iterator, Sequence


class GenrecError(Exception):
    """Base of every error that a user can cause or cure.

    Args:
        what: What is wrong, with the offending value.
        where: File, row, key or argument.
        expected: What would have been accepted.
        fix: What the user can do now.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", expected: str = "", fix: str = "") -> None:
        self.what, self.where, self.expected, self.fix = what, where, expected, fix
        parts = [("", what), ("where: ", where), ("expected: ", expected), ("what to do: ", fix)]
        super().__init__("\n  ".join(label + text for label, text in parts if text))


class ConfigError(GenrecError):
    """A command line, recipe or argument that cannot be used (exit code 2)."""

    exit_code = 2


class DataError(GenrecError):
    """Input tables that cannot be used (exit code 3)."""

    exit_code = 3


class ArtifactError(GenrecError):
    """A folder or file of ours that is missing, corrupt, unwritable or does not match (exit code 4)."""

    exit_code = 4


class MemoryExhaustedError(GenrecError):
    """The machine or the accelerator ran out of memory (exit code 5)."""

    exit_code = 5


class NonFiniteLossError(GenrecError):
    """The loss became NaN or infinite; the update was not applied (exit code 6)."""

    exit_code = 6


class InterruptedRun(GenrecError):
    """Work was stopped by a signal after saving (exit code 128 + signal: 129, 130 or 143)."""

    def __init__(self, signal_number: int, what: str, *, fix: str = "") -> None:
        super().__init__(what, fix=fix)
        self.exit_code = 128 + signal_number


def first_rows(rows: Sequence[int], limit: int = 5) -> str:
    """Say which rows are meant: the first few row numbers and how many there are in all."""
    shown = ", ".join(str(row) for row in rows[:limit])
    return (
        f"row {shown}" if len(rows) == 1 else f"rows {shown}{', ...' if len(rows) > limit else ''} ({len(rows)} in all)"
    )


# What the libraries say when memory or address space ran out, and threads, which need some of it.
_NO_MEMORY = re.compile(
    r"out of memory|(can't|cannot|unable to|failed to) allocate|bad_alloc|memory allocation|allocation failed|"
    r"alloc of size|alloc_failed|can't start new thread|threadpoolbuilderror|could not spawn threads"
)
_NUMBER = re.compile(r"\b(?:os error|errno) (\d+)", re.IGNORECASE)
_TORN = re.compile(r"PytorchStreamWriter failed|unexpected pos \d+ vs")
_REASONS = {
    errno.ENOSPC: ("the disk is full", "free some space and run the same command again"),
    errno.EDQUOT: ("the disk is full: your quota is used up", "free some space and run the same command again"),
    errno.EFBIG: ("a file is larger than this process may write", "raise the limit (ulimit -f)"),
    errno.EMFILE: ("too many files are open", "raise the limit (ulimit -n), or lower training.num_workers"),
    errno.ENFILE: ("too many files are open on this machine", "end other programs, or raise the limit"),
    errno.ENAMETOOLONG: ("the name of a file or folder is too long", "choose a shorter name"),
    errno.EACCES: ("a file or folder may not be used", "change its permissions, or choose another place"),
    errno.EPERM: ("a file or folder may not be used", "change its permissions, or choose another place"),
    errno.EROFS: ("the disk can only be read", "choose another place for what is written"),
}


def explain(error: BaseException) -> GenrecError | None:
    """What an exception means for a user, or None if it can only be a fault of genrec.

    Args:
        error: Anything that was raised; the exceptions that led to it are looked at, too.

    Returns:
        :class:`MemoryExhaustedError` where memory ran out, whatever it was raised as afterwards; the error itself if it
        is one of this module; :class:`ArtifactError` for what the operating system refused.
    """
    settled = isinstance(error, GenrecError) and not isinstance(error, ArtifactError | DataError)
    if not settled and any(_lacks_memory(one) for one in _chain(error, explicit=False)):
        return MemoryExhaustedError(
            "memory ran out",
            fix="lower decoding.batch_size, decoding.num_beams or training.batch_size, or raise the limit",
        )
    if isinstance(error, GenrecError):
        return error
    for one in _chain(error, explicit=True):
        number = _system_error(one)
        if number is not None or isinstance(one, OSError) or _TORN.search(str(one)):
            return _refused(one, number)
    return None


def _chain(error: BaseException, *, explicit: bool) -> Iterator[BaseException]:
    """An exception and those that led to it; only those that it names as its cause, if ``explicit``."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        implicit = None if explicit or current.__suppress_context__ else current.__context__
        current = current.__cause__ or implicit


def _lacks_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or _system_error(error) == errno.ENOMEM:
        return True
    # The panics of polars and of other libraries in Rust are of a class that has no other name.
    others = isinstance(error, RuntimeError | OSError) or type(error).__name__ in ("PanicException", "ComputeError")
    return others and not isinstance(error, GenrecError) and bool(_NO_MEMORY.search(str(error).lower()))


def _system_error(error: BaseException) -> int | None:
    """The number of the operating system's error, also where another library wrapped it into its text."""
    if isinstance(error, GenrecError):
        return None
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = _NUMBER.search(str(error))
    return int(found[1]) if found else None


def _refused(error: BaseException, number: int | None) -> ArtifactError:
    name = getattr(error, "filename", None)
    text = " ".join(str(error).split())
    if number in _REASONS:
        what, fix = _REASONS[number]
    elif number is not None:
        what, fix = f"the operating system refused: {os.strerror(number)}", "check the path and the disk"
    else:
        what, fix = "a file could not be read or written whole", "check the disk, and run the same command again"
    return ArtifactError(what, where=str(name) if name else text[:300], fix=fix)
