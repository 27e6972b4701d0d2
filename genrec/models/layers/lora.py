"""Low-rank adapters on a language model, through ``peft``, which is an optional extra."""

from importlib import import_module
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel

from genrec.artifacts import read_json
from genrec.artifacts.reading import reading
from genrec.errors import ArtifactError, ConfigError
from genrec.models.layers.text_tokenizer import first_line

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
# Kinds of adapters that are added to weights, and so can become part of them.
MERGED = ("LORA", "IA3")


def add_lora(model: PreTrainedModel, rank: int, alpha: float) -> None:
    """Put trainable low-rank matrices (LoRA, Hu et al. 2021) to every linear layer, and freeze the rest.

    Args:
        model: A language model; its head and its tables of vectors get none.
        rank: Of each matrix.
        alpha: Scale of what they add, divided by the rank.

    Raises:
        ConfigError: If ``peft`` is not installed.
    """
    peft = _peft()
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear")
    peft.inject_adapter_in_model(config, model)


def merge_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Add a trained adapter to the weights that it was trained for.

    Raises:
        ArtifactError: If the folder holds no adapter, one that cannot be merged, or one for another language model.
        ConfigError: If ``peft`` is not installed.
    """
    with reading(folder):
        known = _check_adapter(model, folder)
    peft = _peft()
    try:
        adapted = peft.PeftModel.from_pretrained(model, str(folder))
    except (RuntimeError, ValueError) as error:
        raise _another(f"{folder}: {first_line(error)}") from error
    missing = peft.get_peft_model_state_dict(adapted, save_embedding_layers=False).keys() - known
    if missing:
        raise _another(f"{folder}: it has no {min(missing)}, which the backbone asks for")
    return cast(PreTrainedModel, adapted.merge_and_unload())


def _peft() -> Any:
    try:
        return import_module("peft")
    except ImportError as error:
        raise ConfigError(
            "LoRA needs the package peft",
            where="recommender.lora_rank, recommender.adapter",
            expected="it to be installed",
            fix="pip install 'genrec[peft]', or train all weights: recommender.lora_rank=0",
        ) from error


def _check_adapter(model: PreTrainedModel, folder: Path) -> set[str]:
    """Compare the adapter's matrices with the layers that they are for; returns their names."""
    kind = read_json(folder / ADAPTER_CONFIG).get("peft_type")
    if kind not in MERGED:
        raise ArtifactError(
            f"an adapter of the kind {kind} cannot be merged into a language model",
            where=str(folder / ADAPTER_CONFIG),
            expected=f"peft_type {' or '.join(MERGED)}",
            fix="train the adapter as a LoRA, or leave recommender.adapter out",
        )
    layers = dict(model.named_modules())
    try:
        with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as weights:
            shapes = {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ArtifactError(
            "the adapter cannot be read", where=f"{folder / ADAPTER_WEIGHTS}: {error}", expected="a LoRA of peft"
        ) from error
    for name, shape in shapes.items():
        if ".lora_A." not in name:
            continue
        layer = layers.get(name.removeprefix(PREFIX).partition(".lora_A.")[0])
        width = layer.in_features if isinstance(layer, nn.Linear) else getattr(layer, "nx", None)
        if width != shape[1]:
            found = "no such layer" if width is None else f"a layer of width {width}"
            raise _another(f"{folder}: {name} is {shape[1]} wide, the backbone has {found}")
    return set(shapes)


def _another(where: str) -> ArtifactError:
    return ArtifactError(
        "the adapter is for another language model",
        where=where,
        expected="an adapter that was trained on recommender.backbone",
        fix="give the language model that the adapter was trained on, or leave recommender.adapter out",
    )
