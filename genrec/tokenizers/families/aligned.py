"""One unified code for what users did and what items are: both kinds of vectors aligned, joined and quantized.

Source: Hu et al., Progressive Collaborative and Semantic Knowledge Fusion for Generative Recommendation (PRORec),
arXiv 2502.06269, stage I. There the collaborative vectors are learned at the same time, inside a click model; here they
are those of the features (say, of LightGCN), and an adapter learns to meet them.
"""

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from genrec.config.ranges import Positive, Rounds
from genrec.features.base import ItemFeatures, unit_rows
from genrec.tokenizers.base import TokenizerSettings
from genrec.tokenizers.families.rqkmeans import ResidualKMeansSettings, ResidualKMeansTokenizer
from genrec.tokenizers.parts.autoencoder import load_module_arrays, module_arrays
from genrec.tokenizers.parts.contrastive import centred_directions, info_nce, mean_of_known
from genrec.tokenizers.parts.learning import Checkpoint, LearningSettings, TrainableTokenizer, learn
from genrec.tokenizers.parts.sources import FusedSettings, Sources

if TYPE_CHECKING:
    from genrec.data import Dataset

MEAN = "collaborative_mean"


class AlignedSettings(ResidualKMeansSettings, FusedSettings, LearningSettings):
    """Settings of the tokenizer ``aligned``."""

    patience: Rounds = Field(5, description="epochs without a better alignment of held-out items before stopping")
    temperature: Positive = Field(0.07, description="of the alignment; lower is stricter")


class AlignedTokenizer(ResidualKMeansTokenizer):
    """Residual k-means on collaborative vectors and, next to them, semantic ones that were brought near to them.

    An item without collaborative vector (zeros) is represented by its adapted semantic vector in both places: that is
    what the alignment is for.
    """

    name: ClassVar[str] = "aligned"
    Settings: ClassVar[type[TokenizerSettings]] = AlignedSettings
    quantizes_vectors: ClassVar[bool] = False
    settings: AlignedSettings

    def __init__(self, settings: AlignedSettings) -> None:
        super().__init__(settings)
        self.sources = Sources(0, 0)
        self.mean = np.zeros(0, dtype=np.float32)
        self.adapter: Adapter | None = None

    def _check_catalogue(self, dataset: "Dataset", features: ItemFeatures) -> None:
        self.sources = Sources.of(features, dataset.train_popularity(), self.settings.collaborative, self.name)
        super()._check_catalogue(dataset, features)

    def _fit(self, dataset: "Dataset", features: ItemFeatures) -> None:
        collaborative = self.sources.collaborative(features.values)
        self.mean = mean_of_known(collaborative)
        targets = torch.from_numpy(centred_directions(collaborative, self.mean))
        semantic = torch.from_numpy(self.sources.semantic(features.values))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            self.adapter = Adapter(semantic.shape[1], targets.shape[1])
            learner = AlignmentLearner(self.adapter, targets.shape[1], self.settings.temperature)
            kept = Checkpoint.of(self, dataset, features)
            learn(learner, torch.cat([targets, semantic], dim=1), self.settings, self.name, kept)
        self.adapter.eval()
        self.learn(self.to_code_space(features.values))

    @torch.no_grad()
    def to_code_space(self, values: np.ndarray) -> np.ndarray:
        """Collaborative and adapted semantic directions side by side, float32 ``[n, 2 C]``."""
        adapted = unit_rows(self._fitted_adapter()(torch.from_numpy(self.sources.semantic(values))).numpy())
        known = centred_directions(self.sources.collaborative(values), self.mean)
        return np.concatenate([np.where(known.any(axis=1, keepdims=True), known, adapted), adapted], axis=1)

    def reconstruct(self, codes: np.ndarray) -> None:
        """Nothing: there is no way back through the adapter."""
        return

    def state(self) -> dict[str, np.ndarray]:
        """The codebooks, the columns, the collaborative mean and the adapter."""
        adapter = module_arrays(self._fitted_adapter())
        return {**super().state(), **self.sources.state(), MEAN: self.mean, **adapter}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`state` gave."""
        super().restore(arrays)
        self.sources, self.mean = Sources.restore(arrays), arrays[MEAN]
        self.adapter = Adapter((self.width or 0) - len(self.mean), len(self.mean))
        load_module_arrays(self.adapter, arrays)

    def _fitted_adapter(self) -> "Adapter":
        if self.adapter is None:
            raise RuntimeError("the tokenizer was asked for vectors before it was fitted")
        return self.adapter


class Adapter(nn.Sequential):
    """A linear map and a layer norm, from the width of the semantic vectors to that of the collaborative ones.

    Args:
        width: Of the semantic vectors.
        target: Of the collaborative vectors.
    """

    def __init__(self, width: int, target: int) -> None:
        super().__init__(nn.Linear(width, target), nn.LayerNorm(target))


class AlignmentLearner(TrainableTokenizer):
    """An adapter that brings each item's semantic vector near its own collaborative one, away from the others'.

    Args:
        adapter: What is trained.
        width: C, of the collaborative directions, which are the first columns of the vectors.
        temperature: Of the loss.
    """

    def __init__(self, adapter: Adapter, width: int, temperature: float) -> None:
        super().__init__()
        self.adapter, self.width, self.temperature = adapter, width, temperature

    def loss(self, vectors: Tensor, rows: Tensor) -> Tensor:
        """See :func:`genrec.tokenizers.parts.contrastive.info_nce`."""
        targets, semantic = vectors[:, : self.width], vectors[:, self.width :]
        return info_nce(functional.normalize(self.adapter(semantic), dim=1), targets, self.temperature)

    @torch.no_grad()
    def error(self, vectors: Tensor) -> float:
        """The same of held-out vectors."""
        return float(self.loss(vectors, torch.empty(0)))
