"""``genrec inspect``: what a folder or file is, in words, and users' histories with their lists, in titles."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console

from genrec.artifacts import MANIFEST, Manifest, read_json, verify_artifact
from genrec.artifacts.reading import reading
from genrec.config import load_recipe
from genrec.data import Dataset, Histories
from genrec.data.parquet import scan_parquet
from genrec.data.ties import ties_in_words
from genrec.errors import ArtifactError, ConfigError, DataError
from genrec.pipeline.model_folder import EXPERTS_FILE
from genrec.pipeline.stage_cache import LEDGER_FILE
from genrec.pipeline.work import CONFIG_FILE, RunFolders
from genrec.reports.console import print_examples, print_results
from genrec.reports.content import Example, Listed
from genrec.reports.experts import experts_sentence
from genrec.terminal.console import Terminal

SHOWN_USERS = 3
WIDTH = 120


def describe(path: Path) -> str:
    """Say what a folder or file is, after checking every file that its manifest names.

    Args:
        path: A run, the folder of a stage, a recommendations file or a metrics file.

    Raises:
        ArtifactError: If it is missing, damaged or nothing of ours.
    """
    with reading(path):
        return _describe(path)


def _describe(path: Path) -> str:
    if not path.exists():
        raise ArtifactError(f"there is no {path}", expected="a folder or file that genrec wrote", fix="check the path")
    if (path / LEDGER_FILE).is_file():
        return _describe_run(path)
    if (path / MANIFEST).is_file():
        return _describe_stage(path)
    if path.suffix == ".parquet":
        return _describe_lists(path)
    if path.suffix == ".json":
        return _describe_metrics(path)
    raise ArtifactError(
        f"{path} is nothing that genrec wrote",
        expected="a run, the folder of a stage, recommendations.parquet or metrics.json",
        fix="check the path",
    )


def show_users(path: Path, dataset: Path | None, users: Sequence[str]) -> str:
    """Users' histories with the lists that a model writes for them, in titles.

    Args:
        path: A model folder, or a run with one.
        dataset: The data set with the users; the run's own by default.
        users: External ids; a few drawn with a fixed seed if empty.

    Raises:
        ConfigError: If it is not clear which data set or model is meant.
        DataError: If a user is not in the data set.
        ArtifactError: If a folder cannot be used.
    """
    model = path / "model" if (path / "model" / MANIFEST).is_file() else path
    if dataset is None and (path / CONFIG_FILE).is_file():
        dataset = RunFolders(load_recipe(path / CONFIG_FILE), path).dataset_folder
    if dataset is None:
        raise ConfigError("it is not clear whose users are meant", expected="--dataset FOLDER", fix="give --dataset")
    return _captured(lambda console: print_examples(console, _examples(model, Dataset.load(dataset), users)))


def results_as_text(metrics: Mapping[str, Any]) -> str:
    """The results table and its conditions as plain text.

    Args:
        metrics: The content of ``metrics.json``.
    """
    return _captured(lambda console: print_results(console, [metrics], str(metrics["system"])))


def _examples(model: Path, dataset: Dataset, users: Sequence[str]) -> list[Example]:
    from genrec.recommender import Recommender

    recommender = Recommender.from_pretrained(model)
    numbers = {name: number for number, name in enumerate(dataset.user_ids)}
    missing = [name for name in users if name not in numbers]
    if missing:
        raise DataError(
            f"there is no user {missing[0]!r}",
            where=str(dataset.path),
            expected=f"one of {dataset.num_users} user ids, such as {dataset.user_ids[0]!r}",
            fix="check --user",
        )
    drawn = np.random.default_rng(0).permutation(dataset.num_users)[:SHOWN_USERS]
    histories = dataset.full().select(np.array([numbers[name] for name in users]) if users else np.sort(drawn))
    found = recommender.recommend(
        _as_table(dataset, histories),
        k=recommender.decoding.top_k,
        unknown="warn",
        users=None if dataset.profiles is None else dataset.profiles.table,
    )
    return [
        Example(
            dataset.user_ids[int(user)],
            tuple(dataset.title(item) for item in histories[row].tolist()),
            len(histories[row]),
            tuple(Listed(title, float(score)) for title, score in zip(titles, scores, strict=False)),
        )
        for row, (user, titles, scores) in enumerate(zip(histories.users, found.titles, found.scores, strict=True))
    ]


def _as_table(dataset: Dataset, histories: Histories) -> pl.DataFrame:
    """Histories with all that a model may read of them, under external ids."""
    users, items = np.repeat(histories.users, histories.lengths), pl.Series(dataset.item_ids, dtype=pl.String)
    columns = {
        "user_id": pl.Series(dataset.user_ids, dtype=pl.String).gather(users),
        "item_id": items.gather(histories.items),
        "order": pl.Series(np.arange(len(users))),
    }
    if histories.timestamps is not None:
        times = pl.Series(histories.timestamps)
        columns["timestamp"] = times.set(times < 0, None)
    return pl.DataFrame(columns)


def _captured(show: Callable[[Console], None]) -> str:
    console = Terminal(width=WIDTH, color_system=None)
    with console.capture() as captured:
        show(console)
    return captured.get()


def _describe_run(path: Path) -> str:
    lines = [f"{path}: a run"]
    for name, record in read_json(path / LEDGER_FILE).items():
        lines.append(f"  {name}: {record['summary']}  ({record['seconds']:.0f} s)")
    if (path / "metrics.json").is_file():
        lines += ["", results_as_text(read_json(path / "metrics.json")).rstrip()]
    return "\n".join(lines)


def _describe_stage(path: Path) -> str:
    manifest = verify_artifact(path)
    words = _WORDS.get(manifest.stage)
    size = sum(record.size for record in manifest.files.values())
    lines = [f"{path}: {words(manifest, path) if words else f'a {manifest.stage} folder'}"]
    if manifest.config:
        settings = {key: value for key, value in manifest.config.items() if value not in (None, {}, [])}
        lines.append("  settings: " + _in_words(settings))
    if manifest.inputs:
        lines.append("  made from: " + ", ".join(f"{name} {value[:12]}" for name, value in manifest.inputs.items()))
    version = manifest.versions.get("genrec", "?")
    commit = f", commit {manifest.git_commit[:12]}" if manifest.git_commit else ""
    lines.append(f"  made by: genrec {version}{commit}")
    lines.append(f"  {len(manifest.files)} files, {size / 1e6:.1f} MB, all as they were written")
    return "\n".join(lines)


def _dataset_words(manifest: Manifest, path: Path) -> str:
    numbers = read_json(path / "statistics.json")
    counts = ", ".join(f"{numbers[name]:,} {name}" for name in ("users", "items", "interactions"))
    ties = ties_in_words(numbers.get("ties", {}))
    return f"a prepared data set of {counts}, split {manifest.config.get('split')}" + (
        f"\n  ties: {ties}" if ties else ""
    )


def _features_words(manifest: Manifest, path: Path) -> str:
    width, items = manifest.counts.get("width"), manifest.counts.get("items")
    return f"item vectors by {manifest.config.get('encoder')}: {items} items, {width} numbers each"


def _tokenizer_words(manifest: Manifest, path: Path) -> str:
    quality, index = read_json(path / "quality.json"), read_json(path / "index.json")
    levels = ", ".join(f"{level['used']}/{level['size']}" for level in quality["levels"])
    rate = manifest.counts.get("collision_rate", 0.0)
    sizes = " x ".join(map(str, index["level_sizes"]))
    return (
        f"an item tokenizer ({quality['tokenizer']}) that names {index['num_items']} items with levels {sizes};"
        f" codes in use per level {levels}; {rate:.1%} of the items collided before the policy"
    )


def _model_words(manifest: Manifest, path: Path) -> str:
    training, counts = read_json(path / "training.json"), manifest.counts
    best, metric = training["best_metric"], manifest.config["training"]["metric"]
    reached = f", best {metric} on validation {best:.4f}" if best is not None else ""
    return (
        f"a trained recommender ({manifest.config['recommender']['name']}) of {counts['parameters'] / 1e6:.2f} M"
        f" parameters for {counts['items']} items,"
        f" {training['epochs']:.3g} epochs in {training['seconds']:.0f} s{reached}"
        f"{_expert_words(path)}{_alignment_words(path)}"
    )


def _expert_words(path: Path) -> str:
    if not (path / EXPERTS_FILE).is_file():
        return ""
    return f"; {experts_sentence(read_json(path / EXPERTS_FILE)).rstrip('.')}"


def _alignment_words(path: Path) -> str:
    if not (path / "alignment.json").is_file():
        return ""
    values = read_json(path / "alignment.json")
    start, best = values["start"], values["best"]
    rewards = [name for name in best if name.startswith("reward@")]
    shown = [name for name in ("pair_accuracy", *rewards, "recall@10", "ndcg@10", "kl") if name in best]
    moved = ", ".join(f"{name} {start[name]:.4f} -> {best[name]:.4f}" for name in shown)
    return f"; aligned in {len(values['rounds'])} rounds: {moved} on validation"


def _source_words(manifest: Manifest, path: Path) -> str:
    return f"the public data set {manifest.config.get('name')}; its terms of use are in LICENSE"


def _iteration_words(manifest: Manifest, path: Path) -> str:
    values = read_json(path / "result.json")
    # Written before alignment had a section ``training``, its keys are among the others.
    metric = manifest.config.get("training", manifest.config)["metric"]
    found = f"{metric} {values['start'][metric]:.4f} -> {values['best'][metric]:.4f}"
    return f"round {manifest.counts['iteration']} of an alignment by {manifest.config['method']}: {found} on validation"


_WORDS: dict[str, Callable[[Manifest, Path], str]] = {
    "dataset": _dataset_words,
    "iteration": _iteration_words,
    "features": _features_words,
    "tokenizer": _tokenizer_words,
    "model": _model_words,
    "source": _source_words,
}


def _describe_lists(path: Path) -> str:
    try:
        frame = scan_parquet(path)
        columns = frame.collect_schema().names()
        if {"history", "chosen", "rejected"} <= set(columns):
            return f"{path}: {_preference_words(frame)}"
        if not {"user_id", "rank", "item_id"} <= set(columns):
            raise ArtifactError(
                f"{path} holds no lists", expected="columns user_id, rank, item_id", fix="check the path"
            )
        listed = frame.filter(pl.col("rank").is_not_null())
        users = frame.select(pl.col("user_id").n_unique()).collect().item()
        items, longest = listed.select(pl.col("item_id").n_unique(), pl.col("rank").max()).collect().row(0)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        problem = " ".join(str(error).split())[:200]
        raise ArtifactError(f"{path} cannot be read: {problem}", fix="generate the lists again") from error
    return f"{path}: lists for {users:,} users, up to {longest or 0} items each, {items:,} different items in all"


def _preference_words(frame: pl.LazyFrame) -> str:
    rows, paired, rejected, length = (
        frame.select(
            pl.len(),
            (pl.col("chosen").is_not_null() & (pl.col("rejected").list.len() > 0)).sum().alias("paired"),
            pl.col("rejected").list.len().mean().alias("rejected"),
            pl.col("history").list.len().mean().alias("length"),
        )
        .collect()
        .row(0)
    )
    return (
        f"{rows:,} preferences, {paired:,} of them with both sides; {rejected or 0:.1f} rejected items and"
        f" {length or 0:.1f} items of history on average"
    )


def _describe_metrics(path: Path) -> str:
    values = read_json(path)
    if not isinstance(values, Mapping) or "metrics" not in values:
        raise ArtifactError(
            f"{path} holds no metrics", expected="a metrics.json that genrec wrote", fix="check the path"
        )
    return f"{path}: a measurement\n{results_as_text(values).rstrip()}"


def _in_words(settings: Mapping[str, Any]) -> str:
    parts = []
    for key, value in settings.items():
        parts.append(f"{key} ({_in_words(value)})" if isinstance(value, Mapping) else f"{key} {value}")
    return ", ".join(parts)
