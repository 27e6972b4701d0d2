"""Expert parallelism: the experts of a model are shared out among processes, all else is in each of them (DDP).

Processes in groups of P, those of neighboring ranks, hold one set of experts together, E / P each; the rows of a batch
travel to the experts that they are routed to, and back (GShard, Lepikhin et al. 2020). An expert's gradient is the mean
over the processes that hold the same experts, one of each group; every other gradient is that over all.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from genrec.distributed.launch import Launch
from genrec.distributed.world import World
from genrec.errors import ConfigError
from genrec.models.layers.moe import MixtureOfExperts, expert_layers
from genrec.training.strategies.base import ShardedStrategy


def check_experts(network: nn.Module, parts: int, *, section: str = "training") -> None:
    """Check that a model's experts can be shared by so many processes.

    Args:
        network: The model.
        parts: How many processes.
        section: Of the recipe that says so.

    Raises:
        ConfigError: If it has none, or their number is no multiple of that of the processes.
    """
    if parts == 1:
        return
    counts = {layer.settings.experts for layer in expert_layers(network.modules())}
    if not counts:
        raise ConfigError(
            f"{section}.expert_parallel is {parts} and the model has no experts",
            where="recommender.experts",
            expected=f"a multiple of {parts}, in a family with experts",
            fix=f"set recommender.experts, or {section}.expert_parallel=1",
        )
    for experts in counts:
        if experts % parts:
            raise ConfigError(
                f"{experts} experts cannot be divided among {parts} processes",
                where=f"{section}.expert_parallel",
                expected=f"a divisor of recommender.experts, {experts}",
                fix=f"set {section}.expert_parallel to such a number, or recommender.experts to a multiple of it",
            )


class ExpertParallel(ShardedStrategy):
    """See the module.

    Args:
        network: With experts; see :func:`check_experts`.
        launch: How the processes were started.
        world: The processes.
        parts: P, which divides their number.
    """

    def __init__(self, network: nn.Module, launch: Launch, world: World, parts: int) -> None:
        super().__init__(network, launch, world)
        ranks = torch.arange(world.size).view(-1, parts)
        self.group, _ = distributed.new_subgroups_by_enumeration(ranks.tolist())
        self.peers, _ = distributed.new_subgroups_by_enumeration(ranks.T.tolist())
        names, self.own = [], []
        for name, layer in self.trained.named_modules():
            if isinstance(layer, MixtureOfExperts):
                layer.spread(self.group)
                names += [f"{name}.{part}" for part in layer.SPREAD]
                self.own += [getattr(layer, part) for part in layer.SPREAD]
        self._known = {id(parameter) for parameter in self.own}
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.trained, names)
        self.trained.to("cpu" if launch.cpu else "cuda")

    def gather(self, value: Any, parameter: Tensor) -> Any:
        """See :class:`genrec.training.strategies.base.ShardedStrategy`."""
        if id(parameter) not in self._known or value.shape != parameter.shape:
            return value
        parts = [torch.empty_like(value) for _ in range(self.group.size())]
        distributed.all_gather(parts, value.contiguous(), group=self.group)
        return torch.cat(parts)

    def scatter(self, value: Any, parameter: Tensor) -> Any:
        """See :class:`genrec.training.strategies.base.ShardedStrategy`."""
        if id(parameter) not in self._known or value.shape[1:] != parameter.shape[1:]:
            return value
        return value.chunk(self.group.size())[self.group.rank()].clone()

    def clip(self, max_norm: float) -> Tensor:
        """Average the experts' gradients, and scale all to a norm that counts each expert once."""
        own = [parameter.grad for parameter in self.own if parameter.grad is not None]
        for gradient in own:
            distributed.all_reduce(gradient, group=self.peers)
            gradient /= self.world.size
        common = [parameter.grad for parameter in self.common_parameters() if parameter.grad is not None]
        squares = get_total_norm(own).square()
        distributed.all_reduce(squares, group=self.group)
        norm = (get_total_norm(common).square() + squares).sqrt()
        clip_grads_with_norm_(self.trained.parameters(), max_norm, norm)
        return norm

    def common_parameters(self) -> Iterator[nn.Parameter]:
        """See :class:`genrec.training.strategies.base.Strategy`."""
        return (parameter for parameter in self.trained.parameters() if id(parameter) not in self._known)

    def checksum(self, norm: float) -> list[float]:
        """Besides those of the gradients that all hold, the sum over all experts of theirs."""
        gradients = [parameter.grad.double().sum() for parameter in self.own if parameter.grad is not None]
        total = torch.stack(gradients).sum()
        distributed.all_reduce(total, group=self.group)
        return [*super().checksum(norm), float(total)]
