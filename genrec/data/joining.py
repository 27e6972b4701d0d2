"""Pieces of one table put together so that no whole number becomes a float on the way."""

from collections.abc import Sequence

import polars as pl

from genrec.data.ids import EXACT
from genrec.errors import DataError


def joined(frames: Sequence[pl.DataFrame], where: str, what: str) -> pl.DataFrame:
    """One table from its pieces; a column that some lack is empty there.

    A column of whole numbers in some pieces and of floats in others (a gap does that) is one of whole numbers if the
    floats are whole.

    Args:
        frames: The pieces in order.
        where: What error messages call the table.
        what: What the error says if they do not fit together.

    Raises:
        DataError: If the types of a column do not fit together, or numbers would lose digits.
    """
    if len(frames) == 1:
        return frames[0]
    names = dict.fromkeys(name for frame in frames for name in frame.columns)
    for name in names:
        kinds = {frame.schema[name] for frame in frames if name in frame.columns}
        if len(kinds) > 1 and any(kind.is_float() for kind in kinds):
            frames = [_whole(frame, name) for frame in frames]
            _refuse_lost_digits(frames, name, where, what)
    try:
        return pl.concat(frames, how="diagonal_relaxed")
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"{what}: {error}", where=where, expected="the same columns, of the same types, in every piece"
        ) from error


def _whole(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    if name not in frame.columns or not frame.schema[name].is_float():
        return frame
    values = frame[name].fill_nan(None)
    whole = ((values == values.floor()) & (values.abs() < EXACT)).fill_null(True).all()
    return frame.with_columns(values.cast(pl.Int64)) if whole else frame


def _refuse_lost_digits(frames: Sequence[pl.DataFrame], name: str, where: str, what: str) -> None:
    columns = [frame[name] for frame in frames if name in frame.columns]
    if not any(column.dtype.is_float() for column in columns):
        return
    for column in columns:
        if column.dtype.is_integer() and not ((column < EXACT) & (column > -EXACT)).fill_null(True).all():
            raise DataError(
                f"{what}: {name!r} holds whole numbers beyond 2^53 in one piece and fractions in another",
                where=where,
                expected="one type of numbers",
                fix=f"write {name!r} as text or as whole numbers everywhere",
            )
