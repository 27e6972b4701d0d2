"""genrec trains, aligns and runs generative recommenders.

The public names. Each is imported from its package when it is first used, so that ``import genrec`` is quick and needs
neither torch nor polars:

- data: :class:`Dataset`, :func:`prepare_dataset` (files to a folder), :func:`make_dataset` (tables to a folder)
- item vectors and semantic IDs: :class:`ItemFeatures`, :class:`ItemTokenizer`, :class:`ItemIndex`
- a trained model: :class:`Recommender`
- whole runs: :func:`load_recipe`, :func:`run` (all stages of a recipe), :func:`train`, :func:`evaluate`
- settings: :class:`Recipe` and its sections
- errors: :class:`GenrecError` and one class per exit code
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genrec.config import (
        AlignmentConfig,
        DataConfig,
        DecodingConfig,
        EvaluationConfig,
        FeaturesConfig,
        Recipe,
        RecommenderConfig,
        TokenizerConfig,
        TrainingConfig,
        load_recipe,
    )
    from genrec.data import Dataset, Histories, make_dataset, prepare_dataset
    from genrec.errors import ArtifactError, ConfigError, DataError, GenrecError, InterruptedRun
    from genrec.features import ItemFeatures
    from genrec.pipeline.evaluate import measure as evaluate
    from genrec.pipeline.run import run_recipe as run
    from genrec.recommender import Recommender
    from genrec.tokenizers import ItemIndex, ItemTokenizer
    from genrec.training import train_recommender as train

__version__ = "0.1.0"
__all__ = [
    "AlignmentConfig",
    "ArtifactError",
    "ConfigError",
    "DataConfig",
    "DataError",
    "Dataset",
    "DecodingConfig",
    "EvaluationConfig",
    "FeaturesConfig",
    "GenrecError",
    "Histories",
    "InterruptedRun",
    "ItemFeatures",
    "ItemIndex",
    "ItemTokenizer",
    "Recipe",
    "Recommender",
    "RecommenderConfig",
    "TokenizerConfig",
    "TrainingConfig",
    "__version__",
    "evaluate",
    "load_recipe",
    "make_dataset",
    "prepare_dataset",
    "run",
    "train",
]

# Module and the names that it has under the same name here. Type checkers read the imports above; a test compares both.
_EXPORTS = {
    "genrec.config": (
        *("AlignmentConfig", "DataConfig", "DecodingConfig", "EvaluationConfig", "FeaturesConfig", "Recipe"),
        *("RecommenderConfig", "TokenizerConfig", "TrainingConfig", "load_recipe"),
    ),
    "genrec.data": ("Dataset", "Histories", "make_dataset", "prepare_dataset"),
    "genrec.errors": ("ArtifactError", "ConfigError", "DataError", "GenrecError", "InterruptedRun"),
    "genrec.features": ("ItemFeatures",),
    "genrec.recommender": ("Recommender",),
    "genrec.tokenizers": ("ItemIndex", "ItemTokenizer"),
}
_SOURCES = {name: (module, name) for module, names in _EXPORTS.items() for name in names} | {
    "evaluate": ("genrec.pipeline.evaluate", "measure"),
    "run": ("genrec.pipeline.run", "run_recipe"),
    "train": ("genrec.training", "train_recommender"),
}


def __getattr__(name: str) -> Any:
    if name not in _SOURCES:
        raise AttributeError(f"module 'genrec' has no attribute {name!r}")
    module, attribute = _SOURCES[name]
    # Kept, so that the next use does not come here.
    value = globals()[name] = getattr(import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
