"""The reference that a Python user would take: ``generate`` with ``prefix_allowed_tokens_fn`` on the same weights."""

import numpy as np
import pytest
import torch
from transformers import T5ForConditionalGeneration

from genrec.config import RecommenderConfig
from genrec.decoding import beam_search, trie_of
from genrec.models import build_recommender
from genrec.models.seq2seq import END, FIRST_CODE, PADDING
from genrec.tokenizers.index import ItemIndex

NUM_ITEMS, SIZES = 400, (24, 24, 16, 4)


class LevelRestricted(T5ForConditionalGeneration):
    """T5 whose next-token distribution is over the codebook of the next level."""

    def forward(self, *args, decoder_input_ids=None, **options):
        output = super().forward(*args, decoder_input_ids=decoder_input_ids, **options)
        starts = torch.tensor([0, *np.cumsum(SIZES)]) + FIRST_CODE
        level = torch.searchsorted(starts, decoder_input_ids[:, -1:], right=True)
        tokens = torch.arange(output.logits.shape[-1])
        legal = (tokens >= starts[level]) & (tokens < starts[level + 1])
        output.logits = output.logits.masked_fill(~legal.unsqueeze(1), float("-inf"))
        return output


def make_model(seed: int):
    rng = np.random.default_rng(seed)
    flat = rng.choice(int(np.prod(SIZES)), NUM_ITEMS, replace=False)
    codes = np.stack(np.unravel_index(flat, SIZES), axis=1).astype(np.int32)
    settings = {"hidden_size": 32, "num_heads": 3, "head_size": 16, "num_layers": 2, "feed_forward_size": 64}
    torch.manual_seed(seed)
    config = RecommenderConfig(name="seq2seq", **settings)
    index = ItemIndex(codes, SIZES, [str(i) for i in range(NUM_ITEMS)])
    return build_recommender(config, num_items=NUM_ITEMS, index=index).eval()


def generate(model, items, lengths, num_beams: int, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    reference = LevelRestricted(model.t5.config)
    reference.load_state_dict(model.t5.state_dict())
    paths = [tuple(row) for row in model.code_tokens(model.item_codes.long()).tolist()]
    children: dict[tuple, set] = {}
    for path in paths:
        for level in range(len(path)):
            children.setdefault(path[:level], set()).add(path[level])
    tokens, mask = model.history_tokens(items, lengths)
    output = reference.eval().generate(
        input_ids=tokens,
        attention_mask=mask,
        num_beams=num_beams,
        num_return_sequences=top_k,
        max_new_tokens=len(SIZES),
        length_penalty=0.0,
        do_sample=False,
        prefix_allowed_tokens_fn=lambda _, prefix: list(children.get(tuple(prefix.tolist()[1:]), [END])),
        return_dict_in_generate=True,
        output_scores=True,
    )
    assert (output.sequences[:, 0] == PADDING).all()
    item_of = {path: item for item, path in enumerate(paths)}
    found = [item_of[tuple(row)] for row in output.sequences[:, 1:].tolist()]
    return torch.tensor(found).view(len(items), top_k), output.sequences_scores.view(len(items), top_k)


@pytest.mark.parametrize("num_beams", [5, 20])
def test_same_items_same_order_same_scores_as_generate(num_beams):
    model = make_model(num_beams)
    rng = np.random.default_rng(1)
    items = torch.as_tensor(rng.integers(0, NUM_ITEMS, (12, 7)))
    lengths = torch.as_tensor(rng.integers(0, 8, 12))
    with torch.no_grad():
        expected, expected_scores = generate(model, items, lengths, num_beams, 5)
    found = beam_search(model, trie_of(model), items, lengths, num_beams=num_beams, top_k=5)
    torch.testing.assert_close(found.scores, expected_scores, atol=1e-4, rtol=0)
    assert torch.equal(found.items, expected)
