"""Transitions added to what a model says, against sums item by item over dense tables."""

import numpy as np
import pytest
import torch
from fake_models import FakeWriter, history_of, random_codes
from scipy import sparse
from test_generate import NUM_ITEMS, make_histories, make_model, score_every_item

from genrec.config import DecodingConfig, parse_settings
from genrec.decoding import DeviceTrie, SearchOptions, generate, generate_blocks, generate_lists
from genrec.decoding.item_prior import ItemPrior, MaxScorePrior, SumPrior
from genrec.decoding.search import beam_search
from genrec.decoding.transitions import FILES, Transitions, use_transitions
from genrec.errors import ArtifactError, ConfigError
from genrec.tokenizers.trie import build_trie


def links_of(num_items: int = NUM_ITEMS, seed: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.random((num_items, num_items)) * (rng.random((num_items, num_items)) < 0.15)).astype(np.float32)


def make_transitions(table: np.ndarray, decay: float = 0.6, last_n: int | None = 3, weight: float = 1.0) -> Transitions:
    return Transitions(sparse.csr_array(table), decay, last_n, weight, {"direction": "forward"})


def log_q(table: np.ndarray, history: list[int], decay: float = 0.6, last_n: int | None = 3) -> np.ndarray:
    """The definition, in loops over a dense table."""
    scores = np.zeros(len(table))
    for age, item in enumerate(history[::-1][:last_n]):
        scores += decay**age * table[item].astype(np.float64)
    spread = scores.std()
    z = (scores - scores.mean()) / (spread if spread > 0 else 1)
    return z - np.log(np.exp(z).sum())


def test_a_hand_worked_example():
    # The history 1, 0: s = link(0, .) + half of link(1, .) = (0, 2, 0, 2); mean 1, deviation 1, z = (-1, 1, -1, 1).
    table = np.zeros((4, 4), np.float32)
    table[0, 1], table[0, 3], table[1, 3] = 2.0, 1.0, 2.0
    transitions = make_transitions(table, decay=0.5, last_n=2)
    items, lengths = torch.tensor([[3, 1, 0], [0, 0, 0]]), torch.tensor([3, 0])
    found = transitions.log_scores(items, lengths)
    total = np.log(2 * np.e + 2 / np.e)
    np.testing.assert_allclose(found[0], np.array([-1, 1, -1, 1]) - total, atol=1e-6)
    np.testing.assert_allclose(found[1], [-np.log(4)] * 4, atol=1e-6)


@pytest.mark.parametrize("last_n", [2, None])
def test_scores_are_those_of_the_definition(last_n):
    transitions, rng = make_transitions(links_of(), last_n=last_n), np.random.default_rng(5)
    items, lengths = torch.from_numpy(rng.integers(0, NUM_ITEMS, (9, 6))), torch.tensor([0, 1, 2, 3, 4, 5, 6, 6, 6])
    found = transitions.log_scores(items, lengths).numpy()
    for row in range(9):
        history = items[row, : lengths[row]].tolist()
        np.testing.assert_allclose(found[row], log_q(links_of(), history, last_n=last_n), atol=1e-5)


@pytest.mark.parametrize("family", ["decoder", "depth", "parallel", "sasrec", "seq2seq"])
@pytest.mark.parametrize("mode", ["beam", "exhaustive"])
@pytest.mark.parametrize("exclude_seen", [False, True])
def test_lists_are_the_best_items_by_both(family, mode, exclude_seen):
    model, histories, table = make_model(family), make_histories(), links_of()
    use_transitions(model, make_transitions(table))
    allowed = np.random.default_rng(6).random(NUM_ITEMS) < 0.8
    wanted = {"mode": mode, "num_beams": 60, "batch_size": 7, "exclude_seen": exclude_seen, "transition_weight": 0.7}
    items, scores = generate_lists(model, histories, decoding=DecodingConfig(**wanted), top_k=8, allowed=allowed)
    for row in range(len(histories)):
        history = histories[row]
        expected = parallel_scores(model, history) if family == "parallel" else score_every_item(model, history)
        expected = expected + 0.7 * log_q(table, history.tolist()[-5:])
        expected[~allowed] = -np.inf
        if exclude_seen:
            expected[history] = -np.inf
        assert allowed[items[row]].all()
        assert len(set(items[row].tolist())) == 8
        np.testing.assert_allclose(scores[row], np.sort(expected)[::-1][:8], atol=2e-4)
        np.testing.assert_allclose(expected[items[row]], scores[row], atol=2e-4)


def parallel_scores(model, history):
    items = torch.as_tensor(history[-5:].astype(np.int64)).reshape(1, -1)
    items = items if items.shape[1] else torch.zeros(1, 1, dtype=torch.int64)
    with torch.no_grad():
        logits = model.all_code_logits(model.encode(items, torch.tensor([min(len(history), 5)])))
    codes = model.item_codes.long()
    return sum(part[0].log_softmax(-1)[codes[:, level]] for level, part in enumerate(logits)).numpy()


@pytest.mark.parametrize("family", ["depth", "sasrec"])
def test_weight_0_changes_no_byte(family):
    histories, model = make_histories(), make_model(family)
    before = generate_lists(model, histories, decoding=DecodingConfig(num_beams=10), top_k=8)
    use_transitions(model, make_transitions(links_of()))
    after = generate_lists(model, histories, decoding=DecodingConfig(num_beams=10, transition_weight=0), top_k=8)
    unused = generate_lists(model, histories, decoding=DecodingConfig(num_beams=10), top_k=8)
    for one, other, third in zip(before, after, unused, strict=True):
        assert one.tobytes() == other.tobytes() == third.tobytes()


def test_auto_takes_the_weight_that_lies_beside_the_links():
    histories, model = make_histories(), make_model("depth")
    use_transitions(model, make_transitions(links_of(), weight=2.5))
    auto = generate_lists(model, histories, decoding=DecodingConfig(num_beams=10, transition_weight="auto"))
    given = generate_lists(model, histories, decoding=DecodingConfig(num_beams=10, transition_weight=2.5))
    assert auto[0].tobytes() == given[0].tobytes()
    assert auto[1].tobytes() == given[1].tobytes()


def test_blocks_and_batches_change_nothing(monkeypatch):
    """What several processes make, each some blocks, is what one makes."""
    monkeypatch.setattr(generate, "BLOCK_USERS", 8)
    histories, model = make_histories(), make_model("depth")
    use_transitions(model, make_transitions(links_of()))
    decoding = DecodingConfig(num_beams=10, transition_weight=4.0)
    whole = list(generate_blocks(model, histories, decoding=decoding))
    for rank in range(3):
        for block in generate_blocks(model, histories, decoding=decoding, blocks=range(rank, 4, 3)):
            expected = whole[int(block.rows[0]) // 8]
            assert block.items.tobytes() == expected.items.tobytes()
            assert block.scores.tobytes() == expected.scores.tobytes()
    small, _ = generate_lists(model, histories, decoding=decoding.model_copy(update={"batch_size": 3}))
    np.testing.assert_array_equal(np.concatenate([block.items for block in whole]), small)


def test_explanations_add_up_to_the_scores():
    histories, model = make_histories(), make_model("depth")
    use_transitions(model, make_transitions(links_of()))
    decoding = DecodingConfig(num_beams=20, transition_weight=4.0, top_k=6)
    (block,) = generate_blocks(model, histories, decoding=decoding, explain=True)
    total = block.code_log_probs.sum(axis=2) + 4.0 * block.transition_log_probs
    np.testing.assert_allclose(total, block.scores, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 2])
def test_few_beams_find_what_transitions_favor(groups):
    """Against the exact list; the same beams by codes alone find far less of it."""
    codes, model = random_codes(np.random.default_rng(1), 150, (12, 9, 5), 0.0), FakeWriter((12, 9, 5))
    items, lengths = history_of(range(64))
    added = make_transitions(links_of(150), last_n=1).log_scores(items, lengths) * 2.0
    trie, found = DeviceTrie(build_trie(codes, (12, 9, 5))), {}
    exact = beam_search(model, trie, items, lengths, SearchOptions(num_beams=150), top_k=5, added=added).items.numpy()
    for guided in (True, False):
        options = SearchOptions(num_beams=10 * groups, beam_groups=groups, item_guidance=guided)
        lists = beam_search(model, trie, items, lengths, options, top_k=5, added=added).items.numpy()
        found[guided] = np.mean([len(set(row) & set(best)) / 5 for row, best in zip(lists, exact, strict=True)])
    assert found[True] > 0.9 > 0.8 > found[False]


@pytest.mark.parametrize("filtered", [False, True])
def test_a_node_is_worth_its_best_item(filtered):
    codes = random_codes(np.random.default_rng(1), 80, (6, 5, 4), 0.2)
    codes[codes[:, 0] == 1, 1:] = -1
    rng = np.random.default_rng(2)
    allowed = rng.random(80) < 0.6 if filtered else np.ones(80, dtype=bool)
    trie = DeviceTrie(build_trie(codes, (6, 5, 4)))
    trie = trie.filtered(allowed) if filtered else trie
    scores, exclude = (
        torch.from_numpy(rng.standard_normal((3, 80))).float(),
        torch.from_numpy(rng.integers(-1, 80, (3, 9))),
    )
    guide = MaxScorePrior(trie, scores, trie.exclusion(exclude))
    for depth in range(3):
        bounds = trie.item_bounds[depth + 1].tolist()
        for node in range(len(bounds) - 1):
            below = trie.leaf_items[bounds[node] : bounds[node + 1]].tolist()
            for user in range(3):
                left = [float(scores[user, item]) for item in below if item not in exclude[user].tolist()]
                assert float(guide.bonus[depth][user, node]) == max(left, default=-np.inf)


def test_two_guides_add_up():
    codes = random_codes(np.random.default_rng(1), 40, (5, 4), 0.0)
    trie = DeviceTrie(build_trie(codes, (5, 4)))
    scores = torch.from_numpy(np.random.default_rng(2).standard_normal((2, 40))).float()
    one, other = ItemPrior(trie, scores.log_softmax(1), 2.0), MaxScorePrior(trie, scores)
    both, nodes, items = SumPrior([one, other]), torch.zeros(2, 1, dtype=torch.int64), torch.tensor([[3], [9]])
    expected = one.of_candidates(trie.levels[0], 0, nodes) + other.of_candidates(trie.levels[0], 0, nodes)
    torch.testing.assert_close(both.of_candidates(trie.levels[0], 0, nodes), expected)
    torch.testing.assert_close(both.of_items(items), one.of_items(items) + other.of_items(items))


def test_a_model_without_transitions_is_refused():
    with pytest.raises(ConfigError, match=r"the model has no transitions[\s\S]*genrec add-transitions"):
        generate_lists(make_model(), make_histories(), decoding=DecodingConfig(transition_weight=1.0))


@pytest.mark.parametrize("mode", ["stochastic", "nucleus", "session"])
def test_ways_that_do_not_rank_single_items_are_refused(mode):
    with pytest.raises(ConfigError, match=f"mode: {mode} does not"):
        parse_settings(DecodingConfig, {"mode": mode, "transition_weight": 1.0}, where="decoding")


@pytest.mark.parametrize("weight", [-1, "best", float("nan")])
def test_weights_are_numbers_or_auto(weight):
    with pytest.raises(ConfigError, match="transition_weight"):
        parse_settings(DecodingConfig, {"transition_weight": weight}, where="decoding")


def test_what_is_stored_is_what_was_made(tmp_path):
    made = make_transitions(links_of(), last_n=None, weight=4.0)
    assert Transitions.load(tmp_path, NUM_ITEMS) is None
    made.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    read = Transitions.load(tmp_path, NUM_ITEMS)
    assert read.description == made.description
    np.testing.assert_array_equal(read.links.toarray(), links_of())


@pytest.mark.parametrize(
    "damage",
    [
        lambda t: t.links.data.__setitem__(0, np.nan),
        lambda t: t.links.data.__setitem__(0, -1.0),
        lambda t: t.links.indices.__setitem__(0, NUM_ITEMS),
        lambda t: t.links.indices.__setitem__(0, -1),
        lambda t: t.links.indices.__setitem__(slice(0, 2), t.links.indices[1::-1].copy()),
        lambda t: t.links.indptr.__setitem__(1, t.links.nnz + 1),
    ],
)
def test_links_that_cannot_be_are_refused(tmp_path, damage):
    made = make_transitions(links_of())
    damage(made)
    made.save(tmp_path)
    with pytest.raises(ArtifactError, match="holds no links between the items of the model"):
        Transitions.load(tmp_path, NUM_ITEMS)


def test_links_of_another_catalogue_or_half_of_the_files_are_refused(tmp_path):
    make_transitions(links_of()).save(tmp_path)
    with pytest.raises(ArtifactError, match="holds no links"):
        Transitions.load(tmp_path, NUM_ITEMS + 1)
    (tmp_path / FILES[1]).unlink()
    with pytest.raises(ArtifactError, match="is there alone"):
        Transitions.load(tmp_path, NUM_ITEMS)


def test_other_catalogues():
    made, table = make_transitions(links_of()), links_of()
    np.testing.assert_array_equal(made.extended(2).links.toarray(), np.pad(table, (0, 2)))
    kept = np.arange(NUM_ITEMS) % 3 > 0
    np.testing.assert_array_equal(made.without(kept).links.toarray(), table[kept][:, kept])
