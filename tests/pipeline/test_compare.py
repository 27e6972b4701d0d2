"""`genrec compare`: which runs are one system, what is refused, and that every way of writing it is safe."""

import csv
import io
import json
import re
import shutil

import numpy as np
import polars as pl
import pytest
import yaml
from safetensors.numpy import load_file, save_file
from tiny_run import copy_run, tiny_home

from genrec.artifacts import MARK, file_sha256, read_json, write_json
from genrec.artifacts.marks import is_generated, write_result
from genrec.cli import main
from genrec.config import DataConfig, EvaluationConfig
from genrec.data import Dataset, prepare_dataset
from genrec.evaluation.protocol import Protocol, score_lists

STOPPED = "stopped by time at 1.0 of 2 epochs"
CONFIG = EvaluationConfig(ks=(1, 5, 10), bootstrap_samples=50)


def rewrite(run, **changes):
    """Put files of a run's stage in the place of those that are there, as the stage would have left them."""
    ledger = read_json(run / "stages.json")
    for name, (stage, write) in changes.items():
        path = run / name.replace("__", "/").replace("_", ".")
        write(path)
        ledger[stage]["outputs"][str(path.relative_to(run))] = file_sha256(path)
    write_json(run / "stages.json", ledger)


def make_run(folder, seed, *, hits=0.2, changed=None, stopped=None):
    """A run of the tiny recipe with another seed and lists of its own: so many users find their item first."""
    run = copy_run(folder)
    recipe = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    recipe["training"]["seed"] = seed
    for section, values in (changed or {}).items():
        recipe[section].update(values)
    (run / "config.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    dataset = Dataset.load(run / "dataset")
    _, targets = dataset.evaluation("test")
    random = np.random.default_rng(seed)
    lists = np.stack([random.permutation(dataset.num_items)[:10] for _ in range(len(targets))]).astype(np.int32)
    for row in np.flatnonzero(random.random(len(targets)) < hits):
        item = targets[row][0]
        lists[row] = np.append(item, lists[row][lists[row] != item])[:10]
    metrics = read_json(run / "metrics.json")
    protocol = Protocol.model_validate({**metrics["protocol"], "seeds": [seed], "stopped": stopped})
    metrics |= score_lists("depth", lists, dataset, protocol, CONFIG).as_json()
    scores = np.zeros(lists.shape, dtype=np.float32)
    rewrite(
        run,
        lists_safetensors=(
            "evaluation",
            lambda path: save_file({"items": lists, "scores": scores}, path, {"generator": MARK}),
        ),
        metrics_json=("evaluation", lambda path: write_result(path, metrics)),
    )
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three seeds of one recipe, and three of another that finds more."""
    home = tmp_path_factory.mktemp("runs")
    for seed in (1, 2, 3):
        make_run(home / f"weak-{seed}", seed)
        make_run(home / f"strong-{seed}", seed, hits=0.9, changed={"recommender": {"dropout": 0.4}})
    return home


def compared(capsys, *words):
    """What the command says, as JSON."""
    code = main(["compare", *map(str, words), "--json"])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    return json.loads(shown.out)


def refused(capsys, *words):
    code = main(["compare", *map(str, words)])
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Traceback" not in shown.err
    return code, shown.err


def every(runs, kind):
    return [runs / f"{kind}-{seed}" for seed in (1, 2, 3)]


def test_runs_of_one_recipe_are_one_system_whatever_their_order(runs, capsys):
    found = compared(capsys, runs / "strong-2", *every(runs, "weak"), runs / "strong-1", runs / "strong-3")
    assert [(one["system"], one["runs"]) for one in found["systems"]] == [
        ("depth (strong-2)", 3),
        ("depth (weak-1)", 3),
    ]
    figures = [read_json(run / "metrics.json")["metrics"]["ndcg@10"] for run in every(runs, "weak")]
    assert found["systems"][1]["mean"]["ndcg@10"] == pytest.approx(np.mean(figures))
    assert found["systems"][1]["sd"]["ndcg@10"] == pytest.approx(np.std(figures, ddof=1))
    assert all(one["significant"] and one["scope"] == "systems" for one in found["comparisons"])
    assert any("differ in recommender.dropout" in remark for remark in found["remarks"])


def test_a_name_makes_one_system_and_says_what_else_differs(runs, capsys):
    sources = [f"x={runs / 'weak-1'}", f"x={runs / 'strong-2'}"]
    found = compared(capsys, *sources)
    assert [(one["system"], one["runs"]) for one in found["systems"]] == [("x", 2)]
    assert any("the runs of x differ in more than the seed: recommender.dropout" in one for one in found["remarks"])


def test_one_seed_each_is_about_the_runs_and_marks_nothing(runs, capsys):
    found = compared(capsys, runs / "weak-1", runs / "strong-1")
    assert {one["scope"] for one in found["comparisons"]} == {"runs"}
    assert all(one["p_corrected"] < 0.05 and not one["significant"] for one in found["comparisons"])
    assert main(["compare", str(runs / "weak-1"), str(runs / "strong-1"), "--markdown"]) == 0
    assert "<sup>" not in capsys.readouterr().out


def test_baselines_and_variants_of_a_run_are_systems_too(runs, capsys):
    found = compared(capsys, *every(runs, "weak"), "--include", "baselines")
    names = {one["system"]: (one["runs"], one["has_seed"]) for one in found["systems"]}
    assert names["Popularity"] == (1, False)
    assert names["Item-kNN"] == (1, False)
    # The copies hold the same trained SASRec under other seeds of the recipe.
    assert names["SASRec"][1]
    stored = read_json(runs / "weak-1" / "metrics.json")["baselines"]["itemknn"]["metrics"]["ndcg@10"]
    assert next(one for one in found["systems"] if one["system"] == "Item-kNN")["mean"]["ndcg@10"] == stored
    scopes = {(one["system"], one["other"]): one["scope"] for one in found["comparisons"]}
    assert scopes["Popularity", "depth"] == "systems"
    code, message = refused(capsys, runs / "weak-1", "--include", "variants", "--include", "nobody")
    assert code == 2
    assert "no run has 'nobody'" in message


def test_a_run_keeps_the_lists_of_its_variants(tmp_path, capsys):
    changes = ("recommender.item_loss=1", "decoding.item_weight=1", "training.epochs=1", "evaluation.baselines=[]")
    words = [word for change in changes for word in ("--set", change)]
    run = tmp_path / "run"
    recipe = str(tiny_home() / "tiny.yaml")
    assert main(["run", recipe, "--out", str(run), "--until", "evaluation", *words]) == 0
    capsys.readouterr()
    found = compared(capsys, run, "--include", "variants")
    stored = read_json(run / "metrics.json")
    assert [one["system"] for one in found["systems"]] == ["depth, codes only", "depth, item vectors only", "depth"]
    for one in found["systems"][:2]:
        assert one["mean"]["ndcg@10"] == stored["variants"][one["system"]]["metrics"]["ndcg@10"]
        assert one["has_seed"]
    (run / "variants.safetensors").unlink()
    code, message = refused(capsys, run, "--include", "variants")
    assert code == 4
    assert "has no variants.safetensors" in message


def test_nothing_is_tested_against_a_stopped_system(runs, tmp_path, capsys):
    for seed in (1, 2, 3):
        make_run(tmp_path / f"late-{seed}", seed, hits=0.9, changed={"training": {"epochs": 9}}, stopped=STOPPED)
    sources = [*every(runs, "weak"), *(f"late={tmp_path / f'late-{seed}'}" for seed in (1, 2, 3))]
    found = compared(capsys, *sources)
    assert all(one["p"] is None and not one["significant"] for one in found["comparisons"])
    assert {one["scope"] for one in found["comparisons"]} == {"stopped"}
    for style in ("--latex", "--markdown", "--csv", "--json"):
        assert main(["compare", *map(str, sources), style]) == 0
        assert STOPPED in capsys.readouterr().out


def test_a_run_of_before_the_mark_is_marked_by_its_training(runs, tmp_path, capsys):
    run = make_run(tmp_path / "old", 5)
    metrics, training = read_json(run / "metrics.json"), read_json(run / "model" / "training.json")
    del metrics["protocol"]["stopped"]
    rewrite(run, metrics_json=("evaluation", lambda path: write_result(path, metrics)))
    write_json(run / "model" / "training.json", training | {"stopped": "time", "epochs": 1.25})
    assert compared(capsys, run)["systems"][0]["stopped"] == "stopped by time at 1.2 of 2 epochs"


def test_other_data_are_refused_with_what_differs(runs, tmp_path, capsys):
    run = copy_run(tmp_path / "other")
    shutil.rmtree(run / "dataset")
    data = prepare_dataset(DataConfig(path=str(tiny_home() / "data"), k_core=3, split="ratio"), run / "dataset")
    ledger = read_json(run / "stages.json")
    ledger["dataset"]["outputs"]["dataset"] = data.fingerprint
    write_json(run / "stages.json", ledger)
    code, message = refused(capsys, runs / "weak-1", run)
    assert code == 4
    assert "was measured on other data than" in message
    assert "data.k_core is 0 and 3" in message
    assert "data.split is 'leave-one-out' and 'ratio'" in message


def test_the_same_run_twice_is_refused(runs, tmp_path, capsys):
    code, message = refused(capsys, runs / "weak-1", shutil.copytree(runs / "weak-1", tmp_path / "again"))
    assert code == 2
    assert "are one recipe with one seed" in message


def test_lists_that_are_too_short_are_refused(runs, capsys):
    code, message = refused(capsys, runs / "weak-1", "--metric", "ndcg@20")
    assert code == 4
    assert "weak-1 has no ndcg@20: its lists have 10 items" in message


@pytest.mark.parametrize("left", [("config.yaml", "stages.json"), ("config.yaml",), (".genrec",)])
def test_a_run_that_is_not_finished_is_refused_as_one(left, runs, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    for name in left:
        shutil.copy(runs / "weak-1" / name, run / name)
    code, message = refused(capsys, run)
    assert code == 4
    assert str(run) in message
    assert "has no metrics.json" in message or "there is no recipe" in message


@pytest.mark.parametrize("name", ["lists.safetensors", "metrics.json"])
def test_changed_files_are_refused(name, runs, tmp_path, capsys):
    run = copy_run(tmp_path / "run")
    path = run / name
    path.write_bytes(path.read_bytes() + b" ")
    code, message = refused(capsys, run)
    assert code == 4
    assert f"{name} was changed after it was written" in message
    path.unlink()
    code, message = refused(capsys, run)
    assert code == 4
    assert "--force evaluation" in message


def test_lists_that_do_not_give_the_figures_are_refused(runs, tmp_path, capsys):
    run = copy_run(tmp_path / "run")
    lists = load_file(run / "lists.safetensors")
    lists["items"] = lists["items"][::-1].copy()
    rewrite(run, lists_safetensors=("evaluation", lambda path: save_file(lists, path, {"generator": MARK})))
    code, message = refused(capsys, run)
    assert code == 4
    assert re.search(r"the lists of depth give \w+@\d+ 0\.\d+, metrics\.json says 0\.\d+", message)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["nowhere"], 4, "there is no nowhere"),
        (["RUN/metrics.json"], 4, "--save-lists FILE.parquet"),
        (["RUN/model"], 4, "is a model folder, without lists"),
        (["RUN", "--metric", "map@10"], 2, "there is no metric 'map@10'"),
        (["RUN", "--metric", "ndcg@0"], 2, "there is no metric 'ndcg@0'"),
        (["RUN", "--reference", "x"], 2, "there is no system 'x' to compare with"),
        (["RUN", "--without-seed", "x"], 2, "there is no system 'x'"),
        (["RUN", "--latex", "--csv"], 2, "--latex and --csv are given"),
        (["RUN", "--out", "RUN/config.yaml"], 2, "is inside"),
        (["=RUN"], 2, "is not NAME=PATH"),
    ],
)
def test_what_cannot_be_compared_says_why(words, code, text, runs, capsys):
    found, message = refused(capsys, *(word.replace("RUN", str(runs / "weak-1")) for word in words))
    assert found == code
    assert text in message


def test_files_of_lists_are_systems(runs, tmp_path, capsys):
    dataset = Dataset.load(runs / "weak-1" / "dataset")
    _, targets = dataset.evaluation("test")
    users = [dataset.user_ids[user] for user in targets.users]
    items = [dataset.item_ids[targets[row][0]] for row in range(len(targets))]
    frame = pl.DataFrame({"user_id": users, "rank": 1, "item_id": items})
    frame.write_csv(tmp_path / "oracle.csv")
    assert refused(capsys, tmp_path / "oracle.csv")[0] == 2
    words = [tmp_path / "oracle.csv", *every(runs, "weak"), "--metric", "recall@1"]
    found = compared(capsys, *words)
    assert found["systems"][0]["mean"] == {"recall@1": 1.0}
    assert found["comparisons"][0]["scope"] == "runs"
    assert compared(capsys, *words, "--without-seed", "oracle")["comparisons"][0]["significant"]
    alone = compared(capsys, tmp_path / "oracle.csv", "--dataset", dataset.path, "--metric", "recall@1")
    assert alone["systems"][0]["system"] == "oracle"


def test_evaluate_keeps_lists_that_say_what_made_them(runs, tmp_path, capsys):
    run, lists = tiny_home() / "run", tmp_path / "lists.parquet"
    words = ["--model", run / "model", "--dataset", run / "dataset", "--out", tmp_path / "m.json"]
    assert main(["evaluate", *map(str, words), "--save-lists", str(lists), "--set", "ks=[1, 5, 10]"]) == 0
    capsys.readouterr()
    found = compared(capsys, lists, "--dataset", run / "dataset")
    assert found["systems"][0]["system"] == "depth"
    assert found["systems"][0]["mean"]["ndcg@10"] == pytest.approx(
        read_json(run / "metrics.json")["metrics"]["ndcg@10"]
    )
    assert is_generated(lists)
    other = prepare_dataset(DataConfig(path=str(tiny_home() / "data"), k_core=3), tmp_path / "other")
    code, message = refused(capsys, lists, "--dataset", other.path)
    assert code == 4
    assert "--dataset was measured on other data than" in message
    assert main(["evaluate", *map(str, words), "--save-lists", str(tmp_path / "lists.csv")]) == 2
    assert "no Parquet file" in capsys.readouterr().err


ODD = r"=cmd|'/c calc'!A1 & 50%_#{x}\input{y}<b>"


def test_names_are_text_in_every_format(runs, tmp_path, capsys):
    run = str(shutil.copytree(runs / "weak-1", tmp_path / "plain"))
    # The name ends at the first equals sign, so the one that begins a formula is given by a file's name.
    lists = tmp_path / f"{ODD.replace('/', '-')}.csv"
    pl.DataFrame({"user_id": ["u01"], "rank": [1], "item_id": ["i00"]}).write_csv(lists)
    words = ["compare", str(lists), run, "--metric", "recall@1"]
    assert main([*words, "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert rows[0]["system"] == f"'{lists.stem}"
    assert {row["kind"] for row in rows} == {"system", "comparison"}
    assert main([*words, "--markdown"]) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table[:4]]
    assert {len(row) for row in cells} == {4}
    assert "<b>" not in "".join(table)
    assert main([*words, "--latex"]) == 0
    latex = capsys.readouterr().out
    assert r"\textbar{}" in latex
    assert r"50\%\_\#\{x\}\textbackslash{}input\{y\}\textless{}b\textgreater{}" in latex


def test_files_that_were_written_are_replaced_where_they_can_be_known_again(runs, tmp_path, capsys):
    run = str(runs / "weak-1")
    for style, name in (("--markdown", "t.md"), ("--latex", "t.tex")):
        for _ in range(2):
            assert main(["compare", run, style, "--out", str(tmp_path / name)]) == 0
    assert main(["compare", run, "--csv", "--out", str(tmp_path / "t.csv")]) == 0
    assert main(["compare", run, "--csv", "--out", str(tmp_path / "t.csv")]) == 2
    assert main(["compare", run, "--csv", "--out", str(tmp_path / "t.csv"), "--overwrite"]) == 0


def test_trec_files_of_a_run_give_its_figures(runs, tmp_path, capsys):
    import ir_measures

    out = tmp_path / "trec"
    assert main(["compare", *map(str, every(runs, "weak")), "--include", "itemknn", "--trec", str(out)]) == 0
    names = sorted(path.name for path in out.iterdir())
    assert names == [
        "a-Item-kNN-1.run", "b-depth-1.run", "b-depth-2.run", "b-depth-3.run", "manifest.json", "qrels.txt",
    ]  # fmt: skip
    qrels = list(ir_measures.read_trec_qrels(str(out / "qrels.txt")))
    for number, run in enumerate(every(runs, "weak"), start=1):
        lists = ir_measures.read_trec_run(str(out / f"b-depth-{number}.run"))
        found = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, lists)[ir_measures.nDCG @ 10]
        assert found == pytest.approx(read_json(run / "metrics.json")["metrics"]["ndcg@10"])
