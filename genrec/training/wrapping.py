"""What keeps the models of several processes one model, and how their parts become whole again.

Whatever the wrapper, a checkpoint is that of one process: whole weights, and the optimizer's state by the number of
the parameter. So a run continues with another wrapper, or with another number of processes. Where weights are sharded,
Trainer trains a twin of the caller's model; the caller's own waits on the CPU, whole, for validation and for saving.
"""

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint
from transformers import Trainer

from genrec.errors import ConfigError
from genrec.models.layers.moe import equal_masks
from genrec.training.launch import Launch
from genrec.training.world import World

State = dict[str, Any]


class Whole:
    """Every process holds the whole model: one process, or DDP.

    Attributes:
        network: The caller's model.
        trained: What Trainer trains; the same model.
    """

    # What accelerate's ``backward`` is told beside the loss.
    backward_options: ClassVar[dict[str, Any]] = {}

    def __init__(self, network: nn.Module, launch: Launch, world: World) -> None:
        self.network, self.trained, self.launch, self.world = network, network, launch, world
        self.verified = world.size == 1

    def set_precision(self, trainer: Trainer, precision: str) -> bool:
        """Whether Trainer must open autocast around the forward pass; else it is seen to here."""
        return precision == "bf16"

    def gather_weights(self) -> None:
        """Make the weights of ``network`` those that were trained; all processes must take part."""

    @contextmanager
    def whole_network(self, device: torch.device) -> Iterator[nn.Module]:
        """The caller's model with the weights of now, on a device for as long as it is used."""
        self.gather_weights()
        apart = self.network is not self.trained
        yield self.network.to(device) if apart else self.network
        if apart:
            self.network.to("cpu").train()

    def optimizer_state(self, optimizer: Optimizer) -> State:
        """The whole ``state_dict`` of the optimizer; all processes must take part."""
        return optimizer.state_dict()

    def load_optimizer(self, optimizer: Optimizer, state: State) -> None:
        """Undo :meth:`optimizer_state`."""
        optimizer.load_state_dict(state)

    def note_optimizer(self, optimizer: Optimizer) -> None:
        """Look at the optimizer before anything wraps it."""

    def wrapped(self, trainer: Trainer) -> bool:
        """Whether the wrapper is what was ordered."""
        return self.world.size == 1 or isinstance(trainer.model_wrapped, DistributedDataParallel)

    def clip(self, trainer: Trainer, most: float) -> Tensor:
        """Scale the gradients down to a norm, of all of them together, of at most this; returns what it was."""
        norm = trainer.accelerator.clip_grad_norm_(trainer.model_wrapped.parameters(), most)
        return torch.as_tensor(whole(norm))

    def common_parameters(self) -> Iterator[nn.Parameter]:
        """Those that every process holds."""
        return self.trained.parameters()

    def checksum(self, norm: float) -> list[float]:
        """Numbers of the gradients that are equal in all processes when these train together."""
        gradients = [parameter.grad for parameter in self.common_parameters() if parameter.grad is not None]
        if not gradients:
            return [norm]
        sums = torch.stack([gradient.double().sum() for gradient in gradients])
        places = torch.arange(1, len(sums) + 1, device=sums.device, dtype=torch.float64)
        return [norm, float(sums.sum()), float((sums * places).sum())]

    def verify(self, trainer: Trainer, norm: float) -> None:
        """Check before the first update that the processes train one model.

        Args:
            trainer: With gradients, synchronised as it believes.
            norm: Their norm.

        Raises:
            ConfigError: If accelerate knows of fewer processes, wrapped the model otherwise, or gradients differ.
        """
        if self.verified:
            return
        counted = trainer.accelerator.num_processes
        if counted != self.launch.size:
            raise _apart(f"accelerate counts {counted} processes and the launcher started {self.launch.size}")
        if not self.wrapped(trainer):
            found = type(trainer.model_wrapped).__name__
            raise _apart(f"the model was to be wrapped by {self.launch.wrapper} and is a {found}")
        sums = self.world.gather_numbers(*self.checksum(norm))
        if not torch.equal(sums, sums[:1].expand_as(sums)) and torch.isfinite(sums).all():
            raise _apart("the gradients of the processes differ after they were synchronised")
        self.verified = True


class Parted(Whole):
    """A twin of the model is trained of which a process holds a part; the caller's own waits on the CPU, whole."""

    def __init__(self, network: nn.Module, launch: Launch, world: World) -> None:
        super().__init__(network, launch, world)
        self.trained = copy.deepcopy(network)
        network.to("cpu").train()

    def join(self, value: Any, parameter: Tensor) -> Any:
        """What all processes have of a parameter, or of the optimizer's state for it; all must take part."""
        raise TypeError(f"{type(self).__name__} must define join")

    def divide(self, value: Any, parameter: Tensor) -> Any:
        """Undo :meth:`join`."""
        raise TypeError(f"{type(self).__name__} must define divide")

    def gather_weights(self) -> None:
        """See :class:`Whole`."""
        target = self.network.state_dict()
        for name, value in self.trained.state_dict(keep_vars=True).items():
            target[name].copy_(self.join(value.detach(), value))

    def optimizer_state(self, optimizer: Optimizer) -> State:
        """See :class:`Whole`."""
        state, parameters = optimizer.state_dict(), _parameters_of(optimizer)
        joined = {
            index: {key: self.join(value, parameters[index]) for key, value in entry.items()}
            for index, entry in state["state"].items()
        }
        return state | {"state": joined}

    def load_optimizer(self, optimizer: Optimizer, state: State) -> None:
        """See :class:`Whole`."""
        parameters = _parameters_of(optimizer)
        state["state"] = {
            index: {key: self.divide(value, parameters[index]) for key, value in entry.items()}
            for index, entry in state["state"].items()
        }
        optimizer.load_state_dict(state)


class Sharded(Parted):
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
        # accelerate would wrap the shards in DDP.
        self.trained._is_accelerate_prepared = True  # type: ignore[assignment]

    def join(self, value: Any, parameter: Tensor) -> Any:
        """See :class:`Parted`."""
        return whole(value)

    def divide(self, value: Any, parameter: Tensor) -> Any:
        """See :class:`Parted`; what has another shape stays as it is."""
        if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.shape != parameter.shape:
            return value
        value = value.to(parameter.device)
        return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)

    def wrapped(self, trainer: Trainer) -> bool:
        """See :class:`Whole`."""
        parts = [parameter for parameter in trainer.model_wrapped.parameters() if parameter.requires_grad]
        return all(isinstance(part, DTensor) and part.device_mesh.size() == self.world.size for part in parts)

    def checksum(self, norm: float) -> list[float]:
        """The norm over all shards."""
        return [norm]


def wrapping_for(network: nn.Module, launch: Launch, world: World, expert_parallel: int = 1) -> Whole:
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
            raise _apart("the processes start from different weights")
    if launch.wrapper == "deepspeed":
        from genrec.training.zero import Zero

        return Zero(network, launch, world)
    if expert_parallel > 1:
        from genrec.training.experts import Spread

        return Spread(network, launch, world, expert_parallel)
    return (Sharded if launch.wrapper == "fsdp2" else Whole)(network, launch, world)


@contextmanager
def recomputed(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Gradient checkpointing (Chen et al. 2016): layers forget what they computed and do it again for the gradient.

    Layers whose buffers move in a forward pass are left as they are: the second pass would move them again.
    """
    blocks = [block for block in blocks_of(model) if next(block.buffers(), None) is None] if wanted else []
    for block in blocks:
        block.forward = partial(_recomputed_call, block, block.forward)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def _recomputed_call(block: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A forward pass whose second one is in the same mode, whatever the block is set to by then."""
    training = block.training

    def run(*inner: Any, **options: Any) -> Any:
        later = block.training
        block.train(training)
        try:
            return forward(*inner, **options)
        finally:
            block.train(later)

    return checkpoint(run, *args, use_reentrant=False, context_fn=partial(equal_masks, block), **kwargs)


def blocks_of(model: nn.Module) -> Iterator[nn.Module]:
    """The layers of a model: members of its outermost lists of modules that have modules of their own."""
    for child in model.children():
        if isinstance(child, nn.ModuleList):
            yield from (block for block in child if next(block.children(), None) is not None)
        else:
            yield from blocks_of(child)


def _apart(what: str) -> ConfigError:
    return ConfigError(
        f"the processes do not train together: {what}",
        where="the launcher and its file",
        expected="one model, trained by all processes",
        fix="use a file of configs/accelerate/ with accelerate launch, or torchrun; see docs/scale.md",
    )


def _parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """In the order of its state."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _flag(name: str, default: bool = False) -> bool:
    return os.environ.get(name, str(default)).lower() in ("1", "true", "yes")


def whole(value: Any) -> Any:
    """A tensor without its shards; all processes must take part."""
    return value.full_tensor() if isinstance(value, DTensor) else value
