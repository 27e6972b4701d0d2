"""``genrec evaluate``: a model folder or a file of lists measured on held-out items, and under which conditions."""

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from genrec.artifacts import MANIFEST, read_json, read_manifest, reserve_file
from genrec.artifacts.marks import write_result
from genrec.artifacts.reading import computing, reading
from genrec.config import DecodingConfig, EvaluationConfig
from genrec.data import Dataset
from genrec.decoding import generate_lists, session_size_of
from genrec.errors import ConfigError
from genrec.evaluation.protocol import Part, Protocol, Result, metrics_json, score_lists
from genrec.evaluation.recommendations import score_recommendations, write_measured
from genrec.models import GenerativeRecommender
from genrec.pipeline.catalogue import on_catalogue
from genrec.pipeline.model_folder import DECODING_FILE, TOKENIZER_FOLDER, TRAINING_FILE, TrainedModel, open_model
from genrec.tokenizers.collisions import count_collisions

logger = logging.getLogger(__name__)


def measure(
    dataset: Path,
    part: Part,
    config: EvaluationConfig,
    out: Path,
    *,
    model: Path | None = None,
    lists: Path | None = None,
    device: str | None = None,
    zero_shot: bool = False,
    save_lists: Path | None = None,
) -> dict[str, Any]:
    """Measure a model folder or a file of lists, and write ``metrics.json``.

    Args:
        dataset: A prepared data set.
        part: Which held-out items.
        config: Which ks, how many bootstrap samples.
        out: The JSON file.
        model: A model folder, or
        lists: a file of recommendations by any system.
        device: Where the model runs.
        zero_shot: See :func:`measure_model`.
        save_lists: Parquet file for the lists that a model was measured on, with what made them.

    Returns:
        What was written.

    Raises:
        ConfigError: If not exactly one of ``model`` and ``lists`` is given, or the model cannot take another catalogue.
    """
    if zero_shot and model is None:
        raise ConfigError("--zero-shot is for --model", expected="a model folder", fix="leave out --zero-shot")
    if (model is None) == (lists is None):
        raise ConfigError("one of --model and --recommendations is needed", expected="exactly one of them")
    _check_saved(save_lists, model)
    reads = [dataset, model, lists]
    with (
        reserve_file(out, reads=reads) as place,
        reserve_file(save_lists, reads=[*reads, out]) if save_lists is not None else nullcontext() as lists_place,
    ):
        prepared = Dataset.load(dataset, verify=True)
        if model is not None:
            result = measure_model(model, prepared, part, config, device, zero_shot=zero_shot)
        else:
            result = score_recommendations(Path(str(lists)), prepared, part, config)
        if lists_place is not None and model is not None:
            write_measured(lists_place, result, prepared, _description(model, prepared, result))
        values = metrics_json(result)
        write_result(place, values)
    return values


def measure_model(
    folder: Path,
    dataset: Dataset,
    part: Part,
    config: EvaluationConfig,
    device: str | None,
    *,
    zero_shot: bool = False,
) -> Result:
    """Measure a model folder on held-out items.

    Args:
        folder: The model folder.
        dataset: Where it is measured.
        part: Which held-out items.
        config: Which ks, how many bootstrap samples.
        device: Where the model runs.
        zero_shot: Let the model's own encoder and tokenizer name the items of the data set, which it never saw.

    Raises:
        ArtifactError: If the folder cannot be used or has another catalogue than the data set.
        ConfigError: If the model cannot take another catalogue.
    """
    trained = open_model(folder, device=device)
    if zero_shot:
        trained = on_catalogue(trained, dataset)
    trained.check_catalogue(dataset)
    if not zero_shot and trained.manifest.inputs.get("dataset") != dataset.fingerprint:
        logger.warning("the model was trained on another preparation of these items: its training may hold test items")
    histories, _ = dataset.evaluation(part)
    lists, _ = generate_lists(trained.model, histories, decoding=trained.decoding, top_k=max(config.ks), progress=True)
    with computing(folder):
        protocol = protocol_of(folder, trained, dataset, part, trained.decoding)
    if zero_shot:
        codes = trained.model.get_buffer("item_codes").cpu().numpy()
        protocol = protocol.model_copy(update={"collision_rate": count_collisions(codes)["collision_rate"]})
    settings = trained.manifest.config["recommender"]
    return score_lists(settings["name"], lists, dataset, protocol, config, settings=settings)


def protocol_of(
    folder: Path, trained: TrainedModel, dataset: Dataset, part: Part, decoding: DecodingConfig
) -> Protocol:
    """The conditions under which a model folder is measured.

    Args:
        folder: The model folder, for its tokenizer.
        trained: What it holds.
        dataset: Where it is measured.
        part: Which held-out items.
        decoding: How lists are written.
    """
    model, config = trained.model, trained.manifest.config
    exact = decoding.mode in ("exhaustive", "items")
    searches = isinstance(model, GenerativeRecommender) and not model.supports_parallel and not exact
    session = session_size_of(decoding, model.config.family, model.settings) if searches else 1
    tokenizer, rate = folder / TOKENIZER_FOLDER, None
    name = None
    if (tokenizer / MANIFEST).is_file():
        manifest = read_manifest(tokenizer)
        name, rate = manifest.config.get("name"), manifest.counts.get("collision_rate")
    return Protocol.on(
        dataset,
        part,
        exclude_seen=decoding.exclude_seen,
        max_history=model.max_history,
        num_beams=decoding.num_beams if searches else None,
        session_size=session if session > 1 else None,
        encoder=config.get("features", {}).get("encoder"),
        tokenizer=name,
        collision_rate=rate,
        selection=f"best {config['training']['metric']} on validation",
        seeds=(config["training"]["seed"],),
        stopped=stopped_early(folder, config["training"]),
    )


def stopped_early(folder: Path, training: Mapping[str, Any]) -> str | None:
    """Where the clock ended a training, in words; None if it reached the end of its budget or did not improve."""
    with reading(folder / TRAINING_FILE):
        result = read_json(folder / TRAINING_FILE)
        if result["stopped"] != "time":
            return None
        return f"stopped by time at {result['epochs']:.1f} of {training['epochs']} epochs"


def _check_saved(path: Path | None, model: Path | None) -> None:
    """Refuse to save lists that are a file already, or in a format without a place for what made them."""
    if path is None or (model is not None and path.suffix == ".parquet"):
        return
    what = f"{path.name} is no Parquet file" if model is not None else "the lists are a file already"
    raise ConfigError(what, where="--save-lists", expected="with --model, a name that ends with .parquet")


def _description(folder: Path, dataset: Dataset, result: Result) -> dict[str, Any]:
    """What made the lists of a model, for those who compare them later."""
    recipe = {**read_manifest(folder).config, "decoding": read_json(folder / DECODING_FILE)}
    protocol = result.protocol.model_dump(mode="json")
    return {"system": result.system, "dataset": dataset.fingerprint, "protocol": protocol, "recipe": recipe}
