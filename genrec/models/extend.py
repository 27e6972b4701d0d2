"""A trained recommender for a larger catalogue: further items behind the old ones, nothing learned anew."""

from copy import deepcopy
from typing import cast

import numpy as np
import torch
from torch import Tensor

from genrec.errors import ConfigError
from genrec.models.base import GenerativeRecommender, GenrecConfig, RecommenderModel
from genrec.tokenizers.collisions import group_of
from genrec.tokenizers.index import ItemIndex


def extend_recommender(model: RecommenderModel, index: ItemIndex, features: np.ndarray | None) -> GenerativeRecommender:
    """The same recommender with the items that ``index`` has beyond its own.

    What it writes after a history of old items does not change: codes come from weights that stay as they are. Only
    what belongs to single items grows: codes, features, and id vectors, of which a new item gets the mean over the old
    items that share the longest beginning of its identifier.

    Args:
        model: Trained on the first N items of the index.
        index: The extended catalogue.
        features: float32 ``[n, F]`` of the n new items; needed where the model uses features.

    Raises:
        ConfigError: If the family keeps for every item what only training can give.
    """
    model = extendable(model)
    config = deepcopy(cast(GenrecConfig, model.config))
    config.num_items, config.index_fingerprint = index.num_items, index.fingerprint
    with torch.random.fork_rng(devices=[]):
        larger = type(model)(config)
    old = model.config.num_items
    state = model.state_dict()
    for name, tensor in larger.state_dict().items():
        if tensor.shape != state[name].shape:
            state[name] = torch.cat([state[name], _new_rows(name, state[name], index, old, features)])
    larger.load_state_dict(state)
    return larger.eval()


def extendable(model: RecommenderModel) -> GenerativeRecommender:
    """The model, if its family can take in new items.

    Raises:
        ConfigError: If it scores the items that it was trained on.
    """
    if isinstance(model, GenerativeRecommender):
        return model
    raise ConfigError(
        f"the recommender {model.config.family!r} learns a score for every item, and has none for new ones",
        expected="a family that writes identifiers, such as depth, decoder or seq2seq",
        fix="train again with the new items",
    )


def _new_rows(name: str, known: Tensor, index: ItemIndex, old: int, features: np.ndarray | None) -> Tensor:
    """What a tensor with one row per item gets for the items from number ``old`` on."""
    if name == "item_codes":
        return torch.tensor(index.codes[old:], dtype=known.dtype)
    if name.endswith("ids.weight"):
        return mean_of_relatives(known, index.codes, old)
    if name.endswith("features") and features is not None and features.shape[1] == known.shape[1]:
        return torch.tensor(features, dtype=known.dtype)
    raise ConfigError(
        f"the model keeps {name} for every item, and there is nothing to put there for new ones",
        expected="codes, features or id vectors",
        fix="train again with the new items",
    )


def mean_of_relatives(vectors: Tensor, codes: np.ndarray, old: int) -> Tensor:
    """For each new item the mean vector of the old items that share the longest beginning of its identifier.

    Args:
        vectors: ``[N, D]`` of the old items.
        codes: int ``[N + n, L]``, old items first.
        old: N.

    Returns:
        ``[n, D]``; the mean of all old items where even the first code is new.
    """
    means = vectors.new_empty(len(codes) - old, vectors.shape[1])
    left = np.ones(len(means), dtype=bool)
    for level in range(codes.shape[1], -1, -1):
        group = group_of(codes[:, :level])
        relatives, place = np.unique(group[:old], return_inverse=True)
        found = left & np.isin(group[old:], relatives)
        if not found.any():
            continue
        wanted = np.isin(group[:old], group[old:][found])
        rows, parts = torch.from_numpy(place.reshape(-1)[wanted]), vectors[torch.from_numpy(wanted)]
        sums = vectors.new_zeros(len(relatives), vectors.shape[1]).index_add_(0, rows, parts)
        counts = torch.bincount(rows, minlength=len(relatives)).unsqueeze(1)
        chosen = torch.from_numpy(np.searchsorted(relatives, group[old:][found]))
        means[torch.from_numpy(found)] = sums[chosen] / counts[chosen]
        left &= ~found
    return means
