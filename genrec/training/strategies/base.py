"""What keeps the models of several processes one model, and how their parts become whole again.

Whatever the wrapper, a checkpoint is that of one process: whole weights, and the optimizer's state by the number of
the parameter. So a run continues with another wrapper, or with another number of processes. Where weights are sharded,
Trainer trains a twin of the caller's model; the caller's own waits on the CPU, whole, for validation and for saving.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from transformers import Trainer

from genrec.distributed.launch import Launch
from genrec.distributed.world import World
from genrec.errors import ConfigError

State = dict[str, Any]


class Strategy:
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

    def verify(self, trainer: Trainer, norm: float) -> None:
        """Check before the first update that the processes train one model.

        Args:
            trainer: With gradients, synchronized as it believes.
            norm: Their norm.

        Raises:
            ConfigError: If accelerate knows of fewer processes, wrapped the model otherwise, or gradients differ.
        """
        if self.verified:
            return
        counted = trainer.accelerator.num_processes
        if counted != self.launch.size:
            raise not_together(f"accelerate counts {counted} processes and the launcher started {self.launch.size}")
        if not self.wrapped(trainer):
            found = type(trainer.model_wrapped).__name__
            raise not_together(f"the model was to be wrapped by {self.launch.wrapper} and is a {found}")
        sums = self.world.gather_numbers(*self.checksum(norm))
        if not torch.equal(sums, sums[:1].expand_as(sums)) and torch.isfinite(sums).all():
            raise not_together("the gradients of the processes differ after they were synchronized")
        self.verified = True


class ShardedStrategy(Strategy):
    """A twin of the model is trained of which a process holds a part; the caller's own waits on the CPU, whole."""

    def __init__(self, network: nn.Module, launch: Launch, world: World) -> None:
        super().__init__(network, launch, world)
        self.trained = copy.deepcopy(network)
        network.to("cpu").train()

    def gather(self, value: Any, parameter: Tensor) -> Any:
        """What all processes have of a parameter, or of the optimizer's state for it; all must take part."""
        raise TypeError(f"{type(self).__name__} must define join")

    def scatter(self, value: Any, parameter: Tensor) -> Any:
        """Undo :meth:`join`."""
        raise TypeError(f"{type(self).__name__} must define divide")

    def gather_weights(self) -> None:
        """See :class:`Strategy`."""
        target = self.network.state_dict()
        for name, value in self.trained.state_dict(keep_vars=True).items():
            target[name].copy_(self.gather(value.detach(), value))

    def optimizer_state(self, optimizer: Optimizer) -> State:
        """See :class:`Strategy`."""
        state, parameters = optimizer.state_dict(), _parameters_of(optimizer)
        joined = {
            index: {key: self.gather(value, parameters[index]) for key, value in entry.items()}
            for index, entry in state["state"].items()
        }
        return state | {"state": joined}

    def load_optimizer(self, optimizer: Optimizer, state: State) -> None:
        """See :class:`Strategy`."""
        parameters = _parameters_of(optimizer)
        state["state"] = {
            index: {key: self.scatter(value, parameters[index]) for key, value in entry.items()}
            for index, entry in state["state"].items()
        }
        optimizer.load_state_dict(state)


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
