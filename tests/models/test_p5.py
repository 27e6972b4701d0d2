"""P5: the sentence against the saved tokenizer's own reading of it; a pretrained T5 against itself; what is refused."""

import shutil

import numpy as np
import pytest
import torch
from pretrained_stand_ins import make, save, words_of

from genrec.config import RecommenderConfig
from genrec.errors import ConfigError
from genrec.models import build_recommender, load_recommender
from genrec.models.families.p5 import SENTENCES
from genrec.models.families.seq2seq import END
from genrec.tokenizers.index import ItemIndex

NUM_ITEMS, LEVEL_SIZES = 30, (7, 6, 5)
SMALL = {"hidden_size": 24, "num_layers": 1, "num_heads": 2, "head_size": 8, "feed_forward_size": 32}


def make_index(kind: str = "sequence") -> ItemIndex:
    flat = np.random.default_rng(3).choice(int(np.prod(LEVEL_SIZES)), NUM_ITEMS, replace=False)
    codes = np.stack(np.unravel_index(flat, LEVEL_SIZES), axis=1).astype(np.int32)
    return ItemIndex(codes, LEVEL_SIZES, [str(item) for item in range(NUM_ITEMS)], kind)


def make_model(seed: int = 0, **settings):
    torch.manual_seed(seed)
    sizes = {} if "backbone" in settings else SMALL
    config = RecommenderConfig(name="p5", **{**sizes, **settings})
    return build_recommender(config, num_items=NUM_ITEMS, index=make_index()).eval()


def written(model, item: int) -> str:
    return "item_" + "".join(f"<code_{level}_{code}>" for level, code in enumerate(model.item_codes[item].tolist()))


def log_probability(model, items: torch.Tensor, lengths: torch.Tensor, target: int) -> torch.Tensor:
    context, codes = model.encode(items, lengths), model.item_codes[target].long().expand(len(items), 1, -1)
    total = torch.zeros(len(items))
    for level in range(model.num_levels):
        parents = torch.zeros(len(items), 1, dtype=torch.long)
        logits = model.next_code_logits(context, codes[:, :, :level], parents)[:, 0]
        total += logits.log_softmax(-1)[torch.arange(len(items)), codes[:, 0, level]]
    return total


def test_the_tokens_are_those_of_the_sentence():
    """Written out as text and read by the saved vocabulary, the sentence has the same token ids."""
    model = make_model()
    items, lengths = torch.tensor([[4, 9, 2], [7, 0, 0], [1, 2, 3]]), torch.tensor([3, 1, 0])
    tokens, mask = model.history_tokens(items, lengths)
    for row, length in enumerate(lengths.tolist()):
        history = " , ".join(written(model, item) for item in items[row, :length].tolist())
        sentence = SENTENCES[0].replace("{history} ", f"{history} " if length else "")
        expected = model.words(sentence)["input_ids"] + [END]
        assert tokens[row, mask[row].bool()].tolist() == expected
        assert mask[row].tolist() == sorted(mask[row].tolist(), reverse=True)


def test_all_pieces_of_a_word_and_of_an_item_share_one_embedding():
    """Counted by hand: A person has chosen (1-4), an item (5), a comma (6), an item (7), so (8) ... ; the end 0."""
    model = make_model()
    tokens, mask = model.history_tokens(torch.tensor([[4, 9]]), torch.tensor([2]))
    places = ((model.embed_history(tokens, mask) - model.t5.shared(tokens))[0] @ model.whole_words.weight.T).argmax(1)
    item = len(model.config.prompts["item"]) + 3
    pieces = [1, 2, 3, 4, *[5] * item, 6, *[7] * item]
    assert places[: len(pieces)].tolist() == pieces
    rest = places[len(pieces) :].tolist()
    assert rest[:-1] == sorted(rest[:-1])
    assert rest[0] == 8
    assert len(set(rest[:-1])) == 7
    assert rest[-1] == 0


def test_training_draws_sentences_and_lists_are_written_with_the_first():
    model, one = make_model(), make_model(sentences=1)
    history = torch.tensor([[4, 9]]), torch.tensor([2])
    first = model.history_tokens(*history)[0].tolist()
    assert all(model.history_tokens(*history)[0].tolist() == first for _ in range(5))
    assert one.train().history_tokens(*history)[0].tolist() == first
    drawn = {str(model.train().history_tokens(*history)[0].tolist()) for _ in range(200)}
    assert len(drawn) == len(SENTENCES)


@pytest.mark.parametrize("kind", [{}, {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}])
def test_a_pretrained_t5_keeps_its_weights_and_decodes_as_transformers_does(kind, tmp_path):
    """Relu and tied as the first T5, gated and untied as T5 1.1 and Flan; it has more rows than words, as they do."""
    source = save(tmp_path / "t5", "t5", **kind)
    model, original = make_model(backbone=source), make("t5", **kind)
    first = model.first_code
    assert first == len(words_of()) < 400
    assert torch.equal(model.t5.shared.weight[:first], original.shared.weight[:first])
    ours, theirs = (t5.encoder.block[1].layer[0].SelfAttention.q.weight for t5 in (model.t5, original))
    assert torch.equal(ours, theirs)
    spread = [float(t5.shared.weight[first:].detach().std()) for t5 in (model.t5, original)]
    assert spread[0] == pytest.approx(spread[1], rel=0.2)
    items, lengths = torch.tensor([[4, 9, 2], [7, 0, 0]]), torch.tensor([3, 1])
    tokens, mask = model.history_tokens(items, lengths)
    codes = model.code_tokens(model.item_codes[5].long()).expand(2, -1)
    with torch.no_grad():
        start = torch.zeros_like(codes[:, :1])
        logits = model.t5(
            inputs_embeds=model.embed_history(tokens, mask),
            attention_mask=mask,
            decoder_input_ids=torch.cat([start, codes[:, :-1]], dim=1),
        ).logits
        expected, begin = torch.zeros(2), first
        for level, size in enumerate(LEVEL_SIZES):
            legal = logits[:, level, begin : begin + size].log_softmax(-1)
            expected += legal.gather(1, codes[:, level : level + 1] - begin)[:, 0]
            begin += size
        assert torch.allclose(log_probability(model, items, lengths, 5), expected, atol=1e-5)
    model.save_pretrained(tmp_path / "model")
    shutil.rmtree(source)
    loaded = load_recommender(tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(log_probability(loaded, items, lengths, 5), log_probability(model, items, lengths, 5))
    assert loaded.words.get_vocab() == model.words.get_vocab()


def test_what_cannot_be_a_backbone_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"the backbone .*nowhere' cannot be loaded"):
        make_model(backbone=str(tmp_path / "nowhere"))
    llama = save(tmp_path / "llama", "llama")
    with pytest.raises(ConfigError, match=r"is a 'llama', which p5 cannot use(?s:.*)recommender.name=llm"):
        make_model(backbone=llama)
    t5 = save(tmp_path / "t5", "t5")
    with pytest.raises(ConfigError, match=r"hidden_size 64 does not fit the backbone.*, which has 32"):
        make_model(backbone=t5, hidden_size=64)
    (tmp_path / "t5" / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"the words of .* cannot be loaded"):
        make_model(backbone=t5)


def test_a_vocabulary_with_identifiers_is_refused(tmp_path):
    extended = save(tmp_path / "t5", "t5", words=make_model().words)
    with pytest.raises(ConfigError, match="the vocabulary has semantic IDs already, such as <code_"):
        make_model(backbone=extended)


def test_sets_are_refused():
    config = RecommenderConfig(name="p5", **SMALL)
    with pytest.raises(ConfigError, match="the recommender 'p5' cannot use these semantic IDs"):
        build_recommender(config, num_items=NUM_ITEMS, index=make_index("set"))
