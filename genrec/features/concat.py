"""Several encoders side by side, each part scaled so that none drowns the others."""

import logging
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field

from genrec.config import FeaturesConfig, Section
from genrec.config.ranges import Factor
from genrec.errors import ConfigError
from genrec.features.base import FeatureEncoder, ItemFeatures, unit_rows
from genrec.features.build import build_encoder

if TYPE_CHECKING:
    from genrec.data import Dataset


logger = logging.getLogger(__name__)


class ConcatSettings(Section):
    """Settings of the encoder ``concat``."""

    parts: tuple[FeaturesConfig, ...] = Field(min_length=1, description="encoders with their settings")
    normalize: Literal["rows", "scale", "none"] = Field(
        "rows", description="rows: every row of a part to length 1; scale: a part's mean squared length to 1; none"
    )
    weights: tuple[Factor, ...] | None = Field(None, description="factor of every part; all 1 if null")
    new_items: Literal["error", "zero"] = Field(
        "error", description="new items of which a part knows nothing: error, or zeros for that part"
    )


class ConcatEncoder(FeatureEncoder):
    """Concatenation with normalization per part.

    Args:
        settings: See :class:`ConcatSettings`.

    Raises:
        ConfigError: If a part is not known, or there is not one weight per part.
    """

    name: ClassVar[str] = "concat"
    Settings: ClassVar[type[Section]] = ConcatSettings
    settings: ConcatSettings

    def __init__(self, settings: ConcatSettings) -> None:
        super().__init__(settings)
        if settings.weights is not None and len(settings.weights) != len(settings.parts):
            raise ConfigError(
                f"there are {len(settings.weights)} weights for {len(settings.parts)} parts",
                where="features.weights",
                expected="one weight per part",
                fix="correct the list, or remove it",
            )
        self.encoders = [
            build_encoder(part, where=f"features.parts.{number}") for number, part in enumerate(settings.parts)
        ]
        if settings.new_items == "zero" and not any(encoder.encodes_new_items for encoder in self.encoders):
            raise ConfigError(
                "no part has vectors for new items",
                where="features.new_items",
                expected="a part that reads the items themselves, besides those that read interactions",
                fix="add a part such as lexical or sentence, or remove new_items",
            )
        self.scales = np.ones(len(self.encoders), dtype=np.float32)
        self.widths: list[int] = []

    def fit(self, dataset: "Dataset") -> ItemFeatures:
        """Fit every part on the same data set."""
        parts = [encoder.fit(dataset) for encoder in self.encoders]
        self.widths = [part.values.shape[1] for part in parts]
        if self.settings.normalize == "scale":
            lengths = [float((part.values.astype(np.float64) ** 2).sum(axis=1).mean()) for part in parts]
            self.scales = np.asarray([length**-0.5 if length else 1.0 for length in lengths], dtype=np.float32)
        values = self._join([part.values for part in parts])
        described = {
            "encoder": self.name,
            "parts": [part.description for part in parts],
            "width": values.shape[1],
        }
        return ItemFeatures(values, dataset.item_ids, described)

    def transform(self, items: pl.DataFrame) -> np.ndarray:
        """Encode new items, if every part can or zeros stand for those that cannot."""
        parts = []
        for encoder, width in zip(self.encoders, self.widths, strict=True):
            if self.settings.new_items == "zero" and not encoder.encodes_new_items:
                logger.warning("concat: %s knows nothing of %d new items: zeros for its part", encoder.name, len(items))
                parts.append(np.zeros((len(items), width), dtype=np.float32))
            else:
                parts.append(encoder.transform(items))
        return self._join(parts)

    def outside_paths(self) -> list[str]:
        """Those of all parts."""
        return [path for encoder in self.encoders for path in encoder.outside_paths()]

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """States and widths of the parts, their arrays under ``part_i.name``, and the scales float32 ``[parts]``."""
        values, arrays = [], {"scales": self.scales}
        for number, encoder in enumerate(self.encoders):
            inner_values, inner_arrays = encoder.state()
            values.append(inner_values)
            arrays.update({f"part_{number}.{name}": array for name, array in inner_arrays.items()})
        return {"parts": values, "widths": self.widths}, arrays

    def restore(self, values: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` gave."""
        self.scales, self.widths = arrays["scales"], values["widths"]
        for number, (encoder, inner) in enumerate(zip(self.encoders, values["parts"], strict=True)):
            prefix = f"part_{number}."
            own = {name[len(prefix) :]: array for name, array in arrays.items() if name.startswith(prefix)}
            encoder.restore(inner, own)

    def _join(self, parts: list[np.ndarray]) -> np.ndarray:
        weights = self.settings.weights or (1.0,) * len(parts)
        if self.settings.normalize == "rows":
            parts = [unit_rows(part) for part in parts]
        scaled = [part * (weight * scale) for part, weight, scale in zip(parts, weights, self.scales, strict=True)]
        return np.concatenate(scaled, axis=1, dtype=np.float32)
