"""The registry of recommender families: build one from a recipe, load one from a folder.

- A new family of the package is one file and one line here; one outside it is named ``module:Class`` in the recipe.
- A recipe may name code to import, because its author runs it; a model folder may come from anywhere and may not. The
  price: before a folder of an outside family is loaded, the program must have imported its module.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np

from genrec.artifacts.reading import reading
from genrec.config import RecommenderConfig, parse_settings
from genrec.data.histories import Histories
from genrec.errors import ArtifactError, ConfigError
from genrec.features.registry import lookup
from genrec.models.base import (
    BackboneSettings,
    GenerativeRecommender,
    GenrecConfig,
    ItemTexts,
    ModelInputs,
    RecommenderModel,
)
from genrec.models.checkpoint import CONFIG_FILE, read_config, restore_model
from genrec.tokenizers.base import Kind
from genrec.tokenizers.index import ItemIndex

FAMILIES = {
    "depth": "genrec.models.families.depth:Depth",
    "parallel": "genrec.models.families.parallel:Parallel",
    "decoder": "genrec.models.families.decoder:Decoder",
    "seq2seq": "genrec.models.families.seq2seq:Seq2Seq",
    "discrec": "genrec.models.families.discrec:DiscRec",
    "colarec": "genrec.models.families.colarec:ColaRec",
    "recgpt": "genrec.models.families.recgpt:RecGPT",
    "setrec": "genrec.models.families.setrec:SETRec",
    "p5": "genrec.models.families.p5:P5",
    "llm": "genrec.models.families.llm:LLM",
    "allmrec": "genrec.models.families.allmrec:AllmRec",
    "sasrec": "genrec.models.families.sasrec:SASRec",
}


def recommender_class(name: str) -> type[RecommenderModel]:
    """The class of a family, by its name here or as ``module:Class``, which is imported.

    Raises:
        ConfigError: If there is no such family, naming the nearest, or no such module, or the class is no recommender.
    """
    if ":" in name:
        return _outside_class(name)
    return cast(type[RecommenderModel], lookup(FAMILIES, name, kind="recommender", where="recommender.name"))


def _outside_class(name: str) -> type[RecommenderModel]:
    """The class ``module:Class`` of a family outside the package.

    Raises:
        ConfigError: If it cannot be imported or is no recommender.
    """
    module, _, attribute = name.partition(":")
    try:
        family = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"the recommender {name!r} cannot be imported: {error}",
            where="recommender.name",
            expected="module:Class, of a module on the Python path",
            fix="correct the name, or add the folder of the module to PYTHONPATH",
        ) from error
    if not (isinstance(family, type) and issubclass(family, RecommenderModel)):
        raise ConfigError(
            f"{name!r} is no recommender",
            where="recommender.name",
            expected="a subclass of GenerativeRecommender or ItemScorer",
            fix="see docs/recommenders/add-your-own.md",
        )
    return family


def _variant(family: type[RecommenderModel], settings: Mapping[str, Any]) -> type[RecommenderModel]:
    """The class that such settings of a family build."""
    if family.variants is None:
        return family
    setting, classes = family.variants
    value = getattr(family.Settings(**settings), setting)
    return cast(
        type[RecommenderModel], lookup(classes, value, kind=f"form of {setting}", where=f"recommender.{setting}")
    )


def families_with(capability: str) -> list[str]:
    """Names of the families whose class declares a capability, sorted.

    Args:
        capability: A class variable of :class:`RecommenderModel`, such as ``supports_experts``.
    """
    return [name for name in sorted(FAMILIES) if getattr(recommender_class(name), capability)]


@dataclass(frozen=True)
class ResolvedRecommender:
    """A family with settings that were checked.

    Attributes:
        name: Of the family.
        family: Its class.
        settings: An instance of the family's ``Settings``.
    """

    name: str
    family: type[RecommenderModel]
    settings: BackboneSettings

    @property
    def described(self) -> dict[str, Any]:
        """Name and all settings, JSON-able: the section ``recommender`` that means the same."""
        return {"name": self.name, **self.settings.model_dump(mode="json")}

    @property
    def needs_semantic_ids(self) -> bool:
        """Whether it is built on the semantic IDs of a tokenizer."""
        return self.family.needs_semantic_ids

    @property
    def writes_semantic_ids(self) -> bool:
        """Whether it writes the semantic ID of the next item, code by code or all codes at once."""
        return issubclass(self.family, GenerativeRecommender)

    @property
    def reads_features(self) -> bool:
        """Whether it is built on item vectors."""
        return "features" in self.settings.reads

    @property
    def reads_texts(self) -> bool:
        """Whether it is built on the texts of items."""
        return "texts" in self.settings.reads


def parse_recommender(config: RecommenderConfig) -> BackboneSettings:
    """The settings of :func:`resolve_recommender` alone."""
    return resolve_recommender(config).settings


def resolve_recommender(config: RecommenderConfig) -> ResolvedRecommender:
    """Validate a recipe's recommender section against its family.

    Raises:
        ConfigError: If the family does not exist, or a setting does not, or experts are asked for and it has none, or
            nothing reads a setting that is given a value of its own.
    """
    family = recommender_class(config.name)
    settings = parse_settings(family.Settings, config.settings, where="recommender")
    if settings.experts and not family.supports_experts:
        raise ConfigError(
            f"the recommender {config.name!r} has no experts",
            where="recommender.experts",
            expected=f"0, or a family with experts: {', '.join(families_with('supports_experts'))}",
            fix="set recommender.experts=0, or choose such a family",
        )
    for name, needed in settings.unread.items():
        value, default = getattr(settings, name), family.Settings.model_fields[name].default
        if value != default:
            raise ConfigError(
                f"{name} = {value!r} is read by nothing here",
                where=f"recommender.{name}",
                expected=f"{name} together with {needed}" if not needed.startswith("no ") else needed,
                fix=f"set recommender.{name}={json.dumps(default)}, or change what it depends on",
            )
    return ResolvedRecommender(config.name, family, settings)


def build_recommender(
    config: RecommenderConfig | ResolvedRecommender,
    *,
    num_items: int,
    index: ItemIndex | None = None,
    features: np.ndarray | None = None,
    tokens: np.ndarray | None = None,
    texts: ItemTexts | None = None,
    histories: Histories | None = None,
) -> RecommenderModel:
    """Make an untrained recommender; its weights are drawn from torch's global generator.

    Args:
        config: Family and settings, as read or resolved.
        num_items: Catalogue size N.
        index: Semantic IDs of the N items; needed by every family that writes semantic IDs.
        features: float32 ``[N, F]``; needed where the settings use features.
        tokens: Continuous tokens, float32 ``[N, Q, C]``; needed by families of set semantic IDs.
        texts: Titles and texts of the N items; needed where the settings use texts.
        histories: Of the training part; needed where the settings use them.

    Raises:
        ConfigError: If something that the family needs is missing or does not fit.
    """
    resolved = config if isinstance(config, ResolvedRecommender) else resolve_recommender(config)
    family, settings = resolved.family, resolved.settings
    if family.needs_semantic_ids:
        index = _check_index(config.name, index, num_items)
    if resolved.reads_features:
        _check_features(config.name, features, num_items)
    sizes = _check_tokens(config.name, tokens, num_items) if family.reads_tokens else (0, 0)
    if resolved.reads_texts:
        check_texts(config.name, texts, num_items)
    uses_histories = "histories" in settings.reads
    if uses_histories and histories is None:
        raise ConfigError(
            f"the recommender {config.name!r} reads who took which items in training, and no histories are given",
            expected="the histories of the training part",
            fix="give histories=dataset.train()",
        )
    variable_length = bool(family.needs_semantic_ids and index and index.variable_length)
    return _variant(family, settings.model_dump()).build(
        GenrecConfig(
            family=config.name,
            settings=settings.model_dump(),
            num_items=num_items,
            level_sizes=list(index.level_sizes) if family.needs_semantic_ids and index else [],
            variable_length=variable_length,
            routes_ended=not (variable_length and settings.experts),
            index_fingerprint=index.fingerprint if family.needs_semantic_ids and index else "",
            feature_size=features.shape[1] if resolved.reads_features and features is not None else 0,
            num_tokens=sizes[0],
            token_size=sizes[1],
        ),
        ModelInputs(
            codes=index.codes if family.needs_semantic_ids and index else None,
            features=features if resolved.reads_features else None,
            tokens=tokens if family.reads_tokens else None,
            texts=texts if resolved.reads_texts else None,
            histories=histories if uses_histories else None,
        ),
    )


def load_recommender(folder: Path) -> RecommenderModel:
    """Load a trained recommender of any family, in eval mode.

    Raises:
        ArtifactError: If the folder holds no model of ours, its settings cannot be used, or a tensor is missing or not
            one of the model's.
    """
    with reading(folder):
        config = read_config(folder)
        _check_family(config.family, folder)
        model = restore_model(_variant(recommender_class(config.family), config.settings or {}), config, folder)
        model.take_parts(folder)
    return model.eval()


def _check_family(name: str, folder: Path) -> None:
    """Refuse to load a family that is unknown; what is not imported yet is not imported at a folder's word.

    Raises:
        ArtifactError: If so.
    """
    module = name.partition(":")[0]
    if name in FAMILIES or (":" in name and module in sys.modules):
        return
    outside = ":" in name
    why = f"the module {module!r} of its family is not imported" if outside else f"there is no family {name!r}"
    raise ArtifactError(
        f"{folder} holds {'an outside' if outside else 'no genrec'} model: {why}",
        where=str(folder / CONFIG_FILE),
        expected=f"a family of {', '.join(FAMILIES)}, or a module:Class that is imported already",
        fix=f"import {module} before, if you trust it" if outside else "give a model folder of genrec",
    )


def _check_index(name: str, index: ItemIndex | None, num_items: int) -> ItemIndex:
    if index is None:
        raise ConfigError(
            f"the recommender {name!r} writes semantic IDs and none were given", fix="run the tokenizer stage first"
        )
    if index.num_items != num_items:
        raise ArtifactError(
            f"the tokenizer names {index.num_items} items, the data set has {num_items}",
            fix="run the tokenizer stage again on this data set",
        )
    check_kind(name, index.kind, variable_length=index.variable_length)
    return index


def check_kind(name: str, kind: Kind, *, variable_length: bool = False) -> None:
    """Refuse semantic IDs that a family cannot write.

    Args:
        name: The family.
        kind: Of the semantic IDs.
        variable_length: Whether some are shorter than others.

    Raises:
        ConfigError: If they are of another kind than the family's, or of different lengths where it writes one.
    """
    family = recommender_class(name)
    any_length = family.supports_variable_length
    if kind == family.semantic_id_kind and (any_length or not variable_length):
        return
    if family.semantic_id_kind == "set":
        wanted, fix = "set semantic IDs", "set tokenizer.name=set"
    else:
        wanted = "ordered semantic IDs" + ("" if any_length else " of one length")
        fix = "choose another tokenizer, such as tokenizer.name=rqkmeans, or another collision policy"
    found = "sets" if kind == "set" else "of different lengths" if variable_length else "ordered"
    raise ConfigError(
        f"the recommender {name!r} cannot use these semantic IDs, which are {found}",
        where="tokenizer",
        expected=wanted,
        fix=fix,
    )


def _check_features(name: str, features: np.ndarray | None, num_items: int) -> None:
    if features is None:
        raise ConfigError(
            f"the recommender {name!r} uses item features and none were given",
            fix=f"make them ({embed_command(name)}), or {without_features(name)}",
        )
    if features.shape[0] != num_items:
        raise ArtifactError(
            f"the features describe {features.shape[0]} items, the data set has {num_items}",
            fix="run the features stage again on this data set",
        )


def _check_tokens(name: str, tokens: np.ndarray | None, num_items: int) -> tuple[int, int]:
    if tokens is None:
        raise ConfigError(
            f"the recommender {name!r} reads continuous tokens and none were given",
            fix="run the tokenizer stage with tokenizer.name=set",
        )
    if tokens.shape[0] != num_items:
        raise ArtifactError(
            f"there are tokens of {tokens.shape[0]} items, the data set has {num_items}",
            fix="run the tokenizer stage again on this data set",
        )
    return tokens.shape[1], tokens.shape[2]


def embed_command(name: str) -> str:
    """The command that makes the vectors that a family reads."""
    encoder = " --set encoder=lightgcn" if recommender_class(name).needs_collaborative else ""
    return f"genrec embed --dataset DIR --out FOLDER{encoder}"


def without_features(name: str) -> str:
    """How to do without item vectors."""
    settings = recommender_class(name).Settings.model_fields
    return "set recommender.use_features=false" if "use_features" in settings else "choose another recommender"


def check_texts(name: str, texts: ItemTexts | None, num_items: int) -> None:
    """Refuse a catalogue of which nothing is said in words, for a family that reads words.

    Raises:
        ConfigError: If there are no texts.
        ArtifactError: If they are of another catalogue.
    """
    if texts is None or not any(texts.texts):
        raise ConfigError(
            f"the recommender {name!r} reads the texts of items and there are none",
            expected="a table of items with a column of words, such as title",
            fix="prepare the data set again with such a table (genrec prepare --items FILE), or choose another family",
        )
    if len(texts.texts) != num_items or len(texts.titles) != num_items:
        raise ArtifactError(
            f"there are texts of {len(texts.texts)} items, the data set has {num_items}",
            fix="take both from the same data set",
        )
