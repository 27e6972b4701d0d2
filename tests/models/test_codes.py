"""The code space: token ids, slices and the loss against values worked by hand and a loop over every semantic ID."""

import math

import pytest
import torch

from genrec.models.layers.codes import CodeEmbedding, CodeHead, CodeSpace


def test_token_ids_number_the_codes_level_after_level():
    space = CodeSpace((3, 2, 4))
    assert (space.offsets, space.end, space.num_levels) == ([0, 3, 5], 9, 3)
    assert [space.rows(level) for level in range(3)] == [slice(0, 3), slice(3, 5), slice(5, 9)]
    assert space.token_ids(torch.tensor([[2, 0, 3], [0, 1, 0]])).tolist() == [[2, 3, 8], [0, 4, 5]]


def test_a_vocabulary_may_have_tokens_before_the_codes():
    space = CodeSpace([3, 2], first=10)
    assert (space.offsets, space.end, space.rows(1)) == ([10, 13], 15, slice(13, 15))
    assert space.token_ids(torch.tensor([2, 1])).tolist() == [12, 14]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_token_ids_keep_shape_and_dtype(dtype):
    tokens = CodeSpace([3, 2]).token_ids(torch.zeros(2, 5, 2, dtype=dtype))
    assert (tokens.shape, tokens.dtype) == ((2, 5, 2), dtype)


def test_a_space_without_levels_is_empty():
    assert (CodeSpace([]).offsets, CodeSpace([]).end) == ([], 0)


def test_the_loss_is_the_sum_over_levels_of_the_mean_over_semantic_ids():
    """Uniform logits cost log K per code; an ended semantic ID adds nothing and is still counted in the mean."""
    space = CodeSpace((3, 2))
    uniform = [torch.zeros(4, 3), torch.zeros(4, 2)]
    codes = torch.tensor([[0, 1], [2, 0], [1, 1], [1, -1]])
    assert float(space.loss(uniform.__getitem__, codes)) == pytest.approx(math.log(3) + 0.75 * math.log(2))


def test_the_loss_equals_a_loop_over_every_code():
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(5, size, generator=generator) for size in (4, 3)]
    codes = torch.tensor([[0, 2], [3, -1], [1, 1], [2, 0], [3, 2]])
    total = 0.0
    for row, semantic_id in enumerate(codes.tolist()):
        for level, code in enumerate(semantic_id):
            if code >= 0:
                powers = [math.exp(value) for value in logits[level][row].tolist()]
                total -= math.log(powers[code] / sum(powers)) / len(codes)
    assert float(CodeSpace((4, 3)).loss(logits.__getitem__, codes)) == pytest.approx(total, rel=1e-5)


def test_embedding_and_head_read_the_rows_of_their_level():
    embedding, head = CodeEmbedding([3, 2], 4, variable_length=True), CodeHead([3, 2], 4)
    with torch.no_grad():
        head.weight.normal_()
        head.bias.normal_()
        hidden = torch.randn(4)
        whole = embedding(torch.tensor([2, 1]))
        assert torch.equal(whole, embedding.table.weight[[2, 4]])
        assert torch.equal(embedding.level(1, torch.tensor([1, -1])), torch.stack([whole[1], torch.zeros(4)]))
        assert torch.equal(embedding.book(1)[-1], torch.zeros(4))
        assert torch.allclose(head(1, hidden), (head.weight @ hidden + head.bias)[3:], atol=1e-6)
