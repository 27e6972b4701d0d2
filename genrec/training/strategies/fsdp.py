"""FSDP2: weights, gradients and optimizer sharded by ``fully_shard`` of torch."""

import os
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from genrec.config import TrainingConfig
from genrec.distributed.launch import Launch
from genrec.distributed.world import World
from genrec.training.gradient_checkpointing import blocks_of
from genrec.training.optimizer import build_optimizer
from genrec.training.strategies.base import ShardedStrategy, full_tensor


class FSDP2(ShardedStrategy):
    """Weights, gradients and optimizer are sharded by ``fully_shard`` of torch (FSDP2; Zhao et al. 2023).

    accelerate shards on GPUs only, and gives embeddings a group of their own, which a model that reads their weights
    outside of their forward pass does not survive. Here the layers of a model are groups, and all the rest is one.
    """

    def __init__(self, network: nn.Module, launch: Launch, world: World) -> None:
        super().__init__(network, launch, world)
        mesh = init_device_mesh("cpu" if launch.cpu else "cuda", (world.size,))
        offload = CPUOffloadPolicy() if _flag("FSDP_OFFLOAD_PARAMS") else OffloadPolicy()
        for block in blocks_of(self.trained):
            resharded = _flag("FSDP_RESHARD_AFTER_FORWARD", True)
            fully_shard(block, mesh=mesh, offload_policy=offload, reshard_after_forward=resharded)
        fully_shard(self.trained, mesh=mesh, offload_policy=offload)

    def prepare(self, accelerator: Accelerator, config: TrainingConfig) -> None:
        """See :class:`~genrec.training.strategies.base.Strategy`.

        The shards are on their devices already, and accelerate would wrap them in DDP.
        """
        self.accelerator, self.model = accelerator, self.trained
        self.optimizer = accelerator.prepare(build_optimizer(self.trained, config))

    def gather(self, value: Any, parameter: Tensor) -> Any:
        """See :class:`ShardedStrategy`."""
        return full_tensor(value)

    def scatter(self, value: Any, parameter: Tensor) -> Any:
        """See :class:`ShardedStrategy`; what has another shape stays as it is."""
        if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
            return value
        value = value.to(parameter.device)
        return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)

    def is_wrapped(self) -> bool:
        """See :class:`~genrec.training.strategies.base.Strategy`."""
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return all(isinstance(shard, DTensor) and shard.device_mesh.size() == self.world.size for shard in trained)

    def checksum(self, norm: float) -> list[float]:
        """The norm over all shards."""
        return [norm]


def _flag(name: str, default: bool = False) -> bool:
    return os.environ.get(name, str(default)).lower() in ("1", "true", "yes")
