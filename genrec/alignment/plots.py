"""Curves of an alignment: what it gains, what it pays, and how far it went."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genrec.tokenizers.quality.canvas import ACCENT, INK, MUTED, SECOND, dress, new_figure, write_figure

PANELS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("What users took", "validation users, full catalogue", ("recall@10", "ndcg@10")),
    ("What is preferred", "unseen pairs in order; mean reward", ("pair_accuracy", "reward@")),
    ("Log-probabilities", "unseen pairs; both falling: a warning", ("chosen_log_prob", "rejected_log_prob")),
    ("Margin", "beta times the log-ratios' difference", ("margin",)),
    ("KL to the reference", "nats per item", ("kl",)),
    ("Signs of collapse", "relative to the start", ("entropy", "coverage@10", "diversity@10", "legal_mass")),
)
COLOURS = (ACCENT, SECOND, MUTED, INK)


def draw_curves(rounds: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the measurements of all rounds, one after another.

    Args:
        rounds: ``start`` and ``history`` of each, as in ``alignment.json``.
        path: PNG file to write.
    """
    steps, records = joined_records(rounds)
    figure = new_figure(12, 6.8)
    for number, (title, subtitle, wanted) in enumerate(PANELS, start=1):
        names = measured_names(wanted, *records)
        axes = figure.add_subplot(2, 3, number)
        dress(axes, title, subtitle)
        axes.set_xlabel("updates", color=INK)
        relative = title == "Signs of collapse"
        drawn = False
        for colour, name in zip(COLOURS, names, strict=False):
            values = np.array(
                [record.get(name) if record.get(name) is not None else np.nan for record in records], float
            )
            if np.isnan(values).all():
                continue
            values = values / values[0] if relative and values[0] else values
            axes.plot(steps, values, color=colour, linewidth=1.8, marker="o", markersize=3, label=name)
            drawn = True
        if drawn:
            axes.legend(frameon=False, fontsize=9)
        else:
            axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes, color=MUTED)
    write_figure(figure, path)


def measured_names(wanted: Sequence[str], *records: Mapping[str, Any]) -> list[str]:
    """Names of measurements; one that ends in @ means it at whatever length of list it was measured in the records."""
    known = dict.fromkeys(name for record in records for name in record)
    return [
        name
        for one in wanted
        for name in ([key for key in known if key.startswith(one)] if one.endswith("@") else [one])
    ]


def joined_records(rounds: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[dict[str, Any]]]:
    """Steps over all rounds and the measurements at each; the start of a later round is the end of the one before."""
    steps, records, done = [0], [dict(rounds[0]["start"])], 0
    for part in rounds:
        for record in part["history"]:
            steps.append(done + record["step"])
            records.append(dict(record["validation"]))
        done += part["steps"]
    return steps, records
