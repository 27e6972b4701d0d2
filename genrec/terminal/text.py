"""Text on its way to a terminal or a log: nothing in it can control the terminal, and nothing there can stop the work.

Titles, ids, manifests and names of files come from others. Whatever is shown passes through :func:`visible`: the lines
of the log, the results of the command line and everything that a :class:`genrec.terminal.console.Terminal` prints.
"""

import io
import logging
import os
import re
import stat
import sys
from contextlib import suppress
from typing import IO, Any

# C0 but for tabs and line feeds, DEL, C1, what changes the direction of text, line and paragraph separators, parts of
# file names that are not text, tags.
_CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """Text in which every character that controls a terminal is written as its escape, such as ``\\x1b``."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)


class LineHandler(logging.StreamHandler[Any]):
    """Writes what genrec logs to the standard error stream, one plain line each; warnings are marked."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def format(self, record: logging.LogRecord) -> str:
        """The line, without control characters."""
        return visible(("warning: " if record.levelno > logging.INFO else "") + record.getMessage())

    def handleError(self, record: logging.LogRecord) -> None:
        """Drop what nothing reads any more."""
        if isinstance(sys.exc_info()[1], OSError):
            drop_output(self.stream)
        else:
            super().handleError(record)


def show(text: str, *, error: bool = False) -> None:
    """Write lines to the standard output, or to the standard error stream, without control characters."""
    stream = sys.stderr if error else sys.stdout
    try:
        stream.write(f"{visible(text)}\n")
        stream.flush()
    except OSError:
        drop_output(stream)


def accept_all_characters() -> None:
    """Let both output streams replace what they cannot encode."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def drop_output(stream: IO[str]) -> None:
    """Point a stream whose reader has gone at the null device, so that whatever else is written goes there."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, stream.fileno())
        finally:
            os.close(null)


def drop_closed_terminals() -> None:
    """Do so with the output streams that were a terminal which is gone."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            number = stream.fileno()
            if stat.S_ISCHR(os.fstat(number).st_mode) and not os.isatty(number):
                drop_output(stream)
