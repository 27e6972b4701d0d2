"""Runs that survive: stopped anywhere, killed while saving, damaged on disk.

    python scripts/benchmarks/survival.py --json survival.json

- ``resume``: the training of an item tokenizer (RQ-VAE), a recommender, an alignment (DPO) and a mixture of experts is
  stopped by SIGTERM in each of ``--stops`` batches (within epochs and within accumulated updates), rerun in another
  process, and compared with the run that was never stopped: every byte of weights, optimizer, schedule, generators and
  state, and every batch that was seen, in its order. The recommender alternates between 0, 2 and 4 loader workers.
- ``kills``: a process that saves checkpoints without end is killed (SIGKILL) at random instants; the newest checkpoint
  must be at least the last one that was told to be complete, and load.
- ``damage``: a bit is flipped, or a file cut short, in folders that stages wrote; the check must name the file.

Sessions are processes of their own, forked from one that has everything loaded and has done nothing: the threads of
polars do not live on in a fork.
"""

import argparse
import gc
import hashlib
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import polars as pl
import torch
from rich.console import Console

from genrec import (
    AlignmentConfig,
    ArtifactError,
    DataConfig,
    Dataset,
    DecodingConfig,
    InterruptedRun,
    ItemFeatures,
    ItemIndex,
    RecommenderConfig,
    TokenizerConfig,
    TrainingConfig,
    make_dataset,
)
from genrec.alignment import align_recommender
from genrec.artifacts import git_commit, result_file, verify_artifact, write_result
from genrec.models import RecommenderModel, build_recommender
from genrec.tokenizers import build_tokenizer, fit_tokenizer
from genrec.tokenizers.parts import learning
from genrec.training import train
from genrec.training.checkpoints import STATE_FILE, CheckpointStore
from genrec.training.memory import RecoverableStep

ITEMS, USERS, WIDTH = 48, 72, 12
DECODING = DecodingConfig(num_beams=4, top_k=5, exclude_seen=False)
SMALL = {"name": "depth", "hidden_size": 16, "num_layers": 1, "num_heads": 1, "max_history": 8, "use_features": False}
EXPERTS = {"experts": 4, "experts_per_token": 2, "balance": "bias", "feed_forward_size": 16}
WORKERS = (0, 2, 4)
Fork = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class World:
    """A data set with vectors and semantic IDs, small enough for hundreds of trainings."""

    dataset: Dataset
    features: ItemFeatures
    index: ItemIndex

    @classmethod
    def open(cls, folder: Path) -> "World":
        """The world of a data set that :func:`make_world` wrote."""
        dataset = Dataset.load(folder)
        values = np.random.default_rng(1).normal(size=(dataset.num_items, WIDTH)).astype(np.float32)
        features = ItemFeatures(values, dataset.item_ids, {"encoder": "random"})
        codes = np.stack(np.unravel_index(np.arange(dataset.num_items), (4, 4, 4)), axis=1).astype(np.int32)
        return cls(dataset, features, ItemIndex(codes, (4, 4, 4), dataset.item_ids))

    def model(self, **settings: Any) -> RecommenderModel:
        """An untrained recommender, always the same."""
        torch.manual_seed(3)
        config = RecommenderConfig(**{**SMALL, **settings})
        return build_recommender(config, num_items=self.dataset.num_items, index=self.index)


def make_world(folder: Path) -> None:
    """Write a data set of users who walk through items."""
    draw = np.random.default_rng(0)
    rows = [
        (f"u{user}", f"i{draw.integers(ITEMS)}", 1_600_000_000 + 60 * step + user)
        for user in range(USERS)
        for step in range(int(draw.integers(4, 10)))
    ]
    rows += [(f"u{item % USERS}", f"i{item}", 1_500_000_000 + item) for item in range(ITEMS)]
    table = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    make_dataset(table, pl.DataFrame({"item_id": [f"i{item}" for item in range(ITEMS)]}), DataConfig(k_core=0), folder)


# ---- the four kinds of training: each leaves its weights in a dictionary ---------------------------------------------


def tokenizer(world: World, folder: Path, workers: int) -> dict[str, Any]:
    """An RQ-VAE with learned codebooks."""
    settings = {"codebook_size": 6, "hidden_sizes": (12,), "latent_size": 6}
    fitted = build_tokenizer(TokenizerConfig(name="rqvae", epochs=14, patience=99, batch_size=16, **settings))
    fitted.checkpoint_path = folder / "progress.safetensors"
    fitted.fit(world.dataset, world.features)
    return fitted.state()


def recommender(world: World, folder: Path, workers: int, **settings: Any) -> dict[str, Any]:
    """A dense recommender; two micro-batches to an update, validated by real lists."""
    model = world.model(**settings)
    config = TrainingConfig(
        epochs=5, batch_size=8, gradient_accumulation_steps=2, eval_epochs=3, eval_users=8, num_workers=workers
    )
    train.train_recommender(model, world.dataset, config, DECODING, folder / "run", console=Console(quiet=True))
    return dict(model.state_dict())


def experts(world: World, folder: Path, workers: int) -> dict[str, Any]:
    """The same with a mixture of experts, whose biases move with every forward pass."""
    return recommender(world, folder, workers, **EXPERTS)


def alignment(world: World, folder: Path, workers: int) -> dict[str, Any]:
    """DPO on implicit preferences, anchored by the next-item loss."""
    model = world.model()
    pairs = {"source": "implicit", "negatives": "popular", "per_user": 2, "list_size": 4}
    training = {"epochs": 2, "batch_size": 3, "eval_users": 8, "metric": "pair_accuracy"}
    values = {"method": "dpo", "tolerance": 0.99, "stop_fall": 0.99}
    config = AlignmentConfig.model_validate({**values, "pairs": pairs, "training": training})
    out, console = folder / "run", Console(quiet=True)
    align_recommender(model, world.dataset, config, DECODING, out, inputs={"model": "m"}, console=console)
    return dict(model.state_dict())


KINDS: dict[str, Callable[[World, Path, int], dict[str, Any]]] = {
    "tokenizer": tokenizer,
    "recommender": recommender,
    "alignment": alignment,
    "experts": experts,
}


# ---- one session -----------------------------------------------------------------------------------------------------


class Witness:
    """Watches one session: every batch, the last checkpoint, and the signal that it sends itself."""

    def __init__(self, stop: int | None) -> None:
        self.stop, self.saved, self.signalled = stop, "", 0.0
        self.seen: list[Any] = []

    def batch(self, content: Any) -> None:
        """Note a batch; stop in it if it is the one."""
        self.seen.append(content)
        if len(self.seen) == self.stop:
            self.signalled = time.monotonic()
            os.kill(os.getpid(), signal.SIGTERM)

    def watch(self) -> None:
        """Look over the shoulder of both loops."""
        add, save = RecoverableStep.add, CheckpointStore.save
        train_epoch = learning._Run.train_epoch

        def add_micro_batch(this: Any, batch: Any, *rest: Any) -> Any:
            self.batch(digest(batch))
            return add(this, batch, *rest)

        def save_checkpoint(this: Any, number: int, *rest: Any) -> None:
            save(this, number, *rest)
            self.saved = content_of(this.path(number))

        def train_tokenizer(run: Any) -> Any:
            for _ in train_epoch(run):
                if run.place:
                    rows = run.order[(run.place - 1) * run.batch_size : run.place * run.batch_size]
                    self.batch(digest({"rows": run.seen[rows]}))
                yield

        patch.object(RecoverableStep, "add", add_micro_batch).start()
        patch.object(CheckpointStore, "save", save_checkpoint).start()
        patch.object(learning._Run, "train_epoch", train_tokenizer).start()
        patch.object(train, "_tracking", lambda *_: []).start()


def digest(tensors: dict[str, Any]) -> str:
    """SHA-256 of tensors or arrays by name."""
    found = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        found.update(f"{name} {array.dtype} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def content_of(checkpoint: Path) -> str:
    """SHA-256 of everything that a checkpoint holds, but times."""
    found = hashlib.sha256()
    for path in sorted(checkpoint.glob("*.safetensors")):
        found.update(path.name.encode() + path.read_bytes())
    state = json.loads((checkpoint / STATE_FILE).read_text())
    del state["run"]["seconds"]
    for record in state["run"]["history"]:
        del record["seconds"], record["validation_seconds"]
    found.update(json.dumps(state, sort_keys=True).encode())
    return found.hexdigest()


def work(dataset: Path, kind: str, folder: Path, stop: int | None, workers: int, tell: Any) -> None:
    """What a session does in its process."""
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    witness, result = Witness(stop), ""
    witness.watch()
    code = 0
    try:
        result = digest(KINDS[kind](World.open(dataset), folder, workers))
    except InterruptedRun as error:
        code = error.exit_code
    waited = time.monotonic() - witness.signalled if witness.signalled else 0.0
    tell.send((witness.seen, witness.saved, result, waited))
    os._exit(code)


def session(dataset: Path, kind: str, folder: Path, stop: int | None = None, workers: int = 0) -> dict[str, Any]:
    """Train in a process of its own, to the end or to a batch."""
    told, tell = Fork.Pipe(duplex=False)
    process = Fork.Process(target=work, args=(dataset, kind, folder, stop, workers, tell))
    process.start()
    tell.close()
    try:
        seen, saved, result, waited = told.recv()
    except EOFError:
        raise RuntimeError(f"a session of {kind} that was to stop in batch {stop} died") from None
    process.join()
    return {"seen": seen, "saved": saved, "result": result, "waited": waited, "code": process.exitcode}


def sweep(dataset: Path, kind: str, folder: Path, stops: list[int]) -> dict[str, Any]:
    """Stop in each of these batches, rerun, compare with the run that was not stopped.

    Args:
        dataset: What is trained on.
        kind: One of ``KINDS``.
        folder: Where sessions write.
        stops: Numbers of batches, from 1.
    """
    folder.mkdir(parents=True)
    whole, equal, waits, began = session(dataset, kind, make(folder / "whole")), 0, [], time.monotonic()
    differing = []
    for place, stop in enumerate(stops):
        workers = WORKERS[place % len(WORKERS)] if kind == "recommender" else 0
        own = make(folder / f"stop-{stop}")
        first = session(dataset, kind, own, stop, workers)
        second = session(dataset, kind, own, None, workers)
        same = (
            first["code"] == 128 + signal.SIGTERM
            and second["code"] == 0
            and first["seen"] + second["seen"] == whole["seen"]
            and second["result"] == whole["result"]
            and second["saved"] == whole["saved"]
        )
        waits.append(first["waited"])
        equal += same
        if not same:
            differing.append(stop)
        print(f"{kind}, stopped in batch {stop}: {'equal' if same else 'DIFFERENT'}", file=sys.stderr, flush=True)
    return {
        "batches": len(whole["seen"]),
        "stops": len(stops),
        "bit_equal": equal,
        "differing": differing,
        "longest_wait_seconds": max(waits),
        "seconds": time.monotonic() - began,
    }


def make(folder: Path) -> Path:
    """A new folder."""
    folder.mkdir()
    return folder


# ---- kill -9 while saving --------------------------------------------------------------------------------------------


def save_without_end(folder: Path, tell: Any) -> None:
    """Save checkpoints whose every number is their step; each third is replaced, as after a validation."""
    store, model = CheckpointStore(folder, {"a": 1}, {"model": "m"}, 0), torch.nn.Linear(256, 256)
    for step in range(1, 10_000):
        torch.nn.init.constant_(model.weight, step)
        torch.nn.init.constant_(model.bias, step)
        moments = {"optimizer": {"0.exp_avg": torch.full((256, 256), float(step))}}
        for _ in range(2 if step % 3 == 0 else 1):
            store.save(step, model, moments, {"run": {"best_step": max(1, step - 1)}})
            tell.send(step)


def kill_while_saving(folder: Path, instants: int, seed: int) -> dict[str, Any]:
    """Kill at random instants, and look whether the newest complete checkpoint is found and loads."""
    draw, survived, halves, times = random.Random(seed), 0, 0, []
    for number in range(instants):
        own = make(folder / f"kill-{number}")
        told, tell = Fork.Pipe(duplex=False)
        process = Fork.Process(target=save_without_end, args=(own, tell))
        process.start()
        tell.close()
        complete = told.recv()
        began = time.monotonic()
        time.sleep(draw.uniform(0, 0.12))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        times.append(time.monotonic() - began)
        try:
            while told.poll():
                complete = told.recv()
        except EOFError:
            pass
        halves += any(path.name.startswith(".") for path in own.iterdir())
        survived += loads(own, complete)
    return {"instants": instants, "survived": survived, "in_the_middle_of_a_save": halves}


def loads(folder: Path, complete: int) -> bool:
    """Whether the newest checkpoint is at least ``complete`` and holds what it should, and nothing else is left."""
    store, model = CheckpointStore(folder, {"a": 1}, {"model": "m"}, 0), torch.nn.Linear(256, 256)
    step, skipped = store.newest()
    if step is None or step < complete or skipped:
        return False
    store.load_weights(step, model)
    moments = store.tensors(step, "optimizer")["0.exp_avg"]
    whole = bool((model.weight == step).all() and (model.bias == step).all() and (moments == step).all())
    return whole and not any(path.name.startswith(".") for path in folder.iterdir())


# ---- damage ----------------------------------------------------------------------------------------------------------


def damage(folders: list[Path], flips: int, cuts: int, seed: int) -> dict[str, Any]:
    """Flip a bit or cut a file, check the folder, put it back."""
    draw, found = random.Random(seed), {"flips": 0, "cuts": 0}
    for number in range(flips + cuts):
        folder, kind = folders[number % len(folders)], "flips" if number < flips else "cuts"
        path = draw.choice([path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size])
        whole = path.read_bytes()
        place = draw.randrange(len(whole))
        flipped = bytes([whole[place] ^ (1 << draw.randrange(8))])
        path.write_bytes(whole[:place] + (flipped + whole[place + 1 :] if kind == "flips" else b""))
        try:
            verify_artifact(folder)
        except ArtifactError as error:
            found[kind] += path.relative_to(folder).as_posix() in str(error)
        path.write_bytes(whole)
    for folder in folders:
        verify_artifact(folder)
    files = sum(path.is_file() for folder in folders for path in folder.rglob("*"))
    named = {"flips_named": found["flips"], "truncations_named": found["cuts"]}
    return {"folders": len(folders), "files": files, "flips": flips, "truncations": cuts, **named}


def folders_to_damage(world: World, folder: Path) -> list[Path]:
    """A tokenizer folder and a checkpoint."""
    config = TokenizerConfig(name="rqkmeans", num_levels=2, codebook_size=4)
    fit_tokenizer(config, world.dataset, world.features, folder / "tokenizer")
    recommender(world, folder, 0)
    return [folder / "tokenizer", max((folder / "run").glob("checkpoint-*"), key=lambda path: path.stat().st_mtime)]


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=result_file, required=True, help="where the figures are written")
    parser.add_argument("--kinds", nargs="*", choices=list(KINDS), default=list(KINDS), help="kinds of training")
    parser.add_argument("--stops", type=int, default=40, help="stop points of each kind of training")
    parser.add_argument("--first", type=int, default=1, help="the first batch that is stopped in")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--truncations", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # What is loaded here stays as it is in every session, and no collection looks at it.
    gc.collect()
    gc.freeze()
    git_commit()
    figures: dict[str, Any] = {"command": " ".join(["python", *sys.argv])}
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        dataset = home / "dataset"
        writer = Fork.Process(target=make_world, args=(dataset,))
        writer.start()
        writer.join()
        figures["resume"] = {}
        stops = list(range(arguments.first, arguments.first + arguments.stops))
        for kind in arguments.kinds:
            figures["resume"][kind] = sweep(dataset, kind, home / kind, stops)
            print(kind, figures["resume"][kind], flush=True)
        figures["kills"] = kill_while_saving(make(home / "kills"), arguments.kills, arguments.seed)
        print("kills", figures["kills"], flush=True)
        folders = folders_to_damage(World.open(dataset), make(home / "damage"))
        figures["damage"] = damage(folders, arguments.flips, arguments.truncations, arguments.seed)
    write_result(arguments.json, figures)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
