"""A frozen language model that reads collaborative vectors: soft tokens together with titles, learned in two stages.

After Kim et al., "Large Language Models meet Collaborative Filtering" (A-LLMRec, KDD 2024, 2404.11343, section 3). A
trained SASRec knows what is chosen together and stays as it is. *First stage* (``stage: align``): an autoencoder of its
item vectors and one of text vectors learn latents that agree, while the rebuilt item vectors still recommend. *Second
stage* (``stage: prompt``): a prompt tells titles, each followed by its item's latent as one soft token, after a soft
token for the user; two projections learn soft tokens after which a frozen causal language model writes the next title.
Items without a training interaction are known by the latent of their text, in both stages.

Where the authors' code departs from the method this does not: the target is never drawn as another candidate, cold
items have their path, and an item is ranked by the probability of its whole title and the end after it instead of by
whether its title occurs in generated text.

The stages are two models that share what the first one learned (:class:`AllmRec`); this module has the first, and
:mod:`genrec.models.families.allmrec_prompt` the second.
"""

from abc import abstractmethod
from pathlib import Path
from typing import ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, mse_loss

from genrec.config.ranges import Few, FewOrNone, HistoryLength, Rate, Weight, Width
from genrec.errors import ArtifactError, ConfigError
from genrec.models.base import (
    BackboneSettings,
    CatalogueInput,
    GenrecConfig,
    ItemScorer,
    ModelInputs,
    RecommenderModel,
    TrainingOutput,
)
from genrec.models.families.sasrec import SASRec
from genrec.models.layers.aligner import Aligner, with_one
from genrec.models.layers.history import gather_targets, length_mask, state_at
from genrec.models.layers.negatives import draw_unknown, first_usable
from genrec.models.registry import load_recommender
from genrec.models.text_model import check_sizes

SIZES = ("hidden_size", "num_layers", "num_heads", "feed_forward_size", "max_history")
BEFORE = {
    "collaborative": (
        "sasrec",
        "a trained sasrec",
        "train one on this data set (genrec run CONFIG --set recommender='{name: sasrec}' --out runs/cf) and set "
        "recommender.collaborative=runs/cf/model; the folder baselines/sasrec of another run will do",
    ),
    "aligned": (
        "allmrec",
        "a model of the first stage",
        "train it (genrec run CONFIG --set recommender.stage=align --out runs/aligned) and set "
        "recommender.aligned=runs/aligned/model",
    ),
}


class AllmRecSettings(BackboneSettings):
    """Settings of the family; the sizes, and how many items are read, are those of the SASRec and need not be said."""

    dropout: Rate = Field(0.0, description="prompt: on soft tokens")
    stage: Literal["align", "prompt"] = Field("align", description="which of the two stages is trained")
    collaborative: str | None = Field(None, description="align: folder of a trained sasrec")
    aligned: str | None = Field(None, description="prompt: model folder of the first stage")
    backbone: str | None = Field(None, description="prompt: a causal language model by folder, GGUF file or name")
    latent_size: Width = Field(128, description="width in which items and texts agree")
    match_weight: Weight = Field(1.0, description="align: of latents that agree")
    item_weight: Weight = Field(0.5, description="align: of item vectors rebuilt")
    text_weight: Weight = Field(0.2, description="align: of text vectors rebuilt")
    targets: Literal["uniform", "last"] = Field("last", description="prompt: which item of a history is asked for")
    prompt_items: HistoryLength = Field(10, description="prompt: items of the history that are told")
    title_words: Few = Field(16, description="prompt: subwords of a title")
    candidates: FewOrNone = Field(
        20, description="prompt: items offered, the best of the first stage; 0 offers none and scores all"
    )

    @property
    def reads(self) -> frozenset[CatalogueInput]:
        """The first stage reads text vectors and which items have a training interaction, the second has both from it.

        The second stage tells titles.
        """
        return frozenset({"features", "histories"} if self.stage == "align" else {"texts"})

    @property
    def sources(self) -> tuple[str, ...]:
        """Model folders that must have been trained on the data set that this one is trained on."""
        return tuple(path for path in (self.collaborative, self.aligned) if path is not None)


class AllmRec(ItemScorer):
    """The trained SASRec and the aligned latents that both stages have; a variant is one of the stages."""

    Settings: ClassVar[type[BackboneSettings]] = AllmRecSettings
    settings: AllmRecSettings
    variants = (
        "stage",
        {
            "align": "genrec.models.families.allmrec:AlignedAllmRec",
            "prompt": "genrec.models.families.allmrec_prompt:PromptedAllmRec",
        },
    )
    features: Tensor
    seen: Tensor

    def __init__(self, config: GenrecConfig) -> None:
        super().__init__(config)
        settings, width = self.settings, self.settings.hidden_size
        self.collaborative = SASRec(GenrecConfig(**(config.collaborative or {})))
        self.aligner = Aligner(width + 1, config.feature_size, settings.latent_size)
        self.register_buffer("features", torch.zeros(config.num_items, config.feature_size))
        self.register_buffer("seen", torch.zeros(config.num_items, dtype=torch.bool))

    def frozen_modules(self) -> list[nn.Module]:
        """Modules that the stage does not train."""
        return [self.collaborative]

    def train(self, mode: bool = True) -> "AllmRec":
        """Training mode for what learns; what is frozen has no dropout and no gradients."""
        super().train(mode)
        for module in self.frozen_modules():
            module.requires_grad_(False).eval()
        return self

    @abstractmethod
    def count_targets(self, lengths: Tensor) -> int:
        """How many items the loss of such a batch is the mean over."""

    def collaborative_scores(self, items: Tensor, lengths: Tensor) -> Tensor:
        """What the first stage says: products of the user's state with rebuilt item vectors, float32 ``[B, N]``.

        The vector of an item without a training interaction is rebuilt from its text.
        """
        state = self.user_states(items, lengths)
        everything = torch.arange(self.config.num_items, device=items.device)
        return (with_one(state) @ self.aligner.rebuild_items(self.latents(everything)).T).float()

    def vectors(self, items: Tensor) -> Tensor:
        """The SASRec's vectors of ``items [...]`` with their biases as one more number, ``[..., D + 1]``."""
        source = self.collaborative
        return torch.cat([source.items(items), source.item_bias[items].unsqueeze(-1)], dim=-1)

    def latents(self, items: Tensor) -> Tensor:
        """``[..., d]``: of an item's vector where it has a training interaction, else of its text."""
        warm, cold = self.aligner.read_items(self.vectors(items)), self.aligner.read_texts(self.features[items])
        return torch.where(self.seen[items].unsqueeze(-1), warm, cold)

    def user_states(self, items: Tensor, lengths: Tensor) -> Tensor:
        """The SASRec's state ``[B, d]`` after each history."""
        return state_at(self.collaborative.read(items, lengths), lengths)


class AlignedAllmRec(AllmRec):
    """First stage: item and text vectors learn latents that agree; lists follow the rebuilt item vectors."""

    def __init__(self, config: GenrecConfig) -> None:
        super().__init__(config)
        self.post_init()
        self.train()

    @classmethod
    def build(cls, config: GenrecConfig, materials: ModelInputs) -> RecommenderModel:
        """An untrained first stage on top of a trained SASRec.

        Raises:
            ConfigError: If the SASRec is not named, is something else or does not fit.
            ArtifactError: If its folder cannot be used, or knows another number of items.
        """
        settings = AllmRecSettings(**(config.settings or {}))
        source = cast(SASRec, open_source("collaborative", settings.collaborative, config.num_items))
        sizes = {name: getattr(source.settings, name) for name in SIZES}
        check_sizes(settings, sizes, str(settings.collaborative))
        kept = ("family", "settings", "num_items", "feature_size")
        config.collaborative = {name: getattr(source.config, name) for name in kept}
        config.settings = {**(config.settings or {}), **sizes}
        if materials.features is None or materials.histories is None:
            raise TypeError("the first stage reads item vectors and which items were taken")
        config.feature_size = materials.features.shape[1]
        model = cls(config)
        model.collaborative.load_state_dict(source.state_dict())
        model.features.copy_(torch.tensor(materials.features))
        # From the data and not from the batches that pass: each of several processes sees only some of these.
        model.seen[torch.tensor(materials.histories.items, dtype=torch.int64)] = True
        return model

    def forward(self, items: Tensor, lengths: Tensor) -> TrainingOutput:
        """The loss at every position of the histories."""
        return self.training_output(self._alignment_loss(items, lengths))

    def count_targets(self, lengths: Tensor) -> int:
        """Every item of every history."""
        return int(lengths.sum())

    def score_items(self, items: Tensor, lengths: Tensor) -> Tensor:
        """Score the whole catalogue, float32 ``[B, N]``."""
        return self.collaborative_scores(items, lengths)

    def _alignment_loss(self, items: Tensor, lengths: Tensor) -> Tensor:
        weights, rows = self.settings, length_mask(lengths, items.shape[1]).nonzero()[:, 0]
        with torch.no_grad():
            states, targets = gather_targets(self.collaborative.read(items[:, :-1], lengths), items, lengths)
        others, found = first_usable(*draw_unknown(items[rows], lengths[rows], self.config.num_items))
        both = torch.stack([targets, others])
        wanted, texts = self.vectors(both), self.features[both]
        item_latents, text_latents = self.aligner.read_items(wanted), self.aligner.read_texts(texts)
        rebuilt = self.aligner.rebuild_items(item_latents)
        scores = (with_one(states) * rebuilt).sum(-1).float()
        recommending = -(logsigmoid(scores[0]).mean() + (logsigmoid(-scores[1]) * found).sum() / len(found))
        return (
            recommending
            + weights.match_weight * mse_loss(item_latents, text_latents)
            + weights.item_weight * mse_loss(rebuilt, wanted)
            + weights.text_weight * mse_loss(self.aligner.rebuild_texts(text_latents), texts)
        )


def open_source(setting: str, path: str | None, num_items: int) -> RecommenderModel:
    """A trained model that a stage builds on."""
    family, what, fix = BEFORE[setting]
    if path is None:
        raise ConfigError(
            f"the recommender 'allmrec' builds on {what} and none is given",
            where=f"recommender.{setting}",
            expected="its model folder",
            fix=fix,
        )
    model = load_recommender(Path(path))
    later = isinstance(model.settings, AllmRecSettings) and model.settings.stage != "align"
    if model.config.family != family or later:
        raise ConfigError(
            f"{path} holds the recommender {model.config.family!r}"
            + (", second stage" if model.config.family == family else ""),
            where=f"recommender.{setting}",
            expected=what,
            fix=fix,
        )
    if model.settings.side_inputs:
        raise ConfigError(
            f"{path} was trained with {', '.join(model.settings.side_inputs)}, which 'allmrec' does not read",
            where=f"recommender.{setting}",
            expected=f"{what} that reads items alone",
            fix=f"train it again with {model.settings.side_inputs[0]}: false",
        )
    if model.config.num_items != num_items:
        raise ArtifactError(
            f"the model in {path} knows {model.config.num_items} items, the data set has {num_items}",
            where=f"recommender.{setting}",
            fix="train it on this data set",
        )
    return model
