"""The default validation against lists made item by item, and real models through the whole loop."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from tiny_training import settings

from genrec.config import DecodingConfig, RecommenderConfig
from genrec.data import Dataset, Histories
from genrec.distributed.world import World
from genrec.errors import ConfigError, DataError, InterruptedRun
from genrec.models.base import RecommenderModel
from genrec.models.registry import build_recommender
from genrec.tokenizers.index import ItemIndex
from genrec.training import decoding_validation, train_recommender

NUM_ITEMS = 27
SMALL = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "max_history": 6}


class Data:
    """Users walk round a circle of items; the next two items are held out."""

    fingerprint, num_items = "circle", NUM_ITEMS

    def __init__(self, users: int = 60) -> None:
        rng = np.random.default_rng(0)
        starts, lengths = rng.integers(NUM_ITEMS, size=users), rng.integers(2, 12, size=users)
        self.walks = [[(s + i) % NUM_ITEMS for i in range(n + 1)] for s, n in zip(starts, lengths, strict=True)]

    def train(self) -> Histories:
        return Histories.from_lists([walk[:-1] for walk in self.walks])

    def evaluation(self, part: str) -> tuple[Histories, Histories]:
        assert part == "validation"
        return self.train(), Histories.from_lists([walk[-1:] for walk in self.walks])


def model_of(name: str, num_items: int = NUM_ITEMS) -> RecommenderModel:
    torch.manual_seed(0)
    codes = np.stack(np.unravel_index(np.arange(num_items), (4, 4, 4)), axis=1)
    index = ItemIndex(codes, (4, 4, 4), [str(item) for item in range(num_items)])
    extra = {"use_features": False} if name == "depth" else {}
    return build_recommender(RecommenderConfig(name=name, **SMALL, **extra), num_items=num_items, index=index)


def by_hand(model: Any, data: Data, k: int) -> tuple[float, float]:
    """Recall and NDCG of one held-out item from the place of its score among the unseen items."""
    recalls, gains = [], []
    for walk in data.walks:
        history = torch.tensor([walk[:-1][-model.max_history :]])
        scores = model.score_items(history, torch.tensor([history.shape[1]]))[0]
        scores[walk[:-1]] = -torch.inf
        place = int((scores > scores[walk[-1]]).sum()) + 1
        recalls.append(place <= k)
        gains.append(1 / np.log2(place + 1) if place <= k else 0.0)
    return float(np.mean(recalls)), float(np.mean(gains))


@pytest.mark.parametrize(("metric", "k"), [("ndcg@10", 10), ("recall@3", 3)])
def test_is_what_scoring_by_hand_gives(metric: str, k: int):
    model, data = model_of("sasrec").eval(), Data()
    with torch.no_grad():
        metrics = decoding_validation(data, settings(metric=metric), DecodingConfig())(model)
        recall, gain = by_hand(model, data, k)
    assert metrics[f"recall@{k}"] == pytest.approx(recall)
    assert metrics[f"ndcg@{k}"] == pytest.approx(gain)
    assert metrics["recall@5"] > 0


@pytest.mark.parametrize("count", [2, 3])
def test_processes_that_share_the_users_find_what_one_finds(count: int):
    model = model_of("sasrec").eval()
    validation = decoding_validation(Data(), settings(metric="ndcg@10"), DecodingConfig())
    with torch.no_grad():
        parts = [validation.measure_shard(model, World(rank, count)) for rank in range(count)]
        assert validation.merge_shards(parts) == validation(model)
    assert sum(map(len, parts)) == 60


def test_a_sample_of_users_is_drawn_by_seed(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def lists(model: Any, histories: Histories, *, decoding: DecodingConfig, top_k: int) -> tuple[np.ndarray, None]:
        asked.append(histories.users.tolist())
        return np.full((len(histories), top_k), -1, dtype=np.int32), None

    monkeypatch.setattr("genrec.training.validation.generate_lists", lists)
    for seed in (1, 1, 2):
        config = settings(metric="ndcg@10", eval_users=7, seed=seed)
        assert decoding_validation(Data(), config, DecodingConfig())(SimpleNamespace())["recall@10"] == 0
    assert len(set(asked[0])) == 7
    assert asked[0] == asked[1] == sorted(asked[0])
    assert asked[0] != asked[2]


@pytest.mark.parametrize("metric", ["ndcg", "loss", "coverage@10"])
def test_a_metric_that_cannot_select_is_refused(metric: str):
    with pytest.raises(ConfigError, match=r"training\.metric = .* cannot select a model") as caught:
        decoding_validation(Data(), settings(metric=metric), DecodingConfig())
    assert caught.value.expected == "recall@k, ndcg@k or mrr@k"
    assert "training.metric=ndcg@10" in caught.value.fix


def test_nobody_to_validate_on_is_refused():
    data = Data(users=0)
    with pytest.raises(DataError, match="no user has both a history and a validation item") as caught:
        decoding_validation(data, settings(metric="ndcg@10"), DecodingConfig())
    assert "data.k_core" in caught.value.fix


def test_a_model_that_draws_its_targets_resumes_bit_by_bit_on_a_prepared_data_set(
    tiny_dataset: Dataset, tmp_path: Path
):
    config = settings(epochs=2, batch_size=16, metric="ndcg@10", eval_users=20)

    def run(folder: str, stop: int | None = None) -> tuple[dict[str, torch.Tensor], Path]:
        model = model_of("seq2seq", tiny_dataset.num_items)
        calls = iter(range(1, 99))
        model.register_forward_pre_hook(
            lambda *_: os.kill(os.getpid(), signal.SIGTERM) if next(calls) == stop else None
        )
        decoding, console = DecodingConfig(), Console(quiet=True)
        result = train_recommender(model, tiny_dataset, config, decoding, tmp_path / folder, console=console)
        return model.state_dict(), tmp_path / folder / f"checkpoint-{result.steps}"

    whole, expected = run("whole")
    with pytest.raises(InterruptedRun, match="SIGTERM at step 3"):
        run("cut", stop=3)
    resumed, found = run("cut")
    for name in ("model.safetensors", "optimizer.safetensors", "random.safetensors"):
        mine, others = load_file(found / name), load_file(expected / name)
        assert mine.keys() == others.keys()
        assert all(torch.equal(mine[key], others[key]) for key in mine)
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


@pytest.mark.parametrize("name", ["sasrec", "decoder", "depth"])
def test_a_real_model_learns_the_circle_and_comes_back_bit_by_bit(tmp_path: Path, name: str):
    config = settings(epochs=25, eval_epochs=5, batch_size=16, learning_rate=0.03, metric="ndcg@5", patience=9)
    decoding, console = DecodingConfig(num_beams=10), Console(quiet=True)
    model, again = model_of(name), model_of(name)
    result = train_recommender(model, Data(), config, decoding, tmp_path, console=console)
    assert result.best_metric is not None
    assert result.best_metric > 0.6
    assert set(result.history[0]["validation"]) >= {"recall@5", "ndcg@5", "mrr@10", "coverage@10"}
    train_recommender(again, Data(), config, decoding, tmp_path, console=console)
    mine, other = model.state_dict(), again.state_dict()
    assert all(torch.equal(mine[key], other[key]) for key in mine)
