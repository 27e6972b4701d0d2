"""``genrec remove-items``: items taken out of a trained model's catalogue, without training.

The trie loses their leaves and every node that leads to nothing else; the other items keep their identifiers and move
up in their order.
"""

from pathlib import Path

import numpy as np

from genrec.artifacts import reserve_folder
from genrec.data.readers import read_item_ids, table_sha256
from genrec.errors import DataError
from genrec.features.build import ENCODER_FOLDER
from genrec.models.extend import extendable, shrink_recommender
from genrec.pipeline.changed_catalogue import add_to_card, write_changed_model
from genrec.pipeline.model_folder import STAGE, TOKENIZER_FOLDER, open_model, read_items
from genrec.tokenizers import ItemIndex


def remove_known_items(model: Path, items: Path, out: Path) -> int:
    """Write a model folder whose catalogue lacks some items.

    Args:
        model: A model folder; it stays as it is.
        items: A table with item_id, or a ``.txt`` file of one id per line.
        out: The folder to write.

    Returns:
        How many items were removed.

    Raises:
        ConfigError: If the family scores items that it was trained on, or ``out`` must not be written.
        DataError: If the list cannot be used, names items that the model does not know, or leaves none.
        ArtifactError: If a folder cannot be used or written.
    """
    with reserve_folder(out, STAGE, reads=[model, items]) as place:
        return _remove_known_items(model, items, place)


def _remove_known_items(model: Path, items: Path, out: Path) -> int:
    trained = open_model(model, device="cpu")
    recommender = extendable(trained.model)
    known = read_items(model)
    gone = _numbers(read_item_ids(items), known["item_id"].to_list(), items)
    index = ItemIndex.load(model / TOKENIZER_FOLDER).without(gone)
    kept = np.ones(known.height, dtype=np.bool_)
    kept[gone] = False
    write_changed_model(
        out,
        trained,
        shrink_recommender(recommender, index, kept),
        index,
        known.filter(kept),
        changed={"removed_items": len(gone)},
        sources={"model": trained.manifest.fingerprint, "removed items": table_sha256(items)},
        encoder=model / ENCODER_FOLDER,
        transitions=trained.transitions and trained.transitions.without(kept),
    )
    add_to_card(
        model,
        out,
        f"## Items removed without training\n\n{len(gone):,} items of `{items.name}` were taken out of the catalogue. "
        "The results above were measured with them.",
    )
    return len(gone)


def _numbers(names: list[str], item_ids: list[str], path: Path) -> np.ndarray:
    """Dense items of the names, each once, int64 ``[n]``."""
    dense = {name: item for item, name in enumerate(item_ids)}
    unknown = [name for name in dict.fromkeys(names) if name not in dense]
    if unknown:
        shown = ", ".join(repr(name) for name in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise DataError(
            f"{len(unknown)} items are not in the model's catalogue: {shown}",
            where=str(path),
            expected=f"items of the model, such as {item_ids[0]!r}",
            fix="take them out of the list",
        )
    gone = np.unique(np.array([dense[name] for name in names], dtype=np.int64))
    if len(gone) in (0, len(item_ids)):
        raise DataError(
            "the list names " + ("no item" if not len(gone) else "every item of the model"),
            where=str(path),
            expected="some items, and at least one that stays",
            fix="correct the list",
        )
    return gone
