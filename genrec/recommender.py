"""The public face: a trained model folder in, lists of items out.

from genrec import Recommender
recommender = Recommender.from_pretrained("runs/quickstart/model")
lists = recommender.recommend([["50", "172"], ["1", "588"]], k=10)
lists.titles[0]
"""

import difflib
import logging
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import polars as pl

from genrec.config import DecodingConfig
from genrec.config.ranges import LONGEST_LIST
from genrec.data import Dataset
from genrec.data.account import IDS, REPEATS, TableAccount
from genrec.data.events import Events, in_sequence
from genrec.data.histories import Histories
from genrec.data.ids import id_texts
from genrec.data.profiles import Profiles, with_columns
from genrec.data.readers import to_frame
from genrec.data.schema import checked_ids, tidy_interactions, tidy_users
from genrec.data.times import refuse
from genrec.decoding import generate_lists
from genrec.errors import ConfigError, DataError
from genrec.pipeline.catalogue import on_catalogue
from genrec.pipeline.hub import model_folder, push_folder
from genrec.pipeline.model_folder import TrainedModel, open_model, read_items

logger = logging.getLogger(__name__)

Unknown = Literal["error", "skip", "warn"]
FILTER = "the list of items"


@dataclass(frozen=True, eq=False)
class Recommendations:
    """One ranked list per user, best first.

    Args:
        users: External id of each of the R users; the row number as text where histories came as plain lists.
        items: Dense items, int32 ``[R, k]``; -1 where there is none.
        scores: float32 ``[R, k]``; natural log-probability of the semantic ID, or the score that ranked; -inf where
            there is no item.
        item_ids: External id of every dense item.
        item_titles: Title of every dense item.
    """

    users: list[str]
    items: np.ndarray
    scores: np.ndarray
    item_ids: list[str]
    item_titles: list[str]

    def __len__(self) -> int:
        return len(self.users)

    @cached_property
    def ids(self) -> list[list[str]]:
        """External item ids per user, at most k each."""
        return [[self.item_ids[item] for item in row if item >= 0] for row in self.items]

    @cached_property
    def titles(self) -> list[list[str]]:
        """Titles per user, aligned with :attr:`ids`."""
        return [[self.item_titles[item] for item in row if item >= 0] for row in self.items]

    @cached_property
    def short_by(self) -> np.ndarray:
        """How many items each list lacks, int64 ``[R]``; 0 where it is full."""
        return (self.items < 0).sum(axis=1)

    def to_polars(self) -> pl.DataFrame:
        """One row per user and rank: user_id, rank (from 1), item_id, title, score."""
        row, column = np.nonzero(self.items >= 0)
        items = self.items[row, column]
        return pl.DataFrame(
            {
                "user_id": pl.Series(self.users, dtype=pl.String).gather(row),
                "rank": pl.Series(column + 1, dtype=pl.Int32),
                "item_id": pl.Series(self.item_ids, dtype=pl.String).gather(items),
                "title": pl.Series(self.item_titles, dtype=pl.String).gather(items),
                "score": pl.Series(self.scores[row, column], dtype=pl.Float32),
            }
        )


class Recommender:
    """A trained recommender with its catalogue.

    Args:
        trained: Model, catalogue and default decoding.
        items: What is known of every item, where it is not what the model's folder says.
    """

    def __init__(self, trained: TrainedModel, items: pl.DataFrame | None = None) -> None:
        self._trained, self._items = trained, items
        self.model = trained.model.eval()
        self.decoding = trained.decoding
        self.manifest = trained.manifest
        self.folder = trained.folder
        self.item_ids: list[str] = trained.item_ids
        self.titles: list[str] = trained.items["title"].to_list()

    @classmethod
    def from_pretrained(cls, path: str | Path, *, device: str | None = None, verify: bool = True) -> "Recommender":
        """Open a ``model`` folder as written by ``genrec run`` or ``genrec train``.

        Args:
            path: The folder, or ``owner/name`` of one on the Hugging Face hub.
            device: Where the model runs, such as ``cuda``; a GPU if there is one by default.
            verify: Check every file against its hash first.

        Raises:
            ArtifactError: If the folder is missing, incomplete, changed, or its parts do not belong together.
            ConfigError: If there is no such device.
        """
        return cls(open_model(model_folder(path), device=device, verify=verify))

    def push_to_hub(self, repository: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload the model folder, card included, so that ``from_pretrained(repository)`` opens it anywhere.

        Arguments, what is returned and what is raised: :func:`genrec.pipeline.hub.push_folder`.
        """
        return push_folder(self.folder, repository, private=private, token=token)

    def with_catalogue(self, dataset: Dataset, *, features: Path | None = None) -> "Recommender":
        """The same model for the items of another data set, which it need never have seen; nothing is learned.

        The model's own encoder makes their vectors, its own tokenizer their semantic IDs.

        Args:
            dataset: Its items are the catalogue.
            features: The ``features`` folder of the model's training, where the model folder has no encoder.

        Raises:
            ConfigError: If the model keeps what it learned of single items, or scores only these.
            DataError: If the items cannot be encoded or named.
            ArtifactError: If there is no encoder.
        """
        trained = on_catalogue(self._trained, dataset, features=features)
        return Recommender(trained, trained.items)

    @property
    def num_items(self) -> int:
        """Size of the catalogue, N."""
        return len(self.item_ids)

    @cached_property
    def items(self) -> pl.DataFrame:
        """What is known of every item; row i is dense item i."""
        return read_items(self.folder) if self._items is None else self._items

    @cached_property
    def dense_items(self) -> dict[str, int]:
        """External id to dense item."""
        return {name: item for item, name in enumerate(self.item_ids)}

    def recommend(
        self,
        histories: Any,
        k: int = 10,
        *,
        exclude_seen: bool = True,
        unknown: Unknown = "error",
        allowed: Iterable[str] | None = None,
        blocked: Iterable[str] | None = None,
        decoding: DecodingConfig | None = None,
        users: Any = None,
        progress: bool = False,
    ) -> Recommendations:
        """The next items of each user.

        An empty history is answered with the model's start state: what it expects of a user of whom nothing is known.
        A list is shorter than k where no more items are left that its user may get (see
        :attr:`Recommendations.short_by`).

        Args:
            histories: One list of item ids per user, oldest first; or a table (polars, pandas, Arrow or
                ``datasets.Dataset``) with ``user_id``, ``item_id`` and, where rows are not in order already,
                ``timestamp`` or ``order``; ``item_id`` may also hold a list per row.
            k: Length of the lists.
            exclude_seen: Leave out what is in the history.
            unknown: Items that the model does not know: ``error``, ``skip``, or ``warn`` (skip them and say so).
            allowed: Recommend nothing but these items; :meth:`select_items` finds them by a condition.
            blocked: Never recommend these items.
            decoding: How to search; as at training if None.
            users: A table of ``user_id`` and the columns of users that the model reads, where it reads any
                (``recommender.use_user_features``); lists of items are users "0", "1" and so on. Nothing is known of
                users whom it lacks.
            progress: Show users per second and the time left on the standard error stream.

        Raises:
            DataError: If the table cannot be used or names unknown items.
            ConfigError: If ``k`` is not a whole number from 1 to 100,000, a filter is no list of item ids, or
                ``decoding`` is no :class:`~genrec.config.DecodingConfig`.
        """
        k = list_length(k)
        if not isinstance(decoding, DecodingConfig | None):
            raise ConfigError(
                f"decoding = {decoding!r} cannot be used",
                expected="genrec.config.DecodingConfig, or None",
                fix="write, for example, recommender.decoding.model_copy(update={'num_beams': 20})",
            )
        names, dense = self.dense_histories(histories, unknown, users=users)
        items, scores = generate_lists(
            self.model,
            dense,
            decoding=decoding or self.decoding,
            top_k=k,
            exclude_seen=exclude_seen,
            allowed=self.filter_items(allowed, blocked),
            progress=progress,
        )
        found = Recommendations(names, items, scores, self.item_ids, self.titles)
        empty = int((found.short_by == k).sum())
        if empty:
            logger.warning("%d of %d users get no item: none is left that they may get", empty, len(found))
        return found

    def dense_histories(
        self, histories: Any, unknown: Unknown = "error", *, users: Any = None
    ) -> tuple[list[str], Histories]:
        """External ids of the users, in the order given, and their histories in dense items.

        Args:
            histories: As in :meth:`recommend`.
            unknown: As in :meth:`recommend`.
            users: As in :meth:`recommend`.

        Raises:
            DataError: If the table cannot be used or names unknown items.
        """
        if unknown not in get_args(Unknown):
            raise ConfigError(f"unknown = {unknown!r} cannot be used", expected=", ".join(get_args(Unknown)))
        listed = isinstance(histories, Sequence) and not isinstance(histories, str | bytes)
        names, dense = self._from_lists(histories, unknown) if listed else self._from_table(histories, unknown)
        if users is None:
            return names, dense
        table = tidy_users(to_frame(users), where="the users")
        missing = len(names) - int(pl.Series(names, dtype=pl.String).is_in(table["user_id"].implode()).sum())
        if missing:
            logger.warning("nothing is known of %d of %d users: the table of users lacks them", missing, len(names))
        return names, replace(dense, profiles=Profiles(with_columns(names, table)))

    def select_items(self, where: str) -> list[str]:
        """Ids of the items of which a condition is true.

        Args:
            where: An SQL condition on the columns of :attr:`items`, such as ``price < 20 AND category = 'Books'``.

        Raises:
            ConfigError: If it is not a condition, or names a column that the model's items do not have.
        """
        try:
            return self.items.filter(pl.sql_expr(where))["item_id"].to_list()
        except pl.exceptions.PolarsError as error:
            raise ConfigError(
                f"the condition {where!r} cannot be used: {str(error).splitlines()[0]}",
                where="the model's items",
                expected=f"an SQL condition on the columns {', '.join(self.items.columns)}",
                fix="correct the condition, such as \"price < 20 AND category = 'Books'\"",
            ) from error

    def filter_items(
        self, allowed: Iterable[str] | None, blocked: Iterable[str] | None, *, where: str | None = None
    ) -> np.ndarray | None:
        """Which items may be recommended, bool ``[N]``, or None for all; perhaps none at all.

        Args:
            allowed: Nothing but these items.
            blocked: None of these items.
            where: Nothing but the items of which this is true; see :meth:`select_items`.

        Raises:
            DataError: If an id is not in the catalogue.
            ConfigError: If the condition cannot be used.
        """
        if allowed is None and blocked is None and where is None:
            return None
        mask = np.ones(self.num_items, dtype=bool)
        for names in (allowed, None if where is None else self.select_items(where)):
            if names is not None:
                mask &= self._mask(names)
        if blocked is not None:
            mask &= ~self._mask(blocked)
        return mask

    def _mask(self, names: Iterable[str]) -> np.ndarray:
        """Which items are named, bool ``[N]``."""
        names = item_names(names, self.dense_items, FILTER)
        self._handle_unknown(names, "error", FILTER)
        mask = np.zeros(self.num_items, dtype=bool)
        mask[[self.dense_items[name] for name in names]] = True
        return mask

    def _from_lists(self, histories: Sequence[Any], unknown: Unknown) -> tuple[list[str], Histories]:
        for row, history in enumerate(histories):
            if isinstance(history, str | bytes | Mapping) or not isinstance(history, Iterable):
                raise DataError(
                    f"history {row} is {history!r}",
                    expected="one list of item ids per user, such as [['50', '172'], ['1']]",
                    fix="put the ids of each user into a list of their own",
                )
            if isinstance(history, Set):
                raise DataError(
                    f"history {row} is a set, which has no order",
                    expected="a list of item ids, oldest first",
                    fix="give the items in the order in which the user had them",
                )
        named = [item_names(history, self.dense_items, f"history {row}") for row, history in enumerate(histories)]
        self._handle_unknown([item for history in named for item in history], unknown, "the histories")
        known = self.dense_items
        dense = [[known[item] for item in history if item in known] for history in named]
        without = sum(not left and bool(given) for left, given in zip(dense, named, strict=True))
        _note_without_items(without, len(dense), unknown)
        return [str(row) for row in range(len(dense))], Histories.from_lists(dense)

    def _from_table(self, table: Any, unknown: Unknown) -> tuple[list[str], Histories]:
        frame = to_frame(table)
        if "item_id" in frame.columns and isinstance(frame.schema["item_id"], pl.List | pl.Array):
            return self._from_list_column(frame, unknown)
        account = TableAccount("interactions", "the histories")
        frame = tidy_interactions(frame, where=account.source, account=account, drop_repeats=True)
        frame = frame.with_columns(pl.col(IDS).cast(pl.String))
        repeats = account.rows_left_out(REPEATS)
        if repeats:
            logger.warning("the histories: %d rows repeat an earlier one exactly: dropped", repeats)
        users = frame["user_id"].unique(maintain_order=True)
        self._handle_unknown(frame["item_id"].unique(maintain_order=True).to_list(), unknown, "the histories")
        catalogue = pl.DataFrame({"item_id": self.item_ids}, schema={"item_id": pl.String})
        frame = frame.filter(pl.col("item_id").is_in(catalogue["item_id"].implode()))
        events = Events(
            columns=frame.drop(IDS),
            users=frame["user_id"].cast(pl.Enum(users)).to_physical().to_numpy().astype(np.int64),
            items=frame["item_id"].cast(pl.Enum(catalogue["item_id"])).to_physical().to_numpy().astype(np.int64),
            user_ids=users,
            catalogue=catalogue,
        )
        histories = in_sequence(events)[0]
        _note_without_items(int((histories.lengths == 0).sum()), len(users), unknown)
        return users.to_list(), histories

    def _from_list_column(self, frame: pl.DataFrame, unknown: Unknown) -> tuple[list[str], Histories]:
        _check_list_column(frame)
        users = checked_ids(frame, "user_id", "the histories") if "user_id" in frame.columns else None
        if users is not None and users.is_duplicated().any():
            raise DataError(
                f"user {users.filter(users.is_duplicated())[0]!r} has several rows",
                where="the histories",
                expected="one row per user where item_id holds lists",
                fix="join the lists of each user, or give one row per interaction",
            )
        lists = frame.with_columns(
            pl.col(name).arr.to_list() for name, kind in frame.schema.items() if kind == pl.Array
        )
        names, histories = self._from_lists([row or [] for row in lists["item_id"].to_list()], unknown)
        timed = [name for name in ("timestamp", "order") if name in lists.columns]
        if timed:
            histories = self._in_order(lists.select("item_id", *timed), timed)
        return names if users is None else users.cast(pl.String).to_list(), histories

    def _in_order(self, lists: pl.DataFrame, timed: Sequence[str]) -> Histories:
        """Histories of rows of lists, each of which has a time or a position for every item."""
        for name in timed:
            listed = lists.schema[name] == pl.List
            uneven = _counts(lists[name]) != _counts(lists["item_id"]) if listed else pl.Series([True])
            if uneven.any():
                raise DataError(
                    f"{name} has not one value for each item of item_id",
                    where=f"the histories, row {uneven.arg_true()[0] + 1}",
                    expected=f"lists in {name} as long as those in item_id",
                    fix=f"give {name} as lists, or leave the column out where the items are in order already",
                )
        events = lists.with_row_index("user_id").filter(pl.col("item_id").list.len() > 0).explode("item_id", *timed)
        starts, lengths = np.zeros((2, lists.height), dtype=np.int64)
        if not events.height:
            return Histories.from_lists([[]] * lists.height)
        names, dense = self._from_table(events, "skip")
        rows = np.array(names, dtype=np.int64)
        starts[rows], lengths[rows] = dense.offsets[:-1], dense.lengths
        return dense.slice(np.arange(lists.height), starts, lengths)

    def _handle_unknown(self, names: Sequence[str], unknown: Unknown, where: str) -> None:
        missing = [name for name in dict.fromkeys(names) if name not in self.dense_items]
        if not missing or unknown == "skip":
            return
        shown = ", ".join(repr(name) for name in missing[:5]) + (", ..." if len(missing) > 5 else "")
        if unknown == "warn":
            logger.warning("%d items that the model does not know are left out: %s", len(missing), shown)
            return
        nearest = difflib.get_close_matches(missing[0], self.item_ids[:10_000], n=1)
        raise DataError(
            f"{len(missing)} items are not in the model's catalogue: {shown}",
            where=where,
            expected=f"item ids of the training data, such as {(nearest or self.item_ids)[0]!r}",
            fix="correct them, or take them out of the list"
            if where == FILTER
            else "correct them, or leave them out with unknown='skip' (on the command line --unknown-items skip)",
        )


def list_length(k: Any) -> int:
    """The length of lists that is asked for.

    Raises:
        ConfigError: If it is not a whole number from 1 to 100,000.
    """
    if isinstance(k, bool) or not isinstance(k, Integral) or not 1 <= int(k) <= LONGEST_LIST:
        raise ConfigError(
            f"k = {k!r} cannot be used",
            where="recommend",
            expected=f"a whole number, at least 1 and at most {LONGEST_LIST:,}",
            fix="write, for example, k=10",
        )
    return int(k)


def item_names(names: Iterable[Any], known: Mapping[str, int], where: str) -> list[str]:
    """Ids of items as text; whole numbers that came as floats are whole numbers.

    Args:
        names: Any sequence of texts and numbers.
        known: Ids that need no check.
        where: What they are, for the message.

    Raises:
        ConfigError: If they are one text instead of several.
        DataError: If one is missing, or a number that is not whole or too large for a float.
    """
    if isinstance(names, str | bytes | Mapping) or not isinstance(names, Iterable):
        raise ConfigError(
            f"{names!r} is not a list of item ids",
            where=where,
            expected="several ids, such as ['17', '42']",
            fix="put the ids into a list, a single one too",
        )
    return id_texts(names, known, where)


def _note_without_items(users: int, of: int, unknown: Unknown) -> None:
    if users and unknown == "warn":
        logger.warning("%d of %d users have no item that the model knows: each gets the list of a new user", users, of)


def _counts(lists: pl.Series) -> pl.Series:
    return lists.list.len().fill_null(0)


def _check_list_column(frame: pl.DataFrame) -> None:
    """Refuse empty ids in a table of one list per user."""
    lists = frame["item_id"].cast(pl.List(frame.schema["item_id"].inner))  # type: ignore[attr-defined]
    bad = lists.list.eval(pl.element().is_null()).list.any().fill_null(False)
    refuse(lists, bad, "a history has an empty id", "an id in every place", "the histories")
