"""Log-probabilities of given items, differentiable, with every history read once for all of its candidates."""

import torch
from torch import Tensor

from genrec.decoding.session import refuse_longer_sessions
from genrec.models.base import Context, GenerativeRecommender
from genrec.models.layers.codes import NO_CODE
from genrec.models.side_inputs import NO_EXTRAS, Extras


def sequence_log_probs(
    model: GenerativeRecommender,
    items: Tensor,
    lengths: Tensor,
    candidates: Tensor,
    *,
    item_weight: float = 0.0,
    extras: Extras = NO_EXTRAS,
) -> Tensor:
    """log p(item | history) of some items per user: the sum over their codes under the full, unmasked softmax.

    Candidates are the beams of a teacher-forced search, so a history is encoded once however many there are.

    Args:
        model: Writes semantic IDs; gradients flow through it.
        items: Dense item ids, int64 ``[B, T]``, right-padded.
        lengths: Items per user, int64 ``[B]``; 0 allowed.
        candidates: Dense item ids, int64 ``[B, C]``, -1 where there is none; or lists of m items that are written as
            one sequence, ``[B, C, m]``, -1 after the end of a shorter one.
        item_weight: w; adds w log p(item) of the model's item vectors, as ``decoding.item_weight`` does in lists. The
            sum is then a score that differs from a log-probability by what is equal for all items of one history.
        extras: What else the model reads of the histories (:mod:`genrec.models.side_inputs`).

    Returns:
        float32 ``[B, C]``, natural logarithms; 0 where there is no candidate.

    Raises:
        ConfigError: If lists are longer than the model writes.
    """
    if candidates.dim() == 3:
        refuse_longer_sessions(candidates.shape[2], model.config.family, model.settings, where="lists of items")
    context = model.encode(items, lengths, **extras)
    known = candidates.clamp(min=0)
    codes = model.item_codes[known].long()
    if candidates.dim() == 3:
        codes = codes.masked_fill((candidates < 0).unsqueeze(-1), NO_CODE).flatten(2)
    if model.supports_parallel:
        levels = [logits.unsqueeze(1) for logits in model.all_code_logits(context)]
        total = sum_code_log_probs(levels, codes)
    else:
        total = sum_code_log_probs(_forced_logits(model, context, codes), codes)
    if item_weight:
        total = total + item_weight * model.item_log_probabilities(context, known)
    return total.masked_fill(~present(candidates), 0.0)


def present(candidates: Tensor) -> Tensor:
    """bool ``[B, C]``: where there is an item, or a list, among ``[B, C]`` or ``[B, C, m]``."""
    return (candidates if candidates.dim() == 2 else candidates[..., 0]) >= 0


def count_codes(model: GenerativeRecommender, candidates: Tensor) -> Tensor:
    """How many codes candidates ``[B, C]``, or lists ``[B, C, m]``, are written with: int64 ``[B, C]``, 0 = none.

    Semantic IDs may be of several lengths, and lists may be shorter than the longest one: fills are not counted.
    """
    counts = (model.item_codes != NO_CODE).sum(dim=1)[candidates.clamp(min=0)].masked_fill(candidates < 0, 0)
    return counts if candidates.dim() == 2 else counts.sum(dim=2)


def sum_code_log_probs(logits: list[Tensor], codes: Tensor) -> Tensor:
    """Sum over levels of the log-softmax of ``logits [B, 1 or C, K_l]`` at ``codes [B, C, L]``, in float32.

    The tail of a shorter semantic ID (-1) adds nothing.
    """
    total = torch.zeros(codes.shape[:2], dtype=torch.float32, device=codes.device)
    for level, values in enumerate(logits):
        # float64 stays: gradients are checked by finite differences in it.
        values = torch.log_softmax(values if values.dtype == torch.float64 else values.float(), dim=-1)
        code = codes[:, :, level]
        values = values.expand(-1, code.shape[1], -1).gather(2, code.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        total = total + values.masked_fill(code < 0, 0.0)
    return total


def path_logits(model: GenerativeRecommender, items: Tensor, lengths: Tensor, targets: Tensor) -> list[Tensor]:
    """Logits over every level's codebook along the semantic IDs of ``targets [B]``, ``[B, K_l]`` each.

    The distributions that guards compare: what the model would write at the root, after the target's first code ...
    """
    context = model.encode(items, lengths)
    if model.supports_parallel:
        return model.all_code_logits(context)
    codes = model.item_codes[targets].long().unsqueeze(1)
    return [values[:, 0] for values in _forced_logits(model, context, codes)]


def _forced_logits(model: GenerativeRecommender, context: Context, codes: Tensor) -> list[Tensor]:
    """Logits of each level given the codes before it: ``[B, 1, K]`` at the first, then ``[B, C, K]``."""
    users, candidates, levels = codes.shape
    # After the end of a shorter semantic ID a list goes on; models of equal semantic IDs know no such place.
    written = codes if model.config.variable_length and levels > model.num_levels else codes.clamp(min=0)
    start = torch.zeros(users, candidates, dtype=torch.int64, device=codes.device)
    own = torch.arange(candidates, device=codes.device).expand(users, -1)
    logits = [model.next_code_logits(context, written[:, :1, :0])]
    for level in range(1, levels):
        logits.append(model.next_code_logits(context, written[:, :, :level], start if level == 1 else own))
    return logits
