"""What the stages of a run are: what each reads, what decides its result, what it leaves."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from genrec.artifacts import MANIFEST, MARK, read_json, read_manifest, write_file
from genrec.artifacts.manifest import CARD
from genrec.artifacts.marks import is_as_stamped, write_result
from genrec.config import DecodingConfig
from genrec.data import prepare_dataset
from genrec.data.prepare import input_fingerprints, shaping
from genrec.decoding import Names, generate_blocks, generate_lists, schema_of, write_recommendations
from genrec.evaluation.baselines import fit_baseline
from genrec.evaluation.protocol import Protocol, Result, metrics_json, score_lists
from genrec.features import build_features
from genrec.models import ResolvedRecommender
from genrec.pipeline.add_transitions import add_transitions
from genrec.pipeline.align import ALIGNMENT_FILE, EXAMPLES_FILE, align_model
from genrec.pipeline.environment import published
from genrec.pipeline.evaluate import protocol_of
from genrec.pipeline.model_folder import EXPERTS_FILE, TrainedModel, open_model
from genrec.pipeline.resolve import LEARNED_BASELINE, ResolvedRecipe
from genrec.pipeline.tokenize import tokenize_items
from genrec.pipeline.train import LOG_FILE, check_data, read_records
from genrec.pipeline.work import (
    BASELINE_LISTS_FILE,
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    LEARNED_FOLDER,
    LISTS_FILE,
    METRICS_FILE,
    RECOMMENDATIONS_FILE,
    REPORT_FILE,
    SETTINGS_FILE,
    VARIANT_LISTS_FILE,
    Work,
)
from genrec.reports.content import Change, Example, ReportContent, make_examples
from genrec.reports.html import write_report
from genrec.reports.model_card import write_model_card

logger = logging.getLogger(__name__)

BEFORE_ALIGNMENT = "before alignment"
# What ranks when the two parts of log p(codes) + w log p(item) are used alone.
SCORE_PARTS: dict[str, dict[str, Any]] = {
    "codes only": {"item_weight": 0.0},
    "item vectors only": {"mode": "items", "item_weight": 0.0},
}


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: As in ``--until`` and ``--force``.
        work: Does it and says in one line what came out.
        settings: What decides the result, JSON-able.
        outputs: Names of the files and folders that it leaves, relative to the run's folder.
        after: Names of the stages whose outputs it reads.
        needed: Whether a recipe has any use for it.
    """

    name: str
    work: Callable[["Work"], str]
    settings: Callable[["Work"], Any]
    outputs: Callable[["Work"], Sequence[str]]
    after: Callable[[ResolvedRecipe], Sequence[str]]
    needed: Callable[[ResolvedRecipe], bool] = lambda recipe: True


def run_dataset(work: Work) -> str:
    """Prepare the data, or check the prepared ones."""
    dataset = prepare_dataset(work.recipe.data, work.dataset_folder)
    return f"{dataset.num_users:,} users, {dataset.num_items:,} items, {dataset.num_interactions:,} interactions"


def make_features(work: Work) -> str:
    """Make one vector per item; not for a recommender that reads of histories or items what the data do not have."""
    check_data(work.resolved.recommender, work.dataset)
    features = build_features(work.recipe.features, work.dataset, work.folder / "features")
    return f"{work.recipe.features.encoder}, {features.values.shape[1]} numbers per item"


def make_tokenizer(work: Work) -> str:
    """Turn vectors into semantic IDs."""
    folder = work.folder / "tokenizer"
    index = tokenize_items(work.recipe.tokenizer, work.dataset, work.folder / "features", folder)
    rate = read_manifest(folder).counts.get("collision_rate", 0.0)
    sizes = " x ".join(str(size) for size in index.level_sizes)
    return f"{work.recipe.tokenizer.name}, levels {sizes}, {rate:.1%} of the items collided"


def make_model(work: Work) -> str:
    """Train the recommender."""
    folder = work.folder / "model"
    work.train("model", work.plan, folder)
    trained = read_json(folder / "training.json")
    millions = read_manifest(folder).counts["parameters"] / 1e6
    best = trained["best_metric"]
    reached = f", {work.recipe.training.metric} {best:.4f} on validation" if best is not None else ""
    return f"{work.recipe.recommender.name}, {millions:.2f} M parameters, {trained['epochs']:.3g} epochs{reached}"


def make_aligned(work: Work) -> str:
    """Move the recommender to what users prefer."""
    config, folder = work.recipe.alignment, work.folder / "aligned"
    result = align_model(work.folder / "model", work.dataset, config, folder, console=work.console)
    steps = sum(part.steps for part in result.iterations)
    metric = config.training.metric
    moved = f"{metric} {result.start[metric]:.4f} -> {result.best[metric]:.4f} on validation"
    return f"{config.method}, {steps} steps, {moved}"


def make_transitions(work: Work) -> str:
    """Add transitions of the training part to a copy of the model."""
    decoding, folder = work.recipe.decoding, work.folder / "transitions"
    source = work.folder / work.learned_name
    made = add_transitions(source, work.dataset, folder, decoding.transition_weight, work.learned_decoding)
    chosen = ", chosen on validation" if decoding.transition_weight == "auto" else ""
    return f"{made.links.nnz:,} links, weight {made.weight:g}{chosen}"


def make_baselines(work: Work) -> str:
    """Fit or train what the recommender is compared with, and write their lists for the test users."""
    names = work.recipe.evaluation.baselines
    histories, _ = work.dataset.evaluation("test")
    exclude_seen, lists, settings = work.recipe.decoding.exclude_seen, {}, {}
    for name in names:
        if name == LEARNED_BASELINE:
            trained = _learned_baseline(work)
            settings[name] = work.baseline_plan.settings["recommender"]
            lists[name], _ = generate_lists(
                trained.model, histories, decoding=work.learned_decoding, top_k=work.list_length, progress=True
            )
        else:
            fitted = fit_baseline(name, work.dataset, exclude_seen=exclude_seen)
            settings[name] = fitted.settings
            lists[name], _ = fitted.recommend(histories, top_k=work.list_length, exclude_seen=exclude_seen)
    _save_lists(work.folder / BASELINE_LISTS_FILE, lists)
    write_result(work.folder / SETTINGS_FILE, settings)
    return ", ".join(names)


def make_evaluation(work: Work) -> str:
    """Write the recommender's lists for the test users and measure them with the baselines'."""
    recipe, dataset = work.recipe, work.dataset
    histories, _ = dataset.evaluation("test")
    lists, scores = generate_lists(
        work.trained.model, histories, decoding=recipe.decoding, top_k=work.list_length, progress=True
    )
    _save_lists(work.folder / LISTS_FILE, {"items": lists, "scores": scores})
    protocol = protocol_of(work.folder / work.model_name, work.trained, dataset, "test", recipe.decoding)
    settings = work.plan.settings["recommender"]
    result = score_lists(recipe.recommender.name, lists, dataset, protocol, recipe.evaluation, settings=settings)
    variants = _variants(work)
    if variants:
        named = {variant.system: variant.recommended for variant in variants if variant.recommended is not None}
        _save_lists(work.folder / VARIANT_LISTS_FILE, named)
    write_result(work.folder / METRICS_FILE, metrics_json(result, _baseline_results(work), variants))
    shown = [name for name in ("recall@10", "ndcg@10") if name in result.evaluation.metrics]
    return ", ".join(f"{name} {result.evaluation.metrics[name]:.4f}" for name in shown) or "measured"


def make_recommendations(work: Work) -> str:
    """Write a list for every user, from everything known of them."""
    dataset, decoding = work.dataset, work.recipe.decoding
    histories, trained = dataset.full(), work.trained
    written = write_recommendations(
        work.folder / RECOMMENDATIONS_FILE,
        lambda blocks: generate_blocks(
            trained.model, histories, decoding=decoding, user_ids=dataset.user_ids, blocks=blocks, progress=True
        ),
        Names.of(histories.users, dataset.user_ids, dataset.item_ids),
        schema=schema_of(),
        request={
            "dataset": dataset.fingerprint,
            "model": trained.manifest.fingerprint,
            "decoding": decoding.model_dump(mode="json"),
        },
    )
    return f"{written.users:,} lists of {decoding.top_k}"


def make_report(work: Work) -> str:
    """Write the report and the model card."""
    content = report_content(work)
    write_report(work.folder / REPORT_FILE, content)
    card = work.folder / work.model_name / CARD
    if card.is_file() and not is_as_stamped(card):
        logger.warning("%s was edited and is kept; delete it to get a new one", card)
        return REPORT_FILE
    popular = np.argsort(-work.dataset.train_popularity(), kind="stable")[:3]
    write_model_card(
        card,
        content,
        location=published(work.folder / work.model_name),
        example_items=[work.dataset.item_ids[item] for item in popular],
    )
    return REPORT_FILE


def report_content(work: Work) -> ReportContent:
    """Everything that a report of this run shows."""
    folder = work.folder
    quality, experts = folder / "tokenizer" / "quality.json", folder / "model" / EXPERTS_FILE
    return ReportContent(
        name=folder.name,
        system=work.recipe.recommender.name,
        runs=[read_json(folder / METRICS_FILE)],
        statistics=work.dataset.statistics,
        training=read_records(folder / LOG_FILE),
        quality=read_json(quality) if work.resolved.needs_semantic_ids else {},
        experts=read_json(experts) if experts.is_file() else {},
        examples=examples(work),
        **_alignment_content(work),
        environment=read_json(folder / ENVIRONMENT_FILE),
        recipe=(folder / CONFIG_FILE).read_text(encoding="utf-8"),
        seconds={name: record.seconds for name, record in work.ledger.records.items()},
        created=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )


def examples(work: Work) -> list[Example]:
    """A few test users with their histories and lists."""
    lists = load_file(work.folder / LISTS_FILE)
    histories, targets = work.dataset.evaluation("test")
    return make_examples(
        work.dataset,
        histories,
        lists["items"],
        lists["scores"],
        targets=targets,
        count=work.recipe.evaluation.examples,
        top_k=work.recipe.decoding.top_k,
    )


def _alignment_content(work: Work) -> dict[str, Any]:
    """What the folder ``aligned`` tells of itself, where the recipe aligns."""
    if not work.recipe.aligns:
        return {}
    folder = work.folder / "aligned"
    changes = [
        Change(told["user"], *(tuple(told[side]) for side in ("history", "before", "after")))
        for told in read_json(folder / EXAMPLES_FILE)
    ]
    return {"alignment": read_json(folder / ALIGNMENT_FILE), "changes": changes}


def _learned_baseline(work: Work) -> TrainedModel:
    """The trained baseline, trained only if its own settings or the data changed."""
    folder, plan = work.folder / LEARNED_FOLDER, work.baseline_plan
    if (folder / MANIFEST).is_file():
        manifest = read_manifest(folder)
        same = {key: manifest.config.get(key) for key in plan.settings} == plan.settings
        if same and manifest.inputs.get("dataset") == work.dataset.fingerprint:
            return open_model(folder)
    work.train("baselines", plan, folder)
    return open_model(folder)


def _save_lists(path: Path, lists: Mapping[str, np.ndarray]) -> None:
    with write_file(path) as temporary:
        save_file(
            {name: np.ascontiguousarray(values) for name, values in lists.items()}, temporary, {"generator": MARK}
        )


def _variants(work: Work) -> list[Result]:
    """The same model before it was aligned, and by each part of its score alone."""
    recipe, results = work.recipe, []
    if work.recipe.aligns:
        trained = open_model(work.folder / "model", verify=False)
        results.append(_measure_test(work, BEFORE_ALIGNMENT, trained, work.folder / "model", work.learned_decoding))
    if work.recipe.adds_transitions:
        name, folder = f"{recipe.recommender.name}, without transitions", work.folder / work.model_name
        results.append(_measure_test(work, name, work.trained, folder, work.learned_decoding))
    if recipe.decoding.item_weight:
        for part, changed in SCORE_PARTS.items():
            name, decoding = f"{recipe.recommender.name}, {part}", work.learned_decoding.model_copy(update=changed)
            results.append(_measure_test(work, name, work.trained, work.folder / work.model_name, decoding))
    return results


def _measure_test(work: Work, name: str, trained: TrainedModel, folder: Path, decoding: DecodingConfig) -> Result:
    histories, _ = work.dataset.evaluation("test")
    lists, _ = generate_lists(trained.model, histories, decoding=decoding, top_k=work.list_length, progress=True)
    protocol = protocol_of(folder, trained, work.dataset, "test", decoding)
    settings = {**work.plan.settings["recommender"], "decoding": decoding.model_dump(mode="json")}
    return score_lists(name, lists, work.dataset, protocol, work.recipe.evaluation, settings=settings)


def _baseline_results(work: Work) -> list[Result]:
    recipe, dataset = work.recipe, work.dataset
    if not recipe.evaluation.baselines:
        return []
    lists, settings = load_file(work.folder / BASELINE_LISTS_FILE), read_json(work.folder / SETTINGS_FILE)
    results = []
    for name in recipe.evaluation.baselines:
        protocol = Protocol.on(dataset, "test", exclude_seen=recipe.decoding.exclude_seen)
        if name == LEARNED_BASELINE:
            folder = work.folder / LEARNED_FOLDER
            protocol = protocol_of(folder, open_model(folder, verify=False), dataset, "test", work.learned_decoding)
        results.append(score_lists(name, lists[name], dataset, protocol, recipe.evaluation, settings=settings[name]))
    return results


def _read_by(recommender: ResolvedRecommender) -> list[str]:
    """Stages whose folders a recommender is built from."""
    features = ["features"] if recommender.reads_features else []
    return features + (["tokenizer"] if recommender.needs_semantic_ids else [])


def _search_settings(work: Work) -> dict[str, Any]:
    # Without transitions the settings are those of versions that had none.
    left_out = {"batch_size"} if work.recipe.adds_transitions else {"batch_size", "transition_weight"}
    return work.recipe.decoding.model_dump(mode="json", exclude=left_out)


def _learned_search(work: Work) -> dict[str, Any]:
    return work.recipe.decoding.model_dump(mode="json", exclude={"batch_size", "transition_weight"})


def _dataset_settings(work: Work) -> dict[str, Any]:
    return {"read": input_fingerprints(work.recipe.data), **({} if _in_place(work) else shaping(work.recipe.data))}


def _in_place(work: Work) -> bool:
    return work.dataset_folder != work.folder / "dataset"


STAGES: tuple[Stage, ...] = (
    Stage(
        "dataset",
        run_dataset,
        settings=_dataset_settings,
        outputs=lambda work: [str(work.dataset_folder) if _in_place(work) else "dataset"],
        after=lambda resolved: (),
    ),
    Stage(
        "features",
        make_features,
        settings=lambda work: work.recipe.features.model_dump(mode="json"),
        outputs=lambda work: ["features"],
        after=lambda resolved: ["dataset"],
        needed=lambda resolved: resolved.needs_features,
    ),
    Stage(
        "tokenizer",
        make_tokenizer,
        settings=lambda work: work.recipe.tokenizer.model_dump(mode="json"),
        outputs=lambda work: ["tokenizer"],
        after=lambda resolved: ["dataset", "features"],
        needed=lambda resolved: resolved.needs_semantic_ids,
    ),
    Stage(
        "model",
        make_model,
        settings=lambda work: work.plan.settings,
        outputs=lambda work: ["model"],
        after=lambda resolved: ["dataset", *_read_by(resolved.recommender)],
    ),
    Stage(
        "aligned",
        make_aligned,
        settings=lambda work: [work.recipe.alignment.model_dump(mode="json"), _learned_search(work)],
        outputs=lambda work: ["aligned"],
        after=lambda resolved: ["dataset", "model"],
        needed=lambda resolved: resolved.recipe.aligns,
    ),
    Stage(
        "transitions",
        make_transitions,
        settings=_search_settings,
        outputs=lambda work: ["transitions"],
        after=lambda resolved: ["dataset", "model", "aligned"],
        needed=lambda resolved: resolved.recipe.adds_transitions,
    ),
    Stage(
        "baselines",
        make_baselines,
        settings=lambda work: [
            work.recipe.evaluation.model_dump(mode="json", include={"ks", "baselines"}),
            work.baseline_plan.settings,
            _learned_search(work),
        ],
        outputs=lambda work: [BASELINE_LISTS_FILE, SETTINGS_FILE],
        after=lambda resolved: ["dataset", *_read_by(resolved.baseline)],
        needed=lambda resolved: bool(resolved.recipe.evaluation.baselines),
    ),
    Stage(
        "evaluation",
        make_evaluation,
        settings=lambda work: [
            work.recipe.evaluation.model_dump(mode="json", include={"ks", "baselines", "bootstrap_samples"}),
            _search_settings(work),
        ],
        outputs=lambda work: [METRICS_FILE, LISTS_FILE, *([VARIANT_LISTS_FILE] if work.resolved.has_variants else [])],
        after=lambda resolved: ["dataset", "model", "aligned", "transitions", "baselines"],
    ),
    Stage(
        "generation",
        make_recommendations,
        settings=_search_settings,
        outputs=lambda work: [RECOMMENDATIONS_FILE],
        after=lambda resolved: ["dataset", "model", "aligned", "transitions"],
    ),
    Stage(
        "report",
        make_report,
        settings=lambda work: work.recipe.evaluation.examples,
        outputs=lambda work: [REPORT_FILE, f"{work.model_name}/{CARD}"],
        after=lambda resolved: ["dataset", "tokenizer", "model", "aligned", "transitions", "evaluation"],
    ),
)
