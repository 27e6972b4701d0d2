"""A trained model on the catalogue of another data set: its own encoder and tokenizer name items it has never seen."""

import logging
from pathlib import Path

import numpy as np

from genrec.artifacts.reading import computing
from genrec.data import Dataset
from genrec.decoding import use_index
from genrec.decoding.transitions import without_transitions
from genrec.features.build import ENCODER_FOLDER
from genrec.models.extend import extendable, replace_catalogue
from genrec.pipeline.model_folder import TOKENIZER_FOLDER, TrainedModel, catalogue_of
from genrec.pipeline.new_items import check_width, encoder_of, open_tokenizer
from genrec.tokenizers import ItemIndex, ItemTokenizer
from genrec.tokenizers.collisions import Catalogue
from genrec.tokenizers.placement import place_catalogue

logger = logging.getLogger(__name__)


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
        logger.warning("%d items have nothing that the encoder knows: their identifiers say nothing", nothing)
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
    """Identifiers of a catalogue that the tokenizer was not fitted on.

    Args:
        tokenizer: Fitted on another catalogue.
        dataset: Its items are named; nobody's interactions are read.
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
