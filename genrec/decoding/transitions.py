"""Transitions: item-to-item links added to the scores of a model: ``decoding.transition_weight``.

    score(j) = what ranks item j without them + w log q(j)
    q(j) = exp(z(j)) / sum over all items of exp(z)
    z(j) = (s(j) - mean of s) / standard deviation of s, over all items; 0 where no item is linked
    s(j) = sum over the last n items i of the history of decay ** age(i) * link(i, j), the newest item having age 0

The links are those of the baseline ``transition``: what came next in other histories, two steps, similar texts. Every
item, linked or not, has a log q, which adds to log-probabilities; for one user it differs from z by a constant. The
scale of s depends on how many items are linked and how strongly; that of z does not, so that one weight suits users
with few and with many links.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from pydantic import Field
from scipy import sparse
from torch import Tensor

from genrec.artifacts import read_json, write_json
from genrec.artifacts.reading import reading
from genrec.config import DecodingConfig, Section, parse_settings
from genrec.config.ranges import HistoryLength, Share, Weight
from genrec.data.histories import Histories
from genrec.errors import ArtifactError, ConfigError
from genrec.features.base import load_arrays, save_arrays
from genrec.models.base import RecommenderModel

LINKS_FILE = "transitions.safetensors"
DESCRIPTION_FILE = "transitions.json"
FILES = (LINKS_FILE, DESCRIPTION_FILE)
FIX = "restore the folder, or train again"


class _Description(Section):
    """What ``transitions.json`` holds."""

    decay: Share = Field(..., gt=0)
    last_n: HistoryLength | None
    weight: Weight
    settings: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Transitions:
    """Links between the items of a catalogue, learned from its training part.

    Attributes:
        links: float32 ``[N, N]``, the strength of each link, at least 0.
        decay: Weight of an item of a history over that of the next newer one, in (0, 1].
        last_n: Only this many items of a history count; None takes all that the model reads.
        weight: w that was best on validation, for ``transition_weight: auto``.
        settings: How the links were made.
    """

    links: sparse.csr_array
    decay: float
    last_n: int | None
    weight: float
    settings: dict[str, Any]

    @property
    def num_items(self) -> int:
        """N."""
        return int(self.links.shape[0])

    @property
    def description(self) -> dict[str, Any]:
        """How they were made and are used, JSON-able."""
        return {"decay": self.decay, "last_n": self.last_n, "weight": self.weight, "settings": self.settings}

    def log_scores(self, items: Tensor, lengths: Tensor) -> Tensor:
        """log q of every item, float32 ``[B, N]`` on the device of the histories.

        Args:
            items: Dense item ids, int64 ``[B, T]``, oldest first, right-padded.
            lengths: Items per user, int64 ``[B]``; with 0 all items have the same.
        """
        rows, counts = items.cpu().numpy(), lengths.cpu().numpy()
        mask = np.arange(rows.shape[1]) < counts[:, None]
        offsets = np.concatenate([[0], counts.cumsum()])
        histories = Histories(np.arange(len(rows)), offsets, rows[mask].astype(np.int32))
        strengths = history_weights(histories, self.num_items, self.decay, self.last_n) @ self.links
        scores = torch.from_numpy(strengths.toarray()).double()
        spread = scores.std(dim=1, correction=0, keepdim=True)
        scores = (scores - scores.mean(dim=1, keepdim=True)) / torch.where(spread > 0, spread, 1.0)
        return scores.log_softmax(dim=1).float().to(items.device)

    def extended(self, count: int) -> "Transitions":
        """With ``count`` further items at the end, which have no links."""
        shape = (self.num_items + count, self.num_items + count)
        starts = np.pad(self.links.indptr, (0, count), mode="edge")
        return replace(self, links=sparse.csr_array((self.links.data, self.links.indices, starts), shape=shape))

    def without(self, kept: np.ndarray) -> "Transitions":
        """Of the items where ``kept [N]`` is True alone."""
        return replace(self, links=sparse.csr_array(self.links[kept][:, kept]))

    def save(self, folder: Path) -> None:
        """Write ``transitions.safetensors`` and ``transitions.json``; 8 bytes per link.

        Raises:
            ArtifactError: If the folder cannot be written or the disk is full.
        """
        arrays = {"starts": self.links.indptr.astype(np.int64), "items": self.links.indices.astype(np.int32)}
        save_arrays(folder / LINKS_FILE, {**arrays, "strengths": self.links.data.astype(np.float32)})
        write_json(folder / DESCRIPTION_FILE, self.description)

    @classmethod
    def load(cls, folder: Path, num_items: int) -> "Transitions | None":
        """What a model folder has of them; None if nothing.

        Raises:
            ArtifactError: If one of the files is missing or damaged, or they are of another catalogue.
        """
        present = [name for name in FILES if (folder / name).is_file()]
        if not present:
            return None
        if len(present) < len(FILES):
            raise ArtifactError(
                f"{present[0]} is there alone", where=str(folder), expected=" and ".join(FILES), fix=FIX
            )
        with reading(folder):
            description = parse_settings(
                _Description, read_json(folder / DESCRIPTION_FILE), where=str(folder / FILES[1])
            )
            arrays = load_arrays(folder / LINKS_FILE, ("starts", "items", "strengths"))
            starts, items, strengths = (arrays[name] for name in ("starts", "items", "strengths"))
            if not _are_links(starts, items, strengths, num_items):
                raise ArtifactError(
                    f"{LINKS_FILE} holds no links between the items of the model",
                    where=str(folder / LINKS_FILE),
                    expected=f"sorted links of {num_items} items to each other, finite and not negative",
                    fix=FIX,
                )
            links = sparse.csr_array((strengths, items, starts), shape=(num_items, num_items))
        return cls(links, description.decay, description.last_n, description.weight, description.settings)


_transitions: WeakKeyDictionary[RecommenderModel, Transitions] = WeakKeyDictionary()


def use_transitions(model: RecommenderModel, transitions: Transitions | None) -> None:
    """Let ``decoding.transition_weight`` add these links to the scores of a model; None takes them away."""
    if transitions is None:
        _transitions.pop(model, None)
    else:
        _transitions[model] = transitions


def added_scores(model: RecommenderModel, decoding: DecodingConfig, items: Tensor, lengths: Tensor) -> Tensor | None:
    """w log q of every item, float32 ``[B, N]``; None where w is 0.

    Args:
        model: With its links (:func:`use_transitions`), unless w is 0.
        decoding: For ``transition_weight``.
        items: Dense item ids, int64 ``[B, T]``, right-padded.
        lengths: Items per user, int64 ``[B]``.

    Raises:
        ConfigError: If the model has no links.
    """
    log_probs = log_scores(model, decoding, items, lengths)
    return None if log_probs is None else log_probs.mul_(transition_weight(model, decoding))


def log_scores(model: RecommenderModel, decoding: DecodingConfig, items: Tensor, lengths: Tensor) -> Tensor | None:
    """log q of every item, float32 ``[B, N]``; None where w is 0. Arguments as in :func:`added_scores`."""
    return _transitions[model].log_scores(items, lengths) if transition_weight(model, decoding) else None


def transition_weight(model: RecommenderModel, decoding: DecodingConfig) -> float:
    """w; with ``auto`` what was best on validation.

    Raises:
        ConfigError: If it is not 0 and the model has no links.
    """
    wanted = decoding.transition_weight
    if wanted == 0:
        return 0.0
    if model not in _transitions:
        raise ConfigError(
            "the model has no transitions",
            where="decoding.transition_weight",
            expected=f"a model folder with {LINKS_FILE}",
            fix="set decoding.transition_weight: 0, or make a copy of the model with them: genrec add-transitions",
        )
    return _transitions[model].weight if wanted == "auto" else wanted


def without_transitions(decoding: DecodingConfig) -> DecodingConfig:
    """The same search by the model alone."""
    return decoding.model_copy(update={"transition_weight": 0.0})


def history_weights(histories: Histories, num_items: int, decay: float, last_n: int | None) -> sparse.csr_array:
    """decay ** age of each of the last items of each history, float32 ``[R, N]``; repeated items add up.

    Args:
        histories: R rows.
        num_items: N.
        decay: In (0, 1].
        last_n: How many items of a row count; None for all.
    """
    if last_n is not None:
        counts = np.minimum(histories.lengths, last_n)
        histories = histories.slice(histories.users, histories.offsets[1:] - counts, counts)
    age = np.repeat(histories.offsets[1:], histories.lengths) - 1 - np.arange(len(histories.items))
    weights = (decay ** age.astype(np.float64)).astype(np.float32)
    return sparse.csr_array((weights, histories.items, histories.offsets), shape=(len(histories), num_items))


def _are_links(starts: np.ndarray, items: np.ndarray, strengths: np.ndarray, num_items: int) -> bool:
    types = (starts.dtype, items.dtype, strengths.dtype) == (np.int64, np.int32, np.float32)
    if not types or starts.shape != (num_items + 1,) or items.ndim != 1 or items.shape != strengths.shape:
        return False
    if starts[0] != 0 or starts[-1] != len(items) or (np.diff(starts) < 0).any():
        return False
    if not len(items):
        return True
    rising = np.diff(items.astype(np.int64)) > 0
    # Between the last item of a row and the first of the next one nothing is asked.
    borders = starts[(starts > 0) & (starts < len(items))] - 1
    rising[borders] = True
    finite = bool(np.isfinite(strengths).all()) and bool((strengths >= 0).all())
    return bool(rising.all()) and finite and int(items.min()) >= 0 and int(items.max()) < num_items
