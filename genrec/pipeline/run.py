"""``genrec run``: the stages in order, each run when it is stale and skipped when it is fresh."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml
from rich.console import Console

from genrec.artifacts import fingerprint, read_json, write_file, write_json
from genrec.config import Recipe
from genrec.errors import ConfigError
from genrec.pipeline.environment import describe_machine
from genrec.pipeline.ledger import Ledger, StageRecord, exclusive, outputs_of
from genrec.pipeline.resolve import resolve_recipe
from genrec.pipeline.showing import examples, show_run
from genrec.pipeline.stages import METRICS_FILE, RECOMMENDATIONS_FILE, STAGES, Stage, Work
from genrec.training.log import clock

CONFIG_FILE = "config.yaml"
ENVIRONMENT_FILE = "env.json"


def run_recipe(
    recipe: Recipe,
    folder: Path,
    *,
    until: str | None = None,
    force: Sequence[str] = (),
    console: Console | None = None,
    results: Console | None = None,
) -> Work:
    """Bring a run's folder up to date with a recipe.

    Args:
        recipe: As read from YAML; every name and setting is checked before work begins.
        folder: ``runs/NAME``.
        until: The last stage to run; all if None.
        force: Stages to run although they are fresh.
        console: Where progress is shown; the standard error stream by default.
        results: Where the results are shown; the standard output stream by default.

    Returns:
        What the stages made, for a caller that goes on with it.

    Raises:
        ConfigError: If the recipe or a stage's name cannot be used.
        DataError: If the data cannot be used.
        ArtifactError: If the folder cannot be written or another run works in it.
    """
    names = [stage.name for stage in STAGES]
    for name in (*force, *([until] if until else [])):
        if name not in names:
            raise ConfigError(f"there is no stage {name!r}", expected=f"one of {', '.join(names)}")
    recipe = resolve_recipe(recipe)
    console = console or Console(stderr=True)
    wanted = STAGES[: names.index(until) + 1] if until else STAGES
    with exclusive(folder):
        with write_file(folder / CONFIG_FILE) as path:
            path.write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
        write_json(folder / ENVIRONMENT_FILE, describe_machine())
        work = Work(recipe, folder, console)
        _Runner(work, force).run(wanted)
    if until is None:
        shown = examples(work.dataset, folder / RECOMMENDATIONS_FILE, recipe.evaluation.examples)
        show_run(results or Console(), folder, read_json(folder / METRICS_FILE), shown)
    return work


class _Runner:
    """Goes through the stages, says what it does, and keeps the ledger."""

    def __init__(self, work: Work, force: Sequence[str]) -> None:
        self.work, self.force = work, force
        self.ledger = Ledger(work.folder)
        self.started = time.monotonic()

    def run(self, wanted: Sequence[Stage]) -> None:
        for number, stage in enumerate(wanted, 1):
            label = f"[{number}/{len(wanted)}] {stage.name}"
            if not stage.needed(self.work.recipe):
                self.say(f"{label}: not needed by this recipe")
                continue
            key = self.key(stage)
            reason = "forced" if stage.name in self.force else self.ledger.stale_because(stage.name, key)
            if reason is None:
                self.say(f"{label}: fresh  {self.ledger.records[stage.name].summary}")
                continue
            self.say(f"{label}: {reason}{self.remaining(wanted[number - 1 :])}")
            self.work_on(stage, key, label)

    def work_on(self, stage: Stage, key: str, label: str) -> None:
        """Run one stage and write down what it left."""
        started = time.monotonic()
        if stage.name in self.force:
            self.work.discard_checkpoints(stage.name)
        summary = stage.work(self.work)
        seconds = time.monotonic() - started
        outputs = outputs_of(self.work.folder, stage.outputs(self.work))
        self.ledger.finish(stage.name, StageRecord(key=key, outputs=outputs, seconds=seconds, summary=summary))
        elapsed = clock(time.monotonic() - self.started)
        self.say(f"{label}: {summary}  ({clock(seconds)}, {elapsed} since the start)")

    def key(self, stage: Stage) -> str:
        """Fingerprint of a stage's settings and of what the stages before it left."""
        recipe = self.work.recipe
        before = [other.name for other in STAGES if other.name in stage.after(recipe) and other.needed(recipe)]
        read = {name: sorted(self.ledger.records[name].outputs.values()) for name in before}
        return fingerprint({"stage": stage.name, "settings": stage.settings(self.work), "inputs": read})

    def remaining(self, stages: Sequence[Stage]) -> str:
        """How long the stages took when they ran before, as words, or the time that training may take."""
        known = [self.ledger.records[stage.name].seconds for stage in stages if stage.name in self.ledger.records]
        if len(known) == len(stages):
            return f"; about {clock(sum(known))} left in all"
        minutes = self.work.recipe.training.max_minutes
        return f"; at most {clock(60 * minutes)} of training" if minutes and stages[0].name == "model" else ""

    def say(self, text: str) -> None:
        self.work.console.print(text, markup=False, highlight=False, soft_wrap=True)
        sys.stderr.flush()
