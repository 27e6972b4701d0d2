"""The catalogue of a trained model, changed without training: items added, items removed, or all items replaced.

``genrec add-items``: the model folder's own encoder makes the vectors of new items, its own tokenizer their codes; both
were fitted before these items existed. Semantic IDs and numbers of the old items stay as they are.

``genrec remove-items``: the trie loses the leaves of removed items and every node that leads to nothing else; the other
items keep their semantic IDs and move up in their order.

:func:`on_catalogue` takes the items of another data set instead, for zero-shot evaluation and serving.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from genrec.artifacts import read_manifest, reserve_folder, verify_artifact
from genrec.artifacts.reading import computing
from genrec.data import Dataset
from genrec.data.dataset import titles_of
from genrec.data.readers import read_item_ids, read_table, table_sha256
from genrec.data.schema import tidy_items
from genrec.decoding import use_index
from genrec.decoding.transitions import without_transitions
from genrec.errors import ArtifactError, DataError, first_rows
from genrec.features import FeatureEncoder, ItemFeatures, load_encoder
from genrec.features.build import ENCODER_FOLDER
from genrec.models.resize_catalogue import extend_recommender, extendable, replace_catalogue, shrink_recommender
from genrec.pipeline.model_folder import (
    STAGE,
    TOKENIZER_FOLDER,
    TrainedModel,
    add_to_card,
    catalogue_of,
    open_model,
    read_items,
    write_changed_model,
)
from genrec.tokenizers import ItemIndex, ItemTokenizer
from genrec.tokenizers.collisions import Catalogue, group_of
from genrec.tokenizers.placement import place_catalogue, place_new_items

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Added:
    """What was added.

    Attributes:
        items: How many items.
        sharing: How many of them share their semantic ID with another item.
    """

    items: int
    sharing: int


def add_new_items(model: Path, items: Path, out: Path, *, features: Path | None = None) -> Added:
    """Write a model folder whose catalogue holds further items.

    Args:
        model: A model folder; it stays as it is.
        items: Table of the new items, with the columns that the items of the training data had.
        out: The folder to write.
        features: A ``features`` folder with the encoder, where the model folder has none.

    Raises:
        ConfigError: If the family scores items that it was trained on, or ``out`` must not be written.
        DataError: If the table cannot be used, names items of the catalogue, or the items cannot be encoded.
        ArtifactError: If a folder cannot be used or written.
    """
    with reserve_folder(out, STAGE, reads=[model, items, features]) as place:
        return _add_new_items(model, items, place, features)


def _add_new_items(model: Path, items: Path, out: Path, features: Path | None) -> Added:
    trained = open_model(model, device="cpu")
    extendable(trained.model)
    known = read_items(model)
    frame = _new_items(items, known)
    encoder = encoder_of(model, features)
    with computing((features or model) / ENCODER_FOLDER):
        values = np.asarray(encoder.transform(frame), dtype=np.float32)
    nothing = int((values == 0).all(axis=1).sum())
    if nothing:
        logger.warning("%d new items have nothing that the encoder knows: their semantic IDs say nothing", nothing)
    with computing(model / TOKENIZER_FOLDER):
        index = _extend_index(model / TOKENIZER_FOLDER, frame, values)
    added = Added(frame.height, _count_sharing(index, known.height))
    larger = extend_recommender(trained.model, index, values)
    table = pl.concat([known, frame.with_columns(titles_of(frame))])
    write_changed_model(
        out,
        trained,
        larger,
        index,
        table,
        changed={"added_items": added.items},
        sources={"model": trained.manifest.fingerprint, "new items": table_sha256(items)},
        encoder=(features or model) / ENCODER_FOLDER,
        transitions=trained.transitions and trained.transitions.extended(added.items),
    )
    shared = f"; {added.sharing} of them share a semantic ID with another item" if added.sharing else ""
    add_to_card(
        model,
        out,
        f"## Items added without training\n\n{added.items:,} items of `{items.name}` were named by the encoder and the "
        f"tokenizer of this folder{shared}. The results above were measured without them.",
    )
    return added


def remove_known_items(model: Path, items: Path, out: Path) -> int:
    """Write a model folder whose catalogue lacks some items.

    Args:
        model: A model folder; it stays as it is.
        items: A table with item_id, or a ``.txt`` file of one id per line.
        out: The folder to write.

    Returns:
        How many items were removed.

    Raises:
        ConfigError: If the family scores items that it was trained on, or ``out`` must not be written.
        DataError: If the list cannot be used, names items that the model does not know, or leaves none.
        ArtifactError: If a folder cannot be used or written.
    """
    with reserve_folder(out, STAGE, reads=[model, items]) as place:
        return _remove_known_items(model, items, place)


def _remove_known_items(model: Path, items: Path, out: Path) -> int:
    trained = open_model(model, device="cpu")
    recommender = extendable(trained.model)
    known = read_items(model)
    gone = _numbers(read_item_ids(items), known["item_id"].to_list(), items)
    index = ItemIndex.load(model / TOKENIZER_FOLDER).without(gone)
    kept = np.ones(known.height, dtype=np.bool_)
    kept[gone] = False
    write_changed_model(
        out,
        trained,
        shrink_recommender(recommender, index, kept),
        index,
        known.filter(kept),
        changed={"removed_items": len(gone)},
        sources={"model": trained.manifest.fingerprint, "removed items": table_sha256(items)},
        encoder=model / ENCODER_FOLDER,
        transitions=trained.transitions and trained.transitions.without(kept),
    )
    add_to_card(
        model,
        out,
        f"## Items removed without training\n\n{len(gone):,} items of `{items.name}` were taken out of the catalogue. "
        "The results above were measured with them.",
    )
    return len(gone)


def on_catalogue(trained: TrainedModel, dataset: Dataset, *, features: Path | None = None) -> TrainedModel:
    """The model for the items of another data set; nothing is learned, and nothing but the items' own columns is read.

    Args:
        trained: Of a family without weights that belong to single items.
        dataset: Its items are the catalogue.
        features: The ``features`` folder of the model's training, where the model folder has no encoder.

    Raises:
        ConfigError: If the model keeps what it learned of single items, or scores only these.
        DataError: If the items cannot be encoded or named.
        ArtifactError: If there is no encoder.
    """
    model = extendable(trained.model)
    tokenizer = open_tokenizer(trained.folder / TOKENIZER_FOLDER)
    encoder = encoder_of(trained.folder, features)
    with computing((features or trained.folder) / ENCODER_FOLDER):
        values = np.asarray(encoder.transform(dataset.items), dtype=np.float32)
    nothing = int((values == 0).all(axis=1).sum())
    if nothing:
        logger.warning("%d items have nothing that the encoder knows: their semantic IDs say nothing", nothing)
    check_width(tokenizer, values, trained.folder / TOKENIZER_FOLDER)
    with computing(trained.folder / TOKENIZER_FOLDER):
        index = name_catalogue(tokenizer, dataset, values, model.level_sizes)
    model = replace_catalogue(model, index, values)
    if index.kind == "sequence" and not model.supports_parallel:
        use_index(model, index)
    if trained.decoding.transition_weight:
        logger.warning("the model's transitions are between items of its own catalogue: its lists do without them here")
    decoding = without_transitions(trained.decoding)
    return TrainedModel(model, catalogue_of(dataset.items), decoding, trained.manifest, trained.folder)


def name_catalogue(tokenizer: ItemTokenizer, dataset: Dataset, values: np.ndarray, level_sizes: list[int]) -> ItemIndex:
    """Semantic IDs of a catalogue that the tokenizer was not fitted on.

    Args:
        tokenizer: Fitted on another catalogue.
        dataset: Its items are named; no one's interactions are read.
        values: float32 ``[N, D]``, their vectors.
        level_sizes: Codebook sizes of the model, suffixes included.

    Raises:
        DataError: If the items collide and the tokenizer's policy does not allow it.
    """
    codes = tokenizer.encode_items(dataset.items, values)
    catalogue = Catalogue(
        item_ids=dataset.item_ids,
        popularity=np.zeros(len(codes), dtype=np.int64),
        last_level_costs=lambda rows: tokenizer.last_level_costs(values[rows], codes[rows]),
    )
    named = place_catalogue(tokenizer.settings.collisions, codes, level_sizes, catalogue)
    shared = named.priority if named.priority.any() else None
    return ItemIndex(named.codes, named.level_sizes, dataset.item_ids, tokenizer.kind, shared)


def encoder_of(model: Path, features: Path | None) -> FeatureEncoder:
    """The feature encoder that a model was trained with.

    An encoder in a model folder reads nothing outside of it: who trained the model would choose what is read, or run,
    here. An encoder that does is taken from a ``features`` folder that the user names.

    Args:
        model: A model folder.
        features: The ``features`` folder of its training, where the model folder has no encoder or one that reads files
            of its own.

    Raises:
        ArtifactError: If there is none, it reads other files, or the features are not those of the training.
    """
    folder = (features or model) / ENCODER_FOLDER
    if not folder.is_dir():
        raise ArtifactError(
            "there is no feature encoder, so that new items cannot get vectors",
            where=str(features or model),
            expected=f"the folder {ENCODER_FOLDER}, which a model folder has unless it is large",
            fix="give the features folder that the model was trained with: --features FOLDER",
        )
    if features is not None:
        verify_artifact(features, "features")
        trained_on = read_manifest(model / TOKENIZER_FOLDER).inputs.get("features")
        if ItemFeatures.load(features).fingerprint != trained_on:
            raise ArtifactError(
                "these features are not those that the model was trained with",
                where=str(features),
                expected=f"features {str(trained_on)[:16]}...",
                fix="give the features folder of the model's own run",
            )
    encoder = load_encoder(folder)
    outside = encoder.outside_paths()
    if outside and features is None:
        raise ArtifactError(
            f"the encoder {encoder.name!r} of the model folder reads {outside[0]!r}, which is not part of the folder",
            where=str(folder),
            expected="an encoder that needs no other file, or a sentence model by its name on the hub",
            fix="if you trust it, give the features folder that the model was trained with: --features FOLDER",
        )
    return encoder


def open_tokenizer(folder: Path) -> ItemTokenizer:
    """The tokenizer of a folder, if it has codes for items that it was not fitted on.

    Raises:
        DataError: If it has none.
        ArtifactError: If the folder cannot be used.
    """
    tokenizer = ItemTokenizer.from_pretrained(folder)
    if not tokenizer.encodes_new_items:
        raise DataError(
            f"the tokenizer {tokenizer.name!r} has no codes for items that it was not fitted on",
            where=str(folder),
            expected="a tokenizer that reads vectors or texts, such as rqkmeans or rqvae",
            fix="train again with the new items, or with another tokenizer",
        )
    return tokenizer


def check_width(tokenizer: ItemTokenizer, values: np.ndarray, folder: Path) -> None:
    """Refuse a tokenizer that was fitted on vectors of another encoder.

    Args:
        tokenizer: Fitted.
        values: float32 ``[n, D]``, of the encoder.
        folder: Of the tokenizer.

    Raises:
        ArtifactError: If the widths differ.
    """
    if tokenizer.width == values.shape[1]:
        return
    raise ArtifactError(
        f"the tokenizer reads vectors of {tokenizer.width} numbers, the encoder makes {values.shape[1]}",
        where=str(folder),
        expected="the encoder that the tokenizer was fitted with",
        fix="restore the folder, or train again",
    )


def _new_items(path: Path, known: pl.DataFrame) -> pl.DataFrame:
    """The checked table, with the columns of the catalogue in its order and types."""
    frame = tidy_items(read_table(path, "items"), where=str(path))
    taken = frame["item_id"].is_in(known["item_id"].implode())
    if taken.any():
        rows = taken.arg_true()
        raise DataError(
            f"{len(rows)} items are in the model's catalogue already, such as {frame['item_id'][int(rows[0])]!r}",
            where=f"{path}, {first_rows((rows + 1).to_list())}",
            expected="new items only",
            fix="leave these rows out",
        )
    unread = [name for name in frame.columns if name not in known.columns]
    if unread:
        logger.warning("columns that the model's items do not have are left out: %s", ", ".join(unread))
    columns = []
    for name, dtype in known.schema.items():
        if name not in frame.columns:
            columns.append(pl.lit(None, dtype).alias(name))
            continue
        try:
            columns.append(pl.lit(frame[name].cast(dtype)).alias(name))
        except pl.exceptions.PolarsError as error:
            raise DataError(
                f"the column {name!r} is {frame[name].dtype}: {str(error).splitlines()[0]}",
                where=str(path),
                expected=f"{dtype}, as in the model's items",
                fix="convert the column",
            ) from error
    return frame.select(columns)


def _extend_index(folder: Path, frame: pl.DataFrame, values: np.ndarray) -> ItemIndex:
    index, tokenizer = ItemIndex.load(folder), open_tokenizer(folder)
    check_width(tokenizer, values, folder)
    codes = tokenizer.encode_items(frame, values)
    placed = place_new_items(
        index,
        codes,
        tokenizer.settings.collisions,
        lambda rows: tokenizer.last_level_costs(values[rows], codes[rows]),
    )
    return index.extended(placed, frame["item_id"].to_list())


def _count_sharing(index: ItemIndex, first: int) -> int:
    """How many of the items from number ``first`` on share their semantic ID."""
    group = group_of(index.codes)
    return int((np.bincount(group)[group[first:]] > 1).sum())


def _numbers(names: list[str], item_ids: list[str], path: Path) -> np.ndarray:
    """Dense items of the names, each once, int64 ``[n]``."""
    dense = {name: item for item, name in enumerate(item_ids)}
    unknown = [name for name in dict.fromkeys(names) if name not in dense]
    if unknown:
        shown = ", ".join(repr(name) for name in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise DataError(
            f"{len(unknown)} items are not in the model's catalogue: {shown}",
            where=str(path),
            expected=f"items of the model, such as {item_ids[0]!r}",
            fix="take them out of the list",
        )
    gone = np.unique(np.array([dense[name] for name in names], dtype=np.int64))
    if len(gone) in (0, len(item_ids)):
        raise DataError(
            "the list names " + ("no item" if not len(gone) else "every item of the model"),
            where=str(path),
            expected="some items, and at least one that stays",
            fix="correct the list",
        )
    return gone
