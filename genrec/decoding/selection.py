"""Selection of the beams that continue after each level: most probable, diverse groups, or random samples.

Each mode of :class:`~genrec.config.SearchOptions` is a function of one level. It receives the log-probabilities of all
codes after each beam, masks the illegal ones (:func:`legal_log_probabilities`) and returns the candidates that survive.
A *row* is a set of beams that compete: a user, a group of a user's beams, or one sample of a user.

Design choices:

- A mode is one function, so the loop in :mod:`genrec.decoding.beam` has no branch per mode. Price: groups and samples
  are extra rows, and all modes share the shape ``[R, M, W]``.
- Illegal codes get -inf and no other value; a beam whose score is -inf is dead and never revived. Price: with fewer
  legal candidates than beams, dead beams take up space until the end.
- Random numbers are a function of user, node and code (:mod:`genrec.decoding.counter_rng`), not of a generator.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from genrec.config import SearchOptions
from genrec.decoding.counter_rng import gumbel, stream, user_keys
from genrec.decoding.device_trie import Level
from genrec.decoding.item_prior import Prior
from genrec.errors import ConfigError

NEGATIVE_INFINITY = float("-inf")


class Beams(NamedTuple):
    """The beams of all rows at one depth.

    Attributes:
        nodes: int64 ``[R, M]``.
        scores: Natural log-probabilities, float32 ``[R, M]``; -inf where a beam is dead.
        keys: What ranks them, float32 ``[R, M]``.
        lengths: Codes written, int64 ``[R, M]``.
    """

    nodes: Tensor
    scores: Tensor
    keys: Tensor
    lengths: Tensor


class Chosen(NamedTuple):
    """Candidates that survive: numbers ``slot * choices + candidate``, log-probabilities and keys, ``[R, M']`` each."""

    numbers: Tensor
    scores: Tensor
    keys: Tensor


Select = Callable[[Level, int, Beams, Tensor], Chosen]


def rows_per_user(options: SearchOptions) -> int:
    """Rows of a user: one per sample or per group."""
    return options.num_beams if options.mode == "nucleus" else options.beam_groups


def beams_per_row(options: SearchOptions) -> int:
    """M of one row at most."""
    return options.num_beams // rows_per_user(options)


def selection(options: SearchOptions, seeds: Tensor, prior: Prior | None = None) -> Select:
    """The selection function of a mode.

    Args:
        options: All but ``temperature`` are read.
        seeds: int64 ``[B]``, one per user, for random draws.
        prior: Scores of the nodes by their items; added to the keys of candidates in mode ``beam``.

    Returns:
        A function of level, depth, beams and log-probabilities ``[R, M, size]`` of all codes of the level.

    Raises:
        ConfigError: If the mode does not search with beams.
    """
    if options.mode == "beam" and options.beam_groups > 1:
        return lambda level, depth, beams, values: _choose_by_groups(level, depth, beams, values, options, prior)
    if options.mode == "beam":
        return lambda level, depth, beams, values: _choose_most_probable(level, depth, beams, values, options, prior)
    keys = user_keys(options.seed, seeds)
    if options.mode == "stochastic":
        return lambda level, depth, beams, values: _choose_without_replacement(
            level, beams, values, stream(keys, depth), options
        )
    if options.mode == "nucleus":
        samples = torch.arange(rows_per_user(options), device=seeds.device)
        row_keys = stream(keys.unsqueeze(1), samples).flatten()
        return lambda level, depth, beams, values: _draw_from_nucleus(
            level, beams, values, stream(row_keys, depth), options
        )
    raise ConfigError(
        f"mode: {options.mode} does not search with beams",
        expected="mode: beam, stochastic or nucleus",
        fix="use genrec.decoding.Searcher, which runs every mode",
    )


def codes_written(level: Level, beams: Beams) -> Tensor:
    """Codes of each beam after this level, int64 ``[R, M]``; an end edge counts as none."""
    if not level.ends:
        return beams.lengths + 1
    # A node with an end edge has no other edge, so its first edge says whether the semantic ID has ended.
    edge = level.start[beams.nodes].long().clamp(max=len(level.code) - 1)
    return beams.lengths + (level.code[edge] < level.size - 1)


def condition_on_largest(keys: Tensor, largest: Tensor) -> Tensor:
    """Gumbel variables of each parent's children, conditioned on the value of their maximum.

    After Kool, van Hoof and Welling, "Stochastic Beams and Where to Find Them" (2019), section 4.1 and appendix B.3.

    Args:
        keys: Independent Gumbel variables, float32 ``[R, M, W]``; -inf where there is no child.
        largest: The maximum that each parent's children must have, ``[R, M]``.
    """
    highest = keys.amax(dim=-1, keepdim=True)
    largest = largest.unsqueeze(-1)
    # Appendix B.3: -log(exp(-largest) - exp(-highest) + exp(-keys)), written so that no exponential overflows.
    difference = largest - keys + torch.log1p(-(keys - highest).exp())
    shifted = largest - difference.clamp(min=0) - torch.log1p((-difference.abs()).exp())
    return shifted.masked_fill(keys.isneginf() | largest.isneginf(), NEGATIVE_INFINITY)


def legal_log_probabilities(level: Level, nodes: Tensor, values: Tensor, renormalize: bool) -> Tensor:
    """Mask illegal codes: log-probabilities ``[R, M, W]`` of the candidates of ``nodes [R, M]``, -inf where illegal.

    Args:
        level: The edges below the nodes.
        nodes: Node of each beam, int64 ``[R, M]``.
        values: Log-probabilities of the whole codebook, float32 ``[R, M, size]``.
        renormalize: Whether the probabilities of the legal codes shall sum to one.
    """
    values = level.mask_illegal_codes(nodes, values)
    if renormalize:
        # Clamped: of a dead beam every candidate is -inf, and -inf minus -inf would be NaN.
        values = values - values.logsumexp(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float32).min)
    return values


def _num_survivors(level: Level, totals: Tensor, options: SearchOptions) -> int:
    """How many candidates of a row survive: never more than it has, nor than the next depth has nodes."""
    return min(beams_per_row(options), totals[0].numel(), len(level.code))


def _choose_most_probable(
    level: Level,
    depth: int,
    beams: Beams,
    values: Tensor,
    options: SearchOptions,
    prior: Prior | None,
    penalty: Tensor | None = None,
) -> Chosen:
    """The best of each row; ``penalty [R, size]`` is taken from the codes' scores."""
    values = legal_log_probabilities(level, beams.nodes, values, options.renormalize)
    if penalty is not None:
        # The penalty is per code; masking it like the logits brings it to the same candidates [R, M, W].
        negative = (-penalty).unsqueeze(1).expand(-1, beams.nodes.shape[1], -1)
        values = values + level.mask_illegal_codes(beams.nodes, negative)
    totals = values + beams.scores.unsqueeze(-1)
    num_survivors = _num_survivors(level, totals, options)
    if not options.length_penalty and prior is None:
        scores, numbers = totals.flatten(1).topk(num_survivors)
        return Chosen(numbers, scores, scores)
    keys = totals
    if options.length_penalty:
        keys = totals / codes_written(level, beams).clamp(min=1).unsqueeze(-1) ** options.length_penalty
    # The prior decides which beams survive but is not part of their keys: at the leaves it is added once, per item.
    with_prior = keys if prior is None else keys + prior.of_candidates(level, depth, beams.nodes)
    numbers = with_prior.flatten(1).topk(num_survivors).indices
    return Chosen(numbers, totals.flatten(1).gather(1, numbers), keys.flatten(1).gather(1, numbers))


def _choose_by_groups(
    level: Level, depth: int, beams: Beams, values: Tensor, options: SearchOptions, prior: Prior | None
) -> Chosen:
    """Group after group (Vijayakumar et al., "Diverse Beam Search", 2018, with Hamming diversity)."""
    num_groups = options.beam_groups
    # [B * G, M] -> G times [B, M]: the groups of a user are neighboring rows.
    groups = [
        Beams(*(field.unflatten(0, (-1, num_groups))[:, group] for field in beams)) for group in range(num_groups)
    ]
    group_values = values.unflatten(0, (-1, num_groups))
    times_used = torch.zeros_like(group_values[:, 0, 0])
    codebook_size = level.size - 1 if level.ends else level.size
    chosen_by_group = []
    for group, group_beams in enumerate(groups):
        penalty = options.diversity_penalty * times_used
        chosen = _choose_most_probable(level, depth, group_beams, group_values[:, group], options, prior, penalty)
        chosen_by_group.append(chosen)
        nodes = group_beams.nodes.gather(1, chosen.numbers // level.choices)
        _, codes = level.follow(nodes, chosen.numbers % level.choices)
        # An end edge is no code, so several groups may end at one level without a penalty.
        is_code = (codes < codebook_size) & ~chosen.keys.isneginf()
        times_used = times_used.scatter_add(1, codes, is_code.to(times_used.dtype))
    return Chosen(*(torch.stack(fields, dim=1).flatten(0, 1) for fields in zip(*chosen_by_group, strict=True)))


def _choose_without_replacement(
    level: Level, beams: Beams, values: Tensor, keys: Tensor, options: SearchOptions
) -> Chosen:
    """The beams with the largest perturbed log-probabilities (Kool et al. 2019, algorithm 1)."""
    totals = legal_log_probabilities(level, beams.nodes, values, renormalize=True) + beams.scores.unsqueeze(-1)
    perturbed = condition_on_largest(totals + _noise(level, beams.nodes, keys), beams.keys)
    largest, numbers = perturbed.flatten(1).topk(_num_survivors(level, totals, options))
    return Chosen(numbers, totals.flatten(1).gather(1, numbers), largest)


def _draw_from_nucleus(level: Level, beams: Beams, values: Tensor, keys: Tensor, options: SearchOptions) -> Chosen:
    """One code per sample among the most probable whose mass reaches ``top_p`` (Holtzman et al. 2020)."""
    values = legal_log_probabilities(level, beams.nodes, values, renormalize=True)
    nucleus = values
    if options.top_p < 1:
        ordered, order = values.sort(dim=-1, descending=True, stable=True)
        mass = ordered.exp()
        # Outside: the mass before this candidate already reaches top_p. The most probable one is always inside.
        outside = mass.cumsum(dim=-1) - mass >= options.top_p
        outside[..., 0] = False
        nucleus = values.masked_fill(torch.zeros_like(outside).scatter(-1, order, outside), NEGATIVE_INFINITY)
    # The argmax of log-probabilities plus Gumbel noise is a draw from the distribution (Gumbel-max).
    numbers = (nucleus + _noise(level, beams.nodes, keys)).flatten(1).argmax(dim=1, keepdim=True)
    scores = (values + beams.scores.unsqueeze(-1)).flatten(1).gather(1, numbers)
    return Chosen(numbers, scores, scores)


def _noise(level: Level, nodes: Tensor, keys: Tensor) -> Tensor:
    """A Gumbel number for each candidate of ``nodes [R, M]``, ``[R, M, W]``; -inf where illegal."""
    edges = nodes.unsqueeze(-1) * level.size + torch.arange(level.size, device=nodes.device)
    return level.mask_illegal_codes(nodes, gumbel(stream(keys[:, None, None], edges)))
