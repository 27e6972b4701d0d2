"""``genrec train``: an untrained model from a plan and its companion folders, trained into a ``model`` folder."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from genrec.artifacts import read_manifest, remove_work_folder, reserve_folder, verify_artifact
from genrec.artifacts.targets import check_work_folder, paths_named
from genrec.config import DecodingConfig, TrainingConfig
from genrec.data import Dataset
from genrec.decoding import use_index
from genrec.decoding.transitions import without_transitions
from genrec.distributed.launch import Launch
from genrec.distributed.world import World
from genrec.errors import ArtifactError, ConfigError
from genrec.models import (
    GenerativeRecommender,
    ItemTexts,
    RecommenderModel,
    ResolvedRecommender,
    build_recommender,
    check_texts,
)
from genrec.models.registry import embed_command
from genrec.models.side_inputs import SideInputSettings
from genrec.pipeline.add_transitions import fit_transitions
from genrec.pipeline.embed import load_features
from genrec.pipeline.model_folder import STAGE as MODEL_STAGE
from genrec.pipeline.model_folder import Companions, save_model, to_device
from genrec.pipeline.resolve import check_vectors
from genrec.pipeline.tokenize import load_index, load_tokens
from genrec.training import Estimate, TrainingResult, dry_run, train_recommender
from genrec.training.log import MetricsLog

LOG_FILE = "metrics.jsonl"
# Settings of training that choose no number of it.
HOW = {"num_workers", "gradient_checkpointing", "expert_parallel"}


@dataclass(frozen=True)
class TrainingPlan:
    """What to train and how.

    Attributes:
        recommender: Family and settings.
        training: The recipe's section.
        decoding: How validation lists are written; the model's default later.
    """

    recommender: ResolvedRecommender
    training: TrainingConfig
    decoding: DecodingConfig

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """The sections that decide the weights; how lists are decoded later is not among them."""
        return {
            "recommender": self.recommender.described,
            "training": self.training.model_dump(mode="json", exclude=HOW),
        }


def train_model(
    plan: TrainingPlan,
    dataset: Dataset,
    companions: Companions,
    out: Path,
    *,
    checkpoints: Path | None = None,
    log: Path | None = None,
    console: Console | None = None,
) -> TrainingResult:
    """Train a recommender and write the ``model`` folder; the same call again continues after an interruption.

    Args:
        plan: What to train.
        dataset: Prepared data.
        companions: Folders of the semantic IDs and of the features, where the family reads them.
        out: The ``model`` folder.
        checkpoints: Private folder of checkpoints, removed at the end; ``OUT.checkpoints`` by default.
        log: File of one record per epoch and validation; ``OUT.metrics.jsonl`` by default.
        console: Where progress is shown.

    Raises:
        ConfigError: If a folder that the family reads is not given, or ``out`` must not be written.
        ArtifactError: If the folders do not belong together or cannot be written.
    """
    launch = Launch.from_environment()
    launch.check(plan.training)
    world = launch.join()
    reads = [
        dataset.path,
        companions.tokenizer,
        companions.features,
        *paths_named(plan.recommender.settings.model_dump()),
    ]
    with reserve_folder(out, MODEL_STAGE, reads=reads, lock=world.is_main) as place:
        checkpoints = checkpoints or place.with_name(f"{place.name}.checkpoints")
        log = log or place.with_name(f"{place.name}.{LOG_FILE}")
        check_work_folder(checkpoints)
        MetricsLog(log).check()
        return _train_model(plan, dataset, companions, place, world, checkpoints=checkpoints, log=log, console=console)


def _train_model(
    plan: TrainingPlan,
    dataset: Dataset,
    companions: Companions,
    out: Path,
    world: World,
    *,
    checkpoints: Path,
    log: Path,
    console: Console | None,
) -> TrainingResult:
    model = new_model(plan, dataset, companions)
    alone = without_transitions(plan.decoding)
    result = train_recommender(model, dataset, plan.training, alone, checkpoints, log=log, console=console)
    identified = plan.recommender.needs_semantic_ids
    companions = Companions(
        companions.tokenizer if identified else None,
        companions.features if identified or plan.recommender.reads_features else None,
    )

    def finish() -> None:
        links = fit_transitions(model, dataset, plan.decoding) if plan.decoding.transition_weight else None
        save_model(
            out,
            model,
            dataset,
            companions,
            decoding=plan.decoding,
            result=result,
            settings=plan.settings,
            transitions=links,
        )
        remove_work_folder(checkpoints)

    world.run_on_main(finish)
    return result


def try_training(plan: TrainingPlan, dataset: Dataset, companions: Companions) -> Estimate:
    """Train a recommender for a moment and say what all of it will take; nothing is written.

    Args:
        plan: What to train.
        dataset: Prepared data.
        companions: Folders of the semantic IDs and of the features, where the family reads them.

    Raises:
        ConfigError: If a folder that the family reads is not given.
        ArtifactError: If the folders do not belong together.
        MemoryExhaustedError: If not even one user at a time fits.
    """
    return dry_run(new_model(plan, dataset, companions), dataset, plan.training)


def new_model(plan: TrainingPlan, dataset: Dataset, companions: Companions) -> RecommenderModel:
    """An untrained model whose weights depend on nothing but the plan, the catalogue and the seed.

    Raises:
        ConfigError: If a folder that the family reads is not given, or the data set lacks what it reads of histories.
        ArtifactError: If the folders do not belong to the data set.
    """
    name, recommender, settings = plan.recommender.name, plan.recommender, plan.recommender.settings
    settings.check_side_inputs(dataset.full())
    if isinstance(settings, SideInputSettings) and settings.use_user_features and dataset.profiles is not None:
        # Written into the model, which reads these of whatever data set it meets later.
        columns = settings.user_columns or list(dataset.profiles.columns)
        recommender = replace(recommender, settings=settings.model_copy(update={"user_columns": columns}))
    index, values, tokens = None, None, None
    if recommender.needs_semantic_ids:
        command = "genrec tokenize TOKENIZER.yaml --dataset DIR --features DIR --out FOLDER"
        folder = _given(companions.tokenizer, name, "semantic IDs", "--tokenizer", command)
        index = load_index(folder, dataset)
        tokens = load_tokens(folder) if recommender.family.reads_tokens else None
    if plan.recommender.reads_features:
        folder = _given(companions.features, name, "item features", "--features", embed_command(name))
        features = load_features(folder, dataset)
        check_vectors(recommender, features.description)
        values = features.values
    texts = texts_of(dataset) if plan.recommender.reads_texts else None
    for source in settings.sources:
        _check_trained_on(Path(source), dataset)
    torch.manual_seed(plan.training.seed)
    model = build_recommender(
        recommender,
        num_items=dataset.num_items,
        index=index,
        features=values,
        tokens=tokens,
        texts=texts,
        histories=dataset.train(),
    )
    model = to_device(model, None)
    if index is not None and isinstance(model, GenerativeRecommender) and not model.supports_parallel:
        use_index(model, index)
    return model


def check_data(recommender: ResolvedRecommender, dataset: Dataset) -> None:
    """Refuse a data set without what a recommender reads of histories and items.

    Raises:
        ConfigError: Naming what is missing.
    """
    recommender.settings.check_side_inputs(dataset.full())
    if recommender.reads_texts:
        check_texts(recommender.name, texts_of(dataset), dataset.num_items)


def texts_of(dataset: Dataset) -> ItemTexts:
    """Titles and texts of the catalogue; an item without a title has an empty one, not its id."""
    named = zip(dataset.titles, dataset.item_ids, strict=True)
    return ItemTexts([title if title != item else "" for title, item in named], dataset.item_texts())


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a training log; none if there is no log."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def _given(folder: Path | None, name: str, what: str, option: str, command: str) -> Path:
    if folder is None:
        raise ConfigError(
            f"the recommender {name!r} reads {what} and none were given",
            expected=f"{option} FOLDER",
            fix=f"make the folder ({command}) and give it as {option}, or choose a recommender that does without",
        )
    return folder


def _check_trained_on(folder: Path, dataset: Dataset) -> None:
    """Refuse a model to build on that was trained on other data: what is held out here may have been training there."""
    verify_artifact(folder, "model")
    if read_manifest(folder, "model").inputs.get("dataset") != dataset.fingerprint:
        raise ArtifactError(
            f"the model in {folder} was trained on another data set",
            where="recommender",
            expected=f"the data set {dataset.fingerprint[:16]}..., prepared with the same settings and split",
            fix="train it on this data set: interactions held out here may have been training there",
        )
