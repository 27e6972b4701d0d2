"""Words of the items' texts: TF-IDF of words and word pairs, reduced by a truncated SVD (latent semantic analysis).

Needs no download and no interactions. Source: Deerwester et al., Indexing by Latent Semantic Analysis, 1990.
"""

import logging
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import polars as pl
from pydantic import Field
from scipy.sparse import csr_array
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from genrec.config import Section
from genrec.config.ranges import Count, Few, Seed, Width
from genrec.errors import DataError, first_rows
from genrec.features.base import FeatureEncoder, ItemFeatures, check_rows, unit_rows
from genrec.features.spelling import borrowed_weights
from genrec.features.text import MissingText, read_texts
from genrec.features.words import words_of

if TYPE_CHECKING:
    from genrec.data import Dataset

logger = logging.getLogger(__name__)

# How texts are read, kept with what was learned: 1 is the rule of scikit-learn (runs of two or more letters, digits or
# underscores, no marks), which encoders without a number were fitted with; 2 is genrec.features.words.
READING = 2
# Directions this much weaker than the strongest are rounding noise of a catalogue with few independent words.
SMALLEST_SINGULAR_VALUE = 1e-6
# Items that keep less of their length than this show that the direction which the solver leaves out is needed.
LEAST_KEPT = 0.8


class LexicalSettings(Section):
    """Settings of the encoder ``lexical``."""

    columns: tuple[str, ...] | None = Field(None, description="columns to read; every text column if null")
    dim: Width = Field(384, description="columns at most; fewer when the texts have fewer independent words")
    max_ngram: Few = Field(2, le=4, description="longest run of words that counts as a term")
    min_items: Count = Field(2, description="a term must occur in this many items")
    max_terms: Count = Field(200_000, description="keep the most frequent terms")
    normalize: bool = Field(True, description="scale every vector to length 1")
    missing_text: MissingText = Field("error", description="items without text: error, or zero vectors")
    seed: Seed = 42


class LexicalEncoder(FeatureEncoder):
    """TF-IDF (sublinear, words and word pairs) and truncated SVD.

    An item of which no word occurs in enough items counts as the known words that are spelled like its own; how many
    such items there are is logged and kept.
    """

    name: ClassVar[str] = "lexical"
    Settings: ClassVar[type[Section]] = LexicalSettings
    settings: LexicalSettings

    def __init__(self, settings: LexicalSettings) -> None:
        super().__init__(settings)
        self.reading = READING
        self.terms: list[str] = []
        self.inverse_frequency = np.zeros(0, dtype=np.float32)
        self.components = np.zeros((0, 0), dtype=np.float32)

    def fit(self, dataset: "Dataset") -> ItemFeatures:
        """Learn terms and directions from all items' texts; interactions are not read."""
        texts = self._read(dataset.items)
        weights = self._fit_terms(texts)
        self._fit_directions(weights)
        values, unknown = self._encode(texts)
        self._refuse_nothing(values, texts, dataset.item_ids)
        zeros_wanted = self.settings.missing_text == "zero"
        check_rows(values, dataset.item_ids, where="features lexical", constant_rows=not zeros_wanted)
        self._report(values, texts, unknown, dataset.item_ids)
        described = {
            "encoder": self.name,
            "terms": len(self.terms),
            "width": values.shape[1],
            "counts": {
                "items_without_text": sum(not text for text in texts),
                "items_without_known_words": len(unknown),
            },
        }
        return ItemFeatures(values, dataset.item_ids, described)

    def transform(self, items: pl.DataFrame) -> np.ndarray:
        """Encode new items by their texts; words never seen at fitting count only where an item has no other."""
        texts = self._read(items)
        values, unknown = self._encode(texts)
        self._report(values, texts, unknown, items["item_id"].cast(pl.String).to_list())
        return values

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """How texts are read, terms, their inverse frequencies ``[V]`` and directions ``[D, V]``."""
        values = {"terms": self.terms, "reading": self.reading}
        return values, {"inverse_frequency": self.inverse_frequency, "components": self.components}

    def restore(self, values: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` gave."""
        self.terms, self.reading = values["terms"], values.get("reading", 1)
        self.inverse_frequency, self.components = arrays["inverse_frequency"], arrays["components"]

    def _vectorizer(self, **vocabulary: Any) -> TfidfVectorizer:
        if self.reading > 1:
            vocabulary |= {"tokenizer": words_of, "token_pattern": None, "lowercase": False}
        ngrams = (1, self.settings.max_ngram)
        return TfidfVectorizer(ngram_range=ngrams, sublinear_tf=True, dtype=np.float32, **vocabulary)

    def _fit_terms(self, texts: list[str]) -> csr_array:
        wanted = min(self.settings.min_items, len(texts))
        vectorizer = self._vectorizer(min_df=wanted, max_features=self.settings.max_terms)
        try:
            weights = vectorizer.fit_transform(texts)
        except ValueError as error:
            raise DataError(
                f"no term occurs in {wanted} items or more",
                where="features lexical",
                expected="texts that share words",
                fix="lower features.min_items, or use another encoder",
            ) from error
        self.terms = vectorizer.get_feature_names_out().tolist()
        self.inverse_frequency = vectorizer.idf_.astype(np.float32)
        return csr_array(weights)

    def _fit_directions(self, weights: csr_array) -> None:
        # The randomized solver needs fewer directions than the matrix has rows and columns.
        dim = min(self.settings.dim, min(weights.shape) - 1)
        if dim < 1:
            raise DataError(
                f"the texts of {weights.shape[0]} items have {weights.shape[1]} terms",
                where="features lexical",
                expected="at least two items and two terms",
                fix="give longer texts, or lower features.min_items",
            )
        svd = TruncatedSVD(dim, n_iter=5, random_state=self.settings.seed).fit(weights)
        directions, strength = svd.components_, svd.singular_values_
        # Known items have rows of length 1.
        kept = np.linalg.norm(weights @ directions.T, axis=1)[np.diff(weights.indptr) > 0]
        if dim < self.settings.dim and kept.min() < LEAST_KEPT:
            directions, strength = all_directions(weights)
        strong = strength > SMALLEST_SINGULAR_VALUE * strength[0]
        self.components = np.ascontiguousarray(directions[strong], dtype=np.float32)

    def _read(self, items: pl.DataFrame) -> list[str]:
        return read_texts(items, self.settings.columns, self.settings.missing_text, composed=self.reading > 1)

    def _encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Vectors float32 ``[n, D]``, and the rows int64 ``[u]`` of texts without a known word."""
        vectorizer = self._vectorizer(vocabulary=self.terms)
        vectorizer.idf_ = self.inverse_frequency
        weights = vectorizer.transform(texts)
        has_text = np.fromiter(map(bool, texts), dtype=bool, count=len(texts))
        unknown = np.flatnonzero((np.diff(weights.indptr) == 0) & has_text)
        values = np.asarray(weights @ self.components.T, dtype=np.float32)
        if len(unknown) and self.reading > 1:
            words = [words_of(texts[row]) for row in unknown.tolist()]
            values[unknown] = borrowed_weights(words, self.terms, self.inverse_frequency) @ self.components.T
        return unit_rows(values) if self.settings.normalize else values, unknown

    def _report(self, values: np.ndarray, texts: list[str], unknown: np.ndarray, item_ids: list[str]) -> None:
        if not len(unknown):
            return
        first = int(unknown[0])
        zeros = int((~values[unknown].any(axis=1)).sum())
        logger.warning(
            "lexical: %d of %d items are without a known word (one that occurs in %d items), such as %r (%.80r): "
            "%d got the vector of words spelled alike, %d the zero vector",
            *(len(unknown), len(texts), self.settings.min_items, item_ids[first], texts[first]),
            *(len(unknown) - zeros, zeros),
        )

    def _refuse_nothing(self, values: np.ndarray, texts: list[str], item_ids: list[str]) -> None:
        rows = [row for row in np.flatnonzero(~values.any(axis=1)).tolist() if texts[row]]
        if rows and self.settings.missing_text == "error":
            raise DataError(
                f"no word of item {item_ids[rows[0]]!r} is known or spelled like one that is: {texts[rows[0]][:80]!r}",
                where=f"features lexical, {first_rows(rows)}",
                expected=f"a word that occurs in {self.settings.min_items} items (features.min_items)",
                fix="read more columns (features.columns), or set features.missing_text: zero",
            )


def all_directions(weights: csr_array) -> tuple[np.ndarray, np.ndarray]:
    """Every direction of a matrix that is small on one side, where items of one rare word may lie in the last of them.

    Args:
        weights: float32 ``[N, V]``.

    Returns:
        Right singular vectors float64 ``[min(N, V), V]`` and their singular values, the largest first.
    """
    exact, few_items = csr_array(weights, dtype=np.float64), weights.shape[0] < weights.shape[1]
    products = exact @ exact.T if few_items else exact.T @ exact
    squares, vectors = np.linalg.eigh(products.toarray())
    strength, vectors = np.sqrt(np.maximum(squares[::-1], 0)), vectors[:, ::-1]
    if not few_items:
        return vectors.T, strength
    return (exact.T @ vectors).T / np.maximum(strength, np.finfo(np.float64).tiny)[:, None], strength
