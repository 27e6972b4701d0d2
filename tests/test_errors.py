"""The error tree: exit codes that scripts can rely on, messages of one shape."""

import errno
import os
import resource
import subprocess
import sys

import polars as pl
import pyarrow as pa
import pytest
import torch
from safetensors import SafetensorError

from genrec.cli import main
from genrec.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    GenrecError,
    InterruptedRun,
    MemoryExhaustedError,
    NonFiniteLossError,
    explain,
    first_rows,
)


@pytest.mark.parametrize(
    ("kind", "code"),
    [(ConfigError, 2), (DataError, 3), (ArtifactError, 4), (MemoryExhaustedError, 5), (NonFiniteLossError, 6)],
)
def test_each_kind_has_its_exit_code(kind, code):
    error = kind("something is wrong")
    assert isinstance(error, GenrecError)
    assert error.exit_code == code


@pytest.mark.parametrize(("signal_number", "code"), [(1, 129), (2, 130), (15, 143)])
def test_a_signal_becomes_128_and_its_number(signal_number, code):
    assert InterruptedRun(signal_number, "stopped").exit_code == code


def test_a_message_says_what_where_expected_and_what_to_do_in_this_order():
    error = DataError("timestamp is -5", where="a.csv, row 3", expected="whole seconds", fix="correct the row")
    assert str(error).splitlines() == [
        "timestamp is -5",
        "  where: a.csv, row 3",
        "  expected: whole seconds",
        "  what to do: correct the row",
    ]


def test_parts_that_are_not_given_leave_no_line():
    assert (
        str(ConfigError("k = 0 cannot be used", expected="at least 1"))
        == "k = 0 cannot be used\n  expected: at least 1"
    )


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([7], "row 7"),
        ([1, 2], "rows 1, 2 (2 in all)"),
        ([1, 2, 3, 4, 5], "rows 1, 2, 3, 4, 5 (5 in all)"),
        (list(range(1, 13)), "rows 1, 2, 3, 4, 5, ... (12 in all)"),
    ],
)
def test_rows_are_named_by_the_first_five_and_their_number(rows, text):
    assert first_rows(rows) == text


class PanicException(BaseException):
    """As polars raises it: no Exception, and of a class that cannot be imported."""


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("std::bad_alloc"),
        pa.ArrowMemoryError("malloc of size 10000000000 failed"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
        RuntimeError("can't start new thread"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        OSError("Cannot allocate memory (os error 12)"),
        pl.exceptions.ComputeError("mmap failed: Cannot allocate memory (os error 12)"),
        PanicException("could not spawn threads: ThreadPoolBuildError { kind: IOError(Os { code: 11 }) }"),
        PanicException("memory allocation of 67108864 bytes failed"),
        caused(ArtifactError("the weights are damaged"), OSError(errno.ENOMEM, "Cannot allocate memory")),
        caused(DataError("the table cannot be read"), MemoryError()),
        caused(ValueError("bad"), MemoryError()),
    ],
)
def test_memory_that_ran_out_is_found_whatever_it_was_raised_as(error):
    assert type(explain(error)) is MemoryExhaustedError
    assert "memory ran out" in str(explain(error))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x"), "the disk is full\n  where: x\n"),
        (OSError("No space left on device (os error 28)"), "the disk is full"),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "disk is full"),
        (pl.exceptions.ComputeError("parquet: underlying IO error: No space left on device (os error 28)"), "is full"),
        (OSError(errno.ENOSPC, "Error writing bytes. Detail: [errno 28] No space left on device"), "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "your quota is used up"),
        (OSError(errno.EFBIG, "File too large"), "larger than this process may write"),
        (OSError(errno.EMFILE, "Too many open files"), "too many files are open"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "aaa"), "too long\n  where: aaa"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "may not be used"),
        (OSError(errno.EIO, "Input/output error", "x"), "refused: Input/output error"),
        (OSError("100000 requested and 2484 written"), "could not be read or written whole"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), "written whole"),
        (caused(RuntimeError("saving failed"), OSError(errno.ENOSPC, "No space left on device")), "the disk is full"),
    ],
)
def test_what_the_operating_system_refuses_is_said_in_words(error, said):
    found = explain(error)
    assert type(found) is ArtifactError
    assert said in str(found)
    assert "\n  what to do: " in str(found)


def test_what_the_libraries_really_raise_is_understood(tmp_path):
    """Their errors under a limit of the size of files, which stands for a full disk: by a process of its own."""
    program = """
import resource, sys
import numpy as np, polars as pl, pyarrow as pa, pyarrow.parquet as pq, torch
from safetensors.numpy import save_file
from genrec.errors import explain
values, folder = np.random.default_rng(0).random(100_000), sys.argv[1]
frame = pl.DataFrame({"a": values})
writers = {
    "safetensors": lambda: save_file({"a": values}, f"{folder}/a"),
    "polars": lambda: frame.write_parquet(f"{folder}/b"),
    "sink": lambda: frame.lazy().sink_csv(f"{folder}/c"),
    "arrow": lambda: pq.write_table(pa.table({"a": values}), f"{folder}/d"),
    "numpy": lambda: np.save(f"{folder}/e", values),
    "torch": lambda: torch.save(torch.tensor(values), f"{folder}/f"),
    "python": lambda: open(f"{folder}/g", "wb").write(bytes(100_000)),
}
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
for name, write in writers.items():
    try:
        write()
    except BaseException as error:
        print(name, type(explain(error)).__name__)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, timeout=120, check=True)
    names = ("safetensors", "polars", "sink", "arrow", "numpy", "torch", "python")
    assert done.stdout.decode().split() == [word for name in names for word in (name, "ArtifactError")]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("max() arg is an empty sequence"),
        KeyError("x"),
        RuntimeError("a bug"),
        AssertionError(),
        PanicException("index out of bounds"),
        TypeError("out of memory"),
    ],
)
def test_faults_of_genrec_stay_what_they_are(error):
    assert explain(error) is None


def test_an_error_handled_before_a_fault_does_not_hide_it():
    handled = KeyError("a bug")
    handled.__context__ = FileNotFoundError(errno.ENOENT, "gone")
    assert explain(handled) is None


@pytest.mark.parametrize("error", [ConfigError("x"), DataError("x"), ArtifactError("x"), InterruptedRun(2, "x")])
def test_errors_of_ours_are_not_changed(error):
    assert explain(error) is error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.EMFILE, "Too many open files"), 4),
        (SafetensorError("I/O error: No space left on device (os error 28)"), 4),
        (PanicException("memory allocation of 1 bytes failed"), 5),
        (caused(ArtifactError("damaged"), MemoryError()), 5),
    ],
)
def test_the_command_line_explains_everything(error, code, monkeypatch, capsys):
    def fail():
        raise error

    monkeypatch.setattr("genrec.doctor.examine", fail)
    assert main(["doctor"]) == code
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ")
    assert "Traceback" not in shown.err


@pytest.mark.parametrize(
    ("work", "code", "said"),
    [
        ("os.abort()", 5, "memory ran out: the process ended in the middle of its work"),
        ("os.kill(os.getpid(), 11)", 5, "memory ran out"),
        ("os.kill(os.getpid(), 9)", 5, "memory ran out"),
        ("bytearray(10**12)", 5, "memory ran out"),
        ("raise_(SystemError('error return without exception set'))", 5, "SystemError: error return without"),
        ("raise_(genrec.errors.DataError('odd rows'))", 3, "odd rows"),
        ("('fine', True)", 0, ""),
    ],
)
def test_under_a_limit_of_address_space_every_end_has_its_exit_code(work, code, said):
    program = f"""
import os, resource, sys, types
import genrec.errors

def raise_(error):
    raise error

sys.modules["genrec.doctor"] = types.SimpleNamespace(examine=lambda: {work})
resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
from genrec.cli import main
sys.exit(main(["doctor"]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr.decode()
    assert said in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert done.stderr.count(b"error: ") == (code > 0)


def test_without_a_limit_there_is_no_second_process(monkeypatch, capsys):
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("forked"))
    assert main(["--version"]) == 0
