"""Lists of distinct items that a model itself would write: for hard negatives, self-play and the groups of GRPO."""

import numpy as np
import torch
from torch import Tensor

from genrec.config import DecodingConfig
from genrec.data.histories import Histories, pad_histories
from genrec.decoding import generate_lists, sample_items, trie_of
from genrec.models.base import GenerativeRecommender


def best_lists(
    model: GenerativeRecommender, histories: Histories, size: int, *, decoding: DecodingConfig
) -> np.ndarray:
    """The ``size`` best items of each history by beam search, int64 ``[R, size]``, best first; -1 where there is none.

    Args:
        model: Writes identifiers.
        histories: R rows.
        size: Items per list.
        decoding: How lists are written.
    """
    wide = decoding.model_copy(update={"num_beams": max(size, decoding.num_beams)})
    lists, _ = generate_lists(model, histories, decoding=wide, top_k=size)
    return lists.astype(np.int64)


def sample_lists(
    model: GenerativeRecommender, histories: Histories, size: int, *, decoding: DecodingConfig, seed: int
) -> np.ndarray:
    """``size`` items of each history drawn without replacement, int64 ``[R, size]``, the likeliest first; -1 = none.

    What a history draws depends on the seed and its items, not on its neighbours.

    Args:
        model: Writes identifiers.
        histories: R rows.
        size: Items per list.
        decoding: Temperature, batch size, and whether items of the history are left out.
        seed: Of the draws.
    """
    found = np.full((len(histories), size), -1, dtype=np.int64)
    by_length = np.argsort(histories.lengths, kind="stable")
    for rows in np.split(by_length, range(decoding.batch_size, len(by_length), decoding.batch_size)):
        items, lengths = (
            torch.from_numpy(part).to(model.device) for part in pad_histories(histories, rows, model.max_history)
        )
        found[rows] = sample_batch(model, items, lengths, size, decoding=decoding, seed=seed).cpu().numpy()
    return found


@torch.no_grad()
def sample_batch(
    model: GenerativeRecommender,
    items: Tensor,
    lengths: Tensor,
    size: int,
    *,
    decoding: DecodingConfig,
    seed: int,
) -> Tensor:
    """``size`` distinct items per history by stochastic beam search, int64 ``[B, size]``, the likeliest first.

    Args:
        model: Writes identifiers; in eval mode afterwards.
        items: Dense item ids, int64 ``[B, T]``, right-padded.
        lengths: int64 ``[B]``.
        size: Items per list; -1 fills shorter ones.
        decoding: Temperature, and whether items of the history are left out.
        seed: Of the draws.
    """
    model.eval()
    exclude = None
    if decoding.exclude_seen:
        position = torch.arange(items.shape[1], device=items.device)
        exclude = items.masked_fill(position >= lengths.unsqueeze(1), -1)
    drawn = sample_items(
        model,
        trie_of(model),
        items,
        lengths,
        size,
        seed=seed,
        exclude=exclude,
        temperature=decoding.temperature,
    )
    order = drawn.log_probs.argsort(dim=1, descending=True, stable=True)
    return drawn.items.gather(1, order)
