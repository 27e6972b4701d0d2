"""Collaborative vectors and text vectors in one latent space, and the way from there into a language model.

After A-LLMRec (Kim et al., KDD 2024, sections 3.1 and 3.2).
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad


class Aligner(nn.Module):
    """Two autoencoders of one hidden layer each, whose latents are to agree.

    Args:
        item_size: Width of collaborative vectors.
        text_size: Width of text vectors.
        latent_size: Width of both latents.
    """

    def __init__(self, item_size: int, text_size: int, latent_size: int) -> None:
        super().__init__()
        self.item_in, self.item_out = nn.Linear(item_size, latent_size), nn.Linear(latent_size, item_size)
        self.text_in, self.text_out = nn.Linear(text_size, latent_size), nn.Linear(latent_size, text_size)

    def read_items(self, vectors: Tensor) -> Tensor:
        """Latents ``[..., d]`` of collaborative vectors."""
        return torch.sigmoid(self.item_in(vectors))

    def read_texts(self, vectors: Tensor) -> Tensor:
        """Latents ``[..., d]`` of text vectors."""
        return torch.sigmoid(self.text_in(vectors))

    def rebuild_items(self, latents: Tensor) -> Tensor:
        """Collaborative vectors of latents ``[..., d]``."""
        return cast(Tensor, self.item_out(latents))

    def rebuild_texts(self, latents: Tensor) -> Tensor:
        """Text vectors of latents ``[..., d]``."""
        return cast(Tensor, self.text_out(latents))


def projection(size: int, out: int, activation: nn.Module) -> nn.Sequential:
    """From vectors of one width to soft tokens of another."""
    return nn.Sequential(nn.Linear(size, out), nn.LayerNorm(out), activation, nn.Linear(out, out))


def with_one(states: Tensor) -> Tensor:
    """A one after each of ``[..., D]``, so that products with item vectors add their bias."""
    return pad(states, (0, 1), value=1.0)
