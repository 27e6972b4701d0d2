"""What a report says of sparse experts: how their loads went in training, and which of them serve what after it."""

from collections.abc import Mapping, Sequence
from typing import Any

from genrec.reports.plots import Figure, Line, heat_map, line_chart, thinned

CURVES = (
    ("expert_max_load", "Largest load", "The most that one expert got, as a multiple of the mean; 1 is balance."),
    (
        "expert_entropy",
        "Router entropy",
        "In nats, mean over layers; the logarithm of the experts where it is undecided.",
    ),
    ("expert_dropped", "Dropped choices", "Share beyond an expert's capacity, in training only."),
)
KINDS = {"category": "Categories", "level": "Code levels"}


def experts_sentence(values: Mapping[str, Any]) -> str:
    """Loads and specialization in a sentence or two, from ``experts.json``; empty where there is none."""
    if not values:
        return ""
    layers, total = values["layers"], values["experts"] * len(values["layers"])
    idle = sum(layer["idle"] for layer in layers)
    loads = _range([layer["max_load"] for layer in layers], ".2f")
    said = (
        f"{values['experts']} experts in {_count(len(layers), 'layer')}, {values['experts_per_token']} for each"
        f" position; on {values['users']:,} validation users the busiest of a layer does {loads} times the mean,"
        f" {f'{idle} of {total} are idle' if idle else 'none is idle'}."
    )
    parts = [_told(kind, layers) for kind in KINDS if values.get(kind)]
    return said + (f" How much of an expert's choice is told: {'; '.join(parts)}." if parts else "")


def expert_curves(records: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Largest load, router entropy and dropped choices over the epochs, from ``metrics.jsonl``.

    Args:
        records: Those without experts draw nothing; a curve that is zero all along is left out.
    """
    figures = []
    for name, title, caption in CURVES:
        points = [(float(r["epoch"]), float(r[name])) for r in records if "epoch" in r and r.get(name) is not None]
        if any(value for _, value in points):
            chart = line_chart([Line(title.lower(), thinned(points))], title=title, x_label="epoch")
            figures.append(Figure(chart, title, caption))
    return figures


def expert_maps(values: Mapping[str, Any]) -> list[Figure]:
    """A heat map per kind of group and layer: how the choices of each category, or level, fall on the experts."""
    figures = []
    for kind, title in KINDS.items():
        described = values.get(kind)
        if not described:
            continue
        for number, layer in enumerate(values["layers"], start=1):
            name = f"{title} by expert, expert layer {number}"
            told = layer[kind]
            chart = heat_map(
                _labels(described["names"]),
                [str(expert + 1) for expert in range(values["experts"])],
                told["shares"],
                title=name,
            )
            caption = (
                f"Percent of a row's choices; an equal share is {100 / values['experts']:.3g}."
                f" Specialization {told['nmi']:.3f}, by chance {told['nmi_by_chance']:.3f}:"
                " mutual information with the expert that is chosen first, over the smaller entropy."
            )
            figures.append(Figure(chart, name, caption))
    return figures


def _told(kind: str, layers: Sequence[Mapping[str, Any]]) -> str:
    found = _range([layer[kind]["nmi"] for layer in layers], ".2f")
    chance = _range([layer[kind]["nmi_by_chance"] for layer in layers], ".2f")
    return f"by the {'category' if kind == 'category' else 'level of the code'} {found} (by chance {chance})"


def _range(values: Sequence[float], digits: str) -> str:
    low, high = format(min(values), digits), format(max(values), digits)
    return low if low == high else f"{low} to {high}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _labels(names: Sequence[str]) -> list[str]:
    """The last parts of paths of categories; where two are alike, with the part before."""
    paths = [name.split(" > ") for name in names]
    last = [path[-1] for path in paths]
    return [f"{path[-1]} ({path[-2]})" if len(path) > 1 and last.count(path[-1]) > 1 else path[-1] for path in paths]
