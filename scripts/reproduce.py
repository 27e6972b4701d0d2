"""The reproductions of docs/results: a queue of full-length runs, one per recipe, data set, order of ties and seed.

    python scripts/reproduce.py --data DIR --runs RUNS --next              # the next unfinished one, then stop
    python scripts/reproduce.py --data DIR --runs RUNS --all               # one after the other
    python scripts/reproduce.py --data DIR --runs RUNS --only depth-codes  # every one whose name starts so
    python scripts/reproduce.py --data DIR --runs RUNS --collect           # write the ledger and its page, run nothing

``DIR/NAME`` holds the interactions and items of each data set named in scripts/reproductions.yaml. A run continues
where an interruption left it; its processor time is added up over all attempts. ``docs/results/ledger.json`` gets one
entry per finished run: commit, command, versions, hardware, minutes of a core, validation curve, and the test metrics,
which are measured once. ``docs/results/reproductions.md`` is made from the ledger.
"""

import argparse
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
QUEUE = ROOT / "scripts" / "reproductions.yaml"
LEDGER = ROOT / "docs" / "results" / "ledger.json"
PAGE = ROOT / "docs" / "results" / "reproductions.md"
LOWEST_PRIORITY = 19
METRICS = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")
# A recipe's clock is a safety net for one machine; these runs may share theirs with other work.
NO_CLOCK = ("training.max_minutes=1000000", "evaluation.sasrec_training.max_minutes=1000000")


@dataclass(frozen=True)
class Entry:
    """One run of the queue.

    Attributes:
        name: Of the recipe's row in the tables.
        recipe: Path of the recipe, from the repository's root.
        data: Name of the data set.
        ties: ``data.ties`` of the recipe.
        ties_seed: Number of the shuffle; None if ties are not shuffled.
        seed: Of the trainings.
        settings: Further ``--set`` of the recipe.
        published: recall@10 and ndcg@10 of the paper on this data set; None if it has none.
    """

    name: str
    recipe: str
    data: str
    ties: str
    ties_seed: int | None
    seed: int
    settings: tuple[str, ...] = ()
    published: tuple[float, float] | None = field(default=None, compare=False)

    @property
    def key(self) -> str:
        """Unique name, also that of the run's folder."""
        return f"{self.name}-{self.data}-{self.ties}-{self.seed}"

    def overrides(self) -> list[str]:
        """The settings that differ from the recipe, without the data's path."""
        seeds = [f"training.seed={self.seed}", f"evaluation.sasrec_training.seed={self.seed}"]
        ties = [] if self.ties == "file" else [f"data.ties={self.ties}", f"data.ties_seed={self.ties_seed}"]
        return [*seeds, *ties, *NO_CLOCK, *self.settings]


def read_queue(path: Path = QUEUE) -> list[Entry]:
    """The entries in the order in which they are run.

    Raises:
        ValueError: If two entries have one name.
    """
    entries = []
    for group in yaml.safe_load(path.read_text(encoding="utf-8")):
        published = group.get("published", {})
        for data in group["data"]:
            for run in group["runs"]:
                figures = published.get(data)
                entries.append(
                    Entry(
                        name=group["name"],
                        recipe=group["recipe"],
                        data=data,
                        ties=run["ties"],
                        ties_seed=run.get("ties_seed"),
                        seed=run["seed"],
                        settings=tuple(group.get("settings", ())),
                        published=None if figures is None else (figures[0], figures[1]),
                    )
                )
    if len({entry.key for entry in entries}) < len(entries):
        raise ValueError(f"{path}: two runs have the same name, data set, order of ties and seed")
    return entries


def run_entry(entry: Entry, data: Path, runs: Path) -> bool:
    """Run or continue one entry.

    Returns:
        Whether it was run; False if another process is at it.

    Raises:
        SystemExit: With the exit code of the run, if it failed or was interrupted.
    """
    folder = runs / entry.key
    with open(runs / f"{entry.key}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with open(runs / f"{entry.key}.log", "a") as log:
            process = subprocess.Popen(command(entry, data, folder), cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
            try:
                code = process.wait()
            except (KeyboardInterrupt, SystemExit):
                process.terminate()  # genrec saves its checkpoint and ends with 143
                code = process.wait()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        usage = runs / f"{entry.key}.usage.json"
        earlier = json.loads(usage.read_text()) if usage.exists() else []
        usage.write_text(json.dumps([*earlier, {"processor_seconds": round(seconds, 1), "exit_code": code}]))
    if code:
        raise SystemExit(code)
    return True


def command(entry: Entry, data: Path, folder: Path) -> list[str]:
    """The command of a run, as a stranger would type it."""
    settings = [f"data.path={data / entry.data}", *entry.overrides()]
    words = [word for setting in settings for word in ("--set", setting)]
    run = [str(Path(sys.executable).with_name("genrec")), "run", entry.recipe]
    return [*run, *words, "--until", "evaluation", "--out", str(folder)]


def take_lowest_priority() -> None:
    """Give way to everything else on this machine."""
    os.nice(LOWEST_PRIORITY)
    # Linux weighs whole terminal sessions against each other, and the niceness of a process only within its own.
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(LOWEST_PRIORITY))


def finished(entry: Entry, runs: Path) -> bool:
    """Whether the test metrics of an entry are there."""
    return (runs / entry.key / "metrics.json").is_file()


def ledger_row(entry: Entry, runs: Path) -> dict[str, Any]:
    """What the ledger says about a finished run; paths of this machine are left out."""
    folder = runs / entry.key
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    training = json.loads((folder / "model" / "training.json").read_text(encoding="utf-8"))
    environment = json.loads((folder / "env.json").read_text(encoding="utf-8"))
    attempts = json.loads((runs / f"{entry.key}.usage.json").read_text())
    systems = {**metrics["baselines"], **metrics.get("variants", {}), metrics["system"]: metrics}
    return {
        "name": entry.name,
        "data": entry.data,
        "ties": entry.ties,
        "ties_seed": entry.ties_seed,
        "seed": entry.seed,
        "command": ["genrec", "run", entry.recipe, *(word for key in entry.overrides() for word in ("--set", key))],
        "commit": environment["git_commit"],
        "versions": environment["versions"],
        "hardware": {name: environment[name] for name in ("processor", "cores", "threads", "memory_gib", "device")},
        "core_minutes": round(sum(attempt["processor_seconds"] for attempt in attempts) / 60, 1),
        "epochs": training["epochs"],
        "stopped": metrics["protocol"].get("stopped"),
        "validation": [
            [round(check["epoch"], 2), *(round(check["validation"][metric], 6) for metric in METRICS[2:])]
            for check in training["history"]
        ],
        "test": {
            name: {metric: round(system["metrics"][metric], 6) for metric in METRICS}
            | {"stopped": system["protocol"].get("stopped")}
            for name, system in systems.items()
        },
    }


def collect(entries: list[Entry], runs: Path) -> list[dict[str, Any]]:
    """Add what has finished to the ledger and write its page.

    Returns:
        All rows of the ledger, in the order of the queue.
    """
    known = json.loads(LEDGER.read_text(encoding="utf-8")) if LEDGER.exists() else {}
    rows: dict[str, dict[str, Any]] = {}
    for entry in entries:
        if finished(entry, runs):
            rows[entry.key] = ledger_row(entry, runs)
        elif entry.key in known:
            rows[entry.key] = known[entry.key]
    LEDGER.parent.mkdir(exist_ok=True)
    LEDGER.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(entries, list(rows.values())), encoding="utf-8")
    return list(rows.values())


def page(entries: list[Entry], rows: list[dict[str, Any]]) -> str:
    """The page of reproductions as Markdown: one table per data set and order of ties."""
    published = {(entry.name, entry.data): entry.published for entry in entries}
    lines = [
        "# Reproductions",
        "",
        "Made by `scripts/reproduce.py` from [ledger.json](ledger.json); do not edit. Each run is one recipe",
        "at full length: settings chosen on validation, test metrics measured once, mean ± standard",
        "deviation over the runs. Each has its own seed and, where ties are shuffled, its own shuffle.",
        "Systems in one run share its data.",
    ]
    tables = defaultdict(list)
    for row in rows:
        tables[row["data"], row["ties"]].append(row)
    for (data, ties), group in sorted(tables.items()):
        head = ["| run | system | runs | R@10 | N@10 | paper R@10 / N@10 |", "|---|---|---:|---:|---:|---:|"]
        lines += ["", f"## {data}, ties: {ties}", "", *head]
        for name in dict.fromkeys(row["name"] for row in group):
            lines += _rows(name, group, published)
    lines += ["", "## Cost", ""]
    lines += ["| run | data | ties | seed | epochs | minutes of a core |", "|---|---|---|---:|---:|---:|"]
    for row in rows:
        cost = f"{row['epochs']:g} | {row['core_minutes']:.0f}"
        lines.append(f"| {row['name']} | {row['data']} | {row['ties']} | {row['seed']} | {cost} |")
    return "\n".join(lines) + "\n"


def _rows(name: str, group: list[dict[str, Any]], published: dict[tuple[str, str], Any]) -> list[str]:
    runs = [row for row in group if row["name"] == name]
    systems = dict.fromkeys(system for row in runs for system in row["test"])
    lines = []
    for system in systems:
        found = [row["test"][system] for row in runs if system in row["test"]]
        dagger = " †" if any(result["stopped"] for result in found) else ""
        figures = [_spread([result[metric] for result in found]) for metric in ("recall@10", "ndcg@10")]
        paper = published.get((name, runs[0]["data"])) if system == list(systems)[-1] else None
        reference = "" if paper is None else f"{paper[0]:.4f} / {paper[1]:.4f}"
        lines.append(f"| {name} | {system}{dagger} | {len(found)} | {figures[0]} | {figures[1]} | {reference} |")
    return lines


def _spread(values: list[float]) -> str:
    middle = f"{mean(values):.4f}"
    return f"{middle} ± {stdev(values):.4f}" if len(values) > 1 else middle


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets' folders")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs, outside the repository")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--next", action="store_true", help="run the next unfinished entry")
    what.add_argument("--all", action="store_true", help="run all unfinished entries")
    what.add_argument("--only", help="run the entries whose name starts like this")
    what.add_argument("--collect", action="store_true", help="write the ledger and its page only")
    what.add_argument("--list", action="store_true", help="print the queue")
    arguments = parser.parse_args()
    entries, runs = read_queue(), arguments.runs.resolve()
    take_lowest_priority()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    runs.mkdir(parents=True, exist_ok=True)
    if arguments.list:
        for entry in entries:
            print(entry.key, "finished" if finished(entry, runs) else "open")
        return
    if not arguments.collect:
        wanted = [entry for entry in entries if entry.key.startswith(arguments.only or "")]
        for entry in wanted:
            if not finished(entry, runs) and run_entry(entry, arguments.data.resolve(), runs) and arguments.next:
                break
    collect(entries, runs)


if __name__ == "__main__":
    main()
