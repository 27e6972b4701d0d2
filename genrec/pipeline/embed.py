"""``genrec embed``: vectors of the items, made by one process or several, and read again for a data set."""

from datetime import timedelta
from pathlib import Path

from genrec.artifacts import verify_artifact
from genrec.config import FeaturesConfig
from genrec.data import Dataset
from genrec.distributed.launch import Launch
from genrec.errors import ArtifactError
from genrec.features import ItemFeatures, build_features
from genrec.features.build import build_features_together

# Processes that wait for the one that fits a tokenizer may wait for days.
LONGEST_WAIT = timedelta(days=30)


def embed_together(config: FeaturesConfig, dataset: Dataset, out: Path) -> bool:
    """Make item vectors by all processes that the launcher started; whether this one is to speak."""
    world = Launch.from_environment().join(LONGEST_WAIT)
    if world.size == 1:
        build_features(config, dataset, out)
    else:
        build_features_together(config, dataset, out, world)
    return world.is_main


def load_features(folder: Path, dataset: Dataset) -> ItemFeatures:
    """Open a ``features`` folder and check that it describes this catalogue.

    Raises:
        ArtifactError: If the folder is missing or changed, or its rows are other items.
    """
    verify_artifact(folder, "features")
    features = ItemFeatures.load(folder)
    if features.item_ids != dataset.item_ids:
        raise other_items("features", folder, dataset)
    return features


def other_items(stage: str, folder: Path, dataset: Dataset) -> ArtifactError:
    return ArtifactError(
        f"the {stage} folder does not match the data set: its items are others",
        where=str(folder),
        expected=f"the {dataset.num_items} items of {dataset.path}, in their order",
        fix=f"make the {stage} folder again from this data set",
    )
