"""Communities of the graph of users and items as codes: whoever interacts with one thing interacts with its community.

Source: the modularity clusters of GraphHash (Wu et al., arXiv 2412.17245); Blondel et al., Fast unfolding
of communities in large networks, 2008, as implemented by networkx. Every community is split again for the next code.
"""

from typing import TYPE_CHECKING, ClassVar

import networkx
import numpy as np
from pydantic import Field
from scipy.sparse import csr_array

from genrec.config.ranges import Levels, Positive
from genrec.errors import DataError
from genrec.features.base import ItemFeatures
from genrec.tokenizers.base import TokenizerSettings
from genrec.tokenizers.parts.cooccurrence import training_incidence
from genrec.tokenizers.parts.transductive import TransductiveTokenizer

if TYPE_CHECKING:
    from genrec.data import Dataset


class LouvainSettings(TokenizerSettings):
    """Settings of the tokenizer ``louvain``."""

    num_levels: Levels = Field(2, le=16, description="times that communities are split, one code each")
    resolution: Positive = Field(1.0, description="higher gives more and smaller communities")


class LouvainTokenizer(TransductiveTokenizer):
    """The community of an item, then its community within that; the collision policy tells the items of one apart."""

    name: ClassVar[str] = "louvain"
    Settings: ClassVar[type[TokenizerSettings]] = LouvainSettings
    reason: ClassVar[str] = "a new item has no place in the graph of training interactions"
    settings: LouvainSettings

    def _name_items(self, dataset: "Dataset", features: ItemFeatures) -> np.ndarray:
        incidence = training_incidence(dataset, self.name).tocsc()
        codes = np.zeros((dataset.num_items, self.settings.num_levels), dtype=np.int32)
        groups = [np.arange(dataset.num_items)]
        for level in range(self.settings.num_levels):
            below: list[np.ndarray] = []
            for members in groups:
                labels = communities(incidence[:, members].tocsr(), self.settings.resolution, self.settings.seed)
                codes[members, level] = labels
                below += [members[labels == code] for code in range(labels.max() + 1)]
            groups = below
        if not codes.any():
            raise DataError(
                f"the graph of {dataset.num_items} items has one community",
                where="tokenizer louvain",
                expected="users whose training histories have items in common",
                fix="raise tokenizer.resolution, or use a tokenizer that reads vectors, such as rqkmeans",
            )
        return codes


def communities(incidence: csr_array, resolution: float, seed: int) -> np.ndarray:
    """The communities of items in the bipartite graph of users and items, numbered by size, the largest first.

    Items without a user and items alone in their community share one, which comes last.

    Args:
        incidence: Sparse ``[U, n]``, who has what.
        resolution: Of the modularity.
        seed: Of the order in which nodes are visited.

    Returns:
        int32 ``[n]``.
    """
    num_items = incidence.shape[1]
    rows, columns = incidence.nonzero()
    graph = networkx.Graph()
    graph.add_nodes_from(range(num_items))
    graph.add_edges_from(zip((rows + num_items).tolist(), columns.tolist(), strict=True))
    found = networkx.community.louvain_communities(graph, weight=None, resolution=resolution, seed=seed)
    groups = [sorted(node for node in community if node < num_items) for community in found]
    groups = sorted((group for group in groups if len(group) > 1), key=lambda group: (-len(group), group[0]))
    labels = np.full(num_items, len(groups), dtype=np.int32)
    for label, group in enumerate(groups):
        labels[group] = label
    return labels
