"""What a data set is in numbers: ``statistics.json`` for programs, ``statistics.md`` for people."""

from datetime import datetime, timezone
from typing import Any

import numpy as np
import polars as pl

from genrec.data.histories import Histories
from genrec.data.ties import tie_statistics


def dataset_statistics(
    histories: Histories, train_end: np.ndarray, valid_end: np.ndarray, items: pl.DataFrame
) -> dict[str, Any]:
    """Count a data set.

    Args:
        histories: Everything known of each user.
        train_end: int64 [R], end of the training part of each row.
        valid_end: int64 [R], end of the validation part of each row.
        items: The catalogue, row i is item i.

    Returns:
        JSON-able numbers: sizes, lengths, popularity, split, span of time, ties, share of items with text per column.
    """
    lengths, catalogue = histories.lengths, items.height
    position = np.arange(len(histories.items)) - np.repeat(histories.offsets[:-1], lengths)
    in_train = position < np.repeat(train_end, lengths)
    popularity = np.bincount(histories.items, minlength=catalogue)
    train_popularity = np.bincount(histories.items[in_train], minlength=catalogue)
    pairs = np.sort(np.repeat(np.arange(len(histories)), lengths) * catalogue + histories.items)
    return {
        "users": len(histories),
        "items": catalogue,
        "interactions": len(histories.items),
        "density": len(histories.items) / max(len(histories) * catalogue, 1),
        "repeated_interactions": int(np.count_nonzero(pairs[1:] == pairs[:-1])),
        "interactions_per_user": _spread(lengths),
        "interactions_per_item": _spread(popularity),
        "popularity_gini": _gini(popularity),
        "items_without_interactions": int(np.count_nonzero(popularity == 0)),
        "items_without_training": int(np.count_nonzero(train_popularity == 0)),
        "training": {"interactions": int(train_end.sum()), "users": int(np.count_nonzero(train_end))},
        "validation": _part(train_end, valid_end),
        "test": _part(valid_end, lengths),
        "training_only_users": int(np.count_nonzero(train_end == lengths)),
        "time": _time(histories.timestamps),
        "ties": tie_statistics(histories, train_end, valid_end, items["item_id"]),
        "items_with_text": _text_shares(items),
    }


def statistics_page(statistics: dict[str, Any]) -> str:
    """The statistics as a Markdown page of tables."""
    lines = ["# Data set", "", "| what | value |", "|---|---:|"]
    for key, value in statistics.items():
        inner = value if isinstance(value, dict) else {"": value}
        for name, number in inner.items():
            label = f"{key}: {name}" if name else key
            lines.append(f"| {label.replace('_', ' ').replace('|', '/')} | {_shown(number)} |")
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _spread(counts: np.ndarray) -> dict[str, float]:
    if not len(counts):
        return {"min": 0, "median": 0.0, "mean": 0.0, "max": 0}
    middle, mean = float(np.median(counts)), float(counts.mean())
    return {"min": int(counts.min()), "median": middle, "mean": mean, "max": int(counts.max())}


def _part(begin: np.ndarray, end: np.ndarray) -> dict[str, int]:
    evaluated = (begin > 0) & (end > begin)
    return {"interactions": int((end - begin).sum()), "evaluated_users": int(np.count_nonzero(evaluated))}


def _gini(counts: np.ndarray) -> float:
    ranked = np.sort(counts).astype(np.float64)
    total, size = ranked.sum(), len(ranked)
    return float((2 * np.arange(1, size + 1) - size - 1) @ ranked / (size * total)) if total else 0.0


def _time(timestamps: np.ndarray | None) -> dict[str, Any]:
    known = np.empty(0) if timestamps is None else timestamps[timestamps >= 0]
    if not len(known):
        return {"known": 0}
    first, last = int(known.min()), int(known.max())
    return {"known": len(known), "first": first, "last": last, "first_day": _day(first), "last_day": _day(last)}


def _day(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, tz=timezone.utc).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return "not a date"


def _text_shares(items: pl.DataFrame) -> dict[str, float]:
    shares = {}
    for name, dtype in items.schema.items():
        if name == "item_id":
            continue
        there = items[name].is_not_null()
        if dtype == pl.String:
            there &= (items[name] != "").fill_null(False)
        elif isinstance(dtype, pl.List):
            there &= (items[name].list.len() > 0).fill_null(False)
        shares[name] = float(there.mean() or 0.0)  # type: ignore[arg-type]
    return shares
