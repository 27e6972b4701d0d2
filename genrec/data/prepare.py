"""From tables to a prepared data set: check, filter, order, split, write."""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from genrec.artifacts import MANIFEST, read_manifest, reserve_folder, verify_artifact, write_artifact, write_json
from genrec.artifacts.targets import real_place
from genrec.config import DataConfig
from genrec.data.account import (
    CORE,
    IDS,
    LOW_RATINGS,
    NO_INTERACTIONS,
    REPEATS,
    UNKNOWN_ITEMS,
    DatasetAccount,
    TableAccount,
    examples_of,
    write_account,
)
from genrec.data.arrow import write_histories, write_parquet
from genrec.data.columns import check_found, check_mapping, like_ratings, mapping_of
from genrec.data.dataset import STAGE, Dataset
from genrec.data.events import Events, as_categories, encode, in_sequence, keep_core, match_items, note_order
from genrec.data.profiles import with_columns
from genrec.data.public import cached_source
from genrec.data.readers import Kind, find_table, read_table, require_table, table_sha256, to_frame
from genrec.data.schema import tidy_interactions, tidy_items, tidy_users
from genrec.data.splits import split_ends, users_without_times
from genrec.data.statistics import dataset_statistics, statistics_page
from genrec.data.ties import orders_by_ids, ties_in_words
from genrec.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

# Reasons of the account as keys of ``dropped`` in the statistics.
DROPPED = {REPEATS: "duplicates", LOW_RATINGS: "low_ratings", UNKNOWN_ITEMS: "unknown_items", CORE: "k_core"}
# The keys that shape every result; the others say where the tables lie, which must not change a fingerprint.
SHAPING_KEYS = ("columns", "k_core", "min_rating", "unknown_items", "split", "validation_ratio", "test_ratio")


@dataclass
class _Table:
    """A table as it was read, until it is checked, and its account."""

    frame: pl.DataFrame
    account: TableAccount


@dataclass(frozen=True)
class Tables:
    """Files of a raw data set: a table of interactions, perhaps one of items, perhaps one of users."""

    interactions: Path
    items: Path | None
    users: Path | None

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files and folders that there are."""
        return tuple(filter(None, (self.interactions, self.items, self.users)))


def prepare_dataset(config: DataConfig, out: Path) -> Dataset:
    """Read tables, check, filter and split them, and write the data set folder.

    Args:
        config: Where the tables come from (``path``, ``source`` or ``interactions``) and what to do with them. A
            ``path`` that is a prepared data set already is copied as it is.
        out: Folder to write: ``items.parquet``, ``interactions.parquet``, ``users.parquet``, ``histories/``,
            ``statistics.json``, ``statistics.md``, ``account.json`` and ``manifest.json``.

    Raises:
        ConfigError: If the settings do not say where the tables are.
        DataError: If the tables cannot be used.
        ArtifactError: If ``out`` cannot be written.
    """
    if prepared := _prepared_folder(config):
        return _copy_prepared(prepared, config, Path(out))
    tables = locate_tables(config)
    with reserve_folder(Path(out), STAGE, reads=tables.paths):
        return _make(_read(tables, config.columns), config, Path(out), input_fingerprints(config))


def make_dataset(interactions: Any, items: Any, config: DataConfig, out: Path, *, users: Any = None) -> Dataset:
    """As :func:`prepare_dataset`, from tables in memory.

    Args:
        interactions: A polars DataFrame, ``datasets.Dataset``, pandas DataFrame or Arrow table.
        items: The same kinds, or None to make the catalogue from the interactions.
        config: Filters and split; its paths are not read.
        out: Folder to write.
        users: The same kinds; None where nothing is known of users.

    Raises:
        DataError: If the tables cannot be used.
        ArtifactError: If ``out`` cannot be written.
    """
    given: dict[Kind, Any] = {"interactions": interactions, "items": items, "users": users}
    with reserve_folder(Path(out), STAGE):
        return _make(_in_memory(given, config.columns), config, Path(out), inputs={})


def locate_tables(config: DataConfig) -> Tables:
    """Where the tables of a recipe are; a public source is fetched on first use.

    Raises:
        ConfigError: If none or several of ``path``, ``source`` and ``interactions`` are set.
        DataError: If a file does not exist.
    """
    given = [name for name in ("path", "source", "interactions") if getattr(config, name)]
    if len(given) != 1:
        raise ConfigError(
            f"the data come from {' and '.join(given) or 'nowhere'}",
            where="section data",
            expected="exactly one of path (a folder), source (a public data set) and interactions (a file)",
            fix="set one of them, e.g. --set data.source=ml-100k",
        )
    items, users = (Path(file) if file else None for file in (config.items, config.users))
    if config.interactions:
        interactions = Path(config.interactions)
    else:
        folder = cached_source(config.source) if config.source else Path(str(config.path))
        if not folder.is_dir():
            raise DataError(f"there is no folder {folder}", where="data.path", fix="check the path")
        interactions = require_table(folder, "interactions")
        items = items or find_table(folder, "items")
        users = users or find_table(folder, "users")
    for path in filter(None, (interactions, items, users)):
        if not path.exists():
            raise DataError(f"there is no file {path}", expected="a file or folder of tables", fix="check the path")
    return Tables(interactions, items, users)


def shaping(config: DataConfig) -> dict[str, Any]:
    """The settings that shape a data set, JSON-able; of ties only what differs from the order of the file."""
    ties = {"file": (), "shuffle": ("ties", "ties_seed"), "exclude": ("ties",)}[config.ties]
    return config.model_dump(mode="json", include={*SHAPING_KEYS, *ties})


def input_fingerprints(config: DataConfig) -> dict[str, str]:
    """SHA-256 of what :func:`prepare_dataset` would read, by name: it is stale when these or the settings change."""
    if prepared := _prepared_folder(config):
        return {"dataset": read_manifest(prepared, STAGE).fingerprint}
    tables = locate_tables(config)
    found = {"interactions": table_sha256(tables.interactions)}
    others = {"items": tables.items, "users": tables.users}
    return found | {name: table_sha256(path) for name, path in others.items() if path}


def _prepared_folder(config: DataConfig) -> Path | None:
    if not config.path or not (Path(config.path) / MANIFEST).is_file():
        return None
    return Path(config.path) if read_manifest(Path(config.path)).stage == STAGE else None


def _copy_prepared(folder: Path, config: DataConfig, out: Path) -> Dataset:
    manifest = verify_artifact(folder, STAGE)
    unset = DataConfig().model_dump(mode="json")
    asked, made = config.model_dump(mode="json"), {**unset, **manifest.config}
    if config.users:
        raise ConfigError(
            f"{folder} is prepared already: a table of users comes too late",
            where="data.users",
            expected="a data set that was prepared with it",
            fix="prepare the data again: genrec prepare --users FILE",
        )
    for key in ("k_core", "split", "min_rating", "ties", "ties_seed"):
        if key in config.model_fields_set and asked[key] != made[key]:
            logger.warning(
                "%s was prepared with %s=%s; data.%s=%s has no effect on it", folder, key, made[key], key, asked[key]
            )  # fmt: skip
    if real_place(out) == real_place(folder):
        return Dataset.load(folder)
    with (
        reserve_folder(out, STAGE, reads=[folder]),
        write_artifact(out, STAGE, config=manifest.config, inputs=manifest.inputs) as target,
    ):
        for name in manifest.files:
            (target.path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, target.path / name)
        target.counts = dict(manifest.counts)
    return Dataset.load(out)


def _read(tables: Tables, columns: Mapping[str, str]) -> dict[Kind, _Table]:
    """Tables by what they are, with our names of columns."""
    check_mapping(columns)
    paths: dict[Kind, Path | None] = {
        "interactions": tables.interactions,
        "items": tables.items,
        "users": tables.users,
    }
    read = {}
    for kind, path in paths.items():
        if path is not None:
            account = TableAccount(kind, str(path))
            categories = kind == "interactions"
            frame = read_table(path, kind, mapping_of(kind, columns), categories=categories, account=account)
            read[kind] = _Table(frame, account)
    return read


def _in_memory(given: dict[Kind, Any], columns: Mapping[str, str]) -> dict[Kind, _Table]:
    """As :func:`_read`, of tables in memory."""
    check_mapping(columns)
    tables = {}
    for kind, table in given.items():
        if table is not None or kind == "interactions":
            account = TableAccount(kind, kind)
            tables[kind] = _Table(to_frame(table, mapping_of(kind, columns), account=account), account)
    return tables


def _make(tables: dict[Kind, _Table], config: DataConfig, out: Path, inputs: dict[str, str]) -> Dataset:
    for table in tables.values():
        table.account.describe(table.frame)
    accounts = {kind: table.account for kind, table in tables.items()}
    check_found(config.columns, accounts.values())
    account = DatasetAccount(**accounts)
    users, catalogue = (_checked(tables.pop(kind, None)) for kind in ("users", "items"))
    events = _filtered(tables.pop("interactions").frame, catalogue, config, account)
    histories, events = in_sequence(events, config.ties_seed if config.ties == "shuffle" else None)
    note_order(events, account.interactions)
    train_end, valid_end = split_ends(histories, config)
    known = pl.DataFrame({"user_id": events.user_ids}) if users is None else _profiles(events.user_ids, users, account)
    _count_kept(events, catalogue, account)
    statistics = dataset_statistics(histories, train_end, valid_end, events.catalogue)
    _note_ties(statistics["ties"], config, account.interactions)
    if config.ties == "exclude" and len(untimed := users_without_times(histories)):
        account.interactions.note(f"{len(untimed)} users have an interaction without a time: for training only")
    statistics["dropped"] = _dropped(account.interactions, config)
    if not statistics["test"]["evaluated_users"]:
        logger.warning("no user has enough interactions to be evaluated: all of them are for training")
    with write_artifact(out, STAGE, config=shaping(config), inputs=inputs) as folder:
        write_parquet(events.catalogue, folder.path / "items.parquet")
        write_parquet(events.table(), folder.path / "interactions.parquet")
        write_parquet(known, folder.path / "users.parquet")
        write_histories(folder.path / "histories", histories, train_end, valid_end)
        _write_statistics(folder.path, statistics)
        write_account(folder.path, account)
        folder.counts = {name: statistics[name] for name in ("users", "items", "interactions")}
    return Dataset.load(out)


def _checked(table: _Table | None) -> pl.DataFrame | None:
    """Checked items or users."""
    if table is None:
        return None
    check = tidy_items if table.account.table == "items" else tidy_users
    return check(table.frame, where=table.account.source, account=table.account)


def _filtered(
    frame: pl.DataFrame, catalogue: pl.DataFrame | None, config: DataConfig, account: DatasetAccount
) -> Events:
    """The events that stay; the account says how many were left out for which reason."""
    log, where = account.interactions, account.interactions.source
    frame = as_categories(tidy_interactions(frame, where=where, account=log, drop_repeats=True))
    repeats = log.rows_left_out(REPEATS)
    if repeats:
        logger.warning("%d of %d interactions repeat an earlier row exactly: dropped", repeats, log.rows_read)
    if config.min_rating is not None:
        frame = _rated(frame, config.min_rating, log)
    items = account.items.source if account.items else ""
    matched, catalogue = match_items(frame, catalogue, config.unknown_items, (where, items), log)
    del frame
    return keep_core(encode(matched, catalogue), config.k_core, where, log)


def _profiles(user_ids: pl.Series, users: pl.DataFrame, account: DatasetAccount) -> pl.DataFrame:
    """One row per user with what is known of each; the account says which rows were of no use."""
    assert account.users is not None
    matched = users["user_id"].is_in(user_ids.implode())
    kept = int(matched.sum())
    if not kept:
        raise DataError(
            f"none of the {len(user_ids)} users of the interactions is in the table of users",
            where=account.users.source,
            expected=f"user ids such as {user_ids[0]!r}; there are ids such as {users['user_id'][0]!r}",
            fix="write ids the same in both tables, or leave out the table of users",
        )
    account.users.leave_out(NO_INTERACTIONS, users.height - kept, examples_of(users.filter(~matched).select("user_id")))
    account.users.rows_kept = kept
    if kept < len(user_ids):
        account.users.note(f"nothing is known of {len(user_ids) - kept} of {len(user_ids)} users")
    return with_columns(user_ids, users)


def _count_kept(events: Events, catalogue: pl.DataFrame | None, account: DatasetAccount) -> None:
    account.interactions.rows_kept = len(events)
    if account.items is not None and catalogue is not None:
        kept = catalogue["item_id"].is_in(events.catalogue["item_id"].implode())
        account.items.leave_out(CORE, int((~kept).sum()), examples_of(catalogue.filter(~kept).select("item_id")))
        account.items.rows_kept = int(kept.sum())
    assert all(table.balanced for table in account.tables)
    if account.summary():
        logger.info("%s", account.summary())


def _note_ties(ties: dict[str, Any], config: DataConfig, account: TableAccount) -> None:
    """Note that the order within ties is that of the item ids, where it is."""
    if orders_by_ids(ties):
        advice = "; ties: shuffle draws another order, ties: exclude evaluates without it"
        said = f"{ties_in_words(ties)}: the order within one time is that of the ids"
        account.note(said + (advice if config.ties == "file" else ""))


def _dropped(account: TableAccount, config: DataConfig) -> dict[str, int]:
    """Rows left out by reason, for the statistics."""
    reasons = [reason for reason in DROPPED if reason != LOW_RATINGS or config.min_rating is not None]
    return {DROPPED.get(reason, reason): account.rows_left_out(reason) for reason in [*reasons, *account.left_out]}


def _rated(frame: pl.DataFrame, least: float, account: TableAccount) -> pl.DataFrame:
    if "rating" not in frame.columns:
        near = (like_ratings(frame.columns) or ["YOUR_COLUMN"])[0]
        raise DataError(
            "there is no column 'rating'",
            where=account.source,
            expected=f"ratings to compare with data.min_rating = {least}",
            fix=f"leave out data.min_rating, or name the column: columns: {{rating: {near}}}",
        )
    rated = (frame["rating"] >= least).fill_null(True)
    low = frame.filter(~rated)
    if low.height == frame.height:
        raise DataError(f"no interaction is rated at least {least}", where=account.source, fix="lower data.min_rating")
    account.leave_out(LOW_RATINGS, low.height, examples_of(low.select(*IDS, "rating")))
    if low.height:
        logger.warning("%d of %d interactions are rated too low: dropped", low.height, frame.height)
    return frame.filter(rated)


def _write_statistics(folder: Path, statistics: dict[str, Any]) -> None:
    write_json(folder / "statistics.json", statistics)
    (folder / "statistics.md").write_text(statistics_page(statistics), encoding="utf-8")
