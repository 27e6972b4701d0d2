"""What a report says of an alignment: where it began, where it ended, and the curves between."""

import math
from collections.abc import Mapping
from typing import Any

from genrec.alignment.plots import PANELS, joined_records, measured_names
from genrec.evaluation.tables import metric_name
from genrec.reports.plots import Figure, Line, line_chart

RELATIVE = "Signs of collapse"
SHOWN = ("recall@10", "ndcg@10", "pair_accuracy", "reward@", "margin", "kl", "entropy", "coverage@10", "diversity@10")
STOPS = {
    "epochs": "after all epochs",
    "patience": "because nothing improved any more",
    "time": "because its time was over",
    "guard": "by a guard",
}


def alignment_sentence(values: Mapping[str, Any]) -> str:
    """How an alignment went, from ``alignment.json``; empty where there is none."""
    if not values:
        return ""
    rounds = values["rounds"]
    steps, last = sum(part["steps"] for part in rounds), rounds[-1]
    kept = any(part["improved"] for part in rounds)
    said = f"{steps:,} updates in {len(rounds)} round{'s' if len(rounds) > 1 else ''}, ended {STOPS[last['stopped']]}."
    said += "" if kept else " No step was better than the start: the model is as it was."
    return said + (f" {last['reason'][0].upper()}{last['reason'][1:]}." if last["reason"] else "")


def alignment_facts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Measurements before and after on validation users, and how far a learned reward can be trusted."""
    if not values:
        return []
    start, best = values["start"], values["best"]
    facts = [
        (_name(name), f"{start[name]:.4f} → {best[name]:.4f}")
        for name in measured_names(SHOWN, start)
        if _is_number(start.get(name)) and _is_number(best.get(name))
    ]
    quality = values.get("reward_quality") or {}
    if _is_number(quality.get("beam_auc")):
        facts.append(("reward model, among the model's own lists", f"held-out AUC {quality['beam_auc']:.3f}"))
    for name, auc in quality.get("auc", {}).items():
        error = quality["calibration_error"][name]
        if _is_number(auc):
            facts.append((f"reward model, {name}", f"held-out AUC {auc:.3f}, calibration error {error:.3f}"))
    return facts


def alignment_figures(values: Mapping[str, Any]) -> list[Figure]:
    """The curves of reward, margin, KL, recall and what else was measured, over the updates of all rounds."""
    if not values:
        return []
    steps, records = joined_records(values["rounds"])
    figures = []
    for title, subtitle, names in PANELS:
        lines: list[Line] = []
        for name in measured_names(names, *records):
            points = [
                (float(step), float(record[name]))
                for step, record in zip(steps, records, strict=True)
                if _is_number(record.get(name))
            ]
            first = points[0][1] if points else 0.0
            if title == RELATIVE and first:
                points = [(step, value / first) for step, value in points]
            if points:
                lines.append(Line(_name(name), tuple(points), len(lines)))
        if lines:
            figures.append(Figure(line_chart(lines, title=title, x_label="updates"), title, _caption(subtitle)))
    return figures


def _name(name: str) -> str:
    return metric_name(name) if "@" in name else name.replace("_", " ").replace("kl", "KL")


def _caption(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
