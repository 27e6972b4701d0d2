"""``genrec upcycle``: a dense model folder becomes one with sparse experts, which answers as the dense one did."""

from collections.abc import Sequence
from pathlib import Path

from genrec.artifacts import reserve_folder, write_artifact
from genrec.artifacts.reading import copy_plain
from genrec.config import load_recipe
from genrec.models.upcycle import upcycle_recommender
from genrec.pipeline.model_folder import STAGE, WRITTEN_ANEW, open_model, quietly


def upcycle_model(source: Path, overrides: Sequence[str], out: Path) -> None:
    """Write a model folder with experts; the dense model stays as it is.

    Args:
        source: A ``model`` folder without experts.
        overrides: Assignments such as ``recommender.experts=8``.
        out: The folder to write.

    Raises:
        ConfigError: If a setting is not accepted, or ``out`` must not be written.
        ArtifactError: If a folder cannot be used or written.
    """
    with reserve_folder(out, STAGE, reads=[source]) as place:
        _upcycle_model(source, overrides, place)


def _upcycle_model(source: Path, overrides: Sequence[str], out: Path) -> None:
    changes = load_recipe(None, overrides).recommender.settings
    trained = open_model(source, device="cpu")
    model, manifest = upcycle_recommender(trained.model, changes), trained.manifest
    recommender = {**manifest.config.get("recommender", {}), **model.settings.model_dump(mode="json")}
    config = {**manifest.config, "recommender": recommender}
    inputs = {**manifest.inputs, "model": manifest.fingerprint}
    with write_artifact(out, STAGE, config=config, inputs=inputs, seed=manifest.seed) as folder:
        for path in source.iterdir():
            if path.name not in WRITTEN_ANEW:
                copy_plain(path, folder.path / path.name)
        with quietly():
            model.save_pretrained(folder.path)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        folder.counts = manifest.counts | {"parameters": parameters}
