"""DiscRec: what each position may see, against perturbed inputs; the branches and the gate against their formula."""

import numpy as np
import pytest
import torch

from genrec.config import RecommenderConfig
from genrec.errors import ConfigError
from genrec.models import build_recommender
from genrec.models.families.discrec import DualBranch
from genrec.tokenizers.index import ItemIndex

NUM_ITEMS = 30
SMALL = {"hidden_size": 24, "num_layers": 1, "num_heads": 2, "head_size": 8, "feed_forward_size": 32}


def make_model(level_sizes=(7, 6, 5), **settings):
    generator = np.random.default_rng(3)
    flat = generator.choice(int(np.prod(level_sizes)), NUM_ITEMS, replace=False)
    codes = np.stack(np.unravel_index(flat, level_sizes), axis=1).astype(np.int32)
    index = ItemIndex(codes, level_sizes, [str(item) for item in range(NUM_ITEMS)])
    torch.manual_seed(0)
    config = RecommenderConfig(name="discrec", **{**SMALL, "branch_feed_forward_size": 32, **settings})
    model = build_recommender(config, num_items=NUM_ITEMS, index=index).eval()
    # Weights as large as after training, and a gate that is tilted, so that every part takes part.
    for branches in (model.read_branches, model.written_branches):
        for weight in (branches.query_key_value.weight, branches.attention_out.weight, branches.gate):
            torch.nn.init.normal_(weight, std=0.2)
    return model


@pytest.mark.parametrize("level_sizes", [(30,), (9, 8), (4, 3, 3, 2, 2, 2)])
@torch.no_grad()
def test_a_code_sees_its_own_item_and_no_other(level_sizes):
    """Change one token of a full history: the vectors of its item change, and no other."""
    model, levels = make_model(level_sizes), len(level_sizes)
    items, lengths = torch.arange(8).view(2, 4), torch.tensor([4, 4])
    tokens, mask = model.history_tokens(items, lengths)
    before = model.embed_history(tokens, mask)
    for place in range(4 * levels):
        changed = tokens.clone()
        changed[:, place] = torch.where(tokens[:, place] == 2, 3, 2)
        moved = (model.embed_history(changed, mask) != before).any(-1)
        item = torch.arange(4 * levels + 1) // levels
        item[-1] = 3
        assert torch.equal(moved, (item == place // levels).expand(2, -1)), place


@torch.no_grad()
def test_the_end_belongs_to_the_last_item_of_a_short_history():
    """In the authors' code it shares a block with padding, whose keys are seen."""
    model = make_model()
    items, lengths = torch.arange(10).view(2, 5), torch.tensor([2, 2])
    tokens, mask = model.history_tokens(items, lengths)
    before = model.embed_history(tokens, mask)
    padded = tokens.clone()
    padded[:, 7:] = 9
    assert torch.equal(model.embed_history(padded, mask)[:, :7], before[:, :7])
    changed = tokens.clone()
    changed[:, 4] = torch.where(tokens[:, 4] == 9, 10, 9)
    moved = (model.embed_history(changed, mask) != before).any(-1)
    assert moved[:, 3:7].all()
    assert not moved[:, :3].any()


@torch.no_grad()
def test_the_same_item_reads_alike_wherever_it_stands():
    """Positions are those inside an item, not those in the history; only the last item is besides the end."""
    model = make_model()
    first = make_vectors(model, [5, 6, 7, 8])
    second = make_vectors(model, [7, 8, 5, 6])
    torch.testing.assert_close(first[:3], second[6:9])
    torch.testing.assert_close(second[:3], first[6:9])
    assert not torch.allclose(first[3:6], second[9:12])


def make_vectors(model, items: list[int]) -> torch.Tensor:
    """What the encoder reads of one full history, ``[T * L + 1, D]``."""
    return model.embed_history(*model.history_tokens(torch.tensor([items]), torch.tensor([len(items)])))[0]


@torch.no_grad()
def test_an_empty_history_is_its_end_alone():
    model, nobody = make_model(), torch.tensor([0])
    ends = [
        model.embed_history(*model.history_tokens(torch.tensor([items]), nobody))[0, 0] for items in ([1, 2], [3, 4])
    ]
    assert torch.equal(*ends)
    assert ends[0].isfinite().all()


@torch.no_grad()
def test_while_writing_a_code_sees_those_before_it():
    model = make_model((4, 4, 4, 4))
    tokens = torch.tensor([[0, 3, 7, 12]])
    before = model.embed_written(tokens)
    for place in range(4):
        changed = tokens.clone()
        changed[:, place] += 1
        moved = (model.embed_written(changed) != before).any(-1)[0]
        assert moved.tolist() == [other >= place for other in range(4)]


@torch.no_grad()
def test_position_by_position_it_is_the_whole():
    """Vectors of the written branch with kept keys equal those of one pass, for any number of beams."""
    torch.manual_seed(1)
    branches = DualBranch(24, 4, 2, 32, 0.0).eval()
    vectors = torch.randn(6, 4, 24)
    torch.nn.init.normal_(branches.gate)
    place = torch.arange(4)
    whole = branches(vectors, place, place.unsqueeze(1) >= place)
    own = []
    for position in range(4):
        one, own = branches.step(vectors[:, position].view(2, 3, 24), own)
        torch.testing.assert_close(one.view(6, 24), whole[:, position], atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_branches_and_the_gate_follow_their_formula():
    """Worked out by hand, one position at a time; the residual adds what came in, not its norm."""
    torch.manual_seed(2)
    branches = DualBranch(8, 3, 1, 16, 0.0).eval()
    torch.nn.init.normal_(branches.gate)
    codes, item = torch.randn(1, 3, 8), torch.tensor([0, 0, 1])
    visible = item.unsqueeze(1) == item
    found = branches(codes, torch.tensor([0, 1, 0]), visible)[0]
    placed = codes[0] + branches.slots.weight[[0, 1, 0]]
    normed = torch.nn.functional.layer_norm(placed, (8,))
    query, key, value = (normed @ part.T for part in branches.query_key_value.weight.chunk(3))
    for position in range(3):
        seen = [other for other in range(3) if item[other] == item[position]]
        weights = torch.softmax(torch.stack([query[position] @ key[other] for other in seen]) / 8**0.5, 0)
        mixed = sum(weight * value[other] for weight, other in zip(weights, seen, strict=True))
        x = placed[position] + branches.attention_out.weight @ mixed
        x = x + branches.feed_forward(torch.nn.functional.layer_norm(x, (8,)))
        plain = codes[0, position]
        share = torch.sigmoid(plain @ branches.gate[0] - x @ branches.gate[1])
        torch.testing.assert_close(found[position], share * plain + (1 - share) * x)


@torch.no_grad()
def test_a_gate_that_shuts_leaves_the_plain_codes():
    branches = DualBranch(8, 3, 2, 16, 0.0).eval()
    branches.gate[0] = 1e4
    vectors = torch.rand(2, 3, 8) + 1
    place = torch.arange(3)
    assert torch.equal(branches(vectors, place, torch.ones(3, 3, dtype=torch.bool)), vectors)


def test_a_width_that_the_heads_do_not_share_is_refused():
    with pytest.raises(ConfigError, match="hidden_size 24 cannot be divided over 5 branch_heads"):
        make_model(branch_heads=5)
