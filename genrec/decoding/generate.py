"""Lists for one batch and for whole sets of users, with any family of recommender.

A fixed block of users is the unit of work: batches are formed inside a block, from its users alone, so a block's
lists do not depend on which process makes them, what was made before, or where the run was interrupted.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor

from genrec.config import DecodingConfig
from genrec.data.histories import Histories, pad_histories
from genrec.decoding.beam import NonFiniteLogitsError, beam_search
from genrec.decoding.device_trie import DeviceTrie
from genrec.decoding.exhaustive import score_catalogue
from genrec.decoding.ranking import RankedItems, top_items
from genrec.errors import ConfigError
from genrec.models.base import GenerativeRecommender, ItemScorer, RecommenderModel
from genrec.tokenizers.trie import build_trie

BLOCK_USERS = 1024

_tries: WeakKeyDictionary[GenerativeRecommender, tuple[tuple[int, torch.device], DeviceTrie]] = WeakKeyDictionary()


class Block(NamedTuple):
    """Lists of consecutive rows of a set of histories.

    Attributes:
        first: Number of the first row.
        items: Dense item ids, int32 ``[n, k]``; -1 where there is none.
        scores: float32 ``[n, k]``; -inf where there is no item.
    """

    first: int
    items: np.ndarray
    scores: np.ndarray


def trie_of(model: GenerativeRecommender) -> DeviceTrie:
    """The trie of a model's code table on the model's device; built once and again when either changes."""
    codes = model.item_codes
    state = (codes._version, codes.device)
    known = _tries.get(model)
    if known is None or known[0] != state:
        trie = build_trie(codes.cpu().numpy(), model.level_sizes)
        known = (state, DeviceTrie(trie, codes.device))
        _tries[model] = known
    return known[1]


class Searcher:
    """A model, how to search it, and what it may recommend: made once, asked per batch.

    Args:
        model: Any family, in eval mode.
        decoding: Beams, temperature and so on; ``batch_size`` is not read here.
        allowed: bool ``[N]``, False for items that nobody may get; None allows all.
    """

    def __init__(self, model: RecommenderModel, decoding: DecodingConfig, allowed: np.ndarray | None = None) -> None:
        self.model, self.decoding = model, decoding
        self.allowed = _allowed_tensor(model, allowed)
        self.trie: DeviceTrie | None = None
        if isinstance(model, GenerativeRecommender) and not model.supports_parallel:
            trie = trie_of(model)
            self.trie = trie if allowed is None else trie.filtered(allowed)

    @torch.no_grad()
    def search(self, items: Tensor, lengths: Tensor, top_k: int, exclude: Tensor | None = None) -> RankedItems:
        """The k best items of each user; arguments as in :func:`recommend`."""
        model, decoding = self.model, self.decoding
        if isinstance(model, ItemScorer):
            return top_items(model.score_items(items, lengths), top_k, exclude, self.allowed)
        if not isinstance(model, GenerativeRecommender):
            raise TypeError(f"{type(model).__name__} neither writes identifiers nor scores items")
        if self.trie is None:
            return score_catalogue(
                model,
                items,
                lengths,
                top_k=top_k,
                exclude=exclude,
                allowed=self.allowed,
                temperature=decoding.temperature,
            )
        return beam_search(
            model,
            self.trie,
            items,
            lengths,
            num_beams=max(decoding.num_beams, top_k),
            top_k=top_k,
            exclude=exclude,
            temperature=decoding.temperature,
            renormalise=decoding.renormalise,
            item_weight=decoding.item_weight,
        )


def recommend(
    model: RecommenderModel,
    items: Tensor,
    lengths: Tensor,
    *,
    decoding: DecodingConfig,
    top_k: int | None = None,
    exclude: Tensor | None = None,
    allowed: np.ndarray | None = None,
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
        allowed: bool ``[N]``, False for items that nobody may get.

    Raises:
        NonFiniteLogitsError: Naming the first row and step with NaN or infinite logits.
        ConfigError: If the filter does not fit the catalogue.
    """
    return Searcher(model, decoding, allowed).search(items, lengths, top_k or decoding.top_k, exclude)


def generate_blocks(
    model: RecommenderModel,
    histories: Histories,
    *,
    decoding: DecodingConfig,
    top_k: int | None = None,
    exclude_seen: bool | None = None,
    allowed: np.ndarray | None = None,
    user_ids: Sequence[str] | None = None,
    progress: bool = False,
) -> Iterator[Block]:
    """Lists for every row of ``histories``, block by block in their order.

    Args:
        model: Any family; it is in eval mode while lists are made.
        histories: Whole histories; the model reads the last ``max_history`` items.
        decoding: How to search.
        top_k: k; ``decoding.top_k`` if None.
        exclude_seen: Leave out all items of a user's history; ``decoding.exclude_seen`` if None.
        allowed: bool ``[N]``, False for items that nobody may get.
        user_ids: External ids by dense user, for error messages.
        progress: Show users per second and the time left.

    Raises:
        NonFiniteLogitsError: Naming the user and the step with NaN or infinite logits.
        ConfigError: If the filter does not fit the catalogue.
    """
    top_k = top_k or decoding.top_k
    exclude_seen = decoding.exclude_seen if exclude_seen is None else exclude_seen
    searcher = Searcher(model, decoding, allowed)
    with _evaluating(model), _progress(progress) as bar:
        task = bar.add_task("recommending", total=len(histories))
        for first in range(0, len(histories), BLOCK_USERS):
            rows = np.arange(first, min(first + BLOCK_USERS, len(histories)))
            items = np.full((len(rows), top_k), -1, dtype=np.int32)
            scores = np.full((len(rows), top_k), -np.inf, dtype=np.float32)
            lengths = np.minimum(histories.offsets[rows + 1] - histories.offsets[rows], model.max_history)
            by_length = rows[np.argsort(-lengths, kind="stable")]
            for start in range(0, len(rows), decoding.batch_size):
                batch = by_length[start : start + decoding.batch_size]
                ranked = _search_rows(searcher, histories, batch, top_k, exclude_seen, user_ids)
                items[batch - first] = ranked.items.cpu().numpy()
                scores[batch - first] = ranked.scores.cpu().numpy()
                bar.advance(task, len(batch))
            yield Block(first, items, scores)


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
    """Lists for every row of ``histories``, in memory; arguments as in :func:`generate_blocks`.

    Returns:
        Dense items int32 ``[R, k]`` (-1 = none) and scores float32 ``[R, k]`` (-inf = none).
    """
    items = np.full((len(histories), top_k or decoding.top_k), -1, dtype=np.int32)
    scores = np.full(items.shape, -np.inf, dtype=np.float32)
    blocks = generate_blocks(
        model,
        histories,
        decoding=decoding,
        top_k=top_k,
        exclude_seen=exclude_seen,
        allowed=allowed,
        progress=progress,
    )
    for block in blocks:
        rows = slice(block.first, block.first + len(block.items))
        items[rows], scores[rows] = block.items, block.scores
    return items, scores


def _search_rows(
    searcher: Searcher,
    histories: Histories,
    rows: np.ndarray,
    top_k: int,
    exclude_seen: bool,
    user_ids: Sequence[str] | None,
) -> RankedItems:
    device = searcher.model.device
    items, lengths = (
        torch.from_numpy(part).to(device) for part in pad_histories(histories, rows, searcher.model.max_history)
    )
    exclude = None
    if exclude_seen:
        longest = max(int((histories.offsets[rows + 1] - histories.offsets[rows]).max(initial=0)), 1)
        seen, counts = pad_histories(histories, rows, longest)
        seen[np.arange(seen.shape[1]) >= counts[:, None]] = -1
        exclude = torch.from_numpy(seen).to(device)
    try:
        return searcher.search(items, lengths, top_k, exclude)
    except NonFiniteLogitsError as error:
        user = int(histories.users[rows[int(error.user)]])
        raise NonFiniteLogitsError(user_ids[user] if user_ids is not None else user, error.step) from None


def _allowed_tensor(model: RecommenderModel, allowed: np.ndarray | None) -> Tensor | None:
    if allowed is None:
        return None
    allowed = np.asarray(allowed)
    if allowed.shape != (model.config.num_items,) or allowed.dtype != np.bool_:
        raise ConfigError(
            f"the filter is {allowed.dtype} of shape {allowed.shape}",
            expected=f"one bool per item, {model.config.num_items} in all",
        )
    return torch.from_numpy(allowed).to(model.device)


@contextmanager
def _evaluating(model: RecommenderModel) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} users/s" if task.speed else "")


def _progress(shown: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=not shown)
