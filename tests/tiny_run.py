"""One small finished run that the end-to-end tests share: 60 users, 40 items, everything trained for two epochs."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl

from genrec.cli import main

GENRES = ("space adventure", "garden cooking", "river crime", "winter romance")
NOUNS = ("Lantern", "Harbor", "Orchard", "Comet", "Violin", "Falcon", "Mirror", "Bridge", "Kettle", "Compass")
RECIPE = """
data: {path: DATA, k_core: 0}
features: {encoder: lexical, dim: 8, min_items: 1}
tokenizer: {name: rqkmeans, num_levels: 2, codebook_size: 4}
recommender: {name: depth, hidden_size: 16, num_layers: 1, num_heads: 1, max_history: 10}
training: {epochs: 2, batch_size: 32}
decoding: {num_beams: 10, top_k: 5}
evaluation:
  ks: [1, 5, 10]
  sasrec: {hidden_size: 16, num_layers: 1, num_heads: 1, max_history: 10}
  bootstrap_samples: 50
"""


def write_tables(folder: Path) -> Path:
    """A raw data set: users walk through the items of a favorite genre, now and then elsewhere."""
    random, rows = np.random.default_rng(3), []
    for user in range(60):
        start, favorite = int(random.integers(10)), user % 4
        for step in range(2 if user == 0 else int(random.integers(5, 12))):
            item = favorite * 10 + (start + step) % 10 if random.random() < 0.85 else int(random.integers(40))
            rows.append((f"u{user:02d}", f"i{item:02d}", 1_600_000_000 + 86_400 * step + user))
    items = [
        (f"i{10 * g + n:02d}", f"{noun} of {genre.split()[0]}", genre)
        for g, genre in enumerate(GENRES)
        for n, noun in enumerate(NOUNS)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    table = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    table.write_csv(folder / "interactions.csv")
    pl.DataFrame(items, schema=["item_id", "title", "genres"], orient="row").write_parquet(folder / "items.parquet")
    return folder


def write_recipe(folder: Path, data: Path, extra: str = "") -> Path:
    """A recipe that is done in seconds."""
    path = folder / "tiny.yaml"
    path.write_text(RECIPE.replace("DATA", str(data)) + extra, encoding="utf-8")
    return path


@cache
def tiny_home() -> Path:
    """A folder with ``data/``, ``tiny.yaml`` and the finished ``run/``; not to be changed."""
    home = Path(tempfile.mkdtemp(prefix="genrec-tiny-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    recipe = write_recipe(home, write_tables(home / "data"))
    code = main(["run", str(recipe), "--out", str(home / "run")])
    assert code == 0, "the run that other tests build on failed"
    return home


def copy_run(target: Path) -> Path:
    """A copy of the finished run that may be changed."""
    return Path(shutil.copytree(tiny_home() / "run", target))
