"""The verbs that look: at a folder, at several tokenizers, at this machine."""

from pathlib import Path
from typing import Annotated

import typer

from genrec.cli.app import verb
from genrec.terminal.text import show


@verb("compare-tokenizers", writes=True)
def compare_item_tokenizers(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", help="Folders from `genrec tokenize`, or runs.", show_default=False),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="PICTURE.png", help="Also draw one picture of all.")] = None,
) -> None:
    """Put item tokenizers of one catalogue side by side, with a reading which is good and why."""
    import json

    from genrec.tokenizers.quality.comparison import compare_tokenizers
    from genrec.tokenizers.quality.comparison_view import comparison_as_text, draw_comparison

    comparison = compare_tokenizers(folders)
    if out is not None:
        draw_comparison(comparison, out, reads=folders)
    show(json.dumps(comparison.as_json(), indent=2) if as_json else comparison_as_text(comparison))


@verb("inspect")
def inspect(
    path: Annotated[Path, typer.Argument(help="Any folder or file that genrec wrote.", show_default=False)],
    dataset: Annotated[Path | None, typer.Option(help="With a model: show users of this data set.")] = None,
    user: Annotated[list[str] | None, typer.Option(help="Show this user; may be given several times.")] = None,
) -> None:
    """Say in words what a folder is; with a model, show users' histories beside their lists."""
    from genrec.inspection import describe, show_users

    show(describe(path))
    if dataset is not None or user:
        show(show_users(path, dataset, user or []))


@verb("doctor")
def doctor() -> None:
    """Check this machine: versions, threads, memory, device, extras, permissions."""
    from genrec.doctor import examine

    report, healthy = examine()
    show(report)
    if not healthy:
        raise typer.Exit(1)
