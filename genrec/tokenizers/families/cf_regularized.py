"""LETTER: an RQ-VAE of semantic vectors whose codes also follow what users did, with codes kept evenly spread.

Source: Wang et al., Learnable Item Tokenization for Generative Recommendation (LETTER), CIKM 2024, arXiv 2405.07314,
sections 3.2.1 to 3.2.3: the loss of an RQ-VAE, an InfoNCE of quantized vectors and collaborative ones (weight 0.02),
and at every level the diversity of code vectors (weight 1e-4, where their pull towards what they name has weight 1).
Where the code space has another width than the collaborative vectors, a linear map is between them; the
collaborative vectors are centred and of length 1.
"""

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from genrec.config.ranges import Weight, Width
from genrec.features.base import ItemFeatures
from genrec.tokenizers.base import TokenizerSettings
from genrec.tokenizers.families.rqkmeans_balanced import balanced_kmeans
from genrec.tokenizers.families.rqvae import ExtraLoss, QuantizedBatch, ResidualVAESettings, ResidualVAETokenizer
from genrec.tokenizers.parts.contrastive import centred_directions, info_nce, mean_of_known
from genrec.tokenizers.parts.sources import FusedSettings, Sources

if TYPE_CHECKING:
    from genrec.data import Dataset

# Code vectors move slowly: their groups are made anew once in so many steps.
REGROUP_STEPS = 10
GROUPING_SWEEPS = 5


class CFRegularizedSettings(ResidualVAESettings, FusedSettings):
    """Settings of the tokenizer ``cf-regularized``."""

    ema: bool = Field(False, description="codebooks are moving averages; the diversity term needs learned ones")
    collaborative_weight: Weight = Field(0.02, description="weight of the alignment with collaborative vectors")
    diversity_weight: Weight = Field(1e-4, description="weight of the diversity of code vectors")
    num_groups: Width = Field(10, ge=2, description="groups of code vectors that are drawn together, per level")

    @model_validator(mode="after")
    def _learned(self) -> "CFRegularizedSettings":
        if self.ema and self.diversity_weight:
            raise ValueError("the diversity term moves code vectors by the loss: ema: false, or diversity_weight: 0")
        return self


class CFRegularizedTokenizer(ResidualVAETokenizer):
    """An RQ-VAE of the semantic columns with LETTER's two further terms; only they see the collaborative columns.

    So new items need no collaborative vector to be named.
    """

    name: ClassVar[str] = "cf-regularized"
    Settings: ClassVar[type[TokenizerSettings]] = CFRegularizedSettings
    settings: CFRegularizedSettings

    def __init__(self, settings: CFRegularizedSettings) -> None:
        super().__init__(settings)
        self.sources = Sources(0, 0)

    def _check_catalogue(self, dataset: "Dataset", features: ItemFeatures) -> None:
        self.sources = Sources.of(features, dataset.train_popularity(), self.settings.collaborative, self.name)
        super()._check_catalogue(dataset, features)

    def inputs(self, values: np.ndarray) -> np.ndarray:
        """The semantic columns."""
        return self.sources.semantic(values)

    def _extra_loss(self, dataset: "Dataset", features: ItemFeatures) -> ExtraLoss:
        vectors = self.sources.collaborative(features.values)
        targets = torch.from_numpy(centred_directions(vectors, mean_of_known(vectors)))
        return LetterLoss(targets, self.level_sizes, self.settings)

    def reconstruct(self, codes: np.ndarray) -> None:
        """Nothing: the codes stand for the semantic columns alone."""
        return

    def state(self) -> dict[str, np.ndarray]:
        """As of an RQ-VAE, and the columns."""
        return {**super().state(), **self.sources.state()}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` gave."""
        super().restore(arrays)
        self.sources = Sources.restore(arrays)


class LetterLoss(ExtraLoss):
    """Alignment with collaborative vectors, and diversity.

    Args:
        targets: float32 ``[N, C]``, collaborative directions; zeros where nothing is known.
        level_sizes: Codebook size of every level.
        settings: Of the tokenizer.
    """

    targets: Tensor
    groups: Tensor
    steps: Tensor

    def __init__(self, targets: Tensor, level_sizes: tuple[int, ...], settings: CFRegularizedSettings) -> None:
        super().__init__()
        self.settings = settings
        same = targets.shape[1] == settings.latent_size
        self.map: nn.Module = nn.Identity() if same else nn.Linear(settings.latent_size, targets.shape[1], bias=False)
        self.register_buffer("targets", targets, persistent=False)
        self.register_buffer("groups", torch.zeros(len(level_sizes), max(level_sizes), dtype=torch.int64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: QuantizedBatch) -> Tensor:
        """The two terms with their weights."""
        alignment = info_nce(self.map(batch.quantized), self.targets[batch.rows], temperature=1.0)
        loss = self.settings.collaborative_weight * alignment
        if not self.settings.diversity_weight:
            return loss
        if not int(self.steps) % REGROUP_STEPS:
            self._regroup(batch.codebooks)
        self.steps += 1
        terms = [
            diversity_loss(codebook, batch.codes[:, level], self.groups[level, : len(codebook)])
            for level, codebook in enumerate(batch.codebooks)
        ]
        return loss + self.settings.diversity_weight * torch.stack(terms).sum()

    def _regroup(self, codebooks: list[Tensor]) -> None:
        for level, codebook in enumerate(codebooks):
            vectors = codebook.detach().numpy()
            random = np.random.default_rng(self.settings.seed + level)
            start = vectors[random.permutation(len(vectors))[: min(self.settings.num_groups, len(vectors))]]
            _, codes = balanced_kmeans(vectors, start, GROUPING_SWEEPS, GROUPING_SWEEPS, random)
            self.groups[level, : len(codebook)] = torch.from_numpy(codes.astype(np.int64))


def diversity_loss(codebook: Tensor, codes: Tensor, groups: Tensor) -> Tensor:
    """Code vectors in use are drawn to one other of their group and pushed from all the rest (LETTER, equation 6).

    Args:
        codebook: float32 ``[K, C]``.
        codes: int64 ``[B]``.
        groups: int64 ``[K]``, the group of every code.

    Returns:
        The mean over the batch; codes alone in their group take no part.
    """
    own = functional.one_hot(codes, len(codebook)).bool()
    members = (groups[codes][:, None] == groups[None]) & ~own
    shared = members.any(dim=1)
    if not bool(shared.any()):
        return codebook.sum() * 0.0
    drawn = torch.multinomial(members[shared].float(), 1).squeeze(1)
    scores = (codebook[codes] @ codebook.T).masked_fill(own, -torch.inf)
    return functional.cross_entropy(scores[shared], drawn)
