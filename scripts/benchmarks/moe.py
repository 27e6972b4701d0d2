"""The sparse feed-forward layer against loops over experts: one training step, forward and backward.

    python scripts/benchmarks/moe.py --json moe.json

- ``grouped``: the layer, positions sorted by expert;
- ``every_expert``: the naive loop: each expert on all positions, weighted by zero where it was not chosen;
- ``gathered``: the loop that gathers the positions of each expert by a mask, computes, and adds them back.

All share weights and choices; outputs and gradients are compared before anything is timed. Rounds alternate between
the ways, so that whatever else the machine does strikes all, and the median of each is told.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import linear

from genrec.artifacts import result_file, write_result
from genrec.models.layers.moe import ExpertSettings, MixtureOfExperts

Way = Callable[[MixtureOfExperts, Tensor], Tensor]


def route(layer: MixtureOfExperts, x: Tensor) -> tuple[Tensor, Tensor]:
    """Chosen experts and weights, ``[n, k]`` each."""
    best = linear(x, layer.router).softmax(-1).topk(layer.settings.experts_per_token)
    return best.indices, best.values / best.values.sum(-1, keepdim=True)


def every_expert(layer: MixtureOfExperts, x: Tensor) -> Tensor:
    """Each expert on all positions."""
    chosen, gates = route(layer, x)
    out = torch.zeros_like(x)
    for expert in range(layer.settings.experts):
        weight = (gates * (chosen == expert)).sum(-1, keepdim=True)
        inner = layer._activate(linear(x, layer.first[expert]))
        out = out + weight * linear(inner, layer.second[expert])
    return out


def gathered(layer: MixtureOfExperts, x: Tensor) -> Tensor:
    """Each expert on its positions, found by a mask."""
    chosen, gates = route(layer, x)
    out = torch.zeros_like(x)
    for expert in range(layer.settings.experts):
        rows, place = torch.where(chosen == expert)
        inner = layer._activate(linear(x[rows], layer.first[expert]))
        out = out.index_add(0, rows, linear(inner, layer.second[expert]) * gates[rows, place].unsqueeze(-1))
    return out


def grouped(layer: MixtureOfExperts, x: Tensor) -> Tensor:
    """The layer itself."""
    return layer(x)


WAYS: dict[str, Way] = {"grouped": grouped, "every_expert": every_expert, "gathered": gathered}


def step(way: Way, layer: MixtureOfExperts, x: Tensor, pull: Tensor) -> list[Tensor]:
    """Output and gradients of one step."""
    layer.zero_grad()
    given = x.clone().requires_grad_()
    output = way(layer, given)
    output.backward(pull)
    return [output.detach(), *(value.grad for value in (given, *layer.parameters()) if value.grad is not None)]


def measure(layer: MixtureOfExperts, x: Tensor, rounds: int) -> tuple[dict[str, float], float]:
    """Median milliseconds of a step of each way, and the largest difference between any two."""
    pull = torch.randn_like(x)
    results = {name: [part.clone() for part in step(way, layer, x, pull)] for name, way in WAYS.items()}
    differences = [
        float((ours - theirs).abs().max())
        for name in ("every_expert", "gathered")
        for ours, theirs in zip(results["grouped"], results[name], strict=True)
    ]
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, way in WAYS.items():
            began = time.perf_counter()
            step(way, layer, x, pull)
            times[name].append(1000 * (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in times.items()}, max(differences)


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=result_file, required=True, help="where the figures are written")
    parser.add_argument("--experts", type=int, default=16)
    parser.add_argument("--experts-per-token", type=int, default=2)
    parser.add_argument("--hidden-size", type=int, default=128)
    parser.add_argument("--feed-forward-size", type=int, default=256)
    parser.add_argument("--positions", type=int, default=4096, help="positions of a batch")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    settings = ExpertSettings(experts=arguments.experts, experts_per_token=arguments.experts_per_token, balance="none")
    layer = MixtureOfExperts(arguments.hidden_size, arguments.feed_forward_size, settings)
    times, difference = measure(layer, torch.randn(arguments.positions, arguments.hidden_size), arguments.rounds)
    figures = {
        "command": " ".join(["python", *sys.argv]),
        "machine": {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "processor": platform.machine()},
        "shape": {name: value for name, value in vars(arguments).items() if name != "json"},
        "largest_difference": difference,
        "milliseconds_per_step": times,
        "every_expert_over_grouped": times["every_expert"] / times["grouped"],
        "gathered_over_grouped": times["gathered"] / times["grouped"],
    }
    write_result(arguments.json, figures)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
