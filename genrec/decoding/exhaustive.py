"""Exhaustive search: exact scores of every item, the reference for beam search and an alternative on small catalogues.

Two algorithms, both in chunks so that memory does not grow with the catalogue or the number of users:

- :func:`score_catalogue`, for models whose heads are independent given the context: a gather and a sum over the code
  table, with a running top-k.
- :func:`exhaustive_search` and :func:`walk_trie`, for models that write codes one after another: a breadth-first walk
  over the whole trie. No key-value cache is shared with beam search, so one can be tested against the other. Price:
  every prefix is computed from its first code.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from genrec.config import SearchOptions
from genrec.decoding.beam import CodeWriter, append_end_edge, log_probabilities
from genrec.decoding.device_trie import DeviceTrie
from genrec.decoding.nonfinite import NonFiniteLogitsError, refuse_broken_scores
from genrec.decoding.ranking import RankedItems, best_keys, mask_items, pack_keys, unpack_keys
from genrec.errors import ConfigError
from genrec.models.side_inputs import NO_EXTRAS, Extras

# Logits of a walk, and scores of a table, that are held at once.
CHUNK_ENTRIES = 1 << 22
# Scores (users x items) that are ranked together.
WALK_ENTRIES = 1 << 24
DEFAULT = SearchOptions()


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
    options: SearchOptions = DEFAULT,
    *,
    top_k: int,
    exclude: Tensor | None = None,
    allowed: Tensor | None = None,
    extras: Extras = NO_EXTRAS,
    added: Tensor | None = None,
) -> RankedItems:
    """Exact top-k of a model with parallel heads: N x L gathers per user, memory bounded by chunks of items.

    Args:
        model: Parallel heads; its ``item_codes [N, L]`` are the catalogue, -1 fills shorter semantic IDs.
        items: Dense item ids, int64 ``[B, T]``, right-padded.
        lengths: Items per user, int64 ``[B]``.
        options: ``temperature``, ``length_penalty`` and ``item_weight`` are read.
        top_k: k, the length of the lists.
        exclude: Items that a user must not get, int64 ``[B, E]``; -1 fills shorter rows.
        allowed: bool ``[N]``, False for items that no user may get.
        extras: What else the model reads of the histories (:mod:`genrec.models.side_inputs`).
        added: Further scores of all items, float32 ``[B, N]``.

    Raises:
        NonFiniteLogitsError: Naming the first row and level with NaN or infinite logits.
    """
    context = model.encode(items, lengths, **extras)
    levels = [log_probabilities(logits, options.temperature) for logits in model.all_code_logits(context)]
    _refuse_nan(levels)
    # One table [B, K_1 + .. + K_L + 1]: the levels side by side, then a column of zeros that -1 ("no code") points to.
    table = torch.cat([*levels, torch.zeros_like(levels[0][:, :1])], dim=1)
    sizes = torch.tensor([0] + [level.shape[1] for level in levels], device=table.device)
    level_offsets, no_code_column = sizes.cumsum(0)[:-1], table.shape[1] - 1
    best = pack_keys(*_nothing(len(table), table.device))
    chunk = max(1, CHUNK_ENTRIES // max(1, len(table)))
    for first in range(0, len(model.item_codes), chunk):
        codes = model.item_codes[first : first + chunk].long()
        columns = torch.where(codes < 0, no_code_column, codes + level_offsets)
        scores = table[:, columns[:, 0]]
        for level in range(1, columns.shape[1]):
            scores += table[:, columns[:, level]]
        if options.length_penalty:
            scores = scores / (codes >= 0).sum(dim=1) ** options.length_penalty
        chunk_items = torch.arange(first, first + len(codes), device=table.device)
        if options.item_weight:
            log_probs = model.item_log_probabilities(context, chunk_items.expand(len(table), -1))
            scores += options.item_weight * log_probs
            refuse_broken_scores(scores)
        if added is not None:
            scores = scores + added[:, first : first + len(codes)]
        keys = pack_keys(mask_items(scores, exclude, allowed, first), chunk_items)
        best = best_keys(torch.cat([best, best_keys(keys, top_k)], dim=1), top_k)
    return unpack_keys(best)


@torch.no_grad()
def walk_trie(
    model: CodeWriter,
    trie: DeviceTrie,
    items: Tensor,
    lengths: Tensor,
    options: SearchOptions = DEFAULT,
    *,
    max_nodes: int | None = None,
) -> Tensor:
    """Score every semantic ID of the trie by walking it breadth-first, ``max_nodes`` nodes at a time.

    The model recomputes each prefix from nothing, so this shares no cache with beam search. Memory: one float32 per
    user and node of the widest depth, and the model's own for ``[B, max_nodes]`` prefixes.

    Args:
        model: Encodes histories and writes codes.
        trie: The semantic IDs.
        items: Dense item ids, int64 ``[B, T]``, right-padded.
        lengths: Items per user, int64 ``[B]``; 0 allowed.
        options: ``temperature`` and ``renormalize`` are read.
        max_nodes: Nodes per call of the model; by the size of their logits if None.

    Returns:
        Natural log-probabilities of all leaves, float32 ``[B, leaves]``.

    Raises:
        NonFiniteLogitsError: Naming the first row and step with NaN or infinite logits.
    """
    return _walk(model, trie, model.encode(items, lengths), len(items), options, max_nodes)[0]


@torch.no_grad()
def exhaustive_search(
    model: CodeWriter,
    trie: DeviceTrie,
    items: Tensor,
    lengths: Tensor,
    options: SearchOptions = DEFAULT,
    *,
    top_k: int,
    exclude: Tensor | None = None,
    max_nodes: int | None = None,
    extras: Extras = NO_EXTRAS,
    added: Tensor | None = None,
) -> RankedItems:
    """The list that a beam search would give with as many beams as items.

    Users are taken a few at a time, so that memory does not grow with their number. With ``renormalize``, a beam search
    that excludes items renormalizes over what is left of each user's trie, while this renormalizes over the whole trie.

    Args:
        model: Encodes histories and writes codes.
        trie: The items that may be recommended.
        items: Dense item ids, int64 ``[B, T]``, right-padded.
        lengths: Items per user, int64 ``[B]``; 0 allowed.
        options: ``temperature``, ``renormalize``, ``length_penalty`` and ``item_weight`` are read.
        top_k: k, the length of the lists.
        exclude: Items that a user must not get, int64 ``[B, E]``; -1 fills shorter rows.
        max_nodes: Nodes per call of the model; by the size of their logits if None.
        extras: What else the model reads of the histories (:mod:`genrec.models.side_inputs`).
        added: Further scores of all items, float32 ``[B, N]``.

    Raises:
        ConfigError: If ``renormalize`` and ``exclude`` are given together.
        NonFiniteLogitsError: Naming the first row and step with NaN or infinite logits.
    """
    if options.renormalize and exclude is not None:
        raise ConfigError("exhaustive search cannot renormalize per user", fix="leave out renormalize or exclude")
    if not trie.num_leaves or not len(items):
        return RankedItems.nothing(len(items), top_k, items.device)
    users_per_chunk = max(1, WALK_ENTRIES // max(trie.num_items, trie.num_leaves))
    ranked = []
    for first in range(0, len(items), users_per_chunk):
        rows = slice(first, first + users_per_chunk)
        try:
            chunk_extras = {name: values[rows] for name, values in extras.items()}
            context = model.encode(items[rows], lengths[rows], **chunk_extras)
            scores = _score_items(model, trie, context, len(items[rows]), options, max_nodes)
        except NonFiniteLogitsError as error:
            # The row of the chunk becomes the row of the batch.
            raise NonFiniteLogitsError(first + int(error.user), error.step) from None
        every_item = torch.arange(trie.num_items, device=items.device).expand_as(scores)
        if added is not None:
            scores = scores + added[rows]
        chunk_exclude = None if exclude is None else exclude[rows]
        ranked.append(trie.rank(mask_items(scores, chunk_exclude, None), every_item, top_k))
    return RankedItems(torch.cat([chunk.items for chunk in ranked]), torch.cat([chunk.scores for chunk in ranked]))


def _score_items(
    model: CodeWriter, trie: DeviceTrie, context: Any, batch: int, options: SearchOptions, max_nodes: int | None
) -> Tensor:
    """What ranks every item, float32 ``[B, N]``; -inf for items that the trie does not hold."""
    leaves, num_codes = _walk(model, trie, context, batch, options, max_nodes)
    if options.length_penalty:
        leaves = leaves / num_codes**options.length_penalty
    items_per_leaf = (trie.leaf_start[1:] - trie.leaf_start[:-1]).long()
    scores = torch.full((batch, trie.num_items), float("-inf"), device=trie.device)
    scores[:, trie.leaf_items.long()] = leaves.repeat_interleave(items_per_leaf, dim=1)
    if options.item_weight:
        every_item = torch.arange(trie.num_items, device=trie.device).expand_as(scores)
        scores = scores + options.item_weight * model.item_log_probabilities(context, every_item)
        refuse_broken_scores(scores)
    return scores


def _walk(
    model: CodeWriter, trie: DeviceTrie, context: Any, batch: int, options: SearchOptions, max_nodes: int | None
) -> tuple[Tensor, Tensor]:
    """Log-probabilities ``[B, leaves]`` and the number of codes ``[leaves]`` of every semantic ID."""
    scores = torch.zeros(batch, 1, device=trie.device)
    num_codes = torch.zeros(1, dtype=torch.int64, device=trie.device)
    prefixes = torch.zeros(1, 0, dtype=torch.int64, device=trie.device)
    for depth, level in enumerate(trie.levels):
        size = trie.level_sizes[depth]
        num_children = (level.start[1:] - level.start[:-1]).long()
        # Edge e leads from node parents[e] by codes[e] to node e of the next depth.
        parents = torch.repeat_interleave(torch.arange(len(num_children), device=trie.device), num_children)
        codes = level.code.long()
        child_scores = []
        nodes_per_chunk = max_nodes or max(1, CHUNK_ENTRIES // (batch * size))
        for first in range(0, len(prefixes), nodes_per_chunk):
            prefix = prefixes[first : first + nodes_per_chunk]
            # Without beam_index the model recomputes the prefix instead of continuing its cache.
            logits = model.next_code_logits(context, prefix.expand(batch, -1, -1), None)
            values = log_probabilities(logits, options.temperature)
            _refuse_nan([values.flatten(1)], depth)
            # The edges of neighboring nodes are neighbors too: only the legal codes are gathered.
            edges = slice(int(level.start[first]), int(level.start[first + len(prefix)]))
            chunk_parents = parents[edges] - first
            legal = append_end_edge(values, level).expand(-1, len(prefix), -1)[:, chunk_parents, codes[edges]]
            if options.renormalize:
                mass = torch.zeros(batch, len(prefix), device=trie.device)
                legal = legal - mass.index_add(1, chunk_parents, legal.exp()).log()[:, chunk_parents]
            child_scores.append(scores[:, parents[edges]] + legal)
        scores = torch.cat(child_scores, dim=1)
        num_codes = num_codes[parents] + (codes < size)
        prefixes = torch.cat([prefixes[parents], codes.clamp(max=size - 1).unsqueeze(1)], dim=1)
    return scores, num_codes


def _nothing(batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.full((batch, 1), float("-inf"), device=device), torch.zeros(1, dtype=torch.int64, device=device)


def _refuse_nan(levels: list[Tensor], step: int | None = None) -> None:
    for level, values in enumerate(levels):
        broken = values.isnan().any(dim=1)
        if broken.any():
            raise NonFiniteLogitsError(int(broken.nonzero()[0]), level if step is None else step)
