"""Public data sets by name: fetched from the first mirror that delivers the expected bytes, then read as any table."""

import logging
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from genrec.artifacts import (
    file_sha256,
    overwriting,
    read_json,
    read_manifest,
    reporting_write_errors,
    reserve_folder,
    verify_artifact,
    write_artifact,
    write_json,
)
from genrec.artifacts.contents import is_sealed
from genrec.artifacts.files import temporary_name
from genrec.data.arrow import write_parquet
from genrec.data.download import DownloadError, check_sha256, download, nothing_delivered
from genrec.data.readers import Kind, read_table
from genrec.data.schema import tidy_interactions, tidy_items, tidy_users
from genrec.data.sources import Mirror, PublicSource, RemoteTable, find_source
from genrec.errors import ArtifactError, ConfigError, DataError

logger = logging.getLogger(__name__)

STAGE = "source"
RECORD = "SOURCE.json"


def fetch_source(name: str, out: Path) -> Path:
    """Fetch a public data set into a folder, unless it is there already.

    Args:
        name: ``ml-100k``, ``ml-1m``, ``amazon-2014-CATEGORY`` or ``amazon-2023-CATEGORY``.
        out: Folder for ``interactions.parquet``, ``items.parquet``, ``users.parquet`` (MovieLens), ``LICENSE`` (the
            terms of use) and ``SOURCE.json`` (the mirror and the hashes of what it delivered).

    Returns:
        ``out``.

    Raises:
        ConfigError: If there is no such data set.
        DataError: If no mirror delivers the expected bytes.
        ArtifactError: If ``out`` cannot be written, or holds something else.
    """
    source, out = find_source(name), Path(out)
    if _is_there(source, out):
        return out
    with reserve_folder(out, STAGE) as place:
        # Another process may have fetched it while this one waited to begin.
        return out if _is_there(source, place) else _fetch(source, place, out)


def _fetch(source: PublicSource, out: Path, asked: Path) -> Path:
    logger.info("%s: terms of use\n%s", source.name, source.terms)
    recorded = _recorded_hashes(out)
    with reporting_write_errors(out), _downloads(out) as folder:
        mirror, files, hashes = _first_delivery(source, folder, recorded)
        tables = _tables(source, mirror, files, folder)
        with write_artifact(out, STAGE, config={"name": source.name}, inputs=hashes) as target:
            for name, table in tables.items():
                write_parquet(table, target.path / f"{name}.parquet")
            (target.path / "LICENSE").write_text(source.terms, encoding="utf-8")
            write_json(target.path / RECORD, {"name": source.name, "files": _record(mirror, hashes)})
            target.counts = {name: table.height for name, table in tables.items()}
    return asked


@contextmanager
def _downloads(out: Path) -> Iterator[Path]:
    """A folder next to the target; what a killed process leaves of it is cleared away by the next one."""
    folder = temporary_name(out.absolute())
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def cached_source(name: str) -> Path:
    """Fetch a public data set on first use into ``$GENREC_CACHE`` (default: ``~/.cache/genrec``)."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genrec"
    folder = Path(os.environ.get("GENREC_CACHE") or default) / find_source(name).name
    # A damaged copy is fetched again; a folder of another stage in its place is somebody's work.
    with overwriting(is_sealed(folder) and read_manifest(folder).stage == STAGE):
        return fetch_source(name, folder)


def _is_there(source: PublicSource, out: Path) -> bool:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not is_sealed(out) or read_manifest(out).stage != STAGE:
        return False
    if read_manifest(out).config.get("name") != source.name:
        raise ConfigError(
            f"{out} holds another data set", expected=f"an empty folder or {source.name}", fix="give another --out"
        )
    try:
        verify_artifact(out, STAGE)
    except ArtifactError as error:
        logger.warning("%s is damaged: %s", out, error.what)
        return False
    if source.mirrors[0].users and not (out / "users.parquet").is_file():
        logger.info("%s was fetched without the table of users: delete the folder to fetch it again", out)
    return True


def _record(mirror: Mirror, hashes: dict[str, str]) -> dict[str, dict[str, str | bool]]:
    return {
        table.file_name: {"url": table.url, "sha256": hashes[table.file_name], "pinned": table.sha256 is not None}
        for table in mirror.tables
    }


def _recorded_hashes(out: Path) -> dict[str, str]:
    """Hashes of files without a published one, as an earlier download of this folder recorded them."""
    if not (out / RECORD).is_file():
        return {}
    return {file_name: entry["sha256"] for file_name, entry in read_json(out / RECORD)["files"].items()}


def _first_delivery(
    source: PublicSource, folder: Path, recorded: dict[str, str]
) -> tuple[Mirror, dict[str, Path], dict[str, str]]:
    reasons = []
    for mirror in source.mirrors:
        try:
            files: dict[str, Path] = {}
            for table in mirror.tables:
                if table.file_name not in files:
                    logger.info("fetching %s", table.url)
                    files[table.file_name] = download(table.url, folder)
                    expected = table.sha256 or recorded.get(table.file_name)
                    if expected:
                        check_sha256(files[table.file_name], expected, table.url)
            return mirror, files, {name: file_sha256(path) for name, path in files.items()}
        except DownloadError as error:
            logger.warning("no luck with a mirror of %s: %s", source.name, error)
            reasons.append(str(error))
    wanted = {table.file_name for mirror in source.mirrors[:1] for table in mirror.tables}
    raise nothing_delivered(source.name, reasons, sorted(wanted))


def _tables(source: PublicSource, mirror: Mirror, files: dict[str, Path], folder: Path) -> dict[str, pl.DataFrame]:
    interactions = _read(mirror.interactions, "interactions", files, folder)
    interactions = tidy_interactions(interactions, where=mirror.interactions.url)
    items = tidy_items(_read(mirror.items, "items", files, folder), where=mirror.items.url)
    seen = interactions.select(pl.col("item_id").unique().sort())
    if source.only_seen_items:
        items = items.join(seen, on="item_id", how="semi", maintain_order="left")
    # Some products have reviews but no metadata: they stay, without text.
    without_text = seen.join(items, on="item_id", how="anti").sort("item_id")
    if without_text.height:
        logger.warning("%d of %d items of %s have no metadata", without_text.height, seen.height, source.name)
    tables = {"interactions": interactions, "items": pl.concat([items, without_text], how="diagonal")}
    if mirror.users:
        tables["users"] = tidy_users(_read(mirror.users, "users", files, folder), where=mirror.users.url)
    return tables


def _read(table: RemoteTable, kind: Kind, files: dict[str, Path], folder: Path) -> pl.DataFrame:
    path = files[table.file_name]
    if table.member:
        target = folder / Path(table.member).name
        try:
            with zipfile.ZipFile(path) as archive, archive.open(table.member) as member, target.open("wb") as stream:
                shutil.copyfileobj(member, stream)
        except (zipfile.BadZipFile, KeyError) as error:
            raise DataError(f"{table.member} cannot be unpacked: {error}", where=table.url) from error
        path = target
    return read_table(path, kind)
