"""``README.md`` of a model folder: what it is, how to use it, what it is worth, where it ends."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from genrec.artifacts import stamped, write_file
from genrec.data.ties import ties_in_words
from genrec.evaluation.protocol import Protocol
from genrec.evaluation.tables import DEFAULT_METRICS, escape_markdown, metric_name, side_by_side, to_markdown
from genrec.reports.content import ReportContent
from genrec.reports.html import headline_k, summary_sentence

TAGS = ["genrec", "recommender-system", "sequential-recommendation", "generative-retrieval", "semantic-ids"]


def write_model_card(
    path: Path,
    content: ReportContent,
    *,
    location: str,
    licence: str | None = None,
    example_items: Sequence[str] = (),
) -> None:
    """Write the card, whole or not at all.

    Args:
        path: File to create or replace, ``model/README.md``.
        content: What is known of the run.
        location: What ``Recommender.from_pretrained`` takes: a path or a hub name.
        licence: Licence identifier of the weights, if they have one.
        example_items: External ids for the example of use.

    Raises:
        ArtifactError: If the place cannot be written or the disk is full.
    """
    card = render_model_card(content, location=location, licence=licence, example_items=example_items)
    with write_file(path) as temporary:
        temporary.write_text(stamped(card), encoding="utf-8")


def render_model_card(
    content: ReportContent, *, location: str, licence: str | None = None, example_items: Sequence[str] = ()
) -> str:
    """The card as Markdown with the front matter that the Hugging Face hub reads; arguments as in the writer."""
    run = content.runs[0]
    k = headline_k(run["metrics"])
    items = list(example_items[:3]) or ["item-1", "item-2"]
    parts = [
        f"---\n{_front_matter(content, licence)}---",
        f"# {escape_markdown(content.system)} on {escape_markdown(content.name)}",
        escape_markdown(summary_sentence(content, k)),
        _what_it_is(run["protocol"]),
        "## Use\n\n```python\nfrom genrec import Recommender\n\n"
        f"recommender = Recommender.from_pretrained({location!r})\n"
        f"lists = recommender.recommend([{items!r}], k=10, exclude_seen=True)\n```\n\n"
        "Histories are lists of item ids, oldest first, as in the data that the model was trained on. The folder is "
        "whole: weights, item tokenizer and catalogue.",
        f"## Results\n\n{_results(content)}",
        f"## Training data\n\n{_facts(content.statistics)}",
        f"## Protocol\n\n{_bullets(Protocol.model_validate(run['protocol']).in_words())}",
        f"## Limits\n\n{_limits(run, k)}",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(content: ReportContent, licence: str | None) -> str:
    run = content.runs[0]
    table = side_by_side(content.runs, content.system, DEFAULT_METRICS)
    metrics = [
        {"type": name, "name": metric_name(name), "value": round(value, 6)}
        for name, value in table.rows[-1].mean.items()
    ]
    result = {
        "task": {"type": "sequential-recommendation", "name": "Next-item recommendation"},
        "dataset": {"type": "interactions", "name": content.name, "split": run["split"]},
        "metrics": metrics,
    }
    matter: dict[str, Any] = {"library_name": "genrec", "tags": TAGS}
    if licence:
        matter["license"] = licence
    matter["model-index"] = [{"name": content.system, "results": [result]}]
    return yaml.safe_dump(matter, sort_keys=False, allow_unicode=True)


def _what_it_is(protocol: Mapping[str, Any]) -> str:
    sentence = "A recommender trained with genrec"
    if protocol.get("tokenizer"):
        sentence = (
            "A generative recommender: it reads a user's history and writes the identifier of the next item, code by "
            f"code. Items are named by the item tokenizer {escape_markdown(protocol['tokenizer'])}"
        )
        if protocol.get("encoder"):
            sentence += f" from features of the encoder {escape_markdown(protocol['encoder'])}"
    return sentence + "."


def _results(content: ReportContent) -> str:
    run = content.runs[0]
    table = to_markdown(side_by_side(content.runs, content.system, DEFAULT_METRICS))
    remark = f"{run['users']:,} users, {run['split']} part, every item ranked. The best of a column is bold."
    if len(content.runs) > 1:
        remark += f" Mean ± standard deviation over {len(content.runs)} runs."
    return f"{table}\n{remark}"


def _facts(statistics: Mapping[str, Any]) -> str:
    facts = [(name, f"{statistics[name]:,}") for name in ("users", "items", "interactions") if name in statistics]
    training = statistics.get("training", {})
    if "interactions" in training:
        facts.append(("interactions in the training part", f"{training['interactions']:,}"))
    time = statistics.get("time", {})
    if "first_day" in time:
        facts.append(("time", f"{time['first_day']} to {time['last_day']}"))
    if ties := ties_in_words(statistics.get("ties", {})):
        facts.append(("ties", ties))
    return _bullets(facts) if facts else "Not recorded."


def _limits(run: Mapping[str, Any], k: int) -> str:
    metrics, cold = run["metrics"], run.get("slices", {}).get("item_popularity", {}).get("cold")
    limits = [
        "It recommends items of its catalogue only.",
        f"Its lists of {k} show {metrics[f'coverage@{k}']:.1%} of the catalogue to the evaluated users "
        f"(Gini coefficient {metrics[f'gini@{k}']:.2f}): what is listed often is not what all users might want.",
        "The numbers are offline: agreement with what users did next, not the effect of showing them the lists.",
        "It learned the habits of the users in its training data and repeats their biases.",
    ]
    if cold:
        limits.insert(
            1,
            f"For held-out items without any interaction in training its recall@{k} is "
            f"{cold['metrics'][f'recall@{k}']:.4f} ({cold['users']:,} users).",
        )
    return "\n".join(f"- {limit}" for limit in limits)


def _bullets(facts: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"- {name}: {escape_markdown(value)}" for name, value in facts)
