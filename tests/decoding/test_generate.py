import re
import threading
import time
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch

from genrec.config import DecodingConfig, RecommenderConfig
from genrec.data.histories import Histories
from genrec.decoding import (
    Names,
    NonFiniteLogitsError,
    Searcher,
    generate,
    generate_blocks,
    generate_lists,
    recommend,
    schema_of,
    top_items,
    trie_of,
    walk_trie,
    write_recommendations,
)
from genrec.errors import ConfigError
from genrec.models import GenerativeRecommender, build_recommender
from genrec.tokenizers.index import ItemIndex

NUM_ITEMS, SIZES = 60, (6, 6, 4)
SMALL = {"hidden_size": 16, "num_heads": 2, "num_layers": 1, "max_history": 5}
EXTRA = {"seq2seq": {"head_size": 8, "feed_forward_size": 32}}
FAMILIES = ["decoder", "depth", "sasrec", "seq2seq"]


def make_model(family: str = "decoder", seed: int = 0):
    rng = np.random.default_rng(seed)
    flat = rng.choice(int(np.prod(SIZES)), NUM_ITEMS, replace=False)
    codes = np.stack(np.unravel_index(flat, SIZES), axis=1).astype(np.int32)
    index = ItemIndex(codes, SIZES, [f"i{i}" for i in range(NUM_ITEMS)])
    features = rng.standard_normal((NUM_ITEMS, 4)).astype(np.float32)
    torch.manual_seed(seed)
    config = RecommenderConfig(name=family, **SMALL, **EXTRA.get(family, {}))
    model = build_recommender(config, num_items=NUM_ITEMS, index=index, features=features)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 if family == "seq2seq" else 3)
    return model.eval()


def make_histories(rows: int = 30, seed: int = 1) -> Histories:
    rng = np.random.default_rng(seed)
    histories = Histories.from_lists(
        [rng.integers(0, NUM_ITEMS, length).tolist() for length in rng.integers(0, 12, rows)]
    )
    return Histories(np.arange(rows)[::-1].copy(), histories.offsets, histories.items)


def score_every_item(model, history: np.ndarray) -> np.ndarray:
    items = torch.as_tensor(history[-5:].astype(np.int64)).reshape(1, -1)
    items = items if items.shape[1] else torch.zeros(1, 1, dtype=torch.int64)
    lengths = torch.tensor([min(len(history), 5)])
    with torch.no_grad():
        if not isinstance(model, GenerativeRecommender):
            return model.score_items(items, lengths)[0].numpy()
        context = model.encode(items, lengths)
        codes = model.item_codes.long()
        scores = torch.zeros(NUM_ITEMS)
        for level in range(model.num_levels):
            logits = model.next_code_logits(context, codes[None, :, :level] if level else codes[None, :1, :0])
            scores += logits[0].log_softmax(-1).expand(NUM_ITEMS, -1).gather(1, codes[:, level : level + 1])[:, 0]
        return scores.numpy()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("exclude_seen", [False, True])
def test_lists_are_the_best_items_of_every_user(family, exclude_seen):
    model, histories = make_model(family), make_histories()
    decoding = DecodingConfig(num_beams=NUM_ITEMS, batch_size=7, exclude_seen=exclude_seen)
    items, scores = generate_lists(model, histories, decoding=decoding, top_k=8)
    assert (items.shape, items.dtype, scores.dtype) == ((30, 8), np.int32, np.float32)
    for row in range(30):
        expected = score_every_item(model, histories[row])
        if exclude_seen:
            expected[histories[row]] = -np.inf
        best = np.sort(expected)[::-1][:8]
        np.testing.assert_allclose(scores[row], best, atol=1e-5)
        np.testing.assert_allclose(expected[items[row]], best, atol=1e-5)
        assert len(set(items[row].tolist())) == 8


@pytest.mark.parametrize("family", FAMILIES)
def test_batches_blocks_and_other_users_change_nothing(family, monkeypatch):
    model, histories = make_model(family), make_histories()
    decoding = DecodingConfig(num_beams=12, top_k=6, batch_size=64)
    items, scores = generate_lists(model, histories, decoding=decoding)
    order = np.random.default_rng(0).permutation(30)
    monkeypatch.setattr(generate, "BLOCK_USERS", 8)
    small = decoding.model_copy(update={"batch_size": 3})
    other_items, other_scores = generate_lists(model, histories.select(order), decoding=small)
    np.testing.assert_array_equal(other_items, items[order])
    np.testing.assert_allclose(other_scores, scores[order], atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_filters_hold_for_every_family(family):
    model, histories = make_model(family), make_histories()
    allowed = np.zeros(NUM_ITEMS, dtype=bool)
    allowed[[3, 5, 8, 13, 21]] = True
    items, scores = generate_lists(model, histories, decoding=DecodingConfig(num_beams=4), top_k=6, allowed=allowed)
    for row in range(30):
        left = {3, 5, 8, 13, 21} - set(histories[row].tolist())
        assert items[row, : len(left)].tolist() == [item for item in items[row].tolist() if item >= 0]
        assert set(items[row, : len(left)].tolist()) == left
        assert np.isneginf(scores[row, len(left) :]).all()
    with pytest.raises(ConfigError, match="expected: one bool per item, 60 in all"):
        generate_lists(model, histories, decoding=DecodingConfig(), allowed=allowed[1:])


def test_recommend_answers_one_batch_and_never_has_fewer_beams_than_items():
    model, histories = make_model(), make_histories()
    items = torch.tensor([histories[row][:1].tolist() or [0] for row in range(30)])
    found = recommend(model, items, torch.ones(30, dtype=torch.int64), decoding=DecodingConfig(num_beams=1, top_k=20))
    assert (found.items >= 0).all()
    assert found.items.shape == (30, 20)


def test_parallel_heads_are_scored_exhaustively():
    """The same weights asked through both doors: a model whose codes do not depend on each other."""

    class Independent(type(make_model())):
        supports_parallel = True

        def next_code_logits(self, context, prefix, beam_index=None):
            return self.code_logits(prefix.shape[2], context.state).unsqueeze(1).expand(-1, prefix.shape[1], -1)

        def all_code_logits(self, context):
            return [self.code_logits(level, context.state) for level in range(self.num_levels)]

    model = make_model()
    model.__class__ = Independent
    searcher = Searcher(model, DecodingConfig(num_beams=1))
    assert searcher.trie is None
    batch = torch.tensor([[3, 4], [7, 8]]), torch.tensor([2, 1])
    found = searcher.search(*batch, top_k=5, exclude=torch.tensor([[3], [-1]]))
    leaves = walk_trie(model, trie_of(model), *batch)
    scores = torch.zeros(2, NUM_ITEMS).index_copy(1, trie_of(model).leaf_items.long(), leaves)
    scores[0, 3] = -np.inf
    torch.testing.assert_close(found.scores, scores.topk(5).values)
    assert torch.equal(found.items, scores.topk(5).indices)


def test_the_trie_is_built_once_and_again_when_codes_change():
    model = make_model()
    trie = trie_of(model)
    assert trie_of(model) is trie
    model.item_codes.copy_(model.item_codes.flip(0))
    assert trie_of(model) is not trie
    assert trie_of(make_model()) is not trie


def test_a_model_in_training_is_used_without_dropout_and_left_in_training():
    model, histories = make_model(), make_histories()
    decoding = DecodingConfig(num_beams=10)
    expected = generate_lists(model, histories, decoding=decoding)
    model.train()
    found = generate_lists(model, histories, decoding=decoding)
    assert model.training
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


def test_broken_logits_name_the_user():
    model, histories = make_model(), make_histories()
    poison = model.item_codes[7, 0]
    with torch.no_grad():
        model.codes.table.weight[poison] = float("nan")
    broken = [row for row in range(30) if (model.item_codes[histories[row][-5:], 0] == poison).any()]
    assert 0 < len(broken) < 30
    names = [f"user-{user}" for user in range(30)]
    decoding = DecodingConfig(batch_size=30)
    with pytest.raises(NonFiniteLogitsError, match=r"for user user-\d+ at step 0") as caught:
        list(generate_blocks(model, histories, decoding=decoding, user_ids=names))
    assert caught.value.user in {f"user-{histories.users[row]}" for row in broken}
    with pytest.raises(NonFiniteLogitsError, match=r"for user \d+ at step 0"):
        generate_lists(model, histories, decoding=decoding)


@pytest.mark.parametrize("value", [float("nan"), -float("nan"), float("inf")])
def test_broken_scores_of_items_name_the_user(value):
    scores = torch.zeros(3, NUM_ITEMS)
    scores[1, 7] = value
    scores[2] = float("-inf")
    with pytest.raises(NonFiniteLogitsError, match="scores of items are NaN or infinite for user 1\n") as error:
        top_items(scores, 5)
    assert (error.value.user, error.value.step) == (1, None)
    assert (top_items(scores[2:], 5).items == -1).all()


@pytest.mark.parametrize("family", ["sasrec", "depth"])
@pytest.mark.parametrize("ways", [{"mode": "items"}, {}, {"item_guidance": False}, {"mode": "exhaustive"}])
def test_broken_item_vectors_name_the_user(family, ways, monkeypatch):
    """The codes are fine; what is added to them is not. (A model of item scores has no other ways.)"""
    model, histories = make_model(family), make_histories()
    if family == "depth":

        def broken(context, items):
            return torch.full(items.shape, float("nan"))

        monkeypatch.setattr(model, "item_log_probabilities", broken)
        ways = {"item_weight": 1.0, **ways}
    else:
        with torch.no_grad():
            next(model.parameters()).fill_(float("nan"))
    with pytest.raises(NonFiniteLogitsError, match=r"scores of items are NaN or infinite for user \d+"):
        generate_lists(model, histories, decoding=DecodingConfig(num_beams=10, top_k=3, **ways))


def test_progress_is_told_in_lines_where_there_is_no_terminal(capsys, monkeypatch):
    monkeypatch.setattr("genrec.decoding.progress.SECONDS_BETWEEN_LINES", 0.0)
    decoding = DecodingConfig(num_beams=2, top_k=2, batch_size=12)
    generate_lists(make_model(), make_histories(), decoding=decoding, progress=True)
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert [line.split(" users,")[0] for line in lines] == [f"recommending: {n} of 30" for n in (12, 24, 30)]
    assert all(re.search(r", [\d,]+ users/s, 0:\d\d:\d\d left$", line) for line in lines)
    assert lines[-1].endswith("0:00:00 left")
    assert captured.out == ""


def test_progress_is_a_bar_with_speed_and_time_left_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    generate_lists(make_model(), make_histories(), decoding=DecodingConfig(num_beams=2, top_k=2), progress=True)
    shown = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", capsys.readouterr().err).replace("\r", "\n").splitlines()
    assert re.search(r"recommending .*30/30 +[\d,]+ users/s +0:00:00", [line for line in shown if line.strip()][-1])


def test_the_next_batch_is_read_while_one_is_searched_for(monkeypatch):
    """By another thread, one batch ahead and never more; a single batch needs no thread."""
    read, threads = [], set()
    pad = generate.pad_histories

    def noting(histories, rows, longest):
        read.append(len(rows))
        threads.add(threading.current_thread() is threading.main_thread())
        return pad(histories, rows, longest)

    monkeypatch.setattr(generate, "pad_histories", noting)
    monkeypatch.setattr(generate, "BLOCK_USERS", 10)
    model, histories = make_model(), make_histories()
    decoding = DecodingConfig(num_beams=2, top_k=2, batch_size=10, exclude_seen=False)
    blocks = generate_blocks(model, histories, decoding=decoding)
    assert next(blocks).rows.tolist() == list(range(10))
    deadline = time.monotonic() + 10
    while len(read) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert (read, threads) == ([10, 10], {False})
    blocks.close()
    threads.clear()
    generate_lists(model, histories.select(np.arange(9)), decoding=decoding)
    assert threads == {True}


def write(path: Path, model, histories, monkeypatch, **changes):
    monkeypatch.setattr(generate, "BLOCK_USERS", 8)
    decoding = DecodingConfig(num_beams=10, top_k=5)
    return write_recommendations(
        path,
        lambda blocks: generate_blocks(model, histories, decoding=decoding, blocks=blocks, **changes),
        Names.of(histories.users, [f"u{i}" for i in range(30)], [f"i{i}" for i in range(NUM_ITEMS)]),
        schema=schema_of(explained=changes.get("explain", False)),
        request={"of": "this test"},
    )


def test_the_file_holds_every_user_rank_by_rank(tmp_path, monkeypatch):
    model, histories = make_model(), make_histories()
    written = write(tmp_path / "lists.parquet", model, histories, monkeypatch)
    assert (written.users, written.short_users, written.empty_users) == (30, 0, 0)
    items, scores = generate_lists(model, histories, decoding=DecodingConfig(num_beams=10), top_k=5)
    table = pl.read_parquet(tmp_path / "lists.parquet")
    assert table.columns == ["user_id", "rank", "item_id", "score", "short_by"]
    assert table["user_id"].to_list() == [f"u{29 - row}" for row in range(30) for _ in range(5)]
    assert table["rank"].to_list() == [1, 2, 3, 4, 5] * 30
    assert table["item_id"].to_list() == [f"i{item}" for item in items.ravel()]
    np.testing.assert_allclose(table["score"].to_numpy(), scores.ravel())
    assert set(table["short_by"].to_list()) == {0}
    assert pq.ParquetFile(tmp_path / "lists.parquet").num_row_groups == 4
    assert list(tmp_path.iterdir()) == [tmp_path / "lists.parquet"]


def test_short_and_empty_lists_say_so(tmp_path, monkeypatch, caplog):
    histories = Histories.from_lists([[1, 2], [3, 4, 5], []])
    allowed = np.isin(np.arange(NUM_ITEMS), [3, 4, 5])
    written = write(tmp_path / "lists.parquet", make_model(), histories, monkeypatch, allowed=allowed)
    assert (written.users, written.short_users, written.empty_users) == (3, 3, 1)
    assert "3 of 3 users get fewer items than asked for, 1 of them none" in caplog.text
    rows = pl.read_parquet(tmp_path / "lists.parquet").select("user_id", "rank", "short_by").rows()
    assert rows == [("u0", rank, 2) for rank in (1, 2, 3)] + [("u1", None, 5)] + [("u2", rank, 2) for rank in (1, 2, 3)]
    empty = pl.read_parquet(tmp_path / "lists.parquet").row(3, named=True)
    assert (empty["item_id"], empty["score"]) == (None, None)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_filter_that_leaves_nothing_gives_empty_lists(family):
    nothing = np.zeros(NUM_ITEMS, dtype=bool)
    items, scores = generate_lists(make_model(family), make_histories(), decoding=DecodingConfig(), allowed=nothing)
    assert (items == -1).all()
    assert np.isneginf(scores).all()


def test_lists_have_k_distinct_items_that_are_allowed_and_unseen_or_say_by_how_many_they_are_short():
    """Many users over a tiny catalogue, with all filters at once: what a list may hold is counted by hand."""
    model, rows = make_model(), 3000
    histories = make_histories(rows, seed=5)
    allowed = np.random.default_rng(2).random(NUM_ITEMS) < 0.2
    items, _ = generate_lists(model, histories, decoding=DecodingConfig(num_beams=10), top_k=10, allowed=allowed)
    left = np.repeat(allowed[None], rows, axis=0)
    left[np.repeat(np.arange(rows), histories.lengths), histories.items] = False
    present = items >= 0
    np.testing.assert_array_equal(present.sum(axis=1), np.minimum(left.sum(axis=1), 10))
    assert 0 < (~present).sum() < present.size
    assert left[np.nonzero(present)[0], items[present]].all()
    marked = np.zeros((rows, NUM_ITEMS), dtype=int)
    np.add.at(marked, (np.nonzero(present)[0], items[present]), 1)
    assert marked.max() == 1


def test_no_users_give_an_empty_file(tmp_path, monkeypatch):
    written = write(tmp_path / "lists.parquet", make_model(), Histories.from_lists([]), monkeypatch)
    assert written.users == 0
    assert pl.read_parquet(tmp_path / "lists.parquet").shape == (0, 5)


@pytest.mark.parametrize("family", ["decoder", "depth", "seq2seq"])
def test_explanations_add_up_to_the_scores(family, tmp_path, monkeypatch):
    model, histories = make_model(family), make_histories()
    plain, explained = tmp_path / "plain.parquet", tmp_path / "explained.parquet"
    write(plain, model, histories, monkeypatch)
    write(explained, model, histories, monkeypatch, explain=True)
    table = pl.read_parquet(explained)
    assert table.columns == ["user_id", "rank", "item_id", "score", "short_by", "codes", "code_log_probs"]
    assert table.select(pl.exclude("codes", "code_log_probs")).equals(pl.read_parquet(plain))
    codes = model.item_codes.numpy()
    assert table["codes"].to_list() == [codes[int(name[1:])].tolist() for name in table["item_id"]]
    np.testing.assert_allclose(table["code_log_probs"].list.sum().to_numpy(), table["score"].to_numpy(), atol=1e-5)


def test_a_missing_item_has_no_explanation(tmp_path, monkeypatch):
    histories = Histories.from_lists([[3, 4, 5]])
    allowed = np.isin(np.arange(NUM_ITEMS), [3, 4, 5])
    write(tmp_path / "lists.parquet", make_model(), histories, monkeypatch, allowed=allowed, explain=True)
    row = pl.read_parquet(tmp_path / "lists.parquet").row(0, named=True)
    assert (row["item_id"], row["codes"], row["code_log_probs"]) == (None, None, None)


def test_what_scores_items_cannot_be_explained():
    with pytest.raises(ConfigError, match="a 'sasrec' model scores items as wholes") as caught:
        list(generate_blocks(make_model("sasrec"), make_histories(), decoding=DecodingConfig(), explain=True))
    assert "leave out --explain" in str(caught.value)


def test_some_blocks_are_those_blocks_of_all(monkeypatch):
    monkeypatch.setattr(generate, "BLOCK_USERS", 8)
    model, histories, decoding = make_model(), make_histories(), DecodingConfig(num_beams=10, top_k=5)
    every = list(generate_blocks(model, histories, decoding=decoding))
    assert [block.rows.tolist() for block in every] == [
        list(range(first, min(first + 8, 30))) for first in (0, 8, 16, 24)
    ]
    some = list(generate_blocks(model, histories, decoding=decoding, blocks=[3, 1]))
    for block, same in zip(some, (every[3], every[1]), strict=True):
        np.testing.assert_array_equal(block.items, same.items)
        np.testing.assert_array_equal(block.scores, same.scores)
