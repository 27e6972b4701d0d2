"""From a recipe to what a round learns from: its reward, its pairs or prompts, its reference; and what cannot be."""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genrec.alignment.pairs import explicit_pairs, feedback_column, implicit_pairs, reward_pairs, session_pairs
from genrec.alignment.preferences import Preferences
from genrec.alignment.prompts import Prompts, training_prompts
from genrec.alignment.reward_model import ListReward, RewardQuality, order_among_beams, train_list_reward
from genrec.alignment.rewards import (
    CategoryMatch,
    Diversity,
    Hit,
    Mixture,
    RankAware,
    Reward,
    Scorer,
    Values,
    check_names,
    item_freshness,
    item_labels,
    load_function,
    refuse_constant,
)
from genrec.alignment.sampling import best_lists, best_sessions, sample_lists, score_lists, score_sessions
from genrec.artifacts import verify_artifact
from genrec.config import AlignmentConfig, DecodingConfig
from genrec.decoding.session import refuse_longer_sessions, session_size_of
from genrec.errors import ArtifactError, ConfigError, DataError
from genrec.models import GenerativeRecommender, ItemScorer, RecommenderModel, load_recommender
from genrec.models.base import BackboneSettings
from genrec.training.world import World

if TYPE_CHECKING:
    from genrec.data import Dataset

logger = logging.getLogger(__name__)

TRUSTED_AUC = 0.6
CHECKED_PROMPTS = 256


@dataclass(frozen=True, eq=False)
class Material:
    """What a round learns from.

    Attributes:
        pairs: To learn from; None with grpo.
        measured: Pairs of users that nothing is learned from; None with grpo.
        prompts: Where groups are sampled; None without grpo.
    """

    pairs: Preferences | None = None
    measured: Preferences | None = None
    prompts: Prompts | None = None


def check_recipe(config: AlignmentConfig, model: RecommenderModel, dataset: "Dataset") -> None:
    """Refuse what cannot be aligned, before any work.

    Raises:
        ConfigError: If the model has no sequence identifiers, or settings are missing or contradict each other.
        DataError: If a feedback column holds no numbers, or a file of preferences cannot be used.
    """
    if config.method == "none":
        raise ConfigError(
            "the recipe asks for no alignment",
            where="alignment.method",
            expected="dpo, cdpo, sdpo, ipo, simpo, kto or grpo",
            fix="set alignment.method",
        )
    check_family(model.config.family, model.settings, writes=isinstance(model, GenerativeRecommender))
    if uses_reward(config):
        check_names(config.rewards)
    if config.pairs.source == "explicit" and config.method != "grpo":
        feedback_column(dataset, config.pairs.column)
    for name in config.objectives:
        feedback_column(dataset, name)
    needed = {"file": ("path", config.pairs.path), "scorer": ("scorer", config.scorer)}
    used = {"file": config.pairs.source == "file", "scorer": "scorer" in config.rewards}
    for name, (key, value) in needed.items():
        if used[name] and value is None:
            where = "alignment.pairs.path" if name == "file" else f"alignment.{key}"
            raise ConfigError(f"{where} is not given", where=where, expected="a path", fix=f"set {where}")
    if used["file"] and config.method != "grpo":
        _check_file(Path(str(config.pairs.path)), dataset, model)


def _check_file(path: Path, dataset: "Dataset", model: RecommenderModel) -> None:
    """Refuse preferences between lists that the model does not write as one sequence."""
    chosen = Preferences.load(path, dataset.item_ids).chosen
    if chosen.ndim == 2:
        refuse_longer_sessions(
            chosen.shape[1],
            model.config.family,
            model.settings,
            where=f"{path}: lists of up to {chosen.shape[1]} items are compared",
            fix="give single items as chosen and rejected, or train a model that writes such lists",
        )


def check_family(name: str, settings: BackboneSettings, *, writes: bool) -> None:
    """Refuse a family that does not write identifiers, and a model that reads more than items.

    Raises:
        ConfigError: If so.
    """
    if not writes:
        raise ConfigError(
            f"a {name!r} model has no sequence identifiers",
            where="alignment",
            expected="a recommender that writes identifiers, such as depth, decoder or seq2seq",
            fix="train one of these, or leave the alignment out",
        )
    _refuse_extras(settings, "alignment")


def uses_reward(config: AlignmentConfig) -> bool:
    """Whether a recipe learns from a reward."""
    return config.method == "grpo" or config.pairs.source == "self-play"


def build_reward(
    config: AlignmentConfig, dataset: "Dataset", model: GenerativeRecommender, decoding: DecodingConfig
) -> tuple[Mixture | None, dict[str, Any]]:
    """The recipe's reward, and how good a learned one is on users that it never saw, also among the model's own lists.

    Raises:
        ConfigError: If a reward cannot be made.
        DataError: If the data lack what a reward needs.
        ArtifactError: If the scorer is no model of these items.
    """
    if not config.rewards:
        return None, {}
    check_names(config.rewards)
    labels = item_labels(dataset, config.category, model.item_codes.cpu().numpy())
    quality: dict[str, Any] = {}
    parts: list[tuple[str, float, Reward]] = []
    for name, weight in config.rewards.items():
        if name == "lists":
            reward, measured = _learn_list_reward(config, dataset, model, decoding)
            quality = asdict(measured)
            if World.current().leads:
                _report(quality)
            parts.append((name, weight, reward))
            continue
        simple: dict[str, Callable[[], Reward]] = {
            "hit": Hit,
            "rank": RankAware,
            "category": lambda: CategoryMatch(labels),
            "diversity": lambda: Diversity(labels),
            "freshness": lambda: Values(item_freshness(dataset, config.half_life)),
            "scorer": lambda: Scorer(_load_scorer(Path(str(config.scorer)), dataset)),
            "function": lambda: load_function(config.function),
        }
        parts.append((name, weight, simple[name]()))
    return Mixture(parts), quality


def _learn_list_reward(
    config: AlignmentConfig, dataset: "Dataset", model: GenerativeRecommender, decoding: DecodingConfig
) -> tuple[ListReward, RewardQuality]:
    """A reward for the lists that will be compared: whole sessions, or items each for itself."""
    seed, sessions = config.training.seed, decoding.mode == "session"
    longest = session_size_of(decoding, model.config.family, model.settings)
    learn = partial(train_list_reward, dataset, config.objectives, longest=longest, seed=seed)
    reward, quality, held_out = World.current().from_leader(learn)
    prompts = training_prompts(dataset, per_user=1, horizon=longest, max_history=model.max_history, seed=seed)
    prompts = prompts.select(np.flatnonzero(np.isin(prompts.histories.users, held_out))[:CHECKED_PROMPTS])
    size = config.pairs.list_size
    if sessions:
        lists = best_sessions(model, prompts.histories, size, decoding=decoding)
        worth = score_sessions(Mixture([("lists", 1.0, reward)]), prompts, lists)
    else:
        items = sample_lists(model, prompts.histories, size, decoding=decoding, seed=seed)
        lists, worth = items[..., None], score_lists(reward, prompts, items)
    taken = (Hit()(prompts, lists.reshape(len(lists), -1)) > 0).reshape(lists.shape).sum(axis=2)
    taken = np.where(lists[..., 0] >= 0, taken, -1)
    return reward, replace(quality, beam_auc=order_among_beams(worth, taken))


def gather(
    model: GenerativeRecommender,
    dataset: "Dataset",
    config: AlignmentConfig,
    decoding: DecodingConfig,
    reward: Mixture | None,
    seed: int,
) -> Material:
    """What one round learns from, by the model as it is now.

    Raises:
        ConfigError: If a feedback column does not exist, or unpaired rows meet a method that compares.
        DataError: If there is nothing to learn from.
    """
    pairs, method = config.pairs, config.method
    if method == "grpo" and reward is not None:
        prompts = _prompts(dataset, config, model, seed)
        few = prompts.select(np.arange(0, len(prompts), max(1, len(prompts) // CHECKED_PROMPTS)))
        if decoding.mode == "session":
            sessions = best_sessions(model, few.histories, pairs.list_size, decoding=decoding)
            refuse_constant(sessions[..., 0], score_sessions(reward, few, sessions))
        else:
            lists = sample_lists(model, few.histories, pairs.list_size, decoding=decoding, seed=seed)
            refuse_constant(lists, reward(few, lists))
        return Material(prompts=prompts)
    found = _preferences(model, dataset, config, decoding, reward, seed)
    if method != "kto":
        if not found.paired.any():
            raise ConfigError(
                "no preference has both a chosen and a rejected item",
                where=found.source,
                expected=f"two sides for {method!r}",
                fix="use alignment.method: kto, which learns from either side",
            )
        found = found.select(found.paired)
    learned, measured = found.split_users(pairs.eval_share, config.training.seed)
    if method == "kto" and pairs.source == "explicit":
        # Single sides cannot be compared: the same users are measured by pairs.
        compared = explicit_pairs(dataset, pairs, max_history=model.max_history, seed=seed)
        own = np.isin(compared.histories.users, measured.histories.users)
        measured = compared.select(own) if own.any() else measured
    return Material(pairs=learned, measured=measured)


def load_reference(path: Path, model: GenerativeRecommender) -> GenerativeRecommender:
    """Open another model to stay close to, in eval mode on the model's device.

    Raises:
        ArtifactError: If it is of another architecture or names items otherwise.
    """
    verify_artifact(path, "model")
    reference = load_recommender(path)
    own, other = model.config, reference.config
    for what, key in (
        ("family", "family"),
        ("architecture", "settings"),
        ("item tokenizer", "index_fingerprint"),
    ):
        if getattr(own, key) != getattr(other, key):
            raise ArtifactError(
                f"the reference is of another {what} than the model",
                where=str(path),
                expected=f"a {own.family} model with the same settings and item tokenizer",
                fix="give a model of the same recipe, or leave alignment.reference out",
            )
    return reference.to(model.device)  # type: ignore[arg-type]


def _preferences(
    model: GenerativeRecommender,
    dataset: "Dataset",
    config: AlignmentConfig,
    decoding: DecodingConfig,
    reward: Mixture | None,
    seed: int,
) -> Preferences:
    pairs, size = config.pairs, config.pairs.list_size
    if pairs.source == "file":
        return Preferences.load(Path(str(pairs.path)), dataset.item_ids)
    if pairs.source == "explicit":
        unpaired = config.method == "kto"
        return explicit_pairs(dataset, pairs, max_history=model.max_history, seed=seed, unpaired=unpaired)
    prompts = _prompts(dataset, config, model, seed)
    if pairs.source == "implicit":
        hard = pairs.negatives == "beams"
        lists = best_lists(model, prompts.histories, size, decoding=decoding) if hard else None
        return implicit_pairs(dataset, prompts, pairs, lists=lists, seed=seed)
    if reward is None:
        raise DataError("self-play needs a reward", where="alignment.rewards")
    if decoding.mode == "session":
        # As lists are written, so they are compared.
        sessions = best_sessions(model, prompts.histories, size, decoding=decoding)
        worth = score_sessions(reward, prompts, sessions)
        refuse_constant(sessions[..., 0], worth)
        return session_pairs(prompts, sessions, worth, pairs)
    lists = sample_lists(model, prompts.histories, size, decoding=decoding, seed=seed)
    rewards = score_lists(reward, prompts, lists)
    refuse_constant(lists, rewards)
    return reward_pairs(prompts, lists, rewards, pairs)


def _prompts(dataset: "Dataset", config: AlignmentConfig, model: GenerativeRecommender, seed: int) -> Prompts:
    return training_prompts(
        dataset,
        per_user=config.pairs.per_user,
        horizon=config.hit_horizon,
        max_history=model.max_history,
        seed=seed,
        users=config.pairs.users,
    )


def _load_scorer(folder: Path, dataset: "Dataset") -> ItemScorer:
    manifest = verify_artifact(folder, "model")
    model = load_recommender(folder)
    if not isinstance(model, ItemScorer):
        raise ConfigError(
            f"a {model.config.family!r} model does not score items",
            where="alignment.scorer",
            expected="the folder of a sasrec model",
            fix="give one that `genrec train` made with recommender.name: sasrec",
        )
    _refuse_extras(model.settings, "alignment.scorer")
    if manifest.inputs.get("dataset") != dataset.fingerprint:
        raise ArtifactError(
            "the scorer was trained on another data set",
            where=str(folder),
            expected="the data set of this alignment",
            fix="train the scorer on this data set",
        )
    return model


def _refuse_extras(settings: BackboneSettings, where: str) -> None:
    """Preferences and prompts hold items alone."""
    if settings.extra_inputs:
        raise ConfigError(
            f"an alignment reads the items of histories alone, the model also {', '.join(settings.extra_inputs)}",
            where=where,
            expected="a model without these settings",
            fix=f"train it with recommender.{settings.extra_inputs[0]}: false, or leave the alignment out",
        )


def _report(quality: dict[str, Any]) -> None:
    beams = quality["beam_auc"]
    logger.info(
        "reward model for lists of 1 to %d: among the model's own lists of held-out users, AUC %s",
        quality["longest"],
        "not measured: none holds what a user took next" if beams is None else f"{beams:.3f}",
    )
    if beams is not None and not beams >= TRUSTED_AUC:
        logger.warning("the reward model hardly orders the model's own lists (AUC %.3f among them)", beams)
    for name, auc in quality["auc"].items():
        error = quality["calibration_error"][name]
        logger.info("reward model, %s: held-out AUC %.3f, calibration error %.3f", name, auc, error)
        if not auc >= TRUSTED_AUC:
            logger.warning("the reward model hardly knows %r (AUC %.3f): what it prefers is mostly noise", name, auc)
