"""``genrec add-transitions``: item-to-item links of the training part next to a trained model, for its lists.

The links are those of the baseline ``transition``, chosen on validation for themselves. With ``auto`` their weight in
the model's lists is chosen on validation as well: that of :data:`WEIGHTS` with the best ndcg@10, the smallest of equal
ones. Only these choices look at the validation part; nothing looks at the test part.
"""

import logging
from pathlib import Path
from typing import Literal

from genrec.artifacts import MANIFEST, reserve_folder, write_artifact, write_json
from genrec.artifacts.manifest import CARD
from genrec.artifacts.reading import copy_plain
from genrec.config import DecodingConfig, parse_settings
from genrec.data import Dataset
from genrec.decoding import generate_lists
from genrec.decoding.transitions import FILES, Transitions, use_transitions
from genrec.errors import ArtifactError
from genrec.evaluation.baselines import Transition
from genrec.evaluation.baselines.item_graph import TUNING_K, validation_sample
from genrec.evaluation.metrics import evaluate_lists
from genrec.models import RecommenderModel
from genrec.pipeline.model_folder import DECODING_FILE, STAGE, open_model

logger = logging.getLogger(__name__)

WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


def add_transitions(
    source: Path, dataset: Dataset, out: Path, weight: float | Literal["auto"], decoding: DecodingConfig | None = None
) -> Transitions:
    """Write a copy of a model folder with links of the training part, whose lists use them.

    Args:
        source: A model folder; it stays as it is.
        dataset: What it was trained on.
        out: The folder to write.
        weight: ``decoding.transition_weight`` of the copy.
        decoding: How its lists are written by default; as those of the model if None.

    Returns:
        The links.

    Raises:
        ConfigError: If the weight cannot be used with the model's mode of search, or ``out`` must not be written.
        ArtifactError: If a folder cannot be used or written, or the model was trained on other data.
    """
    with reserve_folder(out, STAGE, reads=[source, dataset.path]) as place:
        trained = open_model(source)
        trained.check_catalogue(dataset)
        if trained.manifest.inputs.get("dataset") != dataset.fingerprint:
            raise ArtifactError(
                "the model was trained on another preparation of these items: its training may hold test items",
                where=str(dataset.path),
                expected=f"the data set {trained.manifest.inputs.get('dataset', '')[:16]}...",
                fix="give the data set that the model was trained on",
            )
        values = (decoding or trained.decoding).model_dump() | {"transition_weight": weight}
        decoding = parse_settings(DecodingConfig, values, where="decoding")
        transitions = fit_transitions(trained.model, dataset, decoding)
        manifest = trained.manifest
        config = manifest.config | {"transitions": transitions.description}
        inputs = manifest.inputs | {"model": manifest.fingerprint}
        with write_artifact(place, STAGE, config=config, inputs=inputs, seed=manifest.seed) as folder:
            for path in source.iterdir():
                if path.name not in (MANIFEST, CARD, DECODING_FILE, *FILES):
                    copy_plain(path, folder.path / path.name)
            write_json(folder.path / DECODING_FILE, decoding.model_dump(mode="json"))
            transitions.save(folder.path)
            folder.counts = manifest.counts | {"transition_links": int(transitions.links.nnz)}
    return transitions


def fit_transitions(model: RecommenderModel, dataset: Dataset, decoding: DecodingConfig) -> Transitions:
    """The links of the training part with their weight next to a model; the model then uses them.

    Args:
        model: Trained on this data set.
        dataset: A prepared data set.
        decoding: How the model's lists are written; with ``auto`` the weight is chosen.
    """
    links = Transition.tuned(dataset, exclude_seen=decoding.exclude_seen)
    weight = 1.0 if decoding.transition_weight == "auto" else decoding.transition_weight
    transitions = links.transitions(weight)
    use_transitions(model, transitions)
    if decoding.transition_weight == "auto":
        transitions = links.transitions(_best_weight(model, dataset, decoding))
        use_transitions(model, transitions)
    return transitions


def _best_weight(model: RecommenderModel, dataset: Dataset, decoding: DecodingConfig) -> float:
    histories, targets = validation_sample(dataset)
    values = {}
    for weight in WEIGHTS if len(targets) else WEIGHTS[:1]:
        tried = decoding.model_copy(update={"transition_weight": weight})
        lists, _ = generate_lists(model, histories, decoding=tried, top_k=TUNING_K)
        measured = evaluate_lists(lists, targets, num_items=dataset.num_items, ks=[TUNING_K]) if len(targets) else None
        values[weight] = measured.metrics[f"ndcg@{TUNING_K}"] if measured else 0.0
    best = max(values, key=lambda weight: values[weight])
    logger.info(
        "transition_weight %g of %s: ndcg@%d %.4f on %d validation users, %.4f without transitions",
        best, ", ".join(f"{weight:g}" for weight in values), TUNING_K, values[best], len(targets), values[0.0],
    )  # fmt: skip
    return best
