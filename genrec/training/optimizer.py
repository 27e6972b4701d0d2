"""AdamW and its schedule, as ``transformers.Trainer`` sets them up: the same groups, the same fused update."""

import re

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from genrec.config import TrainingConfig

NOT_DECAYED = re.compile(r"bias|layernorm|rmsnorm|(^|\.)norm(\.|$)|_norm(\.|$)")
SCHEDULERS = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}


def build_optimizer(model: nn.Module, config: TrainingConfig) -> Optimizer:
    """AdamW (Loshchilov and Hutter 2019) in two groups: weight decay, and none for biases and norms."""
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    decayed = decayed_parameters(model)
    groups = [
        {
            "params": [weight for name, weight in trained.items() if name in decayed],
            "weight_decay": config.weight_decay,
        },
        {"params": [weight for name, weight in trained.items() if name not in decayed], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=config.learning_rate, fused=True)


def decayed_parameters(model: nn.Module) -> set[str]:
    """Names of the parameters that weight decay is applied to."""
    in_norms = {
        f"{module}.{name}"
        for module, layer in model.named_modules()
        if isinstance(layer, nn.LayerNorm)
        for name, _ in layer.named_parameters()
    }
    names = {name for name, _ in model.named_parameters()}
    return {name for name in names - in_norms if not NOT_DECAYED.search(name.lower())}


def build_scheduler(optimizer: Optimizer, config: TrainingConfig, total_steps: int) -> LRScheduler:
    """The learning rate of each of ``total_steps`` updates: a linear warm-up, then what the recipe says."""
    warmup = int(config.warmup_ratio * total_steps)
    scheduler: LRScheduler = get_scheduler(SCHEDULERS[config.scheduler], optimizer, warmup, total_steps)
    return scheduler
