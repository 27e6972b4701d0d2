"""``genrec align`` and the stage ``aligned`` from the outside: folders, words, exit codes."""

import json
import shutil

import polars as pl
import pytest
from tiny_run import copy_run, tiny_home, write_recipe

from genrec.artifacts import verify_artifact
from genrec.cli import main
from genrec.recommender import Recommender

QUICK = [
    "--set",
    "alignment.training.epochs=1",
    "--set",
    "alignment.tolerance=0.9",
    "--set",
    "alignment.stop_fall=0.9",
    "--set",
    "alignment.method=dpo",
]


def command(out, *options, model=None) -> list[str]:
    home = tiny_home()
    model = model or home / "run" / "model"
    places = ["--model", str(model), "--dataset", str(home / "run" / "dataset"), "--out", str(out)]
    return ["align", str(home / "tiny.yaml"), *places, *QUICK, *options]


def test_the_command_writes_a_model_folder(tmp_path, capsys):
    out = tmp_path / "aligned"
    assert main(command(out, "--set", "alignment.training.metric=pair_accuracy")) == 0
    assert "aligned in 1 rounds: pair_accuracy" in capsys.readouterr().out
    manifest = verify_artifact(out, "model")
    assert manifest.config["alignment"]["method"] == "dpo"
    expected = {"alignment.json", "curves.png", "examples.json", "preferences.parquet", "tokenizer/codes.parquet"}
    assert expected <= set(manifest.files)
    values = json.loads((out / "alignment.json").read_text())
    assert values["start"]["kl"] == pytest.approx(0, abs=1e-6)
    examples = json.loads((out / "examples.json").read_text())
    assert all(len(example["before"]) == len(example["after"]) > 0 for example in examples)
    pairs = pl.read_parquet(out / "preferences.parquet")
    assert set(pairs["source"]) == {"implicit:beams"}
    assert main(["inspect", str(out / "preferences.parquet")]) == 0
    assert (
        f"{pairs.height} preferences, {pairs.height} of them with both sides; 1.0 rejected" in capsys.readouterr().out
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["aligned"]
    lists = Recommender.from_pretrained(out).recommend([["i00", "i01"]], k=3)
    assert len(lists.titles[0]) == 3


def test_iterations_are_kept_beside_it(tmp_path, capsys):
    options = ["--set", "alignment.iterations=2", "--set", "alignment.training.metric=margin"]
    assert main(command(tmp_path / "a", *options)) == 0
    rounds = json.loads((tmp_path / "a" / "alignment.json").read_text())["rounds"]
    kept = sorted(path.name for path in (tmp_path / "a.iterations").glob("iteration-*"))
    assert kept == [f"iteration-{number + 1}" for number in range(len(rounds))]
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "a.iterations" / "iteration-1")]) == 0
    assert "round 1 of an alignment by dpo: margin 0.0000 -> " in capsys.readouterr().out


def test_a_run_aligns_where_the_recipe_says_so(tmp_path, capsys):
    run = copy_run(tmp_path / "run")
    data = shutil.copytree(tiny_home() / "data", tmp_path / "data")
    recipe = write_recipe(
        tmp_path,
        tiny_home() / "data",
        "alignment: {method: dpo, training: {epochs: 1}, tolerance: 0.9, stop_fall: 0.9}\n",
    )
    assert data.is_dir()
    assert main(["run", str(recipe), "--out", str(run), "--until", "evaluation"]) == 0
    shown = capsys.readouterr().err
    assert "model: fresh" in shown
    assert "aligned: dpo" in shown
    metrics = json.loads((run / "metrics.json").read_text())
    assert "before alignment" in metrics["variants"]
    assert main(["run", str(recipe), "--out", str(run), "--until", "aligned"]) == 0
    assert main(["run", str(recipe), "--out", str(run)]) == 0
    page = (run / "report.html").read_text()
    for shown in ('<section id="alignment">', "Before", "After", "KL to the reference", "Margin"):
        assert shown in page
    assert "aligned: fresh" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["alignment.method=none"], 2, ["the recipe asks for no alignment"]),
        (["alignment.pairs.source=explicit"], 2, ["no feedback column 'rating'", "there is no feedback in these data"]),
        (["alignment.method=grpo"], 2, ["self-play and grpo need a reward"]),
        (["alignment.method=grpo", "alignment.rewards={hits: 1}"], 2, ["no reward 'hits'", "did you mean 'hit'?"]),
        (["alignment.methd=dpo"], 2, ["unknown key alignment.methd", "did you mean 'method'?"]),
        (["alignment.reference=nowhere"], 4, ["there is no folder nowhere"]),
        (["alignment.pairs={source: file, path: none.parquet}"], 3, ["there is no file none.parquet"]),
        (["alignment.training.metric=reward@10"], 2, ["alignment.training.metric = 'reward@10' is not measured"]),
    ],
)
def test_what_cannot_be_used_is_refused(options, code, words, tmp_path, capsys):
    extra = [part for option in options for part in ("--set", option)]
    assert main(command(tmp_path / "out", *extra)) == code
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    for word in words:
        assert word in shown
    assert not (tmp_path / "out").exists()


def test_a_model_that_scores_items_is_refused(tmp_path, capsys):
    model = tiny_home() / "run" / "baselines" / "sasrec"
    assert main(command(tmp_path / "out", model=model)) == 2
    assert "a 'sasrec' model has no sequence identifiers" in capsys.readouterr().err


def test_a_run_with_a_model_that_scores_items_is_refused_before_any_work(tmp_path, capsys):
    recipe = write_recipe(tmp_path, tiny_home() / "data")
    options = ["--set", "recommender={name: sasrec}", "--set", "alignment.method=dpo"]
    assert main(["run", str(recipe), "--out", str(tmp_path / "run"), *options]) == 2
    assert "has no sequence identifiers" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
