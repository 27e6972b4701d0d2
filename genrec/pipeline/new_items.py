"""``genrec add-items``: new items in a trained model's catalogue, without training.

The model folder's own encoder makes their vectors, its own tokenizer their codes; both were fitted before these items
existed. Identifiers and numbers of the old items stay as they are.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from genrec.artifacts import read_manifest, reserve_folder, verify_artifact
from genrec.artifacts.reading import computing
from genrec.data.dataset import titles_of
from genrec.data.readers import read_table, table_sha256
from genrec.data.schema import tidy_items
from genrec.errors import ArtifactError, DataError, first_rows
from genrec.features import FeatureEncoder, ItemFeatures, load_encoder
from genrec.features.build import ENCODER_FOLDER
from genrec.models.extend import extend_recommender, extendable
from genrec.pipeline.changed_catalogue import add_to_card, write_changed_model
from genrec.pipeline.model_folder import STAGE, TOKENIZER_FOLDER, open_model, read_items
from genrec.tokenizers import ItemIndex, ItemTokenizer
from genrec.tokenizers.collisions import group_of
from genrec.tokenizers.placement import place_new_items

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Added:
    """What was added.

    Attributes:
        items: How many items.
        sharing: How many of them share their identifier with another item.
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
        logger.warning("%d new items have nothing that the encoder knows: their identifiers say nothing", nothing)
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
    shared = f"; {added.sharing} of them share an identifier with another item" if added.sharing else ""
    add_to_card(
        model,
        out,
        f"## Items added without training\n\n{added.items:,} items of `{items.name}` were named by the encoder and the "
        f"tokenizer of this folder{shared}. The results above were measured without them.",
    )
    return added


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
    """How many of the items from number ``first`` on share their identifier."""
    group = group_of(index.codes)
    return int((np.bincount(group)[group[first:]] > 1).sum())
