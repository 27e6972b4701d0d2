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
from genrec.pipeline.resolve import LEARNED_BASELINE, ResolvedRecipe
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


class RunFolders:
    """Where the parts of a run are, which its recipe says as it is written: nothing is looked up or checked.

    Args:
        recipe: As read from the run's folder.
        folder: ``runs/NAME``.
    """

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe, self.folder = recipe, folder
        self.ledger = StageCache(folder)

    @property
    def dataset_folder(self) -> Path:
        """The prepared data set: the recipe's own where ``data.path`` is one already, else that of this run."""
        path = self.recipe.data.path
        prepared = path and (Path(path) / MANIFEST).is_file() and read_manifest(Path(path)).stage == "dataset"
        return Path(str(path)).absolute() if prepared else self.folder / "dataset"

    @property
    def model_name(self) -> str:
        """The folder whose model writes the lists: ``transitions`` where the recipe adds them to what was learned."""
        return "transitions" if self.recipe.adds_transitions else self.learned_name

    @property
    def learned_name(self) -> str:
        """The folder with the model as it was learned: ``aligned`` where the recipe aligns, else ``model``."""
        return "aligned" if self.recipe.aligns else "model"


class Work(RunFolders):
    """The folder of a run, and what its stages left there, opened when it is first asked for.

    Args:
        resolved: The recipe.
        folder: ``runs/NAME``.
        console: Where progress is shown.
    """

    def __init__(self, resolved: ResolvedRecipe, folder: Path, console: Console) -> None:
        super().__init__(resolved.recipe, folder)
        self.resolved, self.console = resolved, console

    @cached_property
    def dataset(self) -> Dataset:
        """The prepared data set."""
        return Dataset.load(self.dataset_folder)

    @cached_property
    def trained(self) -> TrainedModel:
        """The model that writes the lists."""
        return open_model(self.folder / self.model_name, verify=False)

    @property
    def plan(self) -> TrainingPlan:
        """How the recipe's recommender is trained."""
        return TrainingPlan(self.resolved.recommender, self.recipe.training, self.learned_decoding)

    @property
    def learned_decoding(self) -> DecodingConfig:
        """How lists are written by models alone, the trained baseline among them."""
        return without_transitions(self.recipe.decoding)

    @property
    def baseline_plan(self) -> TrainingPlan:
        """How the baseline that learns is trained."""
        return TrainingPlan(self.resolved.baseline, self.resolved.baseline_training, self.learned_decoding)

    @property
    def companions(self) -> Companions:
        """Folders that models are built from."""
        tokenizer, features = self.folder / "tokenizer", self.folder / "features"
        made = self.resolved.needs_features
        return Companions(tokenizer if self.resolved.needs_semantic_ids else None, features if made else None)

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
