"""A finished run of the small world, measured for real, and what a report is made of."""

import numpy as np
import pytest

from genrec.config import EvaluationConfig
from genrec.evaluation import Protocol, fit_baseline, metrics_json, score_lists
from genrec.reports.content import Example, Listed, ReportContent, make_examples

CONFIG = EvaluationConfig(ks=(1, 5, 10), bootstrap_samples=100)
NASTY = "<script>alert('x')</script> & [b]bold[/b] | `tick`"


@pytest.fixture(scope="session")
def lists(tiny_dataset):
    """Item-kNN's lists and scores for the test users; it stands for the model."""
    histories, _ = tiny_dataset.evaluation("test")
    return fit_baseline("itemknn", tiny_dataset).recommend(histories, top_k=10)


@pytest.fixture(scope="session")
def run(tiny_dataset, lists):
    """The content of ``metrics.json`` with popularity next to it."""
    protocol = Protocol(
        split="leave-one-out", part="test", catalogue=40, exclude_seen=True, max_history=20, num_beams=5,
        encoder="lexical", tokenizer="rqkmeans", collision_rate=0.05, seeds=(1,),
    )  # fmt: skip
    histories, _ = tiny_dataset.evaluation("test")
    popular, _ = fit_baseline("popularity", tiny_dataset).recommend(histories, top_k=10)
    ours = score_lists("depth", lists[0], tiny_dataset, protocol, CONFIG, settings={"hidden_size": 8, "dropout": None})
    beside = score_lists("popularity", popular, tiny_dataset, protocol, CONFIG)
    return metrics_json(ours, [beside])


@pytest.fixture(scope="session")
def training():
    """Records of ``metrics.jsonl``."""
    records = [{"step": n, "epoch": n / 10, "loss": 5 / (n + 1), "learning_rate": 0.1} for n in range(900)]
    records += [
        {"step": n * 100, "epoch": n * 10.0, "validation": {"ndcg@5": 0.1, "ndcg@10": value}}
        for n, value in enumerate([0.1, 0.3, 0.2], start=1)
    ]
    return [{"step": 0, "note": "continuing"}, *records]


@pytest.fixture(scope="session")
def quality():
    """``quality.json`` of a residual tokenizer."""
    level = {"size": 8, "used": 6, "use": 0.75, "entropy_bits": 2.3, "perplexity": 4.9, "largest": 12}
    return {
        "tokenizer": "rqkmeans",
        "items": 40,
        "levels": [level, level],
        "residual_energy": [1.0, 0.5, 0.25],
        "collisions": {
            "policy": "suffix",
            "before": {"collision_rate": 0.05},
            "after": {"collision_rate": 0.0},
        },
        "neighbors": [
            {"item": NASTY, "codes": [1, 2], "neighbors": [{"item": "B", "codes": [1, 3], "shared_codes": 1}]}
        ],
    }


@pytest.fixture(scope="session")
def content(tiny_dataset, lists, run, training, quality):
    """Everything that a report may show, with a title and a user that try to break it."""
    histories, targets = tiny_dataset.evaluation("test")
    shown = make_examples(tiny_dataset, histories, *lists, targets=targets, count=2)
    shown.append(Example(NASTY, (NASTY,), 1, (Listed(NASTY, -1.25), Listed("other", np.nan)), (NASTY,)))
    return ReportContent(
        name=f"Tiny {NASTY}",
        system="depth",
        runs=[run],
        statistics=tiny_dataset.statistics,
        training=training,
        quality=quality,
        examples=shown,
        environment={"versions": {"torch": "2.13"}, "command": ["genrec", "run"], "git_commit": None},
        recipe="data:\n  k_core: 0 # <b>",
        seconds={"train": 75.2},
        created="2026-01-02 03:04",
    )
