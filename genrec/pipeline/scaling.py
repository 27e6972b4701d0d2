"""One point of a scaling study: a model trained, its operations counted, its loss on held-out items measured."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec.alignment.scoring import sequence_log_probs
from genrec.artifacts import MANIFEST, fingerprint, read_json, write_json
from genrec.data import Dataset
from genrec.data.histories import pad_histories
from genrec.errors import ArtifactError
from genrec.models import GenerativeRecommender
from genrec.models.flops import active_parameters, training_flops
from genrec.pipeline.model_folder import TRAINING_FILE, Companions, open_model
from genrec.pipeline.train import TrainingPlan, train_model
from genrec.training.batches import cut_windows, window_size

POINT_FILE = "point.json"
SCORED_USERS = 256


def train_point(plan: TrainingPlan, dataset: Dataset, companions: Companions, folder: Path) -> dict[str, Any]:
    """Train and measure one model; what is done is read, not done again.

    Args:
        plan: What to train; a family whose operations are counted.
        dataset: Prepared data.
        companions: Folders of the semantic IDs and of the features.
        folder: Where the model and its point are written.

    Raises:
        ArtifactError: If the folder holds a point that was made with other settings or other data.

    Returns:
        ``parameters``, ``active_parameters``, ``flops`` of the whole training, ``loss`` (nats per validation item),
        ``steps``, ``seconds`` without validation, and the metrics of the last validation.
    """
    made_from = fingerprint([plan.settings, dataset.fingerprint])
    if (folder / POINT_FILE).is_file():
        return _known_point(folder, made_from)
    if not (folder / "model" / MANIFEST).is_file():
        train_model(plan, dataset, companions, folder / "model")
    training = read_json(folder / "model" / TRAINING_FILE)
    model = open_model(folder / "model").model
    if not isinstance(model, GenerativeRecommender):
        raise TypeError(f"{type(model).__name__} writes no semantic IDs")
    windows = cut_windows(dataset.train(), window_size(model))
    history = training["history"]
    point = {
        "made_from": made_from,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "active_parameters": active_parameters(model),
        "flops": round(training["epochs"] * training_flops(model, windows.lengths)),
        "loss": held_out_loss(model, dataset),
        "steps": training["steps"],
        "seconds": history[-1]["seconds"] - sum(record["validation_seconds"] for record in history),
        **history[-1]["validation"],
    }
    write_json(folder / POINT_FILE, point)
    return point


def _known_point(folder: Path, made_from: str) -> dict[str, Any]:
    point = dict(read_json(folder / POINT_FILE))
    if point["made_from"] != made_from:
        raise ArtifactError(
            "this point was made with other settings or from other data",
            where=str(folder),
            expected="the settings and the data set that it was made with",
            fix="use the same settings as before, or another folder",
        )
    return point


@torch.no_grad()
def held_out_loss(model: GenerativeRecommender, dataset: Dataset) -> float:
    """Mean of -log p(semantic ID | history) over all validation items, in nats per item, under the unmasked softmax.

    Args:
        model: In eval mode.
        dataset: Its validation part is read.
    """
    histories, targets = dataset.evaluation("validation")
    total, count = 0.0, 0
    for rows in np.array_split(np.argsort(histories.lengths), max(1, len(histories) // SCORED_USERS)):
        items, lengths = (_on(model, part) for part in pad_histories(histories, rows, model.max_history))
        read_too = model.settings.read_side_inputs(histories, rows, model.max_history)
        extras = {name: _on(model, part) for name, part in read_too.items()}
        wanted = targets.select(rows)
        candidates = np.full((len(rows), int(wanted.lengths.max())), -1, dtype=np.int64)
        candidates[np.arange(candidates.shape[1]) < wanted.lengths[:, None]] = np.concatenate(
            [wanted[row] for row in range(len(rows))]
        )
        total -= float(sequence_log_probs(model, items, lengths, _on(model, candidates), extras=extras).double().sum())
        count += int(wanted.lengths.sum())
    return total / count


def _on(model: GenerativeRecommender, values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).to(model.device)
