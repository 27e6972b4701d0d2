"""The account of a table: how many rows were read and kept, what was left out and why, and how each column was read.

Readers and checks write into it while they work; ``genrec prepare`` prints it and stores it as ``account.json``.
"""

import logging
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import TypeAdapter, ValidationError

from genrec.artifacts import read_json, write_json
from genrec.errors import ArtifactError

logger = logging.getLogger(__name__)

FILE = "account.json"
EXAMPLES = 2
WIDTH = 80
IDS = ("user_id", "item_id")
# The reasons of our own filters.
REPEATS, LOW_RATINGS, UNKNOWN_ITEMS, CORE = "exact repeats", "low ratings", "unknown items", "k-core"
NO_INTERACTIONS = "users without interactions"


@dataclass
class LeftOut:
    """Rows that were left out for one reason.

    Attributes:
        rows: How many.
        examples: The first few, as text.
    """

    rows: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass
class TableAccount:
    """What became of one table.

    Attributes:
        table: ``interactions``, ``items`` or ``users``.
        source: The file, the folder, or where else it came from; not stored, since it must not change a fingerprint.
        files: How many files were read; 0 for a table in memory.
        rows_read: Rows that the files held.
        rows_kept: Rows of the result.
        left_out: Reason to the rows that were left out for it; with ``rows_kept`` they add up to ``rows_read``.
        columns: Column to how it was read, such as ``milliseconds since 1970``.
        renamed: Our column to the name that it has in the files, where that is another.
        columns_left_out: Column to why it is not in the result.
        notes: What else a user should know, one sentence each; every one is also logged as a warning.
    """

    table: str
    source: str = ""
    files: int = 0
    rows_read: int = 0
    rows_kept: int = 0
    left_out: dict[str, LeftOut] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    columns_left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def leave_out(self, reason: str, rows: int, examples: list[str]) -> None:
        """Count rows that are left out for a reason; the first examples are kept."""
        if rows:
            entry = self.left_out.setdefault(reason, LeftOut())
            entry.rows += rows
            entry.examples = (entry.examples + examples)[:EXAMPLES]

    def note(self, text: str) -> None:
        """Add a note, and log it as a warning."""
        self.notes.append(text)
        logger.warning("%s: %s", self.source or self.table, text)

    def describe(self, frame: pl.DataFrame) -> None:
        """Say of every column of a table how it was read, where that is not said yet."""
        for name, dtype in frame.schema.items():
            # Ids that are text may come as categories, which is how they are held.
            held = name in IDS and isinstance(dtype, pl.Categorical | pl.Enum)
            self.columns.setdefault(name, "text" if held else kind_of(dtype))

    def rows_left_out(self, reason: str) -> int:
        """How many rows were left out for a reason."""
        return self.left_out[reason].rows if reason in self.left_out else 0

    @property
    def balanced(self) -> bool:
        """Whether the rows that were kept and left out are those that were read."""
        return self.rows_read == self.rows_kept + sum(entry.rows for entry in self.left_out.values())


@dataclass
class DatasetAccount:
    """The accounts of the tables of a data set; None where there is no such table."""

    interactions: TableAccount
    items: TableAccount | None = None
    users: TableAccount | None = None

    @property
    def tables(self) -> list[TableAccount]:
        """The accounts of the tables that there are."""
        return [table for table in (self.interactions, self.items, self.users) if table is not None]

    def page(self) -> str:
        """The account as text, at most 80 columns wide."""
        return "\n\n".join("\n".join(_lines(table)) for table in self.tables)

    def summary(self) -> str:
        """What was left out, in one line; empty if nothing was."""
        parts = []
        for table in self.tables:
            reasons = ", ".join(f"{reason} {entry.rows:,}" for reason, entry in table.left_out.items())
            if reasons:
                parts.append(f"{table.rows_read - table.rows_kept:,} of {table.rows_read:,} {table.table} ({reasons})")
        return "left out: " + "; ".join(parts) if parts else ""


def write_account(folder: Path, account: DatasetAccount) -> None:
    """Write ``account.json``; where the files lie is left out."""
    content = asdict(account)
    for table in filter(None, content.values()):
        del table["source"]
    write_json(folder / FILE, content)


def read_account(folder: Path) -> DatasetAccount:
    """Read ``account.json`` of a data set.

    Raises:
        ArtifactError: If it is missing, is not an account, or does not add up.
    """
    if not (folder / FILE).is_file():
        raise ArtifactError(
            f"{folder} has no {FILE}", expected="a data set of this version of genrec", fix="prepare the data set again"
        )
    content: Any = read_json(folder / FILE)
    try:
        account = TypeAdapter(DatasetAccount).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise _not_an_account(folder, f"{place}: {first['msg']}") from error
    for table in account.tables:
        if not table.balanced:
            raise _not_an_account(folder, f"the rows of {table.table} do not add up")
    return account


def kind_of(dtype: pl.DataType) -> str:
    """What the values of a column are, in words."""
    if isinstance(dtype, pl.List | pl.Array):
        return f"list of {kind_of(dtype.inner)}"  # type: ignore[arg-type]
    kinds = (
        (dtype == pl.String, "text"),
        (dtype.is_integer(), "whole number"),
        (dtype.is_numeric(), "number"),
        (isinstance(dtype, pl.Categorical | pl.Enum), "category"),
        (dtype == pl.Boolean, "true or false"),
        (dtype == pl.Date, "date"),
        (dtype == pl.Datetime, "date and time"),
        (dtype == pl.Null, "empty"),
    )
    return next((kind for found, kind in kinds if found), str(dtype))


def examples_of(frame: pl.DataFrame) -> list[str]:
    """The first rows of a table as text, values quoted so that no character of theirs acts on a terminal."""
    return [
        ", ".join(f"{name} {value!r}" for name, value in row.items() if value is not None)
        for row in frame.head(EXAMPLES).rows(named=True)
    ]


def _not_an_account(folder: Path, why: str) -> ArtifactError:
    return ArtifactError(f"{FILE} is not an account: {why}", where=str(folder), fix="prepare the data set again")


def _lines(table: TableAccount) -> Iterator[str]:
    files = f" from {table.files:,} files" if table.files > 1 else ""
    yield f"{table.table}: {table.rows_read:,} rows read{files}, {table.rows_kept:,} kept"
    for reason, entry in table.left_out.items():
        yield from _wrapped(f"left out: {reason}, {entry.rows:,}", 2)
        for example in entry.examples:
            yield from _wrapped(f"such as {example}", 4)
    for name, kind in table.columns.items():
        source = f", from the column {table.renamed[name]!r}" if name in table.renamed else ""
        yield from _wrapped(f"column {name!r}: {kind}{source}", 2)
    for name, why in table.columns_left_out.items():
        yield from _wrapped(f"column {name!r} left out: {why}", 2)
    for text in table.notes:
        yield from _wrapped(f"note: {text}", 2)


def _wrapped(text: str, indent: int) -> list[str]:
    first, rest = " " * indent, " " * (indent + 2)
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=rest) or [first]
