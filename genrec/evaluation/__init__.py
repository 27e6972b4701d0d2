"""What lists are worth: metrics, slices, confidence intervals, baselines, tables, and the protocol they state."""

from genrec.evaluation.baselines import Baseline, ItemKNN, ItemKNNSettings, Popularity, fit_baseline
from genrec.evaluation.confidence import Interval, bootstrap_intervals, paired_difference
from genrec.evaluation.metrics import Evaluation, evaluate_lists
from genrec.evaluation.protocol import Protocol, Result, metrics_json, score_lists
from genrec.evaluation.recommendations import read_recommendations, score_recommendations
from genrec.evaluation.slices import Slice, evaluate_slices
from genrec.evaluation.tables import ResultsTable, render_table, results_table, side_by_side

__all__ = [
    "Baseline",
    "Evaluation",
    "Interval",
    "ItemKNN",
    "ItemKNNSettings",
    "Popularity",
    "Protocol",
    "Result",
    "ResultsTable",
    "Slice",
    "bootstrap_intervals",
    "evaluate_lists",
    "evaluate_slices",
    "fit_baseline",
    "metrics_json",
    "paired_difference",
    "read_recommendations",
    "render_table",
    "results_table",
    "score_lists",
    "score_recommendations",
    "side_by_side",
]
