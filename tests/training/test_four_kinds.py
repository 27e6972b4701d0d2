"""Item tokenizer, recommender, alignment and experts: stopped in a few batches, each ends as if it had not been.

Every stop point is measured by ``scripts/benchmarks/survival.py``, whose four trainings these are.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from genrec.errors import InterruptedRun
from genrec.tokenizers.parts import learning
from genrec.training import train
from genrec.training.checkpoints import CheckpointStore
from genrec.training.memory import RecoverableStep

# Where a session is watched.
PLACES = (
    (RecoverableStep, "add"),
    (CheckpointStore, "save"),
    (learning._Run, "train_epoch"),
    (train, "_tracking"),
)
SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmarks" / "survival.py"


@pytest.fixture(scope="module")
def survival() -> Any:
    specification = importlib.util.spec_from_file_location("survival", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["survival"] = module
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def world(survival: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("world") / "dataset"
    survival.make_world(folder)
    return survival.World.open(folder)


@pytest.fixture
def session(survival: Any, world: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Train once in this process, to the end or to a batch; returns what was seen, saved and learned."""
    monkeypatch.setattr("genrec.artifacts.versions.environment", dict)
    monkeypatch.setattr("genrec.artifacts.versions.git_commit", lambda: None)
    monkeypatch.setattr("os.fsync", lambda handle: None)
    monkeypatch.setattr("gc.collect", lambda *_: 0)
    originals = {name: getattr(owner, name) for owner, name in PLACES}

    def run(kind: str, folder: Path, stop: int | None = None) -> tuple[list[str], str, str]:
        for owner, name in PLACES:
            monkeypatch.setattr(owner, name, originals[name])
        witness, result = survival.Witness(stop), ""
        witness.watch()
        try:
            result = survival.digest(survival.KINDS[kind](world, folder, 0))
        except InterruptedRun as error:
            result = str(error.exit_code)
        return witness.seen, witness.saved, result

    return run


# In the middle of an update of two micro-batches, at its end, and across the end of an epoch.
@pytest.mark.parametrize(
    ("kind", "stops"), [("tokenizer", (2, 3, 20)), ("recommender", (3, 18)), ("alignment", (5,)), ("experts", (4, 29))]
)
def test_each_kind_goes_on_bit_by_bit(kind: str, stops: tuple[int, ...], session: Any, tmp_path: Path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    whole = session(kind, tmp_path / "whole")
    assert len(whole[0]) >= 40
    parts: list[str] = []
    # One run, stopped again and again: what is wrong once stays wrong.
    for stop in stops:
        seen, _, result = session(kind, tmp_path / "parts", stop - len(parts))
        assert result == "143"
        parts += seen
    seen, saved, result = session(kind, tmp_path / "parts")
    assert [*parts, *seen] == whole[0], "no batch is lost or repeated"
    assert (saved, result) == whole[1:]
    torch.set_num_threads(threads)
