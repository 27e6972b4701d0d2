"""Scalar quantization of the slices of a vector, learned by rebuilding the whole vector from all of them.

Source: RecGPT (2506.06270, section 3.1): one linear map for all slices, rounding on a fixed grid, and a small
Transformer whose last position rebuilds the vector. The grid's ends and middle are those of Mentzer et al. (ICLR 2024)
and of vector-quantize-pytorch, not of RecGPT's code, whose middle is displaced for even levels.
"""

from math import prod
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional

from genrec.config.ranges import BatchSize, Codes, Heads, LayersOrNone, Levels, Rounds, check_product
from genrec.errors import ConfigError
from genrec.features.base import ItemFeatures
from genrec.tokenizers.base import ItemTokenizer, TokenizerSettings
from genrec.tokenizers.parts.autoencoder import (
    ENCODE_ROWS,
    column_means_and_scale,
    load_module_arrays,
    module_arrays,
    perceptron,
)
from genrec.tokenizers.parts.learning import INITIAL_ROWS, Checkpoint, LearningSettings, TrainableTokenizer, learn
from genrec.tokenizers.parts.residual import squared_distances
from genrec.tokenizers.parts.scalar import ScalarQuantizer, spread_outputs

if TYPE_CHECKING:
    from genrec.data import Dataset


class ScalarSettings(TokenizerSettings, LearningSettings):
    """Settings of the tokenizer ``fsq``."""

    num_levels: Levels = Field(4, description="slices of the vector, one code each")
    grid: tuple[Codes, ...] = Field((8, 8, 8, 6, 5), description="levels that each number of a slice is rounded to")
    decoder_layers: LayersOrNone = Field(2, description="Transformer layers that rebuild the vector")
    num_heads: Heads = Field(8, description="attention heads of the decoder")
    epochs: Rounds = 100
    patience: Rounds = Field(10, description="epochs without a better held-out reconstruction before stopping")
    batch_size: BatchSize = Field(256, ge=2)

    @field_validator("grid")
    @classmethod
    def _levels(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        # The rounding of two levels is not symmetric: their upper one would hardly be reached.
        if min(value, default=0) < 3:
            raise ValueError("at least one number, rounded to at least 3 levels")
        check_product(value)
        return value


class ScalarTokenizer(ItemTokenizer):
    """One code per slice of the vector, the same map and grid for all slices; the order of the codes says nothing.

    The codebook is a fixed grid and may have more codes than there are items, so that a tokenizer that was fitted on
    one domain names the items of another.
    """

    name: ClassVar[str] = "fsq"
    Settings: ClassVar[type[TokenizerSettings]] = ScalarSettings
    settings: ScalarSettings

    def __init__(self, settings: ScalarSettings) -> None:
        super().__init__(settings)
        self.level_sizes = (prod(settings.grid),) * settings.num_levels
        self.network: SliceAutoencoder | None = None

    def _check_catalogue(self, dataset: "Dataset", features: ItemFeatures) -> None:
        """Refuse slices that the heads cannot share; a fixed grid may have more codes than there are items."""
        width = _slice_width(features.values.shape[1], self.settings.num_levels)
        if self.settings.decoder_layers and width % self.settings.num_heads:
            fitting = [heads for heads in range(1, self.settings.num_heads) if width % heads == 0]
            raise ConfigError(
                f"slices of width {width} cannot be shared among {self.settings.num_heads} heads",
                where="tokenizer.num_heads",
                expected=f"a divisor of {width}",
                fix=f"set num_heads: {fitting[-1]}",
            )

    def _fit(self, dataset: "Dataset", features: ItemFeatures) -> None:
        vectors, settings = torch.from_numpy(features.values), self.settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            network = SliceAutoencoder(vectors.shape[1], settings)
            network.mean, network.scale = column_means_and_scale(vectors)
            learn(network, vectors, settings, self.name, Checkpoint.of(self, dataset, features))
        self.network = network.eval()

    @torch.no_grad()
    def _encode(self, values: np.ndarray) -> np.ndarray:
        network, parts = self._network(), torch.from_numpy(values).split(ENCODE_ROWS)
        codes = [network.quantizer(network.projected(part))[1] for part in parts]
        return torch.cat(codes).numpy().astype(np.int32)

    @torch.no_grad()
    def last_level_costs(self, features: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Squared distances in the grid of the last slice to every code, float64 ``[n, K]``."""
        network = self._network()
        values = torch.from_numpy(self._check_vectors(np.asarray(features)))
        last = network.quantizer.values(network.quantizer.bound(network.projected(values)[:, -1])).float().numpy()
        codebook = network.quantizer.codebook().numpy()
        relative = np.concatenate([block for _, block in squared_distances(last, codebook)])
        return relative + (last.astype(np.float64) ** 2).sum(axis=1, keepdims=True)

    @torch.no_grad()
    def reconstruct(self, codes: np.ndarray) -> np.ndarray:
        """What the decoder makes of codes int ``[n, L]``, float32 ``[n, D]``."""
        network = self._network()
        codebook = network.quantizer.codebook()
        parts = torch.from_numpy(codes.astype(np.int64)).split(ENCODE_ROWS)
        return torch.cat([network.decode(codebook[part]) * network.scale + network.mean for part in parts]).numpy()

    def state(self) -> dict[str, np.ndarray]:
        """The weights of the network."""
        return module_arrays(self._network())

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` gave."""
        self.network = SliceAutoencoder(arrays["network.mean"].shape[0], self.settings)
        load_module_arrays(self.network, arrays)

    def _network(self) -> "SliceAutoencoder":
        if self.network is None:
            raise RuntimeError("the tokenizer was asked for codes before it was fitted")
        return self.network


class SliceAutoencoder(TrainableTokenizer):
    """A linear map of every slice to the grid, and a Transformer that rebuilds the vector from the rounded slices.

    Args:
        width: D, the width of the vectors; zeros fill the last slice.
        settings: Of the tokenizer.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int, settings: ScalarSettings) -> None:
        super().__init__()
        self.slices, size = settings.num_levels, _slice_width(width, settings.num_levels)
        self.filled = self.slices * size - width
        self.quantizer = ScalarQuantizer(settings.grid)
        self.project_in = nn.Linear(size, len(settings.grid))
        self.project_out = nn.Linear(len(settings.grid), size)
        self.positions = nn.Parameter(0.02 * torch.randn(self.slices, size))
        self.dropout = nn.Dropout(0.1)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                size, settings.num_heads, 4 * size, dropout=0.2, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(settings.decoder_layers)
        )
        self.output = perceptron((size, width, width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(()))

    def projected(self, vectors: Tensor) -> Tensor:
        """Vectors float32 ``[n, D]`` as the grid sees them, float64 ``[n, L, d]`` so that no row depends on others."""
        filled = functional.pad((vectors - self.mean) / self.scale, (0, self.filled)).unflatten(1, (self.slices, -1))
        return functional.linear(filled.double(), self.project_in.weight.double(), self.project_in.bias.double())

    def decode(self, quantized: Tensor) -> Tensor:
        """Standardized vectors float32 ``[n, D]`` from what the codes stand for, float32 ``[n, L, d]``."""
        hidden = self.dropout(self.project_out(quantized) + self.positions)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.output(hidden[:, -1] if len(self.layers) else hidden.mean(dim=1))

    def start(self, vectors: Tensor) -> None:
        """Spread the slices over the grid."""
        spread_outputs(self.project_in, self.projected(vectors[:INITIAL_ROWS]).flatten(0, 1).float())

    def loss(self, vectors: Tensor, rows: Tensor) -> Tensor:
        """Mean absolute error of the rebuilt vectors, in units of their deviation."""
        quantized, _ = self.quantizer(self.projected(vectors))
        return functional.l1_loss(self.decode(quantized.float()), (vectors - self.mean) / self.scale)

    @torch.no_grad()
    def error(self, vectors: Tensor) -> float:
        """The same of held-out vectors."""
        return float(self.loss(vectors, torch.empty(0)))


def _slice_width(width: int, slices: int) -> int:
    return -(-width // slices)
