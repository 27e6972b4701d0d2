"""Words of the items' texts: TF-IDF of words and word pairs, reduced by a truncated SVD (latent semantic analysis).

Needs no download and no interactions. Source: Deerwester et al., Indexing by Latent Semantic Analysis, 1990.
"""

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import polars as pl
from pydantic import Field
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from genrec.config import Section
from genrec.config.ranges import Count, Few, Seed, Width
from genrec.errors import DataError
from genrec.features.base import FeatureEncoder, ItemFeatures, check_rows, unit_rows
from genrec.features.text import MissingText, read_texts

if TYPE_CHECKING:
    from genrec.data import Dataset

# Directions this much weaker than the strongest are rounding noise of a catalogue with few independent words.
SMALLEST_SINGULAR_VALUE = 1e-6


class LexicalSettings(Section):
    """Settings of the encoder ``lexical``."""

    columns: tuple[str, ...] | None = Field(None, description="columns to read; every text column if null")
    dim: Width = Field(384, description="columns at most; fewer when the texts have fewer independent words")
    max_ngram: Few = Field(2, le=4, description="longest run of words that counts as a term")
    min_items: Count = Field(2, description="a term must stand in this many items")
    max_terms: Count = Field(200_000, description="keep the most frequent terms")
    normalise: bool = Field(True, description="scale every vector to length 1")
    missing_text: MissingText = Field("error", description="items without text: error, or zero vectors")
    seed: Seed = 42


class LexicalEncoder(FeatureEncoder):
    """TF-IDF (sublinear, words and word pairs) and truncated SVD.

    Args:
        settings: See :class:`LexicalSettings`.
    """

    name: ClassVar[str] = "lexical"
    Settings: ClassVar[type[Section]] = LexicalSettings
    settings: LexicalSettings

    def __init__(self, settings: LexicalSettings) -> None:
        super().__init__(settings)
        self.terms: list[str] = []
        self.inverse_frequency = np.zeros(0, dtype=np.float32)
        self.components = np.zeros((0, 0), dtype=np.float32)

    def fit(self, dataset: "Dataset") -> ItemFeatures:
        """Learn terms and directions from all items' texts; interactions are not read."""
        texts = read_texts(dataset.items, self.settings.columns, self.settings.missing_text)
        weights = self._fit_terms(texts)
        # The randomised solver needs fewer directions than the matrix has rows and columns.
        dim = min(self.settings.dim, min(weights.shape) - 1)
        if dim < 1:
            raise DataError(
                f"the texts of {weights.shape[0]} items have {weights.shape[1]} terms",
                where="features lexical",
                expected="at least two items and two terms",
                fix="give longer texts, or lower features.min_items",
            )
        svd = TruncatedSVD(dim, n_iter=5, random_state=self.settings.seed).fit(weights)
        strong = svd.singular_values_ > SMALLEST_SINGULAR_VALUE * svd.singular_values_[0]
        self.components = np.ascontiguousarray(svd.components_[strong], dtype=np.float32)
        values = self._encode(texts)
        zeros_wanted = self.settings.missing_text == "zero"
        check_rows(values, dataset.item_ids, where="features lexical", constant_rows=not zeros_wanted)
        described = {"encoder": self.name, "terms": len(self.terms), "width": values.shape[1]}
        return ItemFeatures(values, dataset.item_ids, described)

    def transform(self, items: pl.DataFrame) -> np.ndarray:
        """Encode new items by their texts; words never seen at fitting count nothing."""
        return self._encode(read_texts(items, self.settings.columns, self.settings.missing_text))

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Terms, their inverse frequencies ``[V]`` and directions ``[D, V]``."""
        return {"terms": self.terms}, {"inverse_frequency": self.inverse_frequency, "components": self.components}

    def restore(self, values: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` gave."""
        self.terms = values["terms"]
        self.inverse_frequency, self.components = arrays["inverse_frequency"], arrays["components"]

    def _vectorizer(self, **vocabulary: Any) -> TfidfVectorizer:
        ngrams = (1, self.settings.max_ngram)
        return TfidfVectorizer(ngram_range=ngrams, sublinear_tf=True, dtype=np.float32, **vocabulary)

    def _fit_terms(self, texts: list[str]) -> Any:
        wanted = min(self.settings.min_items, len(texts))
        vectorizer = self._vectorizer(min_df=wanted, max_features=self.settings.max_terms)
        try:
            weights = vectorizer.fit_transform(texts)
        except ValueError as error:
            raise DataError(
                f"no term stands in {wanted} items or more",
                where="features lexical",
                expected="texts that share words",
                fix="lower features.min_items, or use another encoder",
            ) from error
        self.terms = vectorizer.get_feature_names_out().tolist()
        self.inverse_frequency = vectorizer.idf_.astype(np.float32)
        return weights

    def _encode(self, texts: list[str]) -> np.ndarray:
        vectorizer = self._vectorizer(vocabulary=self.terms)
        vectorizer.idf_ = self.inverse_frequency
        values = np.asarray(vectorizer.transform(texts) @ self.components.T, dtype=np.float32)
        return unit_rows(values) if self.settings.normalise else values
