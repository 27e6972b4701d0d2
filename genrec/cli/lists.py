"""The verbs that use a trained model: lists for users, new items, measurements."""

from pathlib import Path
from typing import Annotated

import typer

from genrec.cli.app import verb
from genrec.cli.options import DatasetFolder, Device, Overrides, Part, Unknown
from genrec.terminal.text import show


@verb("generate", writes=True)
def generate(
    model: Annotated[Path, typer.Option(help="A model folder.", show_default=False)],
    out: Annotated[Path, typer.Option(help="File to write: Parquet, or .csv, .tsv or .jsonl by its name.")] = Path(
        "recommendations.parquet"
    ),
    histories: Annotated[Path | None, typer.Option(help="Table of user_id, item_id and timestamp.")] = None,
    dataset: Annotated[Path | None, typer.Option(help="A data set whose users get lists.")] = None,
    users: Annotated[Path | None, typer.Option(help="With --histories: a table of what is known of users.")] = None,
    catalogue: Annotated[
        Path | None, typer.Option(help="A data set whose items are recommended, never seen by the model before.")
    ] = None,
    features: Annotated[
        Path | None, typer.Option(help="With --catalogue, where the model folder has no encoder: that of its training.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Length of the lists; as at training by default.")] = None,
    beams: Annotated[int | None, typer.Option(min=1, help="Width of the search; as at training by default.")] = None,
    allow_items: Annotated[Path | None, typer.Option(help="Table of the only items to recommend.")] = None,
    block_items: Annotated[Path | None, typer.Option(help="Table of items never to recommend.")] = None,
    allow_where: Annotated[
        str | None, typer.Option(metavar="CONDITION", help="Only items of which this is true, such as 'price < 20'.")
    ] = None,
    exclude_seen: Annotated[bool | None, typer.Option("--exclude-seen/--include-seen", help="Seen items.")] = None,
    unknown_items: Annotated[
        Unknown, typer.Option(help="Items of the histories that the model does not know.")
    ] = Unknown.warn,
    session_size: Annotated[
        int | None, typer.Option(min=1, help="Write each list as sequences of so many items.", show_default=False)
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Add each item's semantic ID and the probability of each code.")
    ] = False,
    device: Device = None,
) -> None:
    """Write a list of items for every user; the same command again continues after an interruption."""
    from genrec.generation import GenerationRequest, write_lists

    changed = {
        "top_k": top_k,
        "num_beams": beams,
        "exclude_seen": exclude_seen,
        "session_size": session_size,
        "mode": None if session_size is None else "session",
    }
    request = GenerationRequest(
        histories=histories,
        dataset=dataset,
        users=users,
        catalogue=catalogue,
        features=features,
        decoding={key: value for key, value in changed.items() if value is not None},
        allow_items=allow_items,
        block_items=block_items,
        allow_where=allow_where,
        unknown=unknown_items.value,
        explain=explain,
    )
    written = write_lists(model, request, out, device=device)
    if written is None:
        return
    short = f", {written.short_users} with fewer items than asked for" if written.short_users else ""
    show(f"{written.users} users{short}: {out}")


@verb("add-items", writes=True)
def add_items(
    model: Annotated[Path, typer.Option(help="A model folder.", show_default=False)],
    items: Annotated[Path, typer.Option(help="Table of the new items.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Model folder to write.", show_default=False)],
    features: Annotated[
        Path | None, typer.Option(help="A folder from `genrec embed`, where the model folder has no encoder.")
    ] = None,
) -> None:
    """Put new items into a trained model's catalogue, without training."""
    from genrec.inspection import describe
    from genrec.pipeline.catalogue import add_new_items

    added = add_new_items(model, items, out, features=features)
    show(describe(out))
    show(f"{added.items} new items, {added.sharing} of them share a semantic ID with another: {out}")


@verb("remove-items", writes=True)
def remove_items(
    model: Annotated[Path, typer.Option(help="A model folder.", show_default=False)],
    items: Annotated[Path, typer.Option(help="Table of the items that are gone.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Model folder to write.", show_default=False)],
) -> None:
    """Take items out of a trained model's catalogue, without training."""
    from genrec.inspection import describe
    from genrec.pipeline.catalogue import remove_known_items

    removed = remove_known_items(model, items, out)
    show(describe(out))
    show(f"{removed} items removed: {out}")


@verb("evaluate", writes=True)
def evaluate(
    dataset: DatasetFolder,
    model: Annotated[Path | None, typer.Option(help="A model folder.")] = None,
    recommendations: Annotated[Path | None, typer.Option(help="Lists by any system, instead of a model.")] = None,
    split: Annotated[Part, typer.Option(help="The held-out part.")] = Part.test,
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("metrics.json"),
    zero_shot: Annotated[
        bool, typer.Option("--zero-shot", help="The model never saw these items: its own tokenizer names them.")
    ] = False,
    save_lists: Annotated[
        Path | None,
        typer.Option(metavar="FILE.parquet", help="With --model: keep the measured lists, for `genrec compare`."),
    ] = None,
    overrides: Overrides = None,
    device: Device = None,
) -> None:
    """Measure a model, or a file of lists, on held-out items."""
    from genrec.config import load_recipe
    from genrec.inspection import results_as_text
    from genrec.pipeline.evaluate import measure

    config = load_recipe(None, [f"evaluation.{text}" for text in overrides or ()]).evaluation
    values = measure(
        dataset,
        split.value,
        config,
        out,
        model=model,
        lists=recommendations,
        device=device,
        zero_shot=zero_shot,
        save_lists=save_lists,
    )
    show(f"{results_as_text(values)}{out}")
