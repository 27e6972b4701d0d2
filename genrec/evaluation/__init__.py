"""What lists are worth: metrics, slices, confidence intervals, baselines, tables, and the protocol they state."""

from genrec.evaluation.baselines import Baseline, ItemKNN, ItemKNNSettings, Popularity, fit_baseline
from genrec.evaluation.comparison import Comparison, System, compare_systems
from genrec.evaluation.confidence import Interval, bootstrap_intervals, paired_difference
from genrec.evaluation.metrics import Evaluation, evaluate_lists
from genrec.evaluation.protocol import Protocol, Result, metrics_json, score_lists
from genrec.evaluation.recommendations import read_recommendations, score_recommendations
from genrec.evaluation.significance import permutation_p_value
from genrec.evaluation.slices import Slice, evaluate_slices
from genrec.evaluation.tables import ResultsTable, render_table, results_table, side_by_side

__all__ = [
    "Baseline",
    "Comparison",
    "Evaluation",
    "Interval",
    "ItemKNN",
    "ItemKNNSettings",
    "Popularity",
    "Protocol",
    "Result",
    "ResultsTable",
    "Slice",
    "System",
    "bootstrap_intervals",
    "compare_systems",
    "evaluate_lists",
    "evaluate_slices",
    "fit_baseline",
    "metrics_json",
    "paired_difference",
    "permutation_p_value",
    "read_recommendations",
    "render_table",
    "results_table",
    "score_lists",
    "score_recommendations",
    "side_by_side",
]
