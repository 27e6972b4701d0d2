"""The ``aligned`` folder: a model folder like ``model/``, with what alignment did besides the weights.

Besides the files of a model folder: ``alignment.json`` (measurements before, after and on the way), ``curves.png``,
``preferences.parquet`` (what the last round learned from), ``examples.json`` (lists of a few users before and after).
"""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from genrec.alignment.align import LOG_FILE, PAIRS_FILE, AlignmentResult, align_recommender, join_processes
from genrec.alignment.plots import draw_curves
from genrec.artifacts import (
    file_sha256,
    fingerprint,
    read_manifest,
    remove_work_folder,
    reserve_folder,
    write_artifact,
    write_json,
)
from genrec.artifacts.reading import copy_plain
from genrec.artifacts.targets import check_work_folder
from genrec.config import AlignmentConfig
from genrec.data import Dataset
from genrec.decoding import generate_lists
from genrec.decoding.transitions import without_transitions
from genrec.distributed.world import World
from genrec.models import RecommenderModel
from genrec.pipeline.model_folder import STAGE, WRITTEN_ANEW, TrainedModel, open_model, quietly

logger = logging.getLogger(__name__)

ALIGNMENT_FILE = "alignment.json"
CURVES_FILE = "curves.png"
EXAMPLES_FILE = "examples.json"
SHOWN_USERS, SHOWN_ITEMS = 5, 10


def align_model(
    source: Path, dataset: Dataset, config: AlignmentConfig, out: Path, *, console: Console | None = None
) -> AlignmentResult:
    """Align a model folder and write the ``aligned`` folder; the same call again continues after an interruption.

    Where a launcher started several processes, all of them must call this with equal arguments; the first one writes.

    Args:
        source: A ``model`` folder.
        dataset: What it was trained on.
        config: The recipe's section.
        out: The folder to write; with several iterations each is kept next to it, in ``NAME.iterations``.
        console: Where progress is shown.

    Raises:
        ConfigError: If the model or the recipe cannot be used.
        DataError: If there is nothing to learn from.
        ArtifactError: If folders do not match or cannot be written.
    """
    # Before anything is put on a GPU: each process has its own.
    _, world = join_processes(config)
    others = [Path(path) for path in (config.reference, config.scorer, config.pairs.path) if path is not None]
    with reserve_folder(out, STAGE, reads=[source, dataset.path, *others], lock=world.is_main) as place:
        iterations = check_work_folder(place.with_name(f"{place.name}.iterations"))
        return _align_model(source, dataset, config, place, iterations, world, console)


def _align_model(
    source: Path,
    dataset: Dataset,
    config: AlignmentConfig,
    out: Path,
    iterations: Path,
    world: World,
    console: Console | None,
) -> AlignmentResult:
    trained = open_model(source)
    trained.check_catalogue(dataset)
    if trained.manifest.inputs.get("dataset") != dataset.fingerprint and world.is_main:
        logger.warning("the model was trained on another preparation of these items: it may know what measures it")
    before = example_lists(trained.model, trained, dataset)
    inputs = {"model": trained.manifest.fingerprint, **_other_inputs(config, trained)}
    result = align_recommender(
        trained.model,
        dataset,
        config,
        without_transitions(trained.decoding),
        iterations,
        inputs=inputs,
        console=console,
    )
    last = iterations / f"iteration-{len(result.iterations)}"
    examples = [
        {**told, "before": old["list"], "after": told.pop("list")}
        for old, told in zip(before, example_lists(trained.model, trained, dataset), strict=True)
    ]

    def finish() -> None:
        save_aligned(out, source, trained, config, result, last, examples)
        if config.iterations == 1:
            remove_work_folder(iterations)

    world.run_on_main(finish)
    return result


def save_aligned(
    out: Path,
    source: Path,
    trained: TrainedModel,
    config: AlignmentConfig,
    result: AlignmentResult,
    last: Path,
    examples: list[dict[str, Any]],
) -> None:
    """Write the ``aligned`` folder.

    Args:
        out: The folder.
        source: The model folder that it was made from.
        trained: With the aligned weights.
        config: The recipe's section.
        result: What came out.
        last: Folder of the last iteration.
        examples: See :func:`example_lists`.

    Raises:
        ArtifactError: If the place cannot be written or the disk is full.
    """
    manifest = trained.manifest
    settings = manifest.config | {"alignment": config.model_dump(mode="json")}
    inputs = manifest.inputs | {"model": manifest.fingerprint}
    with write_artifact(out, STAGE, config=settings, inputs=inputs, seed=config.training.seed) as folder:
        _copy_parts(source, folder.path)
        with quietly():
            trained.model.save_pretrained(folder.path)
        rounds = [asdict(part) for part in result.iterations]
        values = {"start": result.start, "best": result.best, "reward_quality": result.reward_quality, "rounds": rounds}
        write_json(folder.path / ALIGNMENT_FILE, values)
        write_json(folder.path / EXAMPLES_FILE, examples)
        draw_curves(rounds, folder.path / CURVES_FILE)
        for name in (PAIRS_FILE, LOG_FILE):
            if (last / name).is_file():
                copy_plain(last / name, folder.path / name)
        folder.counts = manifest.counts | {"alignment_steps": sum(part.steps for part in result.iterations)}


def example_lists(model: RecommenderModel, trained: TrainedModel, dataset: Dataset) -> list[dict[str, Any]]:
    """A few validation users, drawn with a fixed seed: their last items and the model's list, in titles."""
    histories, _ = dataset.evaluation("validation")
    rows = np.sort(np.random.default_rng(0).permutation(len(histories))[:SHOWN_USERS])
    shown = histories.select(rows)
    lists, _ = generate_lists(model, shown, decoding=trained.decoding, top_k=SHOWN_ITEMS)
    return [
        {
            "user": dataset.user_ids[int(shown.users[row])],
            "history": [dataset.title(item) for item in shown[row][-SHOWN_ITEMS:].tolist()],
            "list": [dataset.title(item) for item in lists[row].tolist() if item >= 0],
        }
        for row in range(len(shown))
    ]


def _copy_parts(source: Path, target: Path) -> None:
    for path in source.iterdir():
        if path.name not in WRITTEN_ANEW:
            copy_plain(path, target / path.name)


def _other_inputs(config: AlignmentConfig, trained: TrainedModel) -> dict[str, str]:
    """Fingerprints of what else decides the result."""
    inputs = {
        "decoding": fingerprint(trained.decoding.model_dump(mode="json", exclude={"batch_size", "transition_weight"}))
    }
    for name, folder in (("reference", config.reference), ("scorer", config.scorer)):
        if folder is not None:
            inputs[name] = read_manifest(Path(folder), STAGE).fingerprint
    if config.pairs.path is not None and Path(config.pairs.path).is_file():
        inputs["preferences"] = file_sha256(Path(config.pairs.path))
    return inputs
