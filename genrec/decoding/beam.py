"""Beam search over the catalogue's trie.

Each step adds the log-probabilities of one level (float32, over that level's whole codebook), puts -inf outside the
trie and keeps one global top-M per user. A beam that is -inf is dead: it never comes back and never becomes an item.
Nothing in the loop depends on values on the device, so it runs without host synchronisation.
"""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from genrec.decoding.device_trie import DeviceTrie, Exclusion, Level
from genrec.decoding.ranking import RankedItems, ban
from genrec.errors import ArtifactError, ConfigError

NEGATIVE_INFINITY = float("-inf")


class CodeWriter(Protocol):
    """What the search needs of a recommender (see :class:`genrec.models.base.GenerativeRecommender`)."""

    def encode(self, items: Tensor, lengths: Tensor) -> Any:
        """Read histories ``[B, T]`` once."""

    def next_code_logits(self, context: Any, prefix: Tensor, parents: Tensor | None = None) -> Tensor:
        """Logits ``[B, M, K]`` of the next code."""

    def item_log_probabilities(self, context: Any, items: Tensor) -> Tensor:
        """log p of ``items [B, C]``; asked only where an item weight is given."""


class Options(NamedTuple):
    """How to search; see :func:`beam_search`."""

    num_beams: int
    temperature: float = 1.0
    renormalise: bool = False


class NonFiniteLogitsError(ArtifactError):
    """The model gave NaN or infinite logits.

    Args:
        user: Row of the batch, or the user's id once it is known.
        step: Level whose codes were to be written, from 0.
    """

    def __init__(self, user: int | str, step: int) -> None:
        self.user, self.step = user, step
        super().__init__(
            f"the model's logits are NaN or infinite for user {user} at step {step}",
            expected="finite logits",
            fix="use a checkpoint with finite weights, or float32 if this runs in float16",
        )


@torch.no_grad()
def beam_search(
    model: CodeWriter,
    trie: DeviceTrie,
    items: Tensor,
    lengths: Tensor,
    *,
    num_beams: int,
    top_k: int,
    exclude: Tensor | None = None,
    temperature: float = 1.0,
    renormalise: bool = False,
    item_weight: float = 0.0,
) -> RankedItems:
    """Find the k items with the most probable identifiers.

    With at least as many beams as leaves the ranking is that of scoring every item. With fewer, M >= k beams still give
    k items (or all that are allowed), because each beam that lives leads to at least one item that its user may get.

    Args:
        model: Encodes histories and writes codes.
        trie: The items that may be recommended.
        items: Dense item ids, int64 ``[B, T]``, right-padded.
        lengths: Items per user, int64 ``[B]``; 0 allowed.
        num_beams: M, clamped to the identifiers that exist.
        top_k: k, the length of the lists.
        exclude: Items that a user must not get, int64 ``[B, E]``; -1 fills shorter rows.
        temperature: Divides the logits.
        renormalise: Let the probabilities of the legal codes of a step sum to one.
        item_weight: w; items that the codes wrote are ranked by log p(codes) + w log p(item), the latter from the
            model's ``item_log_probabilities``.

    Returns:
        Items with the sums of natural log-probabilities that ranked them; -1 and -inf where there are fewer than k.

    Raises:
        ConfigError: If a number is out of range.
        NonFiniteLogitsError: Naming the first row and step with NaN or infinite logits.
    """
    if num_beams < 1 or top_k < 1 or not temperature > 0:
        raise ConfigError(
            f"num_beams {num_beams}, top_k {top_k} and temperature {temperature} cannot be used",
            expected="num_beams and top_k of at least 1, temperature above 0",
        )
    if not trie.num_leaves or not len(items):
        return RankedItems.nothing(len(items), top_k, items.device)
    exclusion = trie.exclusion(exclude)
    options = Options(num_beams, temperature, renormalise)
    context = model.encode(items, lengths)
    leaves, scores, broken = search_leaves(model, trie, context, len(items), options, exclusion)
    if broken.any():
        row, step = broken.nonzero()[0].tolist()
        raise NonFiniteLogitsError(row, step)
    found, scores = _items_of(trie, leaves, scores, exclusion, top_k)
    if item_weight:
        scores = scores + item_weight * model.item_log_probabilities(context, found)
    return trie.rank(scores, found, top_k)


def search_leaves(
    model: CodeWriter, trie: DeviceTrie, context: Any, batch: int, options: Options, exclusion: Exclusion | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The loop of :func:`beam_search`, free of host synchronisation.

    Returns:
        Leaves int64 ``[B, M]``, their scores float32 ``[B, M]`` (-inf: there is no such leaf), and bool ``[B, L]``: the
        steps at which a user's logits were NaN or infinite.
    """
    nodes = torch.zeros(batch, 1, dtype=torch.int64, device=trie.device)
    scores = torch.zeros(batch, 1, device=trie.device)
    prefix = torch.zeros(batch, 1, 0, dtype=torch.int64, device=trie.device)
    parents: Tensor | None = None
    broken = []
    for depth, level in enumerate(trie.levels):
        logits = model.next_code_logits(context, prefix, parents)
        _refuse_other_codebook(logits, trie, depth)
        values = log_probabilities(logits, options.temperature)
        broken.append(values[..., 0].isnan().any(dim=1))
        values = _ban_edges(with_end_edge(values, level), nodes, depth, exclusion)
        values = level.candidates(nodes, values)
        if options.renormalise:
            values = values - values.logsumexp(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float32).min)
        values = values + scores.unsqueeze(-1)
        width = min(options.num_beams, values.shape[1] * level.choices, len(level.code))
        scores, chosen = values.flatten(1).topk(width)
        parents = chosen // level.choices
        nodes, codes = level.follow(nodes.gather(1, parents), chosen % level.choices)
        codes = codes.clamp(max=trie.level_sizes[depth] - 1)
        prefix = torch.cat([prefix.gather(1, parents.unsqueeze(-1).expand(-1, -1, depth)), codes.unsqueeze(-1)], dim=2)
    return nodes, scores, torch.stack(broken, dim=1)


def log_probabilities(logits: Tensor, temperature: float) -> Tensor:
    """float32 ``[..., K]`` over the whole codebook; a row with NaN or infinite logits becomes NaN throughout."""
    if temperature != 1:
        logits = logits.float() / temperature
    return torch.log_softmax(logits, dim=-1, dtype=torch.float32)


def with_end_edge(values: Tensor, level: Level) -> Tensor:
    """Append the log-probability of an end edge, which is followed with certainty, where the level has any."""
    return torch.cat([values, torch.zeros_like(values[..., :1])], dim=-1) if level.ends else values


def _ban_edges(values: Tensor, nodes: Tensor, depth: int, exclusion: Exclusion | None) -> Tensor:
    if exclusion is None:
        return values
    batch, beams, size = values.shape
    # Living beams stand before dead ones and no two at one node, so the first beam at a node is the one that matters.
    same = nodes.unsqueeze(2) == exclusion.parents[depth].unsqueeze(1)
    columns = same.byte().argmax(dim=1) * size + exclusion.codes[depth]
    return ban(values.flatten(1), columns, same.any(dim=1)).view(batch, beams, size)


def _refuse_other_codebook(logits: Tensor, trie: DeviceTrie, depth: int) -> None:
    if logits.shape[-1] != trie.level_sizes[depth]:
        raise ArtifactError(
            f"the model writes {logits.shape[-1]} codes at level {depth}, the trie has {trie.level_sizes[depth]}",
            expected="a model trained with this item tokenizer",
            fix="give the model its own tokenizer folder",
        )


def _items_of(
    trie: DeviceTrie, leaves: Tensor, scores: Tensor, exclusion: Exclusion | None, top_k: int
) -> tuple[Tensor, Tensor]:
    """Items ``[B, C]`` at the leaves and their scores; -inf where there is none or it is excluded."""
    # Of a crowded leaf more than k items are of no use, unless some of them are excluded.
    most = top_k if exclusion is None else top_k + exclusion.items.shape[1]
    items = trie.items_at(leaves, most)
    scores = scores.unsqueeze(-1).expand(items.shape).flatten(1)
    items = items.flatten(1)
    missing = items < 0
    if exclusion is not None:
        missing |= exclusion.contains(items)
    return items.clamp(min=0), scores.masked_fill(missing, NEGATIVE_INFINITY)
