"""Families whose semantic IDs are a property of the fitted catalogue and not of an item that is used alone."""

import hashlib
import json
from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from genrec.errors import ConfigError, DataError
from genrec.features.base import ItemFeatures
from genrec.tokenizers.base import ItemTokenizer, TokenizerSettings

if TYPE_CHECKING:
    from genrec.data import Dataset


class TransductiveTokenizer(ItemTokenizer):
    """Keeps the codes of the items it was fitted on; a family says only how it names a whole catalogue.

    Args:
        settings: The family's validated settings.
    """

    encodes_new_items = False
    reason: ClassVar[str]

    def __init__(self, settings: TokenizerSettings) -> None:
        super().__init__(settings)
        self.codes = np.zeros((0, 0), dtype=np.int32)
        self.catalogue = np.zeros(0, dtype=np.uint8)

    @abstractmethod
    def _name_items(self, dataset: "Dataset", features: ItemFeatures) -> np.ndarray:
        """Codes int ``[N, L]`` of the catalogue; a level has as many codes as its largest code asks for."""

    def _fit(self, dataset: "Dataset", features: ItemFeatures) -> None:
        self.codes = np.ascontiguousarray(self._name_items(dataset, features), dtype=np.int32)
        self.catalogue = _digest(dataset.item_ids)
        self.level_sizes = tuple((self.codes.max(axis=0) + 1).tolist())

    def encode_catalogue(self, dataset: "Dataset", features: ItemFeatures) -> np.ndarray:
        """The codes that :meth:`fit` gave, int32 ``[N, L]``.

        Raises:
            ConfigError: If the tokenizer has not been fitted.
            DataError: If the catalogue has other items, or in another order.
        """
        self._check_fitted()
        if not np.array_equal(self.catalogue, _digest(dataset.item_ids)):
            raise DataError(
                f"the {dataset.num_items} items are not those that the tokenizer {self.name} was fitted on",
                where="items",
                expected=f"the same {len(self.codes)} items in the same order",
                fix="fit the tokenizer on this data set",
            )
        return self.codes

    def _encode(self, values: np.ndarray) -> np.ndarray:
        raise ConfigError(
            f"the tokenizer {self.name} cannot name items that it was not fitted on: {self.reason}",
            where="tokenizer.name",
            expected="a family that names items by their vectors or texts, such as rqkmeans or semantic-path",
            fix="fit the tokenizer again on the whole catalogue, or choose such a family",
        )

    def state(self) -> dict[str, np.ndarray]:
        """``codes`` int32 ``[N, L]`` and ``catalogue``, the SHA-256 of the item ids as 32 bytes."""
        return {"codes": self.codes, "catalogue": self.catalogue}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` gave."""
        self.codes, self.catalogue = arrays["codes"], arrays["catalogue"]


def _digest(item_ids: list[str]) -> np.ndarray:
    return np.frombuffer(hashlib.sha256(json.dumps(item_ids).encode()).digest(), dtype=np.uint8)
