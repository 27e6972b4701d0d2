"""Scalar quantization of slices against the library, and of another domain's items."""

import numpy as np
import pytest
import torch
from vector_quantize_pytorch import FSQ

from genrec.config import TokenizerConfig
from genrec.errors import ConfigError
from genrec.tokenizers import build_tokenizer
from genrec.tokenizers.families.fsq import ScalarSettings, ScalarTokenizer, SliceAutoencoder

SMALL = {"num_levels": 3, "grid": (4, 3), "num_heads": 2, "epochs": 3, "batch_size": 16}


def fitted(dataset, features, **settings) -> ScalarTokenizer:
    tokenizer = ScalarTokenizer(ScalarSettings(**{**SMALL, **settings}))
    tokenizer.fit(dataset, features)
    return tokenizer


def test_codes_equal_the_librarys(tiny_dataset, tiny_features):
    tokenizer = fitted(tiny_dataset, tiny_features)
    state = {name: torch.from_numpy(array) for name, array in tokenizer.state().items()}
    library = FSQ([4, 3], dim=4)
    library.project_in.weight.data, library.project_in.bias.data = (
        state["network.project_in.weight"],
        state["network.project_in.bias"],
    )
    scaled = (torch.from_numpy(tiny_features.values) - state["network.mean"]) / state["network.scale"]
    _, indices = library(scaled.unflatten(1, (3, 4)))
    np.testing.assert_array_equal(tokenizer.encode(tiny_features.values), indices.numpy())


def test_the_grid_of_the_paper_may_have_more_codes_than_items(tiny_dataset, tiny_features):
    tokenizer = fitted(tiny_dataset, tiny_features, grid=ScalarSettings().grid)
    assert tokenizer.level_sizes == (15_360,) * 3
    assert tokenizer.encode(tiny_features.values).shape == (40, 3)


def test_training_reconstructs_better_than_the_mean(tiny_dataset, with_vectors):
    random = np.random.default_rng(0)
    values = np.repeat(random.standard_normal((4, 12)), 10, axis=0) + 0.1 * random.standard_normal((40, 12))
    features = with_vectors(values)
    settings = {"epochs": 40, "learning_rate": 0.01, "patience": 40, "batch_size": 64, "decoder_layers": 1}
    tokenizer = fitted(tiny_dataset, features, **settings)
    rebuilt = tokenizer.reconstruct(tokenizer.encode(features.values))
    assert np.abs(values - rebuilt).sum() < 0.75 * np.abs(values - values.mean(axis=0)).sum()


def test_the_decoder_rebuilds_from_its_last_position(tiny_dataset, tiny_features):
    tokenizer = fitted(tiny_dataset, tiny_features)
    network = tokenizer.network
    with torch.no_grad():
        hidden = network.project_out(network.quantizer.codebook()[torch.tensor([[5, 0, 11]])]) + network.positions
        for layer in network.layers:
            hidden = layer(hidden)
        expected = network.output(hidden[:, 2]) * network.scale + network.mean
    np.testing.assert_allclose(tokenizer.reconstruct(np.array([[5, 0, 11]])), expected, atol=1e-5)
    other = tokenizer.reconstruct(np.array([[4, 0, 11]]))
    assert not np.allclose(other, expected), "every slice counts, not only the last"


def test_without_layers_every_slice_counts_too(tiny_dataset, tiny_features):
    tokenizer = fitted(tiny_dataset, tiny_features, decoder_layers=0, num_heads=8)
    first, second = tokenizer.reconstruct(np.array([[4, 0, 11], [5, 0, 11]]))
    assert not np.allclose(first, second)


def test_costs_are_distances_in_the_grid_of_the_last_slice(tiny_dataset, tiny_features):
    tokenizer = fitted(tiny_dataset, tiny_features)
    codes = tokenizer.encode(tiny_features.values)
    costs = tokenizer.last_level_costs(tiny_features.values, codes)
    assert costs.shape == (40, 12)
    # The nearest grid point need not be the rounded one where the spacing of two numbers differs; here it is close.
    network = tokenizer.network
    with torch.no_grad():
        last = network.quantizer.values(
            network.quantizer.bound(network.projected(torch.from_numpy(tiny_features.values)))
        )
    expected = ((last[:, 2, None].numpy() - network.quantizer.codebook().numpy()) ** 2).sum(axis=2)
    np.testing.assert_allclose(costs, expected, atol=1e-5)
    np.testing.assert_array_equal(costs.argmin(axis=1), codes[:, 2])


def test_a_width_that_cannot_be_sliced_equally_is_filled_with_zeros():
    network = SliceAutoencoder(7, ScalarSettings(**{**SMALL, "num_heads": 1}))
    vectors = torch.randn(2, 7)
    filled = torch.cat([vectors, torch.zeros(2, 2)], dim=1).double()
    weight, bias = network.project_in.weight.double(), network.project_in.bias.double()
    for part in range(3):
        expected = filled[:, 3 * part : 3 * part + 3] @ weight.T + bias
        torch.testing.assert_close(network.projected(vectors)[:, part], expected)


def test_settings_are_checked(tiny_dataset, tiny_features):
    with pytest.raises(ConfigError, match=r"(?s)slices of width 4 cannot be shared among 8 heads.*num_heads: 4"):
        fitted(tiny_dataset, tiny_features, num_heads=8)
    with pytest.raises(ConfigError, match="rounded to at least 3 levels"):
        build_tokenizer(TokenizerConfig(name="fsq", grid=(8, 2)))
    with pytest.raises(ConfigError, match=r"(?s)unknown key num_level.*did you mean 'num_levels'"):
        build_tokenizer(TokenizerConfig(name="fsq", num_level=4))
    with pytest.raises(ConfigError, match="unknown key latent_size"):
        build_tokenizer(TokenizerConfig(name="fsq", latent_size=4))
