"""``--out`` of every verb against every kind of thing that may be there: nothing that genrec did not write changes."""

import hashlib
import os
import shutil
import socket
import stat
import sys
from pathlib import Path

import pytest

from genrec.artifacts import (
    files,
    open_work_folder,
    overwriting,
    read_manifest,
    verify_artifact,
    write_artifact,
    write_json,
)
from genrec.artifacts.targets import check_file_target, check_folder_target
from genrec.cli import main
from genrec.errors import ConfigError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tiny_run import copy_run, tiny_home

RECIPE = "tiny.yaml"
TOKENIZER = "tokenizer: {name: random, num_levels: 2}\n"
MODEL_SETTINGS = (
    "recommender.name=sasrec",
    "recommender.hidden_size=8",
    "recommender.num_layers=1",
    "training.epochs=1",
)
ALIGNMENT = (
    "alignment.method=dpo",
    "alignment.training.epochs=1",
    "alignment.pairs.users=8",
    "alignment.pairs.list_size=4",
)


def sets(*values: str) -> list[str]:
    return [part for value in values for part in ("--set", value)]


def command_of(verb: str, home: Path) -> list[str]:
    """A command that does little, with all its inputs below ``home``; without ``--out``."""
    run, data = home / "run", home / "data"
    dataset, features, model = run / "dataset", run / "features", run / "model"
    commands = {
        "prepare": ["prepare", "--interactions", data / "interactions.csv", "--k-core", "0"],
        "embed": ["embed", "--dataset", dataset, *sets("dim=4", "min_items=1")],
        "tokenize": ["tokenize", home / "random.yaml", "--dataset", dataset, "--features", features],
        "train": ["train", home / RECIPE, "--dataset", dataset, *sets(*MODEL_SETTINGS)],
        "align": ["align", home / RECIPE, "--model", model, "--dataset", dataset, *sets(*ALIGNMENT)],
        "upcycle": ["upcycle", "--model", model, *sets("recommender.experts=2")],
        "add-items": ["add-items", "--model", model, "--items", home / "new.csv"],
        "remove-items": ["remove-items", "--model", model, "--items", home / "gone.txt"],
        "run": ["run", home / RECIPE, "--until", "dataset"],
        "fetch": ["fetch", "ml-100k"],
        "generate": ["generate", "--model", model, "--histories", data / "interactions.csv", "--top-k", "2"],
        "evaluate": ["evaluate", "--model", model, "--dataset", dataset, *sets("bootstrap_samples=0", "ks=[1]")],
        "compare-tokenizers": ["compare-tokenizers", run / "tokenizer"],
    }
    return [str(part) for part in commands[verb]]


FOLDER_VERBS = (
    "prepare",
    "embed",
    "tokenize",
    "train",
    "align",
    "upcycle",
    "add-items",
    "remove-items",
    "run",
    "fetch",
)
FILE_VERBS = ("generate", "evaluate", "compare-tokenizers")
SUFFIXES = {"generate": ".parquet", "evaluate": ".json", "compare-tokenizers": ".png"}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Inputs that may be destroyed, and the working folder in them."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copytree(tiny_home() / "data", home / "data")
    copy_run(home / "run")
    text = (tiny_home() / RECIPE).read_text().replace(str(tiny_home()), str(home))
    (home / RECIPE).write_text(text)
    (home / "random.yaml").write_text(TOKENIZER)
    (home / "new.csv").write_text("item_id,title,genres\nn1,Lantern of night,space adventure\n")
    (home / "gone.txt").write_text("i00\n")
    (home / "thesis.txt").write_text("years of work")
    monkeypatch.setenv("GENREC_MIRROR", str(home / "nothing-is-here"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.chdir(home)
    return home


def content(folder: Path) -> dict[str, str]:
    """Every entry below a folder: the hash of a file, the target of a link, the kind of anything else."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            found[str(path)] = f"link to {os.readlink(path)}"
        elif stat.S_ISREG(mode):
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[str(path)] = f"kind {stat.S_IFMT(mode)}"
    return found


def folder_with_thesis(home: Path, name: str) -> Path:
    (home / name).mkdir()
    (home / name / "chapter.tex").write_text("years of work")
    return home / name


def file_of_mine(home: Path) -> Path:
    (home / "mine.txt").write_text("a text")
    return home / "mine.txt"


def named_pipe(home: Path) -> Path:
    os.mkfifo(home / "pipe")
    return home / "pipe"


def socket_of_mine(home: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
    return home / "socket"


def link_to_nothing(home: Path) -> Path:
    (home / "dangling").symlink_to(home / "not-there")
    return home / "dangling"


def link_to_thesis(home: Path) -> Path:
    folder_with_thesis(home, "thesis")
    (home / "link").symlink_to(home / "thesis")
    return home / "link"


def link_to_a_file(home: Path) -> Path:
    (home / "link").symlink_to(home / "thesis.txt")
    return home / "link"


def below_a_file(home: Path) -> Path:
    return file_of_mine(home) / "out"


def inside_a_finished_folder(home: Path) -> Path:
    return home / "run" / "model" / "out"


def working_folder(home: Path) -> Path:
    return Path(".")


def parent_of_everything(home: Path) -> Path:
    return home.parent


def folder_of_the_inputs(home: Path) -> Path:
    return home / "data"


def an_input_by_another_way(home: Path) -> Path:
    return home / "run" / "model" / ".." / "model"


def finished_folder_with_a_thesis(home: Path) -> Path:
    (home / "run" / "model" / "thesis.txt").write_text("years of work")
    shutil.copytree(home / "run" / "model", home / "copy")
    (home / "run" / "model" / "thesis.txt").unlink()
    return home / "copy"


def features_folder(home: Path) -> Path:
    shutil.copytree(home / "run" / "features", home / "vectors")
    return home / "vectors"


def folder_with_a_manifest_of_something_else(home: Path) -> Path:
    folder_with_thesis(home, "extension")
    (home / "extension" / "manifest.json").write_text('{"manifest_version": 3, "name": "an extension"}')
    return home / "extension"


TARGETS = (
    lambda home: folder_with_thesis(home, "thesis"),
    file_of_mine,
    named_pipe,
    socket_of_mine,
    link_to_nothing,
    link_to_thesis,
    link_to_a_file,
    below_a_file,
    inside_a_finished_folder,
    working_folder,
    parent_of_everything,
    folder_of_the_inputs,
    an_input_by_another_way,
    finished_folder_with_a_thesis,
    folder_with_a_manifest_of_something_else,
)
NAMES = ["folder_with_a_thesis", *(target.__name__ for target in TARGETS[1:])]


@pytest.mark.parametrize("overwrite", [False, True], ids=["", "overwrite"])
@pytest.mark.parametrize("target", TARGETS, ids=NAMES)
def test_no_verb_changes_what_genrec_did_not_write(target, overwrite, home, capfd):
    out = target(home)
    before = content(home.parent)
    for verb in (*FOLDER_VERBS, *FILE_VERBS):
        reads_model = str(home / "run" / "model") in command_of(verb, home)
        if target is an_input_by_another_way and not reads_model:
            continue
        # What --overwrite is for: a single file of the user's.
        if overwrite and verb in FILE_VERBS and out.is_file():
            continue
        options = ["--out", str(out), *(["--overwrite"] if overwrite else [])]
        code = main([*command_of(verb, home), *options])
        shown = capfd.readouterr().err
        assert (verb, code) == (verb, 2), shown
        # That verb asks for the ending of a picture first.
        assert verb == "compare-tokenizers" or "where: --out" in shown, f"{verb} was refused otherwise: {shown}"
        assert "Traceback" not in shown
        assert content(home.parent) == before, verb


def test_devices_are_refused(home, tmp_path):
    # A node like /dev/null, but not that of this machine.
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        device = Path("/dev/null")
    for check in (lambda: check_folder_target(device, "dataset"), lambda: check_file_target(device)):
        with pytest.raises(ConfigError, match="is a device"):
            check()
    assert stat.S_ISCHR(device.stat().st_mode)


@pytest.mark.parametrize("verb", FILE_VERBS)
def test_a_file_is_replaced_only_if_genrec_wrote_it(verb, home, capsys):
    out = home / f"result{SUFFIXES[verb]}"
    command = [*command_of(verb, home), "--out", str(out)]
    out.write_text("my own result")
    assert main(command) == 2
    assert "is a file that genrec did not write" in capsys.readouterr().err
    assert out.read_text() == "my own result"
    assert main([*command, "--overwrite"]) == 0
    first = out.read_bytes()
    assert first != b"my own result"
    assert main(command) == 0
    assert out.read_bytes() == first


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl"])
def test_lists_as_text_have_no_place_for_a_mark(ending, home, capsys):
    out = home / f"lists{ending}"
    command = [*command_of("generate", home), "--out", str(out)]
    assert main(command) == 0
    first = out.read_bytes()
    assert main(command) == 2
    assert "is a file that genrec did not write" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    assert out.read_bytes() == first


def test_an_edited_result_is_the_users(home, capsys):
    out = home / "metrics.json"
    command = [*command_of("evaluate", home), "--out", str(out)]
    assert main(command) == 0
    edited = out.read_text().replace('"notes": [', '"notes": ["my remark", ', 1)
    out.write_text(edited)
    assert main(command) == 2
    assert out.read_text() == edited
    (home / "notes.json").write_text('{"generator": "generated-by-genrec"}')
    (home / "notes.txt").write_text("about generated-by-genrec")
    for name in ("notes.json", "notes.txt"):
        with pytest.raises(ConfigError, match="genrec did not write"):
            check_file_target(home / name)


@pytest.mark.parametrize(
    ("verb", "option", "name"),
    [
        ("generate", "--histories", "data/interactions.csv"),
        ("generate", "--block-items", "gone.txt"),
        ("evaluate", "--recommendations", "run/recommendations.parquet"),
        ("evaluate", "--dataset", "run/dataset"),
        ("add-items", "--items", "new.csv"),
        ("tokenize", "--features", "run/features"),
    ],
)
def test_an_input_is_never_the_output(verb, option, name, home, capsys):
    command = command_of(verb, home)
    if option == "--recommendations":
        command = ["evaluate", option, str(home / name), "--dataset", str(home / "run" / "dataset")]
    elif option not in command:
        command += [option, str(home / name)]
    before = content(home)
    assert main([*command, "--out", str(home / name), "--overwrite"]) == 2
    assert "is read by this command" in capsys.readouterr().err
    assert content(home) == before


def test_a_folder_of_shards_is_not_written_into(home, capsys):
    (home / "shards").mkdir()
    shutil.copy(home / "data" / "interactions.csv", home / "shards" / "part-0.csv")
    command = [
        "prepare",
        "--interactions",
        str(home / "shards"),
        "--k-core",
        "0",
        "--out",
        str(home / "shards" / "out"),
    ]
    assert main(command) == 2
    assert "is inside" in capsys.readouterr().err


def test_folders_of_genrec_are_replaced_by_their_own_stage_only(home, capsys):
    out = features_folder(home)
    command = [*command_of("prepare", home), "--out", str(out)]
    assert main(command) == 2
    assert "holds a features" in capsys.readouterr().err
    assert verify_artifact(out, "features")
    assert main([*command, "--overwrite"]) == 0
    assert verify_artifact(out, "dataset")
    assert main(command) == 0
    (out / "items.parquet").write_bytes(b"corrected by hand")
    assert main(command) == 2
    assert "was changed since genrec wrote it: items.parquet" in capsys.readouterr().err
    assert (out / "items.parquet").read_bytes() == b"corrected by hand"
    assert main([*command, "--overwrite"]) == 0
    assert verify_artifact(out, "dataset")


def test_an_edited_model_card_is_a_change(home, capsys):
    command = [*command_of("add-items", home), "--out", str(home / "larger")]
    assert main(command) == 0
    assert main(command) == 0
    card = home / "larger" / "README.md"
    card.write_text("My notes.\n\n" + card.read_text())
    capsys.readouterr()
    assert main(command) == 2
    assert "README.md" in capsys.readouterr().err
    card.write_text("A card without the last comment")
    assert main([*command, "--overwrite"]) == 2
    assert card.read_text() == "A card without the last comment"


def test_links_are_written_through(home):
    (home / "disk").mkdir()
    (home / "link").symlink_to(home / "disk")
    command = [*command_of("prepare", home), "--out", str(home / "link")]
    assert main(command) == 0
    assert (home / "link").is_symlink()
    assert main(command) == 0
    assert verify_artifact(home / "disk", "dataset")
    (home / "lists.parquet").symlink_to(home / "disk-lists.parquet")
    (home / "disk-lists.parquet").write_bytes(b"")
    lists = [*command_of("generate", home), "--out", str(home / "lists.parquet"), "--overwrite"]
    assert main(lists) == 0
    assert (home / "lists.parquet").is_symlink()
    assert (home / "disk-lists.parquet").stat().st_size > 0


def test_an_empty_folder_is_used_and_keeps_its_permissions(home):
    (home / "empty").mkdir(mode=0o750)
    assert main([*command_of("prepare", home), "--out", str(home / "empty")]) == 0
    assert verify_artifact(home / "empty", "dataset")
    assert stat.S_IMODE((home / "empty").stat().st_mode) == 0o750


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with write_artifact(tmp_path / "out", "features") as folder:
            # As some libraries write: for their owner only.
            (folder.path / "private.bin").touch(mode=0o600)
            (folder.path / "private.bin").write_bytes(b"x")
        write_json(tmp_path / "a.json", {})
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {"out": 0o750, "private.bin": 0o640, "manifest.json": 0o640, "a.json": 0o640}


def test_a_run_uses_its_own_folder_only(home, capsys):
    (home / "project" / "dataset").mkdir(parents=True)
    (home / "project" / "dataset" / "net.py").write_text("my code")
    before = content(home / "project")
    assert main([*command_of("run", home), "--out", str(home / "project")]) == 2
    assert "was not made by genrec: it holds 'dataset'" in capsys.readouterr().err
    assert content(home / "project") == before


@pytest.mark.parametrize(
    "name", ["metrics.json", "report.html", "recommendations.parquet", "env.json", "metrics.jsonl"]
)
def test_a_run_does_not_replace_a_file_that_came_later(name, home, capsys):
    new = home / "other"
    assert main([*command_of("run", home), "--out", str(new)]) == 0
    (new / name).write_text("mine\nand mine\n")
    whole = ["run", str(home / RECIPE), "--out", str(new)]
    assert main(whole) == 2
    assert name in capsys.readouterr().err
    assert (new / name).read_text() == "mine\nand mine\n"


def test_the_recipe_in_the_folder_of_a_run_is_not_replaced(home, capsys):
    new = home / "other"
    assert main([*command_of("run", home), "--out", str(new)]) == 0
    own = new / "config.yaml"
    own.write_text("# my comment\n" + own.read_text())
    again = ["run", str(own), "--until", "dataset", "--out", str(new)]
    assert main(again) == 0
    assert own.read_text().startswith("# my comment\n")
    assert main([*again, "--set", "training.epochs=3"]) == 2
    assert "is the recipe of this run" in capsys.readouterr().err
    assert own.read_text().startswith("# my comment\n")


@pytest.mark.parametrize("name", ["trained.checkpoints", "trained.metrics.jsonl", "aligned.iterations"])
def test_folders_and_logs_next_to_the_target_are_checked_too(name, home, capsys):
    verb = "train" if name.startswith("trained") else "align"
    taken = home / name
    if taken.suffix == ".jsonl":
        taken.write_text("not a log\nat all\n")
    else:
        folder_with_thesis(home, name)
    before = content(home)
    assert main([*command_of(verb, home), "--out", str(home / name.split(".")[0])]) == 2
    assert name in capsys.readouterr().err
    assert content(home) == before


def test_overwriting_ends_with_its_block(tmp_path):
    with write_artifact(tmp_path / "out", "features") as folder:
        (folder.path / "a.txt").write_text("x")
    with overwriting():
        check_folder_target(tmp_path / "out", "model")
    with pytest.raises(ConfigError, match="holds a features"):
        check_folder_target(tmp_path / "out", "model")
    assert read_manifest(tmp_path / "out").stage == "features"


def test_scripts_refuse_the_same(home, capsys):
    from argparse import ArgumentParser

    from genrec.artifacts import open_work_folder
    from genrec.artifacts.marks import write_result
    from genrec.artifacts.results import result_file, work_folder

    parser = ArgumentParser()
    parser.add_argument("--json", type=result_file)
    parser.add_argument("--out", type=work_folder)
    before = content(home)
    for option, path in (("--json", "thesis.txt"), ("--out", "data"), ("--out", "thesis.txt"), ("--json", "data")):
        with pytest.raises(SystemExit) as refused:
            parser.parse_args([option, str(home / path)])
        assert refused.value.code == 2
        assert path in capsys.readouterr().err
    assert content(home) == before
    figures = parser.parse_args(["--json", str(home / "figures.json")]).json
    write_result(figures, {"ratio": 2.0})
    assert parser.parse_args(["--json", str(figures)]).json == figures
    work = parser.parse_args(["--out", str(home / "work")]).out
    assert not work.exists()
    (open_work_folder(work) / "notes.txt").write_text("mine")
    assert parser.parse_args(["--out", str(work)]).out == work


def test_the_same_file_by_another_name_is_an_input(home):
    os.link(home / "data" / "interactions.csv", home / "hard.csv")
    with pytest.raises(ConfigError, match="is read by this command"), overwriting():
        check_file_target(home / "hard.csv", reads=[home / "data" / "interactions.csv"])


@pytest.mark.parametrize(
    ("name", "message", "code"),
    [
        ("absent/../out", "leads through absent", 2),
        ("n" * 201, "name of 201 bytes", 4),
        ("文" * 67, "name of 201 bytes", 4),
    ],
)
@pytest.mark.parametrize("verb", ["prepare", "run", "generate"])
def test_names_that_end_the_work_late_are_refused_early(verb, name, message, code, home, capsys):
    before = content(home)
    assert main([*command_of(verb, home), "--out", name]) == code
    assert message in capsys.readouterr().err
    assert content(home) == before


@pytest.mark.parametrize(
    "mine", ["my one line\n", "my one line", '{"recipe": "mine"}\n', '{"recipe": "mine"}', "{mine}\n"]
)
def test_a_file_of_one_line_is_no_training_log(mine, home, capsys):
    (home / "trained.metrics.jsonl").write_text(mine)
    assert main([*command_of("train", home), "--out", str(home / "trained")]) == 2
    assert "is not a training log" in capsys.readouterr().err
    assert (home / "trained.metrics.jsonl").read_text() == mine


@pytest.mark.parametrize(
    ("verb", "folder"), [("train", "out.checkpoints"), ("align", "out.iterations"), ("generate", ".out.parquet.parts")]
)
def test_files_put_into_folders_of_work_stay(verb, folder, home, caplog):
    work = open_work_folder(home / folder)
    (work / "thesis.txt").write_text("years of work")
    out = home / f"out{SUFFIXES.get(verb, '')}"
    assert main([*command_of(verb, home), "--out", str(out)]) == 0
    assert sorted(path.name for path in work.iterdir()) == [".genrec", "thesis.txt"]
    assert "holds 'thesis.txt', which genrec did not write" in caplog.text


@pytest.mark.parametrize("verb", FILE_VERBS)
def test_a_file_that_comes_while_a_verb_works_is_not_replaced(verb, home, monkeypatch, capsys):
    out = home / f"late{SUFFIXES[verb]}"
    replace = files.replace_file

    def late(source, target):
        if target == out:
            out.write_text("mine")
        replace(source, target)

    monkeypatch.setattr("genrec.artifacts.files.replace_file", late)
    monkeypatch.setattr("genrec.decoding.shards.replace_file", late)
    assert main([*command_of(verb, home), "--out", str(out)]) == 2
    assert "is a file that genrec did not write" in capsys.readouterr().err
    assert out.read_text() == "mine"


def test_a_refused_run_leaves_an_empty_folder_as_it_was(home):
    (home / "empty").mkdir()
    for name in ("empty", "new"):
        assert main(["run", str(home / RECIPE), "--out", str(home / name), "--set", "data.path=nowhere"]) == 3
    assert list((home / "empty").iterdir()) == []
    assert not (home / "new").exists()


@pytest.mark.parametrize("name", ["stages.json", "metrics.jsonl", "env.json", "config.yaml", "report.html"])
def test_a_run_of_somebody_else_writes_nothing_through_links(name, home, capsys):
    (home / "mine.jsonl").write_text('{"step": 9}\n')
    (home / "run" / name).unlink()
    (home / "run" / name).symlink_to(home / "mine.jsonl")
    assert main(["run", str(home / RECIPE), "--out", str(home / "run"), "--set", "training.epochs=1"]) == 2
    assert name in capsys.readouterr().err
    assert (home / "mine.jsonl").read_text() == '{"step": 9}\n'
