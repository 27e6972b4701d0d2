"""SETRec: an item is a set of vectors, one that tells what users did and some that tell what it is, without an order.

Source: Lin et al., Order-agnostic Semantic ID for Large Language Model-based Generative Recommendation (SETRec), SIGIR
2025, arXiv 2502.10833, section 3.1. The semantic tokens are the pieces of an autoencoder's middle. In the paper they
are trained together with the recommender; here they are ready before it and saved, for a recommender that scores items
by them. The discrete variant next to them, one k-means per slot, is ours: it is what an item index can hold.
"""

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from genrec.config.ranges import Levels, Rounds
from genrec.features.base import ItemFeatures
from genrec.tokenizers.base import CodebookSettings, ItemTokenizer, Kind, TokenizerSettings
from genrec.tokenizers.parts.autoencoder import (
    ENCODE_ROWS,
    Autoencoder,
    NetworkSettings,
    load_module_arrays,
    module_arrays,
)
from genrec.tokenizers.parts.clustering import kmeans
from genrec.tokenizers.parts.learning import Checkpoint, TrainableTokenizer, learn
from genrec.tokenizers.parts.residual import nearest_codes, squared_distances
from genrec.tokenizers.parts.sources import FusedSettings, Sources

if TYPE_CHECKING:
    from genrec.data import Dataset

TOKENS = "tokens"


class SetSettings(CodebookSettings, NetworkSettings, FusedSettings):
    """Settings of the tokenizer ``set``."""

    num_levels: Levels = Field(5, ge=2, description="tokens per item: one collaborative, the others semantic")
    iterations: Rounds = Field(25, description="k-means iterations per slot")


class SetTokenizer(ItemTokenizer):
    """One collaborative token and ``num_levels - 1`` semantic ones, continuous (:meth:`tokens`) and discrete.

    Every slot has its own codebook, so no code depends on another. All tokens are as wide as the collaborative vectors.
    An item without collaborative vector has a token of zeros, which says nothing for or against it.
    """

    name: ClassVar[str] = "set"
    Settings: ClassVar[type[TokenizerSettings]] = SetSettings
    kind: ClassVar[Kind] = "set"
    settings: SetSettings

    def __init__(self, settings: SetSettings) -> None:
        super().__init__(settings)
        self.sources = Sources(0, 0)
        self.network: Autoencoder | None = None
        self.codebooks: list[np.ndarray] = []
        # Tokens of the catalogue, float32 [N, L, C].
        self.catalogue_tokens = np.zeros((0, 0, 0), dtype=np.float32)

    def _check_catalogue(self, dataset: "Dataset", features: ItemFeatures) -> None:
        self.sources = Sources.of(features, dataset.train_popularity(), self.settings.collaborative, self.name)
        super()._check_catalogue(dataset, features)

    def _fit(self, dataset: "Dataset", features: ItemFeatures) -> None:
        semantic = torch.from_numpy(self.sources.semantic(features.values))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            network = self._new_network(semantic.shape[1])
            network.set_scale(semantic)
            kept = Checkpoint.of(self, dataset, features)
            learn(ReconstructionLearner(network), semantic, self.settings, self.name, kept)
        self.network = network.eval()
        self.catalogue_tokens = self._tokens(features.values)
        self.codebooks = [
            kmeans(
                np.ascontiguousarray(self.catalogue_tokens[:, slot]),
                size,
                self.settings.iterations,
                self.settings.seed + slot,
            )
            for slot, size in enumerate(self.level_sizes)
        ]

    def tokens(self, features: np.ndarray) -> np.ndarray:
        """The continuous tokens of items, also of items that did not exist at fitting.

        Args:
            features: float ``[n, D]``.

        Returns:
            float32 ``[n, L, C]``: the collaborative token, then the semantic ones; C is the collaborative width.

        Raises:
            ConfigError: If the tokenizer has not been fitted.
            DataError: If the width differs from that at fitting, or a number is not finite.
        """
        return self._tokens(self._check_vectors(np.asarray(features)))

    def _encode(self, values: np.ndarray) -> np.ndarray:
        tokens = self._tokens(values)
        codes = [nearest_codes(tokens[:, slot], codebook) for slot, codebook in enumerate(self.codebooks)]
        return np.stack(codes, axis=1)

    def last_level_costs(self, features: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Squared distances of the last token to every code of its slot, float64 ``[n, K]``."""
        last = self.tokens(features)[:, -1]
        relative = np.concatenate([block for _, block in squared_distances(last, self.codebooks[-1])])
        return relative + (last.astype(np.float64) ** 2).sum(axis=1, keepdims=True)

    @torch.no_grad()
    def reconstruct(self, codes: np.ndarray) -> np.ndarray:
        """The vectors float32 ``[n, D]`` that codes int ``[n, L]`` of all slots stand for."""
        tokens = [codebook[codes[:, slot]] for slot, codebook in enumerate(self.codebooks)]
        latents = torch.from_numpy(np.concatenate(tokens[1:], axis=1))
        return self.sources.join(tokens[0], self._fitted_network().decode(latents).numpy())

    def state(self) -> dict[str, np.ndarray]:
        """Codebooks, columns, the autoencoder, and ``tokens`` of the catalogue float32 ``[N, L, C]``."""
        codebooks = {f"codebook_{slot}": codebook for slot, codebook in enumerate(self.codebooks)}
        network = module_arrays(self._fitted_network())
        return {**codebooks, **self.sources.state(), TOKENS: self.catalogue_tokens, **network}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` gave."""
        self.codebooks = [arrays[f"codebook_{slot}"] for slot in range(len(self.level_sizes))]
        self.sources, self.catalogue_tokens = Sources.restore(arrays), arrays[TOKENS]
        self.network = self._new_network((self.width or 0) - self.sources.width)
        load_module_arrays(self.network, arrays)

    def _new_network(self, width: int) -> Autoencoder:
        latent_size = (len(self.level_sizes) - 1) * self.sources.width
        return Autoencoder(width, self.settings.hidden_sizes, latent_size)

    @torch.no_grad()
    def _tokens(self, values: np.ndarray) -> np.ndarray:
        network, semantic = self._fitted_network(), torch.from_numpy(self.sources.semantic(values))
        latents = torch.cat([network.encode(part) for part in semantic.split(ENCODE_ROWS)]).numpy()
        own = latents.reshape(len(values), len(self.level_sizes) - 1, self.sources.width)
        return np.concatenate([self.sources.collaborative(values)[:, None], own], axis=1)

    def _fitted_network(self) -> Autoencoder:
        if self.network is None:
            raise RuntimeError("the tokenizer was asked for tokens before it was fitted")
        return self.network


class ReconstructionLearner(TrainableTokenizer):
    """An autoencoder without a quantizer.

    Args:
        network: Its scale must be set.
    """

    def __init__(self, network: Autoencoder) -> None:
        super().__init__()
        self.network = network

    def loss(self, vectors: Tensor, rows: Tensor) -> Tensor:
        """The reconstruction error, in units of the vectors' variance."""
        return self.network.error(vectors, self.network.encode(vectors))

    @torch.no_grad()
    def error(self, vectors: Tensor) -> float:
        """The same of held-out vectors."""
        return float(self.loss(vectors, torch.empty(0)))
