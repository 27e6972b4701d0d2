"""The folder of a run: the names of its files, and what its stages left there, opened when it is first needed."""

from functools import cached_property
from pathlib import Path

from rich.console import Console

from genrec.artifacts import MANIFEST, fingerprint, read_manifest, remove_work_folder
from genrec.artifacts.folders import discard_folder
from genrec.config import DecodingConfig, Recipe
from genrec.data import Dataset
from genrec.decoding.transitions import without_transitions
from genrec.pipeline.model_folder import Companions, TrainedModel, open_model
from genrec.pipeline.resolve import (
    LEARNED_BASELINE,
    baseline_recommender,
    baseline_training,
    needs_semantic_ids,
    uses_features,
)
from genrec.pipeline.stage_cache import StageCache
from genrec.pipeline.train import LOG_FILE, TrainingPlan, train_model

METRICS_FILE = "metrics.json"
LISTS_FILE = "lists.safetensors"
VARIANT_LISTS_FILE = "variants.safetensors"
BASELINE_LISTS_FILE = "baselines/lists.safetensors"
SETTINGS_FILE = "baselines/settings.json"
RECOMMENDATIONS_FILE = "recommendations.parquet"
REPORT_FILE = "report.html"
LEARNED_FOLDER = f"baselines/{LEARNED_BASELINE}"
CONFIG_FILE = "config.yaml"
ENVIRONMENT_FILE = "env.json"
# Changes of these keys of `training` continue an interrupted training; others begin anew.
CONTINUING_KEYS = frozenset({"num_workers", "max_minutes", "patience", "save_steps"})


class Work:
    """The folder of a run, and what its stages left there, opened when it is first asked for.

    Args:
        recipe: Resolved.
        folder: ``runs/NAME``.
        console: Where progress is shown.
    """

    def __init__(self, recipe: Recipe, folder: Path, console: Console) -> None:
        self.recipe, self.folder, self.console = recipe, folder, console
        self.ledger = StageCache(folder)

    @property
    def dataset_folder(self) -> Path:
        """The prepared data set: the recipe's own where ``data.path`` is one already, else that of this run."""
        path = self.recipe.data.path
        prepared = path and (Path(path) / MANIFEST).is_file() and read_manifest(Path(path)).stage == "dataset"
        return Path(str(path)).absolute() if prepared else self.folder / "dataset"

    @cached_property
    def dataset(self) -> Dataset:
        """The prepared data set."""
        return Dataset.load(self.dataset_folder)

    @property
    def model_name(self) -> str:
        """The folder whose model writes the lists: ``transitions`` where the recipe adds them to what was learned."""
        return "transitions" if adds_transitions(self.recipe) else self.learned_name

    @property
    def learned_name(self) -> str:
        """The folder with the model as it was learned: ``aligned`` where the recipe aligns, else ``model``."""
        return "aligned" if aligns(self.recipe) else "model"

    @cached_property
    def trained(self) -> TrainedModel:
        """The model that writes the lists."""
        return open_model(self.folder / self.model_name, verify=False)

    @property
    def plan(self) -> TrainingPlan:
        """How the recipe's recommender is trained."""
        return TrainingPlan(self.recipe.recommender, self.recipe.training, self.learned_decoding)

    @property
    def learned_decoding(self) -> DecodingConfig:
        """How lists are written by models alone, the trained baseline among them."""
        return without_transitions(self.recipe.decoding)

    @property
    def baseline_plan(self) -> TrainingPlan:
        """How the baseline that learns is trained."""
        return TrainingPlan(baseline_recommender(self.recipe), baseline_training(self.recipe), self.learned_decoding)

    @property
    def companions(self) -> Companions:
        """Folders that models are built from."""
        tokenizer, features = self.folder / "tokenizer", self.folder / "features"
        made = needs_features(self.recipe)
        return Companions(tokenizer if needs_semantic_ids(self.recipe) else None, features if made else None)

    @property
    def list_length(self) -> int:
        """Length of the lists that are measured."""
        return max(self.recipe.evaluation.ks)

    def checkpoints(self, stage: str, plan: TrainingPlan) -> Path:
        """The private folder of a training, another one for every change that makes checkpoints useless."""
        training = {key: value for key, value in plan.settings["training"].items() if key not in CONTINUING_KEYS}
        decoding = plan.decoding.model_dump(mode="json", exclude={"transition_weight"})
        settings = [plan.settings["recommender"], training, decoding]
        folders = [path for path in (self.companions.tokenizer, self.companions.features) if path]
        inputs = [self.dataset.fingerprint, *(read_manifest(path).fingerprint for path in folders)]
        return self.folder / "checkpoints" / f"{stage}-{fingerprint([settings, inputs])[:12]}"

    def discard_checkpoints(self, stage: str) -> None:
        """Forget what a stage has trained so far."""
        for folder in (self.folder / "checkpoints").glob(f"{stage}-*"):
            remove_work_folder(folder)

    def forget(self, stage: str) -> None:
        """Remove what a stage that is forced to run could take up again."""
        self.discard_checkpoints(stage)
        if stage == "baselines":
            discard_folder(self.folder / LEARNED_FOLDER, "model")

    def train(self, stage: str, plan: TrainingPlan, out: Path) -> None:
        """Train a model into ``out`` and forget its checkpoints."""
        checkpoints = self.checkpoints(stage, plan)
        log = out.parent / LOG_FILE
        train_model(plan, self.dataset, self.companions, out, checkpoints=checkpoints, log=log, console=self.console)
        self.discard_checkpoints(stage)
        if not any((self.folder / "checkpoints").iterdir()):
            (self.folder / "checkpoints").rmdir()


def needs_features(recipe: Recipe) -> bool:
    """Whether a recipe has any use for item vectors."""
    learned = LEARNED_BASELINE in recipe.evaluation.baselines and uses_features(baseline_recommender(recipe))
    return needs_semantic_ids(recipe) or uses_features(recipe.recommender) or learned


def adds_transitions(recipe: Recipe) -> bool:
    """Whether a recipe adds transitions to what the model says."""
    return bool(recipe.decoding.transition_weight)


def aligns(recipe: Recipe) -> bool:
    """Whether a recipe asks for alignment."""
    return recipe.alignment.method != "none"
