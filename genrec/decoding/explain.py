"""Why an item stands in a list: its identifier, and the probability of every code of it."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from genrec.decoding.beam import log_probabilities
from genrec.errors import ConfigError
from genrec.models.base import Context, GenerativeRecommender, RecommenderModel
from genrec.models.extras import NO_EXTRAS, Extras


class Explanation(NamedTuple):
    """What the scores of ``items [B, k]`` are made of.

    Attributes:
        codes: Identifiers, int64 ``[B, k, L]``; -1 behind the end of a shorter one and where there is no item.
        code_log_probs: log p of every code given the history and the codes before it, float32 ``[B, k, L]``; 0 where
            there is no code.
        item_log_probs: log p of the items by their item vectors, float32 ``[B, k]``; None where no item weight is used.
    """

    codes: Tensor
    code_log_probs: Tensor
    item_log_probs: Tensor | None


def writes_identifiers(model: RecommenderModel) -> GenerativeRecommender:
    """The model, if it writes identifiers that can be explained.

    Raises:
        ConfigError: If it scores items as wholes.
    """
    if isinstance(model, GenerativeRecommender):
        return model
    raise ConfigError(
        f"a {model.config.family!r} model scores items as wholes: there is no identifier to explain",
        where="--explain",
        expected="a model that writes identifiers, such as depth, decoder or seq2seq",
        fix="leave out --explain",
    )


@torch.no_grad()
def explain_items(
    model: RecommenderModel,
    items: Tensor,
    lengths: Tensor,
    found: Tensor,
    *,
    temperature: float = 1.0,
    item_weight: float = 0.0,
    session_size: int = 1,
    extras: Extras = NO_EXTRAS,
) -> Explanation:
    """Score given items code by code, without trie or beams.

    The probabilities of a level are over its whole codebook, so that ``code_log_probs.sum(-1) + item_weight *
    item_log_probs`` is the score of a search with the same temperature that does not renormalise and adds no
    transitions; in sessions the sum of this over the items so far.

    Args:
        model: Writes identifiers; in eval mode.
        items: Histories, int64 ``[B, T]``, right-padded.
        lengths: Items per user, int64 ``[B]``.
        found: Items to explain, int64 ``[B, k]``; -1 where there is none.
        temperature: Divides the logits.
        item_weight: Weight that the search gave to item-level probabilities.
        session_size: m; the first m items were written as one sequence, then the next m, and so on.
        extras: What else the model reads of the histories (:mod:`genrec.models.extras`).

    Raises:
        ConfigError: If the model scores items as wholes.
    """
    writer = writes_identifiers(model)
    context = writer.encode(items, lengths, **extras)
    listed, levels = found.shape[1], writer.num_levels
    sessions = pad(found, (0, -listed % session_size), value=-1).unflatten(1, (-1, session_size))
    codes = writer.item_codes.long()[sessions.clamp(min=0)].masked_fill((sessions < 0).unsqueeze(-1), -1).flatten(2)
    # Inside a session models know what stands behind the end of a shorter identifier.
    written = codes if writer.config.variable_length and session_size > 1 else codes.clamp(min=0)
    parts = []
    for place in range(session_size * levels):
        values = log_probabilities(_logits_after(writer, context, written[:, :, :place]), temperature)
        values = values.expand(-1, codes.shape[1], -1)
        parts.append(values.gather(2, codes[:, :, place : place + 1].clamp(min=0))[..., 0])
    code_log_probs = torch.stack(parts, dim=2).masked_fill(codes < 0, 0.0)
    by_item = writer.item_log_probabilities(context, found.clamp(min=0)) if item_weight else None
    codes, code_log_probs = (part.unflatten(2, (-1, levels)).flatten(1, 2) for part in (codes, code_log_probs))
    return Explanation(codes[:, :listed], code_log_probs[:, :listed], by_item)


def _logits_after(model: GenerativeRecommender, context: Context, prefix: Tensor) -> Tensor:
    """Logits ``[B, k, K]`` (k = 1 where all items share them) of the code after ``prefix [B, k, l]``."""
    batch, width, level = prefix.shape
    if model.supports_parallel:
        return model.all_code_logits(context)[level].unsqueeze(1)
    if level == 0:
        return model.next_code_logits(context, prefix[:, :1])
    # Behind the first code every item continues from the one slot that all share, then from its own.
    slots = torch.arange(width, device=prefix.device) if level > 1 else prefix.new_zeros(width)
    return model.next_code_logits(context, prefix, slots.expand(batch, -1))
