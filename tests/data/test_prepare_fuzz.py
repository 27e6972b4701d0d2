"""What `prepare` keeps of any table is what plain Python keeps of it, and its account says so; or both refuse it.

``GENREC_FUZZ_EXAMPLES=20000 pytest tests/data/test_prepare_fuzz.py`` tries so many random tables.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import naive_tables
import polars as pl
from hypothesis import HealthCheck, event, given, settings
from random_tables import Log, logs

from genrec.config import DataConfig
from genrec.data import Dataset, prepare_dataset
from genrec.errors import GenrecError

# Files are synced when they are written, which a disk takes long for.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
EXAMPLES = int(os.environ.get("GENREC_FUZZ_EXAMPLES", "500"))


def expected_of(log: Log, paths: list[Path]) -> naive_tables.Prepared | str:
    """What plain Python makes of the files, or why it refuses them."""
    try:
        return naive_tables.prepare(
            naive_tables.read_rows(paths, backslash=log.dialect["backslash"]), log.items, log.settings
        )
    except naive_tables.Refused as refusal:
        return f"refused: {refusal}"


def found_in(log: Log, table: Path, home: Path) -> Dataset | str:
    """What genrec makes of the files, or its message."""
    places = {"interactions": str(table)}
    if log.items is not None:
        pl.DataFrame({"item_id": log.items}).write_parquet(home / "items.parquet")
        places["items"] = str(home / "items.parquet")
    try:
        return prepare_dataset(DataConfig(**places, **log.settings), home / "out")
    except GenrecError as error:
        assert not (home / "out").exists()
        return f"refused: {error}"


def assert_equal(dataset: Dataset, expected: naive_tables.Prepared) -> None:
    account = dataset.account.interactions
    assert account.rows_read == expected.read
    assert account.rows_kept == len(expected.rows)
    wanted = {reason: rows for reason, rows in expected.left_out.items() if rows}
    assert {reason: entry.rows for reason, entry in account.left_out.items()} == wanted
    assert all(table.balanced for table in dataset.account.tables)
    kept = dataset.interactions
    names = [name for name in ("user_id", "item_id", "timestamp", "order", "rating", "event") if name in kept.columns]
    # In CSV nothing is the empty text.
    found = [tuple(map(known, row)) for row in kept.select(names).rows()]
    assert found == [tuple(known(row.get(name)) for name in names) for row in expected.rows]
    histories = [dataset.item_ids[item] for item in dataset.full().items.tolist()]
    assert histories == [row["item_id"] for row in expected.rows]


def known(value: Any) -> Any:
    return None if value == "" else value


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=EXAMPLES <= 500,
    suppress_health_check=list(HealthCheck),
)
@given(logs())
def test_prepared_tables_are_those_of_plain_python(log):
    home = Path(tempfile.mkdtemp(dir=MEMORY))
    try:
        (home / "log").mkdir()
        paths = log.write(home / "log")
        expected = expected_of(log, paths)
        found = found_in(log, paths[0] if len(paths) == 1 else home / "log", home)
        event(expected if isinstance(expected, str) else "kept")
        # What backslashes mean is a guess: tables with them may be refused, but not misread.
        if not (log.dialect["backslash"] and isinstance(found, str)):
            assert isinstance(found, str) == isinstance(expected, str), (found, expected)
        if isinstance(found, Dataset) and isinstance(expected, naive_tables.Prepared):
            assert_equal(found, expected)
    finally:
        shutil.rmtree(home)
