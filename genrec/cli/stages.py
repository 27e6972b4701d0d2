"""The verbs that make something of data: all stages of a recipe, or one of them."""

from pathlib import Path
from typing import Annotated

import typer

from genrec.cli.app import verb
from genrec.cli.options import STAGE_NAMES, DatasetFolder, Out, Overrides, Recipe, Split, StageName, Ties
from genrec.terminal.text import show


@verb("run", writes=True)
def run(
    config: Recipe,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; runs/NAME-OF-THE-RECIPE by default.")] = None,
    overrides: Overrides = None,
    until: Annotated[
        StageName | None, typer.Option(metavar="STAGE", help=f"Stop after this stage: {STAGE_NAMES}.")
    ] = None,
    force: Annotated[
        list[StageName] | None, typer.Option(metavar="STAGE", help="Run this stage even if fresh.")
    ] = None,
) -> None:
    """Run all stages of a recipe: prepare, embed, tokenize, train, evaluate, generate, report."""
    from genrec.config import load_recipe
    from genrec.pipeline.run import run_recipe

    recipe = load_recipe(config, overrides or ())
    forced = [stage.value for stage in force or ()]
    last = until.value if until else None
    run_recipe(recipe, out or Path("runs") / config.stem, until=last, force=forced, source=config)


@verb("fetch", writes=True)
def fetch(
    name: Annotated[str, typer.Argument(help="A public data set, such as ml-100k.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="Folder to write; data/NAME by default.")] = None,
) -> None:
    """Fetch a public data set: checked against its SHA-256, with its license."""
    from genrec.data import fetch_source

    folder = fetch_source(name, out or Path("data") / name)
    show(f"{name} is in {folder}. Its license ({folder / 'LICENSE'}) says:\n")
    show((folder / "LICENSE").read_text(encoding="utf-8").strip())


@verb("prepare", writes=True)
def prepare(
    interactions: Annotated[Path, typer.Option(help="File or folder of interactions.", show_default=False)],
    out: Out,
    items: Annotated[Path | None, typer.Option(help="File or folder of items.")] = None,
    users: Annotated[Path | None, typer.Option(help="File or folder of what is known of users.")] = None,
    k_core: Annotated[int | None, typer.Option(help="Fewest interactions of a user and of an item.")] = None,
    split: Annotated[Split | None, typer.Option(help="How histories are divided.")] = None,
    ties: Annotated[Ties | None, typer.Option(help="Order of a user's interactions at one time.")] = None,
    ties_seed: Annotated[int | None, typer.Option(help="Seed of --ties shuffle.")] = None,
    overrides: Overrides = None,
) -> None:
    """Check, filter and split tables of interactions and items."""
    from genrec.config import load_recipe
    from genrec.data import prepare_dataset
    from genrec.data.statistics import statistics_page

    chosen = {"split": split, "ties": ties}
    values = {"k_core": k_core, "ties_seed": ties_seed} | {key: value and value.value for key, value in chosen.items()}
    given = [f"data.{key}={value}" for key, value in values.items() if value is not None]
    config = load_recipe(None, [*given, *(f"data.{text}" for text in overrides or ())]).data
    paths = {"interactions": str(interactions), "items": str(items) if items else None}
    if users is not None:
        paths["users"] = str(users)
    dataset = prepare_dataset(config.model_copy(update=paths), out)
    show(statistics_page(dataset.statistics))
    show(dataset.account.page())
    show(f"{dataset.num_users} users, {dataset.num_items} items: {out}")


@verb("embed", writes=True)
def embed(dataset: DatasetFolder, out: Out, overrides: Overrides = None) -> None:
    """Make one vector per item."""
    from genrec.config import load_recipe
    from genrec.data import Dataset
    from genrec.features import ItemFeatures
    from genrec.pipeline.embed import embed_together

    config = load_recipe(None, [f"features.{text}" for text in overrides or ()]).features
    if embed_together(config, Dataset.load(dataset, verify=True), out):
        features = ItemFeatures.load(out)
        show(f"{len(features.item_ids)} vectors of width {features.values.shape[1]}: {out}")


@verb("tokenize", writes=True)
def tokenize(
    config: Annotated[Path, typer.Argument(metavar="TOKENIZER.yaml", help="A recipe's tokenizer.", show_default=False)],
    dataset: DatasetFolder,
    features: Annotated[Path, typer.Option(help="A folder from `genrec embed`.", show_default=False)],
    out: Out,
    overrides: Overrides = None,
    stability: Annotated[
        bool, typer.Option("--stability", help="Also fit again, to report whether items stay together.")
    ] = False,
) -> None:
    """Turn item vectors into semantic IDs."""
    from genrec.config import load_recipe
    from genrec.data import Dataset
    from genrec.inspection import describe
    from genrec.pipeline.tokenize import tokenize_together

    recipe = load_recipe(config, [f"tokenizer.{text}" for text in overrides or ()])
    if tokenize_together(recipe.tokenizer, Dataset.load(dataset, verify=True), features, out, stability=stability):
        show(describe(out))


@verb("train", writes=True)
def train(
    config: Recipe,
    dataset: DatasetFolder,
    out: Out,
    tokenizer: Annotated[Path | None, typer.Option(help="A folder from `genrec tokenize`.")] = None,
    features: Annotated[Path | None, typer.Option(help="A folder from `genrec embed`.")] = None,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Try the largest batch, say what memory and time it takes, write nothing.")
    ] = False,
) -> None:
    """Train a recommender; the same command again continues after an interruption."""
    from genrec.config import load_recipe
    from genrec.data import Dataset
    from genrec.distributed.world import World
    from genrec.inspection import describe
    from genrec.models import resolve_recommender
    from genrec.pipeline.model_folder import Companions
    from genrec.pipeline.train import TrainingPlan, train_model, try_training

    recipe = load_recipe(config, overrides or ())
    plan = TrainingPlan(resolve_recommender(recipe.recommender), recipe.training, recipe.decoding)
    data, companions = Dataset.load(dataset, verify=True), Companions(tokenizer, features)
    if dry_run:
        show(try_training(plan, data, companions).text())
        return
    train_model(plan, data, companions, out)
    if World.current().is_main:
        show(describe(out))


@verb("align", writes=True)
def align(
    config: Recipe,
    model: Annotated[Path, typer.Option(help="A model folder.", show_default=False)],
    dataset: DatasetFolder,
    out: Out,
    overrides: Overrides = None,
) -> None:
    """Move a trained recommender to what users prefer; the same command again continues after an interruption."""
    from genrec.config import load_recipe
    from genrec.data import Dataset
    from genrec.distributed.world import World
    from genrec.inspection import describe
    from genrec.pipeline.align import align_model

    recipe = load_recipe(config, overrides or ())
    align_model(model, Dataset.load(dataset, verify=True), recipe.alignment, out)
    if World.current().is_main:
        show(describe(out))


@verb("upcycle", writes=True)
def upcycle(
    model: Annotated[Path, typer.Option(help="A dense model folder.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Model folder to write.", show_default=False)],
    overrides: Overrides = None,
) -> None:
    """Give a dense model sparse experts (--set recommender.experts=8); it answers as before until it learns."""
    from genrec.inspection import describe
    from genrec.pipeline.upcycle import upcycle_model

    upcycle_model(model, overrides or (), out)
    show(describe(out))


@verb("add-transitions", writes=True)
def add_transitions(
    model: Annotated[Path, typer.Option(help="A model folder.", show_default=False)],
    dataset: DatasetFolder,
    out: Annotated[Path, typer.Option(help="Model folder to write.", show_default=False)],
    weight: Annotated[
        str, typer.Option(help="Weight in the model's lists; auto: what is best on validation.")
    ] = "auto",
) -> None:
    """Copy a model with item-to-item transitions of its training data, which its lists then use as well."""
    from genrec.config import DecodingConfig, parse_settings
    from genrec.data import Dataset
    from genrec.inspection import describe
    from genrec.pipeline import add_transitions as adding

    wanted = parse_settings(DecodingConfig, {"transition_weight": weight}, where="--weight").transition_weight
    adding.add_transitions(model, Dataset.load(dataset, verify=True), out, wanted)
    show(describe(out))
