"""Log-probabilities of candidates against scoring each alone, the trie's walk, and finite differences."""

import pytest
import torch
from tiny_alignment import NUM_ITEMS, make_model

from genrec.alignment.scoring import path_logits, sequence_log_probs


def alone(model, items, length, item) -> float:
    """One user, one item, every prefix recomputed from nothing."""
    history, lengths = items[None, : max(length, 1)], torch.tensor([length])
    codes = model.item_codes[item].long().tolist()
    total = 0.0
    for level, code in enumerate(codes):
        if code < 0:
            break
        prefix = torch.tensor(codes[:level], dtype=torch.int64).view(1, 1, level)
        logits = model.next_code_logits(model.encode(history, lengths), prefix)
        total += float(logits[0, 0].double().log_softmax(-1)[code])
    return total


def test_candidates_score_as_each_item_alone(family, histories):
    model, (items, lengths) = make_model(family), histories
    candidates = torch.randint(NUM_ITEMS, (5, 6), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        together = sequence_log_probs(model, items, lengths, candidates)
        single = [[alone(model, items[row], int(lengths[row]), item) for item in candidates[row]] for row in range(5)]
    assert together.dtype == torch.float32
    assert torch.allclose(together, torch.tensor(single), atol=1e-5)


def test_the_whole_code_space_sums_to_one(family, histories):
    """Every combination of codes once: the softmax is the full one, so the items of the catalogue alone sum to less."""
    model, (items, lengths) = make_model(family), histories
    with torch.no_grad():
        catalogue = sequence_log_probs(model, items, lengths, torch.arange(NUM_ITEMS).expand(5, -1)).exp().sum(1)
        model.item_codes = torch.cartesian_prod(*(torch.arange(size) for size in model.level_sizes)).int()
        everything = sequence_log_probs(model, items, lengths, torch.arange(64).expand(5, -1)).exp().sum(1)
    assert torch.allclose(everything, torch.ones(5), atol=1e-5)
    assert (catalogue < 0.999).all()


def test_a_missing_candidate_scores_zero_and_has_no_gradient(family, histories):
    model, (items, lengths) = make_model(family), histories
    candidates = torch.tensor([[3, -1]] * 5)
    values = sequence_log_probs(model, items, lengths, candidates)
    assert torch.equal(values[:, 1], torch.zeros(5))
    values[:, 1].sum().backward()
    assert all(part.grad is None or not part.grad.abs().sum() for part in model.parameters())


def test_the_tail_of_a_shorter_identifier_is_free(family, histories):
    model, (items, lengths) = make_model(family), histories
    model.item_codes[3, 2] = -1
    with torch.no_grad():
        values = sequence_log_probs(model, items, lengths, torch.tensor([[3, 5]] * 5))
        expected = [[alone(model, items[row], int(lengths[row]), item) for item in (3, 5)] for row in range(5)]
    assert torch.allclose(values, torch.tensor(expected), atol=1e-5)


def test_gradients_are_those_of_finite_differences(family, histories):
    model, (items, lengths) = make_model(family).double(), histories
    candidates = torch.tensor([[3, 9], [1, 2], [0, 39], [5, 5], [7, 8]])

    def value() -> torch.Tensor:
        return (sequence_log_probs(model, items, lengths, candidates) * torch.tensor([1.0, -0.5])).sum()

    value().backward()
    generator, step = torch.Generator().manual_seed(0), 1e-4
    parameters = [part for part in model.parameters() if part.grad is not None]
    directions = [torch.randn(part.shape, generator=generator, dtype=torch.float64) for part in parameters]
    expected = sum(float((part.grad * d).sum()) for part, d in zip(parameters, directions, strict=True))
    sides = []
    for sign in (1, -1):
        with torch.no_grad():
            for part, d in zip(parameters, directions, strict=True):
                part.add_(sign * step * d)
            sides.append(float(value()))
            for part, d in zip(parameters, directions, strict=True):
                part.sub_(sign * step * d)
    assert (sides[0] - sides[1]) / (2 * step) == pytest.approx(expected, rel=1e-2)


def test_item_vectors_are_added_with_their_weight(histories):
    model, (items, lengths) = make_model("depth", item_loss=1.0), histories
    candidates = torch.tensor([[3, 9]] * 5)
    with torch.no_grad():
        codes = sequence_log_probs(model, items, lengths, candidates)
        both = sequence_log_probs(model, items, lengths, candidates, item_weight=0.5)
        states = model.encode(items, lengths).item_state
        vectors = (states @ model.items.ids.weight.T).log_softmax(-1)[:, [3, 9]]
    assert torch.allclose(both, codes + 0.5 * vectors, atol=1e-5)


def test_path_logits_are_those_that_score_the_target(family, histories):
    model, (items, lengths) = make_model(family), histories
    targets = torch.tensor([3, 9, 0, 39, 5])
    with torch.no_grad():
        levels = path_logits(model, items, lengths, targets)
        values = [
            part.log_softmax(-1).gather(1, model.item_codes[targets, [i]].long()[:, None])
            for i, part in enumerate(levels)
        ]
        expected = sequence_log_probs(model, items, lengths, targets[:, None])
    assert torch.allclose(torch.cat(values, 1).sum(1), expected[:, 0], atol=1e-5)
