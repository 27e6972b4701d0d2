"""Who interacted with what in the training part, for the families that read the graph of users and items."""

from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array

from genrec.errors import DataError

if TYPE_CHECKING:
    from genrec.data import Dataset


def training_incidence(dataset: "Dataset", name: str) -> csr_array:
    """Which user has which item in the training part; a repeated interaction counts once.

    Args:
        dataset: Its held-out parts are not read.
        name: The tokenizer that asks, for the message.

    Returns:
        Sparse float64 ``[U, N]`` of zeros and ones.

    Raises:
        DataError: If there is no training interaction.
    """
    histories = dataset.train()
    if not len(histories.items):
        raise DataError(
            "there is no training interaction",
            where=f"tokenizer {name}",
            expected="users with histories",
            fix="use a tokenizer that reads only the items, such as rqkmeans or semantic-path",
        )
    rows = np.repeat(histories.users, histories.lengths)
    shape = (dataset.num_users, dataset.num_items)
    incidence = csr_array((np.ones(len(rows)), (rows, histories.items)), shape=shape)
    incidence.sum_duplicates()
    incidence.data[:] = 1.0
    return incidence


def cooccurrence(incidence: csr_array) -> csr_array:
    """How many users have both of two items, symmetric and without self-loops.

    Args:
        incidence: Sparse ``[U, N]`` of zeros and ones.

    Returns:
        Sparse float64 ``[N, N]``.
    """
    graph = (incidence.T @ incidence).tocsr()
    graph.setdiag(0)
    graph.eliminate_zeros()
    return graph
