"""One point of a scaling study, trained on the small run: what it holds, that it is not made twice, what it tells."""

import numpy as np
import pytest
import torch
from tiny_run import tiny_home

from genrec.artifacts import read_json
from genrec.cli import main
from genrec.config import DecodingConfig, RecommenderConfig, TrainingConfig
from genrec.data import Dataset
from genrec.errors import ArtifactError
from genrec.models import resolve_recommender
from genrec.models.flops import training_flops
from genrec.pipeline.model_folder import Companions, open_model
from genrec.pipeline.scaling import held_out_loss, train_point
from genrec.pipeline.train import TrainingPlan


def plan(**changes) -> TrainingPlan:
    shape = {"hidden_size": 16, "num_layers": 1, "num_heads": 1, "max_history": 10, "experts": 3}
    training = TrainingConfig(epochs=2, batch_size=32, eval_epochs=2, **changes)
    recommender = RecommenderConfig.model_validate({"name": "decoder", **shape})
    return TrainingPlan(resolve_recommender(recommender), training, DecodingConfig(top_k=10, num_beams=10))


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return Dataset.load(tiny_home() / "run" / "dataset")


@pytest.fixture(scope="module")
def companions() -> Companions:
    return Companions(tiny_home() / "run" / "tokenizer", tiny_home() / "run" / "features")


@pytest.fixture(scope="module")
def made(dataset, companions, tmp_path_factory):
    folder = tmp_path_factory.mktemp("point")
    return folder, train_point(plan(), dataset, companions, folder)


def brute_force_loss(model, dataset) -> float:
    """User by user, code by code."""
    histories, targets = dataset.evaluation("validation")
    losses = []
    for row in range(len(histories)):
        items = torch.tensor(histories[row][-10:].astype(np.int64))[None]
        context, total = model.encode(items, torch.tensor([items.shape[1]])), 0.0
        codes = model.item_codes[int(targets[row][0])].long()
        for level in range(model.num_levels):
            prefix = codes[None, None, :level]
            logits = model.next_code_logits(context, prefix, torch.zeros(1, 1, dtype=torch.long))
            total -= float(logits[0, 0].double().log_softmax(-1)[codes[level]])
        losses.append(total)
    return float(np.mean(losses))


def test_a_point_holds_what_was_measured(made, dataset):
    folder, point = made
    model = open_model(folder / "model").model
    with torch.no_grad():
        assert point["loss"] == pytest.approx(brute_force_loss(model, dataset), abs=1e-4)
    assert held_out_loss(model, dataset) == pytest.approx(point["loss"])
    lengths = dataset.train().lengths
    windows = np.concatenate([[11] * (n // 11) + [n % 11] * (n % 11 > 0) for n in lengths.tolist()]).astype(int)
    assert point["flops"] == 2 * training_flops(model, windows)
    assert point["parameters"] > point["active_parameters"]
    assert 0 < point["seconds"] < 60
    assert 0 <= point["recall@10"] <= 1


def test_a_point_is_not_made_twice_and_not_taken_for_another(made, dataset, companions, monkeypatch):
    folder, point = made
    monkeypatch.setattr("genrec.pipeline.scaling.train_model", None)
    assert train_point(plan(), dataset, companions, folder) == point
    with pytest.raises(ArtifactError, match="made with other settings"):
        train_point(plan(seed=7), dataset, companions, folder)


def test_the_model_folder_tells_of_its_experts(made, capsys):
    folder, _ = made
    told = read_json(folder / "model" / "experts.json")
    assert told["experts"] == 3
    assert told["category"]["column"] == "genres"
    assert told["level"]["names"][0] == "level 1"
    assert main(["inspect", str(folder / "model")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "3 experts in 1 layer, 2 for each position" in said
    assert "by the category" in said
    assert not (tiny_home() / "run" / "model" / "experts.json").exists()
