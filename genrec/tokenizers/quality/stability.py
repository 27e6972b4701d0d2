"""Would the same catalogue get the same groups again: from another seed, or with a tenth more items.

A few fits on at most MAX_ITEMS items drawn by seed; the groups (not the numbers of the codes) are compared.
"""

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from genrec.data import Dataset
from genrec.data.histories import Histories
from genrec.errors import DataError
from genrec.features.base import ItemFeatures
from genrec.tokenizers.base import ItemTokenizer, Kind
from genrec.tokenizers.parts.sampling import draw_rows
from genrec.tokenizers.quality.neighbourhoods import by_vectors, groups_of, neighbour_recall

if TYPE_CHECKING:
    from genrec.tokenizers.base import TokenizerSettings

MAX_ITEMS = 20_000
NEW_SHARE = 0.1
SEED = 8191

logger = logging.getLogger(__name__)


class PartOfCatalogue(Dataset):
    """Some items of a data set with the training interactions among them, numbered anew; nothing is held out.

    Args:
        whole: The data set.
        rows: int64 ``[n]``, dense items to keep, ascending.
    """

    def __init__(self, whole: Dataset, rows: np.ndarray) -> None:
        self.path, self.split, self.statistics = whole.path, whole.split, whole.statistics
        self.ties, self.ties_seed = whole.ties, whole.ties_seed
        self.fingerprint = f"{len(rows)} items of {whole.fingerprint}"
        self.items: pl.DataFrame = whole.items[rows]
        self._everything = keep_items(whole.train(), rows, whole.num_items)
        self._train_end = self._valid_end = self._everything.lengths


def keep_items(histories: Histories, rows: np.ndarray, num_items: int) -> Histories:
    """Histories of some items alone, renumbered by their place in ``rows``; users without any are left out.

    Args:
        histories: Of dense items 0..N-1.
        rows: int64 ``[n]``, items to keep.
        num_items: N.
    """
    number = np.full(num_items, -1, dtype=np.int32)
    number[rows] = np.arange(len(rows), dtype=np.int32)
    items = number[histories.items]
    kept = items >= 0
    offsets = np.concatenate([[0], np.cumsum(kept)])[histories.offsets]
    timestamps = None if histories.timestamps is None else histories.timestamps[kept]
    everyone = Histories(np.arange(len(histories)), offsets, items[kept], timestamps)
    left = everyone.select(everyone.lengths > 0)
    return Histories(np.arange(len(left)), left.offsets, left.items, left.timestamps)


def measure_stability(
    family: type[ItemTokenizer], settings: "TokenizerSettings", dataset: Dataset, features: ItemFeatures
) -> dict[str, Any]:
    """Fit again with another seed, and without a tenth of the items, and compare.

    Args:
        family: Class of the tokenizer.
        settings: Its settings.
        dataset: The catalogue.
        features: Its vectors.

    Returns:
        ``items`` that took part; ``other_seed`` and ``more_items``: the adjusted Rand index of the groups per level (1:
        the same groups, 0: as alike as chance), the second between a fit with and a fit without ``NEW_SHARE`` of the
        items, over the others; ``new_items``: the recall of new items' nearest vectors, named by the fit that
        never saw them (see :func:`~genrec.tokenizers.quality.neighbourhoods.neighbour_recall`). null where the family
        cannot be fitted on fewer items or cannot name new ones.
    """
    rows = draw_rows(dataset.num_items, MAX_ITEMS, SEED)
    part = _part(dataset, features, rows)
    first = _codes(_fitted(family, settings, *part), *part)
    other = settings.model_copy(update={"seed": settings.seed + 1})
    report: dict[str, Any] = {
        "items": len(rows),
        "other_seed": same_groups(first, _codes(_fitted(family, other, *part), *part), family.kind),
        "more_items": None,
        "new_items": None,
    }
    new = np.zeros(len(rows), dtype=bool)
    new[np.random.default_rng(SEED).permutation(len(rows))[: max(1, round(NEW_SHARE * len(rows)))]] = True
    fewer = _part(dataset, features, rows[~new])
    try:
        tokenizer = _fitted(family, settings, *fewer)
    except DataError as error:
        logger.warning(f"stability under new items is not measured: {error.what}")
        return report
    codes = _codes(tokenizer, *fewer)
    report["more_items"] = same_groups(first[~new], codes, family.kind)
    if family.encodes_new_items:
        named = tokenizer.encode_items(part[0].items[np.flatnonzero(new)], part[1].values[new])
        report["new_items"] = _recall_of_new(named, codes, new, part[1].values, family.kind)
    return report


def same_groups(codes: np.ndarray, others: np.ndarray, kind: Kind) -> list[float]:
    """Adjusted Rand index of two groupings of the same items at every level that both have.

    Args:
        codes: int ``[n, L]``.
        others: int ``[n, L']``.
        kind: ``sequence`` or ``set``.
    """
    from sklearn.metrics import adjusted_rand_score

    pairs = zip(groups_of(codes, kind), groups_of(others, kind), strict=False)
    return [float(adjusted_rand_score(ours, theirs)) for ours, theirs in pairs]


def _recall_of_new(
    named: np.ndarray, known: np.ndarray, new: np.ndarray, values: np.ndarray, kind: Kind
) -> dict[str, Any] | None:
    everything = np.empty((len(new), known.shape[1]), dtype=np.int32)
    everything[new], everything[~new] = named, known
    nearest = by_vectors(values, queries=np.flatnonzero(new))
    return None if nearest is None else neighbour_recall(everything, kind, nearest)


def _part(dataset: Dataset, features: ItemFeatures, rows: np.ndarray) -> tuple[Dataset, ItemFeatures]:
    item_ids = [features.item_ids[row] for row in rows.tolist()]
    return PartOfCatalogue(dataset, rows), ItemFeatures(features.values[rows], item_ids, features.description)


def _fitted(
    family: type[ItemTokenizer], settings: "TokenizerSettings", dataset: Dataset, features: ItemFeatures
) -> ItemTokenizer:
    tokenizer = family(settings)
    tokenizer.fit(dataset, features)
    return tokenizer


def _codes(tokenizer: ItemTokenizer, dataset: Dataset, features: ItemFeatures) -> np.ndarray:
    return tokenizer.encode_catalogue(dataset, features)
