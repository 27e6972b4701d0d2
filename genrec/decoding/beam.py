"""The loop of every search over the catalogue's trie.

Each step adds the log-probabilities of one level (float32, over that level's whole codebook), puts -inf outside the
trie and lets one choice per row say what lives (see :mod:`genrec.decoding.selection`): with plain beams one global
top-M per user. A beam that is -inf is dead: it never comes back and never becomes an item. Nothing in the loop depends
on values on the device, so it runs without host synchronisation.
"""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from genrec.decoding.device_trie import DeviceTrie, Exclusion, Level
from genrec.decoding.finite import NonFiniteLogitsError
from genrec.decoding.guide import Guide
from genrec.decoding.noise import gumbel, stream, user_keys
from genrec.decoding.ranking import ban
from genrec.decoding.selection import NEGATIVE_INFINITY, Beams, Options, selection
from genrec.errors import ArtifactError

# The stream of a user's random numbers that belongs to no level.
ROOT = -1


class CodeWriter(Protocol):
    """What the search needs of a recommender (see :class:`genrec.models.base.GenerativeRecommender`)."""

    def encode(self, items: Tensor, lengths: Tensor) -> Any:
        """Read histories ``[B, T]`` once."""

    def next_code_logits(self, context: Any, prefix: Tensor, parents: Tensor | None = None) -> Tensor:
        """Logits ``[B, M, K]`` of the next code."""

    def item_log_probabilities(self, context: Any, items: Tensor) -> Tensor:
        """log p of ``items [B, C]``; asked only where an item weight is given."""


class Leaves(NamedTuple):
    """What a search found.

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
        again = (nodes.unsqueeze(2) == nodes.unsqueeze(1)).tril(-1).any(dim=2)
        scores, keys = (part.masked_fill(again, NEGATIVE_INFINITY) for part in (scores, keys))
        return Leaves(nodes, scores, keys, self.broken)


def search_leaves(
    model: CodeWriter, trie: DeviceTrie, context: Any, batch: int, options: Options, exclusion: Exclusion | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Leaves ``[B, M]``, their log-probabilities, and broken steps ``[B, L]`` of beams; see :func:`find_leaves`."""
    seeds = torch.zeros(batch, dtype=torch.int64, device=trie.device)
    found = find_leaves(model, trie, context, options, exclusion, seeds)
    return found.nodes, found.scores, found.broken


def find_leaves(
    model: CodeWriter,
    trie: DeviceTrie,
    context: Any,
    options: Options,
    exclusion: Exclusion | None,
    seeds: Tensor,
    guide: Guide | None = None,
) -> Leaves:
    """The loop of every search, free of host synchronisation; ``torch.compile`` takes it whole.

    Beams of one row compete; a user has one row, or one per group or sample. The model sees all rows of a user at once.
    """
    batch, rows, select = len(seeds), options.rows, selection(options, seeds, guide)
    if exclusion is not None and rows > 1:
        exclusion = exclusion.repeated(rows)
    beams = _root(trie, batch, options, seeds)
    prefix = torch.zeros(batch, 1, 0, dtype=torch.int64, device=trie.device)
    parents: Tensor | None = None
    broken = []
    for depth, level in enumerate(trie.levels):
        logits = model.next_code_logits(context, prefix, parents)
        refuse_other_codebook(logits, trie, depth)
        values = log_probabilities(logits, options.temperature)
        broken.append(values[..., 0].isnan().any(dim=1))
        # At the root all rows of a user share one beam.
        values = values.unflatten(1, (rows, -1)) if depth else values.unsqueeze(1).expand(-1, rows, -1, -1)
        values = ban_edges(with_end_edge(values.flatten(0, 1), level), beams.nodes, depth, exclusion)
        chosen = select(level, depth, beams, values)
        slots, before = chosen.numbers // level.choices, beams.nodes.shape[1]
        nodes, codes = level.follow(beams.nodes.gather(1, slots), chosen.numbers % level.choices)
        written = beams.lengths.gather(1, slots) + (codes < trie.level_sizes[depth])
        beams = Beams(nodes, chosen.scores, chosen.keys, written)
        # Slots of a user's rows stand one after another; at the root there is one for all.
        first = before * torch.arange(rows, device=slots.device).unsqueeze(-1) if depth else 0
        parents = (slots.unflatten(0, (batch, rows)) + first).flatten(1)
        codes = codes.clamp(max=trie.level_sizes[depth] - 1).view(batch, -1, 1)
        prefix = torch.cat([prefix.gather(1, parents.unsqueeze(-1).expand(-1, -1, depth)), codes], dim=2)
    nodes, scores, keys = (part.view(batch, -1) for part in (beams.nodes, beams.scores, beams.keys))
    return Leaves(nodes, scores, keys, torch.stack(broken, dim=1))


def _root(trie: DeviceTrie, batch: int, options: Options, seeds: Tensor) -> Beams:
    nodes = torch.zeros(batch * options.rows, 1, dtype=torch.int64, device=trie.device)
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


def with_end_edge(values: Tensor, level: Level) -> Tensor:
    """Append the log-probability of an end edge, which is followed with certainty, where the level has any."""
    return torch.cat([values, torch.zeros_like(values[..., :1])], dim=-1) if level.ends else values


def ban_edges(values: Tensor, nodes: Tensor, depth: int, exclusion: Exclusion | None) -> Tensor:
    """A copy of ``values [R, M, size]`` of the edges below ``nodes [R, M]`` with -inf where they are excluded."""
    if exclusion is None:
        return values
    batch, beams, size = values.shape
    # Living beams stand before dead ones and no two at one node, so the first beam at a node is the one that matters.
    ascending, slots = nodes.sort(dim=1, stable=True)
    parents = exclusion.parents[depth]
    place = torch.searchsorted(ascending, parents).clamp_(max=beams - 1)
    columns = slots.gather(1, place) * size + exclusion.codes[depth]
    return ban(values.flatten(1), columns, ascending.gather(1, place) == parents).view(batch, beams, size)


def refuse_other_codebook(logits: Tensor, trie: DeviceTrie, depth: int) -> None:
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
