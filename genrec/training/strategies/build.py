"""Which strategy a launcher asked for."""

import torch
from torch import nn

from genrec.distributed.launch import Launch
from genrec.distributed.world import World
from genrec.training.strategies.base import Strategy, not_together
from genrec.training.strategies.deepspeed import DeepSpeed
from genrec.training.strategies.expert_parallel import ExpertParallel
from genrec.training.strategies.fsdp import FSDP2


def build_strategy(network: nn.Module, launch: Launch, world: World, expert_parallel: int = 1) -> Strategy:
    """What the launcher ordered for this model.

    Args:
        network: With equal weights in all processes.
        launch: How they were started.
        world: The processes.
        expert_parallel: How many of them share the experts of a model.

    Raises:
        ConfigError: If the processes start from different weights.
    """
    if world.size > 1:
        sums = [weights.detach().double().sum() for weights in network.parameters()]
        found = world.gather_numbers(float(torch.stack(sums).sum()), float(len(sums)))
        if not torch.equal(found, found[:1].expand_as(found)):
            raise not_together("the processes start from different weights")
    if launch.wrapper == "deepspeed":
        return DeepSpeed(network, launch, world)
    if expert_parallel > 1:
        return ExpertParallel(network, launch, world, expert_parallel)
    return (FSDP2 if launch.wrapper == "fsdp2" else Strategy)(network, launch, world)
