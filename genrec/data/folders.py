"""A table in a folder: which files are its parts, in which order, and what the names of their folders say."""

import re
from pathlib import Path
from urllib.parse import unquote

import polars as pl

from genrec.data.account import TableAccount
from genrec.errors import DataError

NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
WHOLE_FILE_NAMES = ("u.data", "u.item", "u.user")


def suffix_of(path: Path) -> str:
    """What says the format: the last suffix in small letters but for ``.gz``, or the name of a MovieLens file."""
    name = path.name.lower().removesuffix(".gz")
    return name if name in WHOLE_FILE_NAMES else name[name.rfind(".") :] if "." in name else ""


def parts_of(path: Path, account: TableAccount) -> list[Path]:
    """The files of a table, also those in inner folders, so that ``part-2`` comes before ``part-10``.

    Names that begin with a dot or an underscore are not read, as in Spark and Hive; the account names what else is not.

    Raises:
        DataError: If there is none, or if they are of several formats.
    """
    if path.is_file():
        return [path]
    _refuse_collection(path)
    parts, hidden, links = [], [], []
    for found in sorted(path.rglob("*"), key=lambda found: natural_key(found.relative_to(path).as_posix())):
        names = found.relative_to(path).parts
        if found.is_dir():
            links += [found] if found.is_symlink() else []
        elif any(name[0] in "._" for name in names):
            hidden.append(found)
        else:
            parts.append(found)
    alike = {suffix_of(part) for part in parts}
    _note_unread(path, [found for found in hidden if suffix_of(found) in alike], links, account)
    if not parts:
        raise DataError(f"the folder {path} is empty", expected="files of a table", fix="check the path")
    suffixes = {suffix_of(part): part.relative_to(path) for part in parts}
    if len(suffixes) > 1:
        shown = ", ".join(f"{suffix or 'no suffix'} ({suffixes[suffix]})" for suffix in sorted(suffixes)[:5])
        raise DataError(
            f"the folder mixes formats: {', '.join(sorted(suffixes))}",
            where=f"{path}: {shown}",
            expected="one format",
            fix="move the other files out of it, or let their names begin with _",
        )
    return parts


def in_file(where: str, account: TableAccount) -> str:
    """Names the file that a note is about, where a table is more than one file."""
    return "" if where == account.source else f"{Path(where).name}: "


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sorts numbers in names by their value."""
    pieces = re.split(r"([0-9]+)", name)
    return [(0, int(piece), piece) if piece[0] in "0123456789" else (1, 0, piece) for piece in pieces if piece]


def partitions_of(part: Path, table: Path) -> dict[str, pl.Expr]:
    """What the names of a part's folders say, ``year=2024/``, as text columns."""
    folders = part.relative_to(table).parts[:-1] if part != table else ()
    pairs = [name.split("=", 1) for name in folders if "=" in name]
    return {name: pl.lit(None if value == NO_VALUE else unquote(value), pl.String).alias(name) for name, value in pairs}


def _refuse_collection(path: Path) -> None:
    if (path / "dataset_dict.json").is_file():
        splits = sorted(inner.name for inner in path.iterdir() if (inner / "dataset_info.json").is_file())
        raise DataError(
            "the folder is a saved DatasetDict: several data sets",
            where=str(path),
            expected="one of them",
            fix=f"name the split: {' or '.join(str(path / split) for split in splits) or 'its folder'}",
        )


def _note_unread(path: Path, hidden: list[Path], links: list[Path], account: TableAccount) -> None:
    for unread, why in ((hidden, "names begin with . or _"), (links, "links to folders")):
        if unread:
            shown = ", ".join(str(name.relative_to(path)) for name in unread[:3]) + (", ..." if len(unread) > 3 else "")
            account.notes.append(f"{len(unread)} entries of the folder are not read, {why}: {shown}")
    if (path / "_delta_log").is_dir():
        account.notes.append(
            "the folder is a Delta table: its files may hold rows that were deleted from it; export it instead"
        )
