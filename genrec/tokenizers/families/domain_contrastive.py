"""One RQ-VAE over several domains, whose first codes tell domains apart and whose later codes they share.

Source: GMC, Generative Multi-Target Cross-Domain Recommendation, arXiv 2507.12871: the loss of an RQ-VAE and, on the
quantized vectors, a supervised contrastive term in which items of one domain are positives and others negatives. Its
weight and temperature are not published; those here are ours. Every domain counts alike, however few items it has.
"""

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import polars as pl
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from genrec.config.ranges import Positive, Weight
from genrec.errors import DataError, first_rows
from genrec.features.base import ItemFeatures
from genrec.tokenizers.base import TokenizerSettings
from genrec.tokenizers.families.rqvae import ExtraLoss, QuantizedBatch, ResidualVAESettings, ResidualVAETokenizer
from genrec.tokenizers.parts.contrastive import supervised_contrastive

if TYPE_CHECKING:
    from genrec.data import Dataset


class DomainContrastiveSettings(ResidualVAESettings):
    """Settings of the tokenizer ``domain-contrastive``."""

    domain_column: str = Field("domain", description="column of the items that says which domain each belongs to")
    contrast: Weight = Field(0.01, description="weight of the term; large weights make the first code the domain")
    temperature: Positive = Field(0.1, description="of the term")


class DomainContrastiveTokenizer(ResidualVAETokenizer):
    """An RQ-VAE that keeps domains apart as far as that does not cost much reconstruction.

    New items need only a vector: their domain is not asked for.
    """

    name: ClassVar[str] = "domain-contrastive"
    Settings: ClassVar[type[TokenizerSettings]] = DomainContrastiveSettings
    settings: DomainContrastiveSettings

    def _check_catalogue(self, dataset: "Dataset", features: ItemFeatures) -> None:
        read_domains(dataset.items, self.settings.domain_column)
        super()._check_catalogue(dataset, features)

    def _extra_loss(self, dataset: "Dataset", features: ItemFeatures) -> ExtraLoss:
        domains = torch.from_numpy(read_domains(dataset.items, self.settings.domain_column))
        return DomainLoss(domains, self.settings.contrast, self.settings.temperature)


class DomainLoss(ExtraLoss):
    """The supervised contrastive term.

    Args:
        domains: int64 ``[N]``, the domain of every item.
        weight: Of the term.
        temperature: Of the term.
    """

    domains: Tensor

    def __init__(self, domains: Tensor, weight: float, temperature: float) -> None:
        super().__init__()
        self.weight, self.temperature = weight, temperature
        self.register_buffer("domains", domains, persistent=False)

    def forward(self, batch: QuantizedBatch) -> Tensor:
        """See :func:`genrec.tokenizers.parts.contrastive.supervised_contrastive`."""
        directions = functional.normalize(batch.quantized, dim=1)
        return self.weight * supervised_contrastive(directions, self.domains[batch.rows], self.temperature)


def read_domains(items: pl.DataFrame, column: str) -> np.ndarray:
    """The number of every item's domain.

    Args:
        items: Table of items.
        column: The column that names domains.

    Returns:
        int64 ``[N]``, numbered in the order of the names.

    Raises:
        DataError: If there is no such column, an item has no domain, or all have the same.
    """
    if column not in items.columns:
        raise DataError(
            f"the items have no column {column!r}",
            where="tokenizer.domain_column",
            expected=f"one of {', '.join(items.columns)}, with the domain of every item",
            fix="correct tokenizer.domain_column, or use tokenizer.name: rqvae for a catalogue of one domain",
        )
    if items.schema[column].is_nested():
        raise DataError(
            f"the column {column!r} is {items.schema[column]}",
            where="tokenizer.domain_column",
            expected="one name per item",
            fix="name the column that holds the domain",
        )
    names = items[column].cast(pl.String).str.strip_chars()
    missing = np.flatnonzero((names.is_null() | (names == "")).to_numpy())
    if len(missing):
        raise DataError(
            f"item {str(items['item_id'][int(missing[0])])!r} has no domain",
            where=f"items, {first_rows(missing.tolist())}, column {column}",
            expected="a domain for every item",
            fix="fill the column in",
        )
    found, numbers = np.unique(names.to_numpy().astype(str), return_inverse=True)
    if len(found) < 2:
        raise DataError(
            f"all items are of the domain {str(found[0])!r}",
            where=f"items, column {column}",
            expected="at least two domains",
            fix="use tokenizer.name: rqvae for a catalogue of one domain",
        )
    return numbers.reshape(-1).astype(np.int64)
