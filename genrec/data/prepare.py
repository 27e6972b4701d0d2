"""From tables to a prepared data set: check, filter, order, split, write."""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from genrec.artifacts import MANIFEST, read_manifest, reserve_folder, verify_artifact, write_artifact, write_json
from genrec.artifacts.targets import real_place
from genrec.config import DataConfig
from genrec.data.arrow import write_histories, write_parquet
from genrec.data.dataset import STAGE, Dataset
from genrec.data.events import Events, as_categories, encode, in_sequence, keep_core, match_items
from genrec.data.profiles import with_columns
from genrec.data.public import cached_source
from genrec.data.readers import find_table, read_table, require_table, table_sha256, to_frame
from genrec.data.schema import tidy_interactions, tidy_items, tidy_users, without_duplicates
from genrec.data.splits import split_ends
from genrec.data.statistics import dataset_statistics, statistics_page
from genrec.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

# The keys that shape the result; the others say where the tables lie, which must not change a fingerprint.
SHAPING_KEYS = ("columns", "k_core", "min_rating", "unknown_items", "split", "validation_ratio", "test_ratio")


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
            ``statistics.json``, ``statistics.md`` and ``manifest.json``.

    Raises:
        ConfigError: If the settings do not say where the tables are.
        DataError: If the tables cannot be used.
        ArtifactError: If ``out`` cannot be written.
    """
    if prepared := _prepared_folder(config):
        return _copy_prepared(prepared, config, Path(out))
    tables = locate_tables(config)
    with reserve_folder(Path(out), STAGE, reads=tables.paths):
        return _prepare_tables(tables, config, Path(out))


def _prepare_tables(tables: Tables, config: DataConfig, out: Path) -> Dataset:
    users = (
        tidy_users(read_table(tables.users, "users", config.columns), where=str(tables.users)) if tables.users else None
    )
    return _make(
        read_table(tables.interactions, "interactions", config.columns, categories=True),
        read_table(tables.items, "items", config.columns) if tables.items else None,
        config,
        out,
        where=(str(tables.interactions), str(tables.items)),
        inputs=input_fingerprints(config),
        users=users,
    )


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
    with reserve_folder(Path(out), STAGE):
        return _make_from_memory(interactions, items, config, Path(out), users=users)


def _make_from_memory(interactions: Any, items: Any, config: DataConfig, out: Path, *, users: Any) -> Dataset:
    frame = to_frame(interactions, config.columns)
    catalogue = None if items is None else to_frame(items, config.columns)
    known = None if users is None else tidy_users(to_frame(users, config.columns), where="users")
    return _make(frame, catalogue, config, out, where=("interactions", "items"), inputs={}, users=known)


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
    asked = config.model_dump(mode="json")
    if config.users:
        raise ConfigError(
            f"{folder} is prepared already: a table of users comes too late",
            where="data.users",
            expected="a data set that was prepared with it",
            fix="prepare the data again: genrec prepare --users FILE",
        )
    for key in ("k_core", "split", "min_rating"):
        if key in config.model_fields_set and asked[key] != manifest.config.get(key):
            logger.warning(
                "%s was prepared with %s=%s; data.%s=%s has no effect on it",
                folder, key, manifest.config.get(key), key, asked[key],
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


def _make(
    interactions: pl.DataFrame,
    items: pl.DataFrame | None,
    config: DataConfig,
    out: Path,
    *,
    where: tuple[str, str],
    inputs: dict[str, str],
    users: pl.DataFrame | None,
) -> Dataset:
    interactions = as_categories(tidy_interactions(interactions, where=where[0]))
    catalogue = None if items is None else tidy_items(items, where=where[1])
    events, dropped = _filtered(interactions, catalogue, config, where)
    del interactions
    histories, events = in_sequence(events)
    train_end, valid_end = split_ends(histories, config)
    statistics = dataset_statistics(histories, train_end, valid_end, events.catalogue) | {"dropped": dropped}
    if not statistics["test"]["evaluated_users"]:
        logger.warning("no user has enough interactions to be evaluated: all of them are for training")
    shaping = config.model_dump(mode="json", include=set(SHAPING_KEYS))
    with write_artifact(out, STAGE, config=shaping, inputs=inputs) as folder:
        write_parquet(events.catalogue, folder.path / "items.parquet")
        write_parquet(events.table(), folder.path / "interactions.parquet")
        named = pl.DataFrame({"user_id": events.user_ids})
        write_parquet(named if users is None else with_columns(events.user_ids, users), folder.path / "users.parquet")
        write_histories(folder.path / "histories", histories, train_end, valid_end)
        _write_statistics(folder.path, statistics)
        folder.counts = {name: statistics[name] for name in ("users", "items", "interactions")}
    return Dataset.load(out)


def _filtered(
    frame: pl.DataFrame, catalogue: pl.DataFrame | None, config: DataConfig, where: tuple[str, str]
) -> tuple[Events, dict[str, int]]:
    """The events that stay, and how many were dropped for which reason."""
    dropped: dict[str, int] = {}
    frame = _drop(frame, without_duplicates(frame), dropped, "duplicates", "repeat a (user, item, timestamp)")
    if config.min_rating is not None:
        frame = _drop(frame, _rated(frame, config.min_rating, where[0]), dropped, "low_ratings", "are rated too low")
    matched, catalogue = match_items(frame, catalogue, config.unknown_items, where)
    dropped["unknown_items"] = frame.height - matched.height
    events = keep_core(encode(matched, catalogue), config.k_core, where[0])
    dropped["k_core"] = matched.height - len(events)
    return events, dropped


def _drop(before: pl.DataFrame, after: pl.DataFrame, dropped: dict[str, int], name: str, why: str) -> pl.DataFrame:
    dropped[name] = before.height - after.height
    if dropped[name]:
        logger.warning("%d of %d interactions %s: dropped", dropped[name], before.height, why)
    return after


def _rated(frame: pl.DataFrame, least: float, where: str) -> pl.DataFrame:
    if "rating" not in frame.columns:
        raise DataError(
            "there is no column 'rating'",
            where=where,
            expected=f"ratings to compare with data.min_rating = {least}",
            fix="leave out data.min_rating, or name the column: columns: {rating: YOUR_COLUMN}",
        )
    rated = frame.filter((pl.col("rating") >= least).fill_null(True))
    if rated.height == 0:
        raise DataError(f"no interaction is rated at least {least}", where=where, fix="lower data.min_rating")
    return rated


def _write_statistics(folder: Path, statistics: dict[str, Any]) -> None:
    write_json(folder / "statistics.json", statistics)
    (folder / "statistics.md").write_text(statistics_page(statistics), encoding="utf-8")
