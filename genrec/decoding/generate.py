"""List generation: ranked lists for one batch and for whole sets of users, with any family of recommender.

Design choices:

- A fixed block of users is the unit of work: batches are formed inside a block, from its users alone, so a block's
  lists do not depend on which process makes them, what was made before, or where the run was interrupted. Price: the
  last batch of a block may be small.
- Rows of like length share a batch, so little is padded; a second thread reads the next batch meanwhile.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from genrec.config import DecodingConfig
from genrec.data.histories import Histories, pad_histories
from genrec.decoding.explain import explain_items, writes_semantic_ids
from genrec.decoding.nonfinite import NonFiniteLogitsError
from genrec.decoding.progress import counting_users
from genrec.decoding.ranking import RankedItems
from genrec.decoding.searcher import Searcher
from genrec.models.base import RecommenderModel
from genrec.models.side_inputs import NO_EXTRAS, Extras

BLOCK_USERS = 1024


class UserBlock(NamedTuple):
    """Lists of consecutive rows of a set of histories.

    Attributes:
        rows: Numbers of the rows, int64 ``[n]``.
        items: Dense item ids, int32 ``[n, k]``; -1 where there is none.
        scores: float32 ``[n, k]``; -inf where there is no item.
        codes: The items' semantic IDs where they are explained, int64 ``[n, k, L]``; -1 where there is no code.
        code_log_probs: log p of each of these codes, float32 ``[n, k, L]``.
        item_log_probs: log p of the items by their item vectors, float32 ``[n, k]``, where these took part.
        transition_log_probs: log q of the items by transitions, float32 ``[n, k]``, where these took part.
    """

    rows: np.ndarray
    items: np.ndarray
    scores: np.ndarray
    codes: np.ndarray | None = None
    code_log_probs: np.ndarray | None = None
    item_log_probs: np.ndarray | None = None
    transition_log_probs: np.ndarray | None = None


def recommend(
    model: RecommenderModel,
    items: Tensor,
    lengths: Tensor,
    *,
    decoding: DecodingConfig,
    top_k: int | None = None,
    exclude: Tensor | None = None,
    allowed: np.ndarray | None = None,
    extras: Extras = NO_EXTRAS,
) -> RankedItems:
    """The k best items of each user, by the search that suits the model.

    Beam search over the trie, with ``max(num_beams, k)`` beams so that lists are full; every item scored exactly
    where the model has parallel heads or scores items themselves.

    Args:
        model: Any family, in eval mode.
        items: Dense item ids on the model's device, int64 ``[B, T]``, right-padded.
        lengths: Items per user, int64 ``[B]``; 0 allowed.
        decoding: How to search.
        top_k: k; ``decoding.top_k`` if None.
        exclude: Items that a user must not get, int64 ``[B, E]``; -1 fills shorter rows.
        allowed: bool ``[N]``, False for items that no user may get.
        extras: What else the model reads of the histories (:mod:`genrec.models.side_inputs`).

    Raises:
        NonFiniteLogitsError: Naming the first row and step with NaN or infinite logits.
        ConfigError: If the filter does not fit the catalogue.
    """
    return Searcher(model, decoding, allowed).search(items, lengths, top_k or decoding.top_k, exclude, extras=extras)


def generate_blocks(
    model: RecommenderModel,
    histories: Histories,
    *,
    decoding: DecodingConfig,
    allowed: np.ndarray | None = None,
    user_ids: Sequence[str] | None = None,
    blocks: Sequence[int] | None = None,
    explain: bool = False,
    progress: bool = False,
) -> Iterator[UserBlock]:
    """Lists for blocks of rows of ``histories``, in the order asked for.

    Only one block is in memory at a time, and of the histories only the rows that are read.

    Args:
        model: Any family; it is in eval mode while lists are made.
        histories: Whole histories; the model reads the last ``max_history`` items.
        decoding: How to search, how long lists are, and whether they leave out what is in the history.
        allowed: bool ``[N]``, False for items that no user may get.
        user_ids: External ids by dense user, for error messages.
        blocks: Numbers of the blocks wanted; all if None (see :func:`count_blocks`).
        explain: Say of every item what its score is made of.
        progress: Show users per second and the time left.

    Raises:
        NonFiniteLogitsError: Naming the user and the step with NaN or infinite logits.
        ConfigError: If the filter does not fit the catalogue, or there is nothing to explain.
    """
    if explain:
        writes_semantic_ids(model)
    searcher = Searcher(model, decoding, allowed)
    wanted = range(count_blocks(len(histories))) if blocks is None else blocks
    total = sum(len(block_rows(number, len(histories))) for number in wanted)
    batches = _batches(histories, wanted, searcher)
    with _evaluating(model), counting_users(progress, total) as advance:
        searched: list[UserBlock] = []
        for batch in batches if total <= decoding.batch_size else _ahead(batches):
            try:
                searched.append(_search_batch(searcher, batch, explain))
            except NonFiniteLogitsError as error:
                user = int(histories.users[batch.rows[int(error.user)]])
                name = user if user_ids is None else str(user_ids[user])
                raise NonFiniteLogitsError(name, error.step) from None
            advance(len(batch.rows))
            if batch.last:
                yield _join(searched)
                searched = []


def generate_lists(
    model: RecommenderModel,
    histories: Histories,
    *,
    decoding: DecodingConfig,
    top_k: int | None = None,
    exclude_seen: bool | None = None,
    allowed: np.ndarray | None = None,
    progress: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Lists for every row of ``histories``, in memory.

    Args:
        model: Any family; it is in eval mode while lists are made.
        histories: Whole histories; the model reads the last ``max_history`` items.
        decoding: How to search.
        top_k: k; ``decoding.top_k`` if None.
        exclude_seen: Leave out all items of a user's history; ``decoding.exclude_seen`` if None.
        allowed: bool ``[N]``, False for items that no user may get.
        progress: Show users per second and the time left.

    Returns:
        Dense items int32 ``[R, k]`` (-1 = none) and scores float32 ``[R, k]`` (-inf = none).

    Raises:
        NonFiniteLogitsError: Naming the user and the step with NaN or infinite logits.
        ConfigError: If the filter does not fit the catalogue.
    """
    changed = {"top_k": top_k, "exclude_seen": exclude_seen}
    decoding = decoding.model_copy(update={key: value for key, value in changed.items() if value is not None})
    items = np.full((len(histories), decoding.top_k), -1, dtype=np.int32)
    scores = np.full(items.shape, -np.inf, dtype=np.float32)
    for block in generate_blocks(model, histories, decoding=decoding, allowed=allowed, progress=progress):
        items[block.rows], scores[block.rows] = block.items, block.scores
    return items, scores


def count_blocks(rows: int) -> int:
    """How many blocks so many rows of histories are."""
    return -(-rows // BLOCK_USERS)


def block_rows(number: int, rows: int) -> range:
    """The rows of one block, of so many in all."""
    return range(number * BLOCK_USERS, min((number + 1) * BLOCK_USERS, rows))


class _Batch(NamedTuple):
    """Users of one block who are searched for together.

    Attributes:
        rows: Numbers of their rows, int64 ``[B]``.
        items: What the model reads, int64 ``[B, T]``, right-padded.
        lengths: int64 ``[B]``.
        extras: What else it reads of them.
        seen: What they must not get, int64 ``[B, E]``; -1 fills shorter rows.
        last: Whether it is the last one of its block.
    """

    rows: np.ndarray
    items: np.ndarray
    lengths: np.ndarray
    extras: dict[str, np.ndarray]
    seen: np.ndarray | None
    last: bool


def _batches(histories: Histories, blocks: Sequence[int], searcher: Searcher) -> Iterator[_Batch]:
    """Block after block; in a block rows of like length together, so that little of what is read or seen is padded."""
    longest, size = searcher.model.max_history, searcher.decoding.batch_size
    for number in blocks:
        rows = np.asarray(block_rows(number, len(histories)))
        by_length = rows[np.argsort(histories.offsets[rows] - histories.offsets[rows + 1], kind="stable")]
        for start in range(0, len(rows), size):
            chosen = by_length[start : start + size]
            seen = _seen_items(histories, chosen) if searcher.decoding.exclude_seen else None
            extras = searcher.model.settings.read_side_inputs(histories, chosen, longest)
            yield _Batch(chosen, *pad_histories(histories, chosen, longest), extras, seen, start + size >= len(rows))


def _seen_items(histories: Histories, rows: np.ndarray) -> np.ndarray:
    longest = max(int((histories.offsets[rows + 1] - histories.offsets[rows]).max(initial=0)), 1)
    seen, counts = pad_histories(histories, rows, longest)
    seen[np.arange(seen.shape[1]) >= counts[:, None]] = -1
    return seen


def _ahead(batches: Iterator[_Batch]) -> Iterator[_Batch]:
    """The same batches; the next one is read from the disk by a second thread while this one is searched for."""
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = reader.submit(next, batches, None)
            yield batch


def _search_batch(searcher: Searcher, batch: _Batch, explain: bool) -> UserBlock:
    model, decoding = searcher.model, searcher.decoding
    items, lengths = (torch.from_numpy(array).to(model.device) for array in (batch.items, batch.lengths))
    extras = {name: torch.from_numpy(array).to(model.device) for name, array in batch.extras.items()}
    exclude = None if batch.seen is None else torch.from_numpy(batch.seen).to(model.device)
    ranked = searcher.search(items, lengths, decoding.top_k, exclude, extras=extras)
    columns: list[Tensor | None] = [None, None, None, None]
    if explain:
        size = searcher.session_size
        columns = list(explain_items(model, items, lengths, ranked.items, decoding, session_size=size, extras=extras))
        columns.append(searcher.transition_log_probs(items, lengths, ranked.items))
    explained = [None if column is None else column.cpu().numpy() for column in columns]
    return UserBlock(batch.rows, ranked.items.cpu().numpy().astype(np.int32), ranked.scores.cpu().numpy(), *explained)


def _join(batches: Sequence[UserBlock]) -> UserBlock:
    """Batches of one block as the block, rows in ascending order."""
    order = np.argsort(np.concatenate([batch.rows for batch in batches]))
    columns: list[Any] = [
        None if column[0] is None else np.concatenate(column)[order] for column in zip(*batches, strict=True)
    ]
    return UserBlock(*columns)


@contextmanager
def _evaluating(model: RecommenderModel) -> Iterator[None]:
    if not any(module.training for module in model.modules()):
        yield
        return
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
