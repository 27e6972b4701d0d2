"""``genrec VERB``: reads the command line, calls the library, turns errors into messages and exit codes.

Nothing heavy is imported before a verb runs, so that ``genrec --help`` answers at once, and nothing at all before
:func:`main`, so that an interruption at any time has its message and exit code.
"""

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    Args:
        arguments: Without the program's name; those of the process if None.
    """
    try:
        from genrec.cli.verbs import run_line

        return run_line(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        sys.stderr.write("error: stopped by SIGINT before any work\n")
        return 130
