"""The scalar grid against the library over its whole codebook."""

import numpy as np
import pytest
import torch
from vector_quantize_pytorch import FSQ

from genrec.tokenizers.parts.scalar import ScalarQuantizer

GRIDS = [(8, 8, 8, 6, 5), (3, 4), (7,)]


@pytest.mark.parametrize("grid", GRIDS)
def test_the_codebook_equals_the_librarys(grid):
    ours, library = ScalarQuantizer(grid), FSQ(list(grid))
    assert ours.size == library.codebook_size == np.prod(grid)
    torch.testing.assert_close(ours.codebook(), library.implicit_codebook, rtol=0, atol=0)


@pytest.mark.parametrize("grid", GRIDS)
def test_every_code_comes_back(grid):
    quantizer = ScalarQuantizer(grid)
    every = torch.arange(quantizer.size)
    places = (every.unsqueeze(1) // quantizer.basis) % quantizer.levels
    assert torch.equal(quantizer.codes(places), every)
    # Vectors in the middle of their cells: undo the bound of the places.
    half = (quantizer.levels - 1) * 1.001 / 2
    offset = 0.5 * (quantizer.levels % 2 == 0)
    vectors = ((places - quantizer.levels // 2 + offset) / half).atanh() - (offset / half).atanh()
    values, codes = quantizer(vectors)
    assert torch.equal(codes, every)
    torch.testing.assert_close(values, quantizer.codebook())
    library_values, library_codes = FSQ(list(grid))(vectors[None])
    assert torch.equal(library_codes[0].long(), every)
    torch.testing.assert_close(values, library_values[0])


@pytest.mark.parametrize("symmetric", [False, True])
def test_rounding_and_gradient_equal_the_librarys(symmetric):
    torch.manual_seed(0)
    vectors = torch.randn(500, 3, requires_grad=True)
    options = {"preserve_symmetry": True, "bound_hard_clamp": True} if symmetric else {}
    expected, indices = FSQ([8, 5, 3], **options)(vectors[None])
    (gradient,) = torch.autograd.grad((expected**2).sum(), vectors)
    values, codes = ScalarQuantizer((8, 5, 3), symmetric)(vectors)
    assert torch.equal(codes, indices[0].long())
    torch.testing.assert_close(values, expected[0])
    torch.testing.assert_close(torch.autograd.grad((values**2).sum(), vectors)[0], gradient)


def test_symmetric_grid_by_hand():
    quantizer = ScalarQuantizer((3, 2), symmetric=True)
    values, codes = quantizer(torch.tensor([[-5.0, -0.1], [0.2, 0.1], [0.6, 9.0]]))
    assert values.tolist() == [[-1, -1], [0, 1], [1, 1]]
    assert codes.tolist() == [0, 4, 5]
