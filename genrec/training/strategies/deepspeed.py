"""DeepSpeed's ZeRO (Rajbhandari et al. 2020): stages 1 to 3 shard optimizer, gradients and weights.

Its own checkpoints are pickles for one number of processes. Ours are made through its functions for single parameters,
so that they are those of one process.
"""

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from genrec.config import TrainingConfig
from genrec.distributed.launch import Launch
from genrec.distributed.world import World
from genrec.errors import ConfigError
from genrec.training.optimizer import build_optimizer
from genrec.training.strategies.base import State, Strategy

MOMENTS = ("exp_avg", "exp_avg_sq")


class DeepSpeed(Strategy):
    """A copy of the model is trained by a DeepSpeed engine; see :class:`genrec.training.strategies.base.Strategy`."""

    def __init__(self, network: nn.Module, launch: Launch, world: World) -> None:
        super().__init__(network, launch, world)
        self.trained = copy.deepcopy(network)
        network.to("cpu").train()
        self.groups: list[list[nn.Parameter]] = []
        self.settings: list[State] = []

    def prepare(self, accelerator: Accelerator, config: TrainingConfig) -> None:
        """See :class:`genrec.training.strategies.base.Strategy`.

        Raises:
            ConfigError: If the launcher's file orders what the recipe decides.
        """
        self.accelerator = accelerator
        self._complete(accelerator.state.deepspeed_plugin.deepspeed_config, config)
        optimizer = build_optimizer(self.trained, config)
        # What the engine will flatten: the parameters of each group, and how it is set.
        self.groups = [list(group["params"]) for group in optimizer.param_groups]
        self.settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        self.model, self.optimizer = accelerator.prepare(self.trained, optimizer)

    def _complete(self, orders: State, config: TrainingConfig) -> None:
        """Put the recipe's numbers into DeepSpeed's configuration, in place."""
        numbers = {
            "train_micro_batch_size_per_gpu": config.batch_size // self.world.size,
            "gradient_accumulation_steps": config.gradient_accumulation_steps,
            "train_batch_size": config.batch_size * config.gradient_accumulation_steps,
            "gradient_clipping": config.max_grad_norm,
        }
        other = {name: orders[name] for name in numbers if orders.get(name, "auto") not in ("auto", numbers[name])}
        other |= {name: orders[name] for name in ("optimizer", "scheduler") if name in orders}
        if other:
            raise ConfigError(
                "DeepSpeed's file orders what the recipe decides: " + ", ".join(f"{k}={v}" for k, v in other.items()),
                where="deepspeed_config_file",
                expected='"auto" for sizes, steps and clipping, and neither optimizer nor scheduler',
                fix="use a file of configs/accelerate/, or take these keys out",
            )
        orders.update(numbers)
        if config.precision == "bf16":
            # DeepSpeed closes an autocast that it did not open itself.
            orders["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}

    def autocast(self, precision: str) -> AbstractContextManager[Any]:
        """The engine opens it."""
        return nullcontext()

    def accumulate(self, *, last: bool) -> AbstractContextManager[Any]:
        """See :class:`genrec.training.strategies.base.Strategy`; the engine takes its step after the last one."""
        self.accelerator.sync_gradients = last
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """See :class:`genrec.training.strategies.base.Strategy`; the loss is a share of the update's already."""
        self.accelerator.backward(loss, scale_wrt_gas=False)

    def gather_weights(self) -> None:
        """See :class:`genrec.training.strategies.base.Strategy`."""
        from deepspeed.runtime.zero import GatheredParameters

        target = self.network.state_dict(keep_vars=True)
        for name, value in self.trained.state_dict(keep_vars=True).items():
            with GatheredParameters([value]), torch.no_grad():
                target[name].copy_(value)

    def optimizer_state(self) -> State:
        """See :class:`genrec.training.strategies.base.Strategy`."""
        from deepspeed.utils import safe_get_full_optimizer_state

        engine = _engine(self.optimizer)
        base = engine.optimizer
        _find_moments(engine)
        step = torch.tensor(float(next(iter(base.state.values()))["step"]))
        state: dict[int, dict[str, Tensor]] = {}
        groups = []
        for number, parameters in enumerate(self.groups):
            current = {key: base.param_groups[number].get(key, value) for key, value in self.settings[number].items()}
            first = len(state)
            for parameter in parameters:
                moments = {key: safe_get_full_optimizer_state(parameter, key).cpu() for key in MOMENTS}
                state[len(state)] = {"step": step.clone(), **moments}
            groups.append({**current, "params": list(range(first, len(state)))})
        return {"state": state, "param_groups": groups}

    def load_optimizer(self, state: State) -> None:
        """See :class:`genrec.training.strategies.base.Strategy`."""
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        engine = _engine(self.optimizer)
        base = engine.optimizer
        step = next(iter(state["state"].values()))["step"]
        sharded = hasattr(engine, "fp32_partitioned_groups_flat")
        for part in engine.fp32_partitioned_groups_flat if sharded else engine.single_partition_of_fp32_groups:
            # The engine makes these at its first update only.
            counted = step.clone() if isinstance(base, torch.optim.AdamW) else int(step)
            base.state[part] = {"step": counted, **{key: torch.zeros_like(part) for key in MOMENTS}}
        _find_moments(engine)
        parameters = [parameter for group in self.groups for parameter in group]
        for index, parameter in enumerate(parameters):
            for key in MOMENTS:
                value = state["state"][index][key].to(parameter.device)
                if sharded:
                    safe_set_local_optimizer_state(parameter, self._own_part(parameter, value), key)
                else:
                    safe_set_full_optimizer_state(parameter, value, key)
        for group, loaded in zip(base.param_groups, state["param_groups"], strict=True):
            group.update({key: value for key, value in loaded.items() if key != "params"})

    def is_wrapped(self) -> bool:
        """See :class:`genrec.training.strategies.base.Strategy`."""
        from deepspeed import DeepSpeedEngine

        return isinstance(self.model, DeepSpeedEngine) and self.model.dp_world_size == self.world.size

    def checksum(self, norm: float) -> list[float]:
        """The norm over all shards; the engine has taken its step and let the gradients go."""
        return [norm]

    def _own_part(self, parameter: Any, value: Tensor) -> Tensor:
        size = parameter.ds_tensor.numel()
        padded = value.new_zeros(size * self.world.size)
        padded[: value.numel()] = value.flatten()
        return padded[self.world.rank * size : (self.world.rank + 1) * size]


def _engine(optimizer: Any) -> Any:
    """The ZeRO optimizer below accelerate's wrapper; its own ``optimizer`` is torch's."""
    return getattr(optimizer, "optimizer", optimizer)


def _find_moments(engine: Any) -> None:
    """Let the parameters know of the optimizer's state.

    Stages 1 and 2 do so once, in the first update of the first group, when the other groups have no state yet.
    """
    if hasattr(engine, "_lazy_init_hp_params_optimizer_state"):
        engine._hp_optimizer_states_linked = False
        engine._lazy_init_hp_params_optimizer_state()
