"""What a launcher orders, read from the environment, and orders that cannot be followed."""

import importlib.util
import os
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_run import tiny_home
from tiny_training import settings
from torch import nn

from genrec.cli import main
from genrec.config import Recipe
from genrec.distributed.launch import Launch, refuse_processes
from genrec.distributed.world import World, rank_and_size
from genrec.errors import ConfigError
from genrec.pipeline.run import run_recipe
from genrec.training.strategies.deepspeed import DeepSpeed

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "here", "MASTER_PORT": "1"}
ACCELERATE = {**TORCHRUN, "ACCELERATE_MIXED_PRECISION": "no"}
ON_CPU = {**ACCELERATE, "ACCELERATE_USE_CPU": "true"}
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch):
    def pretend(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return pretend


@pytest.mark.parametrize(
    ("environment", "count", "expected"),
    [
        ({}, 0, Launch()),
        ({"WORLD_SIZE": "1"}, 4, Launch()),
        (TORCHRUN, 0, Launch(2, "ddp", True)),
        (TORCHRUN, 2, Launch(2, "ddp", False)),
        ({**TORCHRUN, **FSDP2}, 0, Launch(2, "fsdp2", True)),
        (ON_CPU, 2, Launch(2, "ddp", True)),
        ({**ON_CPU, **FSDP2}, 0, Launch(2, "fsdp2", True)),
        ({**ACCELERATE, **FSDP2, "WORLD_SIZE": "1"}, 1, Launch(1, "fsdp2", False)),
    ],
)
def test_orders_are_read(gpus, environment: dict[str, str], count: int, expected: Launch):
    gpus(count)
    launch = Launch.from_environment(environment)
    assert (launch.size, launch.wrapper) == (expected.size, expected.wrapper)
    assert launch.alone or launch.cpu == expected.cpu


@pytest.mark.parametrize(
    ("environment", "count", "message", "fix"),
    [
        ({"WORLD_SIZE": "2"}, 0, "but not RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT", "torchrun"),
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "1"}, 0, "several processes and started one", "USE_CPU"),
        ({"SLURM_STEP_NUM_TASKS": "8"}, 0, "8 processes were started that do not know of each other", "once on each"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, 0, "2 processes were started that do not know", "torchrun"),
        (ACCELERATE, 0, "the launcher asks for 2 GPUs and this machine has none", "ACCELERATE_USE_CPU=true"),
        ({**TORCHRUN, "LOCAL_WORLD_SIZE": "2"}, 1, "2 processes were started on a machine with 1 GPUs", "--nproc"),
        ({**TORCHRUN, **FSDP2, "FSDP_VERSION": "1"}, 0, "the first version of FSDP", "fsdp_version: 2"),
        (
            {**TORCHRUN, **FSDP2, "FSDP_ACTIVATION_CHECKPOINTING": "true"},
            0,
            "gradient checkpointing is not for the launcher",
            "training.gradient_checkpointing=true",
        ),
    ],
)
def test_orders_that_cannot_be_followed_are_refused(gpus, environment, count, message, fix):
    gpus(count)
    with pytest.raises(ConfigError, match=message) as caught:
        Launch.from_environment(environment)
    assert fix in caught.value.fix
    assert caught.value.exit_code == 2


def test_without_deepspeed_the_extra_is_named(gpus, monkeypatch: pytest.MonkeyPatch):
    gpus(2)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "deepspeed" else found(name))
    with pytest.raises(ConfigError, match="DeepSpeed is not installed") as caught:
        Launch.from_environment({**ACCELERATE, "ACCELERATE_USE_DEEPSPEED": "true"})
    assert caught.value.fix == "pip install 'genrec[deepspeed]'"


def test_the_processes_must_divide_the_batch():
    Launch(4, "ddp").check(settings(batch_size=8), {})
    with pytest.raises(ConfigError, match="batch_size 10 cannot be divided among 4 processes") as caught:
        Launch(4, "ddp").check(settings(batch_size=10), {})
    assert "training.batch_size=8" in caught.value.fix


def test_the_recipe_decides_the_precision():
    asked = {"ACCELERATE_MIXED_PRECISION": "bf16"}
    Launch(2, "ddp").check(settings(precision="bf16"), asked)
    with pytest.raises(ConfigError, match="the launcher asks for bf16 and the recipe for fp32") as caught:
        Launch(2, "ddp").check(settings(), asked)
    assert caught.value.fix == "set training.precision=bf16"


def test_accelerate_hears_what_it_can_follow_and_the_rest_is_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with Launch(2, "fsdp2", True).told_to_accelerate():
        assert "ACCELERATE_USE_FSDP" not in os.environ
        assert os.environ["ACCELERATE_USE_CPU"] == "true"
    assert os.environ["ACCELERATE_USE_FSDP"] == "true"


def test_work_of_one_process_is_refused_in_several(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="the shelf was started in 2 processes") as caught:
        refuse_processes("the shelf")
    assert "scripts of single stages" in caught.value.fix
    with pytest.raises(ConfigError, match="genrec run was started in 2 processes"):
        run_recipe(Recipe(), tmp_path)


@pytest.mark.parametrize("path", sorted((ROOT / "configs/accelerate").glob("*.yaml")), ids=lambda path: path.name)
def test_the_files_of_accelerate_can_be_followed(path: Path, gpus, monkeypatch: pytest.MonkeyPatch):
    from accelerate.commands.config.config_args import load_config_from_file

    gpus(8)
    assert f"--config_file configs/accelerate/{path.name} scripts/train_recommender.py" in path.read_text()
    config = load_config_from_file(str(path))
    assert config.num_processes == 8
    assert config.mixed_precision in ("no", None)
    if path.stem.startswith("zero"):
        file = ROOT / config.deepspeed_config["deepspeed_config_file"]
        assert yaml.safe_load(file.read_text())["zero_optimization"]["stage"] == int(path.stem[-1])
    else:
        orders = {key.upper(): str(value).lower() for key, value in (config.fsdp_config or {}).items()}
        kind = {"ACCELERATE_USE_FSDP": "true"} if orders else {}
        expected = "fsdp2" if orders else "ddp"
        assert Launch.from_environment({**ACCELERATE, **kind, **orders}).wrapper == expected


@pytest.mark.parametrize("value", ["abc", "", "-1", "1.5", "2 ", "٢", "99999999", "0x2", "1e3"])
@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT"])
def test_numbers_of_processes_are_checked_before_any_work(gpus, name, value):
    gpus(4)
    with pytest.raises(ConfigError, match=f"{name}=") as caught:
        Launch.from_environment({**TORCHRUN, name: value})
    assert "what to do: unset" in str(caught.value)


@pytest.mark.parametrize("name", ["SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"])
def test_other_launchers_are_checked_too(name):
    with pytest.raises(ConfigError, match=f"{name}='many' is no number"):
        Launch.from_environment({name: "many"})


@pytest.mark.parametrize(("rank", "size"), [("2", "2"), ("0", "0"), ("5", "1")])
def test_a_rank_is_below_the_number_of_processes(rank, size):
    with pytest.raises(ConfigError, match=f"RANK={rank} of WORLD_SIZE={size}"):
        rank_and_size({"RANK": rank, "WORLD_SIZE": size})


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "{}/tiny.yaml", "--dataset", "{}/run/dataset", "--tokenizer", "{}/run/tokenizer", "--out", "x"],
        ["run", "{}/tiny.yaml", "--out", "x"],
        ["generate", "--model", "{}/run/model", "--dataset", "{}/run/dataset", "--out", "x"],
        ["embed", "--dataset", "{}/run/dataset", "--out", "x"],
    ],
)
def test_every_verb_refuses_what_is_no_number(arguments, monkeypatch, tmp_path, capsys):
    arguments = [one.replace("{}", str(tiny_home())) for one in arguments]
    monkeypatch.setenv("WORLD_SIZE", "abc")
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert "error: WORLD_SIZE='abc' is no number of processes" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_script_takes_what_deepspeed_appends(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    script = runpy.run_path(str(ROOT / "scripts" / "train_recommender.py"))
    given = ["--local_rank=1", "recipe.yaml", "--out", "there", "--deepspeed", "zero2.json"]
    assert script["follow_launcher"](given) == ["recipe.yaml", "--out", "there"]
    assert os.environ["ACCELERATE_USE_DEEPSPEED"] == "true"
    assert os.environ["ACCELERATE_DEEPSPEED_CONFIG_FILE"] == "zero2.json"


def deepspeed_orders(**changes: Any) -> dict[str, Any]:
    """What DeepSpeed is given by one of two processes whose file says this."""
    orders = {"train_micro_batch_size_per_gpu": "auto", "gradient_clipping": "auto", **changes}
    config = settings(batch_size=8, gradient_accumulation_steps=3, max_grad_norm=0.5, precision="bf16")
    DeepSpeed(nn.Linear(2, 2), Launch(2, "deepspeed", True), World(0, 2))._complete(orders, config)
    return orders


def test_deepspeed_is_given_the_numbers_of_the_recipe():
    assert deepspeed_orders(gradient_accumulation_steps=3) == {
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 3,
        "train_batch_size": 24,
        "gradient_clipping": 0.5,
        "torch_autocast": {"enabled": True, "dtype": "bfloat16"},
    }


@pytest.mark.parametrize(("key", "value"), [("gradient_accumulation_steps", 4), ("optimizer", {"type": "Adam"})])
def test_a_deepspeed_file_that_orders_something_else_is_refused(key: str, value: Any):
    with pytest.raises(ConfigError, match="DeepSpeed's file orders what the recipe decides") as caught:
        deepspeed_orders(**{key: value})
    assert f"{key}={value}" in caught.value.what
    assert caught.value.exit_code == 2
