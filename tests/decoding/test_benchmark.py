"""The parts of the decoding benchmark on a catalogue of a few dozen items: they run, and count what they say."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from genrec.data import Histories
from genrec.decoding import SearchOptions, beam_search, trie_of
from genrec.tokenizers.index import ItemIndex

SCRIPTS = Path(__file__).parents[2] / "scripts" / "benchmarks"
SIZES, NUM_ITEMS = (6, 6, 4), 70


@pytest.fixture(scope="module")
def parts():
    """The benchmark's modules; scripts are not a package of the project."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        names = ("against_generate", "constraint", "guarantees", "serving", "setup", "timing")
        yield {name: import_module(f"decoding_figures.{name}") for name in names}


@pytest.fixture(scope="module")
def material(parts):
    rng = np.random.default_rng(0)
    flat = rng.choice(int(np.prod(SIZES)), NUM_ITEMS, replace=False)
    codes = np.stack(np.unravel_index(flat, SIZES), axis=1).astype(np.int32)
    index = ItemIndex(codes, SIZES, [f"item {item}" for item in range(NUM_ITEMS)])
    histories = Histories.from_lists([rng.choice(NUM_ITEMS, 1 + user % 5, replace=False) for user in range(24)])
    return parts["setup"].Material(None, histories, index, rng.normal(size=(NUM_ITEMS, 5)).astype(np.float32))


def tiny(parts, material, family):
    settings = {"hidden_size": 16, "num_heads": 2, "num_layers": 1, "feed_forward_size": 24, "max_history": 4}
    return parts["setup"].make_model(family, settings, material.index)


@pytest.mark.parametrize("family", ["seq2seq", "decoder"])
def test_lists_equal_those_of_generate(parts, material, family):
    model = tiny(parts, material, family)
    batches = parts["setup"].batches_of(material.histories, np.arange(24), 4)
    with torch.no_grad():
        figures = parts["against_generate"].speed("x", model, batches, 20, 60)
        figures |= parts["against_generate"].bfloat16("x", model, batches, 20)
    assert figures["x_compared_users"] == 24
    assert figures["x_same_top20_users"] + figures["x_near_tie_users"] == 24
    assert figures["x_max_score_difference"] < 1e-4
    assert figures["x_speedup"] == pytest.approx(figures["x_generate_seconds"] / figures["x_genrec_seconds"])
    assert 0.5 < figures["x_bfloat16_kept_share"] <= 1


def test_agreement_counts_equal_lists_and_near_ties(parts):
    result = parts["against_generate"].Comparison()
    scores = torch.tensor([[-1.0, -2.0], [-1.0, -1.000001], [-1.0, -2.0]])
    expected = torch.tensor([[0, 1], [0, 1], [0, 1]])
    result.add(
        (expected, scores), (torch.tensor([[0, 1], [1, 0], [0, 2]]), scores + torch.tensor([0, 0, 0.5])[:, None])
    )
    assert (result.users, result.same, result.near) == (3, 1, 1)
    assert result.gap == pytest.approx(0.5)


def test_free_beams_are_the_search_over_every_identifier(parts, material):
    """Where every semantic ID exists, a catalogue constrains nothing."""
    model = tiny(parts, material, "decoder")
    every = np.stack(np.unravel_index(np.arange(np.prod(SIZES)), SIZES), axis=1).astype(np.int32)
    items, lengths = parts["setup"].batches_of(material.histories, np.arange(8), 4)[0]
    constraint = parts["constraint"]
    trie = constraint.DeviceTrie(constraint.build_trie(every, SIZES))
    with torch.no_grad():
        found = [
            constraint.find_leaves(
                model,
                searched,
                model.encode(items, lengths),
                constraint.SearchOptions(num_beams=10),
                None,
                torch.zeros(8, dtype=torch.int64),
            ).scores
            for searched in (trie, constraint.FreeTrie(SIZES))
        ]
    torch.testing.assert_close(found[0], found[1])


def test_guarantees_hold_and_faults_are_counted(parts, monkeypatch):
    guarantees = parts["guarantees"]
    figures = guarantees.legality(300) | guarantees.list_lengths(512) | guarantees.exactness(2)
    checked = {name: value for name, value in figures.items() if name.endswith(("_beams", "_users", "_seeds"))}
    assert checked.pop("illegal_beams") == 0
    assert min(checked.values()) > 0
    assert not any(value for name, value in figures.items() if name.endswith(("_lists", "_different")))
    assert figures["exact_max_score_difference"] < 1e-5

    def faulty(*arguments, exclude=None, **options):
        found = beam_search(*arguments, **options)
        return replace(found, items=found.items.roll(1, dims=0))

    monkeypatch.setattr(guarantees, "beam_search", faulty)
    wrong = guarantees.legality(300) | guarantees.list_lengths(512) | guarantees.exactness(2)
    assert all(wrong[name] > 0 for name in ("illegal_beams", "excluded_lists", "exact_seeds_different"))


def test_shares_of_a_search_make_a_whole(parts, material):
    model = tiny(parts, material, "decoder")
    figures = parts["serving"].shares("x", model, material)
    assert sum(figures.values()) == pytest.approx(100)
    assert min(figures.values()) > 0


def test_device_times_are_measured_without_a_device(parts, material):
    model, rows = tiny(parts, material, "decoder"), np.arange(24)
    with torch.no_grad():
        figures = parts["serving"]._device_times(model, material, rows, "cpu", lambda: None, 1)
    assert figures["users_per_second"] > 0
    assert figures["milliseconds_per_step"] > 0


def test_watched_searches_find_the_same(parts, material):
    model = tiny(parts, material, "seq2seq")
    items, lengths = parts["setup"].batches_of(material.histories, np.arange(8), 4)[0]
    writer, trie, seconds = parts["timing"].watch(model, trie_of(model))
    watched = beam_search(writer, trie, items, lengths, SearchOptions(num_beams=20), top_k=5)
    plain = beam_search(model, trie_of(model), items, lengths, SearchOptions(num_beams=20), top_k=5)
    assert torch.equal(watched.items, plain.items)
    assert set(seconds) == {"model", "trie"}
