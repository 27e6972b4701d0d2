"""What alignment is worth on implicit feedback: a trained recommender, aligned in several ways, by test NDCG@10.

    python scripts/benchmarks/beauty_alignment.py --dataset runs/x/dataset --model runs/x/model --out aligned-beauty
    python scripts/benchmarks/beauty_alignment.py ... sdpo-beams sdpo-beams:beta=0.5,training.learning_rate=1e-4 control

Every setting (a name below; ``NAME:KEY=VALUE,...`` changes keys of ``alignment``) aligns the model once per seed; the
weights of the best validation are kept. Of the settings of one name that have results of all seeds the one with the
best mean validation is chosen, and only that is measured on the test part, once; ``--no-test`` ends before that, while
settings are being tried. ``control`` trains as long by the next-item loss alone: what it gains is no merit of
preferences. With one model per seed give as many folders to ``--model`` as seeds. What is done is skipped, so the same
command continues after an interruption, and more settings can be added later; ``alignment.json`` and ``alignment.md``
in the folder are written anew after every step.
"""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from genrec import AlignmentConfig, ConfigError, Dataset, EvaluationConfig, GenrecError, InterruptedRun, load_recipe
from genrec.artifacts import (
    MANIFEST,
    fingerprint,
    open_work_folder,
    read_json,
    read_manifest,
    work_folder,
    write_file,
    write_json,
)
from genrec.evaluation import metrics_json
from genrec.pipeline.align import align_model
from genrec.pipeline.evaluate import measure_model

RESULT_FILE, TEST_FILE = "result.json", "test.json"
SELECTING, METRICS = "ndcg@10", ("ndcg@10", "recall@10")
WATCHED = ("ndcg@10", "recall@10", "coverage@10", "kl", "margin", "pair_accuracy", "reward@10")
SEVERAL = ["pairs.rejected=8", "pairs.per_user=4"]
METHODS = {
    "control": ["method=dpo", "pairs.negatives=uniform", "preference_weight=1e-9", "share=0.02"],
    "dpo-beams": ["method=dpo"],
    "dpo-popular": ["method=dpo", "pairs.negatives=popular"],
    "sdpo-beams": ["method=sdpo", *SEVERAL],
    "sdpo-popular": ["method=sdpo", "pairs.negatives=popular", *SEVERAL],
    "ipo-beams": ["method=ipo", "beta=1.0"],
    "simpo-beams": ["method=simpo", "beta=2.0", *SEVERAL],
    "grpo-rank": ["method=grpo", "rewards={rank: 1}", "pairs.list_size=16", "share=1.0"],
    "grpo-hits": ["method=grpo", "rewards={hit: 1}", "hit_horizon=3", "pairs.list_size=16", "share=1.0"],
    "iterative-hits": ["method=dpo", "pairs.source=self-play", "rewards={hit: 1}", "hit_horizon=3", "iterations=3"],
}
SHARED = ["beta=0.5", "tolerance=0.0"] + [
    f"training.{setting}" for setting in ("epochs=3", "learning_rate=3e-4", "eval_users=null", f"metric={SELECTING}")
]

logger = logging.getLogger("genrec.alignment_figures")


@dataclass(frozen=True)
class Setup:
    """Where data are read and results go.

    Attributes:
        dataset: A prepared data set.
        models: Model folder of every seed.
        changes: Assignments to ``alignment`` that all settings share.
        out: Folder of all results.
    """

    dataset: Dataset
    models: dict[int, Path]
    changes: tuple[str, ...]
    out: Path

    def config(self, setting: str, seed: int) -> AlignmentConfig:
        """The section ``alignment`` of a setting, with this seed.

        Raises:
            ConfigError: If there is no such method or setting.
        """
        name, _, own = setting.partition(":")
        if name not in METHODS:
            raise ConfigError(f"there is no method {name!r}", expected=f"one of {', '.join(METHODS)}")
        changes = [*SHARED, *METHODS[name], *self.changes, *filter(None, own.split(",")), f"training.seed={seed}"]
        return load_recipe(None, [f"alignment.{change}" for change in changes]).alignment

    def folder(self, setting: str, seed: int) -> Path:
        """Where one alignment is kept."""
        return self.out / setting.replace(":", "-").replace(",", "-").replace("=", "-") / f"seed-{seed}"

    def before(self, model: Path) -> Path:
        """Where the test part by a model folder as it was is kept."""
        return self.out / "before" / read_manifest(model).fingerprint[:12] / TEST_FILE


def main() -> None:
    """Align what is missing, measure what is chosen, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help=f"of {', '.join(METHODS)}; all by default")
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--model", type=Path, nargs="+", required=True, help="one for all seeds, or one for each")
    parser.add_argument("--out", type=work_folder, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="of alignment, for all settings"
    )
    parser.add_argument("--no-test", action="store_true", help="leave the test part alone")
    arguments = parser.parse_args()
    open_work_folder(arguments.out)
    if len(arguments.model) not in (1, len(arguments.seeds)):
        parser.error("give one --model, or one for each of --seeds")
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO)
    folders = arguments.model if len(arguments.model) > 1 else arguments.model * len(arguments.seeds)
    models = dict(zip(arguments.seeds, folders, strict=True))
    setup = Setup(Dataset.load(arguments.dataset, verify=True), models, tuple(arguments.set), arguments.out)
    settings = arguments.settings or list(METHODS)
    for setting in settings:
        setup.config(setting, 0)
    for seed in arguments.seeds:
        for setting in settings:
            align_once(setup, setting, seed)
            write_tables(setup)
    if arguments.no_test:
        return
    for folder in models.values():
        measure_once(setup, folder, setup.before(folder))
    for setting in chosen_settings(setup):
        for seed in arguments.seeds:
            target = setup.folder(setting, seed)
            measure_once(setup, target / "aligned", target / TEST_FILE)
            write_tables(setup)


def align_once(setup: Setup, setting: str, seed: int) -> None:
    """Align by one setting and seed, unless that is done; validation before and after is written to its folder.

    Args:
        setup: Data and model.
        setting: A method's name, with changes after a colon.
        seed: Of the alignment.
    """
    folder, config, model = setup.folder(setting, seed), setup.config(setting, seed), setup.models[seed]
    key = fingerprint([config.model_dump(mode="json"), read_manifest(model).fingerprint, setup.dataset.fingerprint])
    if (folder / RESULT_FILE).is_file() and read_json(folder / RESULT_FILE)["key"] == key:
        logger.info(f"{setting}, seed {seed}: done before")
        return
    (folder / TEST_FILE).unlink(missing_ok=True)
    logger.info(f"{setting}, seed {seed}")
    result: dict[str, Any] = {"setting": setting, "seed": seed, "key": key}
    try:
        found = align_model(model, setup.dataset, config, folder / "aligned")
    except InterruptedRun:
        raise
    except GenrecError as error:
        logger.warning(f"{setting}, seed {seed}: {error.what}")
        result["refused"] = error.what
    else:
        rounds = found.iterations
        result |= {
            "before": {name: found.start[name] for name in WATCHED if name in found.start},
            "after": {name: found.best[name] for name in WATCHED if name in found.best},
            "improved": any(part.improved for part in rounds),
            "stopped": [part.stopped for part in rounds],
            "steps": sum(part.steps for part in rounds),
            "seconds": sum(part.seconds for part in rounds),
        }
    write_json(folder / RESULT_FILE, result)


def measure_once(setup: Setup, model: Path, target: Path) -> None:
    """Measure a model folder on the test part, unless the target says it of this very model."""
    model_fingerprint = read_manifest(model).fingerprint if (model / MANIFEST).is_file() else None
    if target.is_file() and read_json(target)["model"] == model_fingerprint:
        return
    measured = measure_model(model, setup.dataset, "test", EvaluationConfig(ks=(10,), bootstrap_samples=0), None)
    metrics = metrics_json(measured)["metrics"]
    write_json(target, {"model": model_fingerprint, **{name: metrics[name] for name in METRICS}})


def results_of(setup: Setup, setting: str) -> list[dict[str, Any]]:
    """What is known of a setting, one result per seed that is done, with the test part where that was measured."""
    found = []
    for seed in setup.models:
        folder = setup.folder(setting, seed)
        if not (folder / RESULT_FILE).is_file():
            continue
        result = read_json(folder / RESULT_FILE)
        parts = {"test": folder / TEST_FILE, "test before": setup.before(setup.models[seed])}
        found.append(result | {name: read_json(path) for name, path in parts.items() if path.is_file()})
    return found


def known_settings(setup: Setup) -> list[str]:
    """Settings of which there is a result, from this call or an earlier one."""
    files = sorted(setup.out.glob(f"*/seed-*/{RESULT_FILE}"))
    return list(dict.fromkeys(read_json(path)["setting"] for path in files))


def chosen_settings(setup: Setup) -> list[str]:
    """Of the settings of each method that have results of all seeds the one with the best mean validation."""
    best: dict[str, tuple[float, str]] = {}
    for setting in known_settings(setup):
        results = results_of(setup, setting)
        if len(results) == len(setup.models) and not any("refused" in result for result in results):
            value = mean(result["after"][SELECTING] for result in results)
            name = setting.partition(":")[0]
            best[name] = max(best.get(name, (float("-inf"), "")), (value, setting))
    return [setting for _, setting in sorted(best.values(), reverse=True)]


def write_tables(setup: Setup) -> None:
    """Write all results to ``alignment.json`` and ``alignment.md``, the best validation first."""
    groups = {setting: results_of(setup, setting) for setting in known_settings(setup)}
    write_json(setup.out / "alignment.json", groups)
    refused = {name: one["refused"] for name, group in groups.items() for one in group if "refused" in one}
    measured = {name: group for name, group in groups.items() if group and name not in refused}
    ordered = sorted(measured, key=lambda name: -mean(one["after"][SELECTING] for one in measured[name]))
    head = "| setting | kept | validation N@10 | change | KL | test N@10 | change | test R@10 | minutes | seeds |"
    lines = [head, "|" + "---|" * 10, *(table_row(name, measured[name]) for name in ordered)]
    lines += ["", *(f"- {name}: {reason}" for name, reason in refused.items())]
    with write_file(setup.out / "alignment.md") as path:
        path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def table_row(name: str, group: Sequence[dict[str, Any]]) -> str:
    """One line of the table: mean and standard deviation over seeds, changes relative to the model before."""
    tested = [one for one in group if "test" in one and "test before" in one]
    cells = [
        f"`{name}`",
        f"{sum(one['improved'] for one in group)} of {len(group)}",
        _spread([one["after"][SELECTING] for one in group]),
        _spread([100 * (one["after"][SELECTING] / one["before"][SELECTING] - 1) for one in group], "+.1f", " %"),
        _spread([one["after"]["kl"] for one in group], ".3f"),
        _spread([one["test"]["ndcg@10"] for one in tested]),
        _spread([100 * (one["test"]["ndcg@10"] / one["test before"]["ndcg@10"] - 1) for one in tested], "+.1f", " %"),
        _spread([one["test"]["recall@10"] for one in tested]),
        f"{mean(one['seconds'] for one in group) / 60:.1f}",
        str(len(group)),
    ]
    return f"| {' | '.join(cells)} |"


def _spread(values: Sequence[float], form: str = ".4f", unit: str = "") -> str:
    if not values:
        return "-"
    deviation = f" ± {stdev(values):{form.lstrip('+')}}" if len(values) > 1 else ""
    return f"{mean(values):{form}}{deviation}{unit}"


if __name__ == "__main__":
    main()
