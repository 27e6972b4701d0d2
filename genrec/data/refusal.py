"""Rows of a column that cannot be used, as one error that names the first value and the rows."""

import polars as pl

from genrec.errors import DataError, first_rows


def refuse(
    values: pl.Series, bad: pl.Series, what: str, expected: str, where: str, fix: str = "", first_row: int = 1
) -> None:
    """Raise a DataError with the rows that are bad, if there are any.

    Args:
        values: The column, or a part of it.
        bad: Which rows cannot be used, bool.
        what: What is wrong with them.
        expected: What would have been accepted.
        where: The table or file.
        fix: What the user can do.
        first_row: The number of the first of these rows, for the message.
    """
    rows = bad.arg_true()
    if len(rows):
        value = values[int(rows[0])]
        raise DataError(
            f"{what}: {value.to_list() if isinstance(value, pl.Series) else value!r}",
            where=f"{where}, {first_rows((rows + first_row).to_list())}",
            expected=expected,
            fix=fix or "correct these rows, or remove them",
        )
