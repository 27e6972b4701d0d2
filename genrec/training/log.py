"""What a run tells: ``metrics.jsonl`` for programs, one line per epoch or a progress bar for people."""

import json
import os
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from genrec.artifacts import reporting_write_errors, write_file
from genrec.errors import ConfigError


class MetricsLog:
    """A file of one JSON object per line, each with ``step``.

    Args:
        path: The file; made on the first record.
        silent: Whether nothing is written, in processes that do not lead.
    """

    def __init__(self, path: Path, *, silent: bool = False) -> None:
        self.path, self.silent = path, silent

    def check(self) -> None:
        """Refuse a file that is no training log, before anything is written to it.

        Raises:
            ConfigError: If a line is no record; the last one may be the beginning of a record that a kill cut off.
        """
        if not os.path.lexists(self.path):
            return
        plain = self.path.is_file() and not self.path.is_symlink()
        lines = self.path.read_bytes().split(b"\n") if plain else [b"", b""]
        last = lines.pop()
        if not all(map(_is_record, lines)) or not (_is_record(last) or _is_cut(last)):
            raise ConfigError(
                f"{self.path} is not a training log",
                expected="a new file, or a log of one JSON record with a step per line",
                fix="move it away, or give another --out",
            )

    def rewind(self, step: int) -> None:
        """Drop the records after ``step`` (they will be written again) and a last line that was cut off."""
        if not self.path.is_file():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (json.JSONDecodeError, KeyError, TypeError):
                continue
        with write_file(self.path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        """Append one record.

        Raises:
            ArtifactError: If the disk is full or not writable.
        """
        if self.silent:
            return
        # NaN is no JSON; it becomes null.
        record = json.loads(json.dumps(record), parse_constant=lambda _: None)
        with reporting_write_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(record) + "\n")


def _is_record(line: bytes) -> bool:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and "step" in record


def _is_cut(line: bytes) -> bool:
    """Whether a line without its end may be what a kill left of a record."""
    if not line.startswith(b'{"'[: len(line)]):
        return False
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return True
    return False


class Display:
    """Progress with remaining time: a bar on a terminal, else one line per epoch.

    Args:
        console: Where to.
        metric: Name of the metric that selects the model.
    """

    def __init__(self, console: Console, metric: str) -> None:
        self.console, self.metric = console, metric
        self.epochs, self.total, self.first, self.shown = 0, 0, 0, 0.0
        self.best = self.remaining = ""
        # Sum of losses and number of users since the last line.
        self.losses, self.users = 0.0, 0
        self.started = time.monotonic()
        self.bar: Progress | None = None
        self.task = TaskID(0)

    def begin(self, *, epochs: int, total: int, step: int) -> None:
        """Start at ``step`` of ``total`` updates over ``epochs``."""
        self.epochs, self.total, self.first, self.started = epochs, total, step, time.monotonic()
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
            self.bar = Progress(*columns, console=self.console, refresh_per_second=4)
            self.task = self.bar.add_task("training", total=total, completed=step, text="")
            self.bar.start()

    def end(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def say(self, text: str) -> None:
        """Write one line that stays."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def update(self, step: int, seconds_left: float | None) -> None:
        """Move the bar, at most five times a second; ``seconds_left`` is what the time budget leaves."""
        now = time.monotonic()
        if now - self.shown < 0.2:
            return
        self.shown = now
        rate = (now - self.started) / max(step - self.first, 1)
        left = rate * (self.total - step)
        self.remaining = clock(max(0.0, left if seconds_left is None else min(left, seconds_left)))
        self._show(step)

    def add_loss(self, loss: float, users: int) -> None:
        """Count the mean loss of some users; what is shown is the mean since the last line."""
        self.losses += loss * users
        self.users += users

    @property
    def loss(self) -> str:
        """The mean loss since the last line, in words."""
        return f"  loss {self.losses / self.users:.4f}" if self.users else ""

    def stage(self, step: int, validating: bool) -> None:
        """Say whether the run trains or validates."""
        if self.bar is not None:
            self.bar.update(self.task, completed=step, description="validating" if validating else "training")

    def report(self, step: int, epoch: float, metrics: dict[str, float] | None) -> None:
        """Close an epoch: one line where there is no bar."""
        if metrics is not None:
            self._show(step)
        if self.bar is None:
            value = (
                "" if metrics is None else f"  {self.metric} {metrics.get(self.metric, float('nan')):.4f}{self.best}"
            )
            elapsed = clock(time.monotonic() - self.started)
            self.say(f"epoch {epoch:.4g}/{self.epochs}{self.loss}{value}  {elapsed} gone, {self.remaining or '?'} left")
        self.losses, self.users = 0.0, 0

    def _show(self, step: int) -> None:
        if self.bar is not None:
            epoch = f"epoch {step * self.epochs // max(self.total, 1)}/{self.epochs}"
            self.bar.update(self.task, completed=step, text=f"{epoch}{self.loss}{self.best}  {self.remaining} left")


def clock(seconds: float) -> str:
    """Seconds as ``m:ss`` or ``h:mm:ss``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
