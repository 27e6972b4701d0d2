"""A recipe is one YAML file that becomes typed, validated, frozen objects.

Order of precedence: command line (``--set section.key=value``), YAML, default. An unknown key is an error that names
the nearest key. Every number has a range (:mod:`genrec.config.ranges`). The sections ``features``, ``tokenizer`` and
``recommender`` carry the name of a family and that family's own settings, which are validated by the family's
``Settings`` class (see :func:`parse_settings`).
"""

from genrec.config.reading import MAX_RECIPE_BYTES, load_recipe, parse_settings, read_yaml
from genrec.config.sections import (
    AlignmentConfig,
    AlignmentTraining,
    DataConfig,
    DecodingConfig,
    EvaluationConfig,
    Family,
    FeaturesConfig,
    PairsConfig,
    Recipe,
    RecommenderConfig,
    SearchOptions,
    Section,
    TokenizerConfig,
    TrainingConfig,
)

__all__ = [
    "MAX_RECIPE_BYTES",
    "AlignmentConfig",
    "AlignmentTraining",
    "DataConfig",
    "DecodingConfig",
    "EvaluationConfig",
    "Family",
    "FeaturesConfig",
    "PairsConfig",
    "Recipe",
    "RecommenderConfig",
    "SearchOptions",
    "Section",
    "TokenizerConfig",
    "TrainingConfig",
    "load_recipe",
    "parse_settings",
    "read_yaml",
]
