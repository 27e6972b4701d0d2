"""Exact scores of every item: what beams are measured against, and what is used where it is affordable.

Heads that are independent given the context: gather and sum over the code table, chunk by chunk, with a running top-k.
Models that write codes one after another: a breadth-first walk over the whole trie, chunk by chunk.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from genrec.decoding.beam import CodeWriter, log_probabilities, with_end_edge
from genrec.decoding.device_trie import DeviceTrie
from genrec.decoding.finite import NonFiniteLogitsError, refuse_broken_scores
from genrec.decoding.ranking import RankedItems, best_keys, forbid, pack, unpack
from genrec.decoding.selection import Options
from genrec.errors import ConfigError
from genrec.models.extras import NO_EXTRAS, Extras

CHUNK_ENTRIES = 1 << 22
# Scores of this many items and users are ranked together.
WALK_ENTRIES = 1 << 24


class ParallelWriter(Protocol):
    """A recommender whose heads do not depend on each other's codes."""

    item_codes: Tensor

    def encode(self, items: Tensor, lengths: Tensor) -> Any:
        """Read histories ``[B, T]`` once."""

    def all_code_logits(self, context: Any) -> list[Tensor]:
        """Logits of every level, ``[B, K_l]`` each."""

    def item_log_probabilities(self, context: Any, items: Tensor) -> Tensor:
        """Log-probabilities of ``items [B, C]`` by their vectors."""


@torch.no_grad()
def score_catalogue(
    model: ParallelWriter,
    items: Tensor,
    lengths: Tensor,
    *,
    top_k: int,
    exclude: Tensor | None = None,
    allowed: Tensor | None = None,
    temperature: float = 1.0,
    length_penalty: float = 0.0,
    item_weight: float = 0.0,
    extras: Extras = NO_EXTRAS,
    added: Tensor | None = None,
) -> RankedItems:
    """Exact top-k of a model with parallel heads: N x L gathers per user, memory bounded by chunks of items.

    Args:
        model: Parallel heads; its ``item_codes [N, L]`` are the catalogue, -1 fills shorter identifiers.
        items: Dense item ids, int64 ``[B, T]``, right-padded.
        lengths: Items per user, int64 ``[B]``.
        top_k: k, the length of the lists.
        exclude: Items that a user must not get, int64 ``[B, E]``; -1 fills shorter rows.
        allowed: bool ``[N]``, False for items that nobody may get.
        temperature: Divides the logits.
        length_penalty: p; identifiers of n codes are ranked by log p(codes) / n^p.
        item_weight: w; ranked by log p(codes) + w log p(item).
        extras: What else the model reads of the histories (:mod:`genrec.models.extras`).
        added: Further scores of all items, float32 ``[B, N]``.

    Raises:
        NonFiniteLogitsError: Naming the first row and level with NaN or infinite logits.
    """
    # Codes ascend level after level in one table; a last column of zeros stands for "no code".
    context = model.encode(items, lengths, **extras)
    levels = [log_probabilities(logits, temperature) for logits in model.all_code_logits(context)]
    _refuse_nan(levels)
    table = torch.cat([*levels, torch.zeros_like(levels[0][:, :1])], dim=1)
    sizes = torch.tensor([0] + [level.shape[1] for level in levels], device=table.device)
    starts, none = sizes.cumsum(0)[:-1], table.shape[1] - 1
    best = pack(*_nothing(len(table), table.device))
    chunk = max(1, CHUNK_ENTRIES // max(1, len(table)))
    for first in range(0, len(model.item_codes), chunk):
        codes = model.item_codes[first : first + chunk].long()
        columns = torch.where(codes < 0, none, codes + starts)
        scores = table[:, columns[:, 0]]
        for level in range(1, columns.shape[1]):
            scores += table[:, columns[:, level]]
        if length_penalty:
            scores = scores / (codes >= 0).sum(dim=1) ** length_penalty
        numbers = torch.arange(first, first + len(codes), device=table.device)
        if item_weight:
            scores += item_weight * model.item_log_probabilities(context, numbers.expand(len(table), -1))
            refuse_broken_scores(scores)
        if added is not None:
            scores = scores + added[:, first : first + len(codes)]
        keys = pack(forbid(scores, exclude, allowed, first), numbers)
        best = best_keys(torch.cat([best, best_keys(keys, top_k)], dim=1), top_k)
    return unpack(best)


@torch.no_grad()
def walk_trie(
    model: CodeWriter,
    trie: DeviceTrie,
    items: Tensor,
    lengths: Tensor,
    *,
    temperature: float = 1.0,
    renormalise: bool = False,
    max_nodes: int | None = None,
) -> Tensor:
    """Score every identifier of the trie by walking it breadth-first, ``max_nodes`` nodes at a time.

    The model recomputes each prefix from nothing, so this shares no cache with beam search. Memory: one float32 per
    user and node of the widest depth, and the model's own for ``[B, max_nodes]`` prefixes.

    Returns:
        Natural log-probabilities of all leaves, float32 ``[B, leaves]``.

    Raises:
        NonFiniteLogitsError: Naming the first row and step with NaN or infinite logits.
    """
    options = Options(1, temperature, renormalise)
    return _walk(model, trie, model.encode(items, lengths), len(items), options, max_nodes)[0]


@torch.no_grad()
def exhaustive_search(
    model: CodeWriter,
    trie: DeviceTrie,
    items: Tensor,
    lengths: Tensor,
    *,
    top_k: int,
    exclude: Tensor | None = None,
    temperature: float = 1.0,
    renormalise: bool = False,
    item_weight: float = 0.0,
    length_penalty: float = 0.0,
    max_nodes: int | None = None,
    extras: Extras = NO_EXTRAS,
    added: Tensor | None = None,
) -> RankedItems:
    """The list that a beam search would give with as many beams as items; arguments as in ``beam_search``.

    Users are taken a few at a time, so that memory does not grow with their number. With ``renormalise``, a beam search
    that excludes items renormalises over what is left of each user's trie, while this renormalises over the whole trie.

    Raises:
        ConfigError: If ``renormalise`` and ``exclude`` are given together.
        NonFiniteLogitsError: Naming the first row and step with NaN or infinite logits.
    """
    if renormalise and exclude is not None:
        raise ConfigError("exhaustive search cannot renormalise per user", fix="leave out renormalise or exclude")
    if not trie.num_leaves or not len(items):
        return RankedItems.nothing(len(items), top_k, items.device)
    options = Options(1, temperature, renormalise, length_penalty, item_weight=item_weight)
    users = max(1, WALK_ENTRIES // max(trie.num_items, trie.num_leaves))
    parts = []
    for first in range(0, len(items), users):
        rows = slice(first, first + users)
        try:
            given = {name: part[rows] for name, part in extras.items()}
            context = model.encode(items[rows], lengths[rows], **given)
            scores = _score_items(model, trie, context, len(items[rows]), options, max_nodes)
        except NonFiniteLogitsError as error:
            raise NonFiniteLogitsError(first + int(error.user), error.step) from None
        everything = torch.arange(trie.num_items, device=items.device).expand_as(scores)
        if added is not None:
            scores = scores + added[rows]
        excluded = None if exclude is None else exclude[rows]
        parts.append(trie.rank(forbid(scores, excluded, None), everything, top_k))
    return RankedItems(torch.cat([part.items for part in parts]), torch.cat([part.scores for part in parts]))


def _score_items(
    model: CodeWriter, trie: DeviceTrie, context: Any, batch: int, options: Options, max_nodes: int | None
) -> Tensor:
    """What ranks every item, float32 ``[B, N]``; -inf for items that the trie does not hold."""
    leaves, written = _walk(model, trie, context, batch, options, max_nodes)
    if options.length_penalty:
        leaves = leaves / written**options.length_penalty
    counts = (trie.leaf_start[1:] - trie.leaf_start[:-1]).long()
    scores = torch.full((batch, trie.num_items), float("-inf"), device=trie.device)
    scores[:, trie.leaf_items.long()] = leaves.repeat_interleave(counts, dim=1)
    if options.item_weight:
        everything = torch.arange(trie.num_items, device=trie.device).expand_as(scores)
        scores = scores + options.item_weight * model.item_log_probabilities(context, everything)
        refuse_broken_scores(scores)
    return scores


def _walk(
    model: CodeWriter, trie: DeviceTrie, context: Any, batch: int, options: Options, max_nodes: int | None
) -> tuple[Tensor, Tensor]:
    """Log-probabilities ``[B, leaves]`` and the number of codes ``[leaves]`` of every identifier."""
    scores = torch.zeros(batch, 1, device=trie.device)
    written = torch.zeros(1, dtype=torch.int64, device=trie.device)
    prefixes = torch.zeros(1, 0, dtype=torch.int64, device=trie.device)
    for depth, level in enumerate(trie.levels):
        size = trie.level_sizes[depth]
        degree = (level.start[1:] - level.start[:-1]).long()
        parents = torch.repeat_interleave(torch.arange(len(degree), device=trie.device), degree)
        codes = level.code.long()
        parts = []
        nodes = max_nodes or max(1, CHUNK_ENTRIES // (batch * size))
        for first in range(0, len(prefixes), nodes):
            prefix = prefixes[first : first + nodes]
            logits = model.next_code_logits(context, prefix.expand(batch, -1, -1), None)
            values = log_probabilities(logits, options.temperature)
            _refuse_nan([values.flatten(1)], depth)
            edges = slice(int(level.start[first]), int(level.start[first + len(prefix)]))
            above = parents[edges] - first
            chosen = with_end_edge(values, level).expand(-1, len(prefix), -1)[:, above, codes[edges]]
            if options.renormalise:
                total = torch.zeros(batch, len(prefix), device=trie.device)
                chosen = chosen - total.index_add(1, above, chosen.exp()).log()[:, above]
            parts.append(scores[:, parents[edges]] + chosen)
        scores = torch.cat(parts, dim=1)
        written = written[parents] + (codes < size)
        prefixes = torch.cat([prefixes[parents], codes.clamp(max=size - 1).unsqueeze(1)], dim=1)
    return scores, written


def _nothing(batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.full((batch, 1), float("-inf"), device=device), torch.zeros(1, dtype=torch.int64, device=device)


def _refuse_nan(levels: list[Tensor], step: int | None = None) -> None:
    for level, values in enumerate(levels):
        broken = values.isnan().any(dim=1)
        if broken.any():
            raise NonFiniteLogitsError(int(broken.nonzero()[0]), level if step is None else step)
