"""Dense models with experts put in: the same answers, and what cannot be done is said."""

import numpy as np
import pytest
import torch
from tiny_run import tiny_home

from genrec.cli import main
from genrec.config import RecommenderConfig
from genrec.errors import ConfigError
from genrec.models import build_recommender
from genrec.models.upcycle import upcycle_recommender
from genrec.pipeline.model_folder import open_model
from genrec.tokenizers.index import ItemIndex

CODES = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [2, 0]], dtype=np.int32)
ITEMS, LENGTHS = torch.tensor([[0, 3, 4], [2, 1, 0]]), torch.tensor([3, 2])
FAMILIES = {
    "depth": {"use_features": False},
    "parallel": {"use_features": False},
    "decoder": {},
    "sasrec": {},
    "seq2seq": {"targets": "last", "head_size": 8, "feed_forward_size": 32},
}


def build(family: str, **settings):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_heads": 2, "num_layers": 2}
    config = RecommenderConfig(name=family, **shape, **FAMILIES[family], **settings)
    return build_recommender(config, num_items=5, index=ItemIndex(CODES, (3, 2), list("abcde"))).eval()


@pytest.mark.parametrize("settings", [{"shared_experts": 2}, {"experts_per_token": 1, "expert_every": 2}])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_model_answers_as_before(family, settings):
    dense = build(family)
    with torch.random.fork_rng():
        sparse = upcycle_recommender(dense, {"experts": 4, **settings})
    assert sum(value.numel() for value in sparse.parameters()) > sum(value.numel() for value in dense.parameters())
    assert torch.allclose(sparse(ITEMS, LENGTHS).loss, dense(ITEMS, LENGTHS).loss, atol=1e-6)
    if family == "sasrec":
        assert torch.allclose(sparse.score_items(ITEMS, LENGTHS), dense.score_items(ITEMS, LENGTHS), atol=1e-6)
        return
    prefix = torch.tensor([[[0], [2]], [[1], [0]]])
    ours = sparse.next_code_logits(sparse.encode(ITEMS, LENGTHS), prefix)
    theirs = dense.next_code_logits(dense.encode(ITEMS, LENGTHS), prefix)
    assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "no experts are asked for"),
        ({"experts": 2, "hidden_size": 32}, "cannot change recommender.hidden_size"),
        ({"experts": 2, "experts_per_token": 3}, "more than the 2 experts"),
    ],
)
def test_what_cannot_be_upcycled_is_said(changes, message):
    with pytest.raises(ConfigError, match=message):
        upcycle_recommender(build("decoder"), changes)


def test_experts_are_not_upcycled_again():
    with pytest.raises(ConfigError, match="has 4 experts already"):
        upcycle_recommender(build("decoder", experts=4), {"experts": 8})


def test_the_command_writes_a_model_that_answers_as_before(tmp_path):
    source, out = tiny_home() / "run" / "model", tmp_path / "sparse"
    assert main(["upcycle", "--model", str(source), "--set", "recommender.experts=4", "--out", str(out)]) == 0
    dense, sparse = open_model(source, device="cpu"), open_model(out, device="cpu")
    assert sparse.model.settings.experts == 4
    items, lengths = torch.tensor([[1, 2, 3]]), torch.tensor([3])
    with torch.no_grad():
        ours, theirs = (one.model.encode(items, lengths).state for one in (sparse, dense))
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert main(["upcycle", "--model", str(source), "--out", str(source)]) == 2
