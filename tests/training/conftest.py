"""Training runs that take a moment."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tiny_training import TinyData, TinyModel, quality, settings
from torch import nn

from genrec.config import DecodingConfig
from genrec.training import TrainingResult, train_recommender


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One process; no event files, syncing or package versions: they cost more than the tiny runs."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr("genrec.training.train._tracking", lambda folder, resumed: [])
    monkeypatch.setattr("genrec.artifacts.versions.environment", dict)
    monkeypatch.setattr("genrec.artifacts.versions.git_commit", lambda: None)
    monkeypatch.setattr("os.fsync", lambda handle: None)
    monkeypatch.setattr("gc.collect", lambda *_: 0)  # accelerate's, before every run
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def train(tmp_path: Path) -> Any:
    """Train a model (a new one by default) into a folder by name; progress goes nowhere."""

    def run(name: str = "run", model: nn.Module | None = None, **changes: Any) -> TrainingResult:
        data = changes.pop("data", None) or TinyData()
        validate = changes.pop("validate", quality)
        console = changes.pop("console", None) or Console(quiet=True)
        model = model or TinyModel()
        config, decoding = settings(**changes), DecodingConfig()
        return train_recommender(model, data, config, decoding, tmp_path / name, validate=validate, console=console)

    return run
