"""A trained model's folder with another catalogue: items were added to it or taken out, nothing was learned."""

from pathlib import Path

import polars as pl

from genrec.artifacts import MANIFEST, read_manifest, stamped, write_artifact, write_file
from genrec.artifacts.manifest import CARD
from genrec.artifacts.marks import without_stamp
from genrec.artifacts.reading import computing, copy_plain, reading
from genrec.data.arrow import write_parquet
from genrec.decoding.transitions import Transitions
from genrec.features.build import ENCODER_FOLDER
from genrec.models import GenerativeRecommender
from genrec.pipeline.model_folder import (
    DECODING_FILE,
    ITEMS_FILE,
    STAGE,
    TOKENIZER_FOLDER,
    TRAINING_FILE,
    TrainedModel,
    copy_if_small,
    quietly,
)
from genrec.tokenizers import ItemIndex
from genrec.tokenizers.index import CODES_FILE, INDEX_FILE
from genrec.tokenizers.trie.file import TRIE_FILE


def write_changed_model(
    out: Path,
    trained: TrainedModel,
    model: GenerativeRecommender,
    index: ItemIndex,
    items: pl.DataFrame,
    *,
    changed: dict[str, int],
    sources: dict[str, str],
    encoder: Path,
    transitions: Transitions | None = None,
) -> None:
    """Write a model folder with another catalogue.

    Args:
        out: The folder to write.
        trained: The model as it was.
        model: The model of the new catalogue.
        index: The new catalogue.
        items: What is known of its items; row i is dense item i.
        changed: Counts of items, such as ``added_items``; the manifest's configuration tells them in all.
        sources: Fingerprints of what the folder was made from.
        encoder: Folder of the feature encoder.
        transitions: The model's links between items, those of the new catalogue; None where it has none.

    Raises:
        ArtifactError: If the folder cannot be written.
    """
    manifest, source = trained.manifest, trained.folder
    with computing(source):
        totals = {name: int(manifest.config.get(name, 0)) + count for name, count in changed.items()}
    inputs = {**manifest.inputs, "tokenizer": index.fingerprint, **sources}
    with write_artifact(out, STAGE, config={**manifest.config, **totals}, inputs=inputs, seed=manifest.seed) as folder:
        with quietly():
            model.save_pretrained(folder.path)
        write_parquet(items, folder.path / ITEMS_FILE)
        for name in (DECODING_FILE, TRAINING_FILE):
            copy_plain(source / name, folder.path / name)
        if transitions is not None:
            transitions.save(folder.path)
        copy_if_small(encoder, folder.path / ENCODER_FOLDER)
        _write_tokenizer(source / TOKENIZER_FOLDER, index, folder.path / TOKENIZER_FOLDER)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        folder.counts = {**manifest.counts, "items": index.num_items, "parameters": parameters}


def add_to_card(model: Path, out: Path, note: str) -> None:
    """Copy the model card with a section more; a model that was not measured has none."""
    if not (model / CARD).is_file():
        return
    with reading(model / CARD):
        card = without_stamp((model / CARD).read_text(encoding="utf-8"))
    with write_file(out / CARD) as path:
        path.write_text(stamped(f"{card}\n{note}\n"), encoding="utf-8")


def _write_tokenizer(source: Path, index: ItemIndex, out: Path) -> None:
    """A copy of the tokenizer with the other index; its quality report stays that of the fit."""
    manifest = read_manifest(source)
    rewritten = {MANIFEST, CODES_FILE, INDEX_FILE, TRIE_FILE}
    with write_artifact(
        out, manifest.stage, config=manifest.config, inputs=manifest.inputs, seed=manifest.seed
    ) as folder:
        copy_plain(source, folder.path, leave_out=rewritten)
        index.save(folder.path)
        folder.counts = {**manifest.counts, "items": index.num_items}
