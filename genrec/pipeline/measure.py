"""Measuring a model or a file of lists, for ``genrec evaluate``."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from genrec.artifacts import read_json, read_manifest, reserve_file
from genrec.artifacts.marks import write_result
from genrec.config import EvaluationConfig
from genrec.data import Dataset
from genrec.errors import ConfigError
from genrec.evaluation.protocol import Part, Result, metrics_json
from genrec.evaluation.recommendations import score_recommendations, write_measured
from genrec.pipeline.model_folder import DECODING_FILE
from genrec.pipeline.steps import measure_model


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
