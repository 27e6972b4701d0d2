"""From histories to lists and samples of items by search over the catalogue's trie."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from genrec.decoding.beam import CodeWriter, Leaves, find_leaves
from genrec.decoding.device_trie import DeviceTrie, Exclusion
from genrec.decoding.finite import refuse_broken_scores
from genrec.decoding.guide import BestGuide, BothGuides, Guide, ItemGuide
from genrec.decoding.noise import gumbel, history_seeds, stream, user_keys
from genrec.decoding.ranking import RankedItems
from genrec.decoding.selection import NEGATIVE_INFINITY, Options, condition_on_largest
from genrec.errors import ConfigError
from genrec.models.extras import NO_EXTRAS, Extras


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
    item_guidance: bool = True,
    length_penalty: float = 0.0,
    extras: Extras = NO_EXTRAS,
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
        item_weight: w; items are ranked by log p(codes) + w log p(item), the latter from the model's
            ``item_log_probabilities``.
        item_guidance: Choose beams by both as well (see :class:`~genrec.decoding.guide.ItemGuide`), for B x N more
            numbers; else by codes alone.
        length_penalty: p; identifiers of n codes are ranked by log p(codes) / n^p.
        extras: What else the model reads of the histories (:mod:`genrec.models.extras`).

    Returns:
        Items with what ranked them, in natural logarithms; -1 and -inf where there are fewer than k.

    Raises:
        ConfigError: If a number is out of range.
        NonFiniteLogitsError: Naming the first row and step with NaN or infinite logits.
    """
    options = Options(
        num_beams, temperature, renormalise, length_penalty, item_weight=item_weight, item_guidance=item_guidance
    )
    return search_items(model, trie, items, lengths, options, top_k=top_k, exclude=exclude, extras=extras)


@torch.no_grad()
def search_items(
    model: CodeWriter,
    trie: DeviceTrie,
    items: Tensor,
    lengths: Tensor,
    options: Options,
    *,
    top_k: int,
    exclude: Tensor | None = None,
    seeds: Tensor | None = None,
    extras: Extras = NO_EXTRAS,
    added: Tensor | None = None,
) -> RankedItems:
    """Lists by any of the searches that :class:`Options` describe; other arguments as in :func:`beam_search`.

    What ranks: with beams log p of the identifier, less the diversity penalties that it met in its group; with
    ``stochastic`` the perturbed log-probability, so that the list is one sample without replacement; with ``nucleus``
    log p, and lists are shorter than k where samples repeat each other.

    Args:
        options: How to search.
        seeds: int64 ``[B]``, one per user, for what is drawn; from their histories if None.
        added: Further scores of all items, float32 ``[B, N]``; beams follow them as they follow item vectors.
    """
    check_options(options, top_k)
    if not trie.num_leaves or not len(items):
        return RankedItems.nothing(len(items), top_k, items.device)
    seeds = history_seeds(items, lengths) if seeds is None else seeds
    exclusion = trie.exclusion(exclude)
    context = model.encode(items, lengths, **extras)
    guide = _guide(model, trie, context, len(items), options, exclusion, added)
    leaves = find_leaves(model, trie, context, options, exclusion, seeds, guide)
    leaves.refuse_broken()
    if options.mode == "stochastic":
        samples = _draw_items(trie, leaves, exclusion, user_keys(options.seed, seeds))
        return trie.rank(samples.keys, samples.items, top_k)
    if options.rows > 1:
        leaves = leaves.distinct()
    found, scores = _items_of(trie, leaves, exclusion, top_k)
    if guide is not None:
        scores = scores + guide.of_items(found)
    else:
        if options.item_weight:
            scores = scores + options.item_weight * model.item_log_probabilities(context, found)
        if added is not None:
            scores = scores + added.gather(1, found)
    if options.item_weight or added is not None:
        refuse_broken_scores(scores)
    return trie.rank(scores, found, top_k)


def _guide(
    model: CodeWriter,
    trie: DeviceTrie,
    context: Any,
    batch: int,
    options: Options,
    exclusion: Exclusion | None,
    added: Tensor | None,
) -> Guide | None:
    if not options.item_guidance or options.mode != "beam":
        return None
    guides: list[Guide] = []
    if options.item_weight:
        everything = torch.arange(trie.num_items, device=trie.device).expand(batch, -1)
        log_probs = model.item_log_probabilities(context, everything)
        guides.append(ItemGuide(trie, log_probs, options.item_weight, exclusion))
    if added is not None:
        guides.append(BestGuide(trie, added, exclusion))
    return guides[0] if len(guides) == 1 else BothGuides(guides) if guides else None


class Samples(NamedTuple):
    """Items drawn without replacement, in the order in which they were drawn.

    Attributes:
        items: Dense items, int64 ``[B, S]``; -1 where a user has fewer.
        log_probs: Natural log-probability of each item under the distribution that was drawn from, float32 ``[B, S]``;
            -inf where there is no item.
        keys: Their perturbed log-probabilities, descending, float32 ``[B, S]``: independent Gumbel variables with
            these log-probabilities as locations, given that they are the largest.
    """

    items: Tensor
    log_probs: Tensor
    keys: Tensor


@torch.no_grad()
def sample_items(
    model: CodeWriter,
    trie: DeviceTrie,
    items: Tensor,
    lengths: Tensor,
    num_samples: int,
    *,
    seed: int = 0,
    seeds: Tensor | None = None,
    exclude: Tensor | None = None,
    temperature: float = 1.0,
) -> Samples:
    """Draw different items of each user without replacement, each with the probability that the model gives it.

    Stochastic beam search (Kool, van Hoof and Welling 2019): exact sampling without replacement from the model's
    distribution, shared among the legal codes of every step and among the items of a leaf. What a user draws depends
    on the two seeds, the user's own history and the trie; more samples extend fewer.

    Args:
        model: Encodes histories and writes codes.
        trie: The items that may be drawn.
        items: Dense item ids, int64 ``[B, T]``, right-padded.
        lengths: Items per user, int64 ``[B]``; 0 allowed.
        num_samples: S.
        seed: Of the run.
        seeds: int64 ``[B]``, one per user; from their histories if None.
        exclude: Items that a user must not get, int64 ``[B, E]``; -1 fills shorter rows.
        temperature: Divides the logits.

    Raises:
        ConfigError: If a number is out of range.
        NonFiniteLogitsError: Naming the first row and step with NaN or infinite logits.
    """
    options = Options(num_samples, temperature, mode="stochastic", seed=seed)
    check_options(options, num_samples)
    if not trie.num_leaves or not len(items):
        nothing = RankedItems.nothing(len(items), num_samples, items.device)
        return Samples(nothing.items, nothing.scores, nothing.scores)
    seeds = history_seeds(items, lengths) if seeds is None else seeds
    exclusion = trie.exclusion(exclude)
    leaves = find_leaves(model, trie, model.encode(items, lengths), options, exclusion, seeds)
    leaves.refuse_broken()
    drawn = _draw_items(trie, leaves, exclusion, user_keys(seed, seeds))
    missing = num_samples - drawn.items.shape[1]
    if missing > 0:
        fillings = (0, NEGATIVE_INFINITY, NEGATIVE_INFINITY)
        parts = (
            torch.nn.functional.pad(part, (0, missing), value=fill) for part, fill in zip(drawn, fillings, strict=True)
        )
        drawn = Samples(*parts)
    keys, order = drawn.keys.topk(num_samples)
    found = drawn.items.gather(1, order).masked_fill(keys.isneginf(), -1)
    return Samples(found, drawn.log_probs.gather(1, order), keys)


def check_options(options: Options, top_k: int) -> None:
    """Refuse what cannot be searched.

    Raises:
        ConfigError: If a number is out of range or the groups do not divide the beams.
    """
    if options.num_beams < 1 or top_k < 1 or not options.temperature > 0:
        raise ConfigError(
            f"num_beams {options.num_beams}, top_k {top_k} and temperature {options.temperature} cannot be used",
            expected="num_beams and top_k of at least 1, temperature above 0",
        )
    if options.beam_groups < 1 or options.num_beams % options.beam_groups:
        raise ConfigError(
            f"{options.beam_groups} groups cannot share {options.num_beams} beams",
            expected="beam_groups that divide num_beams",
        )


def _items_of(trie: DeviceTrie, leaves: Leaves, exclusion: Exclusion | None, top_k: int) -> tuple[Tensor, Tensor]:
    """Items ``[B, C]`` at the leaves and their keys; -inf where there is none or it is excluded."""
    # Of a crowded leaf more than k items are of no use, unless some of them are excluded.
    most = top_k if exclusion is None else top_k + exclusion.items.shape[1]
    items = trie.items_at(leaves.nodes, most)
    keys = leaves.keys.unsqueeze(-1).expand(items.shape).flatten(1)
    items = items.flatten(1)
    missing = items < 0
    if exclusion is not None:
        missing |= exclusion.contains(items)
    return items.clamp(min=0), keys.masked_fill(missing, NEGATIVE_INFINITY)


def _draw_items(trie: DeviceTrie, leaves: Leaves, exclusion: Exclusion | None, keys: Tensor) -> Samples:
    """One level more below sampled leaves: each item of a leaf has an equal share of its probability."""
    items = trie.items_at(leaves.nodes, trie.leaf_width)
    missing = items < 0
    if exclusion is not None:
        missing |= exclusion.contains(items.flatten(1)).view(items.shape)
    count = (~missing).sum(dim=-1, keepdim=True).clamp(min=1)
    shares = (leaves.scores.unsqueeze(-1) - count.log()).masked_fill(missing, NEGATIVE_INFINITY)
    noise = gumbel(stream(stream(keys, trie.num_levels)[:, None, None], items))
    perturbed = condition_on_largest(shares + noise, leaves.keys)
    return Samples(items.clamp(min=0).flatten(1), shares.flatten(1), perturbed.flatten(1))
