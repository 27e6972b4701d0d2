"""Titles as semantic IDs: the first pieces of an item's title in a small vocabulary of parts of words.

Source: Hua et al., How to Index Item IDs for Recommendation Foundation Models, arXiv 2305.06569 (TID); the
vocabulary is byte-pair encoding (Sennrich et al., 2016) learned on the titles themselves.
"""

import json
import logging
import re
import unicodedata
from collections import Counter
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import polars as pl
from pydantic import Field

from genrec.config.ranges import Codes, Levels
from genrec.data.texts import text_of
from genrec.errors import DataError
from genrec.features.base import ItemFeatures
from genrec.features.words import words_without_accents
from genrec.tokenizers.base import TokenizerSettings
from genrec.tokenizers.parts.paths import fill_paths
from genrec.tokenizers.parts.texts import Missing, TextTokenizer, pack_json, read_column, refuse_empty, unpack_json
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

if TYPE_CHECKING:
    from genrec.data import Dataset

logger = logging.getLogger(__name__)

UNKNOWN = "[unk]"
# How titles are read, kept with the vocabulary: those without a number were read by another rule, which split words of
# other scripts than Latin, Greek and Cyrillic at their marks.
READING = 2


class TitleSettings(TokenizerSettings):
    """Settings of the tokenizer ``title``."""

    column: str = "title"
    vocabulary_size: Codes = Field(4000, ge=8, description="most pieces of words")
    num_levels: Levels = Field(8, description="pieces per item; longer titles are cut")
    missing_titles: Missing = Field("error", description="items without: error, or the code of an end at once")
    allow_collapse: bool = Field(True, description="accept few first codes: titles often begin with the same words")


class TitleTokenizer(TextTokenizer):
    """Byte-pair pieces of titles in lower case; a shorter title goes on with the code of its end.

    Letters that were never seen at fitting share one code, as do the rarest where the titles have more different
    letters than half the vocabulary.
    """

    name: ClassVar[str] = "title"
    Settings: ClassVar[type[TokenizerSettings]] = TitleSettings
    reads: ClassVar[str] = "titles"
    settings: TitleSettings

    def __init__(self, settings: TitleSettings) -> None:
        super().__init__(settings)
        self.reading = READING
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
        counts = Counter("".join(titles).replace(" ", ""))
        # The library would choose among letters that are equally frequent by chance.
        letters = sorted(counts, key=lambda letter: (-counts[letter], letter))[: size // 2]
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=[UNKNOWN],
            initial_alphabet=letters,
            limit_alphabet=len(letters),
            show_progress=False,
        )
        self.vocabulary = Tokenizer(models.BPE(unk_token=UNKNOWN))
        self.vocabulary.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        self.vocabulary.train_from_iterator(titles, trainer)
        self._report_unknown(titles)
        # One code more than there are pieces: the end.
        self.level_sizes = (self.vocabulary.get_vocab_size() + 1,) * self.settings.num_levels

    def _read(self, items: pl.DataFrame) -> list[str]:
        read_column(items, self.settings.column, "tokenizer.column")
        texts = items.select(text_of(items, self.settings.column)).to_series().to_list()
        titles = list(map(plain_words if self.reading > 1 else _plain_words_without_marks, texts))
        if self.settings.missing_titles == "error":
            empty = [row for row, title in enumerate(titles) if not title]
            refuse_empty(items, empty, self.settings.column, "tokenizer.missing_titles")
        return titles

    def _report_unknown(self, titles: list[str]) -> None:
        assert self.vocabulary is not None
        unknown = self.vocabulary.token_to_id(UNKNOWN)
        lost = [row for row, title in enumerate(self.vocabulary.encode_batch(titles)) if unknown in title.ids]
        if lost:
            logger.warning(
                "title: %d of %d titles have letters that are too rare for a code of their own, such as %.80r; "
                "a larger tokenizer.vocabulary_size has room for them",
                *(len(lost), len(titles), titles[lost[0]]),
            )

    def state(self) -> dict[str, np.ndarray]:
        """``vocabulary``: the pieces and how words are put together from them, packed; and how titles are read."""
        if self.vocabulary is None:
            return {}
        return {"vocabulary": pack_json(json.loads(self.vocabulary.to_str())), "reading": np.array([self.reading])}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` gave."""
        self.vocabulary = Tokenizer.from_str(json.dumps(unpack_json(arrays["vocabulary"])))
        self.reading = int(arrays["reading"][0]) if "reading" in arrays else 1


def plain_words(title: str) -> str:
    """The words of a title in lower case without accents and symbols, separated by single spaces."""
    return " ".join(words_without_accents(title))


def _plain_words_without_marks(title: str) -> str:
    """As titles were read before there was a number for it."""
    letters = unicodedata.normalize("NFKD", title)
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return " ".join(re.findall(r"\w+", plain.lower()))
