"""Catalogue-constrained decoding, measured: against Hugging Face's ``generate``, its floor, and free beams.

    python scripts/benchmarks/decoding.py --data DIR --json FILE [--threads 2] [--model DIR]

DIR holds ``interactions.parquet`` and ``items.parquet``. Both engines use the same random weights (seq2seq: a T5 of
4 + 4 layers, width 128, 6 heads of 64, feed-forward 1024; decoder: a Llama of 4 layers, width 128, 4 heads,
feed-forward 512), float32, batches of 64 drawn users, the same threads, in alternation; a ratio is that of the
medians. Times are only worth reading from a machine that does nothing else. ``--model`` adds what only a trained model
can tell; implicit ALS is measured where ``implicit`` is installed.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from decoding_figures.against_generate import bfloat16, distance_from_floor, parity, speed
from decoding_figures.constraint import cost_of_constraint
from decoding_figures.guarantees import guarantees
from decoding_figures.serving import implicit_als, latency, on_device, throughput
from decoding_figures.setup import (
    BATCH,
    COMPARED,
    SERVED,
    Figures,
    Material,
    batches_of,
    by_length,
    draw_rows,
    make_model,
    prepare,
    random_index,
)
from decoding_figures.timing import clock
from decoding_figures.trained import trained_figures
from rich.console import Console
from rich.table import Table

from genrec.artifacts import result_file, write_result

BEAMS = (50, 20)
PARTS = ("guarantees", "constraint", "serving", *COMPARED)


def engine_figures(family: str, material: Material, arguments: argparse.Namespace) -> Iterator[tuple[str, Figures]]:
    """One family against ``generate``, the floor and bfloat16."""
    histories, length = material.histories, COMPARED[family]["max_history"]
    timed, compared = (draw_rows(histories, users) for users in (arguments.users, arguments.parity_users))
    model = make_model(family, COMPARED[family], material.index)
    batches = batches_of(histories, timed, length)
    for num_beams in BEAMS:
        name = f"{family}_beams{num_beams}"
        yield f"{name} against generate", speed(name, model, batches, num_beams, arguments.seconds)
        if family == "seq2seq":
            figures = distance_from_floor(name, model, batches[0], num_beams, arguments.repeats)
            yield f"{name} against its floor", figures
        yield f"{name} in bfloat16", bfloat16(name, model, batches, num_beams)
    if family == "seq2seq":
        sorted_batches = batches_of(histories, by_length(histories, compared, length), length)
        for num_beams in reversed(BEAMS):
            name = f"{family}_beams{num_beams}"
            figures = parity(name, model, sorted_batches, num_beams, arguments.parity_seconds)
            yield f"{name} lists of many users", figures


def constraint_figures(material: Material, arguments: argparse.Namespace) -> Figures:
    """Catalogues of three sizes, with a deep and a shallow decoder; users and items are those of the data."""
    index, models = random_index(material.index.num_items), {}
    for family, settings in (("seq2seq", COMPARED["seq2seq"]), ("depth", SERVED["depth"] | {"use_features": False})):
        rows = draw_rows(material.histories, BATCH)
        batch = batches_of(material.histories, rows, settings["max_history"])[0]
        models[family] = (make_model(family, settings, index), batch)
    return cost_of_constraint(models, BEAMS[0], arguments.repeats)


def all_figures(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Figures]]:
    """Every figure that is asked for, part by part; the cheap ones first."""
    material = prepare(arguments.data, folder)
    wanted = arguments.parts
    yield (
        "setting",
        {
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count() or 0,
            "batch": BATCH,
            "items": material.index.num_items,
            "levels": material.index.num_levels,
        },
    )
    if "guarantees" in wanted:
        figures = guarantees(material, arguments.checked_users, arguments.checked_beams, arguments.checked_seeds)
        yield "guarantees", figures
    if "constraint" in wanted:
        yield "trie and constraint", constraint_figures(material, arguments)
    if "serving" in wanted:
        yield "latency", latency(material, arguments.requests)
        yield "throughput", throughput(material, arguments.served_users)
        yield "implicit ALS", implicit_als(material, arguments.threads)
        if torch.cuda.is_available():
            yield "GPU", on_device(material, "cuda", 1024, arguments.repeats)
    if arguments.model:
        yield "trained model", trained_figures(arguments.model, material, arguments.trained_users, 4 * BATCH)
    for family in COMPARED:
        if family in wanted:
            yield from engine_figures(family, material, arguments)


def show(console: Console, part: str, figures: Figures) -> None:
    """One part as a table."""
    table = Table(part, "", min_width=60)
    for name, value in figures.items():
        table.add_row(name, f"{value:,.5g}")
    console.print(table)


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with interactions.parquet and items.parquet")
    parser.add_argument("--json", type=result_file, required=True, help="file to write")
    parser.add_argument("--model", type=Path, help="a model folder trained on the same tables")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a machine that is not idle")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument("--repeats", type=int, default=5, help="measured turns of each search without generate")
    parser.add_argument("--users", type=int, default=192, help="users timed with generate, per width")
    parser.add_argument("--seconds", type=float, default=45, help="no batch of these is begun later than this")
    parser.add_argument("--parity-users", type=int, default=2000, help="users whose lists are compared, per width")
    parser.add_argument("--parity-seconds", type=float, default=100, help="no batch of these is begun later than this")
    parser.add_argument("--served-users", type=int, default=1024, help="users of the throughput figures")
    parser.add_argument("--requests", type=int, default=200, help="single users of the latency figures")
    parser.add_argument("--checked-users", type=int, default=100_000, help="lists that are checked item by item")
    parser.add_argument("--checked-beams", type=int, default=1_000_000, help="beams that are checked code by code")
    parser.add_argument("--checked-seeds", type=int, default=200, help="catalogues that are scored item by item")
    parser.add_argument("--trained-users", type=int, default=25_000, help="users scored with a trained model")
    return parser.parse_args()


def main() -> None:
    """Measure everything, print a table per part, write a flat JSON."""
    arguments, console = read_arguments(), Console()
    torch.set_num_threads(arguments.threads)
    clock.use(arguments.clock)
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for part, measured in all_figures(arguments, Path(folder)):
            show(console, part, measured)
            figures |= measured
            write_result(arguments.json, figures)


if __name__ == "__main__":
    main()
