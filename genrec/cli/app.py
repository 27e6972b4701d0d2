"""What every verb shares: options before or after its name, errors as messages and exit codes, signals, log lines."""

import functools
import inspect
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any, TypeVar

import typer

from genrec.artifacts.targets import overwriting
from genrec.cli.supervision import exit_code_under_limit, unexplained
from genrec.errors import GenrecError, InterruptedRun, explain
from genrec.signals import watched
from genrec.terminal.text import LineHandler, accept_all_characters, drop_closed_terminals, show

INTERRUPTED = "nothing is left half-written; run the same command again (finished stages are kept)"
# Threads that spin long while they wait are slow next to another process that does so (a hundredth of the speed on
# two cores); those that never spin take twice as long on a quiet machine. This many turns cost a tenth and avoid both.
SETTINGS = {
    "GOMP_SPINCOUNT": "2000",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELIZM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}
MOST_THREADS = 1_024
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS")

app = typer.Typer(
    name="genrec",
    help="Train and run generative recommenders: models that write the next item's semantic ID.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace what genrec wrote to --out, even if it was changed or is another stage."),
]
Command = TypeVar("Command", bound=Callable[..., None])


class State:
    """What holds for one invocation."""

    debug = False
    signal_number: int | None = None
    reported = False


def run_line(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code.

    Args:
        arguments: Without the program's name.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    accept_all_characters()
    supervised = exit_code_under_limit()
    if supervised is not None:
        return supervised
    State.debug, State.signal_number, State.reported = False, None, False
    try:
        with _log_to_people(), _stopping():
            app(args=_common_first(arguments), prog_name="genrec")
    except SystemExit as done:
        if State.signal_number is not None and not State.reported:
            return _report(_stopped())
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    return 0


def _show_version(wanted: bool) -> None:
    if wanted:
        from genrec import __version__

        show(__version__)
        raise typer.Exit


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads; all cores by default.", min=1, max=MOST_THREADS)
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Take the options that every verb accepts, before or after its name."""
    State.debug = debug
    if threads is not None:
        _limit_threads(threads)


def verb(name: str, *, writes: bool = False) -> Callable[[Command], Command]:
    """Register a verb whose errors become messages on the standard error stream and exit codes.

    Args:
        name: On the command line.
        writes: Whether it has ``--out``; it then has ``--overwrite``, too.
    """

    def register(function: Command) -> Command:
        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> None:
            try:
                with overwriting(kwargs.pop("overwrite", False)):
                    function(*args, **kwargs)
            except typer.Exit:
                raise
            except BaseException as error:
                known = _interruption(error) or explain(error) or unexplained(error)
                if known is None:
                    raise
                raise typer.Exit(_report(known)) from None

        if writes:
            _add_overwrite(guarded, function)
        app.command(name)(guarded)
        return function

    return register


def _add_overwrite(guarded: Callable[..., None], function: Callable[..., None]) -> None:
    """Give the command that Typer sees one option more than the function has."""
    signature = inspect.signature(function)
    option = inspect.Parameter("overwrite", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Overwrite)
    guarded.__signature__ = signature.replace(parameters=[*signature.parameters.values(), option])  # type: ignore[attr-defined]
    guarded.__annotations__ = {**function.__annotations__, "overwrite": Overwrite}


def _report(error: GenrecError) -> int:
    """Show an error, with the traceback that led to it where that is wanted; returns its exit code."""
    if State.debug:
        traceback.print_exc()
    show(f"error: {error}", error=True)
    State.reported = True
    return error.exit_code


def _common_first(arguments: Sequence[str]) -> list[str]:
    """Move ``--debug`` and ``--threads N`` to the front, where the options of all verbs are read."""
    first: list[str] = []
    rest: list[str] = []
    waiting = False
    for argument in arguments:
        common = waiting or argument in ("--debug", "--threads") or argument.startswith("--threads=")
        waiting = not waiting and argument == "--threads"
        (first if common else rest).append(argument)
    return first + rest


@contextmanager
def _log_to_people() -> Iterator[None]:
    """Show genrec's messages on the standard error stream."""
    logger, handler = logging.getLogger("genrec"), LineHandler()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def _limit_threads(threads: int) -> None:
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


@contextmanager
def _stopping() -> Iterator[None]:
    """Let every signal that stops work unwind like Ctrl-C, so that nothing is left half-written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _stop) for number in watched()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    State.signal_number = number
    drop_closed_terminals()
    raise KeyboardInterrupt


def _interruption(error: BaseException) -> InterruptedRun | None:
    """What ended because of a signal, also where a library made another error of it; else None."""
    if isinstance(error, GenrecError) or not (isinstance(error, KeyboardInterrupt) or State.signal_number):
        return None
    return _stopped()


def _stopped() -> InterruptedRun:
    number = State.signal_number or signal.SIGINT.value
    return InterruptedRun(number, f"stopped by {signal.Signals(number).name}", fix=INTERRUPTED)
