"""How much of a result is the order that a file gives to interactions of one user at one time.

    python scripts/benchmarks/ties.py count ties.json --data Beauty=data/beauty --data Sports=data/sports
    python scripts/benchmarks/ties.py measure ties.json --work work --data Beauty=data/beauty --seeds 1 2 3
    python scripts/benchmarks/ties.py add ties.json --name Beauty runs/beauty/metrics.json runs/shuffled/metrics.json
    python scripts/benchmarks/ties.py table ties.json --page docs/results/ties.md
    python scripts/benchmarks/ties.py draw ties.json --figure ties.png

`count` measures ties; `measure` fits the baselines that need no training loop on the order of the file, on orders drawn
by seed and without an order; `add` takes what `genrec run` measured, its baselines and variants too; `table` prints
all as Markdown or renews the tables of a page, `draw` draws it. The first three write into one file of figures; what it
has is not measured again.
"""

import argparse
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from genrec import ConfigError, DataConfig, Dataset, EvaluationConfig, prepare_dataset
from genrec.artifacts import open_work_folder, overwriting, read_json, result_file, work_folder, write_result
from genrec.evaluation import Protocol, fit_baseline, score_lists
from genrec.evaluation.tables import SYSTEMS
from genrec.tokenizers.quality.canvas import ACCENT, MUTED, SECOND, dress, new_figure, write_figure

BASELINES = ("popularity", "itemknn", "transition")
METRICS = ("recall@10", "ndcg@10")
TIES = ("file", "shuffle", "exclude")
KEY = ("data", "ties", "ties_seed", "system", "seeds")
COLORS = {"file": SECOND, "shuffle": ACCENT}
LABELS = {"file": "order of the file", "shuffle": "ties shuffled"}


def named(text: str) -> tuple[str, str]:
    """``NAME=FOLDER``."""
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FOLDER")
    return name, folder


def prepared(folder: str, work: Path, name: str, ties: str, seed: int) -> Dataset:
    """A data set with one order of its ties."""
    out = work / f"{name}-{ties}-{seed}"
    open_work_folder(work)
    with overwriting():
        return prepare_dataset(DataConfig(path=folder, ties=ties, ties_seed=seed), out)


def record_of(name: str, result: dict[str, Any]) -> dict[str, Any]:
    """What is kept of one system's entry in ``metrics.json``."""
    protocol, slices = result["protocol"], result["slices"].get("ties", {})
    return {
        "data": name,
        "ties": protocol.get("ties", "file"),
        "ties_seed": protocol.get("ties_seed"),
        "system": result["system"],
        "seeds": list(protocol["seeds"]),
        "users": result["users"],
        "metrics": {metric: result["metrics"][metric] for metric in METRICS},
        "slices": {
            group: {"users": part["users"], **{metric: part["metrics"][metric] for metric in METRICS}}
            for group, part in slices.items()
        },
        "settings": result["settings"],
        "stopped": protocol.get("stopped"),
    }


def with_records(figures: dict[str, Any], records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The figures with more records; one of the same system, data and seeds is replaced."""
    kept = {tuple(map(str, (record[key] for key in KEY))): record for record in [*figures["results"], *records]}
    return figures | {"results": list(kept.values())}


def count(arguments: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Sizes and ties of every data set."""
    for name, folder in arguments.data:
        dataset = prepared(folder, arguments.work, name, "file", 1)
        sizes = {key: dataset.statistics[key] for key in ("users", "items", "interactions")}
        figures["datasets"][name] = sizes | dataset.statistics["ties"]
        write_result(arguments.figures, figures)


def measure(arguments: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Every baseline on every order of every data set."""
    config = EvaluationConfig(ks=(10,), bootstrap_samples=0)
    orders = [("file", 1), *(("shuffle", seed) for seed in arguments.seeds), ("exclude", 1)]
    for ties, seed in orders:
        for name, folder in arguments.data:
            dataset = None
            for system in arguments.systems:
                wanted = (name, ties, seed if ties == "shuffle" else None, system)
                if any(wanted == tuple(record[key] for key in KEY[:4]) for record in figures["results"]):
                    continue
                dataset = dataset or prepared(folder, arguments.work, name, ties, seed)
                baseline, histories = fit_baseline(system, dataset), dataset.evaluation("test")[0]
                lists, _ = baseline.recommend(histories, top_k=10, exclude_seen=True)
                protocol = Protocol.on(dataset, "test", exclude_seen=True)
                result = score_lists(system, lists, dataset, protocol, config, settings=baseline.settings)
                figures.update(with_records(figures, [record_of(name, result.as_json())]))
                write_result(arguments.figures, figures)
                print(*wanted, result.evaluation.metrics, flush=True)


def add(arguments: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Take what runs measured: the system, its baselines and its variants."""
    for path in arguments.runs:
        run = read_json(path)
        systems = [run, *run.get("baselines", {}).values(), *run.get("variants", {}).values()]
        figures.update(with_records(figures, [record_of(arguments.name, system) for system in systems]))
    write_result(arguments.figures, figures)


def values_of(figures: dict[str, Any], name: str, system: str, ties: str, metric: str) -> list[float]:
    """A metric in every run of a system on one data set."""
    return [
        record["metrics"][metric]
        for record in figures["results"]
        if (record["data"], record["system"], record["ties"]) == (name, system, ties)
    ]


def ties_table(figures: dict[str, Any]) -> list[str]:
    """What there is of ties, a row per data set."""
    lines = [
        "| data | users | items | interactions | pairs at one time | test targets tied | ids ascend | order |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for name, numbers in figures["datasets"].items():
        sizes = [f"{numbers[key]:,}" for key in ("users", "items", "interactions")]
        shares = [f"{numbers[key]:.1%}" for key in ("tied_pairs", "tied_test_targets", "ascending")]
        followed = {"no": "not by id"}.get(numbers["follows_ids"], f"by id, {numbers['follows_ids']}")
        lines.append(f"| {' | '.join([name, *sizes, *shares, followed])} |")
    return lines


def results_table(figures: dict[str, Any], name: str) -> list[str]:
    """Every system of a data set in each order, and how far shuffling moves it."""
    columns = [f"{metric} {order}" for metric in ("R@10", "N@10") for order in ("file", "shuffled", "excluded")]
    lines = [f"| {' | '.join([name, *columns, 'N@10 moves'])} |", "|---|" + "---:|" * 7]
    for system in systems_of(figures, name):
        cells = [shown(values_of(figures, name, system, ties, metric)) for metric in METRICS for ties in TIES]
        before, after = (values_of(figures, name, system, ties, METRICS[1]) for ties in TIES[:2])
        moved = f"{statistics.mean(after) / statistics.mean(before) - 1:+.1%}" if before and after else "-"
        lines.append(f"| {' | '.join([SYSTEMS.get(system, system), *cells, moved])} |")
    return lines


def slices_table(figures: dict[str, Any], name: str) -> list[str]:
    """NDCG where the target has the time of the last item of the history, and where it has not."""
    lines = [
        f"| {name}, N@10 | tied, file | tied, shuffled | untied, file | untied, shuffled |",
        "|---|---:|---:|---:|---:|",
    ]
    for system in systems_of(figures, name):
        cells = [
            shown(
                [
                    record["slices"][group][METRICS[1]]
                    for record in figures["results"]
                    if (record["data"], record["system"], record["ties"]) == (name, system, ties)
                    and group in record["slices"]
                ]
            )
            for group in ("tied", "untied")
            for ties in TIES[:2]
        ]
        lines.append(f"| {' | '.join([SYSTEMS.get(system, system), *cells])} |")
    return lines


def systems_of(figures: dict[str, Any], name: str) -> list[str]:
    """Systems that were measured on a data set, in the order of the file."""
    return list(dict.fromkeys(record["system"] for record in figures["results"] if record["data"] == name))


def shown(values: Sequence[float]) -> str:
    """``0.0589``, or mean and deviation of several."""
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{spread}"


def table(arguments: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Print everything as Markdown, or put it in the place of the tables of a page that have the same head."""
    parts = [ties_table(figures)] if figures["datasets"] else []
    for name in dict.fromkeys(record["data"] for record in figures["results"]):
        parts += [results_table(figures, name), slices_table(figures, name)]
    texts = ["\n".join(part) + "\n" for part in parts]
    if arguments.page is None:
        print("\n".join(texts), end="")
        return
    page = arguments.page.read_text(encoding="utf-8")
    for text in texts:
        head = re.escape(text.partition("\n")[0])
        page, found = re.subn(rf"^{head}\n(?:\|.*\n)*", text.replace("\\", r"\\"), page, flags=re.MULTILINE)
        if found != 1:
            raise ConfigError(
                f"{arguments.page} has {found} tables with this head", where=text.partition("\n")[0], expected="one"
            )
    arguments.page.write_text(page, encoding="utf-8")


def draw(arguments: argparse.Namespace, figures: dict[str, Any]) -> None:
    """A panel per data set: every system's NDCG in the order of the file and with ties shuffled."""
    names = list(dict.fromkeys(record["data"] for record in figures["results"]))
    longest = max(len(systems_of(figures, name)) for name in names)
    figure = new_figure(11, 1.4 + 0.42 * longest)
    for panel, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        dress(panel, name, "test NDCG@10, full catalogue")
        systems = systems_of(figures, name)
        for place, system in enumerate(systems):
            values = {ties: values_of(figures, name, system, ties, METRICS[1]) for ties in TIES[:2]}
            means = {ties: statistics.mean(found) for ties, found in values.items() if found}
            panel.plot(list(means.values()), [place] * len(means), color=MUTED, linewidth=1.2, zorder=1)
            for ties, mean in means.items():
                panel.plot(mean, place, "o", color=COLORS[ties], markersize=6, label="" if place else LABELS[ties])
            if len(means) == 2:
                text = f"{means['shuffle'] / means['file'] - 1:+.0%}"
                panel.annotate(text, (max(means.values()), place), (8, -3), textcoords="offset points", fontsize=8.5)
        panel.set_yticks(range(len(systems)), [SYSTEMS.get(system, system) for system in systems])
        panel.set_ylim(len(systems) - 0.5, -0.5)
        panel.margins(x=0.12)
        panel.grid(axis="x", alpha=0.25)
    figure.axes[0].legend(frameon=False, fontsize=9, loc="upper right")
    write_figure(figure, arguments.figure)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    for verb in (count, measure, add, table, draw):
        own = verbs.add_parser(verb.__name__, help=verb.__doc__)
        own.set_defaults(verb=verb)
        written = result_file if verb in (count, measure, add) else Path
        own.add_argument("figures", type=written, help="file of figures (JSON)")
        if verb in (count, measure):
            own.add_argument("--data", type=named, action="append", required=True, metavar="NAME=FOLDER")
            own.add_argument("--work", type=work_folder, default=Path("ties-work"), help="where data are prepared")
        if verb is measure:
            own.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="orders that are drawn")
            own.add_argument("--systems", nargs="+", choices=BASELINES, default=list(BASELINES))
        if verb is add:
            own.add_argument("--name", required=True, help="what the data set is called in the file")
            own.add_argument("runs", type=Path, nargs="+", help="metrics.json of runs")
        if verb is table:
            own.add_argument("--page", type=Path, help="page whose tables are replaced; printed without it")
        if verb is draw:
            own.add_argument("--figure", type=result_file, required=True, help="picture to write (PNG)")
    return parser.parse_args()


def main() -> None:
    """Run the verb on the figures so far."""
    arguments = parsed()
    known = read_json(arguments.figures) if arguments.figures.is_file() else {}
    arguments.verb(arguments, {"datasets": {}, "results": []} | known)


if __name__ == "__main__":
    main()
