"""What each of two processes does in the tests of many processes: several short runs, one after another.

    torchrun --nproc-per-node 2 process_worker.py FOLDER

The outcome of each run, as this process saw it, is in ``FOLDER/rank-R.json``.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from rich.console import Console
from tiny_training import NUM_ITEMS, TinyData, quality, settings
from torch import Tensor, nn
from transformers.utils import ModelOutput

from genrec.config import DecodingConfig
from genrec.distributed.world import World
from genrec.errors import ArtifactError, GenrecError
from genrec.models.layers.moe import ExpertSettings, MixtureOfExperts
from genrec.training import TrainingResult, train_recommender

PLAN: dict[str, Any] = {"epochs": 3, "batch_size": 4, "gradient_accumulation_steps": 2, "save_steps": 5}
STOP = 7
QUICK: dict[str, Callable[..., Any]] = {
    "genrec.training.train._tracking": lambda *_: [],
    "genrec.artifacts.versions.environment": dict,
    "genrec.artifacts.versions.git_commit": lambda: None,
    "os.fsync": lambda handle: None,
    "gc.collect": lambda *_: 0,
}
Hook = Callable[[int, Tensor], Tensor]


@dataclass
class Loss(ModelOutput):
    loss: Tensor | None = None


class Layer(nn.Module):
    """Odd sizes, so that two processes cannot shard them evenly."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.norm, self.inner, self.outer = nn.LayerNorm(9), nn.Linear(9, 17), nn.Linear(17, 9)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.outer(torch.relu(self.inner(self.norm(x)))))


class Layered(nn.Module):
    """Predicts each item from the sum of those before it; ``hook`` sees every loss and may do what it likes."""

    max_history = 5

    def __init__(self, hook: Hook | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.items = nn.Embedding(NUM_ITEMS, 9)
        self.layers = nn.ModuleList(Layer(dropout) for _ in range(2))
        self.head = nn.Linear(9, NUM_ITEMS)
        self.hook, self.calls = hook, 0

    def forward(self, items: Tensor, lengths: Tensor) -> Loss:
        self.calls += 1
        x = self.items(items).cumsum(1)
        x = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
        for layer in self.layers:
            x = layer(x)
        real = torch.arange(items.shape[1]) < lengths[:, None]
        loss = nn.functional.cross_entropy(self.head(x)[real], items[real])
        return Loss(loss=loss if self.hook is None else self.hook(self.calls, loss))


def stop(calls: int, loss: Tensor) -> Tensor:
    """A signal for the second process alone, in the first micro-batch of an update."""
    if calls == 2 * STOP - 1 and World.current().rank == World.current().size - 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return loss


def spoil(calls: int, loss: Tensor) -> Tensor:
    """A loss that is no number, in the second process alone."""
    return loss * float("nan") if calls == 3 and World.current().rank == 1 else loss


def run(folder: Path, model: nn.Module | None = None, **changes: Any) -> TrainingResult:
    """Train the model of the tests."""
    config, console = settings(**{**PLAN, **changes}), Console(quiet=True)
    return train_recommender(
        model or Layered(), TinyData(), config, DecodingConfig(), folder, validate=quality, console=console
    )


@contextmanager
def without_wrapper(*, believed: bool):
    """What accelerate does where it fails in silence: the model is left as it is."""
    from accelerate import Accelerator

    with patch.object(Accelerator, "prepare_model", lambda self, model, **_: model):
        if not believed:
            yield
            return
        with patch("genrec.training.strategies.base.Strategy.is_wrapped", lambda self: True):
            yield


def unwritable(*_: Any, **__: Any) -> None:
    raise ArtifactError("the disk is full", where="checkpoint", fix="make room")


def other_weights() -> nn.Module:
    model = Layered()
    with torch.no_grad():
        model.head.bias += World.current().rank
    return model


def balanced(rows: slice) -> list[float]:
    """The biases of experts after one step on some of the rows."""
    torch.manual_seed(0)
    layer = MixtureOfExperts(8, 16, ExpertSettings(experts=4, experts_per_token=1, balance="bias"))
    layer.router.data.normal_()
    layer.train()(torch.randn(40, 8)[rows])
    assert layer.selection_bias is not None
    return layer.selection_bias.tolist()


def outcome(work: Callable[[], TrainingResult]) -> dict[str, Any]:
    """What came of a run, in JSON."""
    try:
        result = work()
    except GenrecError as error:
        return {"error": type(error).__name__, "what": error.what, "exit_code": error.exit_code}
    return {"steps": result.steps, "best": result.best_metric, "notes": result.notes}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    found = {"ddp": outcome(lambda: run(folder / "ddp"))}
    world = World.current()
    found["world"] = [world.rank, world.size, world.gather(world.rank * 10), world.run_on_main(lambda: world.rank)]
    found["experts"] = balanced(slice(world.rank, None, world.size))
    os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    found["fsdp2"] = outcome(lambda: run(folder / "fsdp2", Layered(stop)))
    found["fsdp2-again"] = outcome(lambda: run(folder / "fsdp2"))
    found["taken-up"] = outcome(lambda: run(folder / "taken-up"))
    del os.environ["ACCELERATE_USE_FSDP"]
    found["stopped"] = outcome(lambda: run(folder / "stopped", Layered(stop)))
    found["dropout"] = outcome(lambda: run(folder / "dropout", Layered(dropout=0.3)))
    found["dropout-again"] = outcome(lambda: run(folder / "dropout-again", Layered(stop, dropout=0.3)))
    found["dropout-again"] = outcome(lambda: run(folder / "dropout-again", Layered(dropout=0.3)))
    found["spoilt"] = outcome(lambda: run(folder / "spoilt", Layered(spoil)))
    with without_wrapper(believed=False):
        found["unwrapped"] = outcome(lambda: run(folder / "unwrapped"))
    with without_wrapper(believed=True):
        found["unsynchronized"] = outcome(lambda: run(folder / "unsynchronized"))
    found["other weights"] = outcome(lambda: run(folder / "other", other_weights()))
    with patch("genrec.training.checkpoints.CheckpointStore.save", unwritable):
        found["disk full"] = outcome(lambda: run(folder / "full"))
    (folder / f"rank-{world.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    with ExitStack() as stack:
        # What costs more than the runs: see conftest.
        for name, value in QUICK.items():
            stack.enter_context(patch(name, value))
        main(Path(sys.argv[1]))
    # Nine runs leave threads of gloo after that now and then abort the interpreter's own way out.
    os._exit(0)
