"""The account of a table: how many rows were read and kept, what was left out and why, and how each column was read.

Readers and checks write into it while they work; ``genrec prepare`` prints it and stores it as ``account.json``.
"""

from dataclasses import dataclass, field

EXAMPLES = 2


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
        source: The file, the folder, or where else it came from.
        files: How many files were read.
        rows_read: Rows that the files held.
        rows_kept: Rows of the result.
        left_out: Reason to the rows that were left out for it; with ``rows_kept`` they add up to ``rows_read``.
        columns: Column to how it was read, such as ``milliseconds since 1970``.
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
    columns_left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def leave_out(self, reason: str, rows: int, examples: list[str]) -> None:
        """Count rows that are left out for a reason; the first examples are kept."""
        if rows:
            entry = self.left_out.setdefault(reason, LeftOut())
            entry.rows += rows
            entry.examples = (entry.examples + examples)[:EXAMPLES]
