"""Lists that are made block by block: what a rerun keeps, and what it makes again."""

import csv
import json
import os
from errno import ENOSPC
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from genrec.decoding import Names, Shards, UserBlock, commit_blocks, generate, schema_of, write_recommendations
from genrec.decoding.output import check_format
from genrec.errors import ArtifactError, ConfigError

USERS, K = 10, 2
REQUEST = {"model": "m", "decoding": {"top_k": K}}
NAMES = Names.of(np.arange(USERS), [f"u{user}" for user in range(USERS)], [f"i{item}" for item in range(USERS + K)])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(generate, "BLOCK_USERS", 4)


class Lists:
    """User u gets the items u and u + 1; remembers which blocks were asked for."""

    def __init__(self, stop_before: int = 99) -> None:
        self.made: list[int] = []
        self.stop_before = stop_before

    def __call__(self, blocks):
        for number in blocks:
            if number == self.stop_before:
                raise KeyboardInterrupt
            self.made.append(number)
            rows = np.asarray(generate.block_rows(number, USERS))
            yield UserBlock(rows, (rows[:, None] + np.arange(K)).astype(np.int32), np.zeros((len(rows), K), np.float32))


def write(path, lists, request=REQUEST):
    return write_recommendations(path, lists, NAMES, schema=schema_of(), request=request)


@pytest.fixture
def begun(tmp_path):
    """The target of lists of which the first two of three blocks are made."""
    path = tmp_path / "lists.parquet"
    with pytest.raises(KeyboardInterrupt):
        write(path, Lists(stop_before=2))
    assert not path.exists()
    return path


def finish(path, request=REQUEST):
    """The blocks that are made now; the whole file is compared with what each user must get."""
    lists = Lists()
    written = write(path, lists, request)
    assert (written.users, written.short_users, written.empty_users) == (USERS, 0, 0)
    rows = pl.read_parquet(path).select("user_id", "item_id").rows()
    assert rows == [(f"u{user}", f"i{user + rank}") for user in range(USERS) for rank in range(K)]
    assert list(path.parent.iterdir()) == [path]
    return lists.made


def test_a_rerun_makes_what_is_missing(begun, caplog):
    caplog.set_level("INFO")
    assert finish(begun) == [2]
    assert "continuing lists.parquet: 2 of 3 blocks of users are there" in caplog.text


def test_a_finished_file_is_made_anew(begun):
    finish(begun)
    assert finish(begun) == [0, 1, 2]


def test_lists_of_another_request_are_not_kept(begun, caplog):
    assert finish(begun, {**REQUEST, "model": "another"}) == [0, 1, 2]
    assert "were of another request (model): all are made anew" in caplog.text


@pytest.mark.parametrize("name", ["0.parquet", "commits-0.jsonl"])
def test_what_was_torn_is_made_again(name, begun):
    path = begun.with_name(".lists.parquet.parts") / name
    path.write_bytes(path.read_bytes()[:-3])
    assert finish(begun) == ([0, 2] if name == "0.parquet" else [1, 2])


def test_a_line_behind_a_torn_one_counts(begun):
    commits = begun.with_name(".lists.parquet.parts") / "commits-0.jsonl"
    commits.write_bytes(commits.read_bytes()[:-3])
    with pytest.raises(KeyboardInterrupt):
        write(begun, Lists(stop_before=2))
    assert finish(begun) == [2]


def test_a_file_whose_request_is_unknown_is_not_kept(begun):
    (begun.with_name(".lists.parquet.parts") / "request.json").write_text("{")
    assert finish(begun) == [0, 1, 2]


def test_blocks_may_be_made_by_any_process_in_any_order(tmp_path):
    path = tmp_path / "lists.parquet"
    first, second = Shards(path, 3, rank=0), Shards(path, 3, rank=1)
    first.open(REQUEST)
    commit_blocks(second, Lists(), NAMES, [2, 1])
    assert [first.missing(range(3)), second.missing([1, 2])] == [[0], []]
    commit_blocks(first, Lists(), NAMES, [0, 1])
    assert first.join(schema_of()).users == USERS
    assert pl.read_parquet(path)["user_id"].unique(maintain_order=True).to_list() == NAMES.user_ids.to_pylist()


def test_joining_without_all_blocks_is_refused(begun):
    with pytest.raises(ArtifactError, match="block 2 of 3 is missing") as caught:
        Shards(begun, 3).join(schema_of())
    assert "run the same command again" in str(caught.value)
    assert finish(begun) == [2]


def test_a_full_disk_keeps_what_is_done(begun, monkeypatch):
    def full(*_paths):
        raise OSError(ENOSPC, os.strerror(ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("genrec.decoding.shards.os.replace", full)
        with pytest.raises(ArtifactError, match="the disk is full while writing"):
            write(begun, Lists())
    assert finish(begun) == [2]


def test_a_commit_tells_the_counts_of_its_block(begun):
    lines = (begun.with_name(".lists.parquet.parts") / "commits-0.jsonl").read_text().splitlines()
    commits = [json.loads(line) for line in lines if line]
    assert [(commit["block"], commit["users"], commit["short_users"]) for commit in commits] == [(0, 4, 0), (1, 4, 0)]
    assert all(len(commit["sha256"]) == 64 for commit in commits)


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".CSV"])
def test_lists_of_another_format_hold_the_same_rows(ending, tmp_path):
    odd = ['a "quoted", name', "007", "1.0", "tab\there", "line\nbreak", "émail 漢", "u6", "u7", "-1e5", "NA"]
    names = Names.of(np.arange(USERS), odd, [f"i{item}" for item in range(USERS + K)])

    def blocks(numbers):
        for block in Lists()(numbers):
            items = np.where(block.rows[:, None] == 3, -1, block.items)
            scores = np.random.default_rng(0).normal(size=items.shape).astype(np.float32)
            yield UserBlock(block.rows, items.astype(np.int32), np.where(items < 0, -np.inf, scores))

    for name in ("lists.parquet", f"lists{ending}"):
        write_recommendations(tmp_path / name, blocks, names, schema=schema_of(), request=REQUEST)
    expected = pl.read_parquet(tmp_path / "lists.parquet")
    path = tmp_path / f"lists{ending}"
    if ending == ".jsonl":
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert [list(row) for row in rows] == [expected.columns] * expected.height
        found = [list(row.values()) for row in rows]
    else:
        with path.open(encoding="utf-8", newline="") as stream:
            header, *found = csv.reader(stream, delimiter="\t" if ending == ".tsv" else ",")
        assert header == expected.columns
        kinds = (str, int, str, float, int)
        found = [[kind(cell) if cell else None for kind, cell in zip(kinds, row, strict=True)] for row in found]
    scores = [np.nan if row[3] is None else row[3] for row in found]
    np.testing.assert_array_equal(np.array(scores, np.float32), expected["score"].cast(pl.Float32).fill_null(np.nan))
    assert [(*row[:3], row[4]) for row in found] == expected.drop("score").rows()
    assert not (tmp_path / f".lists{ending}.parts").exists()


@pytest.mark.parametrize("name", ["lists.parquet", "lists", "a.b/lists", "lists.csv", "LISTS.TSV", "lists.jsonl"])
def test_names_that_say_a_format_are_accepted(name):
    check_format(Path(name))


@pytest.mark.parametrize("name", ["lists.xlsx", "lists.json", "lists.csv.gz", "lists.v2", "lists.npz"])
def test_names_that_say_no_format_are_refused(name):
    with pytest.raises(ConfigError, match="does not say in which format") as caught:
        check_format(Path(name))
    assert f"write {name}.parquet" in str(caught.value)


@pytest.mark.parametrize(("name", "fits"), [("x.csv", False), ("x.tsv", False), ("x.jsonl", True), ("x", True)])
def test_explanations_do_not_fit_into_a_table_of_plain_values(name, fits):
    if fits:
        check_format(Path(name), explained=True)
    else:
        with pytest.raises(ConfigError, match="cannot hold explanations"):
            check_format(Path(name), explained=True)
