"""Session search: lists written as one sequence, each item given the history and the items before it in the list.

The session-wise generation of OneRec (Deng et al. 2025, section 3.2). Beams are whole lists that grow code by code
through the catalogue's trie; after the last code of an item they continue at its root.

Design choices:

- A beam never writes an item twice: the items of its list are excluded for it exactly as seen items are excluded for a
  user, so no beam runs into a dead end. Price: the exclusion is made again per item, for every beam.
- One sequence has ``session_size`` items; longer lists are further sessions with the same history.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from genrec.config import DecodingConfig, SearchOptions
from genrec.decoding.beam import (
    CodeWriter,
    append_end_edge,
    check_codebook_size,
    log_probabilities,
    mask_excluded_codes,
)
from genrec.decoding.device_trie import DeviceTrie, Exclusion
from genrec.decoding.nonfinite import NonFiniteLogitsError
from genrec.decoding.ranking import RankedItems
from genrec.decoding.search import check_options
from genrec.decoding.selection import NEGATIVE_INFINITY, legal_log_probabilities
from genrec.errors import ConfigError
from genrec.models.base import BackboneSettings
from genrec.models.layers.codes import NO_CODE
from genrec.models.side_inputs import NO_EXTRAS, Extras

USUAL_SIZE = 5


class Sessions(NamedTuple):
    """Lists of each user, the most probable first.

    Attributes:
        items: Dense items, int64 ``[B, M, m]``; -1 where nothing is left that the list may hold.
        scores: Natural log-probability of each list up to and including this item, float32 ``[B, M, m]``; -inf where
            there is no item.
    """

    items: Tensor
    scores: Tensor


class _Beams(NamedTuple):
    """Lists that grow.

    Attributes:
        sessions: What is finished of them, ``[B, M, i]``.
        totals: Their log-probabilities, float32 ``[B, M]``; -inf where a beam is dead.
        prefix: All codes written, int64 ``[B, M, i * L]``.
        slots: Slot of each beam in the model's last call, int64 ``[B, M]``; None before the first.
    """

    sessions: Sessions
    totals: Tensor
    prefix: Tensor
    slots: Tensor | None


def session_size_of(decoding: DecodingConfig, family: str, settings: BackboneSettings) -> int:
    """How many items lists of a model are written as one sequence: 1 but in mode ``session``.

    Args:
        decoding: How lists are written.
        family: Name of the model's family.
        settings: The model's.

    Raises:
        ConfigError: If the model does not write so many.
    """
    if decoding.mode != "session":
        return 1
    most = settings.longest_session
    size = decoding.session_size or min(most, USUAL_SIZE)
    refuse_longer_sessions(
        size,
        family,
        settings,
        where=f"decoding.mode: session, decoding.session_size: {size}",
        fix=f"set decoding.session_size to at most {most}" if most > 1 else "set decoding.mode: beam",
    )
    return size


def refuse_longer_sessions(
    size: int, family: str, settings: BackboneSettings, *, where: str, fix: str = "give single items"
) -> None:
    """Refuse lists that a model does not write as one sequence, for whatever writes or scores them.

    Args:
        size: Items of the longest list.
        family: Name of the model's family.
        settings: The model's.
        where: What asks for them.
        fix: What to do.

    Raises:
        ConfigError: If the model writes single items only, or shorter lists.
    """
    most = settings.longest_session
    if most == 1 or size > most:
        raise ConfigError(
            f"this {family!r} model writes {f'sessions of at most {most} items' if most > 1 else 'single items'}",
            where=where,
            expected="a decoder, or a seq2seq that was trained with recommender.session_size of as many items",
            fix=fix,
        )


@torch.no_grad()
def list_by_sessions(
    model: CodeWriter,
    trie: DeviceTrie,
    items: Tensor,
    lengths: Tensor,
    options: SearchOptions,
    *,
    session_size: int,
    top_k: int,
    exclude: Tensor | None = None,
    extras: Extras = NO_EXTRAS,
) -> RankedItems:
    """The k items of the best session; where k is more than a session, further sessions without the items before.

    Args:
        model: Encodes histories and writes the codes of several items.
        trie: The items that may be recommended.
        items: Dense item ids, int64 ``[B, T]``, right-padded.
        lengths: Items per user, int64 ``[B]``; 0 allowed.
        options: Beams, temperature, and whether to renormalize.
        session_size: m, items written as one sequence.
        top_k: k.
        exclude: Items that a user must not get, int64 ``[B, E]``; -1 fills shorter rows.
        extras: What else the model reads of the histories (:mod:`genrec.models.side_inputs`).

    Returns:
        Items in the order in which they were written; a score is the log-probability of the list so far.

    Raises:
        ConfigError: If a number is out of range.
        NonFiniteLogitsError: Naming the first row and step with NaN or infinite logits.
    """
    check_options(options, top_k)
    lists = RankedItems.nothing(len(items), top_k, items.device)
    if not trie.num_leaves or not len(items):
        return lists
    context = model.encode(items, lengths, **extras)
    score_so_far = torch.zeros(len(items), device=items.device)
    excluded = items[:, :0] if exclude is None else exclude.to(items.device)
    for first in range(0, top_k, session_size):
        size = min(session_size, top_k - first)
        excluded_now = torch.cat([excluded, lists.items[:, :first]], dim=1)
        sessions = write_sessions(model, trie, context, options, size, excluded_now)
        lists.items[:, first : first + size] = sessions.items[:, 0]
        lists.scores[:, first : first + size] = score_so_far.unsqueeze(1) + sessions.scores[:, 0]
        score_so_far = lists.scores[:, first + size - 1]
    return lists


@torch.no_grad()
def write_sessions(
    model: CodeWriter, trie: DeviceTrie, context: Any, options: SearchOptions, size: int, exclude: Tensor
) -> Sessions:
    """The most probable lists of ``size`` different items by beam search, as many as there are beams.

    With at least as many beams as there are lists the ranking is that of scoring every list. A user who may get fewer
    items has shorter lists.

    Args:
        model: Writes the codes of several items.
        trie: The items that may be recommended.
        context: Of the histories.
        options: Beams, temperature, and whether to renormalize over what a list may still hold.
        size: Items of a list.
        exclude: Items that a user must not get, int64 ``[B, E]``; -1 fills shorter rows.

    Raises:
        NonFiniteLogitsError: Naming the first row and step with NaN or infinite logits.
    """
    nothing = exclude.new_zeros(len(exclude), 1, 0)
    totals = torch.zeros(len(exclude), 1, device=exclude.device)
    beams, broken = _Beams(Sessions(nothing, totals.unsqueeze(-1)[..., :0]), totals, nothing, None), []
    for _ in range(size):
        beams, steps = _write_item(model, trie, context, options, beams, exclude)
        broken.append(steps)
    broken_steps = torch.cat(broken, dim=1)
    if broken_steps.any():
        row, step = broken_steps.nonzero()[0].tolist()
        raise NonFiniteLogitsError(row, step)
    return beams.sessions


def _write_item(
    model: CodeWriter, trie: DeviceTrie, context: Any, options: SearchOptions, beams: _Beams, exclude: Tensor
) -> tuple[_Beams, Tensor]:
    """Lists with one item more, and the steps ``[B, L]`` at which a user's logits were NaN or infinite."""
    users, width = beams.totals.shape
    # Per list, not per user: what the user must not get and what is in the list, [B * M, E + i].
    taken = torch.cat([exclude.unsqueeze(1).expand(-1, width, -1), beams.sessions.items], dim=2)
    exclusion = trie.exclusion(taken.flatten(0, 1))
    # Row of a user's first list in that exclusion.
    first = width * torch.arange(users, device=exclude.device).unsqueeze(1)
    # The list of the exclusion that each beam continues; beams are reordered at every code.
    origin = torch.arange(width, device=exclude.device).expand(users, -1)
    nodes, totals, prefix, slots = torch.zeros_like(origin), beams.totals, beams.prefix, beams.slots
    broken = []
    for depth, level in enumerate(trie.levels):
        logits = model.next_code_logits(context, prefix, slots)
        check_codebook_size(logits, trie, depth)
        values = log_probabilities(logits, options.temperature)
        broken.append(values[..., 0].isnan().any(dim=1))
        beam_exclusion = None if exclusion is None else exclusion.select((origin + first).flatten())
        # [B, M, K] -> [B * M, 1, K]: every beam is a row of its own for the exclusion, then back.
        values = append_end_edge(values, level).flatten(0, 1).unsqueeze(1)
        values = mask_excluded_codes(values, nodes.view(-1, 1), depth, beam_exclusion).view(*nodes.shape, -1)
        grown = legal_log_probabilities(level, nodes, values, options.renormalize) + totals.unsqueeze(-1)
        totals, numbers = grown.flatten(1).topk(min(options.num_beams, grown[0].numel()))
        slots = numbers // level.choices
        nodes, codes = level.follow(nodes.gather(1, slots), numbers % level.choices)
        codes = codes.masked_fill(codes == trie.level_sizes[depth], NO_CODE)
        prefix = torch.cat([_of_slots(prefix, slots), codes.unsqueeze(-1)], dim=2)
        origin = origin.gather(1, slots)
    beam_exclusion = None if exclusion is None else exclusion.select((origin + first).flatten())
    items = _first_items(trie, nodes, beam_exclusion).masked_fill(totals.isneginf(), -1)
    earlier = (_of_slots(table, origin) for table in beams.sessions)
    sessions = (torch.cat([old, new.unsqueeze(-1)], dim=2) for old, new in zip(earlier, (items, totals), strict=True))
    return _keep_ended(_Beams(Sessions(*sessions), totals, prefix, slots), beams), torch.stack(broken, dim=1)


def _keep_ended(grown: _Beams, before: _Beams) -> _Beams:
    """Where no item is left that a user may get, the lists before, with an empty position at the end."""
    ended = grown.totals[:, :1].isneginf()
    more = grown.totals.shape[1] - before.totals.shape[1]
    items = pad(before.sessions.items, (0, 1, 0, more), value=-1)
    scores = pad(before.sessions.scores, (0, 1, 0, more), value=NEGATIVE_INFINITY)
    totals = pad(before.totals, (0, more), value=NEGATIVE_INFINITY)
    sessions = Sessions(
        torch.where(ended.unsqueeze(-1), items, grown.sessions.items),
        torch.where(ended.unsqueeze(-1), scores, grown.sessions.scores),
    )
    return grown._replace(sessions=sessions, totals=torch.where(ended, totals, grown.totals))


def _first_items(trie: DeviceTrie, leaves: Tensor, exclusion: Exclusion | None) -> Tensor:
    """The first item of each of ``leaves [B, M]`` that its list may hold, int64 ``[B, M]``."""
    items = trie.items_at(leaves, trie.leaf_width)
    allowed = items >= 0
    if exclusion is not None:
        allowed &= ~exclusion.contains(items.flatten(0, 1)).view_as(items)
    # The largest of 0 and 1 is the first 1: argmax returns the first item that is allowed.
    return items.gather(2, allowed.byte().argmax(dim=2, keepdim=True)).squeeze(2)


def _of_slots(table: Tensor, slots: Tensor) -> Tensor:
    """Rows ``slots [B, M']`` of ``table [B, M, n]``."""
    return table.gather(1, slots.unsqueeze(-1).expand(-1, -1, table.shape[2]))
