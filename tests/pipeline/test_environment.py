"""What a run says of the machine, and of where it was, to those who get its files."""

import sys
from pathlib import Path

import pytest
from tiny_run import copy_run, tiny_home

from genrec.cli import main
from genrec.pipeline.environment import describe_machine, published


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("runs/x/model", "runs/x/model"),
        ("/home/anna/work/runs/x/model", "runs/x/model"),
        ("/home/anna/secret/shop/model", "shop/model"),
        ("/srv/model", "srv/model"),
        ("/model", "model"),
        ("../other/model", "other/model"),
        ("runs/../../else/x/model", "x/model"),
    ],
)
def test_a_path_is_published_without_what_is_above_it(path, shown, monkeypatch):
    monkeypatch.setattr(Path, "cwd", lambda: Path("/home/anna/work"))
    monkeypatch.setattr("os.getcwd", lambda: "/home/anna/work")
    assert published(Path(path)) == shown


def test_the_command_is_kept_without_absolute_paths(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    line = ["/usr/bin/genrec", "run", "/home/anna/r.yaml", "--out", f"{tmp_path}/runs/x", "--set", "data.path=/a/b/c/d"]
    monkeypatch.setattr(sys, "argv", [*line, "--set", "training.seed=3", "--out=/a/b/c"])
    command = describe_machine()["command"]
    assert command[:5] == ["genrec", "run", "anna/r.yaml", "--out", "runs/x"]
    assert command[5:] == ["--set", "data.path=c/d", "--set", "training.seed=3", "--out=b/c"]


def test_no_file_of_a_model_or_report_names_the_folder_of_the_run(tmp_path, capsys):
    run = copy_run(tmp_path / "deep" / "secret" / "shop")
    assert main(["run", str(tiny_home() / "tiny.yaml"), "--out", str(run), "--force", "report"]) == 0
    card = (run / "model" / "README.md").read_text(encoding="utf-8")
    assert "from_pretrained('shop/model')" in card
    for path in [*(run / "model").rglob("*"), run / "env.json"]:
        assert not path.is_file() or b"secret" not in path.read_bytes(), path
