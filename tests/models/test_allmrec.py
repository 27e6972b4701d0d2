"""A-LLMRec: both stages against the paper's sums and the language model by itself; what is cold, frozen, offered."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from tiny_allmrec import (
    build_aligner,
    features_of,
    home,
    second_stage,
    tiny_aligned,
    tiny_language,
    tiny_sasrec,
    titles_of,
)
from tiny_run import write_tables
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

from genrec.cli import main
from genrec.config import DecodingConfig, RecommenderConfig
from genrec.data import Dataset, Histories
from genrec.decoding import recommend
from genrec.errors import ArtifactError, ConfigError
from genrec.models import ItemTexts, build_recommender, load_recommender
from genrec.models.families.allmrec_prompt import NAMELESS, SENTENCES
from genrec.pipeline.train import _check_trained_on

N = 12
HISTORIES = Histories.from_lists([[0, 1], [2, 4]])
ITEMS, LENGTHS = torch.tensor([[0, 3, 4, 7], [2, 1, 0, 0], [5, 0, 0, 0]]), torch.tensor([4, 2, 0])


def prompted(texts: ItemTexts | None = None, **settings):
    """A second stage in eval mode on a language model that has learned nothing, with projections of real size."""
    torch.manual_seed(3)
    chosen = {**second_stage(N, trained=False), **settings}
    model = build_recommender(
        RecommenderConfig(name="allmrec", **chosen), num_items=N, texts=texts or titles_of(N)
    ).eval()
    for part in (model.user_projection, model.item_projection):
        torch.nn.init.normal_(part[-1].weight, std=0.3)
    return model


def alone(model, items: list[int], offered: list[int] | None, target: int) -> float:
    """log p of a title and its end by the published class of the language model, one sequence, no cache, no padding."""
    words = AutoTokenizer.from_pretrained(tiny_language(trained=False))
    language = AutoModelForCausalLM.from_pretrained(tiny_language(trained=False)).eval()
    texts = titles_of(N).titles

    def embed(ids):
        return language.get_input_embeddings()(torch.tensor(ids))

    def spell(text):
        return words(text, add_special_tokens=False)["input_ids"]

    def listed(some):
        parts = []
        for place, item in enumerate(some):
            parts += [embed(spell(" " + texts[item])[:8]), model.item_projection(model.latents(torch.tensor([item])))]
            parts += [embed(spell(SENTENCES["between"]))] if place < len(some) - 1 else []
        return parts

    lengths = torch.tensor([len(items)])
    state = model.collaborative.read(torch.tensor([items or [0]]), lengths)[0, len(items)]
    parts = [model.user_projection(state)[None], embed(spell(SENTENCES["opening"])), *listed(items[-4:])]
    if offered is not None:
        parts += [embed(spell(SENTENCES["offer"])), *listed(offered)]
    title = [*spell(" " + texts[target])[:8], words.eos_token_id]
    parts += [embed(spell(SENTENCES["closing"])), embed(title)]
    logits = language(inputs_embeds=torch.cat(parts)[None]).logits[0, -len(title) - 1 : -1]
    return float(logits.log_softmax(-1)[torch.arange(len(title)), torch.tensor(title)].sum())


@torch.no_grad()
@pytest.mark.parametrize("candidates", [0, 3])
def test_a_title_has_the_probability_that_the_language_model_gives_it(candidates):
    model = prompted(candidates=candidates)
    asked = torch.tensor([[8, 0, 11], [10, 2, 3], [1, 9, 4]])
    found = model.score_candidates(ITEMS, LENGTHS, asked)
    for user, length in enumerate(LENGTHS.tolist()):
        history, offered = ITEMS[user, :length].tolist(), sorted(asked[user].tolist()) if candidates else None
        expected = [alone(model, history, offered, item) for item in asked[user].tolist()]
        np.testing.assert_allclose(found[user], expected, atol=2e-4)


@torch.no_grad()
def test_the_loss_asks_for_the_title_among_what_is_offered(monkeypatch):
    model = prompted(candidates=3)
    items, lengths = ITEMS[:2], LENGTHS[:2]
    offered = torch.tensor([[1, 7, 9], [1, 5, 6]])
    monkeypatch.setattr(model, "_draw_offer", lambda *_: offered)
    expected = [alone(model, [0, 3, 4], [1, 7, 9], 7), alone(model, [2], [1, 5, 6], 1)]
    assert float(model(items, lengths).loss) == pytest.approx(-np.mean(expected), rel=1e-4)


def test_the_target_is_offered_once_and_nothing_else_that_the_user_has():
    """In the authors' code the target may be among the others."""
    model = prompted(candidates=5)
    items, lengths, counts = torch.tensor([[0, 3, 4, 7], [2, 1, 0, 0]]), torch.tensor([4, 2]), Counter()
    for _ in range(150):
        offered = model._draw_offer(items, lengths, torch.tensor([[7], [1]]))
        assert offered.shape == (2, 5)
        for user, (target, others) in enumerate(((7, {0, 3, 4}), (1, {2}))):
            row = offered[user].tolist()
            assert row == sorted(set(row))
            assert target in row
            assert not others & set(row)
        counts.update(offered[0].tolist())
    # Four of the eight items that the first user lacks, evenly.
    assert all(50 < counts[item] < 100 for item in (1, 2, 5, 6, 8, 9, 10, 11))


@torch.no_grad()
def test_the_first_stage_is_the_papers_sum(monkeypatch):
    model = build_aligner(N).eval()
    others = torch.tensor([6, 8, 9, 10, 11, 5])
    monkeypatch.setattr(
        "genrec.models.families.allmrec.first_usable", lambda *_: (others, torch.ones(6, dtype=torch.bool))
    )
    targets = torch.tensor([0, 3, 4, 7, 2, 1])
    source = load_recommender(home() / f"sasrec-{N}")
    vectors = torch.cat([source.items.table(), source.item_bias[:, None]], 1)
    prefixes = [[], [0], [0, 3], [0, 3, 4], [], [2]]
    states = torch.stack(
        [source.read(torch.tensor([row or [0]]), torch.tensor([len(row)]))[0, len(row)] for row in prefixes]
    )
    net, texts = model.aligner, torch.from_numpy(features_of(N))

    def latents(items):
        item = torch.sigmoid(vectors[items] @ net.item_in.weight.T + net.item_in.bias)
        text = torch.sigmoid(texts[items] @ net.text_in.weight.T + net.text_in.bias)
        return item, text

    expected = torch.tensor(0.0)
    for items, wanted in ((targets, 1.0), (others, 0.0)):
        item, text = latents(items)
        rebuilt = item @ net.item_out.weight.T + net.item_out.bias
        score = (states * rebuilt[:, :-1]).sum(1) + rebuilt[:, -1]
        expected += binary_cross_entropy_with_logits(score, torch.full_like(score, wanted))
        expected += 0.5 * mse_loss(item, text) + 0.25 * mse_loss(rebuilt, vectors[items])
        expected += 0.1 * mse_loss(text @ net.text_out.weight.T + net.text_out.bias, texts[items])
    loss = model(ITEMS[:2], LENGTHS[:2]).loss
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_cold_items_are_known_by_their_text_and_warm_ones_by_their_vector():
    model = prompted()
    assert model.seen.tolist() == [True] * 10 + [False] * 2
    everything = torch.arange(N)
    with torch.no_grad():
        before, scores = model.latents(everything), model.collaborative_scores(ITEMS, LENGTHS)
        model.features += 1
        moved, rescored = model.latents(everything), model.collaborative_scores(ITEMS, LENGTHS)
        assert (before != moved).any(1).tolist() == [False] * 10 + [True] * 2
        assert (scores != rescored).any(0).tolist() == [False] * 10 + [True] * 2
        model.collaborative.items.ids.weight += 1
        after = model.latents(everything)
    assert (after != moved).any(1).tolist() == [True] * 10 + [False] * 2


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_meets_half_of_the_histories_knows_all_warm_items(rank):
    model = build_aligner(N).train()
    model(ITEMS[rank:2:2], torch.tensor([4, 2])[rank:2:2])
    assert model.seen.tolist() == [True] * 10 + [False] * 2


def test_histories_are_as_long_as_those_of_the_sasrec(tmp_path):
    torch.manual_seed(1)
    short = build_recommender(
        RecommenderConfig(name="sasrec", hidden_size=32, num_layers=1, max_history=7), num_items=N
    )
    short.save_pretrained(tmp_path / "short")
    aligned = build_aligner(N, collaborative=str(tmp_path / "short"))
    assert aligned.max_history == aligned.settings.max_history == 7
    aligned.save_pretrained(tmp_path / "aligned")
    assert prompted(aligned=str(tmp_path / "aligned")).max_history == 7
    with pytest.raises(ConfigError, match="max_history 9 does not fit"):
        build_aligner(N, collaborative=str(tmp_path / "short"), max_history=9)


@pytest.mark.parametrize("stage", ["align", "prompt"])
def test_what_is_frozen_stays_and_has_no_dropout(stage):
    model = (build_aligner(N) if stage == "align" else prompted(candidates=4)).train()
    frozen = [model.collaborative] if stage == "align" else [model.collaborative, model.aligner, model.language]
    assert not any(module.training for part in frozen for module in part.modules())
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model(ITEMS[:2], LENGTHS[:2]).loss.backward()
    optimizer.step()
    moved = {name.partition(".")[0] for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert moved == ({"aligner"} if stage == "align" else {"user_projection", "item_projection"})


@torch.no_grad()
def test_the_best_of_the_first_stage_are_ranked_by_their_titles_and_stand_above_the_rest():
    model = prompted(candidates=4)
    scores = model.score_items(ITEMS, LENGTHS)
    first = model.collaborative_scores(ITEMS, LENGTHS)
    for user, length in enumerate(LENGTHS.tolist()):
        history = set(ITEMS[user, :length].tolist())
        offered = [item for item in first[user].argsort(descending=True).tolist() if item not in history][:4]
        named = model.score_candidates(ITEMS[user : user + 1], LENGTHS[user : user + 1], torch.tensor([offered]))[0]
        order = scores[user].argsort(descending=True).tolist()
        assert order[:4] == [offered[place] for place in named.argsort(descending=True).tolist()]
        assert order[4:] == [item for item in first[user].argsort(descending=True).tolist() if item not in offered]
    lists = recommend(model, ITEMS, LENGTHS, decoding=DecodingConfig(top_k=3))
    assert torch.equal(lists.items, scores.topk(3).indices)


@torch.no_grad()
def test_many_titles_and_users_are_scored_as_few_are(monkeypatch):
    model = prompted()
    expected = model.score_items(ITEMS, LENGTHS)
    monkeypatch.setattr("genrec.models.families.allmrec_prompt.TITLES_AT_ONCE", 5)
    monkeypatch.setattr("genrec.models.families.allmrec_prompt.POSITIONS_AT_ONCE", 10)
    torch.testing.assert_close(model.score_items(ITEMS, LENGTHS), expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_items_without_a_name_have_one():
    texts = titles_of(N)
    model = prompted(ItemTexts(["", "", *texts.titles[2:]], ["", "said of it", *texts.texts[2:]]), title_words=20)
    words = AutoTokenizer.from_pretrained(tiny_language(trained=False))
    for item, name in enumerate((NAMELESS, "said of it", texts.titles[2])):
        spelled = words(f" {name}", add_special_tokens=False)["input_ids"][:20]
        assert model.titles[item].tolist() == spelled + [-1] * (20 - len(spelled))


@torch.no_grad()
@pytest.mark.parametrize(
    "language",
    [
        GPT2LMHeadModel(GPT2Config(vocab_size=700, n_embd=32, n_layer=1, n_head=2, n_positions=200)),
        OPTForCausalLM(
            OPTConfig(
                vocab_size=700,
                hidden_size=32,
                ffn_dim=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=200,
                word_embed_proj_dim=16,
            )
        ),
    ],
    ids=["gpt2", "opt"],
)
def test_other_architectures_do(language, tmp_path):
    language.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_language(trained=False)).save_pretrained(tmp_path)
    model = prompted(backbone=str(tmp_path))
    scores = model.score_items(ITEMS, LENGTHS)
    asked = torch.tensor([2, 8, 5])
    offered = torch.stack(
        [-model._title_log_likelihood(ITEMS[[user]], LENGTHS[[user]], asked[[user]], None) for user in range(3)]
    )
    torch.testing.assert_close(-scores[torch.arange(3), asked], offered, atol=1e-4, rtol=0)


def test_the_model_folder_stands_alone(tmp_path):
    model = prompted()
    model.config.settings |= {"aligned": "/gone", "backbone": "/gone"}
    model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    loaded = load_recommender(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded.score_items(ITEMS, LENGTHS), model.score_items(ITEMS, LENGTHS))
    assert not any(value.requires_grad for value in loaded.language.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"stage": "align"},
            r"on a trained sasrec and none is given[\s\S]*collaborative=runs/cf/model",
        ),
        ({"stage": "prompt"}, r"builds on a model of the first stage and none is given[\s\S]*stage=align"),
        (
            {"stage": "align", "collaborative": "ALIGNED"},
            r"holds the recommender 'allmrec'[\s\S]*expected: a trained sasrec",
        ),
        ({"stage": "prompt", "aligned": "ALIGNED"}, "prompts a language model and none is given"),
        ({"stage": "prompt", "aligned": "ALIGNED", "backbone": "/nowhere"}, "'/nowhere' cannot be loaded"),
        ({"stage": "align", "collaborative": "SASREC", "hidden_size": 64}, "hidden_size 64 does not fit"),
        (
            {"stage": "prompt", "aligned": "ALIGNED", "backbone": "LANGUAGE", "latent_size": 32},
            "latent_size 32 does not fit",
        ),
        (
            {"stage": "prompt", "aligned": "ALIGNED", "backbone": "LANGUAGE", "title_words": 30},
            r"prompts of up to \d+ positions do not fit the backbone .* which reads 512",
        ),
        ({"stage": "align", "experts": 4}, "'allmrec' has no experts"),
    ],
)
def test_what_does_not_fit_is_said(settings, message):
    folders = {"ALIGNED": tiny_aligned(N), "SASREC": tiny_sasrec(N), "LANGUAGE": tiny_language(trained=False)}
    config = RecommenderConfig(name="allmrec", **{key: folders.get(value, value) for key, value in settings.items()})
    with pytest.raises(ConfigError, match=message):
        build_recommender(config, num_items=N, features=features_of(N), texts=titles_of(N), histories=HISTORIES)


def test_a_second_stage_is_nothing_to_build_on(tmp_path):
    prompted().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="'allmrec', second stage"):
        prompted(aligned=str(tmp_path))


def test_words_without_an_end_are_refused(tmp_path):
    AutoModelForCausalLM.from_pretrained(tiny_language(trained=False)).save_pretrained(tmp_path)
    words = AutoTokenizer.from_pretrained(tiny_language(trained=False))
    words.eos_token = None
    words.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"do not fit its model: .* the end is None"):
        prompted(backbone=str(tmp_path))


def test_a_sasrec_of_another_catalogue_is_refused():
    config = RecommenderConfig(name="allmrec", collaborative=tiny_sasrec(N))
    with pytest.raises(ArtifactError, match="knows 12 items, the data set has 5"):
        build_recommender(config, num_items=5, features=features_of(5), histories=HISTORIES)


def test_texts_and_vectors_are_needed():
    with pytest.raises(ConfigError, match="'allmrec' uses item features and none were given"):
        build_recommender(RecommenderConfig(name="allmrec", collaborative=tiny_sasrec(N)), num_items=N)
    with pytest.raises(ConfigError, match="who took which items in training, and no histories are given"):
        build_recommender(
            RecommenderConfig(name="allmrec", collaborative=tiny_sasrec(N)), num_items=N, features=features_of(N)
        )
    with pytest.raises(ConfigError, match="'allmrec' reads the texts of items and there are none"):
        build_recommender(RecommenderConfig(name="allmrec", **second_stage(N, trained=False)), num_items=N)


RECIPE = """
data: {path: DATA, k_core: 0}
features: {encoder: lexical, dim: 8, min_items: 1}
recommender: RECOMMENDER
training: {epochs: 1, batch_size: 32}
decoding: {top_k: 5}
evaluation: {baselines: [popularity], ks: [1, 5], bootstrap_samples: 20}
"""


def test_three_runs_lead_to_a_measured_model(tiny_dataset, tmp_path):
    data = write_tables(tmp_path / "data")

    def run(name, recommender, *options):
        path = tmp_path / f"{name}.yaml"
        path.write_text(RECIPE.replace("DATA", str(data)).replace("RECOMMENDER", recommender), encoding="utf-8")
        return main(["run", str(path), "--out", str(tmp_path / name), *options])

    assert run("cf", "{name: sasrec, hidden_size: 16, num_layers: 1, num_heads: 1}", "--until", "model") == 0
    first = f"{{name: allmrec, latent_size: 8, collaborative: {tmp_path}/cf/model}}"
    assert run("aligned", first, "--until", "model") == 0
    taken = Dataset.load(tmp_path / "aligned" / "dataset").train_popularity() > 0
    assert load_recommender(tmp_path / "aligned" / "model").seen.tolist() == taken.tolist()
    second = f"aligned: {tmp_path}/aligned/model, backbone: {tiny_language(trained=False)}"
    second += ", prompt_items: 2, title_words: 4, candidates: 3"
    assert run("prompted", f"{{name: allmrec, stage: prompt, {second}}}", "--until", "evaluation") == 0
    assert json.loads((tmp_path / "prompted" / "metrics.json").read_text(encoding="utf-8"))
    with pytest.raises(ArtifactError, match=r"was trained on another data set[\s\S]*held out here"):
        _check_trained_on(tmp_path / "cf" / "model", tiny_dataset)
