"""Optimizer and random states as plain tensors and JSON, so that a checkpoint holds no pickle and loses no bit."""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import set_seed

Tensors = dict[str, Tensor]


def pack_optimizer(state: dict[str, Any]) -> tuple[Tensors, dict[str, Any]]:
    """Split an optimizer's ``state_dict`` into tensors, named ``parameter.key``, and the JSON-able rest."""
    tensors: Tensors = {}
    values: dict[str, dict[str, Any]] = {}
    for parameter, entries in state["state"].items():
        values[str(parameter)] = {}
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{parameter}.{key}"] = value.detach().contiguous()
            else:
                values[str(parameter)][key] = value
    return tensors, {"values": values, "groups": state["param_groups"]}


def unpack_optimizer(tensors: Tensors, rest: dict[str, Any], fresh: dict[str, Any]) -> dict[str, Any]:
    """Undo :func:`pack_optimizer`.

    Args:
        tensors: Named ``parameter.key``.
        rest: The JSON part.
        fresh: ``state_dict`` of the optimizer that will take the result; says where JSON made a list of a tuple.
    """
    state: dict[int, dict[str, Any]] = {int(parameter): dict(values) for parameter, values in rest["values"].items()}
    for name, tensor in tensors.items():
        parameter, _, key = name.partition(".")
        state[int(parameter)][key] = tensor
    groups = []
    for loaded, new in zip(rest["groups"], fresh["param_groups"], strict=True):
        groups.append({k: tuple(v) if isinstance(new.get(k), tuple) else v for k, v in loaded.items()})
    return {"state": state, "param_groups": groups}


def capture_random() -> tuple[Tensors, dict[str, Any]]:
    """The states of the generators of torch (CPU and the current CUDA device), numpy and Python."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, numbers, next_gauss = random.getstate()
    tensors = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
        "python": torch.tensor(numbers, dtype=torch.int64),
    }
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    return tensors, {
        "numpy": [name, int(position), int(has_gauss), float(gauss)],
        "python": [version, next_gauss],
    }


def reseed(seed: int, rank: int, step: int) -> None:
    """Give a process generators of its own, for one that has none to take up."""
    set_seed(int(np.random.SeedSequence([seed, rank, step]).generate_state(1)[0]))


def restore_random(tensors: Tensors, rest: dict[str, Any]) -> None:
    """Undo :func:`capture_random`."""
    torch.set_rng_state(tensors["torch"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
    name, position, has_gauss, gauss = rest["numpy"]
    np.random.set_state((name, tensors["numpy"].numpy().astype(np.uint32), position, has_gauss, gauss))
    version, next_gauss = rest["python"]
    random.setstate((version, tuple(tensors["python"].tolist()), next_gauss))
