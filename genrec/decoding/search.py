"""Search functions: from encoded histories to ranked items, or to samples of items.

- :func:`beam_search` ranks the items of the leaves that a beam search reached, in modes ``beam`` (also in diverse
  groups), ``stochastic`` and ``nucleus`` of :class:`~genrec.config.SearchOptions`.
- :func:`sample_items` draws items without replacement and returns their probabilities too.

Illegal codes are masked in :func:`genrec.decoding.selection.legal_log_probabilities`, excluded items in
:func:`genrec.decoding.beam.mask_excluded_codes`.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from genrec.config import SearchOptions
from genrec.decoding.beam import CodeWriter, Leaves, find_leaves
from genrec.decoding.counter_rng import gumbel, history_seeds, stream, user_keys
from genrec.decoding.device_trie import DeviceTrie, Exclusion
from genrec.decoding.item_prior import ItemPrior, MaxScorePrior, Prior, SumPrior
from genrec.decoding.nonfinite import refuse_broken_scores
from genrec.decoding.ranking import RankedItems
from genrec.decoding.selection import NEGATIVE_INFINITY, condition_on_largest, rows_per_user
from genrec.errors import ConfigError
from genrec.models.side_inputs import NO_EXTRAS, Extras


@torch.no_grad()
def beam_search(
    model: CodeWriter,
    trie: DeviceTrie,
    items: Tensor,
    lengths: Tensor,
    options: SearchOptions,
    *,
    top_k: int,
    exclude: Tensor | None = None,
    seeds: Tensor | None = None,
    extras: Extras = NO_EXTRAS,
    added: Tensor | None = None,
) -> RankedItems:
    """Find the k items with the most probable semantic IDs.

    With at least as many beams as leaves the ranking is that of scoring every item. With fewer, M >= k beams still give
    k items (or all that are allowed), because each beam that lives leads to at least one item that its user may get.

    What ranks: in mode ``beam`` log p of the semantic ID, less the diversity penalties that it met in its group; in
    mode ``stochastic`` the perturbed log-probability, so that the list is one sample without replacement; in mode
    ``nucleus`` log p, and lists are shorter than k where samples repeat each other. With ``item_weight`` w, items are
    ranked by log p(codes) + w log p(item), the latter from the model's ``item_log_probabilities``.

    Args:
        model: Encodes histories and writes codes.
        trie: The items that may be recommended.
        items: Dense item ids, int64 ``[B, T]``, right-padded.
        lengths: Items per user, int64 ``[B]``; 0 allowed.
        options: All are read; ``num_beams`` is clamped to the semantic IDs that exist.
        top_k: k, the length of the lists.
        exclude: Items that a user must not get, int64 ``[B, E]``; -1 fills shorter rows.
        seeds: int64 ``[B]``, one per user, for random draws; from their histories if None.
        extras: What else the model reads of the histories (:mod:`genrec.models.side_inputs`).
        added: Further scores of all items, float32 ``[B, N]``; beams follow them as they follow item vectors.

    Returns:
        Items with what ranked them, in natural logarithms; -1 and -inf where there are fewer than k.

    Raises:
        ConfigError: If a number is out of range or the mode does not search with beams.
        NonFiniteLogitsError: Naming the first row and step with NaN or infinite logits.
    """
    check_options(options, top_k)
    if not trie.num_leaves or not len(items):
        return RankedItems.nothing(len(items), top_k, items.device)
    seeds = history_seeds(items, lengths) if seeds is None else seeds
    exclusion = trie.exclusion(exclude)
    context = model.encode(items, lengths, **extras)
    prior = _prior(model, trie, context, len(items), options, exclusion, added)
    leaves = find_leaves(model, trie, context, options, exclusion, seeds, prior)
    leaves.refuse_broken()
    if options.mode == "stochastic":
        samples = _draw_items(trie, leaves, exclusion, user_keys(options.seed, seeds))
        return trie.rank(samples.keys, samples.items, top_k)
    if rows_per_user(options) > 1:
        # Groups and samples are searched independently, so several may reach the same leaf.
        leaves = leaves.distinct()
    candidates, scores = _items_of(trie, leaves, exclusion, top_k)
    if prior is not None:
        scores = scores + prior.of_items(candidates)
    else:
        if options.item_weight:
            scores = scores + options.item_weight * model.item_log_probabilities(context, candidates)
        if added is not None:
            scores = scores + added.gather(1, candidates)
    if options.item_weight or added is not None:
        refuse_broken_scores(scores)
    return trie.rank(scores, candidates, top_k)


def _prior(
    model: CodeWriter,
    trie: DeviceTrie,
    context: Any,
    batch: int,
    options: SearchOptions,
    exclusion: Exclusion | None,
    added: Tensor | None,
) -> Prior | None:
    """Scores of the nodes that beams are selected by, besides their codes; None where the codes decide alone."""
    if not options.item_guidance or options.mode != "beam":
        return None
    priors: list[Prior] = []
    if options.item_weight:
        every_item = torch.arange(trie.num_items, device=trie.device).expand(batch, -1)
        log_probs = model.item_log_probabilities(context, every_item)
        priors.append(ItemPrior(trie, log_probs, options.item_weight, exclusion))
    if added is not None:
        priors.append(MaxScorePrior(trie, added, exclusion))
    return priors[0] if len(priors) == 1 else SumPrior(priors) if priors else None


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
    options: SearchOptions,
    *,
    seeds: Tensor | None = None,
    exclude: Tensor | None = None,
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
        options: ``num_beams`` (S, the number of samples), ``temperature`` and ``seed`` are read, in mode
            ``stochastic``.
        seeds: int64 ``[B]``, one per user; from their histories if None.
        exclude: Items that a user must not get, int64 ``[B, E]``; -1 fills shorter rows.

    Raises:
        ConfigError: If a number is out of range or the mode is another one.
        NonFiniteLogitsError: Naming the first row and step with NaN or infinite logits.
    """
    num_samples = options.num_beams
    check_options(options, num_samples)
    if options.mode != "stochastic":
        raise ConfigError(f"mode: {options.mode} does not sample without replacement", expected="mode: stochastic")
    if not trie.num_leaves or not len(items):
        nothing = RankedItems.nothing(len(items), num_samples, items.device)
        return Samples(nothing.items, nothing.scores, nothing.scores)
    seeds = history_seeds(items, lengths) if seeds is None else seeds
    exclusion = trie.exclusion(exclude)
    leaves = find_leaves(model, trie, model.encode(items, lengths), options, exclusion, seeds)
    leaves.refuse_broken()
    drawn = _draw_items(trie, leaves, exclusion, user_keys(options.seed, seeds))
    missing = num_samples - drawn.items.shape[1]
    if missing > 0:
        fillings = (0, NEGATIVE_INFINITY, NEGATIVE_INFINITY)
        drawn = Samples(*(pad(field, (0, missing), value=fill) for field, fill in zip(drawn, fillings, strict=True)))
    keys, order = drawn.keys.topk(num_samples)
    ordered_items = drawn.items.gather(1, order).masked_fill(keys.isneginf(), -1)
    return Samples(ordered_items, drawn.log_probs.gather(1, order), keys)


def check_options(options: SearchOptions, top_k: int) -> None:
    """Refuse what cannot be searched: ``model_copy`` changes options without validating them.

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
    # More than k items of one leaf are of no use, except to replace those that are excluded.
    most_per_leaf = top_k if exclusion is None else top_k + exclusion.items.shape[1]
    items = trie.items_at(leaves.nodes, most_per_leaf)
    # [B, M, W] -> [B, M * W]: the items of a leaf share its key.
    keys = leaves.keys.unsqueeze(-1).expand(items.shape).flatten(1)
    items = items.flatten(1)
    missing = items < 0
    if exclusion is not None:
        missing |= exclusion.contains(items)
    return items.clamp(min=0), keys.masked_fill(missing, NEGATIVE_INFINITY)


def _draw_items(trie: DeviceTrie, leaves: Leaves, exclusion: Exclusion | None, keys: Tensor) -> Samples:
    """Draw items below sampled leaves: one further level, on which each item has an equal share of its leaf."""
    items = trie.items_at(leaves.nodes, trie.leaf_width)
    missing = items < 0
    if exclusion is not None:
        missing |= exclusion.contains(items.flatten(1)).view(items.shape)
    count = (~missing).sum(dim=-1, keepdim=True).clamp(min=1)
    shares = (leaves.scores.unsqueeze(-1) - count.log()).masked_fill(missing, NEGATIVE_INFINITY)
    noise = gumbel(stream(stream(keys, trie.num_levels)[:, None, None], items))
    perturbed = condition_on_largest(shares + noise, leaves.keys)
    return Samples(items.clamp(min=0).flatten(1), shares.flatten(1), perturbed.flatten(1))
