"""Validation by real decoding: the lists that a user would get, scored over the full catalogue."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, cast

import numpy as np
from torch import nn

from genrec.config import DecodingConfig, TrainingConfig
from genrec.data.histories import Histories
from genrec.decoding import generate_lists
from genrec.distributed.world import World
from genrec.errors import ConfigError, DataError
from genrec.evaluation.metrics import evaluate_lists

if TYPE_CHECKING:
    from genrec.models.base import RecommenderModel

REPORTED_KS = (5, 10)


class ValidationData(Protocol):
    """What validation needs of a :class:`genrec.data.Dataset`."""

    @property
    def num_items(self) -> int:
        """N, the size of the catalogue."""

    def evaluation(self, part: Literal["validation", "test"]) -> tuple[Histories, Histories]:
        """Histories and held-out items, rows aligned."""


def selecting_k(metric: str) -> int:
    """The k of a metric that can select a model.

    Raises:
        ConfigError: If it is not recall, ndcg or mrr at some k.
    """
    found = re.fullmatch(r"(?:recall|ndcg|mrr)@([1-9]\d*)", metric)
    if not found:
        raise ConfigError(
            f"training.metric = {metric!r} cannot select a model",
            where="training.metric",
            expected="recall@k, ndcg@k or mrr@k",
            fix="write, for example, training.metric=ndcg@10",
        )
    return int(found[1])


def decoding_validation(
    dataset: ValidationData, config: TrainingConfig, decoding: DecodingConfig
) -> "DecodingValidation":
    """The default validation: lists by ``generate_lists`` for the validation users, item-level metrics.

    Args:
        dataset: Whose validation part is used.
        config: ``metric`` gives k, ``eval_users`` how many users, drawn by ``seed`` once for the whole run.
        decoding: How lists are written.

    Raises:
        ConfigError: If ``training.metric`` is not recall, ndcg or mrr at some k.
        DataError: If no user has both a history and a held-out item.
    """
    ks = sorted({*REPORTED_KS, selecting_k(config.metric)})
    histories, targets = dataset.evaluation("validation")
    if len(histories) == 0:
        raise DataError(
            "no user has both a history and a validation item",
            expected="users with at least three interactions (leave-one-out)",
            fix="give more interactions, lower data.k_core, or choose another data.split",
        )
    if config.eval_users is not None and config.eval_users < len(histories):
        rng = np.random.default_rng(config.seed)
        rows = np.sort(rng.choice(len(histories), config.eval_users, replace=False))
        histories, targets = histories.select(rows), targets.select(rows)

    return DecodingValidation(histories, targets, decoding, dataset.num_items, ks)


@dataclass(frozen=True, eq=False)
class DecodingValidation:
    """Lists for some users and their metrics; several processes share the users.

    Attributes:
        histories: What the lists are written for.
        targets: Held-out items, rows aligned.
        decoding: How lists are written.
        num_items: N.
        ks: List lengths that are measured, in rising order.
    """

    histories: Histories
    targets: Histories
    decoding: DecodingConfig
    num_items: int
    ks: list[int]

    def measure_shard(self, model: nn.Module, world: World) -> np.ndarray:
        """Lists of the users of this process, int32 ``[R, k]``."""
        rows = np.arange(world.rank, len(self.histories), world.size)
        model = cast("RecommenderModel", model)
        lists, _ = generate_lists(model, self.histories.select(rows), decoding=self.decoding, top_k=self.ks[-1])
        return lists

    def merge_shards(self, parts: list[np.ndarray]) -> dict[str, float]:
        """Metrics of all lists, given those of each process by rank."""
        lists = np.empty((len(self.histories), self.ks[-1]), dtype=np.int32)
        for rank, part in enumerate(parts):
            lists[rank :: len(parts)] = part
        return evaluate_lists(lists, self.targets, num_items=self.num_items, ks=self.ks).metrics

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Write and score all lists."""
        return self.merge_shards([self.measure_shard(model, World())])
