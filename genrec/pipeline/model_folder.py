"""The ``model`` folder: everything that lists need, so that this folder alone can recommend.

``config.json`` and ``model.safetensors`` (transformers), ``items.parquet`` (row i is dense item i: item_id, title and
the columns of the data set's items, so that lists can be filtered by them; very large columns are there but empty),
``decoding.json`` (how lists are written), ``training.json`` (how it learned), ``experts.json`` (which experts serve
what, where there are any), ``transitions.safetensors`` and ``transitions.json`` (links between items for
``decoding.transition_weight``, where it has them), ``tokenizer/`` (a copy of the item tokenizer), ``encoder/`` (a copy
of the feature encoder, where it is small). The model card ``README.md`` is written after the evaluation and may be
edited: it is the one file that the manifest does not name.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch
from transformers.utils import logging as progress

from genrec.artifacts import (
    MANIFEST,
    Manifest,
    read_json,
    read_manifest,
    stamped,
    verify_artifact,
    write_artifact,
    write_file,
    write_json,
)
from genrec.artifacts.manifest import CARD, check_files
from genrec.artifacts.marks import without_stamp
from genrec.artifacts.reading import computing, copy_plain, plain_files, reading
from genrec.config import DecodingConfig, parse_settings
from genrec.data import Dataset
from genrec.data.arrow import write_parquet
from genrec.data.dataset import titles_of
from genrec.data.parquet import read_parquet
from genrec.decoding import use_index
from genrec.decoding.transitions import Transitions, use_transitions
from genrec.errors import ArtifactError, ConfigError
from genrec.evaluation.experts import measure_experts
from genrec.models import GenerativeRecommender, RecommenderModel, load_recommender
from genrec.tokenizers import ItemIndex, ItemTokenizer
from genrec.tokenizers.families.set_tokens import SetTokenizer
from genrec.tokenizers.index import CODES_FILE, INDEX_FILE
from genrec.tokenizers.trie.file import TRIE_FILE

if TYPE_CHECKING:
    from genrec.training import TrainingResult

STAGE = "model"
ITEMS_FILE = "items.parquet"
DECODING_FILE = "decoding.json"
TRAINING_FILE = "training.json"
EXPERTS_FILE = "experts.json"
TOKENIZER_FOLDER = "tokenizer"
ENCODER_FOLDER = "encoder"
# What belongs to the weights of a model folder: another model made of it writes these anew.
WRITTEN_ANEW = (MANIFEST, CARD, EXPERTS_FILE, "config.json", "model.safetensors")
MAX_ENCODER_BYTES = 64 * 2**20
MAX_COLUMN_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """What a model folder holds.

    Attributes:
        model: In eval mode.
        items: Row i is dense item i; columns item_id and title.
        decoding: How lists are written where nothing else is said.
        manifest: What it was made from.
        folder: Where it was opened.
        transitions: Links between items that its lists can use; None where it has none.
    """

    model: RecommenderModel
    items: pl.DataFrame
    decoding: DecodingConfig
    manifest: Manifest
    folder: Path
    transitions: Transitions | None = None

    @property
    def item_ids(self) -> list[str]:
        """External id of every dense item."""
        return self.items["item_id"].to_list()

    def check_catalogue(self, dataset: Dataset) -> None:
        """Refuse a data set whose items are not those of the model, in its order.

        Raises:
            ArtifactError: If they differ.
        """
        if dataset.item_ids == self.item_ids:
            return
        raise ArtifactError(
            "the data set does not match the model: they number different items",
            where=str(dataset.path),
            expected=f"the {self.items.height} items that the model was trained on, found {dataset.num_items}",
            fix="use the data set that the model was trained on, or train on this one",
        )


@dataclass(frozen=True)
class Companions:
    """Folders of earlier stages that travel with a model.

    Attributes:
        tokenizer: The ``tokenizer`` folder; None for models that score items.
        features: The ``features`` folder, for its encoder; None where there is none.
    """

    tokenizer: Path | None = None
    features: Path | None = None


def save_model(
    out: Path,
    model: RecommenderModel,
    dataset: Dataset,
    companions: Companions,
    *,
    decoding: DecodingConfig,
    result: "TrainingResult",
    settings: dict[str, Any],
    transitions: Transitions | None = None,
) -> None:
    """Write a ``model`` folder.

    Args:
        out: The folder.
        model: With the weights to keep.
        dataset: What it was trained on.
        companions: Folders to copy from.
        decoding: How lists are written by default.
        result: How it learned.
        settings: Sections ``recommender`` and ``training``, for the manifest.
        transitions: Links between items for its lists.

    Raises:
        ArtifactError: If the place cannot be written or the disk is full.
    """
    inputs, experts = {"dataset": dataset.fingerprint}, measure_experts(model, dataset)
    if companions.features is not None:
        settings = settings | {"features": read_manifest(companions.features).config}
    if transitions is not None:
        settings = settings | {"transitions": transitions.description}
    if companions.tokenizer is not None:
        inputs["tokenizer"] = model.config.index_fingerprint
    with write_artifact(out, STAGE, config=settings, inputs=inputs, seed=settings["training"]["seed"]) as folder:
        with quietly():
            model.save_pretrained(folder.path)
        write_parquet(catalogue_of(dataset.items), folder.path / ITEMS_FILE)
        write_json(folder.path / DECODING_FILE, decoding.model_dump(mode="json"))
        write_json(folder.path / TRAINING_FILE, asdict(result))
        if transitions is not None:
            transitions.save(folder.path)
        if experts is not None:
            write_json(folder.path / EXPERTS_FILE, experts)
        if companions.tokenizer is not None:
            copy_plain(companions.tokenizer, folder.path / TOKENIZER_FOLDER)
        if companions.features is not None:
            copy_if_small(companions.features / ENCODER_FOLDER, folder.path / ENCODER_FOLDER)
        folder.counts = {
            "items": dataset.num_items,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "steps": result.steps,
        }


def open_model(path: str | Path, *, device: str | None = None, verify: bool = True) -> TrainedModel:
    """Open a ``model`` folder.

    Args:
        path: The folder.
        device: Where the model runs, such as ``cuda``; a GPU if there is one by default.
        verify: Check every file against its hash first. Names are checked in any case: what the manifest does not
            name is not read.

    Raises:
        ArtifactError: If the folder is missing, incomplete or changed, holds files that its manifest does not name, or
            its parts do not belong together.
        ConfigError: If there is no such device.
    """
    folder = Path(path)
    with reading(folder):
        manifest = verify_artifact(folder, STAGE) if verify else read_manifest(folder, STAGE)
        if not verify:
            check_files(folder, manifest)
        model, items, index, decoding = _read_parts(folder, manifest)
        transitions = Transitions.load(folder, model.config.num_items)
    model = to_device(model, device)
    if isinstance(model, GenerativeRecommender) and index is not None and index.kind == "sequence":
        use_index(model, index)
    use_transitions(model, transitions)
    return TrainedModel(model, items, decoding, manifest, folder, transitions)


def _read_parts(
    folder: Path, manifest: Manifest
) -> tuple[RecommenderModel, pl.DataFrame, ItemIndex | None, DecodingConfig]:
    """What the files of a model folder hold, each compared with the others."""
    with quietly():
        model = load_recommender(folder)
    _check_manifest(manifest, model, folder)
    items = read_items(folder, ("item_id", "title"))
    if items.height != model.config.num_items:
        raise ArtifactError(
            f"{ITEMS_FILE} has {items.height} items, the model {model.config.num_items}",
            where=str(folder),
            fix="restore the folder, or train again",
        )
    _check_item_ids(items, folder)
    index = ItemIndex.load(folder / TOKENIZER_FOLDER) if model.needs_semantic_ids else None
    if index is not None:
        _check_index(index, model, items["item_id"].to_list(), folder)
        _check_derived(index, model, folder)
    decoding = parse_settings(DecodingConfig, read_json(folder / DECODING_FILE), where=str(folder / DECODING_FILE))
    return model, items, index, decoding


def catalogue_of(items: pl.DataFrame) -> pl.DataFrame:
    """What a model folder keeps of items: all columns, very large ones empty, and a title for each."""
    large = [name for name in items.columns if items[name].estimated_size() > MAX_COLUMN_BYTES]
    emptied = [pl.lit(None, items.schema[name]).alias(name) for name in large if name != "item_id"]
    return items.with_columns(*emptied, titles_of(items))


def read_items(folder: Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """The catalogue of a model folder; row i is dense item i.

    Args:
        folder: A model folder.
        columns: Which columns; all if None.

    Raises:
        ArtifactError: If it cannot be read.
    """
    with reading(folder / ITEMS_FILE):
        try:
            return read_parquet(folder / ITEMS_FILE, columns)
        except pl.exceptions.PolarsError as error:
            problem = str(error).splitlines()[0]
            raise ArtifactError(
                f"{ITEMS_FILE} cannot be read: {problem}", where=str(folder), fix="restore the folder, or train again"
            ) from error


def to_device(model: RecommenderModel, device: str | None) -> RecommenderModel:
    """The model on a device, by default on a GPU if there is one.

    Raises:
        ConfigError: If there is no such device.
    """
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return model.to(torch.device(name))  # type: ignore[arg-type]
    except (RuntimeError, AssertionError) as error:
        problem = str(error).splitlines()[0]
        raise ConfigError(f"the device {name!r} cannot be used: {problem}", expected="cpu, cuda, cuda:1 ...") from error


@contextmanager
def quietly() -> Iterator[None]:
    """Without the progress bars that transformers shows for one small file."""
    shown = progress.is_progress_bar_enabled()
    progress.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            progress.enable_progress_bar()


def _check_index(index: ItemIndex, model: RecommenderModel, item_ids: list[str], folder: Path) -> None:
    if index.fingerprint == model.config.index_fingerprint and index.item_ids == item_ids:
        return
    raise ArtifactError(
        "the tokenizer does not match the model",
        where=str(folder / TOKENIZER_FOLDER),
        expected=f"the item index {model.config.index_fingerprint[:16]}..., found {index.fingerprint[:16]}...",
        fix="put back the tokenizer that the model was trained with, or train again with this one",
    )


def _check_manifest(manifest: Manifest, model: RecommenderModel, folder: Path) -> None:
    """What verbs read of the manifest's settings is there and agrees with the model."""
    name, training = manifest.config["recommender"]["name"], manifest.config["training"]
    told = isinstance(training["metric"], str) and isinstance(training["seed"], int)
    if name == model.config.family and told and isinstance(manifest.config.get("features", {}), dict):
        return
    raise ArtifactError(
        f"the manifest tells of the recommender {name!r} with the metric {training['metric']!r}",
        where=str(folder),
        expected=f"the recommender {model.config.family!r}, as in config.json, and how it was trained",
        fix="restore the folder, or train again",
    )


def _check_item_ids(items: pl.DataFrame, folder: Path) -> None:
    ids = items["item_id"]
    texts = ids.dtype == pl.String and items["title"].dtype == pl.String
    if texts and not ids.null_count() and ids.n_unique() == len(ids):
        return
    raise ArtifactError(
        f"{ITEMS_FILE} does not name the items",
        where=str(folder),
        expected="item_id and title as texts, every item_id once",
        fix="restore the folder, or train again",
    )


def _check_derived(index: ItemIndex, model: RecommenderModel, folder: Path) -> None:
    """What the model keeps of the semantic IDs is what the tokenizer says."""
    config, wrong = model.config, ""
    if list(index.level_sizes) != config.level_sizes or index.variable_length != config.variable_length:
        wrong = f"levels {config.level_sizes}"
    elif isinstance(model, GenerativeRecommender) and not np.array_equal(model.item_codes.numpy(), index.codes):
        wrong = "other codes of items"
    elif model.reads_tokens and not _has_tokens_of(model, folder / TOKENIZER_FOLDER):
        wrong = "other tokens of items"
    if wrong:
        raise ArtifactError(
            f"the tokenizer does not match the model, which has {wrong}",
            where=str(folder / TOKENIZER_FOLDER),
            expected=f"the levels {list(index.level_sizes)} and codes of {folder / TOKENIZER_FOLDER}",
            fix="put back the tokenizer that the model was trained with, or train again with this one",
        )


def _has_tokens_of(model: RecommenderModel, tokenizer: Path) -> bool:
    """Whether the continuous tokens that a model keeps are those of the tokenizer, up to rounding."""
    fitted, kept = ItemTokenizer.from_pretrained(tokenizer), model.get_buffer("tokens")
    if not isinstance(fitted, SetTokenizer):
        return False
    stored = kept.clone()
    model.set_item_tokens(torch.tensor(fitted.catalogue_tokens))
    same = torch.allclose(stored, kept, atol=1e-4)
    kept.copy_(stored)
    return same


def copy_if_small(source: Path, target: Path) -> None:
    """Copy a folder, unless it is missing or so large that a model folder should not carry it."""
    if not source.is_dir():
        return
    if sum((source / name).stat().st_size for name in plain_files(source)) <= MAX_ENCODER_BYTES:
        copy_plain(source, target)


def write_changed_model(
    out: Path,
    trained: TrainedModel,
    model: GenerativeRecommender,
    index: ItemIndex,
    items: pl.DataFrame,
    *,
    changed: dict[str, int],
    sources: dict[str, str],
    encoder: Path,
    transitions: Transitions | None = None,
) -> None:
    """Write a model folder with another catalogue.

    Args:
        out: The folder to write.
        trained: The model as it was.
        model: The model of the new catalogue.
        index: The new catalogue.
        items: What is known of its items; row i is dense item i.
        changed: Counts of items, such as ``added_items``; the manifest's configuration tells them in all.
        sources: Fingerprints of what the folder was made from.
        encoder: Folder of the feature encoder.
        transitions: The model's links between items, those of the new catalogue; None where it has none.

    Raises:
        ArtifactError: If the folder cannot be written.
    """
    manifest, source = trained.manifest, trained.folder
    with computing(source):
        totals = {name: int(manifest.config.get(name, 0)) + count for name, count in changed.items()}
    inputs = {**manifest.inputs, "tokenizer": index.fingerprint, **sources}
    with write_artifact(out, STAGE, config={**manifest.config, **totals}, inputs=inputs, seed=manifest.seed) as folder:
        with quietly():
            model.save_pretrained(folder.path)
        write_parquet(items, folder.path / ITEMS_FILE)
        for name in (DECODING_FILE, TRAINING_FILE):
            copy_plain(source / name, folder.path / name)
        if transitions is not None:
            transitions.save(folder.path)
        copy_if_small(encoder, folder.path / ENCODER_FOLDER)
        _write_tokenizer(source / TOKENIZER_FOLDER, index, folder.path / TOKENIZER_FOLDER)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        folder.counts = {**manifest.counts, "items": index.num_items, "parameters": parameters}


def add_to_card(model: Path, out: Path, note: str) -> None:
    """Copy the model card with a section more; a model that was not measured has none."""
    if not (model / CARD).is_file():
        return
    with reading(model / CARD):
        card = without_stamp((model / CARD).read_text(encoding="utf-8"))
    with write_file(out / CARD) as path:
        path.write_text(stamped(f"{card}\n{note}\n"), encoding="utf-8")


def _write_tokenizer(source: Path, index: ItemIndex, out: Path) -> None:
    """A copy of the tokenizer with the other index; its quality report stays that of the fit."""
    manifest = read_manifest(source)
    rewritten = {MANIFEST, CODES_FILE, INDEX_FILE, TRIE_FILE}
    with write_artifact(
        out, manifest.stage, config=manifest.config, inputs=manifest.inputs, seed=manifest.seed
    ) as folder:
        copy_plain(source, folder.path, leave_out=rewritten)
        index.save(folder.path)
        folder.counts = {**manifest.counts, "items": index.num_items}
