"""A trained dense recommender with sparse experts in the place of its feed-forward layers.

After "Sparse Upcycling" (Komatsuzaki et al. 2023): every expert starts as a copy of the dense layer, so the model gives
what it gave before; training then lets the experts part.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor

from genrec.config import RecommenderConfig
from genrec.errors import ConfigError
from genrec.models.base import GenrecConfig, RecommenderModel
from genrec.models.layers.moe import ExpertSettings, MixtureOfExperts
from genrec.models.registry import parse_recommender

# A dense layer's matrices by the names of its parts, in the two backbones.
DENSE_PARTS = (("gate_up.weight", "down.weight"), ("wi.weight", "wo.weight"))


def upcycle_recommender(model: RecommenderModel, settings: Mapping[str, Any], seed: int = 0) -> RecommenderModel:
    """The same recommender with experts.

    Its answers are those of ``model`` up to rounding; only the routers' weights are drawn.

    Args:
        model: Without experts.
        settings: Settings of :class:`~genrec.models.layers.moe.ExpertSettings` to change, ``experts`` among them.
        seed: Of the routers.

    Raises:
        ConfigError: If the model has experts already, no experts are asked for, its family has none, or other settings
            are to change.
    """
    config = deepcopy(cast(GenrecConfig, model.config))
    config.settings = _new_settings(model, settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sparse = type(model)(config)
    state = model.state_dict()
    sparse.load_state_dict(state, strict=False)
    for name, module in sparse.named_modules():
        if isinstance(module, MixtureOfExperts):
            module.copy_dense(*_dense_layer(name, state))
    return sparse.train(model.training)


def _new_settings(model: RecommenderModel, changes: Mapping[str, Any]) -> dict[str, Any]:
    other = [name for name in changes if name not in ExpertSettings.model_fields]
    if other:
        raise ConfigError(
            f"upcycling cannot change recommender.{other[0]}",
            where=f"recommender.{other[0]}",
            expected=f"one of {', '.join(ExpertSettings.model_fields)}",
            fix="leave it out: the other weights stay as they are",
        )
    if model.settings.experts:
        raise ConfigError(
            f"the model has {model.settings.experts} experts already",
            where="recommender.experts",
            expected="a dense model",
            fix="upcycle the dense model that it was made from",
        )
    settings = {**model.settings.model_dump(), **changes}
    if not settings["experts"]:
        raise ConfigError(
            "no experts are asked for",
            where="recommender.experts",
            expected="at least 1",
            fix="give --set recommender.experts=8",
        )
    return parse_recommender(RecommenderConfig(name=model.config.family, **settings)).model_dump()


def _dense_layer(experts: str, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Matrices of the dense layer where a mixture of experts now is."""
    block, _, _ = experts.rpartition(".")
    for first, second in DENSE_PARTS:
        for place in (block, experts):
            if f"{place}.{first}" in state:
                return state[f"{place}.{first}"], state[f"{place}.{second}"]
    raise KeyError(f"there is no dense layer at {experts}")
