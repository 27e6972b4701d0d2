"""What is measured on: the catalogue's semantic IDs, the users, untrained models of stated sizes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec import (
    DataConfig,
    Dataset,
    FeaturesConfig,
    Histories,
    ItemIndex,
    RecommenderConfig,
    TokenizerConfig,
    prepare_dataset,
)
from genrec.data import pad_histories
from genrec.features import build_features
from genrec.models import RecommenderModel, build_recommender
from genrec.tokenizers import fit_tokenizer

BATCH, TOP_K = 64, 20
RANDOM_SIZES = (256, 256, 256, 256)
# Models that `generate` can run too, as issue and documentation state them.
COMPARED: dict[str, dict[str, Any]] = {
    "seq2seq": {
        "num_layers": 4,
        "hidden_size": 128,
        "num_heads": 6,
        "head_size": 64,
        "feed_forward_size": 1024,
        "max_history": 20,
    },
    "decoder": {"num_layers": 4, "hidden_size": 128, "num_heads": 4, "feed_forward_size": 512, "max_history": 20},
}
# Models as recipes for Beauty have them.
SERVED: dict[str, dict[str, Any]] = {
    "depth": {"hidden_size": 128, "num_layers": 2, "num_heads": 2, "depth_layers": 1, "max_history": 50},
    "decoder": {"hidden_size": 128, "num_layers": 2, "num_heads": 2, "max_history": 50},
    "seq2seq": COMPARED["seq2seq"],
    "sasrec": {"hidden_size": 128, "num_layers": 2, "num_heads": 2, "max_history": 50},
}

Figures = dict[str, float]
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Material:
    """What all figures are measured on.

    Attributes:
        dataset: The prepared tables.
        histories: Test histories of all users.
        index: Semantic IDs: lexical features, residual k-means 3 x 256, suffix.
        features: float32 ``[N, F]``.
    """

    dataset: Dataset
    histories: Histories
    index: ItemIndex
    features: np.ndarray


def prepare(data: Path, folder: Path) -> Material:
    """Tables in ``data`` to semantic IDs and test histories; stages are written into ``folder``."""
    dataset = prepare_dataset(DataConfig(path=str(data)), folder / "dataset")
    features = build_features(FeaturesConfig(), dataset, folder / "features")
    index = fit_tokenizer(TokenizerConfig(), dataset, features, folder / "tokenizer")
    return Material(dataset, dataset.evaluation("test")[0], index, features.values)


def make_model(name: str, settings: dict[str, Any], index: ItemIndex, features: np.ndarray | None = None) -> Any:
    """An untrained model of a family, in eval mode."""
    torch.manual_seed(0)
    config = RecommenderConfig(name=name, **settings)
    model: RecommenderModel = build_recommender(config, num_items=index.num_items, index=index, features=features)
    return model.eval()


def random_index(num_items: int) -> ItemIndex:
    """Unique random semantic IDs of 4 x 256 codes."""
    flat = np.random.default_rng(0).choice(256**4, num_items, replace=False)
    codes = np.stack(np.unravel_index(flat, RANDOM_SIZES), axis=1)
    return ItemIndex(codes, RANDOM_SIZES, [str(item) for item in range(num_items)])


def draw_rows(histories: Histories, users: int) -> np.ndarray:
    """Rows of drawn users, the same for every figure."""
    return np.random.default_rng(0).choice(len(histories), min(users, len(histories)), replace=False)


def batches_of(histories: Histories, rows: np.ndarray, max_history: int) -> list[Batch]:
    """Batches of consecutive ``rows``, as :func:`genrec.decoding.recommend` takes them."""
    parts = [rows[first : first + BATCH] for first in range(0, len(rows), BATCH)]
    padded = (pad_histories(histories, part, max_history) for part in parts)
    return [(torch.from_numpy(items), torch.from_numpy(lengths)) for items, lengths in padded]


def by_length(histories: Histories, rows: np.ndarray, max_history: int) -> np.ndarray:
    """Rows in order of the length that the model reads."""
    return rows[np.argsort(np.minimum(histories.lengths[rows], max_history), kind="stable")]


def seen_items(histories: Histories, rows: np.ndarray) -> Tensor:
    """What a search must leave out for each of ``rows``, int64 ``[B, E]``; -1 fills shorter rows."""
    longest = max(int(histories.lengths[rows].max(initial=0)), 1)
    seen, counts = pad_histories(histories, rows, longest)
    seen[np.arange(seen.shape[1]) >= counts[:, None]] = -1
    return torch.from_numpy(seen)
