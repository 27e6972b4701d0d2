"""LETTER's two terms by loops, what they do to codes, and that naming reads the semantic columns only."""

import math
from itertools import count

import numpy as np
import pytest
import torch

from genrec.config import TokenizerConfig
from genrec.errors import ConfigError
from genrec.features import ItemFeatures
from genrec.tokenizers import ItemTokenizer, fit_tokenizer
from genrec.tokenizers.cf_regularised import (
    CFRegularisedSettings,
    CFRegularisedTokenizer,
    LetterLoss,
    diversity_loss,
)
from genrec.tokenizers.parts.autoencoder import Autoencoder
from genrec.tokenizers.parts.contrastive import info_nce
from genrec.tokenizers.rqvae import QuantisedBatch, ResidualLearner, make_quantiser

NETWORK = {"hidden_sizes": (24,), "latent_size": 8, "batch_size": 40}
SMALL = {"codebook_size": 6, "num_levels": 2, "num_groups": 3, **NETWORK}


@pytest.fixture(scope="module")
def features(tiny_dataset) -> ItemFeatures:
    """Semantic vectors without any order, and collaborative ones of four groups."""
    random = np.random.default_rng(0)
    collaborative = np.eye(4)[np.arange(40) // 10] + 0.05 * random.standard_normal((40, 4))
    parts = [{"encoder": "fastrp", "width": 4}, {"encoder": "lexical", "width": 10}]
    values = np.hstack([collaborative, random.standard_normal((40, 10))])
    return ItemFeatures(values, tiny_dataset.item_ids, {"encoder": "concat", "parts": parts})


def fitted(dataset, features, **settings) -> CFRegularisedTokenizer:
    settings = {**SMALL, "epochs": 60, "patience": 60, "learning_rate": 0.01, **settings}
    tokenizer = CFRegularisedTokenizer(CFRegularisedSettings(**settings))
    tokenizer.fit(dataset, features)
    return tokenizer


def test_codes_follow_what_users_did_if_that_weighs_enough(tiny_dataset, features, monkeypatch):
    # Reconstruction decides when to stop, and noise cannot be rebuilt: without this the first epoch would be the best.
    errors = count(0, -1)
    monkeypatch.setattr("genrec.tokenizers.rqvae.held_out_error", lambda *_: next(errors))
    groups = np.arange(40) // 10
    same = groups[:, None] == groups[None]
    agreement = []
    for weight in (0.0, 20.0):
        codes = fitted(tiny_dataset, features, collaborative_weight=weight).encode(features.values)[:, 0]
        equal = codes[:, None] == codes[None]
        agreement.append(equal[same].mean() - equal[~same].mean())
    assert agreement[1] > agreement[0] + 0.2


def test_naming_reads_the_semantic_columns_only(tiny_dataset, features, tmp_path):
    tokenizer = fitted(tiny_dataset, features, epochs=2)
    cold = features.values.copy()
    cold[:, :4] = 0
    np.testing.assert_array_equal(tokenizer.encode(cold), tokenizer.encode(features.values))
    tokenizer.save_pretrained(tmp_path)
    loaded = ItemTokenizer.from_pretrained(tmp_path)
    np.testing.assert_array_equal(loaded.encode(cold), tokenizer.encode(features.values))
    assert loaded.reconstruct(loaded.encode(cold)) is None


def test_diversity_by_loops():
    codebook, codes = torch.randn(5, 3), torch.tensor([0, 3, 3, 4])
    # Codes 0 and 1 share a group, so do 2 and 3; code 4 is alone. So nothing is left to chance.
    groups = torch.tensor([0, 0, 1, 1, 2])
    expected = []
    for code, positive in ((0, 1), (3, 2), (3, 2)):
        scores = {other: math.exp(float(codebook[code] @ codebook[other])) for other in range(5) if other != code}
        expected.append(-math.log(scores[positive] / sum(scores.values())))
    assert float(diversity_loss(codebook, codes, groups)) == pytest.approx(np.mean(expected), rel=1e-5)
    assert float(diversity_loss(codebook, torch.tensor([4]), groups)) == 0


def test_the_terms_have_their_weights_and_diversity_moves_code_vectors():
    torch.manual_seed(0)
    targets = torch.nn.functional.normalize(torch.randn(6, 8), dim=1)
    books = [torch.randn(6, 8, requires_grad=True) for _ in range(2)]
    quantised = torch.randn(4, 8, requires_grad=True)
    batch = QuantisedBatch(torch.tensor([5, 0, 2, 1]), quantised, torch.tensor([[0, 1], [2, 3], [4, 5], [1, 0]]), books)
    alone = LetterLoss(targets, (6, 6), CFRegularisedSettings(**SMALL, diversity_weight=0.0))(batch)
    assert float(alone) == pytest.approx(0.02 * float(info_nce(quantised, targets[[5, 0, 2, 1]], 1.0)), rel=1e-5)
    both = LetterLoss(targets, (6, 6), CFRegularisedSettings(**SMALL, diversity_weight=1.0))
    both(batch).backward()
    assert all(book.grad.any() for book in books)
    assert torch.bincount(both.groups[0], minlength=3).tolist() == [2, 2, 2], "groups are of equal size"


def test_diversity_weighs_as_much_beside_the_pull_of_code_vectors_at_any_number_of_levels():
    """The gradient of a code vector: 1 times its pull, and ``diversity_weight`` times the diversity of its level."""
    torch.manual_seed(0)
    chosen = {**SMALL, "num_groups": 3, "dead_code_threshold": 0.0}
    settings = CFRegularisedSettings(**chosen, collaborative_weight=0.0, diversity_weight=0.5)
    quantiser = make_quantiser((6, 6), 64, settings, True)
    extra = LetterLoss(torch.randn(64, 8), (6, 6), settings)
    learner = ResidualLearner(Autoencoder(8, (24,), 8), quantiser, extra)
    with torch.no_grad():
        quantiser.train()(torch.randn(64, 8))
    latents = torch.randn(64, 8)
    learner.network.encode = lambda _: latents
    learner.reconstruction = lambda *_: torch.zeros(())
    # Groups of two: what is drawn is the other one, so nothing is left to chance.
    learner.loss(torch.randn(64, 8), torch.arange(64)).backward()
    residual = latents
    for level, layer in enumerate(quantiser.layers):
        book = layer.codebook.detach().requires_grad_()
        codes = torch.cdist(residual, book.detach()).argmin(dim=1)
        pull = (book[codes] - residual).square().mean()
        scores = (book @ book.T).masked_fill(torch.eye(6, dtype=torch.bool), -torch.inf).log_softmax(dim=1)
        groups = extra.groups[level]
        partner = torch.tensor(
            [next(other for other in range(6) if other != code and groups[other] == groups[code]) for code in range(6)]
        )
        spread = -scores[codes, partner[codes]].mean()
        (pull + 0.5 * spread).backward()
        torch.testing.assert_close(layer._codebook.embed.grad[0], book.grad, atol=1e-6, rtol=1e-4)
        residual = residual - book.detach()[codes]


def test_another_width_is_bridged_by_a_linear_map():
    settings = CFRegularisedSettings(**SMALL)
    assert sum(part.numel() for part in LetterLoss(torch.randn(6, 5), (6, 6), settings).parameters()) == 8 * 5
    assert not list(LetterLoss(torch.randn(6, 8), (6, 6), settings).parameters())


def test_settings_that_contradict_each_other_are_refused(tiny_dataset, features, tmp_path):
    config = TokenizerConfig(name="cf-regularised", **SMALL, ema=True)
    with pytest.raises(ConfigError, match=r"(?s)the diversity term moves code vectors by the loss"):
        fit_tokenizer(config, tiny_dataset, features, tmp_path / "tokenizer")
    assert not CFRegularisedSettings(ema=True, diversity_weight=0.0).diversity_weight


def test_features_of_one_kind_are_refused(tiny_dataset, tiny_features):
    with pytest.raises(ConfigError, match="the tokenizer cf-regularised needs collaborative and semantic vectors"):
        fitted(tiny_dataset, tiny_features)
