"""Progress with remaining time on the terminal, silent when there is no terminal."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.progress import track

from genrec.terminal.console import Terminal

Element = TypeVar("Element")


def progress(elements: Iterable[Element], description: str, total: int | None = None) -> Iterator[Element]:
    """Iterate while a bar on standard error shows how far it is; no bar unless that is a terminal.

    Args:
        elements: What to iterate over.
        description: What is being done.
        total: How many elements there are, if ``elements`` does not know.
    """
    console = Terminal(stderr=True)
    silent = not sys.stderr.isatty()
    yield from track(elements, description, total=total, console=console, transient=True, disable=silent)
