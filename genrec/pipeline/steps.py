"""The single steps that `genrec run` and the verbs share."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from genrec.artifacts import (
    MANIFEST,
    read_json,
    read_manifest,
    remove_work_folder,
    reserve_folder,
    verify_artifact,
)
from genrec.artifacts.reading import computing, reading
from genrec.artifacts.targets import check_folder_target, check_work_folder, paths_named
from genrec.config import (
    DecodingConfig,
    EvaluationConfig,
    FeaturesConfig,
    RecommenderConfig,
    TokenizerConfig,
    TrainingConfig,
)
from genrec.data import Dataset
from genrec.decoding import generate_lists, session_size_of, use_index
from genrec.decoding.transitions import without_transitions
from genrec.errors import ArtifactError, ConfigError
from genrec.evaluation.protocol import Part, Protocol, Result, score_lists
from genrec.features import ItemFeatures, build_features
from genrec.features.build import build_features_together
from genrec.models import (
    GenerativeRecommender,
    ItemTexts,
    RecommenderModel,
    build_recommender,
    check_texts,
    parse_recommender,
    recommender_class,
)
from genrec.models.extras import ExtraSettings
from genrec.models.registry import embed_command
from genrec.pipeline.catalogue import on_catalogue
from genrec.pipeline.model_folder import STAGE as MODEL_STAGE
from genrec.pipeline.model_folder import (
    TOKENIZER_FOLDER,
    TRAINING_FILE,
    Companions,
    TrainedModel,
    open_model,
    save_model,
    to_device,
)
from genrec.pipeline.resolve import check_vectors, uses_features, uses_texts
from genrec.pipeline.transitions import fit_transitions
from genrec.tokenizers import ItemIndex, ItemTokenizer, fit_tokenizer
from genrec.tokenizers.collisions import count_collisions
from genrec.tokenizers.fit import STAGE as TOKENIZER_STAGE
from genrec.tokenizers.fit import fit_together
from genrec.tokenizers.set_tokens import SetTokenizer
from genrec.training import Estimate, TrainingResult, dry_run, train_recommender
from genrec.training.launch import Launch
from genrec.training.log import MetricsLog
from genrec.training.world import World

logger = logging.getLogger(__name__)

LOG_FILE = "metrics.jsonl"
# Processes that wait for the one that fits a tokenizer may wait for days.
LONGEST_WAIT = timedelta(days=30)
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

    recommender: RecommenderConfig
    training: TrainingConfig
    decoding: DecodingConfig

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """The sections that decide the weights; how lists are decoded later is not among them."""
        recommender = {"name": self.recommender.name, **parse_recommender(self.recommender).model_dump(mode="json")}
        return {"recommender": recommender, "training": self.training.model_dump(mode="json", exclude=HOW)}


def load_features(folder: Path, dataset: Dataset) -> ItemFeatures:
    """Open a ``features`` folder and check that it describes this catalogue.

    Raises:
        ArtifactError: If the folder is missing or changed, or its rows are other items.
    """
    verify_artifact(folder, "features")
    features = ItemFeatures.load(folder)
    if features.item_ids != dataset.item_ids:
        raise _other_items("features", folder, dataset)
    return features


def load_index(folder: Path, dataset: Dataset) -> ItemIndex:
    """Open the identifiers of a ``tokenizer`` folder and check that they name this catalogue.

    Raises:
        ArtifactError: If the folder is missing or changed, or it names other items.
    """
    verify_artifact(folder, "tokenizer")
    index = ItemIndex.load(folder)
    if index.item_ids != dataset.item_ids:
        raise _other_items("tokenizer", folder, dataset)
    return index


def load_tokens(folder: Path) -> np.ndarray:
    """The continuous tokens of the catalogue that a fitted ``set`` tokenizer keeps, float32 ``[N, Q, C]``.

    Raises:
        ConfigError: If the folder's tokenizer has none.
    """
    tokenizer = ItemTokenizer.from_pretrained(folder)
    if not isinstance(tokenizer, SetTokenizer):
        raise ConfigError(
            f"the tokenizer {tokenizer.name!r} has no continuous tokens",
            where=str(folder),
            expected="the tokenizer set",
            fix="set tokenizer.name=set and make the identifiers again (genrec tokenize)",
        )
    return tokenizer.catalogue_tokens


def texts_of(dataset: Dataset) -> ItemTexts:
    """Titles and texts of the catalogue; an item without a title has an empty one, not its id."""
    named = zip(dataset.titles, dataset.item_ids, strict=True)
    return ItemTexts([title if title != item else "" for title, item in named], dataset.item_texts())


def check_data(config: RecommenderConfig, dataset: Dataset) -> None:
    """Refuse a data set without what a recommender reads of histories and items.

    Raises:
        ConfigError: Naming what is missing.
    """
    parse_recommender(config).check_extras(dataset.full())
    if uses_texts(config):
        check_texts(config.name, texts_of(dataset), dataset.num_items)


def tokenize_items(
    config: TokenizerConfig, dataset: Dataset, features: Path, out: Path, *, stability: bool = False
) -> ItemIndex:
    """Fit an item tokenizer on a ``features`` folder and write the ``tokenizer`` folder."""
    check_folder_target(out, TOKENIZER_STAGE, reads=[features])
    return fit_tokenizer(config, dataset, load_features(features, dataset), out, stability=stability)


def tokenize_together(
    config: TokenizerConfig, dataset: Dataset, features: Path, out: Path, *, stability: bool = False
) -> bool:
    """As :func:`tokenize_items`, by all processes that the launcher started; whether this one is to speak."""
    check_folder_target(out, TOKENIZER_STAGE, reads=[features])
    world = Launch.from_environment().join(LONGEST_WAIT)
    if world.size == 1:
        tokenize_items(config, dataset, features, out, stability=stability)
    else:
        fit_together(config, dataset, load_features(features, dataset), out, world, stability=stability)
    return world.leads


def embed_together(config: FeaturesConfig, dataset: Dataset, out: Path) -> bool:
    """Make item vectors by all processes that the launcher started; whether this one is to speak."""
    world = Launch.from_environment().join(LONGEST_WAIT)
    if world.size == 1:
        build_features(config, dataset, out)
    else:
        build_features_together(config, dataset, out, world)
    return world.leads


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
        companions: Folders of the identifiers and of the features, where the family reads them.
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
    reads = [dataset.path, companions.tokenizer, companions.features, *paths_named(plan.recommender.settings)]
    with reserve_folder(out, MODEL_STAGE, reads=reads, lock=world.leads) as place:
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
    identified = recommender_class(plan.recommender.name).needs_identifiers
    companions = Companions(
        companions.tokenizer if identified else None,
        companions.features if identified or uses_features(plan.recommender) else None,
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

    world.from_leader(finish)
    return result


def try_training(plan: TrainingPlan, dataset: Dataset, companions: Companions) -> Estimate:
    """Train a recommender for a moment and say what all of it will take; nothing is written.

    Args:
        plan: What to train.
        dataset: Prepared data.
        companions: Folders of the identifiers and of the features, where the family reads them.

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
    name, config = plan.recommender.name, plan.recommender
    settings = parse_recommender(config)
    settings.check_extras(dataset.full())
    if isinstance(settings, ExtraSettings) and settings.use_user_features and dataset.profiles is not None:
        # Written into the model, which reads these of whatever data set it meets later.
        columns = settings.user_columns or list(dataset.profiles.columns)
        config = config.model_copy(update={"user_columns": columns})
    index, values, tokens = None, None, None
    if recommender_class(name).needs_identifiers:
        command = "genrec tokenize TOKENIZER.yaml --dataset DIR --features DIR --out FOLDER"
        folder = _given(companions.tokenizer, name, "identifiers", "--tokenizer", command)
        index = load_index(folder, dataset)
        tokens = load_tokens(folder) if recommender_class(name).reads_tokens else None
    if uses_features(plan.recommender):
        folder = _given(companions.features, name, "item features", "--features", embed_command(name))
        features = load_features(folder, dataset)
        check_vectors(config, features.description)
        values = features.values
    texts = texts_of(dataset) if uses_texts(plan.recommender) else None
    for source in getattr(settings, "sources", ()):
        _check_trained_on(Path(source), dataset)
    torch.manual_seed(plan.training.seed)
    model = build_recommender(
        config,
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


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a training log; none if there is no log."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


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


def _other_items(stage: str, folder: Path, dataset: Dataset) -> ArtifactError:
    return ArtifactError(
        f"the {stage} folder does not match the data set: its items are others",
        where=str(folder),
        expected=f"the {dataset.num_items} items of {dataset.path}, in their order",
        fix=f"make the {stage} folder again from this data set",
    )
