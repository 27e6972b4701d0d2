"""Parallel codes of experts: against the library's quantisers, and what the penalty does."""

import numpy as np
import pytest
import torch

from genrec.tokenizers import mpq
from genrec.tokenizers.mpq import ExpertLearner, Experts, ExpertSettings, ExpertTokenizer, make_quantisers, overlap

SMALL = {"num_levels": 3, "codebook_size": 6, "hidden_sizes": (24,), "latent_size": 8, "epochs": 5, "batch_size": 16}


def fitted(dataset, features, **settings) -> ExpertTokenizer:
    tokenizer = ExpertTokenizer(ExpertSettings(**{**SMALL, **settings}))
    tokenizer.fit(dataset, features)
    return tokenizer


def test_codes_equal_the_librarys(tiny_dataset, tiny_features, monkeypatch):
    kept = []

    def keep(*arguments):
        kept.append(make_quantisers(*arguments))
        return kept[-1]

    monkeypatch.setattr(mpq, "make_quantisers", keep)
    tokenizer = fitted(tiny_dataset, tiny_features, codebook_size=(6, 4, 9))
    with torch.no_grad():
        views = tokenizer.network.views(torch.from_numpy(tiny_features.values))
        expected = [layer.eval()(views[:, expert])[1].tolist() for expert, layer in enumerate(kept[0])]
    np.testing.assert_array_equal(tokenizer.encode(tiny_features.values), np.array(expected).T)


def test_an_expert_by_hand(tiny_dataset, tiny_features):
    tokenizer = fitted(tiny_dataset, tiny_features)
    state = tokenizer.state()
    value = (tiny_features.values[3] - state["network.mean"]) / state["network.scale"]
    hidden = np.maximum(state["network.experts.1.0.weight"] @ value + state["network.experts.1.0.bias"], 0)
    view = state["network.experts.1.2.weight"] @ hidden + state["network.experts.1.2.bias"]
    code = ((state["codebook_1"] - view) ** 2).sum(axis=1).argmin()
    assert tokenizer.encode(tiny_features.values)[3, 1] == code


def test_the_router_mixes_what_is_decoded(tiny_dataset, tiny_features):
    network = fitted(tiny_dataset, tiny_features).network
    vectors, quantised = torch.from_numpy(tiny_features.values[:4]), torch.randn(4, 3, 8)
    scaled = (vectors - network.mean) / network.scale
    with torch.no_grad():
        shares = torch.softmax(scaled @ network.router.weight.T + network.router.bias, dim=1)
        mixed = sum(shares[:, e : e + 1] * quantised[:, e] for e in range(3))
        expected = (network.decoder(mixed) - scaled).square().mean()
        torch.testing.assert_close(network.error(vectors, quantised), expected)


def test_overlap_is_the_mean_squared_correlation_between_experts():
    views = torch.from_numpy(np.random.default_rng(0).standard_normal((50, 3, 4))).float()
    correlation = np.corrcoef(views.flatten(1).numpy().T).reshape(3, 4, 3, 4)
    expected = np.mean([(correlation[a, :, b] ** 2).mean() for a in range(3) for b in range(3) if a != b])
    assert float(overlap(views)) == pytest.approx(expected, rel=1e-4)
    assert float(overlap(views[:, :1])) == 0
    assert float(overlap(views[:, :1, :1].expand(-1, 2, -1))) == pytest.approx(1)


def test_the_penalty_keeps_experts_apart(tiny_dataset, tiny_features):
    overlaps = []
    for weight in (0.0, 5.0):
        tokenizer = fitted(tiny_dataset, tiny_features, orthogonality=weight, epochs=30, patience=30)
        with torch.no_grad():
            overlaps.append(float(overlap(tokenizer.network.views(torch.from_numpy(tiny_features.values)))))
    assert overlaps[1] < 0.8 * overlaps[0]


def test_costs_of_the_last_expert(tiny_dataset, tiny_features):
    tokenizer = fitted(tiny_dataset, tiny_features)
    codes = tokenizer.encode(tiny_features.values)
    with torch.no_grad():
        view = tokenizer.network.views(torch.from_numpy(tiny_features.values))[:, 2].numpy()
    expected = ((view[:, None] - tokenizer.codebooks[2]) ** 2).sum(axis=2)
    np.testing.assert_allclose(tokenizer.last_level_costs(tiny_features.values, codes), expected, atol=1e-5)


def test_there_is_no_reconstruction_from_codes_alone(tiny_dataset, tiny_features):
    # The router's proportions come from the vector, which codes do not tell.
    tokenizer = fitted(tiny_dataset, tiny_features)
    codes = tokenizer.encode(tiny_features.values)
    assert tokenizer.reconstruct(codes) is None
    assert tokenizer.residual_energy(tiny_features.values, codes) is None


def test_learned_codebooks_have_the_papers_gradients():
    """|sg[v] - e|^2 + b |v - sg[e]|^2 for every expert."""
    torch.manual_seed(0)
    settings = ExpertSettings(**{**SMALL, "dead_code_threshold": 0.0}, ema=False, commitment=0.25)
    quantisers = make_quantisers((6, 6, 6), 64, settings)
    learner = ExpertLearner(Experts(8, settings), quantisers, settings)
    with torch.no_grad():
        learner.train()._quantise(torch.randn(64, 3, 8))
    views = torch.randn(64, 3, 8, requires_grad=True)
    learner._quantise(views)[1].backward()
    for expert, layer in enumerate(quantisers):
        seen, book = views.detach()[:, expert], layer.codebook.detach()
        codes = torch.cdist(seen, book).argmin(dim=1)
        step = 2 * (book[codes] - seen) / (64 * 8)
        expected = torch.zeros(6, 8).index_add_(0, codes, step)
        torch.testing.assert_close(layer._codebook.embed.grad[0], expected, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(views.grad[:, expert], -0.25 * step, atol=1e-6, rtol=1e-4)
