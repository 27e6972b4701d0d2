"""One pass per user against one padded sample per target: what an epoch of the same decoder costs.

    python scripts/benchmarks/one_pass.py --data ../shared/data/amazon_beauty_2014 --json one_pass.json

The model is the ``decoder`` family, which predicts every item of a history in one forward pass. Three ways to train it:

- ``one_pass``: the batches of ``genrec.training``, one row per user, every item a target;
- ``padded``: one sample per target, the history before it padded to ``max_history`` items, the loss read at the last
  item only, as the public TIGER implementations do;
- ``trimmed``: the same samples sorted by length and padded only to the longest of their batch: the best that one sample
  per target can be.

All have equal tokens per batch (padding included), the same optimizer and the same loop. Chunks of the three
alternate, so that whatever else the machine does strikes all. One pass runs a whole epoch; of the other two as many
batches are measured and extrapolated by tokens to their epoch. Before anything is timed, the loss of all three is
compared on the same users without dropout. Semantic IDs are drawn at random: speed does not depend on which codes an
item has.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from genrec import DataConfig, Dataset, Histories, ItemIndex, RecommenderConfig, prepare_dataset
from genrec.artifacts import result_file, write_result
from genrec.data import pad_histories
from genrec.models import build_recommender
from genrec.models.families.decoder import Decoder
from genrec.models.layers.history import prepend, state_at
from genrec.training.batches import cut_windows, update_rows

LEVELS = (256, 256, 256, 256)
Loss = Callable[[Decoder, Tensor, Tensor], Tensor]


@dataclass
class Way:
    """One way to train, its epoch in batches of (items, lengths), and what was measured so far."""

    name: str
    loss: Loss
    samples: Histories
    batches: list[np.ndarray]
    width: int | None
    wall: float = 0.0
    cpu: float = 0.0
    tokens: int = 0
    done: int = 0

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        """Batch ``number`` of the endless row of epochs."""
        items, lengths = pad_histories(self.samples, self.batches[number % len(self.batches)], self.samples_width)
        if self.width is not None:
            items = np.pad(items, ((0, 0), (0, self.width - items.shape[1])))
        return torch.from_numpy(items), torch.from_numpy(lengths)

    @property
    def samples_width(self) -> int:
        """Items of the longest sample."""
        return int(self.samples.lengths.max())

    @property
    def epoch_tokens(self) -> int:
        """Codes that an epoch pushes through the model, padding included."""
        lengths = self.samples.lengths
        widths = [self.width or int(lengths[rows].max()) for rows in self.batches]
        return sum(width * len(rows) for width, rows in zip(widths, self.batches, strict=True)) * len(LEVELS)


def one_pass_loss(model: Decoder, items: Tensor, lengths: Tensor) -> Tensor:
    """The family's own loss: every item is a target."""
    loss: Tensor = model(items, lengths).loss
    return loss


def last_target_loss(model: Decoder, items: Tensor, lengths: Tensor) -> Tensor:
    """The same model on one sample per target: the loss of the last item of each row only."""
    batch, length = items.shape
    tokens = model.codes(model.item_codes[items]).flatten(1, 2)
    hidden, _ = model.transformer(prepend(model.start, tokens[:, :-1]))
    states = state_at(hidden.view(batch, length, model.num_levels, -1), lengths - 1)
    codes = model.item_codes[state_at(items, lengths - 1)].long()
    parts = [cross_entropy(model.head(n, states[:, n]).float(), codes[:, n]) for n in range(model.num_levels)]
    return torch.stack(parts).sum()


def prefixes(windows: Histories, shortest: int) -> Histories:
    """One row per target: the items of its window up to and including it, ``shortest`` items at least."""
    lengths = np.concatenate([np.arange(shortest, n + 1) for n in windows.lengths])
    counts = np.maximum(windows.lengths - shortest + 1, 0)
    return windows.slice(np.repeat(windows.users, counts), np.repeat(windows.offsets[:-1], counts), lengths)


def plan_ways(histories: Histories, max_history: int, batch_size: int, seed: int) -> list[Way]:
    """The three ways with equal tokens per batch."""
    windows = cut_windows(histories, max_history + 1)
    # A target without history is in no public implementation's samples; one pass has it for nothing.
    samples = prefixes(windows, shortest=2)
    one = Way("one_pass", one_pass_loss, windows, update_rows(windows.lengths, batch_size, seed, 0), None)
    tokens = one.epoch_tokens / len(one.batches) / len(LEVELS)
    rng = np.random.default_rng(seed)
    rows = max(1, round(tokens / (max_history + 1)))
    shuffled = np.split(rng.permutation(len(samples)), range(rows, len(samples), rows))
    padded = Way("padded", last_target_loss, samples, shuffled, max_history + 1)
    trimmed = Way("trimmed", last_target_loss, samples, by_tokens(samples.lengths, tokens, rng), None)
    return [one, padded, trimmed]


def by_tokens(lengths: np.ndarray, tokens: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Batches of rows of nearly one length, each of about ``tokens`` items, in mixed order."""
    order = np.argsort(lengths, kind="stable")
    batches, first = [], 0
    while first < len(order):
        size = max(1, round(tokens / lengths[order[first]]))
        batches.append(order[first : first + size])
        first += size
    return [batches[number] for number in rng.permutation(len(batches))]


def compare_losses(model: Decoder, histories: Histories, max_history: int) -> dict[str, float]:
    """The mean loss over all targets of 64 users, in each of the three ways."""
    windows = cut_windows(histories.select(np.arange(min(64, len(histories)))), max_history + 1)
    samples = prefixes(windows, shortest=1)
    model.eval()
    losses = {}
    with torch.no_grad():
        items, lengths = (torch.from_numpy(x) for x in pad_histories(windows, np.arange(len(windows)), max_history + 1))
        losses["one_pass"] = float(one_pass_loss(model, items, lengths))
        items, lengths = (torch.from_numpy(x) for x in pad_histories(samples, np.arange(len(samples)), max_history + 1))
        losses["trimmed"] = float(last_target_loss(model, items, lengths))
        items = torch.nn.functional.pad(items, (0, max_history + 1 - items.shape[1]))
        losses["padded"] = float(last_target_loss(model, items, lengths))
    model.train()
    return losses


def steps(model: Decoder, way: Way) -> Iterator[None]:
    """Train without end, counting time and tokens of each batch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    while True:
        wall, cpu = time.perf_counter(), time.process_time()
        items, lengths = way.batch(way.done)
        optimizer.zero_grad()
        way.loss(model, items, lengths).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        way.wall += time.perf_counter() - wall
        way.cpu += time.process_time() - cpu
        way.tokens += items.numel() * len(LEVELS)
        way.done += 1
        yield


def measure(model: Decoder, ways: list[Way], rounds: int) -> None:
    """Alternate chunks until one pass has seen its epoch and the others about as many batches."""
    loops = {way.name: steps(model, way) for way in ways}
    for way in ways:  # warm up, uncounted
        next(loops[way.name])
        way.wall = way.cpu = 0.0
        way.tokens = way.done = 0
    chunk = -(-len(ways[0].batches) // rounds)
    for _ in range(rounds):
        for way in ways:
            for _ in range(min(chunk, len(ways[0].batches) - way.done)):
                next(loops[way.name])


def report(ways: list[Way]) -> dict[str, dict[str, float]]:
    """Seconds per epoch of each way: measured for one pass, extrapolated by tokens for the others."""
    results = {}
    for way in ways:
        share = way.epoch_tokens / way.tokens
        results[way.name] = {
            "samples": len(way.samples),
            "batches": len(way.batches),
            "batches_measured": way.done,
            "epoch_tokens": way.epoch_tokens,
            "tokens_per_batch": way.epoch_tokens / len(way.batches),
            "tokens_per_second": way.tokens / way.wall,
            "epoch_seconds": way.wall * share,
            "epoch_cpu_seconds": way.cpu * share,
        }
    return results


def load(path: Path) -> Histories:
    """The training part of a prepared data set, or of a folder of tables that is prepared on the way."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = (path / "manifest.json").is_file()
        dataset = Dataset.load(path) if prepared else prepare_dataset(DataConfig(path=str(path)), Path(folder) / "data")
        histories = dataset.train()
        return histories.select(np.arange(len(histories)))


def build(num_items: int, max_history: int, seed: int) -> Decoder:
    """A decoder over random semantic IDs."""
    codes = np.random.default_rng(seed).choice(256**4, num_items, replace=False)
    codes = np.stack([codes // 256**level % 256 for level in (3, 2, 1, 0)], axis=1)
    index = ItemIndex(codes, LEVELS, [str(item) for item in range(num_items)])
    torch.manual_seed(seed)
    model = build_recommender(
        RecommenderConfig(name="decoder", max_history=max_history), num_items=num_items, index=index
    )
    if not isinstance(model, Decoder):
        raise TypeError(f"the decoder family is a {type(model).__name__}")
    return model


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="prepared data set, or folder of tables")
    parser.add_argument("--json", type=result_file, required=True, help="where the figures are written")
    parser.add_argument("--max-history", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=128, help="users per batch of the one-pass way")
    parser.add_argument("--rounds", type=int, default=8, help="alternations between the ways")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    histories = load(arguments.data)
    model = build(int(histories.items.max()) + 1, arguments.max_history, arguments.seed)
    losses = compare_losses(model, histories, arguments.max_history)
    ways = plan_ways(histories, arguments.max_history, arguments.batch_size, arguments.seed)
    measure(model, ways, arguments.rounds)
    results = report(ways)
    one = results["one_pass"]
    figures = {
        "command": " ".join(["python", *sys.argv]),
        "machine": {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "processor": platform.machine()},
        "loss_on_the_same_targets": losses,
        "ways": results,
        "padded_over_one_pass": results["padded"]["epoch_seconds"] / one["epoch_seconds"],
        "padded_over_one_pass_cpu": results["padded"]["epoch_cpu_seconds"] / one["epoch_cpu_seconds"],
        "trimmed_over_one_pass": results["trimmed"]["epoch_seconds"] / one["epoch_seconds"],
    }
    write_result(arguments.json, figures)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
