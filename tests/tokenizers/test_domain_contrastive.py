"""Codes over several domains: the term's effect, its gradient, and domains that cannot be read."""

import numpy as np
import polars as pl
import pytest
import torch

from genrec.errors import DataError
from genrec.tokenizers.families.domain_contrastive import (
    DomainContrastiveSettings,
    DomainContrastiveTokenizer,
    DomainLoss,
    read_domains,
)
from genrec.tokenizers.families.rqvae import QuantizedBatch
from genrec.tokenizers.parts.contrastive import supervised_contrastive

SMALL = {"codebook_size": 6, "hidden_sizes": (24,), "latent_size": 8, "epochs": 40, "patience": 40, "batch_size": 40}


def fitted(dataset, features, **settings) -> DomainContrastiveTokenizer:
    tokenizer = DomainContrastiveTokenizer(
        DomainContrastiveSettings(**{**SMALL, "learning_rate": 0.01, "domain_column": "genres", **settings})
    )
    tokenizer.fit(dataset, features)
    return tokenizer


def purity(codes: np.ndarray, domains: np.ndarray) -> float:
    """Share of items of the most frequent domain of their code."""
    return sum(np.bincount(domains[codes == code]).max() for code in np.unique(codes)) / len(codes)


@pytest.fixture
def mixed(with_vectors):
    """Vectors that hardly know the domain."""
    values = np.random.default_rng(3).standard_normal((40, 12))
    values[:, 0] += 0.8 * (np.arange(40) // 10)
    return with_vectors(values)


def test_a_large_weight_makes_the_first_code_the_domain(tiny_dataset, mixed):
    domains = np.arange(40) // 10
    purities = [
        purity(fitted(tiny_dataset, mixed, contrast=contrast).encode(mixed.values)[:, 0], domains)
        for contrast in (0.0, 5.0)
    ]
    assert purities[1] > purities[0] + 0.15


def test_the_term_is_that_of_the_batchs_domains():
    domains = torch.tensor([0, 1, 1, 0, 2])
    rows, quantized = torch.tensor([4, 1, 0, 2, 3]), torch.randn(5, 3, requires_grad=True)
    batch = QuantizedBatch(rows, quantized, torch.zeros(5, 1, dtype=torch.int64), [])
    loss = DomainLoss(domains, 0.5, 0.1)(batch)
    directions = quantized / quantized.norm(dim=1, keepdim=True)
    expected = 0.5 * supervised_contrastive(directions, torch.tensor([2, 1, 0, 1, 0]), 0.1)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    loss.backward()
    assert quantized.grad[1:].any(dim=1).all()


def test_new_items_need_no_domain(tiny_dataset, mixed):
    tokenizer = fitted(tiny_dataset, mixed, epochs=1)
    codes = tokenizer.encode_items(pl.DataFrame({"item_id": ["new"]}), mixed.values[:1])
    np.testing.assert_array_equal(codes, tokenizer.encode(mixed.values)[:1])


def test_domains_are_numbered_by_name():
    items = pl.DataFrame({"item_id": ["a", "b", "c"], "domain": ["office", "arts ", "office"]})
    np.testing.assert_array_equal(read_domains(items, "domain"), [1, 0, 1])


def test_domains_that_cannot_be_used_are_named(tiny_dataset, mixed):
    with pytest.raises(DataError, match=r"(?s)the items have no column 'domain'.*one of item_id, title, genres"):
        fitted(tiny_dataset, mixed, domain_column="domain")
    items = pl.DataFrame(
        {"item_id": ["a", "b", "c"], "domain": ["x", None, " "], "one": ["x"] * 3, "many": [["x"]] * 3}
    )
    with pytest.raises(DataError, match=r"(?s)item 'b' has no domain.*rows 1, 2 \(2 in all\)"):
        read_domains(items, "domain")
    with pytest.raises(DataError, match="all items are of the domain 'x'") as caught:
        read_domains(items, "one")
    assert "use tokenizer.name: rqvae" in str(caught.value)
    with pytest.raises(DataError, match=r"the column 'many' is List\(String\)"):
        read_domains(items, "many")
