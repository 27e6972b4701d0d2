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
from genrec.pipeline.environment import GIBIBYTE, describe_machine, peak_memory_bytes
from genrec.pipeline.ledger import StageRecord, exclusive, outputs_of
from genrec.pipeline.resolve import resolve_recipe
from genrec.pipeline.stages import (
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    METRICS_FILE,
    RECOMMENDATIONS_FILE,
    REPORT_FILE,
    STAGES,
    Stage,
    Work,
    examples,
)
from genrec.reports.console import print_examples, print_results
from genrec.terminal.console import Terminal
from genrec.training.launch import refuse_processes
from genrec.training.log import clock

SHOWN_FILES = (RECOMMENDATIONS_FILE, METRICS_FILE, REPORT_FILE)


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
    refuse_processes("genrec run")
    names = [stage.name for stage in STAGES]
    for name in (*force, *([until] if until else [])):
        if name not in names:
            raise ConfigError(f"there is no stage {name!r}", expected=f"one of {', '.join(names)}")
    recipe = resolve_recipe(recipe)
    console = console or Terminal(stderr=True)
    wanted = STAGES[: names.index(until) + 1] if until else STAGES
    with exclusive(folder):
        with write_file(folder / CONFIG_FILE) as path:
            path.write_text(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False), encoding="utf-8")
        write_json(folder / ENVIRONMENT_FILE, describe_machine())
        work = Work(recipe, folder, console)
        _Runner(work, force).run(wanted)
    if until is None:
        show_run(work, results or Terminal())
    return work


def show_run(work: Work, console: Console) -> None:
    """Print what a finished run came to: results beside the baselines, users with their lists, where the files are.

    Args:
        work: The run.
        console: Where to.
    """
    print_results(console, [read_json(work.folder / METRICS_FILE)], work.recipe.recommender.name)
    print_examples(console, examples(work))
    written = [str(work.folder / name) for name in (*SHOWN_FILES, work.model_name)]
    console.print("\n".join(written), markup=False, highlight=False, soft_wrap=True)
    console.print(f"peak memory {peak_memory_bytes() / GIBIBYTE:.1f} GiB", highlight=False)


class _Runner:
    """Goes through the stages, says what it does, and keeps the ledger."""

    def __init__(self, work: Work, force: Sequence[str]) -> None:
        self.work, self.force, self.ledger = work, force, work.ledger
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
            self.work.forget(stage.name)
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
        needed = [stage.name for stage in stages if stage.needed(self.work.recipe)]
        known = [self.ledger.records[name].seconds for name in needed if name in self.ledger.records]
        if len(known) == len(needed):
            return f"; about {clock(sum(known))} left in all"
        minutes = self.work.recipe.training.max_minutes
        return f"; at most {clock(60 * minutes)} of training" if minutes and stages[0].name == "model" else ""

    def say(self, text: str) -> None:
        self.work.console.print(text, markup=False, highlight=False, soft_wrap=True)
        sys.stderr.flush()
