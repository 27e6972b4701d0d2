"""``genrec tokenize``: semantic IDs of the catalogue, made from item vectors and read again for a data set."""

from pathlib import Path

import numpy as np

from genrec.artifacts import verify_artifact
from genrec.artifacts.targets import check_folder_target
from genrec.config import TokenizerConfig
from genrec.data import Dataset
from genrec.distributed.launch import Launch
from genrec.errors import ConfigError
from genrec.pipeline.embed import LONGEST_WAIT, load_features, other_items
from genrec.tokenizers import ItemIndex, ItemTokenizer, fit_tokenizer
from genrec.tokenizers.families.set_tokens import SetTokenizer
from genrec.tokenizers.fit import STAGE as TOKENIZER_STAGE
from genrec.tokenizers.fit import fit_together


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
    return world.is_main


def load_index(folder: Path, dataset: Dataset) -> ItemIndex:
    """Open the semantic IDs of a ``tokenizer`` folder and check that they name this catalogue.

    Raises:
        ArtifactError: If the folder is missing or changed, or it names other items.
    """
    verify_artifact(folder, "tokenizer")
    index = ItemIndex.load(folder)
    if index.item_ids != dataset.item_ids:
        raise other_items("tokenizer", folder, dataset)
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
            fix="set tokenizer.name=set and make the semantic IDs again (genrec tokenize)",
        )
    return tokenizer.catalogue_tokens
