"""The autoencoder around the quantizers of the learned residual families."""

from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from genrec.config.ranges import Width
from genrec.tokenizers.base import TokenizerSettings
from genrec.tokenizers.parts.learning import LearningSettings
from genrec.tokenizers.parts.residual import ResidualTokenizer

ENCODE_ROWS = 8192
NETWORK = "network."


class NetworkSettings(LearningSettings):
    """Settings of an autoencoder and its training."""

    hidden_sizes: tuple[Width, ...] = Field(
        (512, 256, 128), description="widths between the vectors and the code space"
    )


class Autoencoder(nn.Module):
    """Two mirrored multilayer perceptrons over standardized vectors.

    Args:
        width: D, the width of the vectors.
        hidden_sizes: Widths between the vectors and the code space.
        latent_size: C, the width of the code space.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int, hidden_sizes: Sequence[int], latent_size: int) -> None:
        super().__init__()
        sizes = (width, *hidden_sizes, latent_size)
        self.encoder = perceptron(sizes)
        self.decoder = perceptron(sizes[::-1])
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(()))

    def set_scale(self, vectors: Tensor) -> None:
        """Standardize by the mean of every column and one scale for all, which keeps the vectors' geometry.

        Args:
            vectors: float32 ``[N, D]``.
        """
        self.mean, self.scale = column_means_and_scale(vectors)

    def encode(self, vectors: Tensor) -> Tensor:
        """Vectors float32 ``[n, D]`` to code space ``[n, C]``."""
        return self.encoder((vectors - self.mean) / self.scale)

    def decode(self, latents: Tensor) -> Tensor:
        """Code space float32 ``[n, C]`` to vectors ``[n, D]``."""
        return self.decoder(latents) * self.scale + self.mean

    def error(self, vectors: Tensor, latents: Tensor) -> Tensor:
        """Mean squared error of decoded latents, in units of the vectors' variance."""
        return functional.mse_loss(self.decoder(latents), (vectors - self.mean) / self.scale)


def perceptron(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers of the given widths with ReLU between them."""
    layers: list[nn.Module] = []
    for inner, outer in pairwise(sizes):
        layers += [nn.Linear(inner, outer), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def column_means_and_scale(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of every column of float32 ``[N, D]`` and the root mean square of what is left, never zero."""
    mean = vectors.mean(dim=0)
    return mean, (vectors - mean).square().mean().sqrt().clamp(min=torch.finfo(torch.float32).tiny)


class AutoencodedTokenizer(ResidualTokenizer):
    """Residual quantization of what an :class:`Autoencoder` makes of the vectors.

    Args:
        settings: The family's validated settings.
    """

    def __init__(self, settings: TokenizerSettings) -> None:
        super().__init__(settings)
        self.network: Autoencoder | None = None

    @abstractmethod
    def new_network(self, width: int) -> Autoencoder:
        """An untrained autoencoder for vectors of ``width``."""

    def inputs(self, values: np.ndarray) -> np.ndarray:
        """What the autoencoder reads of vectors float32 ``[n, D]``: all of them, unless a family says otherwise."""
        return values

    @torch.no_grad()
    def to_code_space(self, values: np.ndarray) -> np.ndarray:
        """The encoder's output, float32 ``[n, C]``."""
        network, vectors = self._network(), torch.from_numpy(self.inputs(values))
        return torch.cat([network.encode(part) for part in vectors.split(ENCODE_ROWS)]).numpy()

    @torch.no_grad()
    def from_code_space(self, vectors: np.ndarray) -> np.ndarray:
        """The decoder's output, float32 ``[n, D]``."""
        network = self._network()
        return torch.cat([network.decode(part) for part in torch.from_numpy(vectors).split(ENCODE_ROWS)]).numpy()

    def state(self) -> dict[str, np.ndarray]:
        """The codebooks and the weights of encoder and decoder."""
        return {**super().state(), **module_arrays(self._network())}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` gave."""
        super().restore(arrays)
        self.network = self.new_network(arrays[f"{NETWORK}mean"].shape[0])
        load_module_arrays(self.network, arrays)

    def _network(self) -> Autoencoder:
        if self.network is None:
            raise RuntimeError("the tokenizer was asked for vectors before it was fitted")
        return self.network


def module_arrays(module: nn.Module) -> dict[str, np.ndarray]:
    """The state of a module as arrays whose names begin with ``network.``."""
    return {f"{NETWORK}{name}": tensor.numpy() for name, tensor in module.state_dict().items()}


def load_module_arrays(module: nn.Module, arrays: dict[str, np.ndarray]) -> None:
    """Put what :func:`module_arrays` gave into a module, which is in evaluation mode afterwards."""
    state = {
        name.removeprefix(NETWORK): torch.from_numpy(array)
        for name, array in arrays.items()
        if name.startswith(NETWORK)
    }
    module.load_state_dict(state)
    module.eval()
