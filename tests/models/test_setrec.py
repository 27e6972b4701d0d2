"""Set semantic IDs: no order among tokens, masks by perturbation, scores against a sum written by hand."""

import json

import numpy as np
import pytest
import torch
from tiny_run import tiny_home, write_tables

from genrec.cli import main
from genrec.config import DecodingConfig, RecommenderConfig, TrainingConfig
from genrec.data import Dataset
from genrec.decoding import recommend
from genrec.errors import ArtifactError, ConfigError
from genrec.models import build_recommender, load_recommender
from genrec.models.families.setrec import set_mask
from genrec.models.layers.set_t5 import SetT5
from genrec.pipeline.tokenize import load_tokens
from genrec.tokenizers.index import ItemIndex
from genrec.training import decoding_validation

NUM_ITEMS, SLOTS = 12, 4
TOKENS = np.random.default_rng(0).standard_normal((NUM_ITEMS, SLOTS, 6)).astype(np.float32)
ITEMS, LENGTHS = torch.tensor([[0, 3, 4, 7], [2, 1, 0, 0]]), torch.tensor([4, 2])


def index(kind: str = "set") -> ItemIndex:
    codes = np.stack([np.arange(NUM_ITEMS)] * 2, axis=1).astype(np.int32)
    return ItemIndex(codes, (NUM_ITEMS, NUM_ITEMS), [str(item) for item in range(NUM_ITEMS)], kind)


def build(tokens=TOKENS, kind: str = "set", **settings):
    torch.manual_seed(0)
    config = RecommenderConfig(name="setrec", hidden_size=16, num_heads=2, **settings)
    model = build_recommender(config, num_items=NUM_ITEMS, index=index(kind), tokens=tokens).eval()
    for weight in (model.collaborative.weight, model.semantic.weight, model.queries):
        torch.nn.init.normal_(weight)
    return model


@torch.no_grad()
def test_the_order_of_semantic_tokens_changes_no_score():
    """In the history each item may shuffle its own; in the catalogue all shuffle alike, with their queries."""
    model = build()
    before, vectors = model.score_items(ITEMS, LENGTHS), model.embed(model.tokens[ITEMS])
    shuffled = vectors.clone()
    for user in range(2):
        for place in range(4):
            order = 1 + torch.randperm(SLOTS - 1)
            shuffled[user, place, 1:] = vectors[user, place, order]
    assert not torch.equal(shuffled, vectors)
    prefixes = LENGTHS.unsqueeze(1)
    assert torch.allclose(model.read(shuffled, prefixes), model.read(vectors, prefixes), atol=1e-5)
    order = torch.tensor([0, 3, 1, 2])
    model.tokens.copy_(model.tokens[:, order])
    model.queries.copy_(model.queries[order])
    assert torch.allclose(model.score_items(ITEMS, LENGTHS), before, atol=1e-5)


@torch.no_grad()
def test_tokens_see_earlier_items_and_of_their_own_only_themselves():
    model = build()
    vectors, prefixes = model.embed(model.tokens[ITEMS[:1]]), torch.arange(5).unsqueeze(0)
    seen = []

    def keep(_, __, output):
        seen.append(output[0])

    handle = model.transformer.register_forward_hook(keep)
    model.read(vectors, prefixes)
    for place in range(4):
        for slot in range(SLOTS):
            changed = vectors.clone()
            changed[0, place, slot] += 1
            model.read(changed, prefixes)
            moved = (seen[-1] != seen[0]).any(-1)[0]
            # Rows 0 to 3 are items, 4 to 8 the queries after 0 to 4 items.
            items, queries = moved.view(9, SLOTS)[:4], moved.view(9, SLOTS)[4:]
            assert items[place].tolist() == [other == slot for other in range(SLOTS)]
            assert not items[:place].any()
            assert items[place + 1 :].all()
            assert not queries[: place + 1].any()
            assert queries[place + 1 :].all()
    handle.remove()


@torch.no_grad()
def test_queries_do_not_see_each_other():
    model = build()
    before = model.token_log_probabilities(ITEMS, LENGTHS)
    model.queries[2] += 1
    after = model.token_log_probabilities(ITEMS, LENGTHS)
    assert (before != after).flatten(2).any(-1).tolist() == [[False, False, True, False]] * 2


@torch.no_grad()
def test_in_the_t5_no_order_among_tokens_and_no_query_that_sees_another():
    model = build(backbone="t5", num_layers=2)
    before, vectors = model.token_log_probabilities(ITEMS, LENGTHS), model.embed(model.tokens[ITEMS])
    shuffled, moved, padded = vectors.clone(), vectors.clone(), vectors.clone()
    shuffled[0, 2] = vectors[0, 2, [0, 3, 1, 2]]
    moved[0, [1, 2]] = vectors[0, [2, 1]]
    padded[1, 2:] += 1
    states = model.read(vectors, LENGTHS.unsqueeze(1))
    assert torch.allclose(model.read(shuffled, LENGTHS.unsqueeze(1)), states, atol=1e-5)
    assert torch.equal(model.read(padded, LENGTHS.unsqueeze(1)), states)
    assert (model.read(moved, LENGTHS.unsqueeze(1))[0] - states[0]).abs().max() > 1e-3
    model.queries[2] += 1
    after = model.token_log_probabilities(ITEMS, LENGTHS)
    assert (before != after).flatten(2).any(-1).tolist() == [[False, False, True, False]] * 2


@torch.no_grad()
def test_the_t5_is_that_of_transformers_where_sets_are_single_tokens():
    """One token per item and one query: plain positions, so the stacks of the library give the same by themselves."""
    torch.manual_seed(0)
    model = SetT5(16, 2, 2, 32, 0.0).eval()
    vectors, query, lengths = torch.randn(2, 4, 1, 16), torch.randn(1, 16), torch.tensor([4, 2])
    x = torch.cat([model.start.expand(2, 1, -1), vectors[:, :, 0]], dim=1)
    seen = (torch.arange(5) <= lengths.unsqueeze(1)).long()
    encoded = model.encoder(inputs_embeds=x, attention_mask=seen).last_hidden_state
    expected = model.decoder(
        inputs_embeds=query.expand(2, 1, -1), encoder_hidden_states=encoded, encoder_attention_mask=seen
    ).last_hidden_state
    assert torch.allclose(model(vectors, lengths, query), expected, atol=1e-5)


def test_the_mask_by_hand():
    """Two tokens per item, one item, then the queries after none and after one."""
    mask = set_mask(torch.tensor([[0, 0, 0, 0, 1, 1]]), 2)[0]
    expected = torch.eye(6, dtype=torch.bool)
    expected[4:, :2] = True
    assert torch.equal(mask, expected)


@torch.no_grad()
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_score_is_the_weighted_sum_of_its_tokens(weight):
    model = build(semantic_weight=weight)
    states, table = model.read(model.embed(model.tokens[ITEMS]), LENGTHS.unsqueeze(1))[:, 0], model.embed(model.tokens)
    plain = torch.zeros(2, NUM_ITEMS)
    for slot in range(SLOTS):
        plain += (weight if slot else 1 - weight) * states[:, slot] @ table[:, slot].T
    scores = model.score_items(ITEMS, LENGTHS)
    difference = scores - plain
    assert torch.allclose(difference, difference[:, :1].expand_as(difference), atol=1e-4)
    lists = recommend(model, ITEMS, LENGTHS, decoding=DecodingConfig(top_k=3))
    assert torch.equal(lists.items, scores.topk(3).indices)


def test_the_weight_is_chosen_on_validation_and_kept(tmp_path):
    model = build()
    values = model.token_log_probabilities(ITEMS, LENGTHS).detach()
    recalls = {}
    targets = values[:, 1:].sum(1).argmax(-1)
    assert not torch.equal(values[:, 0].argmax(-1), targets)

    def measure() -> float:
        found = float((model.score_items(ITEMS, LENGTHS).argmax(-1) == targets).double().mean())
        recalls[round(model.semantic_weight, 1)] = found
        return found

    notes = model.finish_training(measure)
    assert sorted(recalls) == [step / 10 for step in range(11)]
    best = min(weight for weight, recall in recalls.items() if recall == max(recalls.values()))
    assert recalls[0.0] < recalls[best] == 1
    assert model.semantic_weight == best
    assert notes == [f"semantic_weight {best:g} was chosen on validation, where the metric is 1.0000 with it"]
    model.save_pretrained(tmp_path)
    assert load_recommender(tmp_path).semantic_weight == best
    assert not build(semantic_weight=0.3).finish_training(lambda: 1 / 0), "what the recipe says is left as it is"


CHOOSING = """
data: {path: DATA, k_core: 0}
features: {encoder: concat, parts: [{encoder: lexical, dim: 8, min_items: 1}, {encoder: fastrp, dim: 8}]}
tokenizer: {name: set, num_levels: 3, codebook_size: 4, hidden_sizes: [8], epochs: 1, collisions: bucket}
recommender: {name: setrec, hidden_size: 16, num_layers: 1}
training: {epochs: 2, batch_size: 32}
"""


def test_training_leaves_the_weight_of_the_best_validation(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(CHOOSING.replace("DATA", str(write_tables(tmp_path / "data"))), encoding="utf-8")
    assert main(["run", str(recipe), "--out", str(tmp_path / "run"), "--until", "model"]) == 0
    model, dataset = load_recommender(tmp_path / "run" / "model"), Dataset.load(tmp_path / "run" / "dataset")
    validation = decoding_validation(dataset, TrainingConfig(eval_users=None), DecodingConfig())
    chosen, found = model.settings.semantic_weight, {}
    for model.semantic_weight in [step / 10 for step in range(11)]:
        found[model.semantic_weight] = validation(model)["ndcg@10"]
    assert chosen == max(found, key=found.get)
    training = json.loads((tmp_path / "run" / "model" / "training.json").read_text(encoding="utf-8"))
    assert f"semantic_weight {chosen:g} was chosen on validation" in training["notes"][-1]


def test_a_missing_collaborative_token_says_nothing():
    tokens = TOKENS.copy()
    tokens[5, 0] = 0
    model = build(tokens)
    assert (model.embed(model.tokens)[5, 0] == 0).all()
    assert model.tokens[:, 1].square().mean() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"kind": "sequence"}, ConfigError, "set tokenizer.name=set"),
        ({"tokens": None}, ConfigError, "reads continuous tokens and none were given"),
        ({"tokens": TOKENS[:5]}, ArtifactError, "tokens of 5 items, the data set has 12"),
        ({"experts": 4}, ConfigError, "'setrec' has no experts"),
        ({"targets": "last"}, ConfigError, "targets is for backbone t5"),
    ],
)
def test_what_does_not_fit_is_said(arguments, error, message):
    with pytest.raises(error, match=message):
        build(**arguments)


RECIPE = """
data: {k_core: 0}
features: {encoder: concat, parts: [{encoder: lexical, dim: 8, min_items: 1}, {encoder: fastrp, dim: 8}]}
tokenizer: {name: set, num_levels: 3, codebook_size: 4, hidden_sizes: [16], epochs: 2, collisions: bucket}
recommender: {name: setrec, hidden_size: 16, num_layers: 1, num_heads: 1, max_history: 10}
training: {epochs: 1, batch_size: 32}
decoding: {top_k: 5}
evaluation: {baselines: [popularity], ks: [1, 5], bootstrap_samples: 20}
"""


def test_a_recipe_runs_to_its_lists(tiny_dataset, tmp_path):
    recipe = tmp_path / "set.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    assert main(["run", str(recipe), "--set", f"data.path={tiny_dataset.path}", "--out", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "recommendations.parquet").is_file()


def test_a_tokenizer_without_tokens_is_named():
    with pytest.raises(ConfigError, match="'rqkmeans' has no continuous tokens"):
        load_tokens(tiny_home() / "run" / "tokenizer")


def test_shared_negatives_are_the_corrected_softmax_over_the_candidates():
    model, negatives = build(dropout=0.0, negatives=5), 5
    torch.manual_seed(4)
    drawn = torch.randint(NUM_ITEMS, (negatives,)).tolist()
    torch.manual_seed(4)
    with torch.no_grad():
        loss = float(model(ITEMS, LENGTHS).loss)
        rows = [(user, place) for user, length in enumerate(LENGTHS.tolist()) for place in range(length)]
        targets = [int(ITEMS[row]) for row in rows]
        candidates = sorted({*drawn, *targets})
        expected = []
        for (user, place), target in zip(rows, targets, strict=True):
            states = model.read(model.embed(model.tokens[ITEMS[user : user + 1, :place]]), torch.tensor([[place]]))[
                0, 0
            ]
            scores = torch.einsum("qd,nqd->nq", states, model.embed(model.tokens[candidates])).double()
            often = torch.tensor([targets.count(item) + negatives / NUM_ITEMS for item in candidates])
            scores = (scores - often.log().unsqueeze(1)).log_softmax(0)
            expected.append(-scores[candidates.index(target)].mean().item())
    assert len(candidates) < NUM_ITEMS
    assert abs(loss - np.mean(expected)) < 1e-5
