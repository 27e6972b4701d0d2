"""What a preference step costs next to a next-item step of as many tokens, and how fast a reference is asked.

    python scripts/benchmarks/alignment.py

Random semantic IDs, 64 histories of 20 items. ``preference`` is one DPO step on 64 pairs (forward, backward, AdamW),
``anchored`` the same together with 64 windows of next-item training, that is with twice the tokens.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from genrec import AlignmentConfig, DecodingConfig, ItemIndex, RecommenderConfig
from genrec.alignment import PairObjective, sequence_log_probs
from genrec.decoding import recommend
from genrec.models import GenerativeRecommender, build_recommender

ITEMS, LEVEL_SIZES = 5_000, (256, 256, 256)
BATCH, LENGTH = 64, 20
REPEATS = 7
FAMILIES = ("depth", "decoder", "seq2seq")


def main() -> None:
    """Print one line per family: milliseconds and ratios to a next-item step."""
    print("| family | next-item step | preference | anchored | reference, users/s | lists with 50 beams, users/s |")
    print("|---|---:|---:|---:|---:|---:|")
    for family in FAMILIES:
        plain, preference, anchored, asked, listed = times_of(build(family))
        ratios = " | ".join(f"{value:.0f} ms ({value / plain:.2f}x)" for value in (preference, anchored))
        speeds = " | ".join(f"{1000 * BATCH / value:,.0f}" for value in (asked, listed))
        print(f"| {family} | {plain:.0f} ms | {ratios} | {speeds} |", flush=True)


def times_of(model: GenerativeRecommender) -> list[float]:
    """Milliseconds of a next-item step, a preference step, both in one, reference scores, and lists."""
    generator = torch.Generator().manual_seed(0)
    histories = torch.randint(ITEMS, (BATCH, LENGTH), generator=generator)
    windows = torch.randint(ITEMS, (BATCH, LENGTH + 1), generator=generator)
    lengths = torch.full((BATCH,), LENGTH)
    candidates = torch.randint(ITEMS, (BATCH, 2), generator=generator)
    pair = (histories, lengths, candidates, torch.zeros(BATCH, 2), torch.ones(BATCH))
    alone, both = (PairObjective(model, AlignmentConfig(method="dpo", anchor_weight=weight), 0.0) for weight in (0, 1))
    decoding = DecodingConfig(num_beams=50, exclude_seen=False)
    steps = (
        step(model, lambda: model(windows, lengths + 1).loss),
        step(model, lambda: alone(windows, lengths + 1, *pair).loss),
        step(model, lambda: both(windows, lengths + 1, *pair).loss),
    )
    found = [milliseconds(update) for update in steps]
    model.eval()
    with torch.no_grad():
        found.append(milliseconds(lambda: sequence_log_probs(model, histories, lengths, candidates)))
        found.append(milliseconds(lambda: recommend(model, histories, lengths, decoding=decoding)))
    return found


def build(family: str) -> GenerativeRecommender:
    """A model of the family's default size with random semantic IDs."""
    random = np.random.default_rng(0)
    flat = random.choice(int(np.prod(LEVEL_SIZES)), ITEMS, replace=False)
    codes = np.stack(np.unravel_index(flat, LEVEL_SIZES), axis=1).astype(np.int32)
    index = ItemIndex(codes, LEVEL_SIZES, [str(item) for item in range(ITEMS)])
    settings = {"use_features": False} if family == "depth" else {}
    torch.manual_seed(0)
    model = build_recommender(RecommenderConfig(name=family, **settings), num_items=ITEMS, index=index)
    if not isinstance(model, GenerativeRecommender):
        raise TypeError(f"{family} writes no semantic IDs")
    return model


def step(model: GenerativeRecommender, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """One optimizer update by a loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def update() -> None:
        model.train()
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return update


def milliseconds(work: Callable[[], object]) -> float:
    """Median time over a few repeats after one that warms up."""
    work()
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


if __name__ == "__main__":
    main()
