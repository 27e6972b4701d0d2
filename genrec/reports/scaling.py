"""What a scaling study found: the fitted curves, the table, the picture, and in words where experts win."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np

from genrec.errors import DataError
from genrec.evaluation.power_law import PowerLaw, fit_power_law
from genrec.evaluation.tables import metric_name
from genrec.tokenizers.quality.canvas import ACCENT, MUTED, SECOND, dress, new_figure, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS = {"dense": ACCENT, "experts": SECOND}
METRIC = "recall@10"


@dataclass(frozen=True)
class SizeResult:
    """The mean over the seeds of one size.

    Attributes:
        name: What to call it.
        kind: ``dense`` or ``experts``.
        flops: Of its training, active parameters only.
        active: Parameters that one position can meet.
        total: All parameters.
        loss: Nats per validation item, a value per seed.
        metric: Recall at 10 on validation, a value per seed.
    """

    name: str
    kind: str
    flops: float
    active: int
    total: int
    loss: tuple[float, ...]
    metric: tuple[float, ...]

    @property
    def mean_loss(self) -> float:
        """Over the seeds."""
        return mean(self.loss)


@dataclass(frozen=True)
class Study:
    """One data set.

    Attributes:
        data: Its name.
        sizes: In rising order of operations.
        curves: The curve of each kind; where none could be fitted, the reason.
    """

    data: str
    sizes: tuple[SizeResult, ...]
    curves: Mapping[str, PowerLaw | str]

    def of(self, kind: str) -> list[SizeResult]:
        """The sizes of one kind."""
        return [size for size in self.sizes if size.kind == kind]

    def as_json(self) -> dict[str, Any]:
        """Curves and means, JSON-able."""
        curves = {kind: curve if isinstance(curve, str) else asdict(curve) for kind, curve in self.curves.items()}
        return {"data": self.data, "curves": curves, "sizes": [asdict(size) for size in self.sizes]}


def gather_studies(points: Sequence[Mapping[str, Any]]) -> list[Study]:
    """Mean over seeds and fit, for every data set.

    Args:
        points: Each with ``data``, ``size``, ``kind``, ``seed`` and what
            :func:`genrec.pipeline.scaling.train_point` says.
    """
    studies = []
    for data in dict.fromkeys(point["data"] for point in points):
        mine = [point for point in points if point["data"] == data]
        sizes = [
            _size([point for point in mine if point["size"] == name])
            for name in dict.fromkeys(point["size"] for point in mine)
        ]
        sizes.sort(key=lambda size: size.flops)
        curves = {kind: _curve([size for size in sizes if size.kind == kind]) for kind in KINDS}
        studies.append(Study(data, tuple(sizes), curves))
    return studies


def reading(study: Study) -> list[str]:
    """What the points say, a sentence each: the curves, then where experts win against dense models."""
    said = []
    for kind, curve in study.curves.items():
        if isinstance(curve, str):
            said.append(f"{kind}: no curve, {curve}.")
            continue
        spread = f" ({curve.c_range[0]:.2f} to {curve.c_range[1]:.2f} without one size)" if curve.c_range else ""
        edge = "; the points do not determine the exponent" if curve.at_edge else ""
        said.append(
            f"{kind}: loss = {curve.a:.2f} + {curve.b:.3g} C^-{curve.c:.3f}{spread},"
            f" {curve.error:.3f} nats from the points{edge}."
        )
    return said + _comparison(study)


def dense_loss_at(study: Study, flops: float) -> float | None:
    """The dense models' loss at this compute, by lines between the measured ones in log C; None beyond them."""
    dense = study.of("dense")
    if len(dense) < 2 or not dense[0].flops <= flops <= dense[-1].flops:
        return None
    logs = np.log([size.flops for size in dense])
    return float(np.interp(np.log(flops), logs, [size.mean_loss for size in dense]))


def scaling_text(studies: Sequence[Study]) -> str:
    """The tables and their reading, as Markdown."""
    parts = []
    for study in studies:
        head = f"| size | FLOPs | active | parameters | loss | {metric_name(METRIC)} | dense at equal FLOPs | seeds |"
        rows = [_row(study, size) for size in study.sizes]
        said = "\n".join(f"- {sentence}" for sentence in reading(study))
        parts.append("\n".join([f"## {study.data}", "", head, "|" + "---|" * 8, *rows, "", said]))
    return "\n\n".join(parts) + "\n"


def draw_scaling(studies: Sequence[Study], path: Path) -> None:
    """Loss with the fitted curves, and recall, against training operations.

    Args:
        studies: A row of the picture each.
        path: PNG file to write.
    """
    from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullLocator

    figure = new_figure(11, 4.2 * len(studies))
    axes = figure.subplots(len(studies), 2, squeeze=False)
    for row, study in zip(axes, studies, strict=True):
        dress(row[0], f"{study.data}: loss", "nats per validation item; lines: a + b C^-c")
        dress(row[1], f"{study.data}: {metric_name(METRIC)}", "validation users, full catalogue")
        for kind, color in KINDS.items():
            _draw_kind(row, study, kind, color)
        for panel in row:
            panel.set_xscale("log")
            panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.xaxis.set_major_formatter(LogFormatterSciNotation(labelOnlyBase=False, minor_thresholds=(9, 9)))
            panel.xaxis.set_minor_locator(NullLocator())
            panel.set_xlabel("training FLOPs (active parameters)", color=MUTED, fontsize=9)
        row[0].legend(frameon=False, fontsize=9)
    write_figure(figure, path)


def _draw_kind(panels: Sequence["Axes"], study: Study, kind: str, color: str) -> None:
    sizes = study.of(kind)
    if not sizes:
        return
    flops = [size.flops for size in sizes]
    panels[0].plot(flops, [size.mean_loss for size in sizes], "o", color=color, markersize=5, label=kind)
    panels[1].plot(flops, [mean(size.metric) for size in sizes], "o-", color=color, markersize=5, linewidth=1.2)
    curve = study.curves[kind]
    if not isinstance(curve, str):
        grid = np.geomspace(flops[0], flops[-1], 60)
        panels[0].plot(grid, [curve.at(float(c)) for c in grid], color=color, linewidth=1.4)


def _size(points: Sequence[Mapping[str, Any]]) -> SizeResult:
    first = points[0]
    return SizeResult(
        first["size"],
        first["kind"],
        mean(point["flops"] for point in points),
        first["active_parameters"],
        first["parameters"],
        tuple(point["loss"] for point in points),
        tuple(point[METRIC] for point in points),
    )


def _curve(sizes: Sequence[SizeResult]) -> PowerLaw | str:
    try:
        return fit_power_law([size.flops for size in sizes], [size.mean_loss for size in sizes])
    except DataError as error:
        return error.what


def _comparison(study: Study) -> list[str]:
    compared = [(size, dense_loss_at(study, size.flops)) for size in study.of("experts")]
    inside = [(size, dense) for size, dense in compared if dense is not None]
    if not inside:
        return ["No size with experts lies between two dense ones: nothing to compare at equal compute."]
    won = [(size, dense) for size, dense in inside if size.mean_loss < dense]
    said = [
        f"At {size.flops:.2g} FLOPs {size.name} has a loss of {size.mean_loss:.3f}, dense models {dense:.3f}"
        f" ({size.mean_loss - dense:+.3f}){_worth(study, size)}."
        for size, dense in inside
    ]
    names = f" ({', '.join(size.name for size, _ in won)})" if won else ""
    doubt = "; with one seed, how much of it is chance is not known" if len(study.sizes[0].loss) == 1 else ""
    verdict = f"Experts win at {len(won)} of {len(inside)} sizes that lie between two dense ones{names}{doubt}."
    return [verdict, *said]


def _worth(study: Study, size: SizeResult) -> str:
    """How many times the operations dense models need for the same loss, where the measured ones reach it."""
    dense = study.of("dense")
    losses = [one.mean_loss for one in dense]
    if size.mean_loss < min(losses) or size.mean_loss > max(losses) or losses != sorted(losses, reverse=True):
        return ""
    needed = np.exp(np.interp(-size.mean_loss, [-loss for loss in losses], np.log([one.flops for one in dense])))
    return f"; for that loss dense models need {needed / size.flops:.2f} times the FLOPs"


def _row(study: Study, size: SizeResult) -> str:
    dense = dense_loss_at(study, size.flops) if size.kind == "experts" else None
    cells = [
        size.name,
        f"{size.flops:.2e}",
        f"{size.active:,}",
        f"{size.total:,}",
        _spread(size.loss, 3),
        _spread(size.metric, 4),
        "" if dense is None else f"{dense:.3f}",
        str(len(size.loss)),
    ]
    return f"| {' | '.join(cells)} |"


def _spread(values: Sequence[float], digits: int) -> str:
    return f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")
