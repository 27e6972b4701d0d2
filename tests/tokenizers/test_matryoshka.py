"""Nested codes: the loss of every prefix by hand, and that short prefixes are worth more than an RQ-VAE's."""

import numpy as np
import pytest
import torch

from genrec.errors import ConfigError
from genrec.tokenizers.families.matryoshka import MatryoshkaSettings, MatryoshkaTokenizer, PrefixLearner
from genrec.tokenizers.families.rqvae import ResidualLearner, ResidualVAESettings, ResidualVAETokenizer, make_quantizer
from genrec.tokenizers.parts.autoencoder import Autoencoder
from genrec.tokenizers.parts.learning import learn

SMALL = {"codebook_size": 6, "hidden_sizes": (24,), "latent_size": 8, "epochs": 5, "batch_size": 16}


def learner(weights: tuple[float, ...]) -> PrefixLearner:
    torch.manual_seed(0)
    settings = MatryoshkaSettings(**SMALL)
    made = PrefixLearner(Autoencoder(12, (24,), 8), make_quantizer((6, 6, 6), 40, settings), None, weights)
    with torch.no_grad():
        made.train().start(torch.randn(40, 12))
    return made.eval()


def test_the_error_is_the_weighted_sum_over_prefixes():
    made, vectors = learner((0.5, 0.3, 0.2)), torch.randn(9, 12)
    with torch.no_grad():
        _, codes, _ = made.quantizer(made.network.encode(vectors))
        expected = 0.0
        for depth, weight in enumerate((0.5, 0.3, 0.2), 1):
            latents = sum(made.quantizer.layers[level].codebook[codes[:, level]] for level in range(depth))
            expected += weight * float((made.network.decoder(latents) - vectors).square().mean())
    assert made.error(vectors) == pytest.approx(expected, rel=1e-5)


def test_every_prefix_reaches_the_encoder():
    vectors = torch.randn(9, 12)
    gradients = []
    for weights in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)):
        made = learner(weights).train()
        made.loss(vectors, torch.arange(9)).backward()
        gradients.append(made.network.encoder[0].weight.grad)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
    assert not torch.allclose(gradients[0], gradients[1])
    assert not torch.allclose(gradients[1], gradients[2])


def test_short_prefixes_rebuild_better_than_those_of_an_rqvae():
    random = np.random.default_rng(0)
    vectors = torch.from_numpy(random.standard_normal((400, 12)) * 0.7 ** np.arange(12)).float()
    settings = MatryoshkaSettings(**{**SMALL, "epochs": 25, "patience": 25, "learning_rate": 0.01, "batch_size": 128})
    errors = []
    for weights in ((1.0, 1.0, 1.0), None):
        torch.manual_seed(0)
        network, quantizer = Autoencoder(12, (24,), 8), make_quantizer((6, 6, 6), 400, settings)
        made = PrefixLearner(network, quantizer, None, weights) if weights else ResidualLearner(network, quantizer)
        learn(made, vectors, settings, "test")
        with torch.no_grad():
            made.eval()
            codes = quantizer(network.encode(vectors))[1]
            parts = [book[code] for book, code in zip(made.codebooks(), codes.unbind(dim=1), strict=True)]
            errors.append([float(network.error(vectors, sum(parts[:depth]))) for depth in (1, 2, 3)])
    nested, plain = errors
    assert nested[0] > nested[1] > nested[2]
    assert nested[0] < plain[0]
    assert nested[1] < plain[1]


def test_the_tokenizer_trains_every_prefix(tiny_dataset, tiny_features):
    states = []
    for weights in ((), (0.0, 0.0, 1.0)):
        tokenizer = MatryoshkaTokenizer(MatryoshkaSettings(**SMALL, prefix_weights=weights))
        tokenizer.fit(tiny_dataset, tiny_features)
        states.append(tokenizer.state()["network.encoder.0.weight"])
    plain = ResidualVAETokenizer(ResidualVAESettings(**SMALL))
    plain.fit(tiny_dataset, tiny_features)
    assert not np.array_equal(states[0], states[1])
    # With all weight on the whole semantic ID it is an RQ-VAE.
    np.testing.assert_array_equal(states[1], plain.state()["network.encoder.0.weight"])


def test_weights_are_one_per_level():
    assert MatryoshkaTokenizer(MatryoshkaSettings(prefix_weights=(2, 1, 1))).weights == (2, 1, 1)
    assert MatryoshkaTokenizer(MatryoshkaSettings(num_levels=4)).weights == (1.0,) * 4
    for weights in ((1.0, 1.0), (1.0, -1.0, 1.0), (0.0, 0.0, 0.0)):
        with pytest.raises(ConfigError, match=r"(?s)prefix_weights = .* for 3 levels.*one weight per level"):
            MatryoshkaTokenizer(MatryoshkaSettings(prefix_weights=weights))
