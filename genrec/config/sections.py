"""The sections of a recipe, as frozen objects."""

import logging
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from genrec.config.old_names import current_keys
from genrec.config.ranges import (
    BatchSize,
    Beams,
    Count,
    CountOrZero,
    Factor,
    Few,
    FewOrNone,
    LearningRate,
    ListLength,
    Metric,
    Minutes,
    Positive,
    Rate,
    Rounds,
    Seed,
    Share,
    Value,
    Weight,
)

logger = logging.getLogger(__name__)

# What is done about interactions of a user at one time.
Ties = Literal["file", "shuffle", "exclude"]


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys and numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _take_old_spellings(cls, values: Any) -> Any:
        return current_keys(values, cls.model_fields) if isinstance(values, Mapping) else values


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
    k_core: CountOrZero = Field(5, description="drop users and items with fewer interactions, repeatedly; 0 keeps all")
    min_rating: Value | None = Field(None, description="drop interactions rated lower")
    unknown_items: Literal["error", "drop", "keep"] = Field(
        "error", description="interactions with items that the items table lacks"
    )
    split: Literal["leave-one-out", "temporal", "ratio"] = "leave-one-out"
    validation_ratio: Share = Field(0.1, gt=0, lt=0.5, description="share held out for validation (temporal, ratio)")
    test_ratio: Share = Field(0.1, gt=0, lt=0.5, description="share held out for test (temporal, ratio)")
    ties: Ties = Field(
        "file",
        description="a user's interactions at one time: in the order of the file, in one drawn by ties_seed, or not in "
        "each other's history, so that any item of the last time is a hit",
    )
    ties_seed: Seed = Field(1, description="of ties: shuffle")

    @model_validator(mode="after")
    def _ties_are_for_the_split(self) -> "DataConfig":
        if self.ties == "exclude" and self.split != "leave-one-out":
            raise ValueError(
                f"ties: exclude is for split: leave-one-out, not {self.split}; "
                "ties: shuffle is for every split, and temporal keeps interactions of one time on one side anyway"
            )
        return self


class FeaturesConfig(Family):
    """How items become vectors."""

    encoder: str = "lexical"


class TokenizerConfig(Family):
    """How items become semantic IDs."""

    name: str = "rqkmeans"


class RecommenderConfig(Family):
    """Which model reads histories and writes semantic IDs."""

    name: str = "depth"


class TrainingConfig(Section):
    """How the recommender is trained."""

    epochs: Rounds = 50
    batch_size: BatchSize = Field(128, description="users per step, of all processes together")
    gradient_accumulation_steps: Rounds = 1
    learning_rate: LearningRate = 2e-3
    weight_decay: Weight = 0.0
    warmup_ratio: Share = 0.02
    scheduler: Literal["constant", "linear", "cosine"] = "cosine"
    max_grad_norm: Positive = 1.0
    precision: Literal["fp32", "bf16"] = "fp32"
    expert_parallel: Few = Field(
        1, description="processes that share the experts of a model; 1 leaves all experts to each"
    )
    gradient_checkpointing: bool = Field(False, description="compute layers again in the backward pass: less memory")
    max_minutes: Minutes | None = Field(None, description="stop training after this long and keep the best")
    eval_epochs: Rounds = Field(1, description="epochs between two validations by real decoding")
    eval_users: Count | None = Field(None, description="validate on this many users, drawn by seed; all if null")
    patience: Rounds = Field(10, description="validations without improvement before stopping")
    metric: Metric = Field("ndcg@10", description="validation metric that selects the model")
    save_steps: Count | None = Field(None, description="steps between checkpoints; at every validation if null")
    skip_nonfinite: CountOrZero = Field(0, description="leave out at most so many updates whose loss is no number")
    num_workers: FewOrNone = 0
    seed: Seed = 42


class PairsConfig(Section):
    """Where preferences come from; all of it from the training part."""

    source: Literal["explicit", "implicit", "self-play", "file"] = "implicit"
    path: str | None = Field(None, description="a Parquet file of preferences, for source: file")
    column: str = Field("rating", description="feedback column of the interactions, for source: explicit")
    good: Value = Field(4.0, description="explicit: chosen from this value on")
    bad: Value = Field(2.0, description="explicit: rejected down from this value")
    horizon: Count = Field(10, description="explicit: most interactions between the two sides of a pair")
    negatives: Literal["beams", "popular", "uniform"] = Field(
        "beams", description="implicit: rejected items are the model's own best, or drawn by popularity or evenly"
    )
    rejected: ListLength = Field(1, description="most rejected items of a pair")
    per_user: ListLength = Field(8, description="most pairs, or sampled lists, of a user")
    users: Count | None = Field(
        None, description="implicit, self-play and grpo: users that histories are taken of, drawn by seed; or all"
    )
    list_size: ListLength = Field(
        20, ge=2, description="items or sessions sampled per history (beams, self-play, grpo)"
    )
    per_list: ListLength = Field(
        1, description="self-play: so many of a list's best are chosen, each in a pair of its own"
    )
    eval_share: Share = Field(0.1, gt=0, lt=1, description="share of the users whose pairs only measure")


class AlignmentTraining(TrainingConfig):
    """How a round of alignment is trained: the settings of :class:`TrainingConfig` with other defaults."""

    epochs: Rounds = 3
    batch_size: BatchSize = Field(64, description="users per step, of all processes together")
    learning_rate: LearningRate = 1e-4
    eval_users: Count | None = Field(1000, description="validation users that are measured; all if null")
    patience: Rounds = Field(5, description="validations without improvement before stopping")
    metric: Metric = Field("ndcg@10", description="selects the model: recall, ndcg, mrr, reward @k, or pair_accuracy")


# Keys that were in ``alignment`` itself before it had a section ``training``.
OLD_TRAINING_KEYS = (
    "epochs",
    "batch_size",
    "learning_rate",
    "max_minutes",
    "eval_epochs",
    "eval_users",
    "patience",
    "metric",
    "seed",
)


class AlignmentConfig(Section):
    """How the recommender is moved to preferences."""

    method: Literal["none", "dpo", "cdpo", "sdpo", "ipo", "simpo", "kto", "grpo"] = "none"
    pairs: PairsConfig = PairsConfig()
    rewards: dict[str, Factor] = Field(
        default_factory=dict, description="self-play and grpo: name of a reward: its weight"
    )
    objectives: dict[str, Value] = Field(
        default_factory=dict, description="reward 'lists': feedback column: value from which it counts as a yes"
    )
    category: str | None = Field(None, description="item column of categories for rewards; the first code if null")
    scorer: str | None = Field(None, description="reward 'scorer': folder of a model that scores items")
    function: str | None = Field(None, description="reward 'function': module:name of a Python callable")
    half_life: Positive = Field(90.0, description="reward 'freshness': days after which an item is half as fresh")
    hit_horizon: Count = Field(1, description="rewards by targets: so many next items count, the k-th by 1/k")
    reference: str | None = Field(None, description="model folder to stay close to; the model itself if null")
    iterations: Rounds = Field(1, description="rounds of sampling and training, each from the one before")
    beta: Positive = 0.1
    label_smoothing: Rate = Field(0.1, lt=0.5, description="cdpo: share of pairs that are the wrong way round")
    gamma: Weight = Field(0.5, description="simpo: margin to exceed")
    clip: Rate = Field(0.2, gt=0, description="grpo")
    early_clip: Weight | None = Field(0.1, description="grpo: bound for answers with negative advantage; or null")
    kl_weight: Weight = Field(0.01, description="grpo")
    refresh_steps: Rounds = Field(4, description="grpo: updates between two refreshes of the sampling policy")
    share: Positive = Field(0.5, description="pairs, or sampled groups, per user of a batch")
    preference_weight: Positive = Field(1.0, description="weight of the preference term")
    anchor_weight: Weight = Field(1.0, description="weight of the next-item loss that anchors the model")
    guard: Metric = Field("ndcg@10", description="validation metric that must not fall")
    tolerance: Rate = Field(0.02, description="relative fall of the guard that the kept model may show")
    stop_fall: Rate = Field(0.15, description="relative fall of the guard that ends the training")
    training: AlignmentTraining = AlignmentTraining()

    @model_validator(mode="before")
    @classmethod
    def _move_old_keys(cls, values: Any) -> Any:
        """Read keys that are keys of ``training`` now."""
        old = [key for key in OLD_TRAINING_KEYS if isinstance(values, dict) and key in values]
        if not old:
            return values
        inner = values.get("training", {})
        twice = [key for key in old if isinstance(inner, dict) and key in inner]
        if twice or not isinstance(inner, dict):
            raise ValueError(f"{(twice or old)[0]} is given twice: it is a key of alignment.training now")
        for key in old:
            logger.warning("alignment.%s is alignment.training.%s now; the old name will be refused", key, key)
        kept = {key: value for key, value in values.items() if key not in old}
        return {**kept, "training": {**inner, **{key: values[key] for key in old}}}


class SearchOptions(Section):
    """How a search over the catalogue ranks and explores: the one spelling of it, in Python and in recipes.

    Every search function takes these options. :class:`DecodingConfig` inherits them, so the section ``decoding`` of a
    recipe can be passed wherever they are expected. A function documents which of them it reads.
    """

    num_beams: Beams = Field(50, description="beams per user, all groups together; or samples with mode: nucleus")
    temperature: Positive = 1.0
    renormalize: bool = Field(
        False, description="renormalize probabilities over the legal children; sampling always does"
    )
    length_penalty: Weight = Field(0.0, description="semantic IDs of n codes are ranked by log p / n^length_penalty")
    mode: Literal["beam", "stochastic", "nucleus", "exhaustive", "items", "session"] = Field(
        "beam",
        description="the likeliest, samples without replacement, independent samples, every item scored by its codes, "
        "every item scored by its vector alone (recommender.item_loss), or the list as one sequence",
    )
    beam_groups: Beams = Field(1, description="groups that search one after another and avoid each other's codes")
    diversity_penalty: Weight = Field(
        0.0, description="taken from a code's score for each beam of an earlier group that wrote it"
    )
    top_p: Share = Field(0.9, gt=0, description="mass of the likeliest legal codes that nucleus draws from")
    item_weight: Weight = Field(0.0, description="weight of the item-level log-probability added to that of the codes")
    item_guidance: bool = Field(
        True,
        description="with item_weight or transition_weight, beams follow these too; else codes alone find items",
    )
    seed: Seed = Field(42, description="of samples; a user's draw depends on it and on the history alone")

    @model_validator(mode="after")
    def _options_belong_to_the_mode(self) -> "SearchOptions":
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


class DecodingConfig(SearchOptions):
    """How lists are made: the options of the search, and what each list holds."""

    top_k: ListLength = 10
    batch_size: BatchSize = 64
    exclude_seen: bool = True
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="of the model; scores stay in float32")
    transition_weight: Weight | Literal["auto"] = Field(
        0.0, description="weight of item-to-item transitions in what ranks; auto takes what is best on validation"
    )
    session_size: Few | None = Field(
        None, description="session: items of a sequence; as the model learned it, or 5, if null"
    )

    @model_validator(mode="after")
    def _transitions_rank_single_items(self) -> "DecodingConfig":
        if self.mode in ("stochastic", "nucleus", "session") and self.transition_weight:
            raise ValueError(f"transition_weight ranks single items that were found; mode: {self.mode} does not")
        return self


class EvaluationConfig(Section):
    """What is measured, and against what."""

    ks: tuple[ListLength, ...] = Field((1, 5, 10, 20, 50), min_length=1, max_length=100)
    baselines: tuple[str, ...] = ("popularity", "itemknn", "transition", "sasrec")
    sasrec: dict[str, Any] = Field(default_factory=dict, description="settings of the SASRec baseline")
    sasrec_training: dict[str, Any] = Field(default_factory=dict, description="keys that differ from `training`")
    bootstrap_samples: CountOrZero = Field(1000, le=1_000_000)
    examples: FewOrNone = Field(3, description="users shown with history and list")


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

    @property
    def adds_transitions(self) -> bool:
        """Whether transitions are added to what the model says."""
        return bool(self.decoding.transition_weight)

    @property
    def aligns(self) -> bool:
        """Whether the model is aligned."""
        return self.alignment.method != "none"
