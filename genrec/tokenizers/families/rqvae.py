"""RQ-VAE: an autoencoder whose middle is quantized residually, level after level.

Source: Rajput et al., Recommender Systems with Generative Retrieval (TIGER), NeurIPS 2023, section 3.1; Zeghidour et
al., SoundStream, 2021, for the residual quantizer. The quantizer is vector-quantize-pytorch's, with its defaults that
collapse (no restart of dead codes, commitment weight 1, random first codebooks) replaced by settings that do not. Its
loss is not taken where codebooks are learned: it weighs code vectors and encoder alike, see :func:`quantization_loss`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from genrec.config.ranges import Positive, Share, Weight, Width
from genrec.features.base import ItemFeatures
from genrec.tokenizers.base import CodebookSettings, TokenizerSettings
from genrec.tokenizers.parts.autoencoder import AutoencodedTokenizer, Autoencoder, NetworkSettings
from genrec.tokenizers.parts.learning import INITIAL_ROWS, Checkpoint, TrainableTokenizer, learn
from genrec.tokenizers.parts.sinkhorn import uniform_codes

if TYPE_CHECKING:
    from genrec.data import Dataset

# An average code has this many of a batch's vectors if it is not to be restarted all the time.
LIVELY_SHARE = 0.5


class AutoencoderSettings(CodebookSettings, NetworkSettings):
    """Settings of the families that train an autoencoder with codebooks of chosen sizes."""


class QuantizerSettings(AutoencoderSettings):
    """Settings of learned codebooks."""

    latent_size: Width = Field(32, description="width of the code space")
    commitment: Weight = Field(0.25, description="weight of the pull of vectors towards their codes")
    ema: bool = Field(True, description="codebooks are moving averages; false learns them by the loss")
    decay: Share = Field(0.9, gt=0, lt=1, description="decay of the moving averages that are the codebooks")
    dead_code_threshold: Weight = Field(2.0, description="restart codes with fewer vectors per batch on average")
    rotation_trick: bool = Field(False, description="rotate gradients through the codes instead of copying them")


class ResidualVAESettings(QuantizerSettings):
    """Settings of the tokenizer ``rqvae``."""

    sinkhorn_last_level: bool = Field(False, description="train the last level with all codes used equally often")
    sinkhorn_epsilon: Positive = Field(0.003, description="entropy of the assignment; smaller is nearer to nearest")


class ResidualVAETokenizer(AutoencodedTokenizer):
    """Residual quantization in the middle of a learned autoencoder."""

    name: ClassVar[str] = "rqvae"
    Settings: ClassVar[type[TokenizerSettings]] = ResidualVAESettings
    settings: ResidualVAESettings

    def _fit(self, dataset: "Dataset", features: ItemFeatures) -> None:
        vectors = torch.from_numpy(self.inputs(features.values))
        settings = self.settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            network = self.new_network(vectors.shape[1])
            network.set_scale(vectors)
            quantizer = make_quantizer(self.level_sizes, len(vectors), settings, not settings.ema)
            if settings.sinkhorn_last_level:
                assign_uniformly(quantizer.layers[-1], settings.sinkhorn_epsilon)
            learner = self.new_learner(network, quantizer, self._extra_loss(dataset, features))
            learn(learner, vectors, settings, self.name, Checkpoint.of(self, dataset, features))
        self.network = network.eval()
        self.codebooks = [np.ascontiguousarray(layer.codebook.detach().numpy()) for layer in quantizer.layers]

    def new_network(self, width: int) -> Autoencoder:
        """Encoder and decoder with a code space of ``latent_size``."""
        return Autoencoder(width, self.settings.hidden_sizes, self.settings.latent_size)

    def new_learner(self, network: Autoencoder, quantizer: Any, extra: "ExtraLoss | None") -> "ResidualLearner":
        """What is trained."""
        return ResidualLearner(network, quantizer, extra)

    def _extra_loss(self, dataset: "Dataset", features: ItemFeatures) -> "ExtraLoss | None":
        """A further term of the loss; none unless a family has one."""
        return None


@dataclass(frozen=True, eq=False)
class QuantizedBatch:
    """What a further term of the loss may look at.

    Args:
        rows: int64 ``[B]``, dense items of the batch.
        quantized: float32 ``[B, C]``, the sums of their codes' vectors; the gradient reaches the encoder.
        codes: int64 ``[B, L]``.
        codebooks: float32 ``[K_l, C]`` per level.
    """

    rows: Tensor
    quantized: Tensor
    codes: Tensor
    codebooks: list[Tensor]


class ExtraLoss(nn.Module, ABC):
    """A further term of the loss of an autoencoder, with parameters of its own where it needs some."""

    @abstractmethod
    def forward(self, batch: QuantizedBatch) -> Tensor:
        """A float32 scalar."""


class ResidualLearner(TrainableTokenizer):
    """An autoencoder with a residual quantizer in its middle.

    Args:
        network: Its scale must be set.
        quantizer: See :func:`make_quantizer`.
        extra: A further term of the loss.
    """

    def __init__(self, network: Autoencoder, quantizer: Any, extra: ExtraLoss | None = None) -> None:
        super().__init__()
        self.network, self.quantizer, self.extra = network, quantizer, extra

    def start(self, vectors: Tensor) -> None:
        """Make the codebooks by k-means of nearly everything: the library takes the first batch it sees."""
        self.quantizer(self.network.encode(vectors[:INITIAL_ROWS]))

    def loss(self, vectors: Tensor, rows: Tensor) -> Tensor:
        """Reconstruction error, the sum over levels of :func:`quantization_loss`, and the further term."""
        latents = self.network.encode(vectors)
        quantized, codes, commitment = self.quantizer(latents)
        pulls, residual = [], latents
        for layer, chosen, pull in zip(self.quantizer.layers, codes.unbind(1), commitment.unbind(), strict=True):
            pulls.append(quantization_loss(layer, residual, chosen, pull))
            residual = residual - layer.codebook[chosen].detach()
        loss = self.reconstruction(vectors, latents, quantized, codes) + torch.stack(pulls).sum()
        if self.extra is None:
            return loss
        return loss + self.extra(QuantizedBatch(rows, quantized, codes, self.codebooks()))

    def reconstruction(self, vectors: Tensor, latents: Tensor, quantized: Tensor, codes: Tensor) -> Tensor:
        """The error of the decoder, in units of the vectors' variance.

        Args:
            vectors: float32 ``[B, D]``.
            latents: float32 ``[B, C]``, what the encoder made of them.
            quantized: float32 ``[B, C]``, the sums of their codes' vectors; the gradient reaches the encoder.
            codes: int64 ``[B, L]``.
        """
        return self.network.error(vectors, quantized)

    def error(self, vectors: Tensor) -> float:
        """See :func:`held_out_error`."""
        return held_out_error(self.network, self.quantizer, vectors)

    def codebooks(self) -> list[Tensor]:
        """The codes' vectors, float32 ``[K_l, C]`` per level."""
        return [layer.codebook for layer in self.quantizer.layers]


def make_quantizer(
    level_sizes: Sequence[int], num_items: int, settings: QuantizerSettings, learned_codebooks: bool = False
) -> Any:
    """The library's residual quantizer with our settings.

    Args:
        level_sizes: Codebook size of every level.
        num_items: N, see :func:`quantizer_options`.
        settings: Of the tokenizer.
        learned_codebooks: Parameters for the optimizer instead of moving averages.
    """
    from vector_quantize_pytorch import ResidualVQ

    options = quantizer_options(max(level_sizes), num_items, settings, learned_codebooks)
    return ResidualVQ(codebook_size=tuple(level_sizes), **options)


def quantizer_options(
    size: int, num_items: int, settings: QuantizerSettings, learned_codebooks: bool = False
) -> dict[str, Any]:
    """What the library's quantizers are told, one level or several.

    Args:
        size: K of the largest codebook.
        num_items: N; small catalogues get a lower threshold for restarts, or every code would restart at every step.
        settings: Of the tokenizer.
        learned_codebooks: Parameters for the optimizer instead of moving averages.
    """
    share = min(settings.batch_size, num_items) / size
    return {
        "dim": settings.latent_size,
        "kmeans_init": True,
        "kmeans_iters": 20,
        "decay": settings.decay,
        "commitment_weight": settings.commitment,
        "threshold_ema_dead_code": min(settings.dead_code_threshold, LIVELY_SHARE * share),
        "rotation_trick": settings.rotation_trick,
        "learnable_codebook": learned_codebooks,
        "ema_update": not learned_codebooks,
        # One process fits while the others wait: the library would have them take part.
        "sync_codebook": False,
    }


def quantization_loss(layer: Any, vectors: Tensor, codes: Tensor, commitment: Tensor) -> Tensor:
    """The terms of one level that tie code vectors and encoder together.

    ``|sg[r] - e|^2 + b |r - sg[e]|^2`` with b the setting ``commitment`` (TIGER, section 3.1), as means over the
    numbers. Moving averages take the place of the first term.

    Args:
        layer: A ``VectorQuantize``.
        vectors: r, float32 ``[B, C]``, what the level quantizes.
        codes: int64 ``[B]``.
        commitment: The library's own term. With learned codebooks it is ``b |r - e|^2``, which moves code vectors b
            times as fast as they should.
    """
    if not layer.learnable_codebook:
        return commitment
    chosen = layer.codebook[codes]
    pull = nn.functional.mse_loss(vectors, chosen.detach())
    return nn.functional.mse_loss(chosen, vectors.detach()) + layer.commitment_weight * pull


def assign_uniformly(layer: Any, epsilon: float) -> None:
    """Make one of the library's layers use its codes equally often in training; nearest codes elsewhere.

    Args:
        layer: A ``VectorQuantize``.
        epsilon: See :func:`genrec.tokenizers.parts.sinkhorn.uniform_codes`.
    """
    nearest = layer._codebook.gumbel_sample

    def choose(logits: Tensor, *, training: bool, **options: Any) -> tuple[Tensor, Tensor]:
        if not training:
            return nearest(logits, training=training, **options)
        # The library has one codebook here, [1, n, K], and gives negative distances.
        codes = uniform_codes(logits.detach()[0].square(), epsilon)[None]
        return codes, nn.functional.one_hot(codes, logits.shape[-1]).to(logits.dtype)

    layer._codebook.gumbel_sample = choose


@torch.no_grad()
def held_out_error(network: Autoencoder, quantizer: Any, vectors: Tensor) -> float:
    """Reconstruction error of vectors through their codes, in units of the variance; changes nothing.

    Args:
        network: Encoder and decoder.
        quantizer: See :func:`make_quantizer`.
        vectors: float32 ``[n, D]``.
    """
    quantizer.eval()
    latents, _, _ = quantizer(network.encode(vectors))
    return float(network.error(vectors, latents))
