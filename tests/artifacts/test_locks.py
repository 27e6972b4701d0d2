"""One writer at a time; what a killed writer leaves is the old folder or the new one, and the next clears the rest."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from genrec.artifacts import (
    folders,
    open_work_folder,
    remove_work_folder,
    reserve_file,
    reserve_folder,
    reserve_work_folder,
    verify_artifact,
    write_artifact,
    write_json,
)
from genrec.artifacts.removal import remove_checkpoint
from genrec.errors import ArtifactError, ConfigError

# Writes the folder again and dies before the LINE-th line that runs in the files that write.
KILLED = """
import os, signal, sys
from pathlib import Path
from genrec.artifacts import folders, reserve_folder, write_artifact

target, text, kill_at, exchanges = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4] == "exchange"
if not exchanges:
    folders._exchange = lambda one, other: False
left = kill_at

def trace(frame, event, argument):
    global left
    if not frame.f_code.co_filename.endswith(("folders.py", "artifacts/files.py", "locks.py", "shutil.py")):
        return None
    if event == "line":
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return trace

sys.settrace(trace)
with reserve_folder(target, "features"), write_artifact(target, "features") as folder:
    (folder.path / "a.txt").write_text(text)
    (folder.path / "inner").mkdir()
    (folder.path / "inner" / "b.txt").write_text(text)
sys.settrace(None)
print("lines", kill_at - left)
"""


def write(target: Path, text: str) -> None:
    with reserve_folder(target, "features"), write_artifact(target, "features") as folder:
        (folder.path / "a.txt").write_text(text)
        (folder.path / "inner").mkdir()
        (folder.path / "inner" / "b.txt").write_text(text)


def run_killed(target: Path, text: str, kill_at: int, way: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", KILLED, str(target), text, str(kill_at), way]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("way", ["exchange", "two renames"])
def test_a_kill_at_any_instant_leaves_the_old_folder_or_the_new_one(way, tmp_path):
    write(tmp_path / "count" / "out", "old")
    lines = int(run_killed(tmp_path / "count" / "out", "new", 10**9, way).stdout.split()[1])
    seen = set()
    # Everywhere, and at each of the last lines, which put the folder in place and clear away the old one.
    for kill_at in sorted({*range(1, lines, lines // 8), *range(lines - 24, lines + 1, 2)}):
        target = tmp_path / f"at-{kill_at}" / "out"
        write(target, "old")
        assert run_killed(target, "new", kill_at, way).returncode == -signal.SIGKILL
        with reserve_folder(target, "features"):
            # What the next command finds, before it writes anything.
            assert verify_artifact(target).stage == "features"
            texts = {(target / "a.txt").read_text(), (target / "inner" / "b.txt").read_text()}
        assert len(texts) == 1
        seen |= texts
        write(target, "next")
        assert (target / "a.txt").read_text() == "next"
        assert [path.name for path in target.parent.iterdir()] == ["out"]
    assert seen == {"old", "new"}


def test_a_kill_between_two_renames_is_undone_by_the_next_command(tmp_path):
    write(tmp_path / "out", "old")
    (tmp_path / "out").rename(tmp_path / ".out.genrec-0123abcd.old")
    (tmp_path / ".out.genrec-4567abcd.part").mkdir()
    (tmp_path / ".other.genrec-4567abcd.part").mkdir()
    (tmp_path / ".out.part").write_text("not genrec's")
    with reserve_folder(tmp_path / "out", "features"):
        assert (tmp_path / "out" / "a.txt").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.genrec-4567abcd.part", ".out.part", "out"]


def test_a_stage_of_a_run_is_brought_back_too(tmp_path):
    with reserve_work_folder(tmp_path / "run") as run:
        write(run / "model", "trained for hours")
        (run / "model").rename(run / ".model.genrec-0123abcd.old")
        (run / ".dataset.genrec-0123abcd.part").mkdir()
    with reserve_work_folder(tmp_path / "run") as run:
        assert (run / "model" / "a.txt").read_text() == "trained for hours"
        assert sorted(path.name for path in run.iterdir()) == [".genrec", "model"]


def test_a_folder_that_is_brought_back_is_checked(tmp_path):
    with write_artifact(tmp_path / "out", "tokenizer") as folder:
        (folder.path / "a.txt").write_text("x")
    (tmp_path / "out").rename(tmp_path / ".out.genrec-0123abcd.old")
    with pytest.raises(ConfigError, match="holds a tokenizer"), reserve_folder(tmp_path / "out", "features"):
        pass
    assert verify_artifact(tmp_path / "out", "tokenizer")


def hold(target: str, started, finish) -> None:
    with reserve_folder(Path(target), "features"):
        started.set()
        finish.wait(30)


def test_a_second_process_is_refused_and_a_dead_one_does_not_block(tmp_path):
    context = multiprocessing.get_context("fork")
    started, finish = context.Event(), context.Event()
    process = context.Process(target=hold, args=(str(tmp_path / "out"), started, finish))
    process.start()
    assert started.wait(30)
    with (
        pytest.raises(ArtifactError, match=r"another process is writing .*out"),
        reserve_folder(tmp_path / "out", "features"),
    ):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    write(tmp_path / "out", "after")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_every_kind_of_target_has_one_writer(tmp_path):
    for reserve, name in (
        (lambda path: reserve_folder(path, "features"), "folder"),
        (reserve_file, "file.json"),
        (reserve_work_folder, "run"),
    ):
        with reserve(tmp_path / name), pytest.raises(ArtifactError, match="another process"), reserve(tmp_path / name):
            pass
        with reserve(tmp_path / name):
            pass
    assert list(tmp_path.iterdir()) == []


def test_processes_that_work_together_take_one_lock(tmp_path):
    with reserve_folder(tmp_path / "out", "features"), reserve_folder(tmp_path / "out", "features", lock=False):
        pass


def test_what_dead_writers_of_files_left_is_cleared(tmp_path):
    (tmp_path / ".a.json.genrec-01234567.part").write_text("half")
    with reserve_file(tmp_path / "a.json"):
        write_json(tmp_path / "a.json", {})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    with reserve_work_folder(tmp_path / "run") as run:
        (run / ".metrics.json.genrec-01234567.part").write_text("half")
        (run / "notes.txt").write_text("mine")
    with reserve_work_folder(tmp_path / "run") as run:
        assert sorted(path.name for path in run.iterdir()) == [".genrec", "notes.txt"]


def test_only_work_folders_are_removed(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    remove_work_folder(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").is_file()
    with pytest.raises(ConfigError, match=r"it holds 'thesis\.txt'"):
        open_work_folder(tmp_path / "mine")
    remove_work_folder(open_work_folder(tmp_path / "work"))
    assert not (tmp_path / "work").exists()


def test_a_folder_that_appears_in_the_meantime_is_not_replaced(tmp_path):
    def write_late():
        with write_artifact(tmp_path / "out", "features") as folder:
            (folder.path / "a.txt").write_text("x")
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "thesis.txt").write_text("years of work")

    with pytest.raises(ConfigError, match=r"thesis\.txt"):
        write_late()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("way", ["exchange", "two renames"])
def test_what_comes_into_a_folder_at_the_last_moment_is_kept(way, tmp_path, monkeypatch):
    write(tmp_path / "out", "old")
    exchange = folders._exchange

    def late(one, other):
        (tmp_path / "out" / "thesis.txt").write_text("years of work")
        return way == "exchange" and exchange(one, other)

    def once(one, other):
        monkeypatch.setattr(folders, "_exchange", exchange)
        return late(one, other)

    monkeypatch.setattr(folders, "_exchange", once)
    with pytest.raises(ConfigError, match=r"'thesis\.txt' came into"):
        write(tmp_path / "out", "new")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("kind", ["file", "pipe", "link"])
def test_what_is_no_lock_is_neither_taken_nor_removed(kind, tmp_path):
    path = tmp_path / ".out.lock"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        (tmp_path / "mine").touch()
        path.symlink_to(tmp_path / "mine")
    else:
        path.write_text("combination of the safe")
    with pytest.raises(ConfigError, match="is not a lock of genrec"), reserve_folder(tmp_path / "out", "features"):
        pass
    assert os.path.lexists(path)


def test_checkpoints_with_notes_in_them_are_kept(tmp_path):
    for number, note in ((1, False), (2, True)):
        with write_artifact(tmp_path / f"checkpoint-{number}", "checkpoint") as folder:
            (folder.path / "model.safetensors").write_bytes(b"x")
        if note:
            (tmp_path / f"checkpoint-{number}" / "notes.txt").write_text("mine")
    remove_checkpoint(tmp_path / "checkpoint-1")
    with pytest.raises(ArtifactError, match=r"holds 'notes\.txt'"):
        remove_checkpoint(tmp_path / "checkpoint-2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2"]
    assert len(list((tmp_path / "checkpoint-2").iterdir())) == 3


def test_foreign_entries_of_every_kind_stay(tmp_path):
    work = open_work_folder(tmp_path / "work")
    for own in ("request.json", "commits-0.jsonl", "3.parquet", "3.77.part", "diagnosis-step-4-rank-0.json"):
        (work / own).touch()
    (work / "mine").mkdir()
    (work / "mine" / "metrics.jsonl").touch()
    (work / "checkpoint-3").mkdir()
    (work / "checkpoint-3" / "model.safetensors").touch()
    (work / "link").symlink_to(tmp_path)
    remove_work_folder(work)
    assert sorted(path.name for path in work.iterdir()) == [".genrec", "link", "mine"]
    assert (work / "mine" / "metrics.jsonl").is_file()
