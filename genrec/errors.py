"""The exception tree: one class per exit code, one shape of message.

A message says what is wrong, where, what was expected and what to do, in that order, each part on its own line.
"""

from collections.abc import Sequence


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
    """Work was stopped by a signal after saving (exit code 128 + signal: 130 or 143)."""

    def __init__(self, signal_number: int, what: str, *, fix: str = "") -> None:
        super().__init__(what, fix=fix)
        self.exit_code = 128 + signal_number


def first_rows(rows: Sequence[int], limit: int = 5) -> str:
    """Say which rows are meant: the first few row numbers and how many there are in all."""
    shown = ", ".join(str(row) for row in rows[:limit])
    return (
        f"row {shown}" if len(rows) == 1 else f"rows {shown}{', ...' if len(rows) > limit else ''} ({len(rows)} in all)"
    )
