"""``genrec generate``: lists for every user of a table or data set, by one process or by several.

Under ``accelerate launch`` or ``torchrun`` each process writes the lists of its share of the users beside the target,
and the first joins them. Shares are whole blocks of users, so the file does not depend on the number of processes.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from genrec.artifacts import write_file
from genrec.config import DecodingConfig, parse_settings
from genrec.data import Dataset, Histories
from genrec.data.readers import read_table
from genrec.decoding import generate_blocks, write_recommendations
from genrec.decoding.generate import BLOCK_USERS
from genrec.decoding.output import SCHEMA, Written
from genrec.errors import ConfigError, DataError
from genrec.recommender import Recommender, Unknown


@dataclass(frozen=True)
class GenerationRequest:
    """Whose lists are wanted, and which items may stand in them.

    Attributes:
        histories: A table of user_id, item_id and timestamp; or
        dataset: a prepared data set, whose users get lists.
        decoding: Settings that differ from the model's own.
        allow_items: A table with item_id, or a text file of one id per line: nothing else is recommended.
        block_items: The same kinds: never recommended.
        unknown: What to do with items that the model does not know.
    """

    histories: Path | None = None
    dataset: Path | None = None
    decoding: dict[str, Any] = field(default_factory=dict)
    allow_items: Path | None = None
    block_items: Path | None = None
    unknown: Unknown = "warn"


@dataclass(frozen=True)
class Processes:
    """The processes that share the work.

    Attributes:
        rank: Number of this one, from 0.
        count: How many there are.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def from_environment(cls) -> "Processes":
        """As a launcher tells it, else one process."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    def share(self, rows: int) -> np.ndarray:
        """The rows of this process: consecutive whole blocks."""
        blocks = -(-rows // BLOCK_USERS)
        first, last = (blocks * number // self.count * BLOCK_USERS for number in (self.rank, self.rank + 1))
        return np.arange(first, min(last, rows))


def write_lists(model: Path, request: GenerationRequest, out: Path, *, device: str | None = None) -> Written | None:
    """Write ``recommendations.parquet`` for all users of a request.

    Args:
        model: A model folder.
        request: Whose lists are wanted.
        out: The Parquet file.
        device: Where the model runs; a GPU if there is one by default, under a launcher one per process.

    Returns:
        How many users there are, and how many lists are shorter than asked for; None in processes other than the first.

    Raises:
        ConfigError: If not exactly one of table and data set is given, or a setting cannot be used.
        DataError: If the table or a list of items cannot be used.
        ArtifactError: If the model cannot be used or the file cannot be written.
    """
    if (request.histories is None) == (request.dataset is None):
        raise ConfigError("one of --histories and --dataset is needed", expected="exactly one of them")
    processes = Processes.from_environment()
    with _together(processes):
        recommender = Recommender.from_pretrained(model, device=device or _own_device(processes))
        users, histories = _read_histories(recommender, request)
        if processes.count == 1:
            return write_share(recommender, request, users, histories, out)
        share = histories.select(processes.share(len(histories)))
        write_share(recommender, request, users, share, part_of(out, processes.rank, processes.count))
        _wait()
        if processes.rank == 0:
            return join_parts([part_of(out, rank, processes.count) for rank in range(processes.count)], out)
    return None


def write_share(
    recommender: Recommender, request: GenerationRequest, users: Sequence[str], histories: Histories, out: Path
) -> Written:
    """Write the lists of some users.

    Args:
        recommender: Writes them.
        request: For the decoding and the items allowed.
        users: External ids by dense user.
        histories: Of the users wanted.
        out: The Parquet file.
    """
    values = {**recommender.decoding.model_dump(), **request.decoding}
    allowed, blocked = (_read_items(path) for path in (request.allow_items, request.block_items))
    blocks = generate_blocks(
        recommender.model,
        histories,
        decoding=parse_settings(DecodingConfig, values, where="the command line"),
        allowed=recommender.filter_items(allowed, blocked),
        user_ids=users,
        progress=True,
    )
    return write_recommendations(out, blocks, users=histories.users, user_ids=users, item_ids=recommender.item_ids)


def part_of(out: Path, rank: int, count: int) -> Path:
    """Where one of several processes writes its share."""
    return out.with_name(f".{out.name}.{rank}-of-{count}")


def join_parts(parts: Sequence[Path], out: Path) -> Written:
    """Join the shares of several processes, row group by row group, and remove them."""
    written = Written()
    with write_file(out) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
        for part in parts:
            with pq.ParquetFile(part) as file:
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group)
                    writer.write_table(table, row_group_size=table.num_rows)
                    _count(written, pl.from_arrow(table))  # type: ignore[arg-type]
    for part in parts:
        part.unlink()
    return written


def _count(written: Written, rows: pl.DataFrame) -> None:
    lists = rows.group_by("user_id").agg(pl.col("short_by").max(), pl.col("rank").max())
    written.users += lists.height
    written.short_users += lists.filter(pl.col("short_by") > 0).height
    written.empty_users += lists["rank"].null_count()


def _read_histories(recommender: Recommender, request: GenerationRequest) -> tuple[Sequence[str], Histories]:
    if request.histories is not None:
        return recommender.dense_histories(read_table(request.histories, "interactions"), request.unknown)
    dataset = Dataset.load(Path(str(request.dataset)), verify=True)
    if dataset.item_ids == recommender.item_ids:
        return dataset.user_ids, dataset.full()
    return recommender.dense_histories(dataset.interactions, request.unknown)


def _read_items(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    if path.suffix != ".txt":
        frame = read_table(path, "items")
        if "item_id" not in frame.columns:
            raise DataError("there is no column 'item_id'", where=str(path), expected="item_id; or a .txt file of ids")
        return frame["item_id"].cast(pl.String).drop_nulls().to_list()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the list of items cannot be read: {error}", where=str(path), fix="check the path") from error
    return [line.strip() for line in lines if line.strip()]


def _own_device(processes: Processes) -> str | None:
    import torch

    several = processes.count > 1 and torch.cuda.is_available()
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if several else None


@contextmanager
def _together(processes: Processes) -> Iterator[None]:
    if processes.count == 1:
        yield
        return
    import torch.distributed

    torch.distributed.init_process_group("gloo")
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def _wait() -> None:
    import torch.distributed

    torch.distributed.barrier()
