"""Work under a limit of address space (``ulimit -v``), where libraries end the process instead of raising an error.

polars and other native code abort when an allocation fails, which no Python code can catch. So where there is such a
limit, and only there, the work is done by a child process, and its abort becomes a message and exit code 5. Threads
that cannot be started can leave native code waiting for ever, deaf to signals: so the child starts few of them, and is
killed some time after a signal that it does not follow.
"""

import os
import resource
import signal
from types import FrameType

from genrec.errors import MemoryExhaustedError
from genrec.terminal.text import show

SECONDS_TO_STOP = 60
FEW_THREADS = {"POLARS_MAX_THREADS": "1", "_RJEM_MALLOC_CONF": "background_thread:false,narenas:1"}
ABORTED = (signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGTRAP)


def limit_of_memory() -> int | None:
    """Bytes of address space that this process may have; None without a limit."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def exit_code_under_limit() -> int | None:
    """Start a child for the work if address space is limited.

    Returns:
        The child's exit code in the parent; None in the child, and where there is no limit: there the work goes on.
    """
    if limit_of_memory() is None:
        return None
    child = os.fork()
    if not child:
        for name, value in FEW_THREADS.items():
            os.environ.setdefault(name, value)
        return None

    def forward(number: int, frame: FrameType | None) -> None:
        os.kill(child, signal.SIGKILL if number == signal.SIGALRM else number)
        signal.alarm(SECONDS_TO_STOP)

    # A terminal sends SIGINT to both.
    before = {signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN)}
    before |= {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)}
    try:
        _, status = os.waitpid(child, 0)
    finally:
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return code
    if -code not in ABORTED:
        return 128 - code
    error = memory_error("the process ended in the middle of its work")
    show(f"error: {error}", error=True)
    return error.exit_code


def unexplained(error: BaseException) -> MemoryExhaustedError | None:
    """What an error means that is none without a limit: libraries that get no memory fail in many ways."""
    if limit_of_memory() is None or not isinstance(error, Exception):
        return None
    return memory_error(f"{type(error).__name__}: {error}")


def memory_error(reason: str) -> MemoryExhaustedError:
    """What to say where address space is limited and too little."""
    return MemoryExhaustedError(
        f"memory ran out: {reason}",
        where=f"the limit of address space, {(limit_of_memory() or 0) >> 20} MiB",
        fix="raise the limit (ulimit -v), use fewer --threads, or work on smaller data",
    )
