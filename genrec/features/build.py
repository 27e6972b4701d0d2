"""The features stage: from a recipe's section to a folder of vectors."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrec.artifacts import read_json, reserve_folder, write_artifact
from genrec.artifacts.reading import reading
from genrec.artifacts.targets import paths_named
from genrec.config import FeaturesConfig, parse_settings
from genrec.distributed.peers import Peers
from genrec.errors import ArtifactError
from genrec.features.base import ENCODER_FILE, FeatureEncoder, ItemFeatures
from genrec.features.registry import encoder_class

if TYPE_CHECKING:
    from genrec.data import Dataset

STAGE = "features"
ENCODER_FOLDER = "encoder"


def build_encoder(config: FeaturesConfig, *, where: str = "features") -> FeatureEncoder:
    """An unfitted encoder from its name and settings.

    Args:
        config: Name of the encoder and its settings.
        where: The section, for messages.

    Raises:
        ConfigError: If the name or a setting is not known.
    """
    cls = encoder_class(config.encoder)
    return cls(parse_settings(cls.Settings, config.settings, where=where))


def load_encoder(folder: Path) -> FeatureEncoder:
    """A fitted encoder of any kind from the folder where it was saved.

    Raises:
        ArtifactError: If the folder does not hold an encoder.
    """
    described = read_json(folder / ENCODER_FILE)
    if not isinstance(described, dict) or "encoder" not in described:
        raise ArtifactError(f"{ENCODER_FILE} does not name an encoder", where=str(folder), fix="make the folder again")
    with reading(folder):
        return encoder_class(described["encoder"]).load(folder)


def build_features(config: FeaturesConfig, dataset: "Dataset", out: Path) -> ItemFeatures:
    """Fit an encoder on a data set and write the ``features`` folder: vectors, ids and the encoder itself.

    Args:
        config: Name of the encoder and its settings.
        dataset: The items, and for collaborative encoders their training interactions.
        out: Folder to write.

    Raises:
        ConfigError: If the name or a setting is not known.
        DataError: If the items cannot be encoded.
        ArtifactError: If the place cannot be written.
    """
    encoder = build_encoder(config)
    with reserve_folder(Path(out), STAGE, reads=_read_by(config, dataset)):
        features = encoder.fit(dataset)
        _write(encoder, features, dataset, out)
    return features


def build_features_together(config: FeaturesConfig, dataset: "Dataset", out: Path, peers: Peers) -> None:
    """As :func:`build_features`, by several processes: they share what can be shared, and the first one writes.

    Args:
        config: Name of the encoder and its settings.
        dataset: The same in every process.
        out: Folder to write.
        peers: The processes.

    Raises:
        GenrecError: As :func:`build_features`, in every process.
    """
    encoder = build_encoder(config)
    if not encoder.shares:
        peers.run_on_main(lambda: build_features(config, dataset, out).description)
        return
    encoder.peers = peers
    with reserve_folder(Path(out), STAGE, reads=_read_by(config, dataset), lock=peers.rank == 0):
        features = encoder.fit(dataset)
        peers.run_on_main(lambda: _write(encoder, features, dataset, out))


def _read_by(config: FeaturesConfig, dataset: "Dataset") -> list[Path]:
    return [dataset.path, *paths_named(config.settings)]


def _write(encoder: FeatureEncoder, features: ItemFeatures, dataset: "Dataset", out: Path) -> None:
    settings = encoder.settings.model_dump(mode="json")
    with write_artifact(
        Path(out),
        STAGE,
        config={"encoder": encoder.name, **settings},
        inputs={"dataset": dataset.fingerprint},
        seed=settings.get("seed"),
    ) as folder:
        features.save(folder.path)
        encoder.save(folder.path / ENCODER_FOLDER)
        items, width = features.values.shape
        folder.counts = {"items": items, "width": width, **_counted(features.description)}


def _counted(description: dict[str, Any]) -> dict[str, int]:
    """What an encoder counted, such as items of which it knew nothing; of several parts the largest number."""
    counts: dict[str, int] = dict(description.get("counts", {}))
    for part in description.get("parts", []):
        for name, value in _counted(part).items():
            counts[name] = max(value, counts.get(name, 0))
    return counts
