"""What only a trained model can tell: recall in bfloat16, and what beams lose."""

from pathlib import Path

from decoding_figures.setup import BATCH, TOP_K, Figures, Material, batches_of, by_length, draw_rows, seen_items
from decoding_figures.timing import clock
from genrec import DecodingConfig
from genrec.decoding import SearchOptions, beam_search, exhaustive_search, generate_lists, trie_of
from genrec.evaluation import evaluate_lists
from genrec.models import GenerativeRecommender, RecommenderModel
from genrec.pipeline.model_folder import open_model

WIDTHS = (10, 20, 50, 100, 200, 500)


def trained_figures(folder: Path, material: Material, users: int, walked: int) -> Figures:
    """Recall@10 of a trained model in both precisions, and of beams against all semantic IDs.

    Args:
        folder: A ``model`` folder, trained on the same tables.
        material: Where test histories come from.
        users: Users whose lists are scored.
        walked: Users for whom every semantic ID is scored.

    Raises:
        ArtifactError: If the model numbers other items.
    """
    trained = open_model(folder, device="cpu")
    trained.check_catalogue(material.dataset)
    figures = recall_by_precision(trained.model, trained.decoding, material, users)
    if isinstance(trained.model, GenerativeRecommender) and not trained.model.supports_parallel:
        figures |= lost_by_beams(trained.model, material, walked)
    return figures


def recall_by_precision(model: RecommenderModel, decoding: DecodingConfig, material: Material, users: int) -> Figures:
    """Recall@10 on test and seconds, in float32 and bfloat16."""
    rows = draw_rows(material.histories, users)
    histories, targets = (part.select(rows) for part in material.dataset.evaluation("test"))
    figures: Figures = {"trained_users": len(rows)}
    seconds = {}
    for name, precision in (("float32", "fp32"), ("bfloat16", "bf16")):
        searched = decoding.model_copy(update={"precision": precision})
        start = clock.now()
        lists, _ = generate_lists(model, histories, decoding=searched, top_k=10)
        seconds[name] = clock.now() - start
        scored = evaluate_lists(lists, targets, num_items=material.index.num_items, ks=(10,))
        figures[f"trained_{name}_recall@10"] = scored.metrics["recall@10"]
    change = figures["trained_bfloat16_recall@10"] / max(figures["trained_float32_recall@10"], 1e-12) - 1
    return figures | {
        "trained_bfloat16_recall_change_percent": 100 * change,
        "trained_bfloat16_speedup": seconds["float32"] / seconds["bfloat16"],
    }


def lost_by_beams(model: GenerativeRecommender, material: Material, users: int) -> Figures:
    """Share of each user's exact top 10 and top 20 that M beams find, and users per second."""
    rows = by_length(material.histories, draw_rows(material.histories, users), model.max_history)
    trie, figures = trie_of(model), {"walked_users": float(len(rows))}
    found: dict[int, list[list[float]]] = {num_beams: [[], []] for num_beams in WIDTHS}
    seconds = dict.fromkeys(WIDTHS, 0.0)
    for first, (items, lengths) in enumerate(batches_of(material.histories, rows, model.max_history)):
        exclude = seen_items(material.histories, rows[first * BATCH : (first + 1) * BATCH])
        exact = exhaustive_search(model, trie, items, lengths, top_k=TOP_K, exclude=exclude, max_nodes=256).items
        for num_beams in WIDTHS:
            start = clock.now()
            lists = beam_search(
                model, trie, items, lengths, SearchOptions(num_beams=num_beams), top_k=TOP_K, exclude=exclude
            ).items
            seconds[num_beams] += clock.now() - start
            for place, k in enumerate((10, 20)):
                hits = (exact[:, :k].unsqueeze(2) == lists[:, :k].unsqueeze(1)).any(2).float().mean(1)
                found[num_beams][place] += hits.tolist()
    for num_beams, (at_10, at_20) in found.items():
        figures[f"beams{num_beams}_of_exact_top10"] = sum(at_10) / len(rows)
        if num_beams >= TOP_K:
            figures[f"beams{num_beams}_of_exact_top20"] = sum(at_20) / len(rows)
        figures[f"beams{num_beams}_users_per_second"] = len(rows) / seconds[num_beams]
    return figures
