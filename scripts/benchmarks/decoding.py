"""Catalogue-constrained decoding, measured: against Hugging Face's ``generate``, its floor, and free beams.

    python scripts/benchmarks/decoding.py --data DIR --json FILE [--users 128] [--threads 1]

DIR holds ``interactions.parquet`` and ``items.parquet``. Both engines use the same random T5 weights (4 + 4 layers,
width 128, 6 heads of 64, feed-forward 1024), float32, the same threads, in alternation; a ratio is that of the medians.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from reference import GenerateReference
from rich.console import Console
from rich.table import Table
from torch import Tensor

from genrec.config import DataConfig, DecodingConfig, FeaturesConfig, RecommenderConfig, TokenizerConfig
from genrec.data import Histories, prepare_dataset
from genrec.data.histories import pad_histories
from genrec.decoding import DeviceTrie, beam_search, generate_lists, trie_of
from genrec.decoding.beam import Options, search_leaves
from genrec.features import build_features
from genrec.models import build_recommender
from genrec.models.base import Context
from genrec.models.seq2seq import Seq2Seq
from genrec.tokenizers import fit_tokenizer
from genrec.tokenizers.index import ItemIndex
from genrec.tokenizers.trie import build_trie

BATCH, TOP_K, HISTORY = 64, 20, 20
SIZES = (256, 256, 256, 256)
BEAMS = (50, 20)
NEAR_TIE = 1e-5

Figures = dict[str, float]


class FreeLevel:
    """A level without a catalogue: every code is legal, nodes are not followed anywhere."""

    ends, legal = False, None

    def __init__(self, size: int) -> None:
        self.choices = size
        self.code = range(1 << 62)

    def candidates(self, nodes: Tensor, values: Tensor) -> Tensor:
        """Everything."""
        return values

    def follow(self, nodes: Tensor, choice: Tensor) -> tuple[Tensor, Tensor]:
        """The codes chosen."""
        return nodes, choice


class FreeTrie:
    """What unconstrained beams search."""

    def __init__(self, level_sizes: tuple[int, ...]) -> None:
        self.level_sizes, self.num_levels, self.device = level_sizes, len(level_sizes), torch.device("cpu")
        self.levels = [FreeLevel(size) for size in level_sizes]


def prepare(data: Path, folder: Path) -> tuple[ItemIndex, Histories]:
    """The catalogue's identifiers (lexical features, residual k-means, suffix) and the test histories."""
    dataset = prepare_dataset(DataConfig(path=str(data)), folder / "dataset")
    features = build_features(FeaturesConfig(), dataset, folder / "features")
    index = fit_tokenizer(TokenizerConfig(), dataset, features, folder / "tokenizer")
    return index, dataset.evaluation("test")[0]


def make_model(index: ItemIndex) -> Seq2Seq:
    """A T5 of the size that the figures are stated for, with random weights."""
    torch.manual_seed(0)
    settings = {"num_layers": 4, "hidden_size": 128, "num_heads": 6, "head_size": 64, "feed_forward_size": 1024}
    config = RecommenderConfig(name="seq2seq", max_history=HISTORY, **settings)
    return cast(Seq2Seq, build_recommender(config, num_items=index.num_items, index=index).eval())


def batches_of(histories: Histories, users: int) -> list[tuple[Tensor, Tensor]]:
    """Batches of drawn users, each as :func:`genrec.decoding.recommend` takes it."""
    rows = np.random.default_rng(0).choice(len(histories), min(users, len(histories)), replace=False)
    parts = [rows[first : first + BATCH] for first in range(0, len(rows), BATCH)]
    padded = (pad_histories(histories, part, HISTORY) for part in parts)
    return [(torch.from_numpy(items), torch.from_numpy(lengths)) for items, lengths in padded]


def compare_with_generate(model: Seq2Seq, batches: list[tuple[Tensor, Tensor]], num_beams: int) -> Figures:
    """Seconds per batch of both engines and how far their lists agree."""
    reference, trie = GenerateReference(model), trie_of(model)
    theirs, ours, gaps = [], [], []
    same = near = users = 0
    beam_search(model, trie, *batches[0], num_beams=num_beams, top_k=TOP_K)
    for items, lengths in batches:
        start = time.perf_counter()
        expected, expected_scores = reference.search(items, lengths, num_beams, TOP_K)
        middle = time.perf_counter()
        found = beam_search(model, trie, items, lengths, num_beams=num_beams, top_k=TOP_K)
        ours.append(time.perf_counter() - middle)
        theirs.append(middle - start)
        gap = (found.scores - expected_scores).abs()
        equal = found.items == expected
        same += int(equal.all(dim=1).sum())
        # A user whose items differ only where scores of equal rank agree to 1e-5 has near ties in another order.
        near += int(((equal | (gap < NEAR_TIE)).all(dim=1) & ~equal.all(dim=1)).sum())
        users += len(items)
        gaps.append(float(gap.max()))
    name = f"beams{num_beams}"
    return {
        f"{name}_generate_seconds": statistics.median(theirs),
        f"{name}_genrec_seconds": statistics.median(ours),
        f"{name}_speedup": statistics.median(theirs) / statistics.median(ours),
        f"{name}_compared_users": users,
        f"{name}_same_top20_users": same,
        f"{name}_near_tie_users": near,
        f"{name}_max_score_difference": max(gaps),
    }


def distance_from_floor(model: Seq2Seq, items: Tensor, lengths: Tensor, num_beams: int, repeats: int) -> Figures:
    """The whole search against the encoder once plus the bare matrix products of the decoder for those beams."""
    tokens, mask = model.history_tokens(items, lengths)
    rows = len(items) * num_beams
    products = [
        (layer, torch.randn(rows, layer.in_features))
        for block in model.t5.decoder.block
        for name, layer in block.named_modules()
        if isinstance(layer, torch.nn.Linear) and not name.endswith(("EncDecAttention.k", "EncDecAttention.v"))
    ]

    def floor() -> None:
        model.t5.encoder(input_ids=tokens, attention_mask=mask)
        for _ in range(model.num_levels - 1):
            for layer, rows_in in products:
                layer(rows_in)

    trie = trie_of(model)
    seconds = alternate(
        {
            "floor": floor,
            "search": lambda: beam_search(model, trie, items, lengths, num_beams=num_beams, top_k=TOP_K),
            "encode": lambda: model.encode(items, lengths),
        },
        repeats,
    )
    return {
        f"beams{num_beams}_floor_seconds": seconds["floor"],
        f"beams{num_beams}_times_the_floor": seconds["search"] / seconds["floor"],
        f"beams{num_beams}_encode_share": seconds["encode"] / seconds["search"],
    }


def cost_of_constraint(model: Seq2Seq, context: Context, batch: int, repeats: int) -> Figures:
    """A search over random catalogues against free beams of the same engine and model (without the encoder)."""
    figures: Figures = {}
    free = cast(DeviceTrie, FreeTrie(SIZES))
    for name, num_items in (("12k", 12_000), ("1m", 1_000_000), ("10m", 10_000_000)):
        codes = np.random.default_rng(0).integers(0, 256, (num_items, 4), dtype=np.int32)
        start = time.perf_counter()
        trie = build_trie(codes, SIZES)
        figures[f"trie_{name}_build_seconds"] = time.perf_counter() - start
        figures[f"trie_{name}_megabytes"] = trie.nbytes / 1e6
        del codes
        device_trie = DeviceTrie(trie)
        figures[f"trie_{name}_device_megabytes"] = device_trie.nbytes / 1e6
        options = Options(num_beams=50)
        seconds = alternate(
            {
                "free": partial(search_leaves, model, free, context, batch, options, None),
                "held": partial(search_leaves, model, device_trie, context, batch, options, None),
            },
            repeats,
        )
        figures[f"constraint_{name}_cost_percent"] = 100 * (seconds["held"] / seconds["free"] - 1)
    return figures


def throughput(model: Seq2Seq, histories: Histories, users: int) -> Figures:
    """Users per second of whole lists: 50 beams, top 20, seen items left out."""
    drawn = histories.select(np.arange(min(users, len(histories))))
    start = time.perf_counter()
    items, _ = generate_lists(model, drawn, decoding=DecodingConfig(num_beams=50, batch_size=BATCH), top_k=TOP_K)
    seconds = time.perf_counter() - start
    seen = sum(len(np.intersect1d(items[row], drawn[row])) for row in range(len(drawn)))
    return {
        "lists_users_per_second": len(drawn) / seconds,
        "lists_short_users": int((items < 0).any(axis=1).sum()),
        "lists_seen_items": seen,
    }


def alternate(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each run, measured in turns so that a busy machine slows all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def random_index(num_items: int) -> ItemIndex:
    """Unique random identifiers of 4 x 256 codes."""
    flat = np.random.default_rng(0).choice(256**4, num_items, replace=False)
    codes = np.stack(np.unravel_index(flat, SIZES), axis=1)
    return ItemIndex(codes, SIZES, [str(item) for item in range(num_items)])


def show(figures: Figures) -> None:
    """A table of all figures."""
    table = Table("figure", "value")
    for name, value in figures.items():
        table.add_row(name, f"{value:,.6g}")
    Console().print(table)


def main() -> None:
    """Measure everything, print a table, write a flat JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with interactions.parquet and items.parquet")
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    parser.add_argument("--users", type=int, default=128, help="users compared with generate")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each search without generate")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    figures: Figures = {"threads": arguments.threads, "batch": BATCH}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        index, histories = prepare(arguments.data, Path(folder))
        model = make_model(index)
        batches = batches_of(histories, arguments.users)
        for num_beams in BEAMS:
            figures |= compare_with_generate(model, batches, num_beams)
            figures |= distance_from_floor(model, *batches[0], num_beams, arguments.repeats)
        figures |= throughput(model, histories, 512)
        free_model = make_model(random_index(12_000))
        items, lengths = batches[0]
        items = items % 12_000
        figures |= cost_of_constraint(free_model, free_model.encode(items, lengths), len(items), arguments.repeats)
    show(figures)
    arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
