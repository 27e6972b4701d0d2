"""Lists of distinct items that a model itself would write: for hard negatives, self-play and the groups of GRPO.

Lists for many histories, and what they are worth, are made block by block, and processes that run together share the
blocks: all of them have all lists afterwards, and these do not depend on how many processes there are.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from genrec.alignment.prompts import Prompts
from genrec.alignment.rewards import ListWorth, Reward
from genrec.config import DecodingConfig, SearchOptions
from genrec.data.histories import Histories, pad_histories
from genrec.decoding import generate_lists, sample_items, session_size_of, trie_of, write_sessions
from genrec.decoding.generate import block_rows, count_blocks
from genrec.distributed.peers import share_blocks
from genrec.distributed.world import World
from genrec.models.base import GenerativeRecommender


def by_blocks(rows: int, work: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """What some work makes of every row, ``[R, ...]``, each process doing some of the blocks.

    Args:
        rows: R.
        work: From the numbers of a block's rows, int64 ``[n]``, to an array ``[n, ...]`` that depends on them alone.

    Raises:
        GenrecError: If the work raises it, here or in another process.
    """
    blocks = [np.asarray(block_rows(number, rows)) for number in range(count_blocks(rows))]
    return share_blocks(World.current(), blocks, work, "the lists")


def reward_lists(reward: Reward, prompts: Prompts, lists: np.ndarray) -> np.ndarray:
    """What every place of ``lists [P, k]`` is worth, float ``[P, k]``; a reward sees one block of lists at a time.

    Args:
        reward: Of each list by itself.
        prompts: Where the lists begin.
        lists: int64 ``[P, k]``; -1 = none.
    """
    return by_blocks(len(lists), lambda rows: np.asarray(reward(prompts.select(rows), lists[rows])))


def best_lists(
    model: GenerativeRecommender, histories: Histories, size: int, *, decoding: DecodingConfig
) -> np.ndarray:
    """The ``size`` best items of each history by beam search, int64 ``[R, size]``, best first; -1 where there is none.

    Args:
        model: Writes semantic IDs.
        histories: R rows.
        size: Items per list.
        decoding: How lists are written.
    """
    wide = decoding.model_copy(update={"num_beams": max(size, decoding.num_beams)})

    def write(rows: np.ndarray) -> np.ndarray:
        lists, _ = generate_lists(model, histories.select(rows), decoding=wide, top_k=size)
        return lists.astype(np.int64)

    return by_blocks(len(histories), write)


def sample_lists(
    model: GenerativeRecommender, histories: Histories, size: int, *, decoding: DecodingConfig, seed: int
) -> np.ndarray:
    """``size`` items of each history drawn without replacement, int64 ``[R, size]``, the likeliest first; -1 = none.

    What a history draws depends on the seed and its items, not on its neighbors.

    Args:
        model: Writes semantic IDs.
        histories: R rows.
        size: Items per list.
        decoding: Temperature, batch size, and whether items of the history are left out.
        seed: Of the draws.
    """

    def write(rows: np.ndarray) -> np.ndarray:
        own = histories.select(rows)
        found = np.full((len(own), size), -1, dtype=np.int64)
        by_length = np.argsort(own.lengths, kind="stable")
        for part in np.split(by_length, range(decoding.batch_size, len(by_length), decoding.batch_size)):
            padded = pad_histories(own, part, model.max_history)
            items, lengths = (torch.from_numpy(values).to(model.device) for values in padded)
            found[part] = sample_batch(model, items, lengths, size, decoding=decoding, seed=seed).cpu().numpy()
        return found

    return by_blocks(len(histories), write)


def best_sessions(
    model: GenerativeRecommender, histories: Histories, size: int, *, decoding: DecodingConfig
) -> np.ndarray:
    """The ``size`` most probable lists of each history that are one sequence, int64 ``[R, size, m]``; -1 = none.

    Args:
        model: Writes sessions.
        histories: R rows.
        size: N, lists per history.
        decoding: In mode ``session``: items per list, temperature, whether items of the history are left out.

    Raises:
        ConfigError: If the model does not write such sessions.
    """
    length = session_size_of(decoding, model.config.family, model.settings)

    def write(rows: np.ndarray) -> np.ndarray:
        own = histories.select(rows)
        found = np.full((len(own), size, length), -1, dtype=np.int64)
        by_length = np.argsort(own.lengths, kind="stable")
        for part in np.split(by_length, range(decoding.batch_size, len(by_length), decoding.batch_size)):
            padded = pad_histories(own, part, model.max_history)
            items, lengths = (torch.from_numpy(values).to(model.device) for values in padded)
            found[part] = session_batch(model, items, lengths, size, decoding=decoding).cpu().numpy()
        return found

    return by_blocks(len(histories), write)


@torch.no_grad()
def session_batch(
    model: GenerativeRecommender, items: Tensor, lengths: Tensor, size: int, *, decoding: DecodingConfig
) -> Tensor:
    """The ``size`` most probable lists per history that are one sequence, int64 ``[B, size, m]``; -1 = none.

    Args:
        model: Writes sessions; in eval mode afterwards.
        items: Dense item ids, int64 ``[B, T]``, right-padded.
        lengths: int64 ``[B]``.
        size: Lists per history.
        decoding: See :func:`best_sessions`.

    Raises:
        ConfigError: If the model does not write such sessions.
    """
    model.eval()
    options = SearchOptions(num_beams=size, temperature=decoding.temperature, renormalize=decoding.renormalize)
    length = session_size_of(decoding, model.config.family, model.settings)
    exclude = _seen(items, lengths) if decoding.exclude_seen else items[:, :0]
    context = model.encode(items, lengths)
    found = write_sessions(model, trie_of(model), context, options, length, exclude).items
    return pad(found, (0, 0, 0, size - found.shape[1]), value=-1)


def score_sessions(reward: ListWorth, prompts: Prompts, sessions: np.ndarray) -> np.ndarray:
    """What each of ``sessions [P, N, m]`` is worth, float ``[P, N]``; a reward sees one block of lists at a time."""
    return by_blocks(len(sessions), lambda rows: whole_worth(reward, prompts.select(rows), sessions[rows]))


def whole_worth(reward: ListWorth, prompts: Prompts, sessions: np.ndarray) -> np.ndarray:
    """What each of ``sessions [P, N, m]`` of P prompts is worth, float ``[P, N]``."""
    return np.stack([reward.whole(prompts, lists) for lists in sessions.transpose(1, 0, 2)], axis=1)


def _seen(items: Tensor, lengths: Tensor) -> Tensor:
    """What is read of each history, int64 ``[B, T]``; -1 after its end."""
    position = torch.arange(items.shape[1], device=items.device)
    return items.masked_fill(position >= lengths.unsqueeze(1), -1)


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
        model: Writes semantic IDs; in eval mode afterwards.
        items: Dense item ids, int64 ``[B, T]``, right-padded.
        lengths: int64 ``[B]``.
        size: Items per list; -1 fills shorter ones.
        decoding: Temperature, and whether items of the history are left out.
        seed: Of the draws.
    """
    model.eval()
    exclude = _seen(items, lengths) if decoding.exclude_seen else None
    options = SearchOptions(num_beams=size, temperature=decoding.temperature, mode="stochastic")
    # Seeds of updates have 32 bits, more than the range of seeds in a recipe, which a copy does not check.
    options = options.model_copy(update={"seed": seed})
    drawn = sample_items(model, trie_of(model), items, lengths, options, exclude=exclude)
    order = drawn.log_probs.argsort(dim=1, descending=True, stable=True)
    return drawn.items.gather(1, order)
