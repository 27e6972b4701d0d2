"""What a catalogue costs: the trie's build and size, and its part of a search against free beams."""

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from decoding_figures.setup import RANDOM_SIZES, Batch, Figures
from decoding_figures.timing import alternate, seconds_of
from genrec.config import SearchOptions
from genrec.decoding import DeviceTrie
from genrec.decoding.beam import find_leaves
from genrec.tokenizers import Trie, build_trie

CATALOGUES = (("12k", 12_000), ("1m", 1_000_000), ("10m", 10_000_000))


class FreeLevel:
    """A level without a catalogue: every code is legal, nodes are not followed anywhere."""

    ends, legal_mask = False, None

    def __init__(self, size: int) -> None:
        self.size = self.choices = self.width = size
        self.code = range(1 << 62)

    def mask_illegal_codes(self, nodes: Tensor, values: Tensor) -> Tensor:
        """Everything."""
        return values

    def follow(self, nodes: Tensor, choice: Tensor) -> tuple[Tensor, Tensor]:
        """The codes chosen."""
        return nodes, choice


class FreeTrie:
    """What unconstrained beams search."""

    def __init__(self, level_sizes: tuple[int, ...]) -> None:
        self.level_sizes, self.num_levels, self.device = level_sizes, len(level_sizes), torch.device("cpu")
        self.levels = [FreeLevel(size) for size in level_sizes]


def cost_of_constraint(models: dict[str, tuple[Any, Batch]], num_beams: int, repeats: int) -> Figures:
    """Searches of each model over random catalogues against free beams, the encoder apart.

    Args:
        models: Name to a model of 4 x 256 codes and the batch that it reads.
        num_beams: M.
        repeats: Turns that are measured.
    """
    free = cast(DeviceTrie, FreeTrie(RANDOM_SIZES))
    contexts = {name: (model, model.encode(*batch), len(batch[0])) for name, (model, batch) in models.items()}
    figures: Figures = {}
    for size, num_items in CATALOGUES:
        trie, built = build(num_items)
        device_trie = DeviceTrie(trie)
        figures |= {
            f"trie_{size}_build_seconds": built,
            f"trie_{size}_megabytes": trie.nbytes / 1e6,
            f"trie_{size}_device_megabytes": device_trie.nbytes / 1e6,
        }
        for name, (model, context, users) in contexts.items():
            seeds, options = torch.zeros(users, dtype=torch.int64), SearchOptions(num_beams=num_beams)
            search = partial(find_leaves, context=context, options=options, exclusion=None, seeds=seeds)
            seconds = alternate(
                {"free": partial(search, model, free), "held": partial(search, model, device_trie)}, repeats
            )
            figures[f"constraint_{size}_{name}_cost_percent"] = 100 * (seconds["held"] / seconds["free"] - 1)
    return figures


def build(num_items: int, level_sizes: Sequence[int] = RANDOM_SIZES) -> tuple[Trie, float]:
    """The trie of random semantic IDs, and the seconds that it took."""
    random = np.random.default_rng(0)
    codes = np.stack([random.integers(0, size, num_items, dtype=np.int32) for size in level_sizes], axis=1)
    built: list[Trie] = []
    seconds = seconds_of(lambda: built.append(build_trie(codes, level_sizes)))
    return built[0], seconds
