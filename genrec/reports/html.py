"""``report.html``: one page without scripts or outside files, for reading, sending and printing."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from genrec.artifacts import stamped, write_file
from genrec.data.ties import ties_in_words
from genrec.evaluation.protocol import Protocol
from genrec.evaluation.tables import DEFAULT_METRICS, ResultsTable, metric_name, side_by_side, with_system_names
from genrec.reports.alignment import alignment_facts, alignment_figures, alignment_sentence
from genrec.reports.content import ReportContent
from genrec.reports.experts import expert_curves, expert_maps, experts_sentence
from genrec.reports.plots import Bar, Figure, Line, bar_chart, grouped_bars, line_chart, thinned
from genrec.terminal.text import visible

NO_BREAK = "\u00a0"
CAPTIONS = {"coverage": "Share of the catalogue that is in at least one list: how much of it users get to see."}
TITLES = {
    "item_popularity": "By popularity of the held-out item",
    "history_length": "By length of the history",
    "ties": "By whether the held-out item has the time of the last item of the history",
}


def write_report(path: Path, content: ReportContent) -> None:
    """Write the page, whole or not at all.

    Args:
        path: File to create or replace.
        content: What it shows.

    Raises:
        ArtifactError: If the place cannot be written or the disk is full.
    """
    page = render_report(content)
    with write_file(path) as temporary:
        temporary.write_text(stamped(page), encoding="utf-8")


def render_report(content: ReportContent) -> str:
    """The page as text; everything that comes from data is escaped, control characters included."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("genrec.reports", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["minus"] = lambda text: text.replace("-", "\u2212")
    first = with_system_names(content.runs[0])
    systems = {content.system: first, **first["baselines"], **first["variants"]}
    table = side_by_side(content.runs, content.system, DEFAULT_METRICS)
    k = headline_k(first["metrics"])
    page = environment.get_template("report.html.jinja").render(
        content=content,
        summary=summary_sentence(content, k),
        tiles=_tiles(content, k),
        table=table,
        metric_name=metric_name,
        differences=_differences(first, f"ndcg@{k}"),
        difference_metric=metric_name(f"ndcg@{k}"),
        figures=[
            *(_comparison(table, f"{kind}@{k}") for kind in ("recall", "ndcg")),
            *_by_k(content),
            _comparison(table, f"coverage@{k}"),
        ],
        slices=_slices(content, k),
        training=_training(content.training),
        expert_curves=expert_curves(content.training) if content.experts else [],
        expert_maps=expert_maps(content.experts),
        experts_sentence=experts_sentence(content.experts),
        alignment=alignment_figures(content.alignment),
        alignment_sentence=alignment_sentence(content.alignment),
        alignment_facts=alignment_facts(content.alignment),
        residual=_residual(content.quality),
        protocol=Protocol.model_validate(first["protocol"]).in_words(),
        notes=first.get("notes", []),
        confidence=first.get("confidence", {}),
        settings=[(name, in_words(part["settings"])) for name, part in systems.items() if part.get("settings")],
        facts=_facts(content.statistics),
        surroundings=_flat(content.environment),
    )
    return visible(page)


def headline_k(metrics: Mapping[str, Any]) -> int:
    """The k of the headline: 10 where it was measured, else the largest."""
    ks = [int(name.split("@")[1]) for name in metrics if name.startswith("ndcg@")]
    return 10 if 10 in ks else max(ks)


def summary_sentence(content: ReportContent, k: int) -> str:
    """The result in one sentence or two, with the strongest baseline.

    Args:
        content: The runs.
        k: Length of list.
    """
    recall, ndcg = f"recall@{k}", f"ndcg@{k}"
    table = side_by_side(content.runs, content.system, [recall, ndcg])
    ours, first = table.rows[-1], content.runs[0]
    found, users = f"{ours.mean[recall]:.1%}", f"{first['users']:,}{NO_BREAK}users"
    value = f"NDCG@{k}{NO_BREAK}{ours.text(ndcg)}"
    if first["protocol"]["split"] == "leave-one-out":
        sentence = f"{content.system} lists the held-out item among its first {k} for {found} of {users} ({value})."
    else:
        sentence = f"{content.system} lists {found} of the held-out items of {users} among its first {k} ({value})."
    named = with_system_names(first)
    others = [row for row in table.rows[:-1] if row.system in named["baselines"] and row.mean.get(ndcg)]
    if not others:
        return sentence
    best = max(others, key=lambda row: row.mean[ndcg])
    ratio = ours.mean[ndcg] / best.mean[ndcg]
    compared = f"{abs(ratio - 1):.1%} {'more' if ratio >= 1 else 'less'} NDCG@{k} than"
    compared = f"That is {compared if ratio < 2 else f'{ratio:.1f} times the NDCG@{k} of'} {best.system}"
    paired = _differences(named, ndcg).get(best.system)
    by_chance = len(content.runs) == 1 and paired is not None and paired[1] <= 0 <= paired[2]
    doubt = "; the choice of users could explain the difference" if by_chance else ""
    unfinished = [f"{row.system} was {row.stopped}" for row in (ours, best) if row.stopped]
    if unfinished:
        doubt = f"; {' and '.join(unfinished)}, so the difference says nothing of the methods"
    return f"{sentence} {compared}, the strongest baseline{doubt}."


def _tiles(content: ReportContent, k: int) -> list[tuple[str, str]]:
    metrics, statistics = content.runs[0]["metrics"], content.statistics
    tiles = [(metric_name(name), f"{metrics[name]:.4f}") for name in (f"recall@{k}", f"ndcg@{k}", f"mrr@{k}")]
    tiles.append((f"of the catalogue listed (top {k})", f"{metrics[f'coverage@{k}']:.1%}"))
    tiles += [(name, f"{statistics[name]:,}") for name in ("users", "items", "interactions") if name in statistics]
    return tiles


def _differences(run: Mapping[str, Any], metric: str) -> dict[str, tuple[float, float, float]]:
    """Paired differences to what was trained to its end; an unfinished training shows nothing of a method."""
    if run.get("protocol", {}).get("stopped"):
        return {}
    others = {**run.get("baselines", {}), **run.get("variants", {})}
    parts = {
        name: other.get("difference", {}).get(metric)
        for name, other in others.items()
        if not other.get("protocol", {}).get("stopped")
    }
    return {name: tuple(part) for name, part in parts.items() if part}


def _comparison(table: ResultsTable, metric: str) -> Figure:
    bars = []
    for row in table.rows:
        if metric in row.mean:
            mean, deviation = row.mean[metric], row.deviation.get(metric)
            low, high = (mean - deviation, mean + deviation) if deviation else row.interval.get(metric, (None, None))
            bars.append(Bar(row.system, mean, low, high, 0 if row is table.rows[-1] else 1))
    title = metric_name(metric)
    return Figure(bar_chart(bars, title=title, shown="{:.4f}".format), title, CAPTIONS.get(metric.split("@")[0], ""))


def _by_k(content: ReportContent) -> list[Figure]:
    run = with_system_names(content.runs[0])
    ks = sorted(int(name.split("@")[1]) for name in run["metrics"] if name.startswith("recall@"))
    if len(ks) < 2:
        return []
    systems = {content.system: run, **run["baselines"], **run["variants"]}
    lines = [
        Line(name, tuple((k, part["metrics"][f"recall@{k}"]) for k in ks if f"recall@{k}" in part["metrics"]), index)
        for index, (name, part) in enumerate(systems.items())
    ]
    lines = [line for line in lines if line.points]
    chart = line_chart(lines, title="Recall@k", x_label="length of the list, k", from_zero=True, x_values=ks)
    return [Figure(chart, "Recall by length of the list", "Steps of k are drawn at equal distances.")]


def _slices(content: ReportContent, k: int) -> list[Figure]:
    run, metric = with_system_names(content.runs[0]), f"recall@{k}"
    others = run["baselines"]
    best = max(others, key=lambda name: others[name]["metrics"].get(metric, 0.0), default=None)
    systems = {content.system: run} | ({best: others[best]} if best else {})
    figures = []
    for grouping, groups in run.get("slices", {}).items():
        drawn = [
            (
                group,
                f"{part['users']:,} users",
                [
                    Bar(name, system["slices"][grouping][group]["metrics"][metric], series=index)
                    for index, (name, system) in enumerate(systems.items())
                    if group in system.get("slices", {}).get(grouping, {})
                ],
            )
            for group, part in groups.items()
        ]
        if drawn:
            title = TITLES.get(grouping, grouping.replace("_", " "))
            chart = grouped_bars(drawn, title=f"{metric_name(metric)} {title.lower()}", shown="{:.4f}".format)
            figures.append(Figure(chart, title, legend=tuple(systems)))
    return figures


def _training(records: Sequence[Mapping[str, Any]]) -> list[Figure]:
    figures = []
    losses = [(float(r["epoch"]), float(r["loss"])) for r in records if r.get("loss") is not None and "epoch" in r]
    if losses:
        chart = line_chart([Line("training loss", thinned(losses))], title="Training loss", x_label="epoch")
        figures.append(Figure(chart, "Training loss"))
    measured = [r for r in records if r.get("validation") and "epoch" in r]
    names = list(dict.fromkeys(name for r in measured for name in r["validation"]))
    metric = next((name for name in ("ndcg@10", *names) if name in names), None)
    points = [(float(r["epoch"]), float(r["validation"][metric])) for r in measured if metric in r["validation"]]
    if metric and points:
        best = max(points, key=lambda point: point[1])
        chart = line_chart(
            [Line(metric_name(metric), tuple(points))],
            title=f"Validation {metric_name(metric)}",
            x_label="epoch",
            mark=(*best, f"best {best[1]:.4f} at epoch {best[0]:g}"),
        )
        figures.append(Figure(chart, f"Validation {metric_name(metric)}", "By real decoding over the full catalogue."))
    return figures


def _residual(quality: Mapping[str, Any]) -> Figure | None:
    energy = quality.get("residual_energy")
    if not energy:
        return None
    bars = [Bar(f"{level or 'no'} code{'' if level == 1 else 's'}", value) for level, value in enumerate(energy)]
    caption = (
        "Energy of the item vectors that the codes so far leave unexplained; codes of later levels tell apart the rest."
    )
    return Figure(bar_chart(bars, title="Unexplained energy", shown="{:.1%}".format), "What is left to tell", caption)


def _facts(statistics: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [(name, f"{statistics[name]:,}") for name in ("users", "items", "interactions") if name in statistics]
    if "density" in statistics:
        facts.append(("density", f"{statistics['density']:.3%}"))
    spread = statistics.get("interactions_per_user")
    if spread:
        facts.append(("interactions per user", f"{spread['min']} to {spread['max']}, median {spread['median']:g}"))
    if "items_without_training" in statistics:
        facts.append(("items without training interaction", f"{statistics['items_without_training']:,}"))
    time = statistics.get("time", {})
    if "first_day" in time:
        facts.append(("time", f"{time['first_day']} to {time['last_day']}"))
    if ties := ties_in_words(statistics.get("ties", {})):
        facts.append(("ties", ties))
    return facts


def in_words(settings: Mapping[str, Any]) -> str:
    """Settings on one line: ``neighbors 100, decay 0.5``; those that are not set are left out."""
    rows = [(name.replace("_", " "), value) for name, value in settings.items() if value is not None]
    return ", ".join(f"{name} {value}" for name, value in rows)


def _flat(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values in words: inner mappings are taken apart, lists become one line."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value)
        elif value is not None:
            text = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            rows.append((name.replace("_", " "), text))
    return rows
