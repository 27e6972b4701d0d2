"""RQ-VAE: an autoencoder whose middle is quantised residually, level after level.

Source: Rajput et al., Recommender Systems with Generative Retrieval (TIGER), NeurIPS 2023, section 3.1; Zeghidour et
al., SoundStream, 2021, for the residual quantiser. The quantiser is vector-quantize-pytorch's, with its defaults that
collapse (no restart of dead codes, commitment weight 1, random first codebooks) replaced by settings that do not.
"""

from collections.abc import Sequence
from copy import deepcopy
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from genrec.features.base import ItemFeatures
from genrec.features.progress import progress
from genrec.tokenizers.base import CodebookSettings, TokenizerSettings
from genrec.tokenizers.residual import ResidualTokenizer

if TYPE_CHECKING:
    from genrec.data import Dataset

ENCODE_ROWS = 8192
INITIAL_ROWS = 65_536
# An average code has this many of a batch's vectors if it is not to be restarted all the time.
LIVELY_SHARE = 0.5


class ResidualVAESettings(CodebookSettings):
    """Settings of the tokenizer ``rqvae``."""

    hidden_sizes: tuple[int, ...] = Field((512, 256, 128), description="widths between the vectors and the code space")
    latent_size: int = Field(32, ge=1, description="width of the code space")
    epochs: int = Field(50, ge=1)
    patience: int = Field(5, ge=1, description="epochs without a better held-out reconstruction before stopping")
    held_out: float = Field(0.05, gt=0, lt=0.5, description="share of items that only decide when to stop")
    batch_size: int = Field(1024, ge=2)
    learning_rate: float = Field(1e-3, gt=0)
    commitment: float = Field(0.25, ge=0, description="weight of the pull of vectors towards their codes")
    decay: float = Field(0.9, gt=0, lt=1, description="decay of the moving averages that are the codebooks")
    dead_code_threshold: float = Field(2.0, ge=0, description="restart codes with fewer vectors per batch on average")
    rotation_trick: bool = Field(False, description="rotate gradients through the codes instead of copying them")


class ResidualVAETokenizer(ResidualTokenizer):
    """Residual quantisation in the middle of a learned autoencoder.

    Args:
        settings: See :class:`ResidualVAESettings`.
    """

    name: ClassVar[str] = "rqvae"
    Settings: ClassVar[type[TokenizerSettings]] = ResidualVAESettings
    settings: ResidualVAESettings

    def __init__(self, settings: ResidualVAESettings) -> None:
        super().__init__(settings)
        self.network: Autoencoder | None = None

    def _fit(self, dataset: "Dataset", features: ItemFeatures) -> None:
        vectors = torch.from_numpy(features.values)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            network = Autoencoder(vectors.shape[1], self.settings)
            network.set_scale(vectors)
            quantiser = make_quantiser(self.level_sizes, len(vectors), self.settings)
            train_autoencoder(network, quantiser, vectors, self.settings)
        self.network = network.eval()
        self.codebooks = [np.ascontiguousarray(layer.codebook.detach().numpy()) for layer in quantiser.layers]

    @torch.no_grad()
    def to_code_space(self, values: np.ndarray) -> np.ndarray:
        """The encoder's output, float32 ``[n, C]``."""
        network = self._network()
        return torch.cat([network.encode(part) for part in torch.from_numpy(values).split(ENCODE_ROWS)]).numpy()

    @torch.no_grad()
    def from_code_space(self, vectors: np.ndarray) -> np.ndarray:
        """The decoder's output, float32 ``[n, D]``."""
        network = self._network()
        return torch.cat([network.decode(part) for part in torch.from_numpy(vectors).split(ENCODE_ROWS)]).numpy()

    def state(self) -> dict[str, np.ndarray]:
        """The codebooks and the weights of encoder and decoder."""
        weights = {f"network.{name}": tensor.numpy() for name, tensor in self._network().state_dict().items()}
        return {**super().state(), **weights}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` gave."""
        super().restore(arrays)
        prefix = "network."
        weights = {
            name.removeprefix(prefix): torch.from_numpy(array)
            for name, array in arrays.items()
            if name.startswith(prefix)
        }
        self.network = Autoencoder(weights["mean"].shape[0], self.settings).eval()
        self.network.load_state_dict(weights)

    def _network(self) -> "Autoencoder":
        if self.network is None:
            raise RuntimeError("the tokenizer was asked for vectors before it was fitted")
        return self.network


class Autoencoder(nn.Module):
    """Two mirrored multilayer perceptrons over standardised vectors.

    Args:
        width: D, the width of the vectors.
        settings: Of the tokenizer.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int, settings: ResidualVAESettings) -> None:
        super().__init__()
        sizes = (width, *settings.hidden_sizes, settings.latent_size)
        self.encoder = perceptron(sizes)
        self.decoder = perceptron(sizes[::-1])
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(()))

    def set_scale(self, vectors: Tensor) -> None:
        """Standardise by the mean of every column and one scale for all, which keeps the vectors' geometry.

        Args:
            vectors: float32 ``[N, D]``.
        """
        self.mean = vectors.mean(dim=0)
        self.scale = (vectors - self.mean).square().mean().sqrt().clamp(min=torch.finfo(torch.float32).tiny)

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


def make_quantiser(level_sizes: Sequence[int], num_items: int, settings: ResidualVAESettings) -> Any:
    """The library's residual quantiser behind our settings.

    Args:
        level_sizes: Codebook size of every level.
        num_items: N; small catalogues get a lower threshold for restarts, or every code would restart at every step.
        settings: Of the tokenizer.
    """
    from vector_quantize_pytorch import ResidualVQ

    share = min(settings.batch_size, num_items) / max(level_sizes)
    return ResidualVQ(
        dim=settings.latent_size,
        codebook_size=tuple(level_sizes),
        kmeans_init=True,
        kmeans_iters=20,
        decay=settings.decay,
        commitment_weight=settings.commitment,
        threshold_ema_dead_code=min(settings.dead_code_threshold, LIVELY_SHARE * share),
        rotation_trick=settings.rotation_trick,
    )


def train_autoencoder(network: Autoencoder, quantiser: Any, vectors: Tensor, settings: ResidualVAESettings) -> None:
    """Train until held-out items are reconstructed no better; leaves the best state in both modules.

    Args:
        network: Its scale must be set.
        quantiser: See :func:`make_quantiser`.
        vectors: float32 ``[N, D]``.
        settings: Of the tokenizer.
    """
    order = torch.randperm(len(vectors))
    held = max(1, round(settings.held_out * len(vectors)))
    held_out, seen = vectors[order[:held]], vectors[order[held:]]
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=0.0)
    quantiser.train()
    with torch.no_grad():
        # The codebooks start as a k-means of the first batch they see: it should be nearly everything.
        quantiser(network.encode(seen[:INITIAL_ROWS]))
    best, best_states, since = float("inf"), None, 0
    for _ in progress(range(settings.epochs), "rqvae", settings.epochs):
        _train_epoch(network, quantiser, optimiser, seen, settings.batch_size)
        error = held_out_error(network, quantiser, held_out)
        since += 1
        if error < best:
            best, since = error, 0
            best_states = deepcopy((network.state_dict(), quantiser.state_dict()))
        if since >= settings.patience:
            break
    if best_states is not None:
        network.load_state_dict(best_states[0])
        quantiser.load_state_dict(best_states[1])


def _train_epoch(
    network: Autoencoder, quantiser: Any, optimiser: torch.optim.Optimizer, seen: Tensor, batch_size: int
) -> None:
    quantiser.train()
    for rows in torch.randperm(len(seen)).split(batch_size):
        batch = seen[rows]
        latents, _, commitment = quantiser(network.encode(batch))
        loss = network.error(batch, latents) + commitment.sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


@torch.no_grad()
def held_out_error(network: Autoencoder, quantiser: Any, vectors: Tensor) -> float:
    """Reconstruction error of vectors through their codes, in units of the variance; changes nothing.

    Args:
        network: Encoder and decoder.
        quantiser: See :func:`make_quantiser`.
        vectors: float32 ``[n, D]``.
    """
    quantiser.eval()
    latents, _, _ = quantiser(network.encode(vectors))
    return float(network.error(vectors, latents))
