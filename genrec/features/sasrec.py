"""The item vectors of a trained sequential baseline: what a SASRec learned of the order of purchases.

Source: the collaborative token of SETRec (2502.10833) and the teacher of A-LLMRec (2404.11343) are such vectors. Reads
the weights from the model's folder, so nothing of the model is built. Items without a training interaction have zeros,
as everywhere (:mod:`genrec.features.collaborative`): the model's own rows are where they started, or what it made of
other features.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import polars as pl
from pydantic import Field

from genrec.artifacts import Manifest, read_json, read_manifest
from genrec.artifacts.reading import reading
from genrec.config import Section
from genrec.data.parquet import read_parquet
from genrec.errors import ArtifactError, DataError, first_rows
from genrec.features.base import FeatureEncoder, ItemFeatures, check_rows, load_arrays, unit_rows
from genrec.features.collaborative import zero_unknown

if TYPE_CHECKING:
    from genrec.data import Dataset

FAMILY = "sasrec"
WEIGHTS_FILE = "model.safetensors"
IDS, FEATURES = "items.ids.weight", "items.features"
PROJECTION, BIAS = "items.projection.weight", "items.projection.bias"


class SASRecFeatureSettings(Section):
    """Settings of the encoder ``sasrec``."""

    path: str = Field(description="folder of a trained sasrec, such as runs/NAME/baselines/sasrec")
    normalize: bool = Field(False, description="scale every vector to length 1")


class SASRecEncoder(FeatureEncoder):
    """The item table of a trained SASRec, which saw the training part of the same data set."""

    name: ClassVar[str] = "sasrec"
    Settings: ClassVar[type[Section]] = SASRecFeatureSettings
    settings: SASRecFeatureSettings
    encodes_new_items: ClassVar[bool] = False

    def __init__(self, settings: SASRecFeatureSettings) -> None:
        super().__init__(settings)
        # External ids of the items without a training interaction.
        self.unknown: list[str] = []

    def fit(self, dataset: "Dataset") -> ItemFeatures:
        """Read the table.

        Raises:
            ArtifactError: If the folder holds no trained SASRec, or one that was trained on another data set.
        """
        folder = Path(self.settings.path)
        manifest = _read_model(folder)
        if manifest.inputs.get("dataset") != dataset.fingerprint:
            raise ArtifactError(
                f"the model in {folder} was trained on another data set",
                where="features.path",
                expected=f"the data set {dataset.fingerprint[:16]}..., prepared with the same settings and split",
                fix="train sasrec on this data set: interactions held out here may have been training there",
            )
        values, unknown = zero_unknown(self._rows(dataset.item_ids), dataset, self.name)
        self.unknown = [dataset.item_ids[item] for item in np.flatnonzero(unknown)]
        check_rows(values, dataset.item_ids, where=f"features sasrec {folder}", unknown=unknown)
        described = {
            "encoder": self.name,
            "model": manifest.fingerprint,
            "width": values.shape[1],
            "counts": {"items_without_interactions": len(self.unknown)},
        }
        return ItemFeatures(values, dataset.item_ids, described)

    def transform(self, items: pl.DataFrame) -> np.ndarray:
        """Look up items that the model knows.

        Raises:
            DataError: If the model does not know an item.
        """
        _read_model(Path(self.settings.path))
        wanted = items["item_id"].cast(pl.String)
        return np.where(wanted.is_in(self.unknown).to_numpy()[:, None], np.float32(0), self._rows(wanted.to_list()))

    def outside_paths(self) -> list[str]:
        """The folder of the trained model."""
        return [self.settings.path]

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The items without a training interaction; the model is named, not copied."""
        return {"without_interactions": self.unknown}, {}

    def restore(self, values: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` gave; folders of earlier versions name no such items."""
        self.unknown = list(values.get("without_interactions", []))

    def _rows(self, wanted: list[str]) -> np.ndarray:
        folder = Path(self.settings.path)
        position = {item: row for row, item in enumerate(_read_ids(folder))}
        missing = [row for row, item in enumerate(wanted) if item not in position]
        if missing:
            raise DataError(
                f"sasrec has no vectors for {len(missing)} new items, such as {wanted[missing[0]]!r}",
                where=f"{folder}, items {first_rows(missing)}",
                expected="items that the model was trained on",
                fix="train sasrec again with the new items, or use an encoder that reads the items themselves",
            )
        table = item_table(folder)[[position[item] for item in wanted]]
        return unit_rows(table) if self.settings.normalize else table


def item_table(folder: Path) -> np.ndarray:
    """The vectors that the model scores items with: the learned rows, plus the projected features where it has them.

    Args:
        folder: A ``model`` folder.

    Returns:
        float32 ``[N, D]``.

    Raises:
        ArtifactError: If the weights are missing, unreadable or hold no item vectors.
    """
    weights = load_arrays(folder / WEIGHTS_FILE)
    parts = [weights[IDS]] if IDS in weights else []
    if {FEATURES, PROJECTION, BIAS} <= weights.keys():
        parts.append(weights[FEATURES] @ weights[PROJECTION].T + weights[BIAS])
    if not parts:
        raise ArtifactError(
            f"{WEIGHTS_FILE} holds no item vectors",
            where=str(folder),
            expected=f"{IDS}, or {FEATURES} with its projection",
            fix="train sasrec again",
        )
    return np.ascontiguousarray(sum(parts[1:], start=parts[0]), dtype=np.float32)


def _read_model(folder: Path) -> Manifest:
    manifest = read_manifest(folder, "model")
    with reading(folder):
        family = read_json(folder / "config.json").get("family")
    if family != FAMILY:
        raise ArtifactError(
            f"{folder} holds the recommender {family!r}",
            where="features.path",
            expected=f"a trained {FAMILY!r}, whose items have vectors of their own",
            fix="give the folder baselines/sasrec of a run, or train with recommender.name: sasrec",
        )
    return manifest


def _read_ids(folder: Path) -> list[str]:
    try:
        return read_parquet(folder / "items.parquet", ["item_id"])["item_id"].cast(pl.String).to_list()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ArtifactError(
            f"items.parquet cannot be read: {str(error).splitlines()[0]}", where=str(folder), fix="restore the folder"
        ) from error
