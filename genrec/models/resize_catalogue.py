"""A trained recommender for more items, for fewer, or for those of another catalogue: nothing is learned anew."""

from copy import deepcopy
from typing import cast

import numpy as np
import torch
from torch import Tensor

from genrec.errors import ArtifactError, ConfigError
from genrec.models.base import GenerativeRecommender, GenrecConfig, RecommenderModel
from genrec.tokenizers.collisions import group_of
from genrec.tokenizers.index import ItemIndex


def extend_recommender(model: RecommenderModel, index: ItemIndex, features: np.ndarray | None) -> GenerativeRecommender:
    """The same recommender with the items that ``index`` has beyond its own.

    What it writes after a history of old items does not change: codes come from weights that stay as they are. Only
    what belongs to single items grows: codes, features, and id vectors, of which a new item gets the mean over the old
    items that share the longest beginning of its semantic ID.

    Args:
        model: Trained on the first N items of the index.
        index: The extended catalogue.
        features: float32 ``[n, F]`` of the n new items; needed where the model uses features.

    Raises:
        ConfigError: If the family keeps for every item what only training can give.
    """
    model = extendable(model)
    larger = _of_size(model, index)
    old = model.config.num_items
    state = model.state_dict()
    for name, tensor in larger.state_dict().items():
        if tensor.shape != state[name].shape:
            state[name] = torch.cat([state[name], _new_rows(name, state[name], index, old, features)])
    larger.load_state_dict(state)
    return larger.eval()


def shrink_recommender(model: RecommenderModel, index: ItemIndex, kept: np.ndarray) -> GenerativeRecommender:
    """The same recommender without some items; what it writes after a history of the others does not change.

    Args:
        model: Trained on N items.
        index: The catalogue without them.
        kept: bool ``[N]``, False for items that are gone.

    Raises:
        ConfigError: If the family keeps for every item what only training can give.
    """
    model = extendable(model)
    smaller = _of_size(model, index)
    rows, state = torch.from_numpy(np.flatnonzero(kept)), model.state_dict()
    smaller.load_state_dict(state | {name: state[name][rows] for name in _per_item(model)})
    return smaller.eval()


def _of_size(model: GenerativeRecommender, index: ItemIndex) -> GenerativeRecommender:
    """A model of the same family for the items of an index, its weights not yet those of the model."""
    config = deepcopy(cast(GenrecConfig, model.config))
    config.num_items, config.index_fingerprint = index.num_items, index.fingerprint
    with torch.random.fork_rng(devices=[]):
        return model.new_for(config)


def replace_catalogue(model: RecommenderModel, index: ItemIndex, features: np.ndarray | None) -> GenerativeRecommender:
    """The same recommender for another catalogue, of which it may never have seen an item; on the model's device.

    Args:
        model: Trained on any catalogue, without weights that belong to single items.
        index: The other catalogue, named by the tokenizer that the model was trained with.
        features: float32 ``[N, F]``, vectors of the other catalogue by the encoder that the model was trained with;
            needed where the model uses features.

    Raises:
        ConfigError: If the family keeps for every item what only training can give.
        ArtifactError: If the semantic IDs are not of the model's codebooks.
    """
    model = extendable(model)
    known = cast(GenrecConfig, model.config)
    if list(index.level_sizes) != model.level_sizes or (index.variable_length and not known.variable_length):
        raise ArtifactError(
            "these semantic IDs are not of the codebooks that the model was trained with",
            expected=f"{model.level_sizes} codes, found {list(index.level_sizes)}",
            fix="name the items with the tokenizer in the model's folder",
        )
    values = {"item_codes": index.codes, "features": features}
    state = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    for name in _per_item(model):
        value = values.get(name.rpartition(".")[2])
        if value is None or value.shape != (index.num_items, state[name].shape[1]):
            raise ConfigError(
                f"the recommender {known.family!r} keeps {name} for every item that it was trained on",
                expected="a model that knows items by codes and features only, such as recgpt",
                fix="train with recommender.use_ids: false, or with recommender.name: recgpt",
            )
        state[name] = torch.tensor(value, dtype=state[name].dtype)
    config = deepcopy(known)
    config.num_items, config.index_fingerprint = index.num_items, index.fingerprint
    with torch.random.fork_rng(devices=[]):
        other = model.new_for(config)
    other.load_state_dict(state)
    return other.to(model.device).eval()  # type: ignore[arg-type]


def _per_item(model: GenerativeRecommender) -> list[str]:
    """Names of the tensors with one row per item: those that are larger in a model of one item more."""
    config = deepcopy(cast(GenrecConfig, model.config))
    config.num_items += 1
    with torch.device("meta"):
        larger = type(model)(config)
    sizes = {name: tensor.shape for name, tensor in larger.state_dict().items()}
    return [name for name, tensor in model.state_dict().items() if tensor.shape != sizes[name]]


def extendable(model: RecommenderModel) -> GenerativeRecommender:
    """The model, if its family can take in new items.

    Raises:
        ConfigError: If it scores the items that it was trained on.
    """
    if isinstance(model, GenerativeRecommender):
        return model
    raise ConfigError(
        f"the recommender {model.config.family!r} learns a score for every item, and has none for new ones",
        expected="a family that writes semantic IDs, such as depth, decoder or seq2seq",
        fix="train again with the new items",
    )


def _new_rows(name: str, known: Tensor, index: ItemIndex, old: int, features: np.ndarray | None) -> Tensor:
    """What a tensor with one row per item gets for the items from number ``old`` on."""
    if name == "item_codes":
        return torch.tensor(index.codes[old:], dtype=known.dtype)
    if name.endswith("ids.weight"):
        return mean_of_prefix_siblings(known, index.codes, old)
    if name.endswith("features") and features is not None and features.shape[1] == known.shape[1]:
        return torch.tensor(features, dtype=known.dtype)
    raise ConfigError(
        f"the model keeps {name} for every item, and there is nothing to put there for new ones",
        expected="codes, features or id vectors",
        fix="train again with the new items",
    )


def mean_of_prefix_siblings(vectors: Tensor, codes: np.ndarray, old: int) -> Tensor:
    """For each new item the mean vector of the old items that share the longest beginning of its semantic ID.

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
