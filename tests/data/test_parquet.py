"""The name of a file is its name: no pattern, no home folder; and damaged files are refused, whatever polars does."""

import ast
import os
import random
import re
from pathlib import Path

import polars as pl
import pytest

from genrec.config import DataConfig
from genrec.data import Dataset, prepare_dataset
from genrec.data.arrow import write_parquet
from genrec.data.parquet import panics_as_errors, parquet_pieces, read_parquet, scan_parquet
from genrec.data.readers import read_table
from genrec.errors import DataError

PACKAGE = Path(__file__).resolve().parents[2] / "genrec"
# These give polars bytes, never a path; and the one place where it gets paths.
READERS = {"data/parquet.py", "data/separated.py", "data/jsonlines.py"}
NAMES = ["d[1]", "d*", "d?", "~", "d{a,b}", "a[b", "%41", "d 1", "day=1"]


@pytest.mark.parametrize("name", NAMES)
def test_paths_are_literal(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for folder in ("d1", "da", "A", "home"):
        Path(folder).mkdir()
        write_parquet(pl.DataFrame({"item_id": ["wrong"]}), Path(folder) / "items.parquet")
    Path(name).mkdir()
    path = Path(name) / "items.parquet"
    write_parquet(pl.DataFrame({"item_id": ["right"]}), path)
    assert os.listdir(name) == ["items.parquet"]
    assert read_parquet(path).rows() == [("right",)]
    assert scan_parquet(path).collect().rows() == [("right",)]
    assert read_table(path, "items").rows() == [("right",)]
    assert read_table(Path(name), "items")["item_id"].to_list() == ["right"]
    path.unlink()
    for read in (read_parquet, scan_parquet, lambda path: list(parquet_pieces(path, 5))):
        with pytest.raises(FileNotFoundError):
            read(path)


def test_a_folder_is_no_file(tmp_path):
    pl.DataFrame({"item_id": ["a"]}).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(FileNotFoundError):
        read_parquet(tmp_path)


def test_a_data_set_under_any_name(tmp_path):
    for name, title in (("d1", "wrong"), ("d[1]", "right")):
        (tmp_path / "log.csv").write_text("user_id,item_id\nu,a\nu,b\n")
        (tmp_path / "items.csv").write_text(f"item_id,title\na,{title}\nb,x\n")
        config = DataConfig(interactions=str(tmp_path / "log.csv"), items=str(tmp_path / "items.csv"), k_core=0)
        prepare_dataset(config, tmp_path / name)
    assert Dataset.load(tmp_path / "d[1]").titles == ["right", "x"]


def test_polars_gets_paths_in_one_place_only():
    """Any ``pl.scan_*`` or ``pl.read_*`` elsewhere would take its path for a pattern."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = node.attr if isinstance(node, ast.Attribute) else ""
            if (
                name.startswith(("scan_", "read_"))
                and isinstance(node.value, ast.Name)
                and node.value.id in ("pl", "polars")
            ):
                found.append((path.relative_to(PACKAGE).as_posix(), name))
    assert {place for place, _ in found} == READERS
    scripts = (PACKAGE.parent / "scripts").rglob("*.py")
    assert [path for path in scripts if re.search(r"\bpl\.(?:scan|read)_", path.read_text(encoding="utf-8"))] == []
    assert {name for place, name in found if place == "data/parquet.py"} == {"scan_parquet"}


def test_damaged_files_are_refused(tmp_path):
    ids = {"user_id": [f"u{row}" for row in range(200)], "item_id": [f"i{row % 7}" for row in range(200)]}
    path, draw = tmp_path / "log.parquet", random.Random(0)
    pl.DataFrame({**ids, "tags": [[row] for row in range(200)]}).write_parquet(path)
    whole, refused = path.read_bytes(), 0
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(bytes(damaged))
        try:
            read_table(path, "interactions")
        except DataError:
            refused += 1
    assert refused > 50


def test_a_panic_is_an_error():
    with pytest.raises(pl.exceptions.ComputeError, match="the file is damaged: oh"), panics_as_errors():
        raise pl.exceptions.PanicException("oh")
