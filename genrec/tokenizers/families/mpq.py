"""Parallel codes by a mixture of experts: every expert has its own view of the item and its own codebook.

Source: REG4Rec (2508.15308), multi-expert parallel quantization. There is no official code; the form of the
orthogonality penalty and its weight are ours. The vector is rebuilt from the experts' codes in the proportions that a
router gives, and the penalty keeps the experts from saying the same.
"""

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from genrec.config.ranges import Levels, Weight, Width
from genrec.features.base import ItemFeatures
from genrec.tokenizers.base import ItemTokenizer, TokenizerSettings
from genrec.tokenizers.families.rqvae import QuantizerSettings, quantization_loss, quantizer_options
from genrec.tokenizers.parts.autoencoder import (
    ENCODE_ROWS,
    column_means_and_scale,
    load_module_arrays,
    module_arrays,
    perceptron,
)
from genrec.tokenizers.parts.learning import INITIAL_ROWS, Checkpoint, TrainableTokenizer, learn
from genrec.tokenizers.parts.residual import nearest_codes, squared_distances

if TYPE_CHECKING:
    from genrec.data import Dataset


class QuantizerExpertSettings(QuantizerSettings):
    """Settings of the tokenizer ``mpq``."""

    num_levels: Levels = Field(4, description="experts, one code each")
    hidden_sizes: tuple[Width, ...] = Field((256,), description="widths between the vectors and an expert's code space")
    orthogonality: Weight = Field(1.0, description="weight of the penalty on experts that say the same")


class ExpertTokenizer(ItemTokenizer):
    """One code per expert; the order of the codes says nothing."""

    name: ClassVar[str] = "mpq"
    Settings: ClassVar[type[TokenizerSettings]] = QuantizerExpertSettings
    settings: QuantizerExpertSettings

    def __init__(self, settings: QuantizerExpertSettings) -> None:
        super().__init__(settings)
        self.codebooks: list[np.ndarray] = []
        self.network: Experts | None = None

    def _fit(self, dataset: "Dataset", features: ItemFeatures) -> None:
        vectors, settings = torch.from_numpy(features.values), self.settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            network = Experts(vectors.shape[1], settings)
            network.mean, network.scale = column_means_and_scale(vectors)
            learner = ExpertLearner(network, make_quantizers(self.level_sizes, len(vectors), settings), settings)
            learn(learner, vectors, settings, self.name, Checkpoint.of(self, dataset, features))
        self.network = network.eval()
        self.codebooks = learner.codebooks()

    def _encode(self, values: np.ndarray) -> np.ndarray:
        views = self._views(values)
        return np.stack([nearest_codes(views[:, e], codebook) for e, codebook in enumerate(self.codebooks)], axis=1)

    @torch.no_grad()
    def _views(self, values: np.ndarray) -> np.ndarray:
        network, parts = self._network(), torch.from_numpy(values).split(ENCODE_ROWS)
        return torch.cat([network.views(part) for part in parts]).numpy()

    def last_level_costs(self, features: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Squared distances of the last expert's view to its codes, float64 ``[n, K]``."""
        view = self._views(self._check_vectors(np.asarray(features)))[:, -1]
        relative = np.concatenate([block for _, block in squared_distances(view, self.codebooks[-1])])
        return relative + (view.astype(np.float64) ** 2).sum(axis=1, keepdims=True)

    def state(self) -> dict[str, np.ndarray]:
        """One array ``codebook_l`` float32 ``[K_l, C]`` per expert, and the weights of the network."""
        codebooks = {f"codebook_{level}": codebook for level, codebook in enumerate(self.codebooks)}
        return {**codebooks, **module_arrays(self._network())}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` gave."""
        self.codebooks = [arrays[f"codebook_{level}"] for level in range(len(self.level_sizes))]
        self.network = Experts(arrays["network.mean"].shape[0], self.settings)
        load_module_arrays(self.network, arrays)

    def _network(self) -> "Experts":
        if self.network is None:
            raise RuntimeError("the tokenizer was asked for codes before it was fitted")
        return self.network


class Experts(nn.Module):
    """Experts, router and decoder over standardized vectors.

    Args:
        width: D, the width of the vectors.
        settings: Of the tokenizer.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int, settings: QuantizerExpertSettings) -> None:
        super().__init__()
        sizes = (width, *settings.hidden_sizes, settings.latent_size)
        self.experts = nn.ModuleList([perceptron(sizes) for _ in range(settings.num_levels)])
        self.router = nn.Linear(width, settings.num_levels)
        self.decoder = perceptron(sizes[::-1])
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(()))

    def views(self, vectors: Tensor) -> Tensor:
        """What every expert sees in vectors float32 ``[n, D]``: ``[n, L, C]``."""
        scaled = (vectors - self.mean) / self.scale
        return torch.stack([expert(scaled) for expert in self.experts], dim=1)

    def error(self, vectors: Tensor, quantized: Tensor) -> Tensor:
        """Mean squared error of vectors rebuilt from quantized views ``[n, L, C]``, in units of their variance."""
        scaled = (vectors - self.mean) / self.scale
        weights = self.router(scaled).softmax(dim=1)
        return functional.mse_loss(self.decoder((weights.unsqueeze(2) * quantized).sum(dim=1)), scaled)


class ExpertLearner(TrainableTokenizer):
    """Experts with a quantizer each.

    Args:
        network: Its scale must be set.
        quantizers: One of the library's per expert.
        settings: Of the tokenizer.
    """

    def __init__(self, network: Experts, quantizers: nn.ModuleList, settings: QuantizerExpertSettings) -> None:
        super().__init__()
        self.network, self.quantizers, self.orthogonality = network, quantizers, settings.orthogonality

    def start(self, vectors: Tensor) -> None:
        """Make the codebooks by k-means of nearly everything: the library takes the first batch it sees."""
        self._quantize(self.network.views(vectors[:INITIAL_ROWS]))

    def loss(self, vectors: Tensor, rows: Tensor) -> Tensor:
        """Reconstruction error, pull towards the codes, and the penalty on experts that say the same."""
        views = self.network.views(vectors)
        quantized, commitment = self._quantize(views)
        return self.network.error(vectors, quantized) + commitment + self.orthogonality * overlap(views)

    @torch.no_grad()
    def error(self, vectors: Tensor) -> float:
        """Reconstruction error of held-out vectors."""
        return float(self.network.error(vectors, self._quantize(self.network.views(vectors))[0]))

    def codebooks(self) -> list[np.ndarray]:
        """The codes' vectors, float32 ``[K_l, C]`` per expert."""
        layers: list[Any] = list(self.quantizers)
        return [np.ascontiguousarray(layer.codebook.detach().numpy()) for layer in layers]

    def _quantize(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Quantized views ``[n, L, C]``, and the sum over the experts of what ties them to their codes."""
        parts, pulls = [], []
        for view, quantizer in zip(views.unbind(1), self.quantizers, strict=True):
            quantized, codes, commitment = quantizer(view)
            parts.append(quantized)
            pulls.append(quantization_loss(quantizer, view, codes, commitment.sum()))
        return torch.stack(parts, dim=1), torch.stack(pulls).sum()


def overlap(views: Tensor) -> Tensor:
    """How much of one expert's view can be distinguished from another's: 0 where no numbers of two experts go together.

    The mean squared correlation between any number of one expert and any number of another, over a batch.

    Args:
        views: float32 ``[B, L, C]``.
    """
    _, experts, width = views.shape
    if experts < 2:
        return views.new_zeros(())
    centred = views - views.mean(dim=0)
    scaled = functional.normalize(centred.flatten(1), dim=0)
    squared = (scaled.T @ scaled).square().view(experts, width, experts, width).mean(dim=(1, 3))
    return (squared.sum() - squared.diagonal().sum()) / (experts * (experts - 1))


def make_quantizers(level_sizes: tuple[int, ...], num_items: int, settings: QuantizerExpertSettings) -> nn.ModuleList:
    """One of the library's quantizers per expert.

    Args:
        level_sizes: Codebook size of every expert.
        num_items: N.
        settings: Of the tokenizer.
    """
    from vector_quantize_pytorch import VectorQuantize

    def make(size: int) -> Any:
        return VectorQuantize(codebook_size=size, **quantizer_options(size, num_items, settings, not settings.ema))

    return nn.ModuleList([make(size) for size in level_sizes])
