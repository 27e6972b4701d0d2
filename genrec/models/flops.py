"""Floating-point operations of training, by a rule that knows no padding and no experts that were not chosen.

A product of ``[m, k]`` and ``[k, n]`` costs 2mkn. Counted are, for every position of a history: linear layers, the
codes' heads, the router with the experts that a position is sent to and the shared ones, and the two products of
attention over the whole square of positions. The backward pass costs twice the forward one. Not counted: lookups,
norms, softmax, activations and the optimizer.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genrec.errors import ConfigError
from genrec.models.base import RecommenderModel
from genrec.models.layers.codes import CodeHead
from genrec.models.layers.moe import MixtureOfExperts, expert_layers
from genrec.models.layers.transformer import TransformerBlock
from genrec.models.registry import families_with

TRAINING_PASSES = 3


def training_flops(model: RecommenderModel, lengths: np.ndarray) -> int:
    """Operations of one epoch: forward and backward over every window once.

    Args:
        model: Of a family that is counted, without an item loss.
        lengths: Items of every window that it learns from, int ``[W]``.

    Raises:
        ConfigError: If the model has products that the rule does not know.
    """
    if not model.counts_flops or model.settings.has_item_probabilities:
        raise ConfigError(
            f"the operations of this {model.config.family!r} model are not counted",
            where="recommender",
            expected=f"one of {', '.join(families_with('counts_flops'))}, without item_loss",
            fix="choose one of these",
        )
    sizes, counts = np.unique(lengths, return_counts=True)
    pairs = zip(sizes.tolist(), counts.tolist(), strict=True)
    return TRAINING_PASSES * sum(count * _forward_flops(model, size) for size, count in pairs)


def active_parameters(model: nn.Module) -> int:
    """Parameters that one position can meet: all but the experts that it is not sent to."""
    idle = 0
    for layer in expert_layers(model.modules()):
        settings = layer.settings
        idle += (settings.experts - settings.experts_per_token) * (layer.first[0].numel() + layer.second[0].numel())
    return sum(parameter.numel() for parameter in model.parameters()) - idle


def _forward_flops(model: RecommenderModel, length: int) -> int:
    """Operations of the loss of one window."""
    counted = 0

    def add(module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        nonlocal counted
        counted += _RULES[type(module)](module, given)

    handles = [module.register_forward_hook(add) for module in model.modules() if type(module) in _RULES]
    device, training = model.device, model.training
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, length, dtype=torch.int64, device=device), torch.tensor([length]).to(device))
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return counted


def _linear(module: nn.Linear, given: tuple[Tensor, ...]) -> int:
    return 2 * given[0].numel() * module.out_features


def _head(module: CodeHead, given: tuple[int, Tensor]) -> int:
    return 2 * given[1].numel() * module.space.level_sizes[given[0]]


def _experts(module: MixtureOfExperts, given: tuple[Tensor, ...]) -> int:
    mask = given[1] if len(given) > 1 else None
    positions = given[0][..., 0].numel() if mask is None else int(mask.sum())
    weights = module.router.numel()
    weights += module.settings.experts_per_token * (module.first[0].numel() + module.second[0].numel())
    if module.shared_first is not None and module.shared_second is not None:
        weights += module.shared_first.numel() + module.shared_second.numel()
    return 2 * positions * weights


def _attention(module: TransformerBlock, given: tuple[Tensor, ...]) -> int:
    users, length, width = given[0].shape
    return 4 * users * length * length * width


_RULES: dict[type[nn.Module], Callable[[Any, Any], int]] = {
    nn.Linear: _linear,
    CodeHead: _head,
    MixtureOfExperts: _experts,
    TransformerBlock: _attention,
}
