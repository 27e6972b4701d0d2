"""Checks that every recommender family must pass; a new family is tested by being in the registry."""

import sys

import numpy as np
import pytest
import torch
from tiny_allmrec import second_stage

from genrec import testing
from genrec.config import DecodingConfig, RecommenderConfig
from genrec.data import Histories
from genrec.decoding import recommend
from genrec.models import ItemScorer, ItemTexts, build_recommender
from genrec.models.families.allmrec import AllmRec
from genrec.models.families.setrec import SETRec
from genrec.models.layers.history import gather_targets
from genrec.models.registry import FAMILIES, recommender_class
from genrec.tokenizers.index import ItemIndex

NUM_ITEMS, LEVEL_SIZES = 40, (8, 8, 5)
MEMORIZING_STEPS = 200
# Two small projections in front of a frozen model, and a language model that starts with small weights.
LARGER_STEPS = {"allmrec": 1e-2, "llm": 8e-3}
SMALL = {"hidden_size": 32, "num_heads": 2}
SMALL_T5 = {"num_layers": 2, "head_size": 16, "feed_forward_size": 64}
EXTRA = {
    "seq2seq": SMALL_T5,
    "discrec": {**SMALL_T5, "branch_feed_forward_size": 64},
    "recgpt": {"num_layers": 2},
    "p5": SMALL_T5,
    "llm": {"num_layers": 2, "vocabulary_size": 300, "text_length": 12},
    "colarec": {**SMALL_T5, "item_words": 3, "word_buckets": 64},
}
# Other forms of families, which must pass as well.
VARIANTS = {
    "setrec on T5": ("setrec", {"backbone": "t5"}),
    "recgpt with neighborhoods": ("recgpt", {"num_layers": 2, "item_loss": 1.0}),
}
# The families that can read more of a history than its items, once more with all that they can read.
EXTRAS = {f"{name} with extras": name for name in ("depth", "parallel", "decoder", "sasrec")}
WITH_EXTRAS = {"use_times": True, "use_user_features": True}
TITLES = [f"{('red', 'blue', 'green')[item % 3]} thing number {item}" for item in range(NUM_ITEMS)]
TEXTS = ItemTexts(TITLES, [f"{title}, made by {item % 5}" for item, title in enumerate(TITLES)])
HISTORIES = Histories.from_lists([[item, (3 * item + 1) % NUM_ITEMS, (7 * item + 5) % NUM_ITEMS] for item in range(30)])
# Families that learn some items of a history per step instead of all.
DRAWING = {name for name in FAMILIES if "targets" in recommender_class(name).Settings.model_fields}
DRAWING = DRAWING - {"setrec"} | {"setrec on T5"}
# Families whose prediction of an item starts at its first code: the later ones may see those before them.
CODEWISE = {"decoder", "decoder with extras", "llm"}
# What is left of a family's loss when everything is off that is not the next item's probability.
NEXT_ITEM = {name: {"targets": "last"} for name in DRAWING}
NEXT_ITEM["p5"] |= {"sentences": 1}
NEXT_ITEM["llm"] = {"text_weight": 0.0}
NEXT_ITEM["colarec"] |= {"generation_weight": 1.0, "indexing_weight": 0.0, "bpr_weight": 0.0, "contrast_weight": 0.0}


def make_index(kind: str = "sequence") -> ItemIndex:
    generator = np.random.default_rng(3)
    flat = generator.choice(int(np.prod(LEVEL_SIZES)), NUM_ITEMS, replace=False)
    codes = np.stack(np.unravel_index(flat, LEVEL_SIZES), axis=1).astype(np.int32)
    return ItemIndex(codes, LEVEL_SIZES, [f"item-{i}" for i in range(NUM_ITEMS)], kind)


def make_model(family: str, seed: int = 0, **settings):
    if family in EXTRAS:
        return make_model(EXTRAS[family], seed, **WITH_EXTRAS, **settings)
    features = np.random.default_rng(5).standard_normal((NUM_ITEMS, 12)).astype(np.float32)
    torch.manual_seed(seed)
    built_on = second_stage(NUM_ITEMS) if family == "allmrec" else {}
    name, form = VARIANTS.get(family, (family, {}))
    config = RecommenderConfig(name=name, **{**SMALL, **EXTRA.get(family, {}), **form, **built_on, **settings})
    index = make_index(recommender_class(name).semantic_id_kind)
    tokens = np.random.default_rng(6).standard_normal((NUM_ITEMS, 3, 8)).astype(np.float32)
    materials = {"index": index, "features": features, "tokens": tokens, "texts": TEXTS, "histories": HISTORIES}
    return build_recommender(config, num_items=NUM_ITEMS, **materials)


def extras_of(model, items: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gaps that follow from the items, of all sizes and some unknown, so that every slice of a batch has its own."""
    if not model.settings.side_inputs:
        return {}
    return {"time_deltas": 2 ** (items % 29) - 2, "user_values": torch.tensor([[3, 0, 4096]]).expand(len(items), -1)}


def loss_of(model, items: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    return model(items, lengths, **extras_of(model, items)).loss


def log_probability(model, items: torch.Tensor, lengths: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """log p(target | history), float32 [B], through the questions that a decoder asks."""
    if isinstance(model, SETRec):
        # It learns each token of the item alone, and ranks by all of them.
        return model.token_log_probabilities(items, lengths).mean(1).gather(1, targets[:, None])[:, 0]
    if isinstance(model, AllmRec):
        # It learns to write titles, of which other items and things that are no item may have some.
        return model.score_candidates(items, lengths, targets[:, None])[:, 0]
    return testing.log_probability(model, items, lengths, targets, extras_of(model, items))


def contract_of(family: str, **settings) -> testing.RecommenderContract:
    return testing.RecommenderContract(
        lambda seed: make_model(family, seed, **settings),
        learns_all_items=family not in DRAWING,
        probability=lambda model, items, lengths, targets, extras: log_probability(model, items, lengths, targets),
        side_inputs=extras_of,
    )


@pytest.fixture(params=[*sorted([*FAMILIES, *VARIANTS]), *EXTRAS])
def family(request) -> str:
    return request.param


@pytest.fixture
def histories() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(NUM_ITEMS, (6, 9), generator=generator), torch.tensor([9, 4, 1, 6, 2, 3])


def test_saved_and_loaded_model_gives_the_same_bytes(family, tmp_path):
    contract_of(family).check_saving(tmp_path)


def test_equal_seeds_give_equal_weights(family):
    contract_of(family).check_seeds()


def test_every_parameter_learns(family):
    contract_of(family).check_gradients()


def test_it_can_be_compiled(family, histories):
    """``torch.compile`` traces the training step, with gaps where it must, and changes neither loss nor gradients."""
    torch.compiler.reset()
    model = make_model(family, dropout=0.0)
    model.train()
    found = []
    for forward in (model.forward, torch.compile(model.forward, backend="eager", dynamic=True)):
        torch.manual_seed(5)
        model.zero_grad()
        loss = forward(*histories).loss
        loss.backward()
        found.append([loss.detach(), *(value.grad for value in model.parameters() if value.grad is not None)])
    torch.compiler.reset()
    plain, compiled = found
    assert len(plain) > 1
    for left, right in zip(plain, compiled, strict=True):
        assert torch.allclose(left, right, atol=1e-6)


def test_it_learns_and_answers_in_bfloat16(family, histories):
    """As ``training.precision: bf16`` and ``decoding.precision: bf16`` ask: near float32, in float32 at the end."""
    model = make_model(family, dropout=0.0).train()
    found = []
    for half in (False, True):
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            found.append(loss_of(model, *histories))
    found[1].backward()
    assert found[1].dtype == torch.float32
    assert float(found[1].detach()) == pytest.approx(float(found[0].detach()), rel=0.02)
    assert all(value.grad.isfinite().all() for value in model.parameters() if value.grad is not None)
    extras = extras_of(model, histories[0])
    lists = [
        recommend(
            model.eval(),
            *histories,
            decoding=DecodingConfig(precision=precision, exclude_seen=False),
            top_k=NUM_ITEMS,
            extras=extras,
        )
        for precision in ("fp32", "bf16")
    ]
    scores = [torch.empty(6, NUM_ITEMS).scatter(1, found.items, found.scores) for found in lists]
    assert lists[1].scores.dtype == torch.float32
    # A title has more words than a semantic ID codes, and a trained model is surer of each.
    assert torch.allclose(*scores, rtol=0.02, atol=0.3 if family == "allmrec" else 0.05)


def test_padding_and_batch_change_nothing(family):
    contract_of(family).check_padding()


def test_every_history_item_is_read(family):
    contract_of(family).check_history_is_read()


@pytest.mark.parametrize("family", [*sorted({*FAMILIES, *VARIANTS} - DRAWING), *EXTRAS])
def test_what_predicts_an_item_sees_those_before_it_and_no_other(family, histories, monkeypatch):
    """Change the item at one place: of the states that training compares with items, the user's later ones move."""
    model = make_model(family).eval()
    items, lengths = histories[0][:2, :6], torch.tensor([6, 6])
    seen = []

    def keep(states, items, lengths):
        seen.append(states[:, :, 0] if family in CODEWISE else states)
        return gather_targets(states, items, lengths)

    monkeypatch.setattr(sys.modules[type(model).forward.__module__], "gather_targets", keep)
    with torch.no_grad():
        loss_of(model, items, lengths)
        for place in range(5):
            changed = items.clone()
            changed[0, place] = (changed[0, place] + 11) % NUM_ITEMS
            loss_of(model, changed, lengths)
            moved = (seen[-1] != seen[0]).flatten(2).any(-1)[:, :6]
            assert moved.tolist() == [[other > place for other in range(6)], [False] * 6], place


def drawn_at(cuts: list[int], model, monkeypatch) -> None:
    """Let a family that draws what it learns learn these places of its users."""
    model.settings = model.settings.model_copy(update={"targets": "uniform"})
    for module in ("seq2seq", "setrec", "allmrec_prompt"):
        monkeypatch.setattr(
            f"genrec.models.families.{module}.draw_cuts",
            lambda lengths: torch.tensor(cuts).repeat_interleave(len(lengths) // len(cuts)),
        )


@pytest.mark.parametrize("family", sorted(DRAWING - {"colarec"}))
def test_what_is_drawn_sees_what_is_before_it_and_no_other(family, histories, monkeypatch):
    """A user who learns the item at place 2 next to one who learns a later one; ColaRec's users are sets."""
    model = make_model(family).eval()
    drawn_at([2, 5], model, monkeypatch)
    items, lengths = histories[0][:2, :6], torch.tensor([6, 6])
    with torch.no_grad():
        before = loss_of(model, items, lengths)
        for place in range(6):
            changed = items.clone()
            changed[0, place] = (changed[0, place] + 11) % NUM_ITEMS
            assert torch.equal(loss_of(model, changed, lengths), before) == (place > 2), place


def test_training_loss_is_the_probability_that_decoding_sees(family):
    """The one-pass loss equals scoring every item by decoding after its own prefix: no position sees its future."""
    contract_of(family, **NEXT_ITEM.get(family, {})).check_loss()


def test_empty_history_is_answered(family):
    contract_of(family).check_empty_history()


def test_incremental_decoding_equals_recomputation(family):
    contract_of(family).check_incremental_decoding()


@pytest.mark.parametrize("family", sorted([*FAMILIES, *VARIANTS]))
def test_it_memorizes_a_few_users(family):
    """Each family learns 64 histories exactly: the last item is the most probable one."""
    generator = torch.Generator().manual_seed(11)
    items = torch.randint(NUM_ITEMS, (64, 5), generator=generator)
    if family == "colarec":
        # Where a user is a set, the item to come is not among those that were.
        items = torch.stack([torch.randperm(NUM_ITEMS, generator=generator)[:5] for _ in range(64)])
    lengths = torch.full((64,), 5)
    settings = dict(NEXT_ITEM.get(family, {}))
    if family == "depth":
        settings["depth_dropout"] = 0.0
    if family == "allmrec":
        settings["prompt_items"] = 1
    model = make_model(family, dropout=0.0, **settings).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=LARGER_STEPS.get(family, 4e-3))
    # Steps that end at nothing, so that the last ones do not undo what is known.
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, MEMORIZING_STEPS)
    for _ in range(MEMORIZING_STEPS):
        optimizer.zero_grad()
        loss = model(items, lengths).loss
        loss.backward()
        optimizer.step()
        schedule.step()
        if loss < 0.02:
            break
    model.eval()
    with torch.no_grad():
        history, cut = items[:, :4], torch.full((64,), 4)
        if isinstance(model, ItemScorer):
            scores = model.score_items(history, cut)
        else:
            every_item = [log_probability(model, history, cut, torch.full((64,), item)) for item in range(NUM_ITEMS)]
            scores = torch.stack(every_item, dim=1)
    assert (scores.argmax(dim=1) == items[:, 4]).float().mean() >= 0.99


def test_a_recommender_is_checked_by_name(tmp_path):
    testing.check_recommender("decoder", SMALL, tmp_path)


def test_a_model_that_reads_padding_is_found():
    def build(seed: int):
        model = testing.build_tiny("depth", SMALL, seed)
        encode = model.encode
        # Every user has the length of the longest.
        model.encode = lambda items, lengths, **extras: encode(
            items, torch.full_like(lengths, items.shape[1]), **extras
        )
        return model

    with pytest.raises(AssertionError, match="padding changes no probability"):
        testing.RecommenderContract(build).check_padding()
