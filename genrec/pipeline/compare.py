"""``genrec compare``: runs and files of lists become systems, after a check that they can be compared."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from genrec.artifacts import (
    MANIFEST,
    fingerprint,
    read_manifest,
    reserve_file,
    reserve_folder,
    stamped,
    write_artifact,
    write_file,
)
from genrec.artifacts.targets import WORK_MARKER
from genrec.data import Dataset
from genrec.errors import ArtifactError, ConfigError
from genrec.evaluation.comparison import Comparison, System, compare_systems
from genrec.evaluation.comparison_tables import FORMATS
from genrec.evaluation.metrics import METRICS
from genrec.evaluation.trec import QRELS, write_qrels, write_run
from genrec.pipeline.ledger import LEDGER_FILE
from genrec.pipeline.measured import GROUPS, ListFile, Measured, RunFolder
from genrec.pipeline.work import CONFIG_FILE
from genrec.reports.comparison import comparison_as_text

DEFAULT_METRICS = ("recall@10", "ndcg@10")
TREC_STAGE = "trec"
MOST_DIFFERENCES = 5


@dataclass(frozen=True)
class ComparisonRequest:
    """What to compare.

    Attributes:
        sources: Runs and files of lists, each ``PATH`` or ``NAME=PATH``; those of one name are runs of one system.
        dataset: A prepared data set, for files of lists; the runs' own if None.
        include: Baselines and variants that the runs have: names, or ``baselines``, ``variants`` for all of them.
        without_seed: Names of systems that have no seed although they are files.
        metrics: Such as ``ndcg@10``.
        reference: Compare the others with this system only; all pairs if None.
    """

    sources: Sequence[str]
    dataset: Path | None = None
    include: Sequence[str] = ()
    without_seed: Sequence[str] = ()
    metrics: Sequence[str] = DEFAULT_METRICS
    reference: str | None = None


@dataclass(frozen=True, eq=False)
class Compared:
    """Systems that were compared.

    Attributes:
        comparison: Figures and tests.
        groups: Name of each system to its runs.
        dataset: What they were measured on.
    """

    comparison: Comparison
    groups: Mapping[str, Sequence[Measured]]
    dataset: Dataset


def compare(request: ComparisonRequest) -> Compared:
    """Read, check and compare.

    Args:
        request: What to compare.

    Raises:
        ConfigError: If the request cannot be used.
        DataError: If a file of lists cannot be used.
        ArtifactError: If a run cannot be used, or the systems were not measured on the same data in the same way.
    """
    ks = sorted({_checked_metric(metric) for metric in request.metrics})
    sources = [_opened(text) for text in request.sources]
    dataset = _common_dataset([source for _, source in sources], request.dataset)
    others = _included([source for _, source in sources], request.include, dataset, ks)
    own = [(name, source.measure(dataset, ks)) for name, source in sources]
    groups = _grouped([*((None, one) for one in others), *own], others)
    for name in request.without_seed:
        if name not in groups:
            raise ConfigError(f"there is no system {name!r}", where="--without-seed", expected=f"one of {list(groups)}")
        groups[name] = [replace(one, has_seed=False) for one in groups[name]]
    metrics = tuple(dict.fromkeys(request.metrics))
    _check_measurable([one for group in groups.values() for one in group], metrics)
    comparison = compare_systems(
        [_system(name, group) for name, group in groups.items()],
        metrics,
        reference=request.reference,
        conditions=_conditions(dataset, groups),
        notes=_notes(groups),
    )
    return Compared(comparison, groups, dataset)


def compare_to(
    request: ComparisonRequest, styles: Sequence[str], *, out: Path | None = None, trec: Path | None = None
) -> str:
    """Compare, and write what is wanted.

    Args:
        request: What to compare.
        styles: At most one of the formats of a comparison; a table for a terminal without.
        out: File for the table.
        trec: Folder for TREC files.

    Returns:
        The table.

    Raises:
        ConfigError: Also if several formats are wanted, or a place must not be written.
    """
    if len(styles) > 1:
        raise ConfigError(f"--{' and --'.join(styles)} are given", expected="one format")
    reads = [_split(text)[1] for text in request.sources] + ([request.dataset] if request.dataset else [])
    with (
        reserve_file(out, reads=reads) if out else nullcontext() as place,
        reserve_folder(trec, TREC_STAGE, reads=reads) if trec else nullcontext() as folder,
    ):
        compared = compare(request)
        text = FORMATS[styles[0]](compared.comparison) if styles else comparison_as_text(compared.comparison)
        if folder is not None:
            write_trec(compared, folder)
        if place is not None:
            with write_file(place) as temporary:
                temporary.write_text(_marked(text, styles), encoding="utf-8")
    return text.rstrip("\n")


def _marked(text: str, styles: Sequence[str]) -> str:
    """The text with the mark by which genrec knows its own files again, where the format has a place for it."""
    comment = {"markdown": "<!-- {} -->", "latex": "% {}"}.get(styles[0] if styles else "")
    return stamped(text, comment) if comment else text


def write_trec(compared: Compared, out: Path) -> None:
    """Write the held-out items and all lists as TREC files.

    Args:
        compared: From :func:`compare`.
        out: Folder to write: ``qrels.txt`` and one ``.run`` per run.

    Raises:
        ConfigError: If the folder must not be written.
        ArtifactError: If it cannot be written.
    """
    dataset = compared.dataset
    _, targets = dataset.evaluation("test")
    with write_artifact(out, TREC_STAGE, inputs={"dataset": dataset.fingerprint}) as folder:
        write_qrels(folder.path / QRELS, targets, dataset.user_ids, dataset.item_ids)
        for name, group in compared.groups.items():
            plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "system"
            for number, one in enumerate(group, start=1):
                tag = f"{compared.comparison.letter(name)}-{plain}-{number}"
                assert one.result.recommended is not None
                lists = one.result.recommended
                path = folder.path / f"{tag}.run"
                write_run(path, lists, targets.users, dataset.user_ids, dataset.item_ids, tag)


def _split(text: str) -> tuple[str | None, Path]:
    name, equals, path = text.partition("=")
    if not equals or Path(text).exists():
        return None, Path(text)
    if not name.strip() or not path:
        raise ConfigError(f"{text!r} is not NAME=PATH", expected="a run, a file of lists, or NAME= before one")
    return name.strip(), Path(path)


def _opened(text: str) -> tuple[str | None, RunFolder | ListFile]:
    """The name that was given, and the run or file."""
    name, path = _split(text)
    if not path.exists():
        raise ArtifactError(f"there is no {path}", expected="a run, or a file of lists", fix="check the path")
    if any((path / part).exists() for part in (LEDGER_FILE, CONFIG_FILE, WORK_MARKER)):
        return name, RunFolder(path)
    fix = "genrec evaluate --model MODEL --dataset DATASET --save-lists FILE.parquet, and compare FILE.parquet"
    if (path / MANIFEST).is_file():
        stage = read_manifest(path).stage
        raise ArtifactError(f"{path} is a {stage} folder, without lists", expected="a run, or a file of lists", fix=fix)
    if path.name.endswith("metrics.json"):
        raise ArtifactError(f"{path} has means, no lists per user", expected="a run, or a file of lists", fix=fix)
    return name, ListFile(path)


def _checked_metric(metric: str) -> int:
    kind, _, k = metric.partition("@")
    if kind not in METRICS or not re.fullmatch(r"[1-9][0-9]{0,5}", k):
        raise ConfigError(
            f"there is no metric {metric!r}", where="--metric", expected=f"one of {', '.join(METRICS)}, then @k"
        )
    return int(k)


def _common_dataset(sources: Sequence[RunFolder | ListFile], given: Path | None) -> Dataset:
    """The one data set that all were measured on.

    Raises:
        ArtifactError: If there are several, or it is not found.
        ConfigError: If only files of lists are given, and no data set.
    """
    folders = {str(source.path): source.dataset_folder for source in sources if isinstance(source, RunFolder)}
    prints = {str(source.path): source.fingerprint for source in sources if source.fingerprint}
    if given is not None:
        folders["--dataset"], prints["--dataset"] = given, read_manifest(given, "dataset").fingerprint
    if not folders:
        raise ConfigError("files of lists do not hold the held-out items", expected="--dataset DIR, or a run")
    first = next(iter(prints))
    there = {
        name: folder
        for name, folder in folders.items()
        if (folder / MANIFEST).is_file() and read_manifest(folder, "dataset").fingerprint == prints[name]
    }
    for other, found in prints.items():
        if found != prints[first]:
            raise ArtifactError(
                f"{other} was measured on other data than {first}: {_data_differences(there, first, other)}",
                expected="one prepared data set for all: the same events, filters, split, ties and held-out items",
                fix="prepare the data once and give its folder as data.path of every recipe",
            )
    if not there:
        raise ArtifactError(
            f"the data set of {first} is not at {folders[next(iter(folders))]}, or was made again",
            expected=f"the data set with the fingerprint {prints[first][:16]}...",
            fix="give its folder as --dataset DIR",
        )
    return Dataset.load(next(iter(there.values())), verify=True)


def _data_differences(folders: Mapping[str, Path], first: str, other: str) -> str:
    """What is not the same in two data sets, in words; every setting of theirs is looked at."""
    if first not in folders or other not in folders:
        return "their data sets have different fingerprints"
    one, two = (read_manifest(folders[name], "dataset") for name in (first, other))
    settings = differing({"data": one.config, **_sized(one.counts)}, {"data": two.config, **_sized(two.counts)})
    tables = [f"the table {name}" for name in differing(one.inputs, two.inputs)]
    files = [
        f"the file {name}" for name in sorted({*one.files, *two.files}) if one.files.get(name) != two.files.get(name)
    ]
    shown = [f"{key} is {ours!r} and {theirs!r}" for key, (ours, theirs) in settings.items()]
    return "; ".join((shown + tables or files)[:MOST_DIFFERENCES])


def _sized(counts: Mapping[str, Any]) -> dict[str, Any]:
    return {f"number of {name}": value for name, value in counts.items()}


def differing(one: Mapping[str, Any], two: Mapping[str, Any], place: str = "") -> dict[str, tuple[Any, Any]]:
    """The settings that are not the same, by their path; None where one has no such setting."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys([*one, *two]):
        ours, theirs = one.get(key), two.get(key)
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            found |= differing(ours, theirs, f"{place}{key}.")
        elif ours != theirs:
            found[f"{place}{key}"] = (ours, theirs)
    return found


def _included(
    sources: Sequence[RunFolder | ListFile], include: Sequence[str], dataset: Dataset, ks: Sequence[int]
) -> list[Measured]:
    """The wanted baselines and variants of all runs."""
    runs = [source for source in sources if isinstance(source, RunFolder)]
    known = {name: group for group in GROUPS for run in runs for name in run.names(group)}
    for wanted in include:
        if wanted not in {*GROUPS, *known}:
            raise ConfigError(
                f"no run has {wanted!r}", where="--include", expected=f"one of {', '.join([*GROUPS, *known])}"
            )
    return [
        run.measure_other(group, name, dataset, ks)
        for group in GROUPS
        for run in runs
        for name in run.names(group)
        if group in include or name in include
    ]


def _grouped(named: Iterable[tuple[str | None, Measured]], others: Sequence[Measured]) -> dict[str, list[Measured]]:
    """Systems by name: runs that were given one name, or whose recipes differ in seeds only."""
    groups: dict[str, tuple[str, list[Measured]]] = {}
    for name, one in named:
        made = [one.system, one.recipe] if one.recipe is not None else one.source
        key = fingerprint([name]) if name else fingerprint([None, made])
        _, members = groups.setdefault(key, (name or one.system, []))
        twin = next((member for member in members if _same_run(member, one)), None)
        if twin is None:
            members.append(one)
        elif one not in others:
            raise ConfigError(
                f"{one.source} and {twin.source} are one recipe with one seed",
                expected="runs that differ in the seed: the same twice says nothing more",
                fix="leave one out, or train with another training.seed",
            )
    named_groups = list(groups.values())
    names = [name for name, _ in named_groups]
    for ending in (lambda one: Path(one.source.partition(": ")[0]).name, lambda one: one.source):
        taken = Counter(names)
        names = [
            name if taken[name] == 1 else f"{plain} ({ending(members[0])})"
            for name, (plain, members) in zip(names, named_groups, strict=True)
        ]
    return {name: members for name, (_, members) in zip(names, named_groups, strict=True)}


def _same_run(one: Measured, other: Measured) -> bool:
    if one.recipe is None or other.recipe is None:
        return np.array_equal(one.result.recommended, other.result.recommended)  # type: ignore[arg-type]
    return one.recipe == other.recipe and one.seeds == other.seeds


def _check_measurable(measured: Sequence[Measured], metrics: Sequence[str]) -> None:
    for one in measured:
        missing = [metric for metric in metrics if metric not in one.result.evaluation.metrics]
        if missing:
            assert one.result.recommended is not None
            raise ArtifactError(
                f"{one.source} has no {missing[0]}: its lists have {one.result.recommended.shape[1]} items",
                expected=f"lists long enough for {', '.join(metrics)}",
                fix="measure it with larger evaluation.ks, or compare at a smaller k with --metric",
            )


def _system(name: str, group: Sequence[Measured]) -> System:
    runs = tuple(one.result.evaluation for one in group)
    stopped = next((one.result.protocol.stopped for one in group if one.result.protocol.stopped), None)
    return System(name, runs, any(one.has_seed for one in group), stopped)


def _conditions(dataset: Dataset, groups: Mapping[str, Sequence[Measured]]) -> list[tuple[str, str]]:
    users = len(next(iter(groups.values()))[0].result.evaluation)
    config = read_manifest(dataset.path).config
    ties = {key: f"{value}" for key, value in config.items() if key.startswith("ties")}
    return [
        ("Users", f"{users:,}"),
        ("Ranking", f"item-level, full catalogue of {dataset.num_items:,} items"),
        ("Split", f"{dataset.split}, test part"),
        *((key.replace("_", " ").capitalize(), value) for key, value in ties.items()),
        ("Data", dataset.fingerprint[:16]),
    ]


def _notes(groups: Mapping[str, Sequence[Measured]]) -> list[str]:
    """What differs between systems and should be known, and why runs of one family were not taken for one system."""
    notes = [f"{one.source}: {note}" for group in groups.values() for one in group for note in one.notes]
    seen = {name: group[0].result.protocol.exclude_seen for name, group in groups.items()}
    if len(set(seen.values())) > 1:
        again = ", ".join(name for name, excluded in seen.items() if not excluded)
        notes.append(f"seen items may be recommended again by {again}; the others leave them out")
    for name, group in groups.items():
        recipes = [one.recipe for one in group if one.recipe is not None]
        changed = dict.fromkeys(key for recipe in recipes[1:] for key in differing(recipes[0], recipe))
        if changed:
            notes.append(f"the runs of {name} differ in more than the seed: {', '.join(changed)}")
    firsts = [(name, group[0]) for name, group in groups.items() if group[0].recipe is not None]
    for place, (name, one) in enumerate(firsts):
        for earlier, other in firsts[:place]:
            if one.system == other.system and one.recipe is not None and other.recipe is not None:
                keys = list(differing(other.recipe, one.recipe))
                if keys:
                    notes.append(f"{earlier} and {name} differ in {', '.join(keys[:MOST_DIFFERENCES])}")
    return notes
