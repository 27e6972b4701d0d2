"""ColaRec: what each task reads, by perturbation; draws against brute force; the loss against the paper's sum."""

import unicodedata
from collections import Counter, defaultdict
from zlib import crc32

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from genrec.cli import main
from genrec.config import RecommenderConfig
from genrec.data import Histories
from genrec.errors import ConfigError
from genrec.models import ItemTexts, build_recommender, load_recommender
from genrec.models.families.colarec import find_siblings, last_state, ranking_loss
from genrec.models.layers.hashed_words import hash_words
from genrec.models.layers.users import ItemUsers
from genrec.tokenizers.index import ItemIndex

NUM_ITEMS, SIZES = 30, (3, 3, 50)
SMALL = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "head_size": 8, "feed_forward_size": 32}
# Item 4 has one user, who also took 9 and 11; item 9 has two; from item 25 on no one took any.
HISTORIES = Histories.from_lists([[4, 9, 11, 4], [9, 12], [13], [*range(14, 25)]])
TEXTS = ItemTexts(["thing"] * NUM_ITEMS, [f"Thing no. {item} of maker{item % 4}" for item in range(NUM_ITEMS)])


def make_index(codes=None, sizes=SIZES) -> ItemIndex:
    if codes is None:
        random = np.random.default_rng(3)
        codes = np.stack([random.integers(3, size=NUM_ITEMS), random.integers(3, size=NUM_ITEMS), range(NUM_ITEMS)], 1)
    return ItemIndex(np.asarray(codes, dtype=np.int32), sizes, [str(item) for item in range(len(codes))])


def make_model(index=None, features=True, texts=TEXTS, **settings):
    torch.manual_seed(0)
    words = {} if texts is None else {"item_words": 4, "word_buckets": 97}
    config = RecommenderConfig(name="colarec", **{**SMALL, **words, **settings})
    values = np.random.default_rng(5).standard_normal((NUM_ITEMS, 6)).astype(np.float32) if features else None
    materials = {"index": index or make_index(), "features": values, "texts": texts, "histories": HISTORIES}
    return build_recommender(config, num_items=NUM_ITEMS, **materials)


@pytest.fixture
def users() -> tuple[torch.Tensor, torch.Tensor]:
    """Four users, each without a repeated item."""
    generator = torch.Generator().manual_seed(1)
    items = torch.stack([torch.randperm(NUM_ITEMS, generator=generator)[:8] for _ in range(4)])
    return items, torch.tensor([8, 5, 2, 1])


def state_of(model, items: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    return model.eval().encode(items, lengths).state


@torch.no_grad()
def test_users_are_read_by_the_words_and_ids_of_their_items_only(users):
    """Not by collaborative vectors, not by codes, not by other items."""
    model = make_model()
    before = state_of(model, *users)
    model.items.features += 1
    model.item_codes += 1
    assert torch.equal(state_of(model, *users), before)
    for table in (model.words, model.items.ids.weight):
        for item in range(NUM_ITEMS):
            kept = table[item].clone()
            table[item, 0] = (table[item, 0] + 5) % 97
            moved = (state_of(model, *users) != before).any(1)
            has = torch.tensor([item in row[:length].tolist() for row, length in zip(*users, strict=True)])
            assert torch.equal(moved, has), item
            table[item] = kept


@torch.no_grad()
def test_items_are_read_by_their_own_words_and_id_and_by_what_else_a_user_of_theirs_took():
    """Not by the vector that their semantic ID was clustered from."""
    model = make_model().eval()
    items = torch.tensor([4, 12])
    before = last_state(*model._read_items(items))
    for table in (model.words, model.items.ids.weight):
        kept = table.clone()
        table[4, 1] += 1
        moved = (last_state(*model._read_items(items)) != before).any(1)
        assert moved.tolist() == [True, False]
        table.copy_(kept)
    kept = model.items.features.clone()
    for other, read_by in ((4, []), (9, [4, 12]), (11, [4]), (12, []), (20, [])):
        model.items.features[other] += 1
        moved = (last_state(*model._read_items(items)) != before).any(1)
        assert items[moved].tolist() == read_by
        model.items.features.copy_(kept)
    tokens, mask = model.history_tokens(items[:1, None], torch.tensor([1]))
    assert not torch.equal(tokens[0, :1], model._read_items(items)[0][0, :1])
    user = last_state(model._encode(model.embed_history(tokens, mask), mask), mask)
    assert not torch.allclose(user[0], before[0])


@torch.no_grad()
def test_no_item_is_read_by_the_vector_that_its_identifier_was_clustered_from():
    model = make_model(history_size=30).eval()
    before, kept = (
        [model._read_items(torch.tensor([item]))[0] for item in range(NUM_ITEMS)],
        model.items.features.clone(),
    )
    for item in range(NUM_ITEMS):
        model.items.features[item] += 1
        after = model._read_items(torch.tensor([item]))[0]
        assert torch.equal(after, before[item])
        model.items.features.copy_(kept)


@torch.no_grad()
def test_an_item_without_other_items_of_a_user_is_read_by_its_content():
    """One that no one took, and one whose only user took nothing else."""
    model = make_model().eval()
    _, mask = model._read_items(torch.tensor([27, 13, 4]))
    assert mask[:, -1].tolist() == [0, 0, 1]
    assert model.train()(torch.tensor([[27, 13]]), torch.tensor([2])).loss.isfinite()


def test_the_user_of_an_item_and_its_other_items_are_drawn_evenly():
    drawn = ItemUsers(HISTORIES, NUM_ITEMS).train()
    others, real = drawn.draw(torch.full((12_000,), 9), 1)
    counts = Counter(others[real].tolist())
    # The first user, half of the time, took 4 twice, 9 and 11; the second 9 and 12.
    expected = {4: 12_000 * 0.5 * 0.5, 11: 12_000 * 0.5 * 0.25, 12: 12_000 * 0.5 * 0.5}
    assert counts.keys() == expected.keys()
    assert all(abs(counts[item] - mean) < 5 * mean**0.5 for item, mean in expected.items())
    assert not drawn.draw(torch.tensor([27]), 4)[1].any()


def test_the_users_are_not_saved(tmp_path):
    make_model().save_pretrained(tmp_path)
    loaded = load_recommender(tmp_path)
    assert loaded.users is None
    assert not any(name.startswith("users") for name in make_model().state_dict())
    with torch.no_grad():
        assert loaded(torch.tensor([[4, 9]]), torch.tensor([2])).loss.isfinite()


@torch.no_grad()
def test_the_newest_item_stands_first_and_missing_words_are_masked():
    short = ItemTexts(TEXTS.titles, ["one", "two words", "", *TEXTS.texts[3:]])
    model = make_model(texts=short)
    tokens, mask = model.history_tokens(torch.tensor([[0, 1, 2, 5]]), torch.tensor([3]))
    codes, vocabulary = 2 + sum(SIZES), 2 + sum(SIZES) + 2 + 97
    words = [codes + 2 + crc32(word) % 97 for word in (b"two", b"words", b"one")]
    newest_first = [vocabulary + 2, 0, 0, 0, 0, vocabulary + 1, *words[:2], 0, 0, vocabulary, words[2], 0, 0, 0]
    assert tokens[0, :16].tolist() == [codes, *newest_first]
    assert mask[0].tolist() == [1, 1, 0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 0, 0, 0, *[0] * 5]


def test_a_user_is_some_of_the_other_items_in_any_order(users):
    model = make_model(history_size=3).train()
    items, lengths = users
    targets = items[:, 0]
    orders = Counter()
    for _ in range(600):
        others, counts = model._other_items(items, lengths, targets)
        assert counts.tolist() == [3, 3, 1, 0]
        for user in range(4):
            drawn = others[user, : counts[user]].tolist()
            assert len(set(drawn)) == len(drawn)
            assert set(drawn) <= set(items[user, 1 : lengths[user]].tolist())
        orders[tuple(others[1, :3].tolist())] += 1
    # Three of four others in any order: 24 equally likely outcomes of 25 each.
    assert len(orders) == 24
    assert sum((seen - 25) ** 2 / 25 for seen in orders.values()) < 55


def test_outside_training_a_user_is_all_other_items_in_their_order(users):
    model = make_model(history_size=3).eval()
    items, lengths = users
    others, counts = model._other_items(items, lengths, items[:, 1])
    assert counts.tolist() == [7, 4, 1, 1]
    assert others[1, :4].tolist() == [items[1, 0], *items[1, 2:5].tolist()]
    repeated, count = model._other_items(torch.tensor([[4, 7, 4, 9]]), torch.tensor([4]), torch.tensor([4]))
    assert repeated[0, : count[0]].tolist() == [7, 9]


def test_any_item_may_be_asked_for(users):
    model = make_model(targets_per_user=400)
    rows, cuts = model._draw_targets(users[1])
    seen = {user: set(cuts[rows == user].tolist()) for user in range(4)}
    assert seen == {user: set(range(length)) for user, length in enumerate(users[1].tolist())}


def test_siblings_and_negatives_against_brute_force(users):
    index = make_index()
    model = make_model(index)
    items, lengths = users
    beginnings = [tuple(row[:2]) for row in index.codes.tolist()]
    groups = defaultdict(list)
    for item, beginning in enumerate(beginnings):
        groups[beginning].append(item)
    drawn = defaultdict(set)
    for _ in range(300):
        for place in range(2):
            targets = items[:, place]
            siblings, related = model._draw_siblings(targets)
            negatives, found = model._draw_negatives(items, lengths, targets)
            assert found.all()
            for user, target in enumerate(targets.tolist()):
                group = groups[beginnings[target]]
                assert bool(related[user]) == (len(group) > 1)
                assert int(siblings[user]) in group
                drawn[target].add(int(siblings[user]))
                assert int(negatives[user]) not in group
                assert int(negatives[user]) not in items[user, : lengths[user]].tolist()
    for target, siblings in drawn.items():
        group = groups[beginnings[target]]
        assert siblings == (set(group) - {target} if len(group) > 1 else {target})


def test_siblings_of_identifiers_of_different_lengths():
    codes = torch.tensor([[0, 1, 2], [0, 1, 3], [0, 1, -1], [0, -1, -1], [1, 1, 0], [0, -1, -1]])
    known = find_siblings(codes)
    assert known.size.tolist() == [3, 3, 3, 2, 1, 2]
    assert known.group[:3].unique().numel() == 1
    assert known.group[3] == known.group[5] != known.group[4]


def test_who_has_everything_has_no_negative():
    model = make_model()
    everything = torch.arange(NUM_ITEMS)[None]
    found = model._draw_negatives(everything, torch.tensor([NUM_ITEMS]), torch.tensor([0]))[1]
    assert found.tolist() == [False]
    assert model(everything, torch.tensor([NUM_ITEMS])).loss.isfinite()


@torch.no_grad()
def test_the_last_position_is_the_last_real_one(users):
    model = make_model().eval()
    tokens, mask = model.history_tokens(*users)
    states = model._encode(model.embed_history(tokens, mask), mask)
    for user, length in enumerate(users[1].tolist()):
        alone = model._read_users(users[0][user : user + 1, :length], users[1][user : user + 1])
        assert torch.allclose(last_state(*alone)[0], last_state(states, mask)[user], atol=1e-5)


def test_the_comparison_is_bpr():
    anchor, near, far = torch.tensor([[1.0, 2.0]] * 3), torch.tensor([[1.0, 0.0]] * 3), torch.tensor([[0.0, 1.5]] * 3)
    expected = np.log(1 + np.exp(2.0))
    assert float(ranking_loss(anchor, near, far, torch.tensor([True, False, True]))) == pytest.approx(expected)
    assert float(ranking_loss(anchor, near, far, torch.tensor([False] * 3))) == 0


@torch.no_grad()
def test_the_loss_is_the_papers_sum(users, monkeypatch):
    """0.08 (next item + own of the positive + own of the negative) + BPR + 0.1 contrast, through T5's own forward."""
    model = make_model(targets="last").eval()
    items, lengths = users[0][:2, :5], torch.tensor([5, 5])
    targets, negatives, siblings = items[:, 4], torch.tensor([20, 21]), torch.tensor([22, 23])
    yes = torch.tensor([True, True])
    monkeypatch.setattr(model, "_draw_negatives", lambda *_: (negatives, yes))
    monkeypatch.setattr(model, "_draw_siblings", lambda *_: (siblings, yes))

    def cross_entropies(states, mask, wanted):
        codes = model.item_codes[wanted].long()
        tokens = codes + 2 + torch.tensor([0, 3, 6])
        start = torch.cat([torch.zeros(2, 1, dtype=torch.long), tokens[:, :2]], 1)
        logits = model.t5(encoder_outputs=(states,), attention_mask=mask, decoder_input_ids=start).logits
        parts = [slice(2, 5), slice(5, 8), slice(8, 58)]
        return sum(cross_entropy(logits[:, level, part], codes[:, level]) for level, part in enumerate(parts))

    user, mask = model._read_users(items[:, :4], torch.tensor([4, 4]))
    total = cross_entropies(user, mask, targets)
    states = {}
    for name, one in (("+", targets), ("-", negatives), ("s", siblings)):
        encoded, own_mask = model._read_items(one)
        states[name] = last_state(encoded, own_mask)
        total = total + (cross_entropies(encoded, own_mask, one) if name != "s" else 0)
    h = user[torch.arange(2), mask.cumsum(1).argmax(1)]
    bpr = -torch.sigmoid((h * states["+"]).sum(1) - (h * states["-"]).sum(1)).log().mean()
    contrast = -torch.sigmoid((states["+"] * states["s"]).sum(1) - (states["+"] * states["-"]).sum(1)).log().mean()
    assert float(model(items, lengths).loss) == pytest.approx(float(0.08 * total + bpr + 0.1 * contrast), rel=1e-4)


@torch.no_grad()
def test_a_level_has_all_codes_that_the_identifiers_need(users):
    """The authors' heads end at 33 codes; a leaf with more items is out of reach there."""
    model = make_model().eval()
    context = model.encode(*users)
    assert model.next_code_logits(context, torch.zeros(4, 1, 2, dtype=torch.long)).shape == (4, 1, 50)


def test_without_texts_and_vectors_ids_are_read(users):
    model = make_model(features=False, texts=None, use_features=False, use_texts=False)
    tokens, mask = model.history_tokens(*users)
    assert tokens.shape == mask.shape == (4, 9)
    assert model(*users).loss.isfinite()


def test_words_have_the_numbers_of_their_checksums():
    words = hash_words(["Blue-green SHAMPOO, 12 oz", "été_x", ""], 3, 1000)
    assert words.dtype == np.int32
    assert words.tolist() == [
        [crc32(word) % 1000 for word in (b"blue", b"green", b"shampoo")],
        [crc32("été".encode()) % 1000, crc32(b"x") % 1000, -1],
        [-1, -1, -1],
    ]


def test_words_of_other_scripts_are_hashed_whole():
    texts = ["लाल लकड़ी", "红色水壶", "빨간 컵", unicodedata.normalize("NFD", "빨간 컵")]
    words = [
        ("लाल", unicodedata.normalize("NFC", "लकड़ी"), ""),
        ("红", "色", "水"),
        ("빨간", "컵", ""),
        ("빨간", "컵", ""),
    ]
    expected = [[crc32(word.encode()) % 1000 if word else -1 for word in row] for row in words]
    assert hash_words(texts, 3, 1000).tolist() == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": None}, "'colarec' reads the texts of items and there are none"),
        ({"features": False}, "'colarec' uses item features and none were given"),
        ({"index": make_index(np.arange(NUM_ITEMS)[:, None], (NUM_ITEMS,))}, "these have one code"),
        ({"experts": 4}, "'colarec' has no experts"),
    ],
)
def test_what_does_not_fit_is_said(arguments, message):
    with pytest.raises(ConfigError, match=message):
        make_model(**arguments)


RECIPE = """
data: {k_core: 0}
features: {encoder: fastrp, dim: 8}
tokenizer: {name: gid, num_levels: 3, num_clusters: 4}
recommender: {name: colarec, hidden_size: 16, num_layers: 1, num_heads: 2, head_size: 8, feed_forward_size: 32}
training: {epochs: 1, batch_size: 32}
decoding: {top_k: 5, num_beams: 10}
evaluation: {baselines: [popularity], ks: [1, 5], bootstrap_samples: 20}
"""


def test_a_recipe_runs_to_its_lists(tiny_dataset, tmp_path):
    recipe = tmp_path / "colarec.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    assert main(["run", str(recipe), "--set", f"data.path={tiny_dataset.path}", "--out", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "recommendations.parquet").is_file()
