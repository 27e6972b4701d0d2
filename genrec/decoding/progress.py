"""Progress of list generation: a bar on a terminal, a line now and then in a log."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from genrec.terminal.console import Terminal

SECONDS_BETWEEN_LINES = 15.0


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        # rich knows the speed of the last seconds once there are two steps in them.
        speed = task.speed or task.completed / (task.elapsed or float("inf"))
        return Text(f"{speed:,.0f} users/s" if speed else "")


class _Lines:
    """Writes how many users are done, how many a second, and the time left; the last line when all are done."""

    def __init__(self, console: Console, total: int) -> None:
        self.console, self.total, self.done = console, total, 0
        self.started = self.shown = time.monotonic()

    def advance(self, users: int) -> None:
        self.done += users
        now = time.monotonic()
        if now - self.shown < SECONDS_BETWEEN_LINES and self.done < self.total:
            return
        self.shown = now
        speed = self.done / max(now - self.started, 1e-9)
        minutes, seconds = divmod(round((self.total - self.done) / speed), 60)
        left = f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d} left"
        text = f"recommending: {self.done:,} of {self.total:,} users, {speed:,.0f} users/s, {left}"
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def counting_users(shown: bool, total: int) -> Iterator[Callable[[int], None]]:
    """Yields a function to call with the number of users done since the last call; shown on the standard error stream.

    Args:
        shown: Whether anything is shown.
        total: Users in all.
    """
    if not shown or not total:
        yield lambda users: None
        return
    console = Terminal(stderr=True)
    if not console.is_terminal:
        yield _Lines(console, total).advance
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("recommending", total=total)
        yield lambda users: bar.advance(task, users)
