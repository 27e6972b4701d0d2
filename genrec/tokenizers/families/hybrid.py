"""Two semantic IDs written one after the other: what items share first, what tells them apart second.

Source: the hybrid semantic IDs of Hua et al., How to Index Item IDs for Recommendation Foundation Models, arXiv
2305.06569 (HID).
"""

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import polars as pl
from pydantic import Field

from genrec.config import TokenizerConfig
from genrec.errors import ConfigError
from genrec.features.base import ItemFeatures
from genrec.tokenizers.base import ItemTokenizer, TokenizerSettings
from genrec.tokenizers.registry import tokenizer_class, tokenizer_settings

if TYPE_CHECKING:
    from genrec.data import Dataset

PARTS = ("first", "second")
# What the whole decides; a part that had it would not be asked.
OF_THE_WHOLE = ("collisions", "allow_collapse")


class HybridSettings(TokenizerSettings):
    """Settings of the tokenizer ``hybrid``."""

    first: TokenizerConfig = Field(TokenizerConfig(name="cid"), description="name and settings of the leading codes")
    second: TokenizerConfig = Field(TokenizerConfig(name="independent"), description="those of the codes after them")


class HybridTokenizer(ItemTokenizer):
    """The codes of one tokenizer followed by those of another; each part's seed is this one's unless it has its own.

    Args:
        settings: See :class:`HybridSettings`.

    Raises:
        ConfigError: If a part is not known, is a set, or has a setting that is unknown or decided by the whole.
    """

    name: ClassVar[str] = "hybrid"
    Settings: ClassVar[type[TokenizerSettings]] = HybridSettings
    settings: HybridSettings

    def __init__(self, settings: HybridSettings) -> None:
        super().__init__(settings)
        chosen = (settings.first, settings.second)
        self.parts = [_build_part(part, config, settings.seed) for part, config in zip(PARTS, chosen, strict=True)]
        self.encodes_new_items = all(part.encodes_new_items for part in self.parts)

    def encode_catalogue(self, dataset: "Dataset", features: ItemFeatures) -> np.ndarray:
        """The codes of both parts side by side, int32 ``[N, L]``."""
        self._check_fitted()
        return np.hstack([part.encode_catalogue(dataset, features) for part in self.parts])

    def encode_items(self, items: pl.DataFrame, features: np.ndarray) -> np.ndarray:
        """The codes of both parts side by side, int32 ``[n, L]``.

        Raises:
            ConfigError: If a part cannot name new items, or nothing has been fitted.
        """
        self._check_fitted()
        return np.hstack([part.encode_items(items, features) for part in self.parts])

    def _fit(self, dataset: "Dataset", features: ItemFeatures) -> None:
        for name, part in zip(PARTS, self.parts, strict=True):
            if self.checkpoint_path is not None:
                part.checkpoint_path = self.checkpoint_path.with_suffix(f".{name}{self.checkpoint_path.suffix}")
            part.fit(dataset, features)
        self.level_sizes = tuple(size for part in self.parts for size in part.level_sizes)

    def _encode(self, values: np.ndarray) -> np.ndarray:
        return np.hstack([part.encode(values) for part in self.parts])

    def state(self) -> dict[str, np.ndarray]:
        """The arrays of both parts, their names after ``first.`` or ``second.``, and ``num_levels`` int64 ``[2]``."""
        arrays = {
            f"{name}.{key}": value
            for name, part in zip(PARTS, self.parts, strict=True)
            for key, value in part.state().items()
        }
        return {**arrays, "num_levels": np.array([len(part.level_sizes) for part in self.parts])}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` gave."""
        border = int(arrays["num_levels"][0])
        sizes = (self.level_sizes[:border], self.level_sizes[border:])
        for name, part, levels in zip(PARTS, self.parts, sizes, strict=True):
            part.width, part.level_sizes = self.width, levels
            prefix = f"{name}."
            part.restore({key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)})


def _build_part(part: str, config: TokenizerConfig, seed: int) -> ItemTokenizer:
    where = f"tokenizer.{part}"
    misplaced = [key for key in OF_THE_WHOLE if key in config.settings]
    if misplaced:
        raise ConfigError(
            f"{misplaced[0]} is decided by the whole semantic ID",
            where=where,
            expected="settings of the part alone",
            fix=f"move {misplaced[0]} to tokenizer.{misplaced[0]}",
        )
    family = tokenizer_class(config.name)
    if family.kind != "sequence":
        raise ConfigError(
            f"the codes of {config.name} have no order",
            where=where,
            expected="a tokenizer whose codes are read in order",
            fix="choose another tokenizer",
        )
    return family(tokenizer_settings(config.name, {"seed": seed, **config.settings}, where=where))
