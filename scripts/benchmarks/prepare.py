"""Prepare random interactions and print what it took, as JSON.

    POLARS_MAX_THREADS=2 python scripts/benchmarks/prepare.py --interactions 10000000

The tables are written by another process, so that peak memory is that of reading, preparing and loading alone.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from genrec import DataConfig, prepare_dataset

WRITE = """
import sys
import numpy as np, polars as pl
path, size, users, items, suffix = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5]
random = np.random.default_rng(0)
frame = pl.DataFrame({
    "user_id": random.integers(0, users, size).astype(np.int32),
    "item_id": (items * random.random(size) ** 2).astype(np.int32),
    "timestamp": random.integers(1_300_000_000, 1_700_000_000, size),
}).with_columns(pl.format("user-{}", "user_id").alias("user_id"), pl.format("B{}", "item_id").alias("item_id"))
getattr(frame, "write_" + suffix)(f"{path}/interactions.{suffix}")
catalogue = pl.DataFrame({"item_id": [f"B{i}" for i in range(items)], "title": [f"Title of {i}" for i in range(items)]})
catalogue.write_parquet(f"{path}/items.parquet")
"""


def main() -> None:
    """Write random tables, prepare them, print seconds and gigabytes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=int, default=10_000_000)
    parser.add_argument("--users", type=int, default=500_000)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--format", choices=("parquet", "csv"), default="parquet")
    parser.add_argument("--k-core", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sizes = [str(size) for size in (arguments.interactions, arguments.users, arguments.items)]
        subprocess.run([sys.executable, "-c", WRITE, folder, *sizes, arguments.format], check=True)
        start, cpu = time.perf_counter(), time.process_time()
        dataset = prepare_dataset(DataConfig(path=folder, k_core=arguments.k_core), Path(folder) / "out")
        prepared, cpu = time.perf_counter(), time.process_time() - cpu
        histories, _ = dataset.evaluation("test")
        train = dataset.train()
        sliced = time.perf_counter()
        result = {
            "seconds": round(prepared - start, 2),
            "cpu_seconds": round(cpu, 2),
            "seconds_to_slice_train_and_test": round(sliced - prepared, 2),
            "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
            "interactions_read": arguments.interactions,
            "interactions_kept": dataset.num_interactions,
            "users": dataset.num_users,
            "items": dataset.num_items,
            "training_interactions": len(train.items),
            "test_users": len(histories),
            "format": arguments.format,
            "polars_threads": os.environ.get("POLARS_MAX_THREADS", "all"),
        }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
