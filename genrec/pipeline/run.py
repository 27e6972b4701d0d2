"""``genrec run``: the stages in order, each run when it is stale and skipped when it is fresh."""

import sys
import time
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import yaml
from rich.console import Console

from genrec.artifacts import fingerprint, overwriting, read_json, reserve_work_folder, write_file
from genrec.artifacts.manifest import CARD
from genrec.artifacts.marks import stamped, write_result
from genrec.artifacts.targets import check_file_target, check_folder_target, is_overwriting, paths_named, real_place
from genrec.config import Recipe, read_yaml
from genrec.distributed.launch import refuse_processes
from genrec.errors import ConfigError
from genrec.pipeline.environment import GIBIBYTE, describe_machine, peak_memory_bytes
from genrec.pipeline.resolve import resolve_recipe
from genrec.pipeline.stage_cache import StageRecord, outputs_of
from genrec.pipeline.stages import STAGES, Stage, examples
from genrec.pipeline.train import LOG_FILE
from genrec.pipeline.work import (
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    LEARNED_FOLDER,
    METRICS_FILE,
    RECOMMENDATIONS_FILE,
    REPORT_FILE,
    Work,
)
from genrec.reports.console import print_examples, print_results
from genrec.terminal.console import Terminal
from genrec.training.log import MetricsLog, clock

# The folders that stages leave, and as what.
FOLDERS = {
    "dataset": "dataset",
    "features": "features",
    "tokenizer": "tokenizer",
    "model": "model",
    "aligned": "model",
    "transitions": "model",
    LEARNED_FOLDER: "model",
}
SHOWN_FILES = (RECOMMENDATIONS_FILE, METRICS_FILE, REPORT_FILE)


def run_recipe(
    recipe: Recipe,
    folder: Path,
    *,
    until: str | None = None,
    force: Sequence[str] = (),
    source: Path | None = None,
    console: Console | None = None,
    results: Console | None = None,
) -> Work:
    """Bring a run's folder up to date with a recipe.

    Args:
        recipe: As read from YAML; every name and setting is checked before work begins.
        folder: ``runs/NAME``.
        until: The last stage to run; all if None.
        force: Stages to run although they are fresh; what they left before is replaced even if it was changed.
        source: The recipe's file, if there is one.
        console: Where progress is shown; the standard error stream by default.
        results: Where the results are shown; the standard output stream by default.

    Returns:
        What the stages made, for a caller that goes on with it.

    Raises:
        ConfigError: If the recipe or a stage's name cannot be used, or something in the folder must not be replaced.
        DataError: If the data cannot be used.
        ArtifactError: If the folder cannot be written or another run works in it.
    """
    refuse_processes("genrec run")
    names = [stage.name for stage in STAGES]
    for name in (*force, *([until] if until else [])):
        if name not in names:
            raise ConfigError(f"there is no stage {name!r}", expected=f"one of {', '.join(names)}")
    resolved = resolve_recipe(recipe)
    console = console or Terminal(stderr=True)
    wanted = STAGES[: names.index(until) + 1] if until else STAGES
    with reserve_work_folder(folder, reads=[*paths_named(recipe.data.model_dump()), source]):
        work = Work(resolved, folder, console)
        runner = _Runner(work, force)
        runner.check(wanted)
        _write_recipe(resolved.recipe, folder / CONFIG_FILE, source)
        write_result(folder / ENVIRONMENT_FILE, describe_machine())
        runner.run(wanted)
    if until is None:
        show_run(work, results or Terminal())
    return work


def _write_recipe(recipe: Recipe, path: Path, source: Path | None) -> None:
    """Write the resolved recipe, unless the file says the same already: it may be the user's own, with comments."""
    values = recipe.model_dump(mode="json")
    if path.is_file() and read_yaml(path) == values:
        return
    if source is not None and real_place(source) == real_place(path):
        raise ConfigError(
            f"{path} is the recipe of this run and would be replaced by its resolved form",
            expected="a recipe outside of the run's folder",
            fix="copy it elsewhere and give the copy",
        )
    check_file_target(path)
    with write_file(path) as temporary:
        temporary.write_text(stamped(yaml.safe_dump(values, sort_keys=False), "# {}"), encoding="utf-8")


def show_run(work: Work, console: Console) -> None:
    """Print what a finished run came to: results with the baselines, users with their lists, where the files are.

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
        self.fresh: set[str] = set()

    def check(self, wanted: Sequence[Stage]) -> None:
        """Refuse, before any work, to replace what genrec did not write or what was changed since.

        Raises:
            ConfigError: Naming it.
        """
        self.ledger.check()
        check_file_target(self.work.folder / ENVIRONMENT_FILE)
        MetricsLog(self.work.folder / LOG_FILE).check()
        needed = [stage for stage in wanted if stage.needed(self.work.resolved)]
        self.fresh = {stage.name for stage in takewhile(lambda stage: self.stale_reason(stage) is None, needed)}
        for stage in needed[len(self.fresh) :]:
            with overwriting(is_overwriting() or stage.name in self.force):
                self.check_outputs(stage)

    def check_outputs(self, stage: Stage) -> None:
        """As :meth:`check`, of one stage; a data set that is used where it is needs no check."""
        names = [name for name in stage.outputs(self.work) if not Path(name).is_absolute()]
        if stage.name == "baselines":
            names.append(LEARNED_FOLDER)
        for name in names:
            if name in FOLDERS:
                check_folder_target(self.work.folder / name, FOLDERS[name])
            elif Path(name).name != CARD:
                self.ledger.check_output(stage.name, name)

    def run(self, wanted: Sequence[Stage]) -> None:
        """Run the stages that are stale."""
        for number, stage in enumerate(wanted, 1):
            label = f"[{number}/{len(wanted)}] {stage.name}"
            if not stage.needed(self.work.resolved):
                self.say(f"{label}: not needed by this recipe")
                continue
            reason = None if stage.name in self.fresh else self.stale_reason(stage)
            if reason is None:
                self.say(f"{label}: fresh  {self.ledger.records[stage.name].summary}")
                continue
            self.say(f"{label}: {reason}{self.remaining(wanted[number - 1 :])}")
            self.work_on(stage, self.key(stage), label)

    def stale_reason(self, stage: Stage) -> str | None:
        """Why a stage must run, or None if it is fresh; the stages that it reads have run."""
        return "forced" if stage.name in self.force else self.ledger.stale_reason(stage.name, self.key(stage))

    def work_on(self, stage: Stage, key: str, label: str) -> None:
        """Run one stage and write down what it left."""
        started = time.monotonic()
        self.ledger.begin(stage.name)
        with overwriting(is_overwriting() or stage.name in self.force):
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
        recipe = self.work.resolved
        before = [other.name for other in STAGES if other.name in stage.after(recipe) and other.needed(recipe)]
        records = self.ledger.records
        read = {name: sorted(records[name].outputs.values()) for name in before if name in records}
        return fingerprint({"stage": stage.name, "settings": stage.settings(self.work), "inputs": read})

    def remaining(self, stages: Sequence[Stage]) -> str:
        """How long the stages took when they ran before, as words."""
        needed = [stage.name for stage in stages if stage.needed(self.work.resolved)]
        known = [self.ledger.records[name].seconds for name in needed if name in self.ledger.records]
        if len(known) == len(needed):
            return f"; about {clock(sum(known))} left in all"
        return ""

    def say(self, text: str) -> None:
        self.work.console.print(text, markup=False, highlight=False, soft_wrap=True)
        sys.stderr.flush()
