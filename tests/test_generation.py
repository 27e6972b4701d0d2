"""Lists for whole sets of users: the same file from any number of processes, stopped or not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tiny_run import tiny_home

from genrec import Recommender
from genrec.data import Dataset
from genrec.errors import ConfigError, DataError
from genrec.generation import GenerationRequest, Job, Processes, write_lists

HERE = Path(__file__).resolve().parent
LISTS = ["user_id", "rank", "item_id", "score", "short_by"]


@pytest.fixture(scope="module")
def recommender():
    return Recommender.from_pretrained(tiny_home() / "run" / "model")


def write(path, **request):
    write_lists(tiny_home() / "run" / "model", GenerationRequest(**request), path)
    return pl.read_parquet(path)


def test_killed_at_50_points_and_repeated_every_byte_is_the_same(tmp_path):
    """By SIGKILL at random lines of what writes; then by 2 and 4 processes, also after some of them were killed."""
    run = tiny_home() / "run"
    done = subprocess.run(
        [sys.executable, str(HERE / "killed_generation.py"), str(run / "model"), str(run / "dataset"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts.pop("continued") > 10
    assert counts == {
        "killed": 50,
        "identical": 50,
        "by 2 processes": True,
        "by 4 processes": True,
        "by 3 after 2 were killed": True,
    }
    users = pl.read_parquet(tmp_path / "whole.parquet").group_by("user_id").len()
    assert (users.height, users["len"].unique().to_list()) == (60, [3])


def test_processes_of_a_launcher_write_the_file_of_one(tmp_path):
    """The real launcher with the real script; blocks are as large as they are, so there are four of them."""
    random = np.random.default_rng(0)
    rows = [(f"u{user}", f"i{item:02d}") for user in range(3500) for item in random.choice(40, 2, replace=False)]
    pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row").write_parquet(tmp_path / "log.parquet")
    alone = write(tmp_path / "alone.parquet", histories=tmp_path / "log.parquet", decoding={"top_k": 2, "num_beams": 4})
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [HERE.parent / "scripts" / "generate.py", "--model", tiny_home() / "run" / "model"]
    command += [
        "--histories",
        tmp_path / "log.parquet",
        "--out",
        tmp_path / "shared.parquet",
        "--top-k",
        2,
        "--beams",
        4,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=200, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("3500 users: ") == 1
    assert alone["user_id"].n_unique() == 3500
    assert (tmp_path / "shared.parquet").read_bytes() == (tmp_path / "alone.parquet").read_bytes()


def test_processes_are_those_of_the_launcher(monkeypatch):
    assert Processes.from_environment() == Processes(0, 1)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "5")
    assert Processes.from_environment() == Processes(2, 5)
    shares = [Processes(rank, 3).own(8) for rank in range(3)]
    assert sorted(block for share in shares for block in share) == list(range(8))


def test_histories_of_a_data_set_stay_on_disk(recommender):
    job = Job.open(recommender, GenerationRequest(dataset=tiny_home() / "run" / "dataset"))
    for array in (job.histories.items, job.histories.offsets):
        # A view of a file that is mapped into memory: nothing was copied.
        assert not array.flags.owndata
        assert not array.flags.writeable


def test_a_table_and_a_data_set_of_the_same_users_give_the_same_lists(tmp_path):
    run = tiny_home() / "run"
    ours = write(tmp_path / "a.parquet", dataset=run / "dataset")
    theirs = write(tmp_path / "b.parquet", histories=tiny_home() / "data" / "interactions.csv")
    assert ours.select(LISTS).sort("user_id", "rank").equals(theirs.select(LISTS).sort("user_id", "rank"))


def test_every_setting_that_changes_lists_is_part_of_the_request(tmp_path, recommender):
    (tmp_path / "block.txt").write_text("i03\n")
    log = pl.DataFrame({"user_id": ["a", "b"], "item_id": ["i00", "i01"]})
    log.write_csv(tmp_path / "log.csv")
    log.reverse().write_csv(tmp_path / "other.csv")
    base = {"histories": tmp_path / "log.csv"}
    changes = {
        "histories": {"histories": tmp_path / "other.csv"},
        "decoding": {"decoding": {"num_beams": 7}},
        "allowed items": {"block_items": tmp_path / "block.txt"},
        "explain": {"explain": True},
    }
    first = Job.open(recommender, GenerationRequest(**base)).description()
    assert first == Job.open(recommender, GenerationRequest(**base)).description()
    for key, change in changes.items():
        other = Job.open(recommender, GenerationRequest(**{**base, **change})).description()
        assert {name for name in first if first[name] != other[name]} == {key}


def test_filters_by_list_and_by_condition_hold_together(tmp_path):
    (tmp_path / "allow.txt").write_text("\n".join(f"i{number:02d}" for number in range(15)))
    (tmp_path / "block.txt").write_text("i11\n")
    found = write(
        tmp_path / "lists.parquet",
        dataset=tiny_home() / "run" / "dataset",
        allow_items=tmp_path / "allow.txt",
        block_items=tmp_path / "block.txt",
        allow_where="genres = 'garden cooking'",
    )
    assert set(found["item_id"].drop_nulls()) == {"i10", "i12", "i13", "i14"}
    with pytest.raises(ConfigError, match="the condition 'weight > 3' cannot be used"):
        write(tmp_path / "x.parquet", dataset=tiny_home() / "run" / "dataset", allow_where="weight > 3")


def test_a_filter_that_leaves_nothing_gives_every_user_an_empty_list(tmp_path, caplog):
    found = write(tmp_path / "lists.parquet", dataset=tiny_home() / "run" / "dataset", allow_where="title = 'nothing'")
    assert found.select("rank", "item_id", "score").null_count().row(0) == (60, 60, 60)
    assert (found.height, found["short_by"].unique().to_list()) == (60, [5])
    assert "60 of 60 users get fewer items than asked for, 60 of them none" in caplog.text


def test_a_filter_may_leave_nothing_for_some_users_only(tmp_path, recommender, caplog):
    """Of the three allowed items a user has seen none, one, two or all: empty lists and short ones side by side."""
    seen = {"none": ["i20"], "one": ["i00", "i20"], "two": ["i01", "i00"], "all": ["i02", "i00", "i01"]}
    rows = [(user, item, time) for user, items in seen.items() for time, item in enumerate(items)]
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row").write_csv(tmp_path / "log.csv")
    request = {"histories": tmp_path / "log.csv", "allow_where": "item_id IN ('i00', 'i01', 'i02')"}
    found = write(tmp_path / "lists.parquet", **request, decoding={"top_k": 3, "exclude_seen": True})
    for user, items in seen.items():
        own = found.filter(pl.col("user_id") == user)
        left = {"i00", "i01", "i02"} - set(items)
        assert set(own["item_id"].drop_nulls()) == left
        assert own["short_by"].unique().to_list() == [3 - len(left)]
    assert "3 of 4 users get fewer items than asked for, 1 of them none" in caplog.text


def test_what_cannot_be_written_is_refused_before_the_work(tmp_path):
    run = tiny_home() / "run"
    with pytest.raises(ConfigError, match="is a folder"):
        write(tmp_path, dataset=run / "dataset")
    with pytest.raises(ConfigError, match="writes single items"):
        write(tmp_path / "lists.parquet", dataset=run / "dataset", decoding={"mode": "session", "session_size": 2})
    assert not list(tmp_path.iterdir())


def test_users_whose_items_are_all_unknown_get_what_is_expected_of_a_stranger(tmp_path, recommender, caplog):
    pl.DataFrame({"user_id": ["a", "a", "b"], "item_id": ["x", "y", "i00"]}).write_csv(tmp_path / "log.csv")
    found = write(tmp_path / "lists.parquet", histories=tmp_path / "log.csv")
    assert "2 items that the model does not know are left out: 'x', 'y'" in caplog.text
    assert found.filter(pl.col("user_id") == "a")["item_id"].to_list() == recommender.recommend([[]], k=5).ids[0]
    with pytest.raises(DataError, match="2 items are not in the model's catalogue"):
        write(tmp_path / "lists.parquet", histories=tmp_path / "log.csv", unknown="error")


def test_a_model_of_more_items_reads_the_data_set_that_it_learned_from(recommender, monkeypatch):
    dataset = Dataset.load(tiny_home() / "run" / "dataset")
    monkeypatch.setattr(recommender, "item_ids", [*dataset.item_ids, "newcomer"])
    job = Job.open(recommender, GenerationRequest(dataset=tiny_home() / "run" / "dataset"))
    np.testing.assert_array_equal(job.histories.items, dataset.full().items)
    assert not job.histories.items.flags.writeable
