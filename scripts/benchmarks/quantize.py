"""What residual k-means costs: next to bare faiss on real vectors, and through the whole stage on a made-up million.

    python scripts/benchmarks/quantize.py faiss --features runs/mine/features
    python scripts/benchmarks/quantize.py scale --features runs/mine/features --items 1000000

``faiss`` runs the same three k-means in bare faiss (train, search, subtract) and as the tokenizer ``rqkmeans``, in
turns on the same vectors, without and with residuals scaled to length 1, and compares time and energy left.

``scale`` makes a catalogue of perturbed copies of the real vectors with titles and random histories, in a process of
its own, and then writes a whole ``tokenizer`` folder from the files: verify, fit, name, report, plots. Peak memory is
that of the second process, mapped pages of the vectors included.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import polars as pl

from genrec import DataConfig, Dataset, ItemFeatures, TokenizerConfig, make_dataset
from genrec.artifacts import open_work_folder, work_folder, write_artifact, write_json
from genrec.features.base import DESCRIPTION_FILE, EMBEDDINGS_FILE, ITEM_IDS_FILE
from genrec.pipeline.embed import load_features
from genrec.tokenizers import fit_tokenizer
from genrec.tokenizers.families.rqkmeans import ResidualKMeansSettings, ResidualKMeansTokenizer

LEVELS, SIZE, ITERATIONS, SEED = 3, 256, 25, 42
ROUNDS = 3
NOISE = 1.0
USERS, HISTORY = 200_000, 10
BLOCK = 1 << 15


def main() -> None:
    """Run one of the two measurements and print it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measurement", choices=("faiss", "scale", "catalogue"), help="catalogue is a part of scale")
    parser.add_argument("--features", type=Path, required=True, help="a features folder of real items")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--work", type=work_folder, help="keep the made-up catalogue and the tokenizer here")
    arguments = parser.parse_args()
    if arguments.work:
        open_work_folder(arguments.work)
    if arguments.measurement == "faiss":
        result = beside_faiss(ItemFeatures.load(arguments.features))
    elif arguments.measurement == "catalogue":
        make_catalogue(ItemFeatures.load(arguments.features), arguments.items, arguments.work)
        return
    else:
        with tempfile.TemporaryDirectory() as temporary:
            result = at_scale(arguments.features, arguments.items, arguments.work or Path(temporary))
    print(json.dumps(result | {"threads": os.environ.get("OMP_NUM_THREADS", "all"), "cores": os.cpu_count()}, indent=2))


def beside_faiss(features: ItemFeatures) -> dict[str, Any]:
    """Bare faiss and the tokenizer in turns; the fastest of ROUNDS each, so that other work counts least.

    On a machine that others keep busy compare the CPU seconds, with one thread.
    """
    ways: dict[str, Callable[[np.ndarray], float]] = {
        "bare faiss": bare_residual_kmeans,
        "rqkmeans": lambda values: residual_kmeans(values, normalize=False),
        "rqkmeans, residuals scaled": lambda values: residual_kmeans(values, normalize=True),
    }
    values = np.array(features.values)
    clocks = {"seconds": time.perf_counter, "cpu_seconds": time.process_time}
    best = {clock: dict.fromkeys(ways, float("inf")) for clock in clocks}
    energy: dict[str, float] = {}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = {clock: read() for clock, read in clocks.items()}
            energy[name] = way(values)
            for clock, read in clocks.items():
                best[clock][name] = min(best[clock][name], read() - start[clock])
    return {
        "items": len(values),
        "width": values.shape[1],
        "levels": [SIZE] * LEVELS,
        **{clock: {name: round(value, 3) for name, value in times.items()} for clock, times in best.items()},
        **{
            f"{clock}_over_bare_faiss": {name: round(value / times["bare faiss"], 3) for name, value in times.items()}
            for clock, times in best.items()
        },
        "mean_squared_distance_left": energy,
    }


def bare_residual_kmeans(values: np.ndarray) -> float:
    """Three k-means in bare faiss; the mean squared distance that they leave."""
    residual = values
    for level in range(LEVELS):
        points = -(-len(values) // SIZE)
        model = faiss.Kmeans(values.shape[1], SIZE, niter=ITERATIONS, seed=SEED + level, max_points_per_centroid=points)
        model.train(residual)
        _, nearest = model.index.search(residual, 1)
        residual = residual - np.asarray(model.centroids)[nearest[:, 0]]
    return float((residual.astype(np.float64) ** 2).sum(axis=1).mean())


def residual_kmeans(values: np.ndarray, *, normalize: bool) -> float:
    """The tokenizer: fitted, and all items named; the mean squared distance that it leaves."""
    settings = ResidualKMeansSettings(
        num_levels=LEVELS, codebook_size=SIZE, iterations=ITERATIONS, seed=SEED, normalize_residuals=normalize
    )
    tokenizer = ResidualKMeansTokenizer(settings)
    tokenizer.width = values.shape[1]
    tokenizer.learn(values)
    codes = tokenizer.encode(values)
    return float(tokenizer.residual_energy(values, codes)[-1])


def make_catalogue(real: ItemFeatures, items: int, work: Path) -> None:
    """Write a data set and a features folder of perturbed copies of real vectors, block by block.

    Args:
        real: Vectors of real items.
        items: How many to make.
        work: Folder for ``dataset/`` and ``features/``.
    """
    random = np.random.default_rng(SEED)
    item_ids = [f"item-{number}" for number in range(items)]
    catalogue = pl.DataFrame({"item_id": item_ids, "title": [f"thing number {number}" for number in range(items)]})
    interactions = pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(USERS), HISTORY),
            "item_id": [item_ids[item] for item in random.integers(0, items, USERS * HISTORY).tolist()],
            "timestamp": np.tile(np.arange(HISTORY), USERS) + 1_600_000_000,
        }
    )
    dataset = make_dataset(interactions, catalogue, DataConfig(k_core=0, unknown_items="keep"), work / "dataset")
    width = real.values.shape[1]
    # Of about the length of a real vector's distance from the mean, times NOISE.
    scale = NOISE * float(real.values.std(axis=0).mean())
    with write_artifact(work / "features", "features", inputs={"dataset": dataset.fingerprint}) as folder:
        header = json.dumps(
            {"values": {"dtype": "F32", "shape": [items, width], "data_offsets": [0, 4 * items * width]}}
        )
        padded = header.encode().ljust(-(-len(header) // 8) * 8)
        with (folder.path / EMBEDDINGS_FILE).open("wb") as stream:
            stream.write(len(padded).to_bytes(8, "little") + padded)
            for start in range(0, items, BLOCK):
                count = min(BLOCK, items - start)
                values = real.values[random.integers(0, len(real.values), count)]
                values = values + scale * random.standard_normal(values.shape, dtype=np.float32)
                stream.write((values / np.linalg.norm(values, axis=1, keepdims=True)).astype("<f4").tobytes())
        write_json(folder.path / ITEM_IDS_FILE, dataset.item_ids)
        write_json(folder.path / DESCRIPTION_FILE, {"encoder": "made up"})


def at_scale(features: Path, items: int, work: Path) -> dict[str, Any]:
    """Make the catalogue in another process if it is not there yet, then fit and write a tokenizer."""
    if not (work / "features").is_dir():
        own = [sys.executable, __file__, "catalogue", "--features", str(features), "--items", str(items)]
        subprocess.run([*own, "--work", str(work)], check=True)
    start, cpu = time.perf_counter(), time.process_time()
    dataset = Dataset.load(work / "dataset", verify=True)
    vectors = load_features(work / "features", dataset)
    loaded = time.perf_counter()
    config = TokenizerConfig.model_validate({"name": "rqkmeans", "num_levels": LEVELS, "codebook_size": SIZE})
    index = fit_tokenizer(config, dataset, vectors, work / "tokenizer")
    report = json.loads((work / "tokenizer" / "quality.json").read_text())
    return {
        "items": index.num_items,
        "width": vectors.values.shape[1],
        "seconds": round(time.perf_counter() - start, 1),
        "seconds_to_verify_and_open": round(loaded - start, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "level_sizes": list(index.level_sizes),
        "use": [level["use"] for level in report["levels"]],
        "collision_rate": report["collisions"]["before"]["collision_rate"],
        "residual_energy": report["residual_energy"],
    }


if __name__ == "__main__":
    main()
