"""The shared transformer against Hugging Face's rotary embedding, torch's attention and itself step by step."""

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from genrec.models.layers.transformer import CausalTransformer, KeyValue, attend_shared, rotary_angles, rotate


def test_rotation_equals_llama():
    query, key = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 8)
    rotation = rotary_angles(torch.arange(5), 8)
    llama = LlamaRotaryEmbedding(LlamaConfig(hidden_size=16, num_attention_heads=2))
    cosines, sines = llama(query, torch.arange(5)[None])
    expected_query, expected_key = apply_rotary_pos_emb(query, key, cosines, sines)
    assert torch.allclose(rotate(query, rotation), expected_query, atol=1e-6)
    assert torch.allclose(rotate(key, rotation), expected_key, atol=1e-6)


def test_shared_attention_equals_one_attention_per_beam():
    batch, beams, heads, length, size = 2, 3, 2, 5, 4
    query = torch.randn(batch, beams, heads, size)
    history = KeyValue(torch.randn(batch, heads, length, size), torch.randn(batch, heads, length, size))
    recent = [KeyValue(*torch.randn(2, batch, width, heads, size)) for width in (1, beams)]
    visible = torch.tensor([[True] * 5, [True, True, False, False, False]])
    result = attend_shared(query, history, visible, recent, size**-0.5)
    for user in range(batch):
        seen = int(visible[user].sum())
        for beam in range(beams):
            shared, own = recent[0], recent[1]
            keys = [history.keys[user, :, :seen], shared.keys[user, 0, :, None], own.keys[user, beam, :, None]]
            values = [history.values[user, :, :seen], shared.values[user, 0, :, None], own.values[user, beam, :, None]]
            keys, values = torch.cat(keys, dim=1), torch.cat(values, dim=1)
            expected = scaled_dot_product_attention(query[user, beam, :, None], keys, values)
            assert torch.allclose(result[user, beam], expected.flatten(), atol=1e-6)


def test_steps_after_a_history_equal_the_whole_sequence():
    torch.manual_seed(0)
    model = CausalTransformer(16, num_layers=2, num_heads=2, feed_forward_size=32, dropout=0.0).eval()
    x = torch.randn(3, 7, 16)
    whole, _ = model(x)
    _, history = model(x[:, :4])
    visible, own = torch.ones(3, 4, dtype=torch.bool), None
    for position in range(4, 7):
        step = x[:, position : position + 1]
        hidden, own = model.step(step, torch.full((3,), position), history, visible, own)
        assert torch.allclose(hidden[:, 0], whole[:, position], atol=1e-5)


def test_a_step_in_a_book_equals_a_step_of_its_rows():
    torch.manual_seed(0)
    model = CausalTransformer(16, num_layers=2, num_heads=2, feed_forward_size=32, dropout=0.0).eval()
    _, history = model(torch.randn(3, 1, 16))
    visible, own, own_in_book = torch.ones(3, 1, dtype=torch.bool), None, None
    for position in (1, 2):
        book, codes = torch.randn(6, 16), torch.randint(-1, 6, (3, 4))
        hidden, own = model.step(book[codes], torch.full((3,), position), history, visible, own)
        in_book, own_in_book = model.step_in_book(book, codes, position, history, visible, own_in_book)
        assert torch.allclose(in_book, hidden, atol=1e-6)


def test_no_position_sees_its_future():
    torch.manual_seed(0)
    model = CausalTransformer(16, num_layers=2, num_heads=2, feed_forward_size=32, dropout=0.0).eval()
    x = torch.randn(1, 6, 16)
    changed = x.clone()
    changed[:, 4] += 1
    before, after = model(x)[0], model(changed)[0]
    assert torch.equal(before[:, :4], after[:, :4])
    assert (before[:, 4:] != after[:, 4:]).any(dim=-1).all()
