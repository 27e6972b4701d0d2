"""Sequential numbers: items are numbered as they first appear in the training histories, user after user.

Items of one history get neighboring numbers, and numbers of one neighborhood share their leading digits.

Source: Hua et al., How to Index Item IDs for Recommendation Foundation Models, arXiv 2305.06569 (SID, with its four
orders of users).
"""

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from genrec.config.ranges import Codes
from genrec.errors import DataError
from genrec.features.base import ItemFeatures
from genrec.tokenizers.base import TokenizerSettings
from genrec.tokenizers.parts.paths import digits, digits_needed
from genrec.tokenizers.parts.transductive import TransductiveTokenizer

if TYPE_CHECKING:
    from genrec.data import Dataset
    from genrec.data.histories import Histories

UserOrder = Literal["time", "random", "short-to-long", "long-to-short"]


class SequentialSettings(TokenizerSettings):
    """Settings of the tokenizer ``sequential``."""

    user_order: UserOrder = Field(
        "time", description="whose histories are walked first; time is that of the first item"
    )
    base: Codes = Field(100, ge=2, description="different digits; 100 makes pieces of two decimal digits")


class SequentialTokenizer(TransductiveTokenizer):
    """Numbers in the order of first appearance, written in digits; items of no training history come last."""

    name: ClassVar[str] = "sequential"
    Settings: ClassVar[type[TokenizerSettings]] = SequentialSettings
    reason: ClassVar[str] = "a new item occurs in no training history"
    settings: SequentialSettings

    def _name_items(self, dataset: "Dataset", features: ItemFeatures) -> np.ndarray:
        histories = dataset.train()
        if not len(histories.items):
            raise DataError(
                "there is no training interaction",
                where="tokenizer sequential",
                expected="users with histories",
                fix="use a tokenizer that reads only the items, such as rqkmeans or semantic-path",
            )
        order = order_users(histories, self.settings.user_order, self.settings.seed)
        numbers = number_by_appearance(histories, order, dataset.num_items)
        return digits(numbers, self.settings.base, digits_needed(dataset.num_items, self.settings.base))


def order_users(histories: "Histories", user_order: UserOrder, seed: int) -> np.ndarray:
    """Rows of histories in the order in which they are walked, int64 ``[U]``; ties by position.

    Args:
        histories: The training part.
        user_order: See :class:`SequentialSettings`.
        seed: Of the order ``random``.

    Raises:
        DataError: With ``time``, if there are no timestamps.
    """
    if user_order == "random":
        return np.random.default_rng(seed).permutation(len(histories))
    if user_order == "time":
        if histories.timestamps is None:
            raise DataError(
                "the interactions have no timestamps",
                where="tokenizer.user_order: time",
                expected="a timestamp for every interaction",
                fix="set tokenizer.user_order: random, short-to-long or long-to-short",
            )
        return np.argsort(histories.timestamps[histories.offsets[:-1]], kind="stable")
    sign = 1 if user_order == "short-to-long" else -1
    return np.argsort(sign * histories.lengths, kind="stable")


def number_by_appearance(histories: "Histories", order: np.ndarray, num_items: int) -> np.ndarray:
    """Number items as they first appear when histories are walked in an order; the others follow by position.

    Args:
        histories: The training part.
        order: Rows of histories.
        num_items: N.

    Returns:
        int64 ``[N]``, a permutation of 0 to N - 1.
    """
    walked = np.concatenate([histories.select(order).items, np.arange(num_items)])
    items, first = np.unique(walked, return_index=True)
    numbers = np.empty(num_items, dtype=np.int64)
    numbers[items[np.argsort(first)]] = np.arange(num_items)
    return numbers
