"""What all encoders share that learn item vectors from interactions.

A collaborative vector says what users did. Where no user did anything there is nothing to say, and the vector is zeros:
encoders, fused tokenizers and ``genrec add-items`` all take zeros for that, and zeros stay zeros under any scaling.
"""

import logging
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import polars as pl
from pydantic import Field

from genrec.config import Section
from genrec.config.ranges import Seed, Width
from genrec.errors import DataError
from genrec.features.base import FeatureEncoder, ItemFeatures, check_rows, unit_rows

if TYPE_CHECKING:
    from genrec.data import Dataset


logger = logging.getLogger(__name__)


class CollaborativeSettings(Section):
    """Settings that every encoder of interactions has."""

    dim: Width = 64
    normalise: bool = Field(False, description="scale every vector to length 1")
    seed: Seed = 42


class CollaborativeEncoder(FeatureEncoder):
    """Sees the training part of the interactions only and has no vectors for new items.

    Items without a training interaction have zeros, see :func:`zero_unknown`.

    Args:
        settings: The family's validated settings.
    """

    settings: CollaborativeSettings
    encodes_new_items: ClassVar[bool] = False

    @abstractmethod
    def embed(self, edges: np.ndarray, num_users: int, num_items: int) -> np.ndarray:
        """Learn the items' vectors.

        Args:
            edges: int64 ``[2, E]``, distinct pairs of user and item, sorted.
            num_users: Number of users.
            num_items: N.

        Returns:
            float32 ``[N, D]``; rows of items without an edge are not used.
        """

    def fit(self, dataset: "Dataset") -> ItemFeatures:
        """Learn from ``dataset.train()``.

        Raises:
            DataError: If there is no training interaction.
        """
        where = f"features {self.name}"
        edges = training_edges(dataset, where)
        values, unknown = zero_unknown(self.embed(edges, dataset.num_users, dataset.num_items), dataset, self.name)
        if self.settings.normalise:
            values = unit_rows(values)
        check_rows(values, dataset.item_ids, where=where, unknown=unknown)
        described = {
            "encoder": self.name,
            "edges": int(edges.shape[1]),
            "width": values.shape[1],
            "counts": {"items_without_interactions": int(unknown.sum())},
        }
        return ItemFeatures(values, dataset.item_ids, described)

    def transform(self, items: pl.DataFrame) -> np.ndarray:
        """Refuse: new items have no interactions.

        Raises:
            DataError: Always.
        """
        raise DataError(
            f"{self.name} has no vectors for {len(items)} new items",
            where="features.encoder",
            expected="an encoder that reads the items themselves",
            fix="use lexical, sentence or matrix, or train again with interactions of the new items",
        )

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Nothing: the vectors are in the features, and nothing else can be encoded."""
        return {}, {}

    def restore(self, values: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Nothing to take back."""


def zero_unknown(values: np.ndarray, dataset: "Dataset", name: str) -> tuple[np.ndarray, np.ndarray]:
    """Put zeros in the rows of items without a training interaction, and say how many there are.

    Args:
        values: float32 ``[N, D]``.
        dataset: The items and their interactions.
        name: The encoder, for the message.

    Returns:
        float32 ``[N, D]``, and bool ``[N]``, True where there are zeros for lack of interactions.
    """
    unknown = dataset.train_popularity() == 0
    if unknown.any():
        logger.warning(
            "%s: %d of %d items are without a training interaction, such as %r: their vectors are zeros",
            *(name, int(unknown.sum()), len(values), dataset.item_ids[int(unknown.argmax())]),
        )
    return np.where(unknown[:, None], np.float32(0), values), unknown


def training_edges(dataset: "Dataset", where: str) -> np.ndarray:
    """The graph of the training part; a repeated interaction is one edge.

    Args:
        dataset: Whose training part is read.
        where: Who asks, for the message.

    Returns:
        int64 ``[2, E]``, distinct pairs of dense user and item, sorted by user, then item.

    Raises:
        DataError: If there is no training interaction.
    """
    histories = dataset.train()
    users = np.repeat(histories.users, histories.lengths)
    edges = np.unique(np.stack([users, histories.items.astype(np.int64)]), axis=1)
    if not edges.shape[1]:
        raise DataError(
            "there is no training interaction",
            where=where,
            expected="users with histories",
            fix="use features.encoder: lexical or sentence, which need none",
        )
    return edges
