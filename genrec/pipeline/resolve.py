"""A recipe with every setting filled in and every name checked, before any work begins."""

from collections.abc import Mapping
from typing import Any

from genrec.alignment.rewards import check_names
from genrec.alignment.setup import check_family, uses_reward
from genrec.config import Recipe, RecommenderConfig, TrainingConfig, parse_settings
from genrec.decoding.session import session_size_of
from genrec.errors import ConfigError
from genrec.evaluation.baselines import UNTRAINED
from genrec.features.build import build_encoder
from genrec.models import GenerativeRecommender, check_kind, parse_recommender, recommender_class
from genrec.models.base import no_item_probabilities
from genrec.models.registry import embed_command, without_features
from genrec.tokenizers import tokenizer_class
from genrec.tokenizers.parts.sources import COLLABORATIVE_ENCODERS
from genrec.training.validation import selecting_k

LEARNED_BASELINE = "sasrec"
BASELINES = (*UNTRAINED, LEARNED_BASELINE)


def resolve_recipe(recipe: Recipe) -> Recipe:
    """Check what the families decide, and write their defaults into the recipe.

    Args:
        recipe: As read from YAML.

    Returns:
        A recipe that says everything, and means the same when it is read again.

    Raises:
        ConfigError: On the first unknown name or unusable setting.
    """
    tokenizer = tokenizer_class(recipe.tokenizer.name)
    filled = {
        "features": build_encoder(recipe.features, where="features").settings,
        "tokenizer": parse_settings(tokenizer.Settings, recipe.tokenizer.settings, where="tokenizer"),
        "recommender": parse_recommender(recipe.recommender),
    }
    _check_baselines(recipe)
    selecting_k(recipe.training.metric)
    _check_alignment(recipe)
    if needs_semantic_ids(recipe):
        check_kind(recipe.recommender.name, tokenizer.kind)
        session_size_of(recipe.decoding, recipe.recommender.name, parse_recommender(recipe.recommender))
        _check_item_scores(recipe)
    sections = {
        name: getattr(recipe, name).model_copy(update=settings.model_dump(mode="json"))
        for name, settings in filled.items()
    }
    check_vectors(recipe.recommender, sections["features"].model_dump())
    return recipe.model_copy(update=sections)


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


def needs_semantic_ids(recipe: Recipe) -> bool:
    """Whether the recipe's recommender writes semantic IDs."""
    return recommender_class(recipe.recommender.name).needs_semantic_ids


def uses_features(config: RecommenderConfig) -> bool:
    """Whether a recommender reads item vectors."""
    return "features" in parse_recommender(config).reads


def uses_texts(config: RecommenderConfig) -> bool:
    """Whether a recommender reads what items say in words."""
    return "texts" in parse_recommender(config).reads


def check_vectors(config: RecommenderConfig, made: Mapping[str, Any]) -> None:
    """Refuse vectors of what items are for a recommender that reads of its vectors what users did.

    Args:
        config: Family and settings.
        made: How the vectors are made: the section ``features``, or the description of a folder.

    Raises:
        ConfigError: If none of the encoders reads interactions; ``matrix`` brings vectors that may be anything.
    """
    if not (recommender_class(config.name).needs_collaborative and uses_features(config)):
        return
    encoders = _encoders_of(made)
    if not {*COLLABORATIVE_ENCODERS, "matrix"}.intersection(encoders):
        raise ConfigError(
            f"the recommender {config.name!r} reads collaborative vectors, and these are by {', '.join(encoders)}",
            where="features",
            expected=f"vectors by {', '.join(COLLABORATIVE_ENCODERS)}, or your own by matrix",
            fix=f"make them ({embed_command(config.name)}), or {without_features(config.name)}",
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


def _check_item_scores(recipe: Recipe) -> None:
    wanted = recipe.decoding.mode == "items" or recipe.decoding.item_weight
    writes = issubclass(recommender_class(recipe.recommender.name), GenerativeRecommender)
    if wanted and writes and not parse_recommender(recipe.recommender).has_item_probabilities:
        raise no_item_probabilities(recipe.recommender.name)


def _check_alignment(recipe: Recipe) -> None:
    if recipe.alignment.method == "none":
        return
    writes = issubclass(recommender_class(recipe.recommender.name), GenerativeRecommender)
    check_family(recipe.recommender.name, parse_recommender(recipe.recommender), writes=writes)
    if uses_reward(recipe.alignment):
        check_names(recipe.alignment.rewards)
