"""What is shown: nothing in it controls a terminal, no character stops it, and no reader that goes away."""

import io
import json
import logging
import os
import pty
import re
import signal
import subprocess
import sys
import time
import unicodedata

import polars as pl
import pytest
from rich.panel import Panel
from rich.progress import Progress
from rich.table import Table
from tiny_run import copy_run, tiny_home

from genrec.cli import main
from genrec.evaluation.tables import escape_markdown
from genrec.reports.console import example_as_panel
from genrec.reports.content import Example, Listed
from genrec.signals import StopSignals
from genrec.terminal.console import Terminal
from genrec.terminal.text import LineHandler, show, visible

CLEAR, TITLE, LINK, C1 = "\x1b[2J", "\x1b]0;owned\x07", "\x1b]8;;http://x\x1b\\", "\x9b2J"
EVIL = f"a{CLEAR}{TITLE}{LINK}{C1}\u202egnp.exe\u2066\u200f\r\x08\x7fz"
# Everything that a terminal may act on, by the categories of Unicode and not by the list that genrec has.
ACTING = {"Cc", "Cs", "Zl", "Zp"}
BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def acting(text: str) -> list[str]:
    return [
        one
        for one in text
        if one not in "\n\t" and (unicodedata.category(one) in ACTING or unicodedata.bidirectional(one) in BIDI)
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("\x9b2J", "\\x9b2J"),
        ("\u202egnp", "\\u202egnp"),
        ("a\rb\x00", "a\\rb\\x00"),
        ("caf\udce9", "caf\\udce9"),
        ("\U000e0041", "\\U000e0041"),
        ("漢字 émail\n\tשלום 👩‍👧", "漢字 émail\n\tשלום 👩‍👧"),
    ],
)
def test_control_characters_are_written_as_their_escapes(text, shown):
    assert visible(text) == shown


def test_no_character_that_acts_is_left():
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    assert acting(visible(everything)) == []
    assert visible(visible(everything)) == visible(everything)


@pytest.mark.parametrize("on_terminal", [True, False])
def test_a_console_shows_what_titles_hold_and_keeps_its_own_colors(on_terminal):
    table = Table(title=EVIL)
    table.add_column(EVIL)
    table.add_row(f"[bold]{EVIL}[/bold]")
    example = Example(EVIL, (EVIL,), 1, (Listed(EVIL, 0.5),), held_out=(EVIL,))
    stream, color = io.StringIO(), "truecolor" if on_terminal else None
    console = Terminal(file=stream, width=200, force_terminal=on_terminal, color_system=color, _environ={})
    for shown in (EVIL, table, Panel(EVIL), example_as_panel(example)):
        console.print(shown)
    written = stream.getvalue()
    own = r"\x1b\[[0-9;]*m"
    assert bool(re.search(own, written)) == on_terminal
    assert acting(re.sub(own, "", written)) == []
    assert written.count("\\x1b[2J") >= 4


def test_a_bar_of_progress_still_moves_the_cursor():
    stream = io.StringIO()
    console = Terminal(file=stream, width=80, force_terminal=True, _environ={})
    with Progress(console=console) as bar:
        bar.add_task(EVIL, total=2)
        bar.refresh()
    assert "\x1b[?25l" in stream.getvalue()
    assert CLEAR not in stream.getvalue()


def test_log_lines_and_results_are_escaped(capsys):
    logger = logging.Logger("test")
    logger.addHandler(LineHandler())
    logger.warning("the title %s", EVIL)
    show(EVIL)
    show(EVIL, error=True)
    shown = capsys.readouterr()
    assert shown.err.startswith("warning: the title a\\x1b[2J")
    assert acting(shown.out + shown.err) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "{}"],
        ["prepare", "--interactions", "{}", "--out", "x"],
        ["run", "{}"],
        ["embed", "--dataset", "{}", "--out", "x"],
        ["generate", "--model", "{}", "--histories", "x"],
        ["evaluate", "--dataset", "{}", "--model", "x", "--set", "{}"],
        ["compare-tokenizers", "{}"],
    ],
)
def test_errors_show_names_without_their_control_characters(arguments, tmp_path, capsys):
    name = str(tmp_path / EVIL.replace("/", "_"))
    assert main([one.replace("{}", name) for one in arguments]) in (2, 3, 4)
    shown = capsys.readouterr()
    assert "\\x1b[2J" in shown.err
    assert acting(shown.out + shown.err) == []


def test_titles_ids_and_settings_of_a_stranger_are_escaped(tmp_path, capsys):
    run = copy_run(tmp_path / "run")
    items = pl.read_parquet(run / "dataset" / "items.parquet")
    items.with_columns(pl.lit(EVIL).alias("title")).write_parquet(run / "dataset" / "items.parquet")
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["system"], metrics["notes"] = EVIL, [EVIL]
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert main(["inspect", str(run / "metrics.json")]) == 0
    assert main(["inspect", str(run / "model"), "--dataset", str(run / "dataset")]) == 0
    shown = capsys.readouterr()
    assert shown.out.count("\\x1b[2J") >= 4
    assert acting(shown.out + shown.err) == []


def test_markdown_is_escaped():
    assert acting(escape_markdown(EVIL)) == []


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_characters_that_a_stream_cannot_encode_are_replaced(encoding, monkeypatch):
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding=encoding) for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    logger = logging.Logger("test")
    assert main(["inspect", "没有"]) == 4
    logger.addHandler(LineHandler())
    logger.warning("漢字")
    show("漢字")
    Terminal(width=40).print(Panel("漢字"))
    out, err = (stream.buffer.getvalue() for stream in streams.values())
    assert out.startswith(b"??")
    assert out.count(b"??") == 2
    assert err.startswith(b"error: there is no ??")
    assert b"warning: ??" in err


def test_without_these_streams_nothing_is_replaced():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with pytest.raises(UnicodeEncodeError):
        stream.write("漢字")


@pytest.mark.parametrize("closed", [("stdout",), ("stderr",), ("stdout", "stderr")])
def test_a_reader_that_goes_away_does_not_stop_the_work(closed, tmp_path):
    """Progress, log lines and results go into pipes that nothing reads; what comes after them is still done."""
    program = """
import logging, pathlib, sys
from rich.progress import track
from genrec.terminal.console import Terminal
from genrec.terminal.text import LineHandler, show
for console in (Terminal(), Terminal(stderr=True), Terminal(stderr=True, force_terminal=True)):
    for number in track(range(3), console=console):
        console.print(number)
logger = logging.Logger("work")
logger.addHandler(LineHandler())
for number in range(3):
    logger.warning("still at work")
    show("a result")
    show("an error", error=True)
pathlib.Path(sys.argv[1]).write_text("done")
"""
    reading, writing = os.pipe()
    os.close(reading)
    streams = {name: writing if name in closed else subprocess.PIPE for name in ("stdout", "stderr")}
    command = [sys.executable, "-c", program, str(tmp_path / "work")]
    done = subprocess.run(command, timeout=120, check=False, **streams)
    os.close(writing)
    assert done.returncode == 0
    assert (tmp_path / "work").read_text() == "done"
    assert (done.stdout or b"").count(b"a result") == (0 if "stdout" in closed else 3)
    assert (done.stderr or b"").count(b"still at work") == (0 if "stderr" in closed else 3)
    assert b"BrokenPipe" not in (done.stderr or b"")


@pytest.mark.parametrize("module", ["typer", "genrec.cli.lists", "pydantic", "genrec.pipeline"])
def test_an_interruption_during_an_import_is_one_message(module, tmp_path):
    program = f"""
import importlib.abc, signal, sys

class Interrupting(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
from genrec.cli import main
sys.exit(main())
"""
    arguments = ["run", str(tiny_home() / "tiny.yaml"), "--out", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, timeout=120, check=False)
    assert done.returncode == 130, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert done.stderr.count(b"error: stopped by SIGINT") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("raised", [ImportError, SystemError, KeyboardInterrupt, SystemExit])
def test_what_a_signal_led_to_is_an_interruption(number, raised, monkeypatch, capsys):
    """Libraries make other errors of an interruption."""

    def stopped():
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        except KeyboardInterrupt:
            raise raised from None

    monkeypatch.setattr("genrec.doctor.examine", stopped)
    assert main(["doctor"]) == 128 + number
    assert capsys.readouterr().err.count(f"error: stopped by {number.name}") == 1


def test_a_hang_up_that_is_ignored_stays_ignored(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr("genrec.doctor.examine", lambda: (os.kill(os.getpid(), signal.SIGHUP) or "fine", True))
        assert main(["doctor"]) == 0
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.number is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_is_gone_does_not_stop_what_is_saved(tmp_path):
    """The controlling terminal closes: the process gets SIGHUP, and every further write to it fails."""
    program = """
import pathlib, sys, time
from genrec.signals import StopSignals
from genrec.terminal.text import show
with StopSignals() as signals:
    show("ready")
    while signals.number is None:
        time.sleep(0.01)
    show("saving")
    print("saving", file=sys.stderr, flush=True)
pathlib.Path(sys.argv[1]).write_text(signals.name)
"""
    child, terminal = pty.fork()
    if not child:
        os.execv(sys.executable, [sys.executable, "-c", program, str(tmp_path / "saved")])
    assert b"ready" in os.read(terminal, 100)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert (tmp_path / "saved").read_text() == "SIGHUP"
