"""Residual scalar quantization against the library and what it needs."""

import numpy as np
import pytest
import torch
from vector_quantize_pytorch import ResidualFSQ

from genrec.config import TokenizerConfig
from genrec.errors import ConfigError, DataError
from genrec.tokenizers import build_tokenizer, fit_tokenizer
from genrec.tokenizers.families.residual_fsq import (
    ResidualScalarQuantizer,
    ResidualScalarSettings,
    ResidualScalarTokenizer,
    ScalarLearner,
)
from genrec.tokenizers.parts.autoencoder import Autoencoder

SMALL = {"grids": ((4, 3, 3),) * 3, "hidden_sizes": (24,), "epochs": 5, "batch_size": 16}


def fitted(dataset, features, **settings) -> ResidualScalarTokenizer:
    tokenizer = ResidualScalarTokenizer(ResidualScalarSettings(**{**SMALL, **settings}))
    tokenizer.fit(dataset, features)
    return tokenizer


@pytest.mark.parametrize("grid", [(8, 6, 5), (4, 4, 4, 4), (3, 2)])
def test_codes_and_values_equal_the_librarys(grid):
    torch.manual_seed(0)
    library = ResidualFSQ(levels=list(grid), num_quantizers=3).eval()
    latents = 1.5 * torch.randn(1, 4000, len(grid))
    expected, indices = library(latents)
    values, codes = ResidualScalarQuantizer((grid,) * 3)(latents[0])
    assert torch.equal(codes, indices[0].long())
    torch.testing.assert_close(values, expected[0])


def test_a_later_grid_divides_a_step_of_the_one_before():
    quantizer = ResidualScalarQuantizer(((5,), (3,), (2,)))
    for book, expected in zip(
        quantizer.codebooks(), ([-1, -0.5, 0, 0.5, 1], [-0.2, 0, 0.2], [-1 / 15, 1 / 15]), strict=True
    ):
        np.testing.assert_allclose(book[:, 0], expected, rtol=1e-6)
    # 0.37 is nearest to .5; -.13 is left: -.2; .07 is left: 1/15.
    total, codes = quantizer.quantize(torch.tensor([[0.37]]))
    assert codes.tolist() == [[3, 0, 1]]
    assert float(total) == pytest.approx(0.5 - 0.2 + 1 / 15)


def test_codes_are_the_nearest_of_the_codebooks(tiny_dataset, tiny_features):
    tokenizer = fitted(tiny_dataset, tiny_features)
    residual = tokenizer.to_code_space(tiny_features.values)
    for level, codes in enumerate(tokenizer.encode(tiny_features.values).T):
        distances = ((residual[:, None] - tokenizer.codebooks[level]) ** 2).sum(axis=2)
        np.testing.assert_array_equal(codes, distances.argmin(axis=1))
        residual = residual - tokenizer.codebooks[level][codes]


def test_training_reconstructs_better_than_the_mean(tiny_dataset, tiny_features):
    tokenizer = fitted(tiny_dataset, tiny_features, epochs=80, learning_rate=0.01, patience=80, batch_size=64)
    values = tiny_features.values
    rebuilt = tokenizer.reconstruct(tokenizer.encode(values))
    assert ((values - rebuilt) ** 2).sum() < 0.6 * ((values - values.mean(axis=0)) ** 2).sum()


def test_a_grid_may_have_more_codes_than_items(tiny_dataset, tiny_features):
    tokenizer = fitted(tiny_dataset, tiny_features, grids=((8, 8, 8),), epochs=1)
    codes = tokenizer.encode(tiny_features.values)
    assert tokenizer.level_sizes == (512,)
    assert len(np.unique(codes)) > 20


def test_constant_vectors_are_refused(tiny_dataset, with_vectors, tmp_path):
    config = TokenizerConfig(name="residual-fsq", **SMALL)
    with pytest.raises(DataError, match="the first level collapsed: it uses 1 of 36 codes"):
        fit_tokenizer(config, tiny_dataset, with_vectors(np.full((40, 5), 0.3)), tmp_path / "tokenizer")
    assert not list(tmp_path.iterdir())


def test_grids_are_checked():
    cases = {
        "all of them for equally many numbers": ((3, 3), (4,)),
        "at least 2 levels": ((3, 1),),
        "one grid per level": (),
    }
    for message, grids in cases.items():
        with pytest.raises(ConfigError, match=message):
            build_tokenizer(TokenizerConfig(name="residual-fsq", grids=grids))


def test_training_begins_with_codes_spread_over_the_grid(tiny_dataset, tiny_features):
    # An untrained encoder's outputs are so small that all of them would fall on the middle of the grid.
    torch.manual_seed(0)
    learner = ScalarLearner(Autoencoder(12, (24,), 3), ResidualScalarQuantizer(((5, 5, 5),)))
    vectors = torch.from_numpy(tiny_features.values)
    before = learner.quantizer(learner.network.encode(vectors))[1]
    with torch.no_grad():
        learner.start(vectors)
        latents = learner.network.encode(vectors)
    torch.testing.assert_close(latents.std(dim=0, correction=0), torch.ones(3))
    torch.testing.assert_close(latents.mean(dim=0), torch.zeros(3), atol=1e-5, rtol=0)
    assert len(before.unique()) < 10 < len(learner.quantizer(latents)[1].unique())
