"""What keeps the models of several processes one model, and how their parts become whole again.

Whatever the wrapper, a checkpoint is that of one process: whole weights, and the optimizer's state by the number of
the parameter. So a run continues with another wrapper, or with another number of processes. Where weights are sharded,
the loop trains a copy of the caller's model; the caller's own waits on the CPU, whole, for validation and for saving.
"""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from genrec.config import TrainingConfig
from genrec.distributed.launch import Launch
from genrec.distributed.world import World
from genrec.errors import ConfigError
from genrec.training.optimizer import build_optimizer

State = dict[str, Any]


class Strategy:
    """Every process holds the whole model: one process, or DDP.

    Attributes:
        network: The caller's model.
        trained: What is trained; the same model.
        accelerator: Runs the backward pass; from :meth:`prepare` on.
        model: ``trained`` in its wrapper; from :meth:`prepare` on.
        optimizer: That of ``trained`` in its wrapper; from :meth:`prepare` on.
    """

    accelerator: Accelerator
    model: nn.Module
    optimizer: Optimizer

    def __init__(self, network: nn.Module, launch: Launch, world: World) -> None:
        self.network, self.trained, self.launch, self.world = network, network, launch, world
        self.verified = world.size == 1

    def prepare(self, accelerator: Accelerator, config: TrainingConfig) -> None:
        """Make the optimizer, and wrap it and the model."""
        self.accelerator = accelerator
        self.trained.to(accelerator.device)
        self.model, self.optimizer = accelerator.prepare(self.trained, build_optimizer(self.trained, config))

    def autocast(self, precision: str) -> AbstractContextManager[Any]:
        """bf16 for a forward pass where the recipe asks for it."""
        if precision != "bf16":
            return nullcontext()
        return torch.autocast(self.accelerator.device.type, torch.bfloat16)

    def accumulate(self, *, last: bool) -> AbstractContextManager[Any]:
        """Around a micro-batch: only after the ``last`` one of an update do the processes exchange gradients."""
        return nullcontext() if last else self.accelerator.no_sync(self.model)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss."""
        self.accelerator.backward(loss)

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

    def optimizer_state(self) -> State:
        """The whole ``state_dict`` of the optimizer; all processes must take part."""
        return self.optimizer.state_dict()

    def load_optimizer(self, state: State) -> None:
        """Undo :meth:`optimizer_state`."""
        self.optimizer.load_state_dict(state)

    def is_wrapped(self) -> bool:
        """Whether the wrapper is what was ordered."""
        return self.world.size == 1 or isinstance(self.model, DistributedDataParallel)

    def clip(self, max_norm: float) -> Tensor:
        """Scale the gradients down to a norm, of all of them together, of at most this; returns what it was."""
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), max_norm)
        return torch.as_tensor(full_tensor(norm))

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

    def verify(self, norm: float) -> None:
        """Check before the first update, when gradients are there, that the processes train one model.

        Args:
            norm: Of the gradients.

        Raises:
            ConfigError: If accelerate knows of fewer processes, wrapped the model otherwise, or gradients differ.
        """
        if self.verified:
            return
        counted = self.accelerator.num_processes
        if counted != self.launch.size:
            raise not_together(f"accelerate counts {counted} processes and the launcher started {self.launch.size}")
        if not self.is_wrapped():
            found = type(self.model).__name__
            raise not_together(f"the model was to be wrapped by {self.launch.wrapper} and is a {found}")
        sums = self.world.gather_numbers(*self.checksum(norm))
        if not torch.equal(sums, sums[:1].expand_as(sums)) and torch.isfinite(sums).all():
            raise not_together("the gradients of the processes differ after they were synchronized")
        self.verified = True


class ShardedStrategy(Strategy):
    """A copy of the model is trained of which a process holds a part; the caller's own waits on the CPU, whole."""

    def __init__(self, network: nn.Module, launch: Launch, world: World) -> None:
        super().__init__(network, launch, world)
        self.trained = copy.deepcopy(network)
        network.to("cpu").train()

    def gather(self, value: Any, parameter: Tensor) -> Any:
        """What all processes have of a parameter, or of the optimizer's state for it; all must take part."""
        raise TypeError(f"{type(self).__name__} must define gather")

    def scatter(self, value: Any, parameter: Tensor) -> Any:
        """Undo :meth:`gather`."""
        raise TypeError(f"{type(self).__name__} must define scatter")

    def gather_weights(self) -> None:
        """See :class:`Strategy`."""
        target = self.network.state_dict()
        for name, value in self.trained.state_dict(keep_vars=True).items():
            target[name].copy_(self.gather(value.detach(), value))

    def optimizer_state(self) -> State:
        """See :class:`Strategy`."""
        state, parameters = self.optimizer.state_dict(), _parameters_of(self.optimizer)
        whole = {
            index: {key: self.gather(value, parameters[index]) for key, value in entry.items()}
            for index, entry in state["state"].items()
        }
        return state | {"state": whole}

    def load_optimizer(self, state: State) -> None:
        """See :class:`Strategy`."""
        parameters = _parameters_of(self.optimizer)
        state["state"] = {
            index: {key: self.scatter(value, parameters[index]) for key, value in entry.items()}
            for index, entry in state["state"].items()
        }
        self.optimizer.load_state_dict(state)


def not_together(what: str) -> ConfigError:
    return ConfigError(
        f"the processes do not train together: {what}",
        where="the launcher and its file",
        expected="one model, trained by all processes",
        fix="use a file of configs/accelerate/ with accelerate launch, or torchrun; see docs/scale.md",
    )


def _parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """In the order of its state."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def full_tensor(value: Any) -> Any:
    """A tensor without its shards; all processes must take part."""
    return value.full_tensor() if isinstance(value, DTensor) else value
