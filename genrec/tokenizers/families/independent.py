"""One code per item and nothing shared: the control that says what shared codes are worth.

Source: Hua et al., How to Index Item IDs for Recommendation Foundation Models, arXiv 2305.06569 (IID).
"""

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from genrec.features.base import ItemFeatures
from genrec.tokenizers.base import TokenizerSettings
from genrec.tokenizers.parts.transductive import TransductiveTokenizer

if TYPE_CHECKING:
    from genrec.data import Dataset


class IndependentTokenizer(TransductiveTokenizer):
    """Every item has one code that no other item has."""

    name: ClassVar[str] = "independent"
    Settings: ClassVar[type[TokenizerSettings]] = TokenizerSettings
    reason: ClassVar[str] = "a new item would need a code of its own, which no model has learned"

    def _name_items(self, dataset: "Dataset", features: ItemFeatures) -> np.ndarray:
        return np.arange(dataset.num_items)[:, None]
