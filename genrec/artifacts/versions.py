"""Which program made a folder: package versions and the commit of the source tree."""

import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

REPORTED_PACKAGES = ("genrec", "torch", "transformers", "numpy", "polars", "faiss-cpu", "vector-quantize-pytorch")


def environment() -> dict[str, Any]:
    """Versions of what computes, for ``env.json`` and manifests."""
    versions = {"python": platform.python_version()}
    for package in REPORTED_PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


@cache
def git_commit() -> str | None:
    """The commit of the source tree that runs, or None outside a checkout."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
