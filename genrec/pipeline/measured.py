"""What can be compared: the systems of a run, by the lists of its test users, and files of lists by any system."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from genrec.artifacts import file_sha256, read_json, read_manifest
from genrec.artifacts.reading import reading
from genrec.config import EvaluationConfig, load_recipe
from genrec.data import Dataset
from genrec.errors import ArtifactError
from genrec.evaluation.baselines import UNTRAINED
from genrec.evaluation.metrics import checked_ks
from genrec.evaluation.protocol import Protocol, Result, score_lists
from genrec.evaluation.recommendations import measured_description, score_recommendations
from genrec.evaluation.tables import SYSTEMS
from genrec.models import resolve_recommender
from genrec.pipeline.evaluate import stopped_early
from genrec.pipeline.resolve import LEARNED_BASELINE, baseline_recommender, baseline_training
from genrec.pipeline.stage_cache import LEDGER_FILE
from genrec.pipeline.train import HOW, TrainingPlan
from genrec.pipeline.work import (
    BASELINE_LISTS_FILE,
    CONFIG_FILE,
    LEARNED_FOLDER,
    LISTS_FILE,
    METRICS_FILE,
    VARIANT_LISTS_FILE,
    RunFolders,
)

GROUPS = {"baselines": BASELINE_LISTS_FILE, "variants": VARIANT_LISTS_FILE}
# Sections that make a system, and keys in them that change no list.
SECTIONS = ("features", "tokenizer", "recommender", "training", "alignment", "decoding")
WITHOUT_EFFECT = {"training": {*HOW, "max_minutes"}, "decoding": {"batch_size"}}
SAME_FIGURE = 1e-9


@dataclass(frozen=True, eq=False)
class Measured:
    """One set of lists with its figures.

    Attributes:
        source: Where it is from, for messages.
        system: What to call it.
        result: Its figures, and the lists.
        recipe: What made it but for seeds; None if that is not known.
        seeds: The seeds by key; empty where there is none, or none is known.
        has_seed: Whether another seed would have given other lists.
        notes: What a reader must know.
    """

    source: str
    system: str
    result: Result
    recipe: Mapping[str, Any] | None
    seeds: Mapping[str, int]
    has_seed: bool
    notes: tuple[str, ...] = ()


class ListFile:
    """A file of lists.

    Args:
        path: As accepted by ``genrec evaluate --recommendations``; one from ``genrec evaluate --save-lists`` says what
            made it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.description = measured_description(path) if path.is_file() else None

    @property
    def fingerprint(self) -> str | None:
        """Of the data set that the lists were measured on; None if the file does not say."""
        return None if self.description is None else str(self.description.get("dataset"))

    def measure(self, dataset: Dataset, ks: Sequence[int]) -> Measured:
        """Its figures on the test part of a data set.

        Raises:
            DataError: If the file cannot be used.
            ArtifactError: If it was made for another part.
        """
        config = EvaluationConfig(ks=tuple(ks), bootstrap_samples=0)
        result = score_recommendations(self.path, dataset, "test", config)
        if self.description is None:
            return Measured(str(self.path), self.path.stem, result, None, {}, True, result.notes)
        with reading(self.path):
            protocol = Protocol.model_validate(self.description["protocol"])
            recipe, seeds = without_seeds(_effective(self.description["recipe"]))
            name = str(self.description["system"])
        if protocol.part != "test":
            raise ArtifactError(
                f"{self.path} holds lists for the {protocol.part} part",
                expected="the test part",
                fix="measure it there",
            )
        return Measured(str(self.path), name, replace(result, protocol=protocol), recipe, seeds, True)


class RunFolder:
    """A finished run.

    Args:
        path: Folder of ``genrec run``.

    Raises:
        ArtifactError: If it is not finished, or its figures were changed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with reading(path):
            self.work = RunFolders(load_recipe(path / CONFIG_FILE), path)
        self.metrics: dict[str, Any] = read_json(self._sealed("evaluation", METRICS_FILE))

    @cached_property
    def fingerprint(self) -> str:
        """Of the data set that it was measured on, as its ledger says."""
        record = self.work.ledger.records.get("dataset")
        if record is None or len(record.outputs) != 1:
            raise ArtifactError(f"{LEDGER_FILE} does not say on which data set the run was made", where=str(self.path))
        return next(iter(record.outputs.values()))

    @property
    def dataset_folder(self) -> Path:
        """Where its data set is, or was."""
        return self.work.dataset_folder

    def names(self, group: str) -> list[str]:
        """The baselines or variants that it has."""
        return list(self.metrics.get(group, {}))

    def measure(self, dataset: Dataset, ks: Sequence[int]) -> Measured:
        """The figures of the run's own system."""
        with reading(self.path):
            lists = load_file(self._sealed("evaluation", LISTS_FILE))["items"]
            recipe, seeds = without_seeds(self._recipe)
            name, folder = self.work.recipe.recommender.name, self.path / self.work.model_name
            result = self._score(name, lists, self.metrics, folder, dataset, ks)
        return Measured(str(self.path), name, result, recipe, seeds, True)

    def measure_other(self, group: str, name: str, dataset: Dataset, ks: Sequence[int]) -> Measured:
        """The figures of one of its baselines or variants.

        Args:
            group: ``baselines`` or ``variants``.
            name: As in ``metrics.json``.
            dataset: The data set of the run.
            ks: Lengths of list to score.
        """
        values = self.metrics[group][name]
        with reading(self.path):
            stage = "baselines" if group == "baselines" else "evaluation"
            lists = load_file(self._sealed(stage, GROUPS[group]))[name]
            made, folder = self._made(group, name, values)
            recipe, seeds = without_seeds(made)
            result = self._score(name, lists, values, folder, dataset, ks)
        source = f"{self.path}: {name}"
        return Measured(source, SYSTEMS.get(name, name), result, recipe, seeds, name not in UNTRAINED)

    @property
    def _recipe(self) -> dict[str, Any]:
        return _effective(self.work.recipe.model_dump(mode="json"))

    def _made(self, group: str, name: str, values: Mapping[str, Any]) -> tuple[dict[str, Any], Path]:
        """What made a baseline or variant, and the folder of its model."""
        seen = {"exclude_seen": values["protocol"]["exclude_seen"]}
        if group == "variants":
            return {**self._recipe, "variant": name}, self.path / self.work.model_name
        if name == LEARNED_BASELINE:
            recipe, baseline = self.work.recipe, resolve_recommender(baseline_recommender(self.work.recipe))
            plan = TrainingPlan(baseline, baseline_training(recipe), recipe.decoding)
            return _effective(plan.settings) | seen, self.path / LEARNED_FOLDER
        return {"name": name, "settings": values["settings"], **seen}, self.path

    def _sealed(self, stage: str, name: str) -> Path:
        """A file that a stage left, unchanged."""
        path, record = self.path / name, self.work.ledger.records.get(stage)
        command = f"genrec run {self.path / CONFIG_FILE} --out {self.path} --force {stage}"
        if record is None or name not in record.outputs or not path.is_file():
            raise ArtifactError(
                f"{self.path} has no {name} of the stage {stage}",
                expected="a finished run whose lists of the test users are there",
                fix=f"run that stage, by this version of genrec: {command}",
            )
        if file_sha256(path) != record.outputs[name]:
            raise ArtifactError(f"{path} was changed after it was written", fix=f"make it again: {command}")
        return path

    def _score(
        self, name: str, lists: np.ndarray, values: Mapping[str, Any], folder: Path, dataset: Dataset, ks: Sequence[int]
    ) -> Result:
        """Figures of lists, which must be those that were written down when they were made."""
        stored = [int(metric.partition("@")[2]) for metric in values["metrics"] if metric.startswith("recall@")]
        known = [k for k in ks if k <= lists.shape[1]]
        config = EvaluationConfig(ks=tuple(checked_ks([*stored, *known])), bootstrap_samples=0)
        result = score_lists(name, lists, dataset, _protocol(values["protocol"], folder), config)
        for metric, figures in result.evaluation.per_user.items():
            if metric in values["metrics"] and abs(figures.mean() - values["metrics"][metric]) > SAME_FIGURE:
                raise ArtifactError(
                    f"the lists of {name} give {metric} {figures.mean():.6f}, {METRICS_FILE} says "
                    f"{values['metrics'][metric]:.6f}",
                    where=str(self.path),
                    expected="lists, figures and data set of one run",
                    fix=f"measure again: genrec run {self.path / CONFIG_FILE} --out {self.path} --force evaluation",
                )
        return result


def without_seeds(settings: Any) -> tuple[Any, dict[str, int]]:
    """Settings without the keys ``seed`` and ``..._seed`` however deep in them, and these by their path."""
    seeds: dict[str, int] = {}

    def strip(value: Any, place: str) -> Any:
        if isinstance(value, Mapping):
            seeds.update({f"{place}{key}": inner for key, inner in value.items() if _is_seed(key)})
            return {key: strip(inner, f"{place}{key}.") for key, inner in value.items() if not _is_seed(key)}
        if isinstance(value, list | tuple):
            return [strip(inner, f"{place}{number}.") for number, inner in enumerate(value)]
        return value

    return strip(settings, ""), seeds


def _is_seed(key: object) -> bool:
    return key == "seed" or str(key).endswith("_seed")


def _effective(sections: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that lists depend on."""
    return {
        name: {key: value for key, value in sections[name].items() if key not in WITHOUT_EFFECT.get(name, ())}
        for name in SECTIONS
        if name in sections
    }


def _protocol(values: Mapping[str, Any], folder: Path) -> Protocol:
    """Conditions as they were written down; earlier versions did not write whether the training was finished."""
    protocol = Protocol.model_validate(values)
    if "stopped" not in values and (folder / "training.json").is_file():
        training = read_manifest(folder, "model").config["training"]
        protocol = protocol.model_copy(update={"stopped": stopped_early(folder, training)})
    return protocol
