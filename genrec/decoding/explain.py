"""Explanations of listed items: the semantic ID of an item and the log-probability of each of its codes."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from genrec.config import SearchOptions
from genrec.decoding.beam import log_probabilities
from genrec.errors import ConfigError
from genrec.models.base import Context, GenerativeRecommender, RecommenderModel
from genrec.models.side_inputs import NO_EXTRAS, Extras

DEFAULT = SearchOptions()


class Explanation(NamedTuple):
    """What the scores of ``items [B, k]`` are made of.

    Attributes:
        codes: Semantic IDs, int64 ``[B, k, L]``; -1 after the end of a shorter one and where there is no item.
        code_log_probs: log p of every code given the history and the codes before it, float32 ``[B, k, L]``; 0 where
            there is no code.
        item_log_probs: log p of the items by their item vectors, float32 ``[B, k]``; None where no item weight is used.
    """

    codes: Tensor
    code_log_probs: Tensor
    item_log_probs: Tensor | None


def writes_semantic_ids(model: RecommenderModel) -> GenerativeRecommender:
    """The model, if it writes semantic IDs that can be explained.

    Raises:
        ConfigError: If it scores items as wholes.
    """
    if isinstance(model, GenerativeRecommender):
        return model
    raise ConfigError(
        f"a {model.config.family!r} model scores items as wholes: there is no semantic ID to explain",
        where="--explain",
        expected="a model that writes semantic IDs, such as depth, decoder or seq2seq",
        fix="leave out --explain",
    )


@torch.no_grad()
def explain_items(
    model: RecommenderModel,
    items: Tensor,
    lengths: Tensor,
    explained: Tensor,
    options: SearchOptions = DEFAULT,
    *,
    session_size: int = 1,
    extras: Extras = NO_EXTRAS,
) -> Explanation:
    """Score given items code by code, without trie or beams.

    The probabilities of a level are over its whole codebook, so that ``code_log_probs.sum(-1) + item_weight *
    item_log_probs`` is the score of a search with the same temperature that does not renormalize and adds no
    transitions; in sessions the sum of this over the items so far.

    Args:
        model: Writes semantic IDs; in eval mode.
        items: Histories, int64 ``[B, T]``, right-padded.
        lengths: Items per user, int64 ``[B]``.
        explained: Items to explain, int64 ``[B, k]``; -1 where there is none.
        options: Of the search; ``temperature`` and ``item_weight`` are read.
        session_size: m; the first m items were written as one sequence, then the next m, and so on.
        extras: What else the model reads of the histories (:mod:`genrec.models.side_inputs`).

    Raises:
        ConfigError: If the model scores items as wholes.
    """
    writer = writes_semantic_ids(model)
    context = writer.encode(items, lengths, **extras)
    list_length, levels = explained.shape[1], writer.num_levels
    # [B, k] -> [B, S, m]: the last session is filled up with -1.
    sessions = pad(explained, (0, -list_length % session_size), value=-1).unflatten(1, (-1, session_size))
    codes = writer.item_codes.long()[sessions.clamp(min=0)].masked_fill((sessions < 0).unsqueeze(-1), -1).flatten(2)
    # In a session the code after the end of a shorter semantic ID is -1, which the model knows; a single item needs any
    # valid code there, because nothing is scored after it.
    written = codes if writer.config.variable_length and session_size > 1 else codes.clamp(min=0)
    log_probs_by_step = []
    for step in range(session_size * levels):
        values = log_probabilities(_logits_after(writer, context, written[:, :, :step]), options.temperature)
        values = values.expand(-1, codes.shape[1], -1)
        log_probs_by_step.append(values.gather(2, codes[:, :, step : step + 1].clamp(min=0))[..., 0])
    code_log_probs = torch.stack(log_probs_by_step, dim=2).masked_fill(codes < 0, 0.0)
    by_item = writer.item_log_probabilities(context, explained.clamp(min=0)) if options.item_weight else None
    # [B, S, m * L] -> [B, S * m, L], then without what filled the last session.
    codes, code_log_probs = (table.unflatten(2, (-1, levels)).flatten(1, 2) for table in (codes, code_log_probs))
    return Explanation(codes[:, :list_length], code_log_probs[:, :list_length], by_item)


def _logits_after(model: GenerativeRecommender, context: Context, prefix: Tensor) -> Tensor:
    """Logits ``[B, k, K]`` (k = 1 where all items share them) of the code after ``prefix [B, k, l]``."""
    batch, width, level = prefix.shape
    if model.supports_parallel:
        return model.all_code_logits(context)[level].unsqueeze(1)
    if level == 0:
        return model.next_code_logits(context, prefix[:, :1])
    # At the first code all items share one beam; after it each continues from that beam, then from its own.
    beam_index = torch.arange(width, device=prefix.device) if level > 1 else prefix.new_zeros(width)
    return model.next_code_logits(context, prefix, beam_index.expand(batch, -1))
