"""Which columns of the item vectors tell what users did and which tell what an item is, for families that need both."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from genrec.config.ranges import FewOrNone
from genrec.errors import ArtifactError, ConfigError, first_rows
from genrec.features.base import ItemFeatures
from genrec.tokenizers.base import TokenizerSettings

COLLABORATIVE_ENCODERS = ("lightgcn", "ultragcn", "fastrp", "sasrec")
ARRAY = "collaborative_columns"
HOW_TO_MAKE = "features: {encoder: concat, parts: [{encoder: sentence}, {encoder: lightgcn}]}"


class FusedSettings(TokenizerSettings):
    """Settings of the families that read two kinds of vectors."""

    collaborative: str | FewOrNone | None = Field(
        None, description="encoder, or number from 0, of the part that is collaborative; found by itself if null"
    )


@dataclass(frozen=True)
class Sources:
    """The columns ``start`` to ``stop`` are collaborative, all others semantic."""

    start: int
    stop: int

    @classmethod
    def of(cls, features: ItemFeatures, popularity: np.ndarray, wanted: str | int | None, tokenizer: str) -> "Sources":
        """Find the collaborative part among those that the features were put together from.

        Args:
            features: Made by the encoder ``concat``.
            popularity: Training interactions of every item, int ``[N]``.
            wanted: Encoder or number of the part; the first one that reads interactions if None.
            tokenizer: Who asks, for the message.

        Raises:
            ConfigError: If there is no such part, or nothing next to it.
            ArtifactError: If an encoder of ours gave items without interactions anything but zeros, as earlier versions
                did.
        """
        parts: list[dict[str, Any]] = features.description.get("parts", [])
        names = [str(part["encoder"]) for part in parts]
        number = _find(names, wanted)
        if number is None or len(parts) < 2:
            missing = "collaborative" if number is None else "semantic"
            found = ", ".join(names) or str(features.description.get("encoder", "unknown"))
            named = "" if wanted is None else f" called {wanted!r}"
            raise ConfigError(
                f"the tokenizer {tokenizer} needs collaborative and semantic vectors side by side, "
                f"and the features have no {missing} part{named}",
                where=f"features: {found}",
                expected=f"several parts, one of them by {', '.join(COLLABORATIVE_ENCODERS)}, "
                "or named in tokenizer.collaborative",
                fix=f"make the features with {HOW_TO_MAKE}",
            )
        start = sum(int(part["width"]) for part in parts[:number])
        sources = cls(start, start + int(parts[number]["width"]))
        if names[number] in COLLABORATIVE_ENCODERS:
            sources._check_zeros(features, popularity, names[number])
        return sources

    @property
    def width(self) -> int:
        """Number of collaborative columns."""
        return self.stop - self.start

    @classmethod
    def restore(cls, arrays: dict[str, np.ndarray]) -> "Sources":
        """Take back what :meth:`state` gave."""
        start, stop = arrays[ARRAY].tolist()
        return cls(start, stop)

    def state(self) -> dict[str, np.ndarray]:
        """The columns, int64 ``[2]``."""
        return {ARRAY: np.array([self.start, self.stop])}

    def collaborative(self, values: np.ndarray) -> np.ndarray:
        """Those columns of ``values [n, D]``, ``[n, stop - start]``; zeros where nothing is known of an item."""
        return np.ascontiguousarray(values[:, self.start : self.stop])

    def _check_zeros(self, features: ItemFeatures, popularity: np.ndarray, encoder: str) -> None:
        unknown = np.flatnonzero(popularity == 0)
        wrong = unknown[self.collaborative(features.values[unknown]).any(axis=1)]
        if len(wrong):
            raise ArtifactError(
                f"{len(wrong)} items without a training interaction have a vector by {encoder}, such as "
                f"{features.item_ids[int(wrong[0])]!r}",
                where=f"features, {first_rows(wrong.tolist())}",
                expected="zeros, which say that nothing is known of an item",
                fix="make the features again (genrec embed, or genrec run --force features): earlier versions put the "
                "mean vector there",
            )

    def semantic(self, values: np.ndarray) -> np.ndarray:
        """The other columns of ``values [n, D]``."""
        return np.delete(values, np.s_[self.start : self.stop], axis=1)

    def join(self, collaborative: np.ndarray, semantic: np.ndarray) -> np.ndarray:
        """The way back from :meth:`collaborative` and :meth:`semantic`."""
        return np.concatenate([semantic[:, : self.start], collaborative, semantic[:, self.start :]], axis=1)


def _find(names: Sequence[str], wanted: str | int | None) -> int | None:
    if isinstance(wanted, int):
        return wanted if 0 <= wanted < len(names) else None
    chosen = COLLABORATIVE_ENCODERS if wanted is None else (wanted,)
    return next((number for number, name in enumerate(names) if name in chosen), None)
