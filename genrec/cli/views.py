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


@verb("compare", writes=True)
def compare(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Runs or files of lists, or NAME=RUN.", show_default=False),
    ],
    dataset: Annotated[Path | None, typer.Option(help="For files of lists without a run: their data set.")] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Also a baseline or variant of the runs; baselines, variants: all of them."),
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(metavar="NAME@K", help="recall@10 and ndcg@10 by default.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(metavar="NAME", help="Compare the others with this system only.")
    ] = None,
    without_seed: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="This system has no seed: one file of lists is all.")
    ] = None,
    as_latex: Annotated[bool, typer.Option("--latex", help="LaTeX (booktabs).")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Markdown.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV in full precision.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON in full precision.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the table instead of printing it.")] = None,
    trec: Annotated[Path | None, typer.Option(metavar="DIR", help="Also write all lists as TREC run files.")] = None,
) -> None:
    """Put systems into one table: means, deviations over seeds, intervals, and which differences are more than chance.

    Runs of one recipe that differ in their seeds are one system, and so are those of one NAME.
    """
    from genrec.pipeline.compare import DEFAULT_METRICS, ComparisonRequest, compare_to

    styles = {"latex": as_latex, "markdown": as_markdown, "csv": as_csv, "json": as_json}
    request = ComparisonRequest(
        sources=sources,
        dataset=dataset,
        include=include or (),
        without_seed=without_seed or (),
        metrics=metric or DEFAULT_METRICS,
        reference=reference,
    )
    text = compare_to(request, [style for style, wanted in styles.items() if wanted], out=out, trec=trec)
    show(text if out is None else str(out))


@verb("inspect")
def inspect(
    path: Annotated[Path, typer.Argument(help="Any folder or file that genrec wrote.", show_default=False)],
    dataset: Annotated[Path | None, typer.Option(help="With a model: show users of this data set.")] = None,
    user: Annotated[list[str] | None, typer.Option(help="Show this user; may be given several times.")] = None,
) -> None:
    """Say in words what a folder is; with a model, show users' histories with their lists."""
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
