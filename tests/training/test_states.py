"""Optimizer and random states survive safetensors and JSON to the last bit."""

import json
import random

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from genrec.training.serialization import capture_random, pack_optimizer, restore_random, unpack_optimizer


def weights() -> list[torch.nn.Parameter]:
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.randn(4))]


OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW([{"params": p[:1], "weight_decay": 0.1}, {"params": p[1:]}], lr=0.1),
    "fused": lambda p: torch.optim.AdamW(p, lr=0.1, betas=(0.8, 0.9), fused=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
}


def step(parameters, optimizer):
    loss = sum((p * (i + 1) - 1).square().sum() for i, p in enumerate(parameters))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_continues_bit_by_bit(name: str):
    parameters = weights()
    optimizer = OPTIMIZERS[name](parameters)
    for _ in range(3):
        step(parameters, optimizer)
    tensors, rest = pack_optimizer(optimizer.state_dict())
    tensors, rest = load(save(tensors)), json.loads(json.dumps(rest))
    others = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    fresh = OPTIMIZERS[name](others)
    fresh.load_state_dict(unpack_optimizer(tensors, rest, fresh.state_dict()))
    assert fresh.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    for _ in range(3):
        step(parameters, optimizer)
        step(others, fresh)
    assert all(torch.equal(a, b) for a, b in zip(parameters, others, strict=True))


def test_all_generators_continue():
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    np.random.randn()  # leaves a second normal number waiting in the state
    random.gauss(0, 1)
    tensors, rest = capture_random()
    tensors, rest = load(save(tensors)), json.loads(json.dumps(rest))
    draw = lambda: (torch.rand(3).tolist(), np.random.randn(3).tolist(), random.gauss(0, 1), random.random())  # noqa: E731
    expected = draw()
    assert draw() != expected
    restore_random(tensors, rest)
    assert draw() == expected
