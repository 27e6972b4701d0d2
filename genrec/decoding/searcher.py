"""Searcher: a model with its trie, its precision and its search options, asked for lists batch after batch.

Design choices:

- Tries and copies in another precision are cached per model, by weak reference, and made again when a tensor of the
  model changes (its version counter). Price: an in-place change that hides from the counter is not noticed.
- One class chooses the algorithm: a matrix product for item scorers, a table for parallel heads, beam search or an
  exhaustive walk for models that write codes one after another.
"""

import copy
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from genrec.config import DecodingConfig, SearchOptions
from genrec.decoding.device_trie import DeviceTrie
from genrec.decoding.exhaustive import exhaustive_search, score_catalogue
from genrec.decoding.ranking import RankedItems, top_items
from genrec.decoding.search import beam_search
from genrec.decoding.session import list_by_sessions, session_size_of
from genrec.decoding.transitions import added_scores, log_scores, transition_weight
from genrec.errors import ArtifactError, ConfigError
from genrec.models.base import GenerativeRecommender, ItemScorer, RecommenderModel
from genrec.models.side_inputs import NO_EXTRAS, Extras
from genrec.tokenizers.index import ItemIndex
from genrec.tokenizers.trie import build_trie

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

_tries: WeakKeyDictionary[GenerativeRecommender, tuple[tuple[int, torch.device], DeviceTrie]] = WeakKeyDictionary()
_copies: WeakKeyDictionary[RecommenderModel, tuple[list[object], RecommenderModel]] = WeakKeyDictionary()


def trie_of(model: GenerativeRecommender) -> DeviceTrie:
    """The trie of a model's code table on the model's device; built once and again when either changes."""
    state = _state_of(model)
    cached = _tries.get(model)
    if cached is None or cached[0] != state:
        trie = build_trie(model.item_codes.cpu().numpy(), model.level_sizes)
        cached = (state, DeviceTrie(trie, model.item_codes.device))
        _tries[model] = cached
    return cached[1]


def use_index(model: GenerativeRecommender, index: ItemIndex) -> None:
    """Let :func:`trie_of` answer with the index's trie, which may be mapped from a file and orders shared leaves.

    Args:
        model: On its device, with the code table of the index.
        index: What the model was trained with.

    Raises:
        ArtifactError: If the model was trained with another index.
    """
    if index.fingerprint != model.config.index_fingerprint:
        raise ArtifactError(
            "the trie does not match the model",
            expected=f"the item index {model.config.index_fingerprint[:16]}..., found {index.fingerprint[:16]}...",
            fix="give the model its own tokenizer folder",
        )
    _tries[model] = (_state_of(model), DeviceTrie(index.trie, model.item_codes.device))


def in_precision(model: RecommenderModel, precision: str) -> RecommenderModel:
    """The model in another floating-point type: itself, or a copy that is made again when a weight changes.

    Args:
        model: Any family.
        precision: ``fp32`` leaves the model as it is; ``bf16`` and ``fp16`` are faster where the hardware has them.
    """
    dtype = DTYPES[precision]
    if precision == "fp32" or model.dtype == dtype:
        return model
    # PyTorch counts in-place changes of a tensor in _version: the copy is current while no counter has moved.
    state: list[object] = [dtype, *((tensor._version, tensor.data_ptr()) for tensor in _tensors(model))]
    cached = _copies.get(model)
    if cached is None or cached[0] != state:
        converted = copy.deepcopy(model).to(dtype)  # type: ignore[arg-type]
        cached = (state, converted.eval())
        _copies[model] = cached
    return cached[1]


class Searcher:
    """A model, how to search it, and what it may recommend: made once, asked per batch.

    Models that score every item at once, by item or by parallel heads, are always exact: the settings of beams and
    samples are for models that write codes one after another.

    Args:
        model: Any family, in eval mode.
        decoding: Beams, temperature and so on; ``batch_size`` is not read here.
        allowed: bool ``[N]``, False for items that no user may get; None allows all.

    Raises:
        ConfigError: If the filter does not fit the catalogue, the model cannot write such sessions, or transitions are
            wanted and it has none.
    """

    def __init__(self, model: RecommenderModel, decoding: DecodingConfig, allowed: np.ndarray | None = None) -> None:
        transition_weight(model, decoding)
        # Links between items are registered for the model as given, not for its copy in another precision.
        self.full_precision_model, self.decoding = model, decoding
        self.model = in_precision(model, decoding.precision)
        self.allowed = _allowed_tensor(model, allowed)
        self.session_size = items_per_sequence(model, decoding)
        self.trie: DeviceTrie | None = None
        if isinstance(model, GenerativeRecommender) and not model.supports_parallel:
            trie = trie_of(model)
            self.trie = trie if allowed is None else trie.filtered(allowed)

    @torch.no_grad()
    def search(
        self,
        items: Tensor,
        lengths: Tensor,
        top_k: int,
        exclude: Tensor | None = None,
        seeds: Tensor | None = None,
        extras: Extras = NO_EXTRAS,
    ) -> RankedItems:
        """The k best items of each user.

        Args:
            items: Dense item ids on the model's device, int64 ``[B, T]``, right-padded.
            lengths: Items per user, int64 ``[B]``; 0 allowed.
            top_k: k.
            exclude: Items that a user must not get, int64 ``[B, E]``; -1 fills shorter rows.
            seeds: int64 ``[B]``, one per user, where lists are drawn; from their histories if None.
            extras: What else the model reads of the histories (:mod:`genrec.models.side_inputs`).

        Raises:
            NonFiniteLogitsError: Naming the first row and step with NaN or infinite logits.
        """
        model, decoding, trie = self.model, self.decoding, self.trie
        added = added_scores(self.full_precision_model, decoding, items, lengths)
        if isinstance(model, ItemScorer):
            scores = model.score_items(items, lengths, **extras)
            return top_items(_sum(scores, added), top_k, exclude, self.allowed)
        if not isinstance(model, GenerativeRecommender):
            raise TypeError(f"{type(model).__name__} neither writes semantic IDs nor scores items")
        if decoding.mode == "items":
            every_item = torch.arange(model.config.num_items, device=items.device).expand(len(items), -1)
            scores = model.item_log_probabilities(model.encode(items, lengths, **extras), every_item)
            return top_items(_sum(scores, added), top_k, exclude, self.allowed)
        batch: dict[str, Any] = {"top_k": top_k, "exclude": exclude, "extras": extras}
        if trie is None:
            return score_catalogue(model, items, lengths, decoding, allowed=self.allowed, added=added, **batch)
        if decoding.mode == "exhaustive":
            return exhaustive_search(model, trie, items, lengths, decoding, added=added, **batch)
        options = enough_beams(decoding, top_k)
        if decoding.mode == "session":
            return list_by_sessions(model, trie, items, lengths, options, session_size=self.session_size, **batch)
        return beam_search(model, trie, items, lengths, options, seeds=seeds, added=added, **batch)

    def transition_log_probs(self, items: Tensor, lengths: Tensor, found: Tensor) -> Tensor | None:
        """log q of ``found [B, k]`` by transitions, float32; None where they take no part."""
        log_probs = log_scores(self.full_precision_model, self.decoding, items, lengths)
        return None if log_probs is None else log_probs.gather(1, found.clamp(min=0))


def items_per_sequence(model: RecommenderModel, decoding: DecodingConfig) -> int:
    """How many items of a list a model writes as one sequence: 1 but in mode ``session``.

    Raises:
        ConfigError: If it does not write so many.
    """
    if isinstance(model, GenerativeRecommender):
        return session_size_of(decoding, model.config.family, model.settings)
    return 1


def enough_beams(options: SearchOptions, top_k: int) -> SearchOptions:
    """The same search with at least ``top_k`` beams in every group, so that lists are full."""
    groups = options.beam_groups
    return options.model_copy(update={"num_beams": groups * max(options.num_beams // groups, top_k)})


def _sum(scores: Tensor, added: Tensor | None) -> Tensor:
    return scores if added is None else scores.float() + added


def _state_of(model: GenerativeRecommender) -> tuple[int, torch.device]:
    return model.item_codes._version, model.item_codes.device


def _tensors(model: RecommenderModel) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _allowed_tensor(model: RecommenderModel, allowed: np.ndarray | None) -> Tensor | None:
    if allowed is None:
        return None
    allowed = np.asarray(allowed)
    if allowed.shape != (model.config.num_items,) or allowed.dtype != np.bool_:
        raise ConfigError(
            f"the filter is {allowed.dtype} of shape {allowed.shape}",
            expected=f"one bool per item, {model.config.num_items} in all",
        )
    return torch.from_numpy(allowed).to(model.device)
