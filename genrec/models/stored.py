"""What a model folder stores of a recommender, read without trust: settings by name, weights from safetensors only.

``transformers`` is given a configuration and tensors, never the folder: it would also look there for adapters, pickles,
quantisation, code to run, and names of files elsewhere. Every tensor of the model must be stored, and no other.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils import logging

from genrec.artifacts import read_json
from genrec.errors import ArtifactError
from genrec.models.base import GenrecConfig, RecommenderModel

CONFIG_FILE, WEIGHTS_FILE, SHARDS_FILE = "config.json", "model.safetensors", "model.safetensors.index.json"
SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
# What transformers writes into every configuration and no recommender of ours reads.
UNREAD = {"architectures", "transformers_version", "model_type", "use_cache"}
# Settings of layers: every layer has a tensor, so there are no more layers than tensors.
DEPTHS = {"num_layers", "depth_layers", "num_hidden_layers", "num_decoder_layers", "n_layer", "n_layers"}
FIX = "restore the folder, or train again"


class _Stored(BaseModel):
    """The fields of :class:`GenrecConfig`, with their types."""

    model_config = ConfigDict(extra="forbid", strict=True)

    family: str
    settings: dict[str, Any]
    num_items: int = Field(ge=1, lt=2**31)
    level_sizes: list[int]
    variable_length: bool = False
    routes_ended: bool = True
    index_fingerprint: str = ""
    feature_size: int = Field(0, ge=0, lt=2**31)
    num_tokens: int = Field(0, ge=0, lt=2**31)
    token_size: int = Field(0, ge=0, lt=2**31)
    backbone: dict[str, Any] | None = None
    num_words: int = Field(0, ge=0, lt=2**31)
    prompts: dict[str, list[int] | list[list[int]]] | None = None
    collaborative: dict[str, Any] | None = None
    initializer_range: float = Field(0.02, gt=0)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


def read_config(folder: Path) -> GenrecConfig:
    """The configuration of a model folder; nothing in it is followed, and what no recommender has is refused.

    Raises:
        ArtifactError: If it is missing, not of a recommender of ours, or holds a field or value that cannot be used.
    """
    path = folder / CONFIG_FILE
    values = read_json(path)
    if not isinstance(values, dict) or values.get("model_type") != GenrecConfig.model_type:
        raise ArtifactError(
            f"{folder} holds no genrec model",
            where=str(path),
            expected=f"model_type {GenrecConfig.model_type!r}",
            fix="give a model folder of genrec",
        )
    # Switches and numbers that another version of transformers adds decide nothing here.
    known = _Stored.model_fields.keys()
    plain = {name for name, value in values.items() if value is None or isinstance(value, bool | int | float)}
    kept = {name: value for name, value in values.items() if name in known or name not in UNREAD | plain}
    try:
        stored = _Stored.model_validate(kept)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ArtifactError(
            f"{'.'.join(map(str, first['loc']))!r} cannot be used",
            where=str(path),
            expected=first["msg"] if first["type"] != "extra_forbidden" else "the settings of a genrec recommender",
            fix=FIX,
        ) from error
    return GenrecConfig(**stored.model_dump())


def load_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model folder, from ``model.safetensors`` or the shards that its index names.

    Raises:
        ArtifactError: If there are none, a file is unreadable, or a shard is not inside the folder.
    """
    names = [WEIGHTS_FILE]
    if not (folder / WEIGHTS_FILE).is_file():
        if not (folder / SHARDS_FILE).is_file():
            raise _unusable(folder, f"there is no {WEIGHTS_FILE}")
        names = _shards(folder)
    weights: dict[str, Tensor] = {}
    for name in names:
        if (folder / name).is_symlink():
            raise _unusable(folder, f"{name} is a link")
        try:
            stored = load_file(folder / name)
        except (OSError, SafetensorError) as error:
            raise _unusable(folder, f"{name}: {error}") from error
        # Copies: the pages of a mapped file change with the file, and their alignment changes the last bits of sums.
        weights.update({tensor: value.clone() for tensor, value in stored.items()})
    return weights


def restore_model(family: type[RecommenderModel], config: GenrecConfig, folder: Path) -> RecommenderModel:
    """A model of a family with the stored weights.

    Raises:
        ArtifactError: If a tensor is missing, has another shape, or is not one of the model's.
    """
    weights = load_weights(folder)
    check_depth(config, len(weights), folder)
    with _without_report():
        loaded: Any = family.from_pretrained(
            None,
            config=config,
            state_dict=weights,
            output_loading_info=True,
            # Those are refused below, by name.
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    model, told = cast(tuple[RecommenderModel, dict[str, Any]], loaded)
    if told["missing_keys"]:
        raise _unusable(folder, f"they lack {min(told['missing_keys'])!r}")
    if told["unexpected_keys"]:
        raise _unusable(folder, f"the model has no {min(told['unexpected_keys'])!r}")
    for name, stored, expected in sorted(told["mismatched_keys"]):
        raise _unusable(folder, f"{name!r} has the shape {list(stored)}, the settings say {list(expected)}")
    return model


def check_depth(config: GenrecConfig, tensors: int, folder: Path) -> None:
    """Refuse more layers than there are tensors before any layer is built.

    Raises:
        ArtifactError: If so.
    """
    for part in (config.settings, config.backbone, (config.collaborative or {}).get("settings")):
        for name in DEPTHS & (part or {}).keys():
            value = (part or {})[name]
            if isinstance(value, int) and value > tensors:
                raise _unusable(folder, f"{name} is {value}, and there are {tensors} tensors")


@contextmanager
def _without_report() -> Iterator[None]:
    """Without the table of tensors that transformers logs, which an error with one line replaces."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _shards(folder: Path) -> list[str]:
    index = read_json(folder / SHARDS_FILE)
    found = index.get("weight_map") if isinstance(index, dict) else None
    names = list(found.values()) if isinstance(found, dict) else []
    wrong = [name for name in names if not isinstance(name, str) or not SHARD.fullmatch(name)]
    if wrong or not names:
        raise ArtifactError(
            "the model's weights cannot be loaded",
            where=f"{folder / SHARDS_FILE}: {f'it names {wrong[0]!r}' if wrong else 'it names no files'}",
            expected="names such as 'model-00001-of-00002.safetensors', inside the folder",
            fix=FIX,
        )
    return sorted(set(names))


def _unusable(folder: Path, why: str) -> ArtifactError:
    return ArtifactError("the model's weights cannot be loaded", where=f"{folder}: {why}", fix=FIX)
