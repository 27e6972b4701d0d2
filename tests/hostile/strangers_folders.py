"""What a stranger may do to a finished folder: each damage is a function of the folder, most are followed by new seals.

``sealed`` writes the manifests anew, so that every hash fits: what is left to find is in the contents.
"""

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.numpy import load_file, save_file
from tiny_run import tiny_home

Damage = Callable[[Path], object]
# Planted where a folder might have code run: it leaves a trace in the working folder.
EVIL = "open('PWNED', 'w').write('x')\nclass Evil:\n    pass\n"
OUTSIDE = "the file that no folder may reach"


def seal(folder: Path, listed: Callable[[str], bool] = lambda name: True) -> None:
    """Write all manifests of a folder anew, from the inside out, with the hashes of what is there now."""
    for place in sorted((path.parent for path in folder.rglob("manifest.json")), key=lambda path: -len(path.parts)):
        names = (path.relative_to(place).as_posix() for path in sorted(place.rglob("*")) if path.is_file())
        kept = [name for name in names if Path(name).name not in ("manifest.json", "README.md") and listed(name)]
        files = {name: (place / name).read_bytes() for name in kept}
        records = {
            name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()
        }
        write_manifest(place, json.loads((place / "manifest.json").read_text()) | {"files": records})


def write_manifest(folder: Path, values: dict[str, Any]) -> None:
    """A manifest with a seal that fits, whatever it says."""
    values.pop("digest", None)
    body = json.dumps(values, indent=2)
    digest = hashlib.sha256(body.encode()).hexdigest()
    (folder / "manifest.json").write_text(f'{body[:-2]},\n  "digest": "{digest}"\n}}\n')


@cache
def plain_run() -> Path:
    """The run that all tests share, without its pictures, so that copies are cheap."""
    target = tiny_home() / "plain"
    shutil.copytree(tiny_home() / "run", target, ignore=shutil.ignore_patterns("*.png", "baselines", "tensorboard"))
    for stage in ("model", "tokenizer"):
        seal(target / stage)
    return target


def edited(name: str, change: Callable[[Any], object]) -> Damage:
    """A JSON file whose content is changed in place, or replaced by what ``change`` returns."""

    def damage(folder: Path) -> None:
        values = json.loads((folder / name).read_text())
        returned = change(values)
        (folder / name).write_text(json.dumps(values if returned is None else returned))
        seal(folder)

    return damage


def setting(name: str, *path: str, to: object) -> Damage:
    """One field of a JSON file set to a value."""

    def change(values: Any) -> None:
        for part in path[:-1]:
            values = values[part]
        values[path[-1]] = to

    return edited(name, change)


def without(name: str, *path: str) -> Damage:
    """A JSON file without one of its fields."""

    def change(values: Any) -> None:
        for part in path[:-1]:
            values = values[part]
        del values[path[-1]]

    return edited(name, change)


def arrays(name: str, change: Callable[[dict[str, np.ndarray]], object]) -> Damage:
    """A safetensors file whose arrays are changed in place."""

    def damage(folder: Path) -> None:
        with (folder / name).open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        stored = {key: value.copy() for key, value in load_file(folder / name).items()}
        change(stored)
        save_file(stored, folder / name, metadata=header.get("__metadata__"))
        seal(folder)

    return damage


def table(name: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> Damage:
    """A Parquet file with another table."""

    def damage(folder: Path) -> None:
        change(pl.read_parquet(folder / name)).write_parquet(folder / name)
        seal(folder)

    return damage


def written(name: str, content: str | bytes = OUTSIDE, *, resealed: bool = False) -> Damage:
    """A file with other content."""

    def damage(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        if resealed:
            seal(folder)

    return damage


def removed(name: str, *, resealed: bool = False) -> Damage:
    """A file less."""

    def damage(folder: Path) -> None:
        (folder / name).unlink()
        if resealed:
            seal(folder)

    return damage


def linked(name: str, target: Callable[[Path], Path]) -> Damage:
    """A link in the folder, in place of what has its name."""

    def damage(folder: Path) -> None:
        place = folder / name
        moved = folder.with_name("moved")
        if place.exists():
            place.rename(moved)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target(folder))

    return damage


def manifested(change: Callable[[dict[str, Any]], object]) -> Damage:
    """A manifest that says something else, sealed."""

    def damage(folder: Path) -> None:
        values = json.loads((folder / "manifest.json").read_text())
        change(values)
        write_manifest(folder, values)

    return damage


def named(name: str) -> Damage:
    """A manifest that names a file elsewhere, whose hash fits."""
    digest = hashlib.sha256(OUTSIDE.encode()).hexdigest()
    return manifested(lambda values: values["files"].update({name: {"size": len(OUTSIDE), "sha256": digest}}))


def special(name: str, kind: str) -> Damage:
    """A pipe or a socket."""

    def damage(folder: Path) -> None:
        if kind == "pipe":
            os.mkfifo(folder / name)
            return
        here = os.getcwd()
        os.chdir(folder)
        try:
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(name)
        finally:
            os.chdir(here)

    return damage


def sharded(folder: Path) -> None:
    """Weights outside of the folder, named by an index inside."""
    names = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder.with_name("outside.safetensors"))
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "../outside.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    seal(folder)


def pickled(folder: Path) -> None:
    """The same weights as a pickle."""
    weights = {name: torch.from_numpy(array) for name, array in load_file(folder / "model.safetensors").items()}
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    seal(folder)


def adapted(folder: Path) -> None:
    """An adapter, listed: what changes the weights must be the weights."""
    config = {"peft_type": "LORA", "base_model_name_or_path": "../elsewhere", "r": 1, "target_modules": ["query"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file({"base_model.model.start": np.zeros(2, dtype=np.float32)}, folder / "adapter_model.safetensors")
    seal(folder)


def disagreeing(folder: Path) -> None:
    """The manifest of the tokenizer and that of the model name other files."""
    values = json.loads((folder / "tokenizer" / "manifest.json").read_text())
    del values["files"]["index.json"]
    write_manifest(folder / "tokenizer", values)


def encoder(name: str, **settings: object) -> Damage:
    """Another encoder in the model folder, which reads files elsewhere."""

    def damage(folder: Path) -> None:
        described = {"encoder": name, "settings": settings, "state": {"parts": [{}], "widths": [1]}}
        (folder / "encoder" / "encoder.json").write_text(json.dumps(described))
        save_file({"scales": np.ones(1, dtype=np.float32)}, folder / "encoder" / "arrays.safetensors")
        place = folder / "encoder" / "st"
        place.mkdir()
        (place / "modules.json").write_text('[{"idx": 0, "name": "0", "path": "", "type": "evil_mod.Evil"}]')
        (place / "config.json").write_text('{"model_type": "bert"}')
        (place / "evil_mod.py").write_text(EVIL)
        seal(folder)

    return damage
