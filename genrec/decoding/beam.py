"""Beam search over the catalogue's trie: the loop that all modes share.

Each step takes the log-probabilities of one level (float32, over the whole codebook of that level), masks the codes
that lead to no item of the user, and selects which beams continue:

- ``next_code_logits`` of the model: logits ``[B, M, K]`` of the next code;
- :func:`mask_excluded_codes`: -inf where all items below are excluded for the user (seen items);
- ``Level.mask_illegal_codes``, called by the selection: -inf where the trie has no such edge;
- :func:`genrec.decoding.selection.selection`: the candidates that survive, one global top-M per user in mode ``beam``.

Design choices:

- Masked codes get -inf, so a beam that is -inf is dead: it never comes back and never becomes an item.
- Probabilities are over the whole codebook unless ``renormalize`` is set, so scores do not depend on the filters.
- No operation depends on values on the device: no host synchronization, and ``torch.compile`` takes the loop as one
  graph. Price: NaN logits are reported after the loop (:meth:`Leaves.refuse_broken`).
- The model caches keys and values per beam and reorders them by ``beam_index``; the history is cached once per user.
"""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from genrec.config import SearchOptions
from genrec.decoding.counter_rng import gumbel, stream, user_keys
from genrec.decoding.device_trie import DeviceTrie, Exclusion, Level
from genrec.decoding.item_prior import Prior
from genrec.decoding.nonfinite import NonFiniteLogitsError
from genrec.decoding.ranking import mask_columns
from genrec.decoding.selection import NEGATIVE_INFINITY, Beams, rows_per_user, selection
from genrec.errors import ArtifactError

# The stream of a user's random numbers that belongs to no level.
ROOT = -1


class CodeWriter(Protocol):
    """What the search needs of a recommender (see :class:`genrec.models.base.GenerativeRecommender`)."""

    def encode(self, items: Tensor, lengths: Tensor) -> Any:
        """Read histories ``[B, T]`` once."""

    def next_code_logits(self, context: Any, prefix: Tensor, beam_index: Tensor | None = None) -> Tensor:
        """Logits ``[B, M, K]`` of the next code."""

    def item_log_probabilities(self, context: Any, items: Tensor) -> Tensor:
        """log p of ``items [B, C]``; asked only where an item weight is given."""


class Leaves(NamedTuple):
    """Leaves of the trie that a search reached.

    Attributes:
        nodes: Leaves int64 ``[B, M]``.
        scores: Natural log-probabilities, float32 ``[B, M]``; -inf: there is no such leaf.
        keys: What ranks them, float32 ``[B, M]``.
        broken: bool ``[B, L]``, the steps at which a user's logits were NaN or infinite.
    """

    nodes: Tensor
    scores: Tensor
    keys: Tensor
    broken: Tensor

    def refuse_broken(self) -> None:
        """Raise if any logits were NaN or infinite; the one place where a value is fetched from the device.

        Raises:
            NonFiniteLogitsError: Naming the first row and step.
        """
        if self.broken.any():
            row, step = self.broken.nonzero()[0].tolist()
            raise NonFiniteLogitsError(row, step)

    def distinct(self) -> "Leaves":
        """Each leaf once, with its best key; the others are dead."""
        keys, order = self.keys.sort(dim=1, descending=True, stable=True)
        nodes, scores = self.nodes.gather(1, order), self.scores.gather(1, order)
        # Strictly below the diagonal: whether an earlier beam, which has at least this key, is at the same leaf.
        repeated = (nodes.unsqueeze(2) == nodes.unsqueeze(1)).tril(-1).any(dim=2)
        scores, keys = scores.masked_fill(repeated, NEGATIVE_INFINITY), keys.masked_fill(repeated, NEGATIVE_INFINITY)
        return Leaves(nodes, scores, keys, self.broken)


def find_leaves(
    model: CodeWriter,
    trie: DeviceTrie,
    context: Any,
    options: SearchOptions,
    exclusion: Exclusion | None,
    seeds: Tensor,
    prior: Prior | None = None,
) -> Leaves:
    """Run the beam search from the root to the leaves, without host synchronization.

    The beams of one row compete; a user has one row, or one per group or sample. The model sees all rows of a user as
    the beams ``[B, M]`` of that user.

    Args:
        model: Writes codes.
        trie: The items that may be recommended.
        context: Encoded histories of B users.
        options: All but ``item_weight`` and ``item_guidance``, which the prior stands for.
        exclusion: Items that each user must not get.
        seeds: int64 ``[B]``, one per user, for random draws; also gives B.
        prior: Scores of the nodes by their items, in mode ``beam``.
    """
    batch, rows, select = len(seeds), rows_per_user(options), selection(options, seeds, prior)
    if exclusion is not None and rows > 1:
        exclusion = exclusion.repeated(rows)
    beams = _root(trie, batch, options, seeds)
    prefix = torch.zeros(batch, 1, 0, dtype=torch.int64, device=trie.device)
    beam_index: Tensor | None = None
    broken = []
    for depth, level in enumerate(trie.levels):
        logits = model.next_code_logits(context, prefix, beam_index)
        check_codebook_size(logits, trie, depth)
        values = log_probabilities(logits, options.temperature)
        broken.append(values[..., 0].isnan().any(dim=1))
        # [B, rows * M, K] -> [B, rows, M, K]; at the root all rows of a user share one beam.
        values = values.unflatten(1, (rows, -1)) if depth else values.unsqueeze(1).expand(-1, rows, -1, -1)
        values = append_end_edge(values.flatten(0, 1), level)
        values = mask_excluded_codes(values, beams.nodes, depth, exclusion)
        # The selection masks the codes that are illegal in the trie.
        chosen = select(level, depth, beams, values)
        # A candidate's number is slot * choices + candidate.
        slots, beams_before = chosen.numbers // level.choices, beams.nodes.shape[1]
        nodes, codes = level.follow(beams.nodes.gather(1, slots), chosen.numbers % level.choices)
        lengths = beams.lengths.gather(1, slots) + (codes < trie.level_sizes[depth])
        beams = Beams(nodes, chosen.scores, chosen.keys, lengths)
        # From slots of a row to slots of a user, whose rows follow one another; at the root they share slot 0.
        row_start = beams_before * torch.arange(rows, device=slots.device).unsqueeze(-1) if depth else 0
        beam_index = (slots.unflatten(0, (batch, rows)) + row_start).flatten(1)
        # An end edge (code K) has no embedding: the model reads any code there, and what it writes is not scored.
        codes = codes.clamp(max=trie.level_sizes[depth] - 1).view(batch, -1, 1)
        prefix = torch.cat([prefix.gather(1, beam_index.unsqueeze(-1).expand(-1, -1, depth)), codes], dim=2)
    # [B * rows, M] -> [B, rows * M]
    nodes, scores, keys = (field.view(batch, -1) for field in (beams.nodes, beams.scores, beams.keys))
    return Leaves(nodes, scores, keys, torch.stack(broken, dim=1))


def _root(trie: DeviceTrie, batch: int, options: SearchOptions, seeds: Tensor) -> Beams:
    """One beam per row at the root, with log-probability 0."""
    nodes = torch.zeros(batch * rows_per_user(options), 1, dtype=torch.int64, device=trie.device)
    scores = torch.zeros(nodes.shape, device=trie.device)
    if options.mode != "stochastic":
        return Beams(nodes, scores, scores, nodes)
    largest = gumbel(stream(user_keys(options.seed, seeds), ROOT)).unsqueeze(1)
    return Beams(nodes, scores, largest, nodes)


def log_probabilities(logits: Tensor, temperature: float) -> Tensor:
    """float32 ``[..., K]`` over the whole codebook; a row with NaN or infinite logits becomes NaN throughout."""
    if temperature != 1:
        logits = logits.float() / temperature
    return torch.log_softmax(logits, dim=-1, dtype=torch.float32)


def append_end_edge(values: Tensor, level: Level) -> Tensor:
    """Append the log-probability of an end edge, which is followed with certainty, where the level has any."""
    return torch.cat([values, torch.zeros_like(values[..., :1])], dim=-1) if level.ends else values


def mask_excluded_codes(values: Tensor, nodes: Tensor, depth: int, exclusion: Exclusion | None) -> Tensor:
    """A copy of ``values [R, M, size]`` of the edges below ``nodes [R, M]`` with -inf where they are excluded."""
    if exclusion is None:
        return values
    batch, num_beams, size = values.shape
    # Find the beam at each excluded edge's upper node by binary search. Living beams come before dead ones and no two
    # are at one node, so the first beam at a node (the sort is stable) is the one that matters.
    ascending, slots = nodes.sort(dim=1, stable=True)
    parents = exclusion.parents[depth]
    position = torch.searchsorted(ascending, parents).clamp_(max=num_beams - 1)
    columns = slots.gather(1, position) * size + exclusion.codes[depth]
    has_beam = ascending.gather(1, position) == parents
    return mask_columns(values.flatten(1), columns, has_beam).view(batch, num_beams, size)


def check_codebook_size(logits: Tensor, trie: DeviceTrie, depth: int) -> None:
    """Refuse logits of another codebook than the trie's at this depth.

    Raises:
        ArtifactError: If so.
    """
    if logits.shape[-1] != trie.level_sizes[depth]:
        raise ArtifactError(
            f"the model writes {logits.shape[-1]} codes at level {depth}, the trie has {trie.level_sizes[depth]}",
            expected="a model trained with this item tokenizer",
            fix="give the model its own tokenizer folder",
        )
