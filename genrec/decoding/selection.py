"""Which continuations of a user's beams live: the likeliest, diverse groups of them, or random ones.

Each way is a function of one level: it sees the log-probabilities of all codes after each beam and says which
candidates follow. A *row* is a set of beams that compete: a user, a group of a user's beams, or one sample of a user.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from genrec.decoding.device_trie import Level
from genrec.decoding.guide import Guide
from genrec.decoding.noise import gumbel, stream, user_keys

NEGATIVE_INFINITY = float("-inf")
Mode = Literal["beam", "stochastic", "nucleus"]


class Options(NamedTuple):
    """How to search.

    Attributes:
        num_beams: M, all groups together; the number of samples with ``nucleus``.
        temperature: Divides the logits.
        renormalise: Let the probabilities of the legal codes of a step sum to one; sampling always does.
        length_penalty: p; identifiers of n codes are ranked by log p(codes) / n^p.
        mode: ``beam``, ``stochastic`` (without replacement) or ``nucleus`` (independent samples).
        beam_groups: G; the groups search one after another.
        diversity_penalty: Taken from a code's score for each beam of an earlier group that wrote it at this level.
        top_p: Mass of the legal codes that ``nucleus`` draws from.
        item_weight: w; items are ranked by log p(codes) + w log p(item), the latter by their item vectors.
        item_guidance: Choose beams by the item vectors too.
        seed: Of what is drawn.
    """

    num_beams: int
    temperature: float = 1.0
    renormalise: bool = False
    length_penalty: float = 0.0
    mode: Mode = "beam"
    beam_groups: int = 1
    diversity_penalty: float = 0.0
    top_p: float = 1.0
    item_weight: float = 0.0
    item_guidance: bool = True
    seed: int = 0

    @property
    def rows(self) -> int:
        """Rows per user."""
        return self.num_beams if self.mode == "nucleus" else self.beam_groups

    @property
    def width(self) -> int:
        """Most beams of a row."""
        return self.num_beams // self.rows


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
    """What lives: numbers ``slot * choices + candidate``, log-probabilities and keys, ``[R, M']`` each."""

    numbers: Tensor
    scores: Tensor
    keys: Tensor


Select = Callable[[Level, int, Beams, Tensor], Chosen]


def selection(options: Options, seeds: Tensor, guide: Guide | None = None) -> Select:
    """The way that the options ask for.

    Args:
        options: How to search.
        seeds: int64 ``[B]``, one per user, for what is drawn.
        guide: What the item vectors say of every node; beams are chosen by it too.

    Returns:
        A function of level, depth, beams and log-probabilities ``[R, M, size]`` of all codes of the level.
    """
    if options.mode == "beam" and options.beam_groups > 1:
        return lambda level, depth, beams, values: _choose_by_groups(level, depth, beams, values, options, guide)
    if options.mode == "beam":
        return lambda level, depth, beams, values: _choose_likeliest(level, depth, beams, values, options, guide)
    keys = user_keys(options.seed, seeds)
    if options.mode == "stochastic":
        return lambda level, depth, beams, values: _choose_without_replacement(
            level, beams, values, stream(keys, depth), options
        )
    samples = torch.arange(options.rows, device=seeds.device)
    own = stream(keys.unsqueeze(1), samples).flatten()
    return lambda level, depth, beams, values: _draw_from_nucleus(level, beams, values, stream(own, depth), options)


def codes_written(level: Level, beams: Beams) -> Tensor:
    """Codes of each beam after this level, int64 ``[R, M]``: an end edge, where there is one, is a node's only edge."""
    if not level.ends:
        return beams.lengths + 1
    edge = level.start[beams.nodes].long().clamp(max=len(level.code) - 1)
    return beams.lengths + (level.code[edge] < level.size - 1)


def condition_on_largest(keys: Tensor, largest: Tensor) -> Tensor:
    """Gumbel variables of each parent's children, given what their largest is.

    After Kool, van Hoof and Welling, "Stochastic Beams and Where to Find Them" (2019), section 4.1 and appendix B.3.

    Args:
        keys: Independent Gumbel variables, float32 ``[R, M, W]``; -inf where there is no child.
        largest: What the largest of each parent shall be, ``[R, M]``.
    """
    highest = keys.amax(dim=-1, keepdim=True)
    largest = largest.unsqueeze(-1)
    difference = largest - keys + torch.log1p(-(keys - highest).exp())
    shifted = largest - difference.clamp(min=0) - torch.log1p((-difference.abs()).exp())
    return shifted.masked_fill(keys.isneginf() | largest.isneginf(), NEGATIVE_INFINITY)


def legal(level: Level, nodes: Tensor, values: Tensor, renormalise: bool) -> Tensor:
    """Log-probabilities ``[R, M, W]`` of the candidates of ``nodes [R, M]``, perhaps renormalised over them."""
    values = level.candidates(nodes, values)
    if renormalise:
        values = values - values.logsumexp(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float32).min)
    return values


def _width(level: Level, values: Tensor, options: Options) -> int:
    return min(options.width, values[0].numel(), len(level.code))


def _choose_likeliest(
    level: Level,
    depth: int,
    beams: Beams,
    values: Tensor,
    options: Options,
    guide: Guide | None,
    penalty: Tensor | None = None,
) -> Chosen:
    """The best of each row; ``penalty [R, size]`` is taken from the codes' scores."""
    values = legal(level, beams.nodes, values, options.renormalise)
    if penalty is not None:
        negative = (-penalty).unsqueeze(1).expand(-1, beams.nodes.shape[1], -1)
        values = values + level.candidates(beams.nodes, negative)
    totals = values + beams.scores.unsqueeze(-1)
    width = _width(level, totals, options)
    if not options.length_penalty and guide is None:
        scores, numbers = totals.flatten(1).topk(width)
        return Chosen(numbers, scores, scores)
    keys = totals
    if options.length_penalty:
        keys = totals / codes_written(level, beams).clamp(min=1).unsqueeze(-1) ** options.length_penalty
    hopes = keys if guide is None else keys + guide.of_candidates(level, depth, beams.nodes)
    numbers = hopes.flatten(1).topk(width).indices
    return Chosen(numbers, *(part.flatten(1).gather(1, numbers) for part in (totals, keys)))


def _choose_by_groups(
    level: Level, depth: int, beams: Beams, values: Tensor, options: Options, guide: Guide | None
) -> Chosen:
    """Group after group (Vijayakumar et al., "Diverse Beam Search", 2018, with Hamming diversity)."""
    groups = options.beam_groups
    each = [Beams(*(part.unflatten(0, (-1, groups))[:, group] for part in beams)) for group in range(groups)]
    per_group = values.unflatten(0, (-1, groups))
    used = torch.zeros_like(per_group[:, 0, 0])
    codebook = level.size - 1 if level.ends else level.size
    found = []
    for group, own in enumerate(each):
        penalty = options.diversity_penalty * used
        chosen = _choose_likeliest(level, depth, own, per_group[:, group], options, guide, penalty)
        found.append(chosen)
        nodes = own.nodes.gather(1, chosen.numbers // level.choices)
        _, codes = level.follow(nodes, chosen.numbers % level.choices)
        # An end edge is no code: identifiers may end together.
        counted = (codes < codebook) & ~chosen.keys.isneginf()
        used = used.scatter_add(1, codes, counted.to(used.dtype))
    return Chosen(*(torch.stack(parts, dim=1).flatten(0, 1) for parts in zip(*found, strict=True)))


def _choose_without_replacement(level: Level, beams: Beams, values: Tensor, keys: Tensor, options: Options) -> Chosen:
    """The beams with the largest perturbed log-probabilities (Kool et al. 2019, algorithm 1)."""
    totals = legal(level, beams.nodes, values, True) + beams.scores.unsqueeze(-1)
    perturbed = condition_on_largest(totals + _noise(level, beams.nodes, keys), beams.keys)
    best, numbers = perturbed.flatten(1).topk(_width(level, totals, options))
    return Chosen(numbers, totals.flatten(1).gather(1, numbers), best)


def _draw_from_nucleus(level: Level, beams: Beams, values: Tensor, keys: Tensor, options: Options) -> Chosen:
    """One code per sample among the likeliest whose mass reaches ``top_p`` (Holtzman et al. 2020)."""
    values = legal(level, beams.nodes, values, True)
    nucleus = values
    if options.top_p < 1:
        ordered, places = values.sort(dim=-1, descending=True, stable=True)
        mass = ordered.exp()
        late = mass.cumsum(dim=-1) - mass >= options.top_p
        late[..., 0] = False
        nucleus = values.masked_fill(torch.zeros_like(late).scatter(-1, places, late), NEGATIVE_INFINITY)
    numbers = (nucleus + _noise(level, beams.nodes, keys)).flatten(1).argmax(dim=1, keepdim=True)
    scores = (values + beams.scores.unsqueeze(-1)).flatten(1).gather(1, numbers)
    return Chosen(numbers, scores, scores)


def _noise(level: Level, nodes: Tensor, keys: Tensor) -> Tensor:
    """A Gumbel number for each candidate of ``nodes [R, M]``, ``[R, M, W]``; -inf where illegal."""
    edges = nodes.unsqueeze(-1) * level.size + torch.arange(level.size, device=nodes.device)
    return level.candidates(nodes, gumbel(stream(keys[:, None, None], edges)))
