"""Which experts serve what: the loads of a trained model and what its routers go by, measured on validation users.

Specialization is the normalized mutual information of the expert that a position is sent to first and the category of
the item (or the level of the code) that it reads: I(expert; group) / min(H(expert), H(group)), 0 where the group tells
nothing, 1 where one of the two decides the other. Routers see items, and each group of few items would tell something
by chance; so categories are also dealt to the items at random, and levels to the positions.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch

from genrec.data.histories import pad_histories
from genrec.models.base import RecommenderModel
from genrec.models.capabilities import ExpertAssignment
from genrec.models.layers.moe import MixtureOfExperts, expert_layers
from genrec.tokenizers.parts.sampling import draw_rows
from genrec.tokenizers.quality.neighborhoods import item_categories

if TYPE_CHECKING:
    from genrec.data import Dataset

USERS = 2000
BATCH = 256
SHOWN_CATEGORIES = 12
OTHERS = "others"
DRAWS = 5
SEED = 8191


def measure_experts(model: RecommenderModel, dataset: "Dataset") -> dict[str, Any] | None:
    """One pass over at most USERS validation users; None without experts or without such users.

    Args:
        model: With its trained weights.
        dataset: Its validation part and its categories are read.

    Returns:
        ``users``, ``positions`` (those that read a code or an item), ``experts``, ``experts_per_token``; ``category``
        (``column``, ``names`` and ``positions`` of those shown) and ``level`` (``names``), each None where there is no
        such thing; for every layer of experts ``load`` (share of the choices), ``max_load`` (the largest as a multiple
        of the equal one), ``idle`` (experts without a position), ``entropy`` (of the router, nats), and for category
        and level ``nmi``, ``nmi_by_chance`` and ``shares`` (of each one's choices, a row per name).
    """
    layers = expert_layers(model.modules())
    histories, targets = dataset.evaluation("validation")
    if not layers or not len(histories):
        return None
    rows = draw_rows(len(histories), USERS, SEED)
    items, places, chosen, entropy = _pass(model, layers, histories.select(rows), targets.select(rows))
    known = items >= 0
    labels = item_categories(dataset.items)
    grouped = {"category": _categories(labels, items[known]), "level": _levels(places[known])}
    told: dict[str, Any] = {
        "users": len(rows),
        "positions": int(known.sum()),
        "experts": layers[0].settings.experts,
        "experts_per_token": layers[0].settings.experts_per_token,
        "category": None,
        "level": None,
        "layers": [],
    }
    told |= {kind: group.described for kind, group in grouped.items() if group is not None}
    for experts, nats in zip(chosen, entropy, strict=True):
        load = np.bincount(experts.ravel(), minlength=told["experts"]) / experts.size
        layer = {
            "load": load.tolist(),
            "max_load": float(load.max() * len(load)),
            "idle": int((load == 0).sum()),
            "entropy": nats,
        }
        for kind, group in grouped.items():
            layer[kind] = None if group is None else group.measure(experts[known], told["experts"])
        told["layers"].append(layer)
    return told


def normalized_information(first: np.ndarray, second: np.ndarray) -> float:
    """Mutual information over the smaller of the two entropies, 0 to 1; 0 if one of them is always the same.

    Args:
        first: int ``[n]``, from 0.
        second: int ``[n]``, from 0.
    """
    pairs = np.bincount(first.astype(np.int64) * (int(second.max()) + 1) + second)
    entropies = [_entropy(np.bincount(first)), _entropy(np.bincount(second))]
    smaller = min(entropies)
    return float(np.clip((sum(entropies) - _entropy(pairs)) / smaller, 0.0, 1.0)) if smaller > 1e-12 else 0.0


class _Groups:
    """What positions are grouped by.

    Args:
        unit: What a group is a property of, int ``[n]``: the item that a position reads, or the position itself.
        group_of: Group of every unit, int ``[U]``; -1 where it has none.
        rows: The row of each group in what is shown, int ``[G]``.
        described: What the report says of the rows, with ``names``.
    """

    def __init__(self, unit: np.ndarray, group_of: np.ndarray, rows: np.ndarray, described: dict[str, Any]) -> None:
        self.unit, self.group_of, self.rows, self.described = unit, group_of, rows, described

    def measure(self, chosen: np.ndarray, experts: int) -> dict[str, Any]:
        """Specialization and shares for the choices ``[n, k]`` of the positions."""
        group = self.group_of[self.unit]
        known = group >= 0
        group, chosen, unit = group[known], chosen[known], self.unit[known]
        rng, first = np.random.default_rng(SEED), chosen[:, 0]
        units = np.flatnonzero(self.group_of >= 0)
        by_chance = []
        for _ in range(DRAWS):
            dealt = self.group_of.copy()
            dealt[units] = rng.permutation(dealt[units])
            by_chance.append(normalized_information(first, dealt[unit]))
        counts = np.zeros((len(self.described["names"]), experts))
        np.add.at(counts, (self.rows[group][:, None], chosen), 1)
        return {
            "nmi": normalized_information(first, group),
            "nmi_by_chance": float(np.mean(by_chance)),
            "shares": (counts / np.maximum(counts.sum(1, keepdims=True), 1)).tolist(),
        }


def _categories(labels: pl.Series | None, items: np.ndarray) -> _Groups | None:
    """The categories of the items that positions read; None where there are not two."""
    if labels is None:
        return None
    read, unit = np.unique(items, return_inverse=True)
    mine = labels.gather(read)
    known = mine.is_not_null().to_numpy()
    names, group = np.unique(mine.drop_nulls().to_numpy().astype(str), return_inverse=True)
    if len(names) < 2:
        return None
    group_of = np.full(len(read), -1)
    group_of[known] = group
    counts = np.bincount(group_of[unit][group_of[unit] >= 0], minlength=len(names))
    order = np.argsort(-counts, kind="stable")
    rows = np.empty(len(names), dtype=np.int64)
    rows[order] = np.minimum(np.arange(len(names)), SHOWN_CATEGORIES)
    shown = [str(name) for name in names[order[:SHOWN_CATEGORIES]]]
    positions = np.bincount(rows, counts).astype(int).tolist()
    described = {
        "column": labels.name,
        "groups": len(names),
        "names": shown + [OTHERS] * (len(names) > SHOWN_CATEGORIES),
        "positions": positions,
    }
    return _Groups(unit, group_of, rows, described)


def _levels(places: np.ndarray) -> _Groups | None:
    """The levels of the codes that positions read; None where they read whole items."""
    levels = np.unique(places)
    if len(levels) < 2:
        return None
    described = {"groups": len(levels), "names": [f"level {level + 1}" for level in levels.tolist()]}
    return _Groups(np.arange(len(places)), np.searchsorted(levels, places), np.arange(len(levels)), described)


@torch.no_grad()
def _pass(
    model: RecommenderModel, layers: list[MixtureOfExperts], histories: Any, targets: Any
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], list[float]]:
    """Item and place ``[n]`` that every routed position reads; per layer its choices ``[n, k]`` and mean entropy."""
    assert isinstance(model, ExpertAssignment)  # only such families have layers of experts
    training, read, places = model.training, [], []
    chosen: list[list[np.ndarray]] = [[] for _ in layers]
    nats = np.zeros(len(layers))
    model.eval()
    for start in range(0, len(histories), BATCH):
        rows = np.arange(start, min(start + BATCH, len(histories)))
        padded = (*pad_histories(histories, rows, model.max_history), np.array([targets[row][0] for row in rows]))
        given = [torch.from_numpy(part).to(model.device, torch.int64) for part in padded]
        read_too = model.settings.read_side_inputs(histories, rows, model.max_history)
        extras = {name: torch.from_numpy(part).to(model.device) for name, part in read_too.items()}
        items, place = (part.cpu().numpy() for part in model.expert_assignments(*given, **extras))
        read.append(_without_ended(model, items, place))
        places.append(place)
        for number, layer in enumerate(layers):
            if layer.routing is not None:
                chosen[number].append(layer.routing.chosen.cpu().numpy())
                nats[number] += float(layer.routing.entropy) * len(items)
    model.train(training)
    joined = [np.concatenate(parts) for parts in chosen]
    items = np.concatenate(read)
    return items, np.concatenate(places), joined, (nats / len(items)).tolist()


def _without_ended(model: RecommenderModel, items: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The items, -1 where a position is after the end of a shorter semantic ID."""
    if not model.config.variable_length or not places.max(initial=0):
        return items
    codes = model.get_buffer("item_codes").cpu().numpy()
    return np.where((items >= 0) & (codes[items, places] < 0), -1, items)


def _entropy(counts: np.ndarray) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())
