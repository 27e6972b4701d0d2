"""The console of everything that is printed with rich."""

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from genrec.terminal.text import drop_output, visible


class Terminal(Console):
    """A console of rich that shows control characters of what it prints instead of sending them.

    It goes on in silence when whoever reads it goes away.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render an object to segments without control characters, but for those of rich itself."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Drop what nothing reads any more."""
        self.quiet = True
        drop_output(self.file)
