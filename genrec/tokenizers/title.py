"""Titles as identifiers: the first pieces of an item's title in a small vocabulary of parts of words.

Source: Hua et al., How to Index Item IDs for Recommendation Foundation Models, arXiv 2305.06569 (TID); the
vocabulary is byte-pair encoding (Sennrich et al., 2016) learned on the titles themselves.
"""

import json
import re
import unicodedata
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import polars as pl
from pydantic import Field

from genrec.config.ranges import Codes, Levels
from genrec.errors import DataError
from genrec.features.base import ItemFeatures
from genrec.tokenizers.base import TokenizerSettings
from genrec.tokenizers.parts.paths import fill_paths
from genrec.tokenizers.parts.texts import Missing, TextTokenizer, pack, read_column, refuse_empty, unpack
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

if TYPE_CHECKING:
    from genrec.data import Dataset

UNKNOWN = "[unk]"
MAX_LETTERS = 256


class TitleSettings(TokenizerSettings):
    """Settings of the tokenizer ``title``."""

    column: str = "title"
    vocabulary_size: Codes = Field(4000, ge=8, description="most pieces of words")
    num_levels: Levels = Field(8, description="pieces per item; longer titles are cut")
    missing_titles: Missing = Field("error", description="items without: error, or the code of an end at once")
    allow_collapse: bool = Field(True, description="accept few first codes: titles often begin with the same words")


class TitleTokenizer(TextTokenizer):
    """Byte-pair pieces of titles in lower case; a shorter title goes on with the code of its end.

    Letters that were never seen at fitting share one code.

    Args:
        settings: See :class:`TitleSettings`.
    """

    name: ClassVar[str] = "title"
    Settings: ClassVar[type[TokenizerSettings]] = TitleSettings
    reads: ClassVar[str] = "titles"
    settings: TitleSettings

    def __init__(self, settings: TitleSettings) -> None:
        super().__init__(settings)
        self.vocabulary: Tokenizer | None = None

    def _encode_texts(self, items: pl.DataFrame) -> np.ndarray:
        titles = self._read(items)
        pieces = [] if self.vocabulary is None else self.vocabulary.encode_batch(titles)
        length, end = self.settings.num_levels, self.level_sizes[0] - 1
        return fill_paths([title.ids[:length] for title in pieces], [end] * length)

    def _fit(self, dataset: "Dataset", features: ItemFeatures) -> None:
        titles = self._read(dataset.items)
        if not any(titles):
            raise DataError(
                "no item has a title",
                where=f"items, column {self.settings.column!r}",
                expected="words for most items",
                fix="set tokenizer.column, or use a tokenizer that reads vectors, such as rqkmeans",
            )
        size = self.settings.vocabulary_size
        trainer = trainers.BpeTrainer(
            vocab_size=size, special_tokens=[UNKNOWN], limit_alphabet=min(MAX_LETTERS, size // 2), show_progress=False
        )
        self.vocabulary = Tokenizer(models.BPE(unk_token=UNKNOWN))
        self.vocabulary.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        self.vocabulary.train_from_iterator(titles, trainer)
        # One code more than there are pieces: the end.
        self.level_sizes = (self.vocabulary.get_vocab_size() + 1,) * self.settings.num_levels

    def _read(self, items: pl.DataFrame) -> list[str]:
        column = read_column(items, self.settings.column, "tokenizer.column")
        titles = [plain_words(str(value or "")) for value in column.to_list()]
        if self.settings.missing_titles == "error":
            empty = [row for row, title in enumerate(titles) if not title]
            refuse_empty(items, empty, self.settings.column, "tokenizer.missing_titles")
        return titles

    def state(self) -> dict[str, np.ndarray]:
        """``vocabulary``: the pieces and how words are put together from them, packed."""
        return {} if self.vocabulary is None else {"vocabulary": pack(json.loads(self.vocabulary.to_str()))}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` gave."""
        self.vocabulary = Tokenizer.from_str(json.dumps(unpack(arrays["vocabulary"])))


def plain_words(title: str) -> str:
    """The words of a title in lower case without accents and punctuation, separated by single spaces."""
    letters = unicodedata.normalize("NFKD", title)
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return " ".join(re.findall(r"\w+", plain.lower()))
