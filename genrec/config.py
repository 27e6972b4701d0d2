"""A recipe is one YAML file that becomes typed, validated, frozen objects.

Order of precedence: command line (``--set section.key=value``), YAML, default. An unknown key is an error that names
the nearest key. The sections ``features``, ``tokenizer`` and ``recommender`` carry the name of a family and that
family's own settings, which are validated by the family's ``Settings`` class (see :func:`parse_settings`).
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from genrec.errors import ConfigError

MAX_RECIPE_BYTES = 1_000_000


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Family(Section):
    """A named method with settings of its own, which its registry validates."""

    model_config = ConfigDict(extra="allow", frozen=True)

    @property
    def settings(self) -> dict[str, Any]:
        """The keys that belong to the family, without its name."""
        return dict(self.model_extra or {})


class DataConfig(Section):
    """Where the tables come from and how they are filtered and split."""

    path: str | None = Field(None, description="a prepared data set, or a folder of interactions.*, items.*, users.*")
    source: str | None = Field(None, description="a public data set by name, fetched on first use")
    interactions: str | None = Field(None, description="file or folder of interactions")
    items: str | None = Field(None, description="file or folder of items; optional")
    users: str | None = Field(None, description="file or folder of what is known of users; optional")
    columns: dict[str, str] = Field(default_factory=dict, description="our column name: yours")
    k_core: int = Field(5, ge=0, description="drop users and items with fewer interactions, repeatedly; 0 keeps all")
    min_rating: float | None = Field(None, description="drop interactions rated lower")
    unknown_items: Literal["error", "drop", "keep"] = Field(
        "error", description="interactions with items that the items table lacks"
    )
    split: Literal["leave-one-out", "temporal", "ratio"] = "leave-one-out"
    validation_ratio: float = Field(0.1, gt=0, lt=0.5, description="share held out for validation (temporal, ratio)")
    test_ratio: float = Field(0.1, gt=0, lt=0.5, description="share held out for test (temporal, ratio)")


class FeaturesConfig(Family):
    """How items become vectors."""

    encoder: str = "lexical"


class TokenizerConfig(Family):
    """How items become identifiers."""

    name: str = "rqkmeans"


class RecommenderConfig(Family):
    """Which model reads histories and writes identifiers."""

    name: str = "depth"


class TrainingConfig(Section):
    """How the recommender is trained."""

    epochs: int = Field(50, ge=1)
    batch_size: int = Field(128, ge=1, description="users per step, of all processes together")
    gradient_accumulation_steps: int = Field(1, ge=1)
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    warmup_ratio: float = Field(0.02, ge=0, le=1)
    scheduler: Literal["constant", "linear", "cosine"] = "cosine"
    max_grad_norm: float = Field(1.0, gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    expert_parallel: int = Field(
        1, ge=1, description="processes that share the experts of a model; 1 leaves all experts to each"
    )
    gradient_checkpointing: bool = Field(False, description="compute layers again in the backward pass: less memory")
    max_minutes: float | None = Field(None, gt=0, description="stop training after this long and keep the best")
    eval_epochs: int = Field(1, ge=1, description="epochs between two validations by real decoding")
    eval_users: int | None = Field(None, ge=1, description="validate on this many users, drawn by seed; all if null")
    patience: int = Field(10, ge=1, description="validations without improvement before stopping")
    metric: str = Field("ndcg@10", description="validation metric that selects the model")
    save_steps: int | None = Field(None, ge=1, description="steps between checkpoints; at every validation if null")
    skip_nonfinite: int = Field(0, ge=0, description="leave out at most so many updates whose loss is no number")
    num_workers: int = Field(0, ge=0)
    seed: int = Field(42, ge=0)


class PairsConfig(Section):
    """Where preferences come from; all of it from the training part."""

    source: Literal["explicit", "implicit", "self-play", "file"] = "implicit"
    path: str | None = Field(None, description="a Parquet file of preferences, for source: file")
    column: str = Field("rating", description="feedback column of the interactions, for source: explicit")
    good: float = Field(4.0, description="explicit: chosen from this value on")
    bad: float = Field(2.0, description="explicit: rejected down from this value")
    horizon: int = Field(10, ge=1, description="explicit: most interactions between the two sides of a pair")
    negatives: Literal["beams", "popular", "uniform"] = Field(
        "beams", description="implicit: rejected items are the model's own best, or drawn by popularity or evenly"
    )
    rejected: int = Field(1, ge=1, description="most rejected items of a pair")
    per_user: int = Field(8, ge=1, description="most pairs, or sampled lists, of a user")
    users: int | None = Field(
        None, ge=1, description="implicit, self-play and grpo: users that histories are taken of, drawn by seed; or all"
    )
    list_size: int = Field(20, ge=2, description="items, or sessions, sampled per history (beams, self-play, grpo)")
    per_list: int = Field(
        1, ge=1, description="self-play: so many of a list's best are chosen, each in a pair of its own"
    )
    eval_share: float = Field(0.1, gt=0, lt=1, description="share of the users whose pairs only measure")


class AlignmentConfig(Section):
    """How the recommender is moved to preferences."""

    method: Literal["none", "dpo", "cdpo", "sdpo", "ipo", "simpo", "kto", "grpo"] = "none"
    pairs: PairsConfig = PairsConfig()
    rewards: dict[str, float] = Field(
        default_factory=dict, description="self-play and grpo: name of a reward: its weight"
    )
    objectives: dict[str, float] = Field(
        default_factory=dict, description="reward 'lists': feedback column: value from which it counts as a yes"
    )
    category: str | None = Field(None, description="item column of categories for rewards; the first code if null")
    scorer: str | None = Field(None, description="reward 'scorer': folder of a model that scores items")
    function: str | None = Field(None, description="reward 'function': module:name of a Python callable")
    half_life: float = Field(90.0, gt=0, description="reward 'freshness': days after which an item is half as fresh")
    hit_horizon: int = Field(1, ge=1, description="rewards by targets: so many next items count, the k-th by 1/k")
    reference: str | None = Field(None, description="model folder to stay close to; the model itself if null")
    iterations: int = Field(1, ge=1, description="rounds of sampling and training, each from the one before")
    beta: float = Field(0.1, gt=0)
    label_smoothing: float = Field(0.1, ge=0, lt=0.5, description="cdpo: share of pairs that are the wrong way round")
    gamma: float = Field(0.5, ge=0, description="simpo: margin to exceed")
    clip: float = Field(0.2, gt=0, lt=1, description="grpo")
    early_clip: float | None = Field(0.1, ge=0, description="grpo: bound for answers with negative advantage; or null")
    kl_weight: float = Field(0.01, ge=0, description="grpo")
    refresh_steps: int = Field(4, ge=1, description="grpo: updates between two refreshes of the sampling policy")
    share: float = Field(0.5, gt=0, description="pairs, or sampled groups, per user of a batch")
    preference_weight: float = Field(1.0, gt=0, description="weight of the preference term")
    anchor_weight: float = Field(1.0, ge=0, description="weight of the next-item loss that anchors the model")
    epochs: int = Field(3, ge=1)
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    max_minutes: float | None = Field(None, gt=0)
    eval_epochs: int = Field(1, ge=1)
    eval_users: int | None = Field(1000, ge=1, description="validation users that are measured; all if null")
    patience: int = Field(5, ge=1)
    metric: str = Field("ndcg@10", description="what selects the model: recall, ndcg, mrr, reward @k, or pair_accuracy")
    guard: str = Field("ndcg@10", description="validation metric that must not fall")
    tolerance: float = Field(0.02, ge=0, lt=1, description="relative fall of the guard that the kept model may show")
    stop_fall: float = Field(0.15, ge=0, lt=1, description="relative fall of the guard that ends the training")
    seed: int = Field(42, ge=0)


class DecodingConfig(Section):
    """How lists are written."""

    top_k: int = Field(10, ge=1)
    num_beams: int = Field(50, ge=1, description="beams per user, all groups together; or samples with mode: nucleus")
    batch_size: int = Field(64, ge=1)
    exclude_seen: bool = True
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="of the model; scores stay in float32")
    temperature: float = Field(1.0, gt=0)
    item_weight: float = Field(
        0.0, ge=0, description="weight of the item-level log-probability beside that of the codes"
    )
    item_guidance: bool = Field(
        True, description="with item_weight, beams follow both; else codes alone find what both then rank"
    )
    renormalise: bool = Field(
        False, description="renormalise probabilities over the legal children; sampling always does"
    )
    length_penalty: float = Field(
        0.0, ge=0, description="identifiers of n codes are ranked by log p / n^length_penalty"
    )
    mode: Literal["beam", "stochastic", "nucleus", "exhaustive", "items", "session"] = Field(
        "beam",
        description="the likeliest, samples without replacement, independent samples, every item scored by its codes, "
        "every item scored by its vector alone (recommender.item_loss), or the list as one sequence",
    )
    session_size: int | None = Field(
        None, ge=1, description="session: items of a sequence; as the model learned it, or 5, if null"
    )
    beam_groups: int = Field(1, ge=1, description="groups that search one after another and avoid each other's codes")
    diversity_penalty: float = Field(
        0.0, ge=0, description="taken from a code's score for each beam of an earlier group that wrote it"
    )
    top_p: float = Field(0.9, gt=0, le=1, description="mass of the likeliest legal codes that nucleus draws from")
    seed: int = Field(42, ge=0, description="of samples; a user's draw depends on it and on the history alone")

    @model_validator(mode="after")
    def _settings_belong_to_the_mode(self) -> "DecodingConfig":
        if self.num_beams % self.beam_groups:
            raise ValueError(f"beam_groups {self.beam_groups} must divide num_beams {self.num_beams}")
        if self.diversity_penalty and self.beam_groups == 1:
            raise ValueError("diversity_penalty needs beam_groups of at least 2")
        if self.beam_groups > 1 and self.mode != "beam":
            raise ValueError(f"beam_groups are for mode: beam, not {self.mode}")
        if self.mode in ("stochastic", "nucleus") and (self.length_penalty or self.item_weight):
            raise ValueError(f"length_penalty and item_weight rank what beams found; mode: {self.mode} draws its items")
        if self.mode == "session" and (self.length_penalty or self.item_weight):
            raise ValueError("length_penalty and item_weight rank single items; mode: session ranks whole lists")
        return self


class EvaluationConfig(Section):
    """What is measured, and against what."""

    ks: tuple[int, ...] = (1, 5, 10, 20, 50)
    baselines: tuple[str, ...] = ("popularity", "itemknn", "transition", "sasrec")
    sasrec: dict[str, Any] = Field(default_factory=dict, description="settings of the SASRec baseline")
    sasrec_training: dict[str, Any] = Field(default_factory=dict, description="keys that differ from `training`")
    bootstrap_samples: int = Field(1000, ge=0)
    examples: int = Field(3, ge=0, description="users shown with history and list")


class Recipe(Section):
    """A whole experiment."""

    data: DataConfig = DataConfig()
    features: FeaturesConfig = FeaturesConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    recommender: RecommenderConfig = RecommenderConfig()
    training: TrainingConfig = TrainingConfig()
    alignment: AlignmentConfig = AlignmentConfig()
    decoding: DecodingConfig = DecodingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


SectionType = TypeVar("SectionType", bound=Section)


class _PlainLoader(yaml.SafeLoader):
    """Safe YAML without aliases (a few lines of nested aliases expand to gigabytes) and with 1e-3 read as a number."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not accepted in a recipe", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in mapping:
                raise yaml.MarkedYAMLError(problem=f"key {key!r} stands twice", problem_mark=key_node.start_mark)
            mapping[key] = self.construct_object(value_node, deep=deep)
        return mapping


def _read_float(loader: yaml.SafeLoader, node: Any) -> float | str:
    try:
        return float(node.value)
    except ValueError:
        return str(node.value)


_PlainLoader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
for _first in "+-.0123456789":
    # YAML 1.1 reads "1e-3" as text.
    _PlainLoader.yaml_implicit_resolvers.setdefault(_first, []).append(
        ("!exponent", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"))
    )
_PlainLoader.add_constructor("!exponent", _read_float)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping.

    Raises:
        ConfigError: If the file is missing, too large, not YAML, uses aliases or is not a mapping.
    """
    if not path.is_file():
        raise ConfigError(f"there is no recipe {path}", fix="check the path; recipes are in configs/ and tokenizers/")
    if path.stat().st_size > MAX_RECIPE_BYTES:
        raise ConfigError("the recipe is too large", where=str(path), expected=f"at most {MAX_RECIPE_BYTES} bytes")
    try:
        values = _PlainLoader(path.read_text(encoding="utf-8")).get_single_data()
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        problem = " ".join(str(error).split()) or "nested too deeply"
        raise ConfigError("the recipe is not readable YAML", where=f"{path}: {problem}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"the recipe is a {type(values).__name__}", where=str(path), expected="a mapping of sections")
    return values


def load_recipe(path: str | Path | None, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply ``section.key=value`` overrides.

    Args:
        path: YAML file, or None for the defaults.
        overrides: Assignments in the order given; values are read as YAML.

    Raises:
        ConfigError: If a key or a value is not accepted.
    """
    values = read_yaml(Path(path)) if path is not None else {}
    for assignment in overrides:
        _assign(values, assignment)
    return parse_settings(Recipe, values, where=str(path) if path is not None else "the command line")


def parse_settings(cls: type[SectionType], values: Mapping[str, Any], *, where: str) -> SectionType:
    """Validate a mapping as ``cls``.

    Args:
        cls: A section, or the ``Settings`` of a family.
        values: Keys and values as read from YAML.
        where: File or section that the message names.

    Raises:
        ConfigError: On the first unknown key (naming the nearest one) or unusable value.
    """
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        location = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:
            raise ConfigError(reason, where=where) from error
        if first["type"] != "extra_forbidden":
            raise ConfigError(
                f"{location} = {first['input']!r} cannot be used", where=where, expected=reason
            ) from error
        known = _keys_beside(cls, first["loc"])
        nearest = difflib.get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.5)
        raise ConfigError(
            f"unknown key {location}",
            where=where,
            expected=f"one of {', '.join(sorted(known))}",
            fix=f"did you mean {nearest[0]!r}?" if nearest else "remove it",
        ) from error


def _keys_beside(cls: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    for part in location[:-1]:
        field = cls.model_fields.get(str(part))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return []
        cls = field.annotation
    return list(cls.model_fields)


def _assign(values: dict[str, Any], assignment: str) -> None:
    dotted, equals, text = assignment.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {assignment!r} is not an assignment", expected="section.key=value")
    try:
        value = _PlainLoader(text).get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {assignment!r}: the value is not YAML", expected="section.key=value") from error
    for key in keys[:-1]:
        inner = values.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {assignment!r}: {key} is not a section", expected="section.key=value")
        values = inner
    values[keys[-1]] = value
