"""Random numbers: the control whose semantic IDs have the shape of the others and mean nothing.

Source: Hua et al., How to Index Item IDs for Recommendation Foundation Models, arXiv 2305.06569 (RID).
"""

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from genrec.config.ranges import Codes, Levels
from genrec.errors import DataError
from genrec.features.base import ItemFeatures
from genrec.tokenizers.base import TokenizerSettings
from genrec.tokenizers.parts.paths import digits, digits_needed
from genrec.tokenizers.parts.transductive import TransductiveTokenizer

if TYPE_CHECKING:
    from genrec.data import Dataset

# Beyond this a drawn number would not fit an int64.
LARGEST_RANGE = 2**62


class RandomSettings(TokenizerSettings):
    """Settings of the tokenizer ``random``."""

    base: Codes = Field(256, ge=2, description="different digits")
    num_levels: Levels | None = Field(None, description="digits per item; as few as the catalogue needs if null")


class RandomTokenizer(TransductiveTokenizer):
    """Every item has a random number of its own, written in digits."""

    name: ClassVar[str] = "random"
    Settings: ClassVar[type[TokenizerSettings]] = RandomSettings
    reason: ClassVar[str] = "its numbers are drawn once, and say nothing of an item"
    settings: RandomSettings

    def _check_catalogue(self, dataset: "Dataset", features: ItemFeatures) -> None:
        base, length, items = self.settings.base, self._length(dataset.num_items), dataset.num_items
        needed = digits_needed(items, base)
        if not needed <= length or base**length > LARGEST_RANGE:
            raise DataError(
                f"{length} digits of base {base} make {base**length} numbers for {items} items",
                where="tokenizer.num_levels",
                expected=f"at least {items} and at most 2 ** 62 numbers",
                fix=f"set tokenizer.num_levels: {needed}, or leave it out",
            )

    def _name_items(self, dataset: "Dataset", features: ItemFeatures) -> np.ndarray:
        length = self._length(dataset.num_items)
        generator = np.random.default_rng(self.settings.seed)
        numbers = draw_distinct(self.settings.base**length, dataset.num_items, generator)
        return digits(numbers, self.settings.base, length)

    def _length(self, items: int) -> int:
        return self.settings.num_levels or digits_needed(items, self.settings.base)


def draw_distinct(largest: int, count: int, generator: np.random.Generator) -> np.ndarray:
    """Distinct numbers below ``largest`` in random order, each set and order equally likely.

    Args:
        largest: At least ``count``.
        count: N.
        generator: Source of chance.

    Returns:
        int64 ``[N]``.
    """
    if largest <= 4 * count:
        return generator.permutation(largest)[:count]
    # A permutation of a range that is far larger than the catalogue might not fit into memory.
    drawn = np.zeros(0, dtype=np.int64)
    while len(drawn) < count:
        drawn = np.concatenate([drawn, generator.integers(largest, size=count - len(drawn))])
        _, first = np.unique(drawn, return_index=True)
        drawn = drawn[np.sort(first)]
    return drawn
