"""``genrec VERB``: reads the command line, calls the library, turns errors into messages and exit codes.

Nothing heavy is imported before a verb runs, so that ``genrec --help`` answers at once.
"""

import functools
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, TypeVar

import typer

from genrec.errors import GenrecError, InterruptedRun, MemoryExhaustedError

INTERRUPTED = "nothing is left half-written; run the same command again (finished stages are kept)"
# Threads that spin long while they wait stand still beside another process that does so (a hundredth of the speed on
# two cores); those that never spin take twice as long on a quiet machine. This many turns cost a tenth and avoid both.
SETTINGS = {
    "GOMP_SPINCOUNT": "2000",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS")

app = typer.Typer(
    name="genrec",
    help="Train and run generative recommenders: models that write the next item's identifier.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Command = TypeVar("Command", bound=Callable[..., None])


class Stage(str, Enum):
    """The stages of ``genrec run``, in order."""

    dataset = "dataset"
    features = "features"
    tokenizer = "tokenizer"
    model = "model"
    baselines = "baselines"
    evaluation = "evaluation"
    generation = "generation"
    report = "report"


STAGE_NAMES = ", ".join(stage.value for stage in Stage)


class Split(str, Enum):
    """How users' histories are divided."""

    leave_one_out = "leave-one-out"
    temporal = "temporal"
    ratio = "ratio"


class Part(str, Enum):
    """The held-out parts."""

    validation = "validation"
    test = "test"


class Unknown(str, Enum):
    """What to do with items that the model does not know."""

    error = "error"
    skip = "skip"
    warn = "warn"


Recipe = Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="The recipe.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be given several times.")
]
Out = Annotated[Path, typer.Option("--out", help="Folder to write.", show_default=False)]
DatasetFolder = Annotated[Path, typer.Option("--dataset", help="A folder from `genrec prepare`.", show_default=False)]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; a GPU if there is one by default.")]


class State:
    """What holds for one invocation."""

    debug = False
    signal_number = signal.SIGINT.value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    Args:
        arguments: Without the program's name; those of the process if None.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        with _log_to_people():
            app(args=_common_first(sys.argv[1:] if arguments is None else arguments), prog_name="genrec")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    return 0


def _show_version(wanted: bool) -> None:
    if wanted:
        from genrec import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    threads: Annotated[int | None, typer.Option(help="CPU threads; all cores by default.")] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Take the options that every verb accepts, before or after its name."""
    State.debug, State.signal_number = debug, signal.SIGINT.value
    if threads is not None:
        _limit_threads(threads)


def verb(name: str) -> Callable[[Command], Command]:
    """Register a verb whose errors become messages on the standard error stream and exit codes."""

    def register(function: Command) -> Command:
        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> None:
            try:
                with _terminating():
                    function(*args, **kwargs)
            except (GenrecError, MemoryError, RuntimeError, KeyboardInterrupt) as error:
                known = _as_genrec_error(error)
                if known is None:
                    raise
                if State.debug:
                    traceback.print_exc()
                typer.echo(f"error: {known}", err=True)
                raise typer.Exit(known.exit_code) from None

        app.command(name)(guarded)
        return function

    return register


@verb("run")
def run(
    config: Recipe,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; runs/NAME-OF-THE-RECIPE by default.")] = None,
    overrides: Overrides = None,
    until: Annotated[Stage | None, typer.Option(metavar="STAGE", help=f"Stop after this stage: {STAGE_NAMES}.")] = None,
    force: Annotated[list[Stage] | None, typer.Option(metavar="STAGE", help="Run this stage even if fresh.")] = None,
) -> None:
    """Run all stages of a recipe: prepare, embed, tokenize, train, evaluate, generate, report."""
    from genrec.config import load_recipe
    from genrec.pipeline.run import run_recipe

    recipe = load_recipe(config, overrides or ())
    forced = [stage.value for stage in force or ()]
    run_recipe(recipe, out or Path("runs") / config.stem, until=until.value if until else None, force=forced)


@verb("fetch")
def fetch(
    name: Annotated[str, typer.Argument(help="A public data set, such as ml-100k.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Folder to write; data/NAME by default.")] = None,
) -> None:
    """Fetch a public data set: checked against its SHA-256, with its licence."""
    from genrec.data import fetch_source

    folder = fetch_source(name, out or Path("data") / name)
    typer.echo(f"{name} is in {folder}. Its licence ({folder / 'LICENCE'}) says:\n")
    typer.echo((folder / "LICENCE").read_text(encoding="utf-8").strip())


@verb("prepare")
def prepare(
    interactions: Annotated[Path, typer.Option(help="File or folder of interactions.", show_default=False)],
    out: Out,
    items: Annotated[Path | None, typer.Option(help="File or folder of items.")] = None,
    k_core: Annotated[int | None, typer.Option(help="Fewest interactions of a user and of an item.")] = None,
    split: Annotated[Split | None, typer.Option(help="How histories are divided.")] = None,
    overrides: Overrides = None,
) -> None:
    """Check, filter and split tables of interactions and items."""
    from genrec.config import load_recipe
    from genrec.data import prepare_dataset
    from genrec.data.statistics import statistics_page

    values = {"k_core": k_core, "split": split.value if split else None}
    given = [f"data.{key}={value}" for key, value in values.items() if value is not None]
    config = load_recipe(None, [*given, *(f"data.{text}" for text in overrides or ())]).data
    paths = {"interactions": str(interactions), "items": str(items) if items else None}
    dataset = prepare_dataset(config.model_copy(update=paths), out)
    typer.echo(statistics_page(dataset.statistics))
    typer.echo(f"{dataset.num_users} users, {dataset.num_items} items: {out}")


@verb("embed")
def embed(dataset: DatasetFolder, out: Out, overrides: Overrides = None) -> None:
    """Make one vector per item."""
    from genrec.config import load_recipe
    from genrec.data import Dataset
    from genrec.features import build_features

    config = load_recipe(None, [f"features.{text}" for text in overrides or ()]).features
    features = build_features(config, Dataset.load(dataset, verify=True), out)
    typer.echo(f"{len(features.item_ids)} vectors of width {features.values.shape[1]}: {out}")


@verb("tokenize")
def tokenize(
    config: Annotated[Path, typer.Argument(metavar="TOKENIZER.yaml", help="A recipe's tokenizer.", show_default=False)],
    dataset: DatasetFolder,
    features: Annotated[Path, typer.Option(help="A folder from `genrec embed`.", show_default=False)],
    out: Out,
    overrides: Overrides = None,
) -> None:
    """Turn item vectors into identifiers."""
    from genrec.config import load_recipe
    from genrec.data import Dataset
    from genrec.inspection import describe
    from genrec.pipeline.steps import tokenize_items

    recipe = load_recipe(config, [f"tokenizer.{text}" for text in overrides or ()])
    tokenize_items(recipe.tokenizer, Dataset.load(dataset, verify=True), features, out)
    typer.echo(describe(out))


@verb("train")
def train(
    config: Recipe,
    dataset: DatasetFolder,
    out: Out,
    tokenizer: Annotated[Path | None, typer.Option(help="A folder from `genrec tokenize`.")] = None,
    features: Annotated[Path | None, typer.Option(help="A folder from `genrec embed`.")] = None,
    overrides: Overrides = None,
) -> None:
    """Train a recommender; the same command again continues after an interruption."""
    from genrec.config import load_recipe
    from genrec.data import Dataset
    from genrec.inspection import describe
    from genrec.pipeline.model_folder import Companions
    from genrec.pipeline.steps import TrainingPlan, train_model

    recipe = load_recipe(config, overrides or ())
    plan = TrainingPlan(recipe.recommender, recipe.training, recipe.decoding)
    train_model(plan, Dataset.load(dataset, verify=True), Companions(tokenizer, features), out)
    typer.echo(describe(out))


@verb("generate")
def generate(
    model: Annotated[Path, typer.Option(help="A model folder.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Parquet file to write.")] = Path("recommendations.parquet"),
    histories: Annotated[Path | None, typer.Option(help="Table of user_id, item_id and timestamp.")] = None,
    dataset: Annotated[Path | None, typer.Option(help="A data set whose users get lists.")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Length of the lists; as at training by default.")] = None,
    beams: Annotated[int | None, typer.Option(min=1, help="Width of the search; as at training by default.")] = None,
    allow_items: Annotated[Path | None, typer.Option(help="Table of the only items to recommend.")] = None,
    block_items: Annotated[Path | None, typer.Option(help="Table of items never to recommend.")] = None,
    exclude_seen: Annotated[bool | None, typer.Option("--exclude-seen/--include-seen", help="Seen items.")] = None,
    unknown: Annotated[Unknown, typer.Option(help="Items that the model does not know.")] = Unknown.warn,
    device: Device = None,
) -> None:
    """Write a list of items for every user."""
    from genrec.generation import GenerationRequest, write_lists

    changed = {"top_k": top_k, "num_beams": beams, "exclude_seen": exclude_seen}
    request = GenerationRequest(
        histories=histories,
        dataset=dataset,
        decoding={key: value for key, value in changed.items() if value is not None},
        allow_items=allow_items,
        block_items=block_items,
        unknown=unknown.value,
    )
    written = write_lists(model, request, out, device=device)
    if written is None:
        return
    short = f", {written.short_users} with fewer items than asked for" if written.short_users else ""
    typer.echo(f"{written.users} users{short}: {out}")


@verb("evaluate")
def evaluate(
    dataset: DatasetFolder,
    model: Annotated[Path | None, typer.Option(help="A model folder.")] = None,
    recommendations: Annotated[Path | None, typer.Option(help="Lists by any system, instead of a model.")] = None,
    split: Annotated[Part, typer.Option(help="The held-out part.")] = Part.test,
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("metrics.json"),
    overrides: Overrides = None,
    device: Device = None,
) -> None:
    """Measure a model, or a file of lists, on held-out items."""
    from genrec.config import load_recipe
    from genrec.inspection import results_as_text
    from genrec.pipeline.steps import measure

    config = load_recipe(None, [f"evaluation.{text}" for text in overrides or ()]).evaluation
    values = measure(dataset, split.value, config, out, model=model, lists=recommendations, device=device)
    typer.echo(f"{results_as_text(values)}{out}")


@verb("inspect")
def inspect(
    path: Annotated[Path, typer.Argument(help="Any folder or file that genrec wrote.", show_default=False)],
    dataset: Annotated[Path | None, typer.Option(help="With a model: show users of this data set.")] = None,
    user: Annotated[list[str] | None, typer.Option(help="Show this user; may be given several times.")] = None,
) -> None:
    """Say in words what a folder is; with a model, show users' histories beside their lists."""
    from genrec.inspection import describe, show_users

    typer.echo(describe(path))
    if dataset is not None or user:
        typer.echo(show_users(path, dataset, user or []))


@verb("doctor")
def doctor() -> None:
    """Check this machine: versions, threads, memory, device, extras, permissions."""
    from genrec.doctor import examine

    report, healthy = examine()
    typer.echo(report)
    if not healthy:
        raise typer.Exit(1)


def _common_first(arguments: Sequence[str]) -> list[str]:
    """Move ``--debug`` and ``--threads N`` to the front, where the options of all verbs are read."""
    first: list[str] = []
    rest: list[str] = []
    waiting = False
    for argument in arguments:
        common = waiting or argument in ("--debug", "--threads") or argument.startswith("--threads=")
        waiting = not waiting and argument == "--threads"
        (first if common else rest).append(argument)
    return first + rest


class _PlainLines(logging.Formatter):
    """What genrec has to say, as plain lines; warnings are marked."""

    def format(self, record: logging.LogRecord) -> str:
        mark = "warning: " if record.levelno > logging.INFO else ""
        return mark + record.getMessage()


@contextmanager
def _log_to_people() -> Iterator[None]:
    """Show genrec's messages on the standard error stream."""
    logger, handler = logging.getLogger("genrec"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(_PlainLines())
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def _limit_threads(threads: int) -> None:
    if threads < 1:
        raise typer.BadParameter("at least 1 is needed", param_hint="--threads")
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


@contextmanager
def _terminating() -> Iterator[None]:
    """Let SIGTERM unwind like Ctrl-C, so that nothing is left half-written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: FrameType | None) -> None:
    State.signal_number = number
    raise KeyboardInterrupt


def _as_genrec_error(error: BaseException) -> GenrecError | None:
    if isinstance(error, GenrecError):
        return error
    if isinstance(error, KeyboardInterrupt):
        name = signal.Signals(State.signal_number).name
        return InterruptedRun(State.signal_number, f"stopped by {name}", fix=INTERRUPTED)
    text = str(error).lower()
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
        return MemoryExhaustedError(
            "memory ran out", fix="lower decoding.batch_size, decoding.num_beams or training.batch_size"
        )
    return None


if __name__ == "__main__":
    sys.exit(main())
