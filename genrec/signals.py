"""SIGINT, SIGTERM and SIGHUP: the first asks to finish the step and save, the second acts at once."""

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any

from genrec.terminal.text import drop_closed_terminals

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def watched() -> list[signal.Signals]:
    """The signals that stop work here: not SIGHUP where ``nohup`` made the process ignore it."""
    return [number for number in SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


class StopNow(BaseException):
    """Raised by a signal out of work that may be abandoned; whoever catches it saves and stops."""


class StopSignals:
    """While entered, notes the first signal in ``number`` and gives the second one back to the operating system.

    Set ``raising`` around work that may be abandoned half-way: there the signal raises :class:`StopNow`. Outside the
    main thread, where Python accepts no handlers, it does nothing.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.raising = False
        self.came = float("inf")
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in watched()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    @property
    def name(self) -> str:
        """The name of the signal that came, or an empty string."""
        return signal.Signals(self.number).name if self.number is not None else ""

    def waited(self, seconds: float) -> bool:
        """Whether the signal came at least so many seconds ago."""
        return time.monotonic() - self.came >= seconds

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number, self.came = number, time.monotonic()
        drop_closed_terminals()
        self._restore()
        if self.raising:
            raise StopNow

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
