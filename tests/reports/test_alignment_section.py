"""What a report says of an alignment."""

import dataclasses

import pytest

from genrec.reports.alignment import alignment_facts, alignment_figures, alignment_sentence
from genrec.reports.content import Change
from genrec.reports.html import render_report

START = {"recall@10": 0.1, "ndcg@10": 0.05, "kl": 0.0, "entropy": 8.0, "coverage@10": 0.5, "margin": 0.0}
LATER = {**START, "recall@10": 0.12, "kl": 0.2, "entropy": 4.0, "margin": 0.3, "reward@10": 0.7, "selected": None}


def round_of(**changes):
    history = [{"step": 3, "validation": LATER}, {"step": 6, "validation": {**LATER, "margin": 0.4}}]
    known = {"start": START, "best": LATER, "improved": True, "stopped": "epochs", "reason": None, "steps": 6}
    return {**known, "seconds": 1.0, "history": history, **changes}


def alignment(*rounds, **changes):
    return {"start": START, "best": LATER, "reward_quality": {}, "rounds": list(rounds or (round_of(),)), **changes}


def test_the_sentence_says_how_it_ended():
    assert alignment_sentence(alignment()) == "6 updates in 1 round, ended after all epochs."
    stopped = round_of(stopped="guard", reason="ndcg@10 fell to 0.01", improved=False)
    told = alignment_sentence(alignment(stopped))
    assert told == (
        "6 updates in 1 round, ended by a guard. No step was better than the start: the model is as it was."
        " Ndcg@10 fell to 0.01."
    )
    assert alignment_sentence(alignment(round_of(), stopped)).startswith("12 updates in 2 rounds")
    assert "as it was" not in alignment_sentence(alignment(round_of(), stopped))
    assert alignment_sentence({}) == ""


def test_facts_stand_beside_each_other_and_a_reward_says_how_good_it_is():
    quality = {"auc": {"taken": 0.71, "liked": None}, "calibration_error": {"taken": 0.02, "liked": None}, "lists": 9}
    facts = dict(alignment_facts(alignment(reward_quality=quality)))
    assert facts["Recall@10"] == "0.1000 → 0.1200"
    assert facts["KL"] == "0.0000 → 0.2000"
    assert facts["reward model, taken"] == "held-out AUC 0.710, calibration error 0.020"
    assert "Reward@10" not in facts
    assert "reward model, liked" not in facts
    among = alignment_facts(alignment(reward_quality={**quality, "beam_auc": 0.625}))
    assert dict(among)["reward model, among the model's own lists"] == "held-out AUC 0.625"
    assert alignment_facts({}) == []


def test_curves_hold_what_was_measured_round_after_round():
    figures = {figure.title: figure.chart for figure in alignment_figures(alignment(round_of(), round_of()))}
    assert set(figures) == {
        "What users took", "What is preferred", "Margin", "KL to the reference", "Signs of collapse",
    }  # fmt: skip
    # The second round goes on where the first ended.
    assert "12" in figures["Margin"]
    # Entropy fell to a half of what it was.
    assert "0.5" in figures["Signs of collapse"]
    assert alignment_figures({}) == []


def test_the_reward_of_sessions_is_shown_at_their_length():
    measured = [{"reward@3": 0.25}, {"reward@3": 0.5}]
    part = round_of(start={**START, **measured[0]}, history=[{"step": 3, "validation": {**LATER, **measured[1]}}])
    values = alignment(part, start={**START, **measured[0]}, best={**LATER, **measured[1]})
    assert dict(alignment_facts(values))["Reward@3"] == "0.2500 → 0.5000"
    figures = {figure.title: figure.chart for figure in alignment_figures(values)}
    assert "Reward@3" in figures["What is preferred"]


def test_lists_before_and_after_mark_what_moved():
    (_, before), (_, after) = Change("u", ("h",), ("a", "b"), ("b", "c")).sides
    assert before == [("a", "gone"), ("b", "")]
    assert after == [("b", ""), ("c", "new")]


@pytest.mark.parametrize("present", [True, False])
def test_the_page_has_the_section_where_a_model_was_aligned(content, present):
    changes = [Change("u<7>", ("one & two",), ("a", "b"), ("b", "c<script>"))]
    shown = dataclasses.replace(content, alignment=alignment(), changes=changes) if present else content
    page = render_report(shown)
    assert ('<section id="alignment">' in page) is present
    assert ('href="#alignment"' in page) is present
    if present:
        assert "User u&lt;7&gt;" in page
        assert "one &amp; two" in page
        assert "c&lt;script&gt;" in page
        assert '<span class="badge">new</span>' in page
        assert "KL to the reference" in page
