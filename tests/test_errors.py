"""The error tree: exit codes that scripts can rely on, messages of one shape."""

import pytest

from genrec.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    GenrecError,
    InterruptedRun,
    MemoryExhaustedError,
    NonFiniteLossError,
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


@pytest.mark.parametrize(("signal_number", "code"), [(2, 130), (15, 143)])
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
