"""``genrec generate``: lists for every user of a table or data set, by one process or by several.

Fixed blocks of users are the unit of work. Under ``accelerate launch`` or ``torchrun`` every process makes its blocks,
and the first joins them all; a rerun after a kill makes those that are missing. So the file depends neither on the
number of processes nor on how often they were stopped.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from genrec.artifacts import environment, reserve_file
from genrec.config import DecodingConfig, parse_settings
from genrec.data import Dataset, Histories
from genrec.data.readers import read_item_ids, read_table
from genrec.decoding import Names, Shards, UserBlock, Written, commit_blocks, generate_blocks, schema_of
from genrec.decoding.explain import writes_semantic_ids
from genrec.decoding.generate import BLOCK_USERS, count_blocks
from genrec.decoding.output import check_format
from genrec.decoding.searcher import items_per_sequence
from genrec.decoding.transitions import transition_weight
from genrec.distributed.world import number_of, rank_and_size
from genrec.errors import ConfigError
from genrec.recommender import Recommender, Unknown

# Processes wait for the slowest, which may have hours of work left.
LONGEST_WAIT = timedelta(days=30)


@dataclass(frozen=True)
class GenerationRequest:
    """Whose lists are wanted, and which items may be in them.

    Attributes:
        histories: A table of user_id, item_id and timestamp; or
        dataset: a prepared data set, whose users get lists.
        users: With ``histories``: a table of user_id and the columns of users that the model reads.
        catalogue: A prepared data set whose items are recommended instead of those that the model was trained on; its
            users get lists if neither of the two above is given.
        features: The ``features`` folder of the model's training, for its encoder, if there is a catalogue and the
            model folder has no encoder.
        decoding: Settings that differ from the model's own.
        allow_items: A table with item_id, or a text file of one id per line: nothing else is recommended.
        block_items: The same kinds: never recommended.
        allow_where: A condition on the columns of the model's items, such as ``price < 20``: nothing else is
            recommended.
        unknown: What to do with items that the model does not know.
        explain: Write the semantic ID of each item and the probability of each of its codes.
    """

    histories: Path | None = None
    dataset: Path | None = None
    users: Path | None = None
    catalogue: Path | None = None
    features: Path | None = None
    decoding: dict[str, Any] = field(default_factory=dict)
    allow_items: Path | None = None
    block_items: Path | None = None
    allow_where: str | None = None
    unknown: Unknown = "warn"
    explain: bool = False

    @property
    def paths(self) -> list[Path]:
        """The files and folders that it names."""
        named = (self.histories, self.dataset, self.users, self.catalogue, self.features)
        return [path for path in (*named, self.allow_items, self.block_items) if path is not None]


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
        return cls(*rank_and_size())

    def own(self, blocks: int) -> range:
        """The blocks of this process, of so many in all."""
        return range(self.rank, blocks, self.count)


@dataclass(frozen=True, eq=False)
class Job:
    """A request with everything that it names opened.

    Attributes:
        recommender: Writes the lists.
        histories: Of the users wanted; mapped from disk where they come from a data set of the model's items.
        names: External ids.
        decoding: How to search.
        allowed: bool ``[N]``, which items may be recommended; None for all.
        explain: Whether lists are explained.
        catalogue: Fingerprint of the data set whose items are recommended; None for those of the model.
    """

    recommender: Recommender
    histories: Histories
    names: Names
    decoding: DecodingConfig
    allowed: np.ndarray | None
    explain: bool
    catalogue: str | None = None

    @classmethod
    def open(cls, recommender: Recommender, request: GenerationRequest) -> "Job":
        """Read what a request names.

        Raises:
            ConfigError: If a setting or a condition cannot be used, or there is nothing to explain.
            DataError: If the table or a list of items cannot be used.
            ArtifactError: If a data set cannot be used, or its items cannot be named as those of the model were.
        """
        catalogue = None
        if request.catalogue is not None:
            items = Dataset.load(request.catalogue, verify=True)
            recommender, catalogue = recommender.with_catalogue(items, features=request.features), items.fingerprint
        if request.explain:
            writes_semantic_ids(recommender.model)
        values = {**recommender.decoding.model_dump(), **request.decoding}
        decoding = parse_settings(DecodingConfig, values, where="the command line")
        # Refused here, before anything is written.
        items_per_sequence(recommender.model, decoding)
        transition_weight(recommender.model, decoding)
        paths = (request.allow_items, request.block_items)
        lists = (None if path is None else read_item_ids(path) for path in paths)
        allowed = recommender.filter_items(*lists, where=request.allow_where)
        users, histories = _read_histories(recommender, request)
        names = Names.of(histories.users, users, recommender.item_ids)
        return cls(recommender, histories, names, decoding, allowed, request.explain, catalogue)

    def blocks(self, numbers: Sequence[int], *, progress: bool) -> Iterator[UserBlock]:
        """Lists of some blocks."""
        return generate_blocks(
            self.recommender.model,
            self.histories,
            decoding=self.decoding,
            allowed=self.allowed,
            user_ids=self.names.user_ids,
            blocks=numbers,
            explain=self.explain,
            progress=progress,
        )

    def description(self) -> dict[str, Any]:
        """Everything that the lists depend on, JSON-able: a rerun with another one keeps nothing."""
        histories = [self.histories.users, self.histories.offsets, self.histories.items]
        settings, everyone = self.recommender.model.settings, np.arange(len(self.histories))
        if settings.side_inputs and self.histories.timestamps is not None:
            histories.append(self.histories.timestamps)
        # With single items there are no gaps: this is what is read of users.
        histories += settings.read_side_inputs(self.histories, everyone, 1).values()
        return {
            "model": self.recommender.manifest.fingerprint,
            "catalogue": self.catalogue,
            "histories": _sha256(*histories, *filter(None, self.names.user_ids.buffers())),
            "decoding": self.decoding.model_dump(mode="json"),
            "allowed items": None if self.allowed is None else _sha256(self.allowed),
            "explain": self.explain,
            "device": self.recommender.model.device.type,
            "users per block": BLOCK_USERS,
            "versions": environment(),
        }


def write_lists(model: Path, request: GenerationRequest, out: Path, *, device: str | None = None) -> Written | None:
    """Write ``recommendations.parquet`` for all users of a request.

    Args:
        model: A model folder.
        request: Whose lists are wanted.
        out: The file: Parquet, or ``.csv``, ``.tsv`` or ``.jsonl`` by its name.
        device: Where the model runs; a GPU if there is one by default, under a launcher one per process.

    Returns:
        How many users there are, and how many lists are shorter than asked for; None in processes other than the first.

    Raises:
        ConfigError: If ``out`` must not be written or is of another format, not exactly one of table and data set is
            given, a setting cannot be used, or the model cannot take another catalogue.
        DataError: If the table or a list of items cannot be used.
        ArtifactError: If the model cannot be used or the file cannot be written.
    """
    if request.features is not None and request.catalogue is None:
        raise ConfigError("--features is for --catalogue", expected="both or neither", fix="leave out --features")
    if request.users is not None and request.histories is None:
        raise ConfigError("--users is for --histories", expected="both or neither", fix="leave out --users")
    if request.catalogue is not None and request.histories is None and request.dataset is None:
        request = replace(request, dataset=request.catalogue)
    if (request.histories is None) == (request.dataset is None):
        raise ConfigError("one of --histories and --dataset is needed", expected="exactly one of them")
    processes = Processes.from_environment()
    with (
        reserve_file(out, reads=[model, *request.paths], lock=processes.rank == 0) as place,
        _together(processes) as wait,
    ):
        check_format(out, explained=request.explain)
        recommender = Recommender.from_pretrained(model, device=device or _own_device(processes))
        job = Job.open(recommender, request)
        shards = Shards(place, count_blocks(len(job.histories)), processes.rank)
        if processes.rank == 0:
            shards.open(job.description())
        wait()
        commit_blocks(
            shards,
            lambda numbers: job.blocks(numbers, progress=processes.rank == 0),
            job.names,
            processes.own(shards.blocks),
        )
        wait()
        if processes.rank:
            return None
        by_transition = transition_weight(job.recommender.model, job.decoding) > 0
        by = {"by_item": job.decoding.item_weight > 0, "by_transition": by_transition} if job.explain else {}
        return shards.join(schema_of(explained=job.explain, **by))


def _read_histories(recommender: Recommender, request: GenerationRequest) -> tuple[Sequence[str], Histories]:
    if request.histories is not None:
        users = read_table(request.users, "users") if request.users is not None else None
        return recommender.dense_histories(read_table(request.histories, "interactions"), request.unknown, users=users)
    dataset = Dataset.load(Path(str(request.dataset)), verify=True)
    # Items that were added to the model later are after those of the data set that it learned from.
    if dataset.item_ids == recommender.item_ids[: dataset.num_items]:
        return dataset.user_ids, dataset.full()
    users = None if dataset.profiles is None else dataset.profiles.table
    return recommender.dense_histories(dataset.interactions, request.unknown, users=users)


def _sha256(*parts: Any) -> str:
    """SHA-256 over arrays and buffers."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part).data if isinstance(part, np.ndarray) else part)
    return digest.hexdigest()


def _own_device(processes: Processes) -> str | None:
    import torch

    several = processes.count > 1 and torch.cuda.is_available()
    return f"cuda:{number_of('LOCAL_RANK')}" if several else None


@contextmanager
def _together(processes: Processes) -> Iterator[Callable[[], None]]:
    """Join the other processes; yields what waits for all of them."""
    if processes.count == 1:
        yield lambda: None
        return
    import torch.distributed

    torch.distributed.init_process_group("gloo", timeout=LONGEST_WAIT)
    try:
        yield torch.distributed.barrier
    finally:
        torch.distributed.destroy_process_group()
