"""Residual scalar quantization: an autoencoder whose middle is rounded, level after level on a finer grid.

Source: Mentzer et al., Finite Scalar Quantization, ICLR 2024; residual form as in vector-quantize-pytorch's
``ResidualFSQ``, to which the codes are equal where every level has the same grid. Nothing of the codebooks is learned,
so none of them can collapse by training; whether codes are used depends on the encoder alone.
"""

from math import prod
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from genrec.config.ranges import Codes, check_product
from genrec.features.base import ItemFeatures
from genrec.tokenizers.base import TokenizerSettings
from genrec.tokenizers.parts.autoencoder import AutoencodedTokenizer, Autoencoder, NetworkSettings
from genrec.tokenizers.parts.learning import INITIAL_ROWS, Checkpoint, TrainableTokenizer, learn
from genrec.tokenizers.parts.scalar import ScalarQuantizer, spread_outputs

if TYPE_CHECKING:
    from genrec.data import Dataset


class ResidualScalarSettings(TokenizerSettings, NetworkSettings):
    """Settings of the tokenizer ``residual-fsq``."""

    grids: tuple[tuple[Codes, ...], ...] = Field(
        ((4, 4, 4, 4),) * 3, description="for every level of the semantic ID, the levels that each number is rounded to"
    )

    @field_validator("grids")
    @classmethod
    def _alike(cls, value: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
        if not value or not value[0] or len({len(grid) for grid in value}) > 1:
            raise ValueError("one grid per level, all of them for equally many numbers")
        if min(levels for grid in value for levels in grid) < 2:
            raise ValueError("a number is rounded to at least 2 levels")
        for grid in value:
            check_product(grid)
        return value


class ResidualScalarTokenizer(AutoencodedTokenizer):
    """Residual quantization on fixed grids in the middle of a learned autoencoder."""

    name: ClassVar[str] = "residual-fsq"
    Settings: ClassVar[type[TokenizerSettings]] = ResidualScalarSettings
    settings: ResidualScalarSettings

    def __init__(self, settings: ResidualScalarSettings) -> None:
        super().__init__(settings)
        self.quantizer = ResidualScalarQuantizer(settings.grids)
        self.level_sizes = tuple(prod(grid) for grid in settings.grids)

    def _check_catalogue(self, dataset: "Dataset", features: ItemFeatures) -> None:
        """A fixed grid may have more codes than there are items."""
        return

    def _fit(self, dataset: "Dataset", features: ItemFeatures) -> None:
        vectors = torch.from_numpy(self.inputs(features.values))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            network = self.new_network(vectors.shape[1])
            network.set_scale(vectors)
            learner = ScalarLearner(network, self.quantizer)
            learn(learner, vectors, self.settings, self.name, Checkpoint.of(self, dataset, features))
        self.network = network.eval()
        self.codebooks = self.quantizer.codebooks()

    def new_network(self, width: int) -> Autoencoder:
        """Encoder and decoder with a code space as wide as the grids."""
        return Autoencoder(width, self.settings.hidden_sizes, len(self.settings.grids[0]))

    @torch.no_grad()
    def to_code_space(self, values: np.ndarray) -> np.ndarray:
        """The encoder's output within the range of the grids, float32 ``[n, C]``."""
        return self.quantizer.bound(torch.from_numpy(super().to_code_space(values))).numpy()

    @torch.no_grad()
    def _encode(self, values: np.ndarray) -> np.ndarray:
        bounded = torch.from_numpy(self.to_code_space(values))
        return self.quantizer.quantize(bounded)[1].numpy().astype(np.int32)


class ResidualScalarQuantizer(nn.Module):
    """Grids one after the other, each as fine as a step of the one before.

    Args:
        grids: For every level of the semantic ID the levels of each number.
    """

    limit: Tensor
    scales: Tensor

    def __init__(self, grids: tuple[tuple[int, ...], ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleList([ScalarQuantizer(grid, symmetric=True) for grid in grids])
        levels = torch.tensor(grids, dtype=torch.float32)
        # A little more than 1, so that the ends of the first grid have items on both sides.
        self.register_buffer("limit", 1 + 1 / (levels[0] - 1), persistent=False)
        scales = torch.cat([torch.ones_like(levels[:1]), (1 / levels[:-1]).cumprod(dim=0)])
        self.register_buffer("scales", scales, persistent=False)

    def bound(self, latents: Tensor) -> Tensor:
        """Latents ``[n, C]`` squeezed smoothly into the range of the first grid."""
        return (latents / self.limit).tanh() * self.limit

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """What the codes of latents float32 ``[n, C]`` stand for, with gradient, and their codes int64 ``[n, L]``."""
        return self.quantize(self.bound(latents))

    def quantize(self, bounded: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`forward`, for latents within the range."""
        residual, total, codes = bounded, torch.zeros_like(bounded), []
        for layer, scale in zip(self.layers, self.scales, strict=True):
            rounded, code = layer(residual / scale)
            residual, total = residual - (rounded * scale).detach(), total + rounded * scale
            codes.append(code)
        return total, torch.stack(codes, dim=1)

    def codebooks(self) -> list[np.ndarray]:
        """What the codes of every level stand for, float32 ``[K_l, C]`` each."""
        grids = (cast(ScalarQuantizer, layer).codebook() for layer in self.layers)
        return [(grid * scale).numpy() for grid, scale in zip(grids, self.scales, strict=True)]


class ScalarLearner(TrainableTokenizer):
    """An autoencoder with residual scalar quantization in its middle.

    Args:
        network: Its scale must be set.
        quantizer: Grids.
    """

    def __init__(self, network: Autoencoder, quantizer: ResidualScalarQuantizer) -> None:
        super().__init__()
        self.network, self.quantizer = network, quantizer

    def start(self, vectors: Tensor) -> None:
        """Spread the items over the grid."""
        last = cast(nn.Linear, self.network.encoder[-1])
        spread_outputs(last, self.network.encode(vectors[:INITIAL_ROWS]))

    def loss(self, vectors: Tensor, rows: Tensor) -> Tensor:
        """The reconstruction error, in units of the vectors' variance."""
        return self.network.error(vectors, self.quantizer(self.network.encode(vectors))[0])

    @torch.no_grad()
    def error(self, vectors: Tensor) -> float:
        """The same of held-out vectors."""
        return float(self.loss(vectors, torch.empty(0)))
