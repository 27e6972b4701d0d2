import copy
import errno
from unittest.mock import Mock

import pytest
import yaml

from genrec.errors import ArtifactError
from genrec.reports.content import ReportContent
from genrec.reports.model_card import render_model_card, write_model_card


@pytest.fixture
def card(content):
    return render_model_card(content, location="runs/x/model", license="apache-2.0", example_items=["i01", "i'2"])


def test_front_matter_is_yaml_with_the_results(card, run):
    _, matter, body = card.split("---\n", 2)
    read = yaml.safe_load(matter)
    assert read["library_name"] == "genrec"
    assert read["license"] == "apache-2.0"
    assert "semantic-ids" in read["tags"]
    result = read["model-index"][0]["results"][0]
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert values["ndcg@10"] == pytest.approx(run["metrics"]["ndcg@10"], abs=1e-6)
    assert result["dataset"]["split"] == "test"
    assert body.lstrip().startswith("# depth on Tiny")


def test_the_example_of_use_is_four_lines_of_python(card):
    code = card.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    lines = [line for line in code.splitlines() if line]
    assert lines == [
        "from genrec import Recommender",
        "recommender = Recommender.from_pretrained('runs/x/model')",
        "lists = recommender.recommend([['i01', \"i'2\"]], k=10, exclude_seen=True)",
    ]


def test_it_says_what_the_model_is_worth_and_where_it_ends(card, run):
    for heading in ("## Use", "## Results", "## Training data", "## Protocol", "## Limits"):
        assert heading in card
    assert "| Popularity |" in card
    assert f"{run['metrics']['recall@10']:.4f}" in card
    assert "item tokenizer rqkmeans from features of the encoder lexical" in card
    assert "- Seen items: left out of the lists" in card
    assert "- users: 60" in card
    assert f"{run['metrics']['coverage@10']:.1%} of the catalogue" in card


def test_text_of_users_stays_text(card):
    assert "<script" not in card.split("---\n", 2)[2]


def test_cold_items_are_told_where_there_are_any(run):
    with_cold = copy.deepcopy(run)
    with_cold["slices"]["item_popularity"]["cold"] = {"users": 7, "targets": 7, "metrics": {"recall@10": 0.125}}
    card = render_model_card(ReportContent("x", "m", [with_cold]), location="x")
    assert "without any interaction in training its recall@10 is 0.1250 (7 users)" in card
    assert "license" not in card.split("---\n", 2)[1]
    assert "Not recorded." in card


def test_an_item_level_model_is_not_called_generative(run):
    plain = copy.deepcopy(run)
    plain["protocol"] |= {"tokenizer": None, "encoder": None}
    assert "generative recommender:" not in render_model_card(
        ReportContent("x", "sasrec", [plain, plain]), location="x"
    )


def test_writing_replaces_the_card_or_says_why_not(content, tmp_path, monkeypatch):
    write_model_card(tmp_path / "README.md", content, location="x")
    assert (tmp_path / "README.md").read_text(encoding="utf-8").startswith("---\nlibrary_name: genrec\n")
    before = (tmp_path / "README.md").read_bytes()
    full_disk = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("genrec.artifacts.files.os.replace", Mock(side_effect=full_disk))
    with pytest.raises(ArtifactError, match="the disk is full"):
        write_model_card(tmp_path / "README.md", content, location="x")
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_bytes() == before
