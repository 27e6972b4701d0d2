"""How this process was started: alone, or by ``accelerate launch``, ``torchrun`` or ``deepspeed`` with others.

accelerate reads its orders from the environment and, on machines without a GPU, fails in silence: it starts one
process where several were asked for, or several that never exchange a gradient. So the orders are read here first,
refused where they cannot be followed, and what came of them is checked again before the first update
(:mod:`genrec.training.strategies.base`).
"""

import importlib.util
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import torch

from genrec.config import TrainingConfig
from genrec.distributed.world import World, number_of, rank_and_size
from genrec.errors import ConfigError

Wrapper = Literal["none", "ddp", "fsdp2", "deepspeed"]
# Each starts processes that know nothing of each other until a launcher introduces them.
COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
ORDERS = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_CPU")
ADDRESS = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Launch:
    """What the environment orders.

    Attributes:
        size: Processes.
        wrapper: What keeps their models equal; ``none`` for a process alone.
        cpu: Whether they compute on the CPU.
    """

    size: int = 1
    wrapper: Wrapper = "none"
    cpu: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Launch":
        """Read and check the orders of the launcher.

        Raises:
            ConfigError: If they cannot be followed here, or contradict each other.
        """
        _, size = rank_and_size(environment)
        by_accelerate = "ACCELERATE_MIXED_PRECISION" in environment
        if "WORLD_SIZE" not in environment:
            _refuse_strangers(environment, by_accelerate)
        wrapper: Wrapper = "ddp" if size > 1 else "none"
        if _says_yes(environment, "ACCELERATE_USE_DEEPSPEED"):
            wrapper = "deepspeed"
        elif _says_yes(environment, "ACCELERATE_USE_FSDP"):
            wrapper = "fsdp2"
        if wrapper == "none":
            return cls(cpu=_says_yes(environment, "ACCELERATE_USE_CPU"))
        _require_parts(environment, wrapper)
        asked = _says_yes(environment, "ACCELERATE_USE_CPU")
        if by_accelerate and not asked and not torch.cuda.is_available():
            raise ConfigError(
                f"the launcher asks for {size} GPUs and this machine has none",
                where="accelerate launch",
                expected="a machine with GPUs, or ACCELERATE_USE_CPU=true",
                fix="put ACCELERATE_USE_CPU=true before the command to train on the CPU",
            )
        launch = cls(size, wrapper, asked or not torch.cuda.is_available())
        here = number_of("LOCAL_WORLD_SIZE", 1, environment)
        if not launch.cpu and here > torch.cuda.device_count():
            raise ConfigError(
                f"{here} processes were started on a machine with {torch.cuda.device_count()} GPUs",
                where="num_processes",
                expected="at most one process for each GPU",
                fix="lower --num_processes (accelerate) or --nproc-per-node (torchrun)",
            )
        return launch

    @property
    def alone(self) -> bool:
        """Whether there is no one to meet and nothing to wrap."""
        return self.wrapper == "none"

    def check(
        self, config: TrainingConfig, environment: Mapping[str, str] = os.environ, *, section: str = "training"
    ) -> None:
        """Check that the recipe can be followed by so many processes.

        Args:
            config: How it trains.
            environment: Where the launcher's orders are.
            section: Of the recipe that its settings are in.

        Raises:
            ConfigError: If they do not divide the batch, cannot share experts as asked, or the launcher's file asks for
                another precision.
        """
        if config.batch_size % self.size:
            near = max(1, round(config.batch_size / self.size)) * self.size
            raise ConfigError(
                f"{section}.batch_size {config.batch_size} cannot be divided among {self.size} processes",
                where=f"{section}.batch_size",
                expected="a multiple of the number of processes: it counts the users of all processes together",
                fix=f"set {section}.batch_size={near}, or start another number of processes",
            )
        self._check_experts(config.expert_parallel, section)
        asked = environment.get("ACCELERATE_MIXED_PRECISION", "no")
        if asked not in ("no", config.precision):
            raise ConfigError(
                f"the launcher asks for {asked} and the recipe for {config.precision}",
                where=f"{section}.precision",
                expected="mixed_precision: 'no' in the accelerate file: the recipe decides",
                fix=f"set {section}.precision=bf16" if asked == "bf16" else "set mixed_precision: 'no' there",
            )

    def _check_experts(self, parts: int, section: str) -> None:
        if parts > 1 and self.wrapper in ("fsdp2", "deepspeed"):
            raise ConfigError(
                f"{section}.expert_parallel {parts} does not go with {self.wrapper}",
                where=f"{section}.expert_parallel",
                expected="DDP: an expert is whole in one process, and such a wrapper divides every weight among all",
                fix=f"use configs/accelerate/ddp.yaml or torchrun, or set {section}.expert_parallel=1",
            )
        if self.size % parts:
            raise ConfigError(
                f"{self.size} processes cannot share experts in groups of {parts}",
                where=f"{section}.expert_parallel",
                expected=f"a divisor of the number of processes, {self.size}",
                fix=f"start a multiple of {parts} processes, or set {section}.expert_parallel=1",
            )

    def refuse_shards(self) -> None:
        """Refuse wrappers that leave no process a whole model, for work that reads the weights between two updates.

        Raises:
            ConfigError: If the launcher asks for FSDP or DeepSpeed.
        """
        if self.wrapper in ("fsdp2", "deepspeed"):
            raise ConfigError(
                f"alignment does not run under {self.wrapper}",
                where="the launcher and its file",
                expected="the whole model in every process: it samples and scores during the updates",
                fix="use configs/accelerate/ddp.yaml with accelerate launch, or torchrun",
            )

    def join(self, patience: timedelta | None = None) -> World:
        """Meet the other processes.

        Args:
            patience: How long one may wait for another; as torch has it by default.
        """
        return World.current() if self.alone else World.initialize(cpu=self.cpu, patience=patience)

    @contextmanager
    def told_to_accelerate(self) -> Iterator[None]:
        """For as long as accelerate reads its orders, leave it only those that it can follow."""
        kept = dict(os.environ)
        if self.wrapper == "fsdp2":
            # The model is sharded by torch itself: accelerate does so on GPUs only, and would do it again there.
            os.environ.pop("ACCELERATE_USE_FSDP", None)
        if self.wrapper == "deepspeed":
            # Where accelerate hears of the CPU it takes DDP instead, without a word.
            os.environ.pop("ACCELERATE_USE_CPU", None)
            if self.cpu:
                _spare_compiler()
        try:
            yield
        finally:
            os.environ.update({name: kept[name] for name in ORDERS if name in kept})


def refuse_processes(what: str) -> None:
    """Refuse to be one of several processes, for work that one does.

    Raises:
        ConfigError: If a launcher started more than one.
    """
    _, size = rank_and_size()
    if size > 1:
        raise ConfigError(
            f"{what} was started in {size} processes",
            where="WORLD_SIZE",
            expected="one process",
            fix="start it without a launcher; the scripts of single stages take several",
        )


def _refuse_strangers(environment: Mapping[str, str], by_accelerate: bool) -> None:
    """Processes that were meant to be several and do not know of each other."""
    if by_accelerate and "MASTER_PORT" in environment:
        raise ConfigError(
            "accelerate launch was asked for several processes and started one",
            where="accelerate launch --cpu, or distributed_type: NO or MULTI_CPU in its file",
            expected="a launcher that starts them",
            fix="ACCELERATE_USE_CPU=true accelerate launch --config_file configs/accelerate/ddp.yaml, without --cpu",
        )
    for name in COUNTS:
        if number_of(name, 1, environment) > 1:
            raise ConfigError(
                f"{environment[name]} processes were started that do not know of each other",
                where=name,
                expected="WORLD_SIZE, RANK and MASTER_ADDR, as torchrun and accelerate launch set them",
                fix="start torchrun or accelerate launch once on each machine, and let it start the processes",
            )


def _require_parts(environment: Mapping[str, str], wrapper: Wrapper) -> None:
    """Raise if what the orders need is not there."""
    missing = [name for name in ADDRESS if name not in environment]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE or a wrapper is set, but not {', '.join(missing)}",
            where="the environment",
            expected="all that a launcher sets, or nothing",
            fix="start with torchrun, accelerate launch or deepspeed, or unset WORLD_SIZE",
        )
    for name in ("LOCAL_RANK", "MASTER_PORT"):
        number_of(name, 0, environment)
    if wrapper == "fsdp2" and environment.get("FSDP_VERSION", "1") != "2":
        raise ConfigError(
            "the launcher asks for the first version of FSDP",
            where="fsdp_version",
            expected="2",
            fix="use configs/accelerate/fsdp2.yaml, or set fsdp_version: 2",
        )
    if wrapper == "fsdp2" and _says_yes(environment, "FSDP_ACTIVATION_CHECKPOINTING"):
        raise ConfigError(
            "gradient checkpointing is not for the launcher to order",
            where="fsdp_activation_checkpointing",
            expected="false: the recipe decides, for every launcher alike",
            fix="set training.gradient_checkpointing=true",
        )
    if wrapper == "deepspeed" and importlib.util.find_spec("deepspeed") is None:
        raise ConfigError(
            "DeepSpeed is not installed",
            where="ACCELERATE_USE_DEEPSPEED",
            expected="the extra deepspeed",
            fix="pip install 'genrec[deepspeed]'",
        )


def _says_yes(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "").lower() in ("1", "true", "yes", "on")


def _spare_compiler() -> None:
    """Keep DeepSpeed from compiling an operation for processes of one machine, which takes a compiler and a minute."""
    from deepspeed.ops import __compatible_ops__

    __compatible_ops__["deepspeed_shm_comm"] = False
