"""A recipe with every setting filled in and every name checked, before any work begins."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from genrec.alignment.rewards import check_names
from genrec.alignment.setup import check_family, uses_reward
from genrec.config import Recipe, RecommenderConfig, TrainingConfig, parse_settings
from genrec.decoding.session import session_size_of
from genrec.errors import ConfigError
from genrec.evaluation.baselines import UNTRAINED
from genrec.features.build import build_encoder
from genrec.models import ResolvedRecommender, check_kind, recommender_class, resolve_recommender
from genrec.models.base import no_item_probabilities
from genrec.models.registry import embed_command, without_features
from genrec.tokenizers import tokenizer_class
from genrec.tokenizers.parts.sources import COLLABORATIVE_ENCODERS
from genrec.training.validation import selecting_k

LEARNED_BASELINE = "sasrec"
BASELINES = (*UNTRAINED, LEARNED_BASELINE)


@dataclass(frozen=True)
class ResolvedRecipe:
    """A checked recipe with the families and the typed settings of its recommenders; stages read it as it is.

    Attributes:
        recipe: All sections with every default written into them; it means the same when it is read again.
        recommender: Family and settings of the recommender.
        baseline: Family and settings of the baseline that is trained.
        baseline_training: How it is trained.
    """

    recipe: Recipe
    recommender: ResolvedRecommender
    baseline: ResolvedRecommender
    baseline_training: TrainingConfig

    @property
    def needs_semantic_ids(self) -> bool:
        """Whether the recommender is built on semantic IDs."""
        return self.recommender.needs_semantic_ids

    @property
    def trains_baseline(self) -> bool:
        """Whether one of the baselines is trained."""
        return LEARNED_BASELINE in self.recipe.evaluation.baselines

    @property
    def needs_features(self) -> bool:
        """Whether anything is made from item vectors."""
        learned = self.trains_baseline and self.baseline.reads_features
        return self.needs_semantic_ids or self.recommender.reads_features or learned

    @property
    def has_variants(self) -> bool:
        """Whether a run also measures variants of its recommender."""
        recipe = self.recipe
        return recipe.aligns or recipe.adds_transitions or bool(recipe.decoding.item_weight)


def resolve_recipe(recipe: Recipe) -> ResolvedRecipe:
    """Look up the families, check what they decide, and write their defaults into the recipe.

    Args:
        recipe: As read from YAML.

    Raises:
        ConfigError: On the first unknown name or unusable setting.
    """
    family = tokenizer_class(recipe.tokenizer.name)
    encoder = build_encoder(recipe.features, where="features").settings
    tokenizer = parse_settings(family.Settings, recipe.tokenizer.settings, where="tokenizer")
    recommender = resolve_recommender(recipe.recommender)
    _check_baselines(recipe)
    selecting_k(recipe.training.metric)
    _check_alignment(recipe, recommender)
    if recommender.needs_semantic_ids:
        check_kind(recommender.name, family.kind)
        session_size_of(recipe.decoding, recommender.name, recommender.settings)
        _check_item_scores(recipe, recommender)
    filled = {"features": encoder, "tokenizer": tokenizer, "recommender": recommender.settings}
    sections = {
        name: getattr(recipe, name).model_copy(update=settings.model_dump(mode="json"))
        for name, settings in filled.items()
    }
    check_vectors(recommender, sections["features"].model_dump())
    return ResolvedRecipe(
        recipe=recipe.model_copy(update=sections),
        recommender=recommender,
        baseline=resolve_recommender(baseline_recommender(recipe)),
        baseline_training=baseline_training(recipe),
    )


def baseline_recommender(recipe: Recipe) -> RecommenderConfig:
    """The section ``recommender`` of the baseline that is trained.

    Raises:
        ConfigError: If a key of ``evaluation.sasrec`` is not one of its settings.
    """
    config = RecommenderConfig.model_validate({"name": LEARNED_BASELINE, **recipe.evaluation.sasrec})
    settings = parse_settings(
        recommender_class(LEARNED_BASELINE).Settings, recipe.evaluation.sasrec, where="evaluation.sasrec"
    )
    return config.model_copy(update=settings.model_dump(mode="json"))


def baseline_training(recipe: Recipe) -> TrainingConfig:
    """The section ``training`` of the baseline that is trained: the recipe's, but for ``evaluation.sasrec_training``.

    Raises:
        ConfigError: If a key of ``evaluation.sasrec_training`` is not one of ``training``.
    """
    values = {**recipe.training.model_dump(), **recipe.evaluation.sasrec_training}
    return parse_settings(TrainingConfig, values, where="evaluation.sasrec_training")


def check_vectors(recommender: ResolvedRecommender, made: Mapping[str, Any]) -> None:
    """Refuse vectors of what items are for a recommender that reads of its vectors what users did.

    Args:
        recommender: Family and settings.
        made: How the vectors are made: the section ``features``, or the description of a folder.

    Raises:
        ConfigError: If none of the encoders reads interactions; ``matrix`` brings vectors that may be anything.
    """
    if not (recommender.family.needs_collaborative and recommender.reads_features):
        return
    encoders = _encoders_of(made)
    if not {*COLLABORATIVE_ENCODERS, "matrix"}.intersection(encoders):
        raise ConfigError(
            f"the recommender {recommender.name!r} reads collaborative vectors, and these are by {', '.join(encoders)}",
            where="features",
            expected=f"vectors by {', '.join(COLLABORATIVE_ENCODERS)}, or your own by matrix",
            fix=f"make them ({embed_command(recommender.name)}), or {without_features(recommender.name)}",
        )


def _encoders_of(made: Mapping[str, Any]) -> list[str]:
    parts = made.get("parts") or []
    return [name for part in parts for name in _encoders_of(part)] or [str(made.get("encoder", "unknown"))]


def _check_baselines(recipe: Recipe) -> None:
    unknown = [name for name in recipe.evaluation.baselines if name not in BASELINES]
    if unknown:
        raise ConfigError(
            f"there is no baseline {unknown[0]!r}",
            where="evaluation.baselines",
            expected=f"any of {', '.join(BASELINES)}",
            fix="remove it or correct its name",
        )
    baseline_recommender(recipe)
    selecting_k(baseline_training(recipe).metric)


def _check_item_scores(recipe: Recipe, recommender: ResolvedRecommender) -> None:
    wanted = recipe.decoding.mode == "items" or recipe.decoding.item_weight
    if wanted and recommender.writes_semantic_ids and not recommender.settings.has_item_probabilities:
        raise no_item_probabilities(recommender.name)


def _check_alignment(recipe: Recipe, recommender: ResolvedRecommender) -> None:
    if not recipe.aligns:
        return
    check_family(recommender.name, recommender.settings, writes=recommender.writes_semantic_ids)
    if uses_reward(recipe.alignment):
        check_names(recipe.alignment.rewards)
