"""Users per second next to other recommenders, where the time goes, one user at a time, and the same on a GPU."""

import importlib.util
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from scipy import sparse

from decoding_figures.setup import (
    BATCH,
    SERVED,
    TOP_K,
    Figures,
    Material,
    batches_of,
    by_length,
    draw_rows,
    make_model,
    seen_items,
)
from decoding_figures.timing import clock, seconds_of, watch
from genrec import DecodingConfig, Recommender
from genrec.artifacts import Manifest
from genrec.config import SearchOptions
from genrec.decoding import beam_search, generate_lists, trie_of
from genrec.decoding.beam import find_leaves
from genrec.models import GenerativeRecommender, RecommenderModel
from genrec.pipeline.model_folder import TrainedModel

NUM_BEAMS = 50
LATENCY_K = 10


def throughput(material: Material, users: int) -> Figures:
    """Users per second of every family's whole lists: 50 beams, top 20, seen items left out, untrained weights.

    SASRec scores every item and takes an exact top-20.
    """
    drawn = material.histories.select(draw_rows(material.histories, users))
    decoding = DecodingConfig(num_beams=NUM_BEAMS, batch_size=BATCH, top_k=TOP_K)
    figures: Figures = {"served_users": len(drawn)}
    for name, settings in SERVED.items():
        model = make_model(name, settings, material.index, material.features)
        generate_lists(model, drawn.select(np.arange(BATCH)), decoding=decoding)
        start = clock.now()
        items, _ = generate_lists(model, drawn, decoding=decoding)
        figures[f"{name}_users_per_second"] = len(drawn) / (clock.now() - start)
        figures[f"{name}_short_users"] = int((items < 0).any(axis=1).sum())
        figures[f"{name}_seen_items"] = sum(len(np.intersect1d(row, drawn[user])) for user, row in enumerate(items))
        if isinstance(model, GenerativeRecommender):
            figures |= shares(name, model, material)
    return figures


def shares(name: str, model: GenerativeRecommender, material: Material, users: int = 4 * BATCH) -> Figures:
    """Percent of a search's time in the model, in the trie, and in log-probabilities and top-k."""
    histories = material.histories
    rows = by_length(histories, draw_rows(histories, users), model.max_history)
    writer, trie, seconds = watch(model, trie_of(model))
    total = 0.0
    for first, (items, lengths) in enumerate(batches_of(histories, rows, model.max_history)):
        exclude = seen_items(histories, rows[first * BATCH : (first + 1) * BATCH])
        start = clock.now()
        beam_search(writer, trie, items, lengths, SearchOptions(num_beams=NUM_BEAMS), top_k=TOP_K, exclude=exclude)
        total += clock.now() - start
    parts = {part: 100 * seconds[part] / total for part in ("model", "trie")}
    parts["top_k"] = 100 - sum(parts.values())
    return {f"{name}_{part}_percent": value for part, value in parts.items()}


def implicit_als(material: Material, threads: int) -> Figures:
    """Users per second of implicit's ALS with 64 factors, top 20, seen items left out; {} where it is not installed."""
    if importlib.util.find_spec("implicit") is None:
        return {}
    from implicit.als import AlternatingLeastSquares

    train = material.dataset.train()
    shape = (len(train), material.index.num_items)
    seen = sparse.csr_matrix((np.ones(len(train.items), dtype=np.float32), train.items, train.offsets), shape=shape)
    model = AlternatingLeastSquares(factors=64, num_threads=threads, random_state=0)
    fitted = seconds_of(lambda: model.fit(seen, show_progress=False))
    users = np.arange(len(train))
    listed = seconds_of(lambda: model.recommend(users, seen, N=TOP_K, filter_already_liked_items=True))
    return {"implicit_als_fit_seconds": fitted, "implicit_als_users_per_second": len(users) / listed}


def latency(material: Material, requests: int) -> Figures:
    """Milliseconds of ``Recommender.recommend`` for one user, warm: 50 beams, top 10, seen items left out."""
    rows = draw_rows(material.histories, requests + 10)
    names = material.index.item_ids
    histories = [[names[item] for item in material.histories[int(row)]] for row in rows]
    items = pl.DataFrame({"item_id": names, "title": names})
    figures: Figures = {"latency_requests": requests}
    for name, settings in SERVED.items():
        model = make_model(name, settings, material.index, material.features)
        decoding = DecodingConfig(num_beams=NUM_BEAMS, top_k=LATENCY_K)
        recommender = Recommender(TrainedModel(model, items, decoding, Manifest(stage="model"), Path()))
        times = []
        for history in histories:
            start = clock.now()
            recommender.recommend([history], k=LATENCY_K)
            times.append(1000 * (clock.now() - start))
        p50, p99 = np.percentile(times[10:], [50, 99])
        figures |= {f"{name}_p50_milliseconds": float(p50), f"{name}_p99_milliseconds": float(p99)}
    return figures


def on_device(material: Material, device: str, batch: int, repeats: int) -> Figures:
    """Milliseconds per step and users per second on an accelerator, in float32 and bfloat16: 50 beams, top 20."""
    rows = draw_rows(material.histories, batch)
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    figures: Figures = {"device_batch": len(rows)}
    for name, settings in SERVED.items():
        for kind in (torch.float32, torch.bfloat16):
            model = make_model(name, settings, material.index, material.features).to(device, kind)
            measured = _device_times(model, material, rows, device, wait, repeats)
            label = f"device_{name}_{str(kind).removeprefix('torch.')}"
            figures |= {f"{label}_{figure}": value for figure, value in measured.items()}
    return figures


def _device_times(
    model: RecommenderModel, material: Material, rows: np.ndarray, device: str, wait: Callable[[], Any], repeats: int
) -> Figures:
    drawn = material.histories.select(rows)
    decoding = DecodingConfig(num_beams=NUM_BEAMS, batch_size=len(rows), top_k=TOP_K)
    whole = [seconds_of(lambda: generate_lists(model, drawn, decoding=decoding)) for _ in range(repeats + 2)]
    figures = {"users_per_second": len(rows) / statistics.median(whole[2:])}
    if not isinstance(model, GenerativeRecommender):
        return figures
    (items, lengths), *_ = batches_of(drawn, np.arange(min(BATCH, len(rows))), model.max_history)
    items, lengths, trie = items.to(device), lengths.to(device), trie_of(model)
    context, seeds, steps = model.encode(items, lengths), torch.zeros_like(lengths), []
    for _ in range(repeats + 2):
        wait()
        start = clock.now()
        find_leaves(model, trie, context, SearchOptions(num_beams=NUM_BEAMS), None, seeds)
        wait()
        steps.append(clock.now() - start)
    return figures | {"milliseconds_per_step": 1000 * statistics.median(steps[2:]) / model.num_levels}
