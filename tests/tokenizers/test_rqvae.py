"""RQ-VAE: our encoding against the library's quantiser, and that training is worth it."""

import numpy as np
import pytest
import torch

from genrec.tokenizers import rqvae
from genrec.tokenizers.parts.autoencoder import Autoencoder, perceptron
from genrec.tokenizers.rqvae import (
    ResidualLearner,
    ResidualVAESettings,
    ResidualVAETokenizer,
    assign_uniformly,
    held_out_error,
    make_quantiser,
)

SMALL = {"codebook_size": 6, "hidden_sizes": (24,), "latent_size": 8, "epochs": 5, "batch_size": 16}


def fitted(dataset, features, **settings) -> ResidualVAETokenizer:
    tokenizer = ResidualVAETokenizer(ResidualVAESettings(**{**SMALL, **settings}))
    tokenizer.fit(dataset, features)
    return tokenizer


@pytest.fixture
def kept_quantiser(monkeypatch):
    """The quantiser that a fit makes, so that it can be asked as well."""
    kept = []

    def keep(*arguments):
        kept.append(make_quantiser(*arguments))
        return kept[-1]

    monkeypatch.setattr(rqvae, "make_quantiser", keep)
    return kept


def test_codes_equal_the_librarys(tiny_dataset, tiny_features, kept_quantiser):
    tokenizer = fitted(tiny_dataset, tiny_features)
    library = kept_quantiser[0].eval()
    latents = torch.from_numpy(tokenizer.to_code_space(tiny_features.values))
    quantised, codes, _ = library(latents)
    np.testing.assert_array_equal(tokenizer.encode(tiny_features.values), codes.numpy())
    expected = tokenizer.from_code_space(quantised.detach().numpy())
    np.testing.assert_allclose(tokenizer.reconstruct(codes.numpy()), expected, atol=1e-5)


def test_encoder_and_decoder_by_hand(tiny_dataset, tiny_features):
    tokenizer = fitted(tiny_dataset, tiny_features, epochs=1)
    state = tokenizer.state()
    value = (tiny_features.values[3] - state["network.mean"]) / state["network.scale"]
    hidden = np.maximum(state["network.encoder.0.weight"] @ value + state["network.encoder.0.bias"], 0)
    latent = state["network.encoder.2.weight"] @ hidden + state["network.encoder.2.bias"]
    np.testing.assert_allclose(tokenizer.to_code_space(tiny_features.values)[3], latent, atol=1e-5)
    hidden = np.maximum(state["network.decoder.0.weight"] @ latent + state["network.decoder.0.bias"], 0)
    output = state["network.decoder.2.weight"] @ hidden + state["network.decoder.2.bias"]
    expected = output * state["network.scale"] + state["network.mean"]
    np.testing.assert_allclose(tokenizer.from_code_space(latent[None].astype(np.float32))[0], expected, atol=1e-5)


def test_input_is_standardised():
    vectors = torch.randn(500, 6) * 3 + 5
    network = Autoencoder(6, (24,), 8)
    network.set_scale(vectors)
    scaled = (vectors - network.mean) / network.scale
    assert float(scaled.mean()) == pytest.approx(0, abs=1e-5)
    assert float(scaled.square().mean()) == pytest.approx(1, abs=1e-4)


def test_training_reconstructs_better_than_the_mean(tiny_dataset, tiny_features):
    tokenizer = fitted(tiny_dataset, tiny_features, epochs=80, learning_rate=0.01, patience=80, batch_size=64)
    rebuilt = tokenizer.reconstruct(tokenizer.encode(tiny_features.values))
    values = tiny_features.values
    error = ((values - rebuilt) ** 2).sum() / ((values - values.mean(axis=0)) ** 2).sum()
    assert error < 0.5


def test_it_stops_early_and_keeps_the_best(tiny_dataset, tiny_features, monkeypatch):
    errors = iter([0.5, 0.3, 0.4, 0.6, 0.7, 0.1])
    snapshots = []

    def fake_error(network, quantiser, vectors):
        snapshots.append(network.encoder[0].weight.detach().clone())
        return next(errors)

    monkeypatch.setattr(rqvae, "held_out_error", fake_error)
    tokenizer = fitted(tiny_dataset, tiny_features, epochs=6, patience=3)
    assert len(snapshots) == 5, "three epochs without a better error end it"
    assert torch.equal(tokenizer.network.encoder[0].weight, snapshots[1])


def test_measuring_the_error_changes_nothing(tiny_features):
    settings = ResidualVAESettings(**SMALL)
    network, quantiser = Autoencoder(12, (24,), 8), make_quantiser((6, 6, 6), 40, settings)
    vectors = torch.from_numpy(tiny_features.values)
    network.set_scale(vectors)
    with torch.no_grad():
        quantiser.train()(network.encode(vectors))
    before = {name: value.clone() for name, value in quantiser.state_dict().items()}
    held_out_error(network, quantiser, vectors)
    assert all(torch.equal(before[name], value) for name, value in quantiser.state_dict().items())


def test_library_defaults_that_collapse_are_replaced():
    settings = ResidualVAESettings(**{**SMALL, "batch_size": 1024})
    layer = make_quantiser((256, 256), 100_000, settings).layers[0]
    assert layer.commitment_weight == 0.25
    assert layer._codebook.threshold_ema_dead_code == 2.0
    assert not layer.rotation_trick
    # With 40 items and 256 codes no code has two vectors per batch: restarting them all would never end.
    layer = make_quantiser((256, 256), 40, settings).layers[0]
    assert layer._codebook.threshold_ema_dead_code == pytest.approx(0.5 * 40 / 256)


def test_rotation_trick_is_an_option(tiny_dataset, tiny_features):
    plain = fitted(tiny_dataset, tiny_features)
    rotated = fitted(tiny_dataset, tiny_features, rotation_trick=True)
    assert not np.array_equal(plain.state()["network.encoder.0.weight"], rotated.state()["network.encoder.0.weight"])


def test_sizes_may_differ_between_levels(tiny_dataset, tiny_features):
    tokenizer = fitted(tiny_dataset, tiny_features, codebook_size=(8, 4), num_levels=2)
    assert [codebook.shape for codebook in tokenizer.codebooks] == [(8, 8), (4, 8)]


def test_fitting_leaves_the_global_generator_alone(tiny_dataset, tiny_features):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    fitted(tiny_dataset, tiny_features, epochs=1)
    assert torch.equal(torch.rand(3), expected)


def test_a_perceptron_ends_without_relu():
    layers = list(perceptron((5, 4, 3)))
    assert [type(layer).__name__ for layer in layers] == ["Linear", "ReLU", "Linear"]


def test_codebooks_learned_by_the_loss_are_an_option(tiny_dataset, tiny_features):
    plain = fitted(tiny_dataset, tiny_features)
    learned = fitted(tiny_dataset, tiny_features, ema=False)
    assert not np.array_equal(plain.codebooks[0], learned.codebooks[0])
    layer = make_quantiser((6, 6), 40, ResidualVAESettings(**SMALL, ema=False), True).layers[0]
    assert layer._codebook.embed.requires_grad
    assert not layer.ema_update


def test_a_uniform_last_level_in_training_and_nearest_codes_elsewhere():
    torch.manual_seed(0)
    quantiser = make_quantiser((6, 6), 90, ResidualVAESettings(**SMALL))
    assign_uniformly(quantiser.layers[-1], 0.003)
    latents = torch.randn(90, 8)
    with torch.no_grad():
        quantiser.train()(latents)
        left = latents - quantiser.layers[0].eval()(latents)[0]
        counts = np.bincount(quantiser.layers[1].train()(left)[1], minlength=6)
        nearest = torch.cdist(left, quantiser.layers[1].codebook).argmin(dim=1)
        codes = quantiser.layers[1].eval()(left)[1]
    assert counts.max() - counts.min() <= 2
    assert torch.equal(codes, nearest)


def test_a_uniform_last_level_is_an_option(tiny_dataset, tiny_features):
    plain = fitted(tiny_dataset, tiny_features)
    uniform = fitted(tiny_dataset, tiny_features, sinkhorn_last_level=True)
    softer = fitted(tiny_dataset, tiny_features, sinkhorn_last_level=True, sinkhorn_epsilon=0.5)
    books = [tokenizer.codebooks[-1] for tokenizer in (plain, uniform, softer)]
    assert not np.array_equal(books[0], books[1])
    assert not np.array_equal(books[1], books[2])


@pytest.mark.parametrize("commitment", [0.25, 0.0])
def test_learned_code_vectors_and_the_encoder_have_the_papers_gradients(commitment):
    """sum over levels of |sg[r] - e|^2 + b |r - sg[e]|^2: weight 1 for code vectors, b for what is encoded."""
    torch.manual_seed(0)
    settings = ResidualVAESettings(**{**SMALL, "dead_code_threshold": 0.0}, ema=False, commitment=commitment)
    quantiser = make_quantiser((6, 4), 64, settings, True)
    network = Autoencoder(8, (24,), 8)
    # Other latents than those that the codebooks are made of: there each code vector is where it wants to be.
    vectors, first, latents = torch.randn(3, 64, 8).unbind()
    learner = ResidualLearner(network, quantiser)
    with torch.no_grad():
        quantiser.train()(first)
    latents = latents.clone().requires_grad_()
    network.encode = lambda _: latents
    learner.reconstruction = lambda *_: torch.zeros(())
    learner.loss(vectors, torch.arange(64)).backward()
    residual, pull = latents.detach(), torch.zeros(64, 8)
    for layer, size in zip(quantiser.layers, (6, 4), strict=True):
        book = layer.codebook.detach()
        codes = torch.cdist(residual, book).argmin(dim=1)
        expected = torch.zeros(size, 8)
        for row, code in enumerate(codes.tolist()):
            expected[code] += 2 * (book[code] - residual[row]) / (64 * 8)
        torch.testing.assert_close(layer._codebook.embed.grad[0], expected, atol=1e-6, rtol=1e-4)
        pull += commitment * 2 * (residual - book[codes]) / (64 * 8)
        residual = residual - book[codes]
    torch.testing.assert_close(
        latents.grad if latents.grad is not None else torch.zeros(64, 8), pull, atol=1e-6, rtol=1e-4
    )


def test_moving_averages_leave_the_librarys_term_alone():
    torch.manual_seed(0)
    settings = ResidualVAESettings(**SMALL)
    learner = ResidualLearner(Autoencoder(8, (24,), 8), make_quantiser((6, 4), 64, settings))
    vectors = torch.randn(64, 8)
    with torch.no_grad():
        learner.quantiser.train()(learner.network.encode(vectors))
        state = {name: value.clone() for name, value in learner.quantiser.state_dict().items()}
        loss = learner.loss(vectors, torch.arange(64))
        learner.quantiser.load_state_dict(state)
        quantised, _, terms = learner.quantiser(learner.network.encode(vectors))
        assert float(loss) == pytest.approx(float(learner.network.error(vectors, quantised) + terms.sum()), rel=1e-6)


def test_one_process_learns_codebooks_while_others_wait(monkeypatch):
    """Where there are other processes the library sums over all of them, by calls that they would never make."""
    from vector_quantize_pytorch import vector_quantize_pytorch as library

    called = []
    monkeypatch.setattr(library, "is_distributed", lambda: True)
    monkeypatch.setattr(library.distributed, "get_world_size", lambda *_: 2)
    for name in ("all_reduce", "all_gather", "broadcast"):
        monkeypatch.setattr(library.distributed, name, lambda *_, name=name, **__: called.append(name))
    quantiser = make_quantiser((6, 4), 64, ResidualVAESettings(**SMALL))
    with torch.no_grad():
        for _ in range(2):
            quantiser.train()(torch.randn(64, 8))
    assert called == []
