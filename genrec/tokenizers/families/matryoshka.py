"""Nested residual codes: what a prefix of the semantic ID stands for is trained to be a good reconstruction by itself.

Source: the idea of fMRLRec (2409.16627) and of Matryoshka representations (Kusupati et al., NeurIPS 2022, section 3),
the loss at every prefix size, for the levels of an RQ-VAE instead of the widths of a vector.
"""

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from genrec.config.ranges import Factor
from genrec.errors import ConfigError
from genrec.tokenizers.base import TokenizerSettings
from genrec.tokenizers.families.rqvae import ExtraLoss, ResidualLearner, ResidualVAESettings, ResidualVAETokenizer
from genrec.tokenizers.parts.autoencoder import Autoencoder


class MatryoshkaSettings(ResidualVAESettings):
    """Settings of the tokenizer ``matryoshka``."""

    prefix_weights: tuple[Factor, ...] = Field((), description="weight of each prefix, shortest first; 1 each if empty")


class MatryoshkaTokenizer(ResidualVAETokenizer):
    """An RQ-VAE whose decoder rebuilds the vector from one level, from two, and so on.

    Args:
        settings: See :class:`MatryoshkaSettings`.

    Raises:
        ConfigError: If there is not one weight per level, or none is positive.
    """

    name: ClassVar[str] = "matryoshka"
    Settings: ClassVar[type[TokenizerSettings]] = MatryoshkaSettings
    settings: MatryoshkaSettings

    def __init__(self, settings: MatryoshkaSettings) -> None:
        super().__init__(settings)
        weights = settings.prefix_weights or (1.0,) * len(self.level_sizes)
        if len(weights) != len(self.level_sizes) or min(weights) < 0 or not sum(weights):
            raise ConfigError(
                f"prefix_weights = {list(weights)} for {len(self.level_sizes)} levels",
                where="tokenizer.prefix_weights",
                expected="one weight per level, none negative and not all zero",
                fix="correct the list, or leave it out for a weight of 1 each",
            )
        self.weights = weights

    def new_learner(self, network: Autoencoder, quantizer: Any, extra: ExtraLoss | None) -> ResidualLearner:
        """What is trained: an RQ-VAE with an error per prefix."""
        return PrefixLearner(network, quantizer, extra, self.weights)


class PrefixLearner(ResidualLearner):
    """A residual autoencoder whose reconstruction error is the weighted sum over all prefixes of the codes.

    Args:
        network: Its scale must be set.
        quantizer: See :func:`genrec.tokenizers.families.rqvae.make_quantizer`.
        extra: A further term of the loss.
        weights: Of the prefixes, shortest first.
    """

    def __init__(
        self, network: Autoencoder, quantizer: Any, extra: ExtraLoss | None, weights: tuple[float, ...]
    ) -> None:
        super().__init__(network, quantizer, extra)
        self.weights = weights

    def reconstruction(self, vectors: Tensor, latents: Tensor, quantized: Tensor, codes: Tensor) -> Tensor:
        """The errors of the decoder with the first codes alone, with two, and so on."""
        pairs = zip(self.codebooks()[:-1], codes.unbind(dim=1), strict=False)
        prefix, errors = torch.zeros_like(latents), []
        for codebook, code in pairs:
            prefix = prefix + codebook[code]
            # The gradient reaches the encoder as if nothing was quantized.
            errors.append(self.network.error(vectors, latents + (prefix - latents).detach()))
        errors.append(self.network.error(vectors, quantized))
        return torch.stack([weight * error for weight, error in zip(self.weights, errors, strict=True)]).sum()

    @torch.no_grad()
    def error(self, vectors: Tensor) -> float:
        """The same of held-out vectors."""
        self.quantizer.eval()
        latents = self.network.encode(vectors)
        quantized, codes, _ = self.quantizer(latents)
        return float(self.reconstruction(vectors, latents, quantized, codes))
