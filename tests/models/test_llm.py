"""LLM: beams of several architectures against whole sequences, texts against the saved tokenizer, what is refused."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from pretrained_stand_ins import make, save, words_of
from safetensors.torch import save_file

from genrec.config import RecommenderConfig
from genrec.errors import ArtifactError, ConfigError
from genrec.models import ItemTexts, build_recommender, load_recommender
from genrec.models.layers.vocabulary_init import codebook_rows, mean_word_vectors
from genrec.models.resize_catalogue import extend_recommender
from genrec.tokenizers.index import ItemIndex

NUM_ITEMS, LEVEL_SIZES = 30, (7, 6, 5)
SMALL = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "vocabulary_size": 300}
NAMES = [f"{('red', 'green', 'blue')[item % 3]} {('kettle', 'lamp')[item % 2]}" for item in range(NUM_ITEMS)]
TEXTS = ItemTexts(["", *NAMES[1:]], [f"{name}. made of wood" for name in NAMES])
SPARSE = ["qwen3-moe", "mixtral"]
CAUSAL = ["llama", "qwen3", "gpt2", "opt", *SPARSE]


def make_index(num_items: int = NUM_ITEMS, kind: str = "sequence") -> ItemIndex:
    flat = np.random.default_rng(3).permutation(int(np.prod(LEVEL_SIZES)))[:num_items]
    codes = np.stack(np.unravel_index(flat, LEVEL_SIZES), axis=1).astype(np.int32)
    return ItemIndex(codes, LEVEL_SIZES, [str(item) for item in range(num_items)], kind)


def make_model(texts: ItemTexts | None = TEXTS, features=None, **settings):
    torch.manual_seed(0)
    sizes = {"text_length": 24} if "backbone" in settings else {**SMALL, "text_length": 24}
    config = RecommenderConfig(name="llm", **{**sizes, **settings})
    return build_recommender(config, num_items=NUM_ITEMS, index=make_index(), features=features, texts=texts).eval()


def written(model, item: int) -> str:
    return "".join(f"<code_{level}_{code}>" for level, code in enumerate(model.item_codes[item].tolist()))


def read_text(model, text: str) -> torch.Tensor:
    """States ``[S, D]`` of the language model over a text that the saved tokenizer reads, and its ids."""
    ids = torch.tensor(model.words(text, add_special_tokens=False)["input_ids"])
    rows = torch.cat([model.lm.get_input_embeddings().weight[: model.config.num_words], model.codes.weight])
    return ids, model.lm.base_model(inputs_embeds=rows[ids].unsqueeze(0)).last_hidden_state[0]


def log_probability_of_codes(model, states: torch.Tensor, item: int) -> torch.Tensor:
    """From the states before each code of the item."""
    codes = model.item_codes[item].long()
    parts = [model.code_logits(level, states[level]).log_softmax(-1)[codes[level]] for level in range(3)]
    return torch.stack(parts).sum()


@pytest.mark.parametrize("kind", CAUSAL)
@torch.no_grad()
def test_beams_get_what_each_gets_alone(kind, tmp_path):
    """Whatever the architecture, each beam's logits are those of its own sequence, read whole and alone."""
    model = make_model(backbone=save(tmp_path / kind, kind))
    items, lengths = torch.tensor([[4, 9, 2], [7, 0, 0], [1, 1, 1]]), torch.tensor([3, 1, 0])
    context = model.encode(items, lengths)
    model.next_code_logits(context, torch.zeros(3, 1, 0, dtype=torch.long))
    first = torch.tensor([[[0], [3], [5]]]).expand(3, -1, -1)
    model.next_code_logits(context, first, torch.zeros(3, 3, dtype=torch.long))
    parents = torch.tensor([[2, 0], [1, 1], [0, 2]])
    prefix = torch.cat([first.gather(1, parents.unsqueeze(2)), torch.tensor([[1, 4]] * 3).unsqueeze(2)], dim=2)
    logits = model.next_code_logits(context, prefix, parents)
    assert context.history[0].keys.shape[0] == 3
    for user in range(3):
        history = "".join(written(model, item) for item in items[user, : lengths[user]].tolist())
        for beam in range(2):
            codes = "".join(f"<code_{level}_{code}>" for level, code in enumerate(prefix[user, beam].tolist()))
            _, states = read_text(model, start_of(model, "history") + history + codes)
            assert torch.allclose(logits[user, beam], model.code_logits(2, states[-1]), atol=1e-5)


def start_of(model, name: str) -> str:
    return model.words.decode(model.config.prompts[name])


@torch.no_grad()
def test_one_pass_learns_every_item_from_those_before():
    model = make_model()
    items, lengths = torch.tensor([[4, 9, 2], [7, 3, 0]]), torch.tensor([3, 2])
    terms = []
    for row, length in enumerate(lengths.tolist()):
        for cut in range(length):
            history = "".join(written(model, item) for item in items[row, : cut + 1].tolist())
            _, states = read_text(model, start_of(model, "history") + history)
            terms.append(log_probability_of_codes(model, states[-4:-1], int(items[row, cut])))
    assert float(model(items, lengths).loss) == pytest.approx(-float(torch.stack(terms).mean()), abs=1e-5)


@torch.no_grad()
def test_text_tasks_learn_what_the_sentences_say():
    """Each task against its sentence, written as text and read by the saved tokenizer, one at a time."""
    model = make_model()
    chosen = torch.tensor([0, 5, 11])
    losses, count = 0.0, 0
    for item in chosen.tolist():
        text = f"{start_of(model, 'item')}{written(model, item)}{start_of(model, 'described')} {TEXTS.texts[item]}</s>"
        ids, states = read_text(model, text)
        told = len(model.words(" " + TEXTS.texts[item] + "</s>")["input_ids"])
        logits = states @ model.lm.get_output_embeddings().weight[: model.config.num_words].T
        losses -= float(logits[-told - 1 : -1].log_softmax(-1).gather(1, ids[-told:, None]).sum())
        count += told
    assert float(model._word_loss(model._descriptions(chosen))) == pytest.approx(losses / count, abs=1e-5)
    terms = []
    for item in chosen.tolist():
        text = f"{start_of(model, 'text')} {TEXTS.texts[item]}</s>{start_of(model, 'named')}{written(model, item)}"
        _, states = read_text(model, text)
        terms.append(log_probability_of_codes(model, states[-4:-1], item))
    states, _, _ = model._learned_states(model._semantic_ids(chosen))
    found = model._semantic_id_loss(states.unflatten(0, (3, 3)), chosen)
    assert float(found) == pytest.approx(-float(torch.stack(terms).mean()), abs=1e-5)


def test_the_title_of_the_next_item_follows_a_history_without_it():
    """Read back as text: the items before the cut, and the title of the one after it; where it has none, its text."""
    model, items = make_model(), torch.tensor([[4, 9, 0], [7, 3, 6]])
    seen = set()
    for _ in range(40):
        joined = model._next_titles(items, torch.tensor([3, 2]))
        for tokens, real, learned in zip(*joined, strict=True):
            sentence, title = model.words.decode(tokens[real & ~learned]), model.words.decode(tokens[learned])
            seen.add((sentence.count("<code_0_"), title.strip()))
            assert real.sum() == (real & ~learned).sum() + learned.sum()
    expected = {(place, NAMES[item] + "</s>") for row in ([4, 9], [7, 3]) for place, item in enumerate(row)}
    assert seen == expected | {(2, TEXTS.texts[0] + "</s>")}


def test_texts_teach_in_training_only():
    model, plain = make_model(), make_model(text_weight=0.0)
    items, lengths = torch.tensor([[4, 9, 2]]), torch.tensor([3])
    assert torch.equal(model(items, lengths).loss, plain(items, lengths).loss)
    assert float(model.train()(items, lengths).loss) > float(plain.train()(items, lengths).loss) + 0.5
    only = make_model(text_tasks=["text-to-item"]).train()
    only.text_loss(items, lengths).backward()
    assert only.codes.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("settings", [{"text_weight": 0.0}, {"text_tasks": ["text-to-item"]}, {}])
def test_everything_that_is_trained_learns(settings, tmp_path):
    """Untied output vectors of words are left alone where no task asks for words."""
    model = make_model(backbone=save(tmp_path / "qwen3", "qwen3"), **settings).train()
    model(torch.tensor([[4, 9, 2], [7, 3, 0]]), torch.tensor([3, 2])).loss.backward()
    learned = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert [name for name, value in learned.items() if value.grad is None or not value.grad.abs().sum()] == []
    assert ("lm.lm_head.weight" in learned) == (not settings)


@pytest.mark.parametrize("kind", SPARSE)
def test_experts_of_the_backbone_are_balanced_in_training(kind, tmp_path):
    """What training adds is the backbone's own auxiliary loss, and it says where the positions went."""
    model = make_model(backbone=save(tmp_path / kind, kind, router_aux_loss_coef=0.5), text_weight=0.0)
    items, lengths = torch.tensor([[4, 9, 2], [7, 3, 0]]), torch.tensor([3, 2])
    told = model.train()(items, lengths).loss
    loads = model.training_metrics()["expert_load"]
    plain = model.eval()(items, lengths).loss
    rows = model._history_tokens(items)[:, :-1]
    mask = torch.ones_like(rows)
    mask[1, -3:] = 0
    output = model.lm(inputs_embeds=model._embed(rows), attention_mask=mask, output_router_logits=True)
    assert float((told - plain).detach()) == pytest.approx(0.5 * float(output.aux_loss), abs=1e-5)
    assert [len(layer) for layer in loads] == ([6] if kind == "qwen3-moe" else [4, 4])
    assert all(sum(layer) == pytest.approx(1, abs=1e-3) for layer in loads)


def losses_of(model, items: torch.Tensor, lengths: torch.Tensor, optimizer, steps: int) -> list[float]:
    """The loss before each of some steps of training."""
    losses = []
    for _ in range(steps):
        loss = model(items, lengths).loss
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


@pytest.mark.parametrize("kind", SPARSE)
def test_a_backbone_with_experts_learns_a_few_users(kind, tmp_path):
    model = make_model(backbone=save(tmp_path / kind, kind)).train()
    items, lengths = torch.tensor([[4, 9, 2, 11], [7, 3, 5, 1]]), torch.tensor([4, 3])
    losses = losses_of(model, items, lengths, torch.optim.Adam(model.parameters(), lr=3e-3), steps=30)
    assert losses[-1] < 0.5 * losses[0]


def test_items_without_words_are_no_examples():
    texts = ItemTexts([""] * NUM_ITEMS, ["" if item != 8 else "a blue chair" for item in range(NUM_ITEMS)])
    model = make_model(texts)
    assert set(model._draw_described(torch.device("cpu")).tolist()) == {8}
    assert torch.isfinite(model.text_loss(torch.tensor([[4, 9, 2]]), torch.tensor([3])))


def test_new_rows_are_the_codebook_of_residual_codes():
    """Vectors made as sums of two codebooks over a full grid: the rows are these, centred, as spread as the words."""
    generator = torch.Generator().manual_seed(2)
    words = torch.randn(50, 8, generator=generator) * 0.3 + 1
    books = [torch.randn(size, 8, generator=generator) for size in (4, 3)]
    codes = torch.cartesian_prod(torch.arange(4), torch.arange(3))
    rows = codebook_rows(words, books[0][codes[:, 0]] + books[1][codes[:, 1]], codes, [4, 3])
    for book, found in zip(books, rows.split([4, 3]), strict=True):
        centred = book - book.mean(0)
        assert torch.allclose(found - words.mean(0), centred / centred.std() * words.std(), atol=1e-5)


def test_texts_are_the_mean_of_their_words():
    table = torch.arange(12.0).view(6, 2)
    means = mean_word_vectors(table, torch.tensor([[1, 3, -1], [-1, -1, -1], [5, -1, -1]]))
    assert means.tolist() == [[4.0, 5.0], [7.0, 8.0], [10.0, 11.0]]


def test_new_rows_may_start_from_item_vectors_or_at_random():
    features = np.random.default_rng(0).standard_normal((NUM_ITEMS, 5)).astype(np.float32)
    starts = {"texts": make_model(), "random": make_model(new_rows="random")}
    starts["features"] = make_model(new_rows="features", features=features)
    rows = [model.codes.weight for model in starts.values()]
    assert all(not torch.allclose(rows[a], rows[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    for model in starts.values():
        words = model.lm.get_input_embeddings().weight[: model.config.num_words]
        assert float(model.codes.weight.detach().std()) == pytest.approx(float(words.detach().std()), rel=0.2)
    with pytest.raises(ConfigError, match=r"'llm' uses item features and none were given(?s:.*)choose another recomm"):
        make_model(new_rows="features")


@pytest.mark.parametrize("kind", ["llama", "qwen3", *SPARSE])
def test_the_folder_alone_recommends_and_takes_new_items(kind, tmp_path):
    """Tied and untied; without the backbone's folder, without texts, with the same answers and words."""
    source = save(tmp_path / "backbone", kind)
    model = make_model(backbone=source, new_rows="texts")
    model.save_pretrained(tmp_path / "model")
    shutil.rmtree(source)
    files = {path.suffix for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert files <= {".json", ".safetensors", ".txt", ".jinja"}
    loaded = load_recommender(tmp_path / "model")
    items, lengths = torch.tensor([[4, 9, 2]]), torch.tensor([3])
    assert torch.equal(loaded(items, lengths).loss, model(items, lengths).loss)
    larger = extend_recommender(loaded, make_index(NUM_ITEMS + 2), None)
    assert torch.equal(larger(items, lengths).loss, model(items, lengths).loss)
    assert larger.words.get_vocab() == model.words.get_vocab()
    larger.save_pretrained(tmp_path / "larger")
    assert load_recommender(tmp_path / "larger").words.get_vocab() == model.words.get_vocab()


def test_missing_or_damaged_words_are_named(tmp_path):
    make_model().save_pretrained(tmp_path)
    (tmp_path / "words" / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(ArtifactError, match="the words of the model cannot be loaded"):
        load_recommender(tmp_path)
    shutil.rmtree(tmp_path / "words")
    with pytest.raises(ArtifactError, match="the words of the model cannot be loaded"):
        load_recommender(tmp_path)


def test_gradient_checkpointing_changes_no_gradient():
    items, lengths = torch.tensor([[4, 9, 2], [7, 3, 0]]), torch.tensor([3, 2])
    gradients = []
    for checkpointing in (False, True):
        model = make_model(text_weight=0.0).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(items, lengths).loss.backward()
        gradients.append(model.codes.weight.grad)
    assert torch.allclose(*gradients, atol=1e-6)
    assert gradients[0].abs().sum() > 0


def test_texts_are_needed_where_they_are_used():
    with pytest.raises(ConfigError, match="the recommender 'llm' reads the texts of items and there are none"):
        make_model(None)
    with pytest.raises(ConfigError, match="genrec prepare --items"):
        make_model(ItemTexts([""] * NUM_ITEMS, [""] * NUM_ITEMS))
    with pytest.raises(ArtifactError, match="texts of 1 items, the data set has 30"):
        make_model(ItemTexts(["red"], ["red"]))
    assert make_model(None, text_weight=0.0, new_rows="random", text_length=48).item_words is None


@pytest.mark.parametrize("kind", ["bert", "mamba"])
def test_models_whose_beams_cannot_share_a_history_are_refused(kind, tmp_path):
    """One sees the future; the other keeps a state instead of keys and values."""
    source = save(tmp_path / kind, kind)
    with pytest.raises(ConfigError, match=r"beams cannot share a history in the backbone(?s:.*)such as Llama"):
        make_model(backbone=source)


def test_what_is_no_language_model_is_refused(tmp_path):
    for source in (str(tmp_path / "nowhere"), str(tmp_path / "weights.gguf"), save(tmp_path / "t5", "t5")):
        with pytest.raises(ConfigError, match=r"the backbone .* cannot be loaded"):
            make_model(backbone=source)


@pytest.mark.parametrize(("family", "kind"), [("llm", "llama"), ("p5", "t5")])
def test_damaged_folders_are_refused(family, kind, tmp_path):
    """Weights that are cut off, that have other sizes than the config says; words that are no tokenizer."""
    save(tmp_path / kind, kind)
    damage = {
        "model.safetensors": lambda content: content[:2000],
        "config.json": lambda content: content.replace(b'"hidden_size": 32', b'"hidden_size": 64').replace(
            b'"d_model": 32', b'"d_model": 64'
        ),
        "tokenizer.json": lambda content: content.replace(b'"type": "BPE"', b'"type": "none"'),
    }
    said = {
        "model.safetensors": r"the backbone .* cannot be loaded: .*header",
        "config.json": "its weights have other sizes than its config.json says",
        "tokenizer.json": r"the words of .* cannot be loaded",
    }
    for file, change in damage.items():
        folder = tmp_path / file.partition(".")[0]
        shutil.copytree(tmp_path / kind, folder)
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(change(content))
        assert (folder / file).read_bytes() != content
        config = RecommenderConfig(name=family, backbone=str(folder))
        with pytest.raises(ConfigError, match=said[file] + r"(?s:.*)check the name or the path, or download it again"):
            build_recommender(config, num_items=NUM_ITEMS, index=make_index(), texts=TEXTS)


def test_sizes_and_positions_must_fit(tmp_path):
    llama = save(tmp_path / "llama", "llama", max_position_embeddings=128)
    with pytest.raises(ConfigError, match=r"hidden_size 64 does not fit the backbone .*, which has 32"):
        make_model(backbone=llama, hidden_size=64)
    with pytest.raises(ConfigError, match=r"max_history 50 needs \d+ positions, the backbone .* has 128"):
        make_model(backbone=llama)
    assert make_model(backbone=llama, max_history=5, text_length=8, hidden_size=32).max_history == 5
    words = words_of()
    words.add_tokens([f"word{number}" for number in range(400)])
    other = save(tmp_path / "other", "llama", words=words)
    with pytest.raises(ConfigError, match=r"its language model has vectors for 400"):
        make_model(backbone=other)


def test_an_extended_vocabulary_is_refused(tmp_path):
    model = make_model()
    extended = save(tmp_path / "llama", "llama", words=model.words)
    with pytest.raises(ConfigError, match="the vocabulary has semantic IDs already, such as <code_"):
        make_model(backbone=extended)
    model.save_pretrained(tmp_path / "ours")
    with pytest.raises(ConfigError, match="is a genrec recommender already, whose vocabulary has been extended"):
        make_model(backbone=str(tmp_path / "ours"))


def test_identifiers_that_it_cannot_write_are_refused():
    config = RecommenderConfig(name="llm", **SMALL)
    with pytest.raises(ConfigError, match="the recommender 'llm' cannot use these semantic IDs"):
        build_recommender(config, num_items=NUM_ITEMS, index=make_index(kind="set"), texts=TEXTS)


def test_an_adapter_of_another_backbone_is_refused(tmp_path):
    llama, adapter = save(tmp_path / "llama", "llama"), tmp_path / "adapter"
    with pytest.raises(ArtifactError, match=r"adapter_config\.json is missing"):
        make_model(backbone=llama, adapter=str(adapter))
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2}), encoding="utf-8")
    with pytest.raises(ArtifactError, match="the adapter cannot be read"):
        make_model(backbone=llama, adapter=str(adapter))
    for layer, width, found in (("self_attn.q_proj", 64, "of width 32"), ("attention.query", 32, "no such layer")):
        name = f"base_model.model.model.layers.0.{layer}.lora_A.weight"
        save_file({name: torch.zeros(2, width)}, adapter / "adapter_model.safetensors")
        with pytest.raises(ArtifactError, match=rf"the adapter is for another language model(?s:.*){found}"):
            make_model(backbone=llama, adapter=str(adapter))


def test_an_adapter_without_a_backbone_is_refused():
    with pytest.raises(ConfigError, match=r"adapter needs the language model (?s:.*)set recommender\.backbone"):
        make_model(adapter="somewhere")


def test_lora_names_the_extra_that_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"LoRA needs the package peft(?s:.*)pip install 'genrec\[peft\]'"):
        make_model(lora_rank=2)


def test_the_stand_ins_are_what_they_claim():
    assert [type(make(kind)).__name__ for kind in CAUSAL] == [
        "LlamaForCausalLM",
        "Qwen3ForCausalLM",
        "GPT2LMHeadModel",
        "OPTForCausalLM",
        "Qwen3MoeForCausalLM",
        "MixtralForCausalLM",
    ]
