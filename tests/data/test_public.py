"""Public data sets from local mirrors that have files of the published shape; nothing here needs a network."""

import gzip
import hashlib
import io
import json
import logging
import socket
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from genrec.artifacts import overwriting, read_manifest, write_artifact
from genrec.config import DataConfig
from genrec.data import download, fetch_source, prepare_dataset, public
from genrec.data.download import DownloadError
from genrec.data.sources import Mirror, find_source
from genrec.errors import ConfigError, DataError

RATINGS = [("196", "242", 3, 881250949), ("186", "302", 3, 891717742), ("196", "302", 5, 881250950)]
FLAGS = "0|0|0|0|0|1|0|0|1|0|0|0|0|0|0|0|0|0|0"
GROUPLENS_100K = {
    "ml-100k/u.data": "".join("\t".join(map(str, row)) + "\n" for row in RATINGS).encode(),
    "ml-100k/u.item": f"242|Kolya (1996)|24-Jan-1997||x|{FLAGS}\n302|Été, L' (1997)|||x|{FLAGS}\n".encode("latin-1"),
    "ml-100k/u.user": "196|49|M|écrivain|05201\n186|39|F|executive|T8H1N\n".encode("latin-1"),
}
INSIDE = "recbole/dataset_example/ml-100k/ml-100k"
RECBOLE_100K = {
    f"{INSIDE}.inter": (
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        + "".join("\t".join(map(str, row)) + "\n" for row in RATINGS)
    ).encode(),
    f"{INSIDE}.item": (
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "242\tKolya\t1996\tComedy Drama\n302\tÉté, L'\t1997\tComedy Drama\n"
    ).encode(),
    f"{INSIDE}.user": (
        "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
        "196\t49\tM\técrivain\t05201\n186\t39\tF\texecutive\tT8H1N\n"
    ).encode(),
    "recbole/__init__.py": b"raise SystemExit('never imported')",
}
ML_1M = {
    "ml-1m/ratings.dat": b"1::1193::5::978300760\n1::661::3::978302109\n2::1193::4::978298413\n",
    "ml-1m/movies.dat": b"661::James and the Giant Peach (1996)::Animation|Children's\n1193::X, The (1975)::Drama\n",
    "ml-1m/users.dat": b"1::F::1::10::48067\n2::M::56::16::07007\n",
}


def archive(path: Path, members: dict[str, bytes]) -> str:
    """Write a zip file and return its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), data)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pin(monkeypatch, name: str, *hashes: str | None) -> None:
    """Expect these hashes of the mirrors of a source, in their order, instead of the published ones."""
    source = find_source(name)
    mirrors = tuple(
        Mirror(*(replace(table, sha256=sha) for table in mirror.tables))
        for mirror, sha in zip(source.mirrors, hashes, strict=False)
    )
    pinned = replace(source, mirrors=mirrors)
    monkeypatch.setattr(public, "find_source", lambda wanted: pinned if wanted == name else find_source(wanted))


@pytest.fixture
def mirror(tmp_path, monkeypatch) -> Path:
    """A folder that replaces the net, which is out of reach."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    monkeypatch.setenv("GENREC_MIRROR", str(folder))
    monkeypatch.setattr(socket, "create_connection", no_network)
    monkeypatch.setattr(subprocess, "run", no_network)
    return folder


def no_network(*_, **__):
    raise OSError("no network in tests")


@pytest.mark.parametrize("members", [GROUPLENS_100K, RECBOLE_100K], ids=["grouplens", "recbole"])
def test_both_mirrors_of_movielens_100k_give_the_same_tables(tmp_path, mirror, monkeypatch, members):
    file_name = "ml-100k.zip" if members is GROUPLENS_100K else "recbole-1.2.1-py3-none-any.whl"
    sha = archive(mirror / file_name, members)
    pin(monkeypatch, "ml-100k", sha, sha)
    out = fetch_source("ml-100k", tmp_path / "ml")
    interactions = pl.read_parquet(out / "interactions.parquet")
    assert interactions.select("user_id", "item_id", "rating", "timestamp").rows() == [
        (user, item, float(rating), time) for user, item, rating, time in RATINGS
    ]
    assert pl.read_parquet(out / "items.parquet").rows(named=True) == [
        {"item_id": "242", "title": "Kolya (1996)", "genres": "Comedy, Drama", "release_year": 1996},
        {"item_id": "302", "title": "L'Été (1997)", "genres": "Comedy, Drama", "release_year": 1997},
    ]
    assert pl.read_parquet(out / "users.parquet").rows(named=True) == [
        {"user_id": "196", "age": "49", "gender": "M", "occupation": "écrivain", "zip_code": "05201"},
        {"user_id": "186", "age": "39", "gender": "F", "occupation": "executive", "zip_code": "T8H1N"},
    ]
    assert read_manifest(out).counts == {"interactions": 3, "items": 2, "users": 2}
    assert "may not redistribute" in (out / "LICENSE").read_text()
    record = json.loads((out / "SOURCE.json").read_text())
    assert [entry["pinned"] for entry in record["files"].values()] == [True]
    assert "recbole" not in sys.modules


def test_the_published_hash_is_the_one_expected(tmp_path, mirror):
    archive(mirror / "ml-100k.zip", GROUPLENS_100K)
    archive(mirror / "recbole-1.2.1-py3-none-any.whl", RECBOLE_100K)
    with pytest.raises(DataError) as caught:
        fetch_source("ml-100k", tmp_path / "ml")
    message = str(caught.value)
    assert "ml-100k could not be fetched from any mirror" in message
    assert "expected 50d2a982c6698693..." in message
    assert "expected 9c9948202011f37e..." in message
    assert "put ml-100k.zip into a folder and set GENREC_MIRROR to it" in message
    assert [path.name for path in tmp_path.iterdir()] == ["mirror"]


def test_movielens_1m(tmp_path, mirror, monkeypatch):
    pin(monkeypatch, "ml-1m", archive(mirror / "ml-1m.zip", ML_1M))
    dataset = prepare_dataset(DataConfig(path=str(fetch_source("ml-1m", tmp_path / "ml")), k_core=0), tmp_path / "d")
    assert dataset.titles == ["James and the Giant Peach (1996)", "The X (1975)"]
    assert [dataset.item_ids[i] for i in dataset.full()[0]] == ["1193", "661"]
    assert dataset.profiles.columns == ("gender", "age", "occupation", "zip_code")
    assert dataset.profiles.table.row(1) == ("2", "M", "56", "16", "07007")


def test_a_folder_without_users_is_kept_and_told(tmp_path, mirror, caplog):
    with write_artifact(tmp_path / "ml", public.STAGE, config={"name": "ml-100k"}, inputs={}) as folder:
        (folder.path / "interactions.csv").write_text("user_id,item_id\n")
    with caplog.at_level(logging.INFO):
        assert fetch_source("ml-100k", tmp_path / "ml") == tmp_path / "ml"
    assert "was fetched without the table of users: delete the folder to fetch it again" in caplog.text


def amazon_2014(folder: Path) -> None:
    reviews = [{"reviewerID": f"A{u}", "asin": f"B{i}", "overall": 5.0, "unixReviewTime": 100 + i} for u, i in
               [(1, 1), (1, 2), (2, 2), (2, 3)]]  # fmt: skip
    lines = "".join(json.dumps(review) + "\n" for review in reviews)
    (folder / "reviews_Musical_Instruments_5.json.gz").write_bytes(gzip.compress(lines.encode()))
    meta = [
        {"asin": "B1", "title": "Drum &amp; stick", "categories": [["Music", "Drums"]]},
        {"asin": "B2"},
        {"asin": "Z"},
    ]
    lines = "".join(f"{entry!r}\n" for entry in meta)
    (folder / "meta_Musical_Instruments.json.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))


def test_amazon_2014(tmp_path, mirror, caplog):
    amazon_2014(mirror)
    out = fetch_source("amazon-2014-Musical_Instruments", tmp_path / "a")
    items = pl.read_parquet(out / "items.parquet")
    assert items.rows() == [("B1", "Drum & stick", ["Music > Drums"]), ("B2", None, None), ("B3", None, None)]
    assert "1 of 3 items of amazon-2014-musical-instruments have no metadata" in caplog.text
    dataset = prepare_dataset(DataConfig(path=str(out), k_core=0), tmp_path / "d")
    assert dataset.item_texts() == ["Drum & stick. Music > Drums", "", ""]


def test_amazon_2023(tmp_path, mirror):
    reviews = [{"user_id": "A", "parent_asin": f"B{i}", "asin": "x", "rating": 4.0, "timestamp": 1588687728923 - i}
               for i in (1, 2)]  # fmt: skip
    meta = [{"parent_asin": "B1", "title": "Card", "price": None}, {"parent_asin": "B2", "title": "Box", "price": "$5"}]
    for name, entries in (("Gift_Cards", reviews), ("meta_Gift_Cards", meta)):
        data = "".join(json.dumps(entry) + "\n" for entry in entries).encode()
        (mirror / f"{name}.jsonl.gz").write_bytes(gzip.compress(data))
    out = fetch_source("amazon-2023-gift-cards", tmp_path / "a")
    assert pl.read_parquet(out / "interactions.parquet").select("user_id", "item_id", "timestamp").rows() == [
        ("A", "B2", 1588687728),
        ("A", "B1", 1588687728),
    ]
    assert pl.read_parquet(out / "items.parquet").rows() == [("B1", "Card", None), ("B2", "Box", 5.0)]


def test_a_file_without_published_hash_is_trusted_once(tmp_path, mirror, caplog):
    amazon_2014(mirror)
    out = fetch_source("amazon-2014-musical-instruments", tmp_path / "a")
    record = json.loads((out / "SOURCE.json").read_text())
    assert [entry["pinned"] for entry in record["files"].values()] == [False, False]
    (out / "items.parquet").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match=r"was changed since genrec wrote it: items\.parquet"):
        fetch_source("amazon-2014-musical-instruments", out)
    with overwriting():
        fetch_source("amazon-2014-musical-instruments", out)
    assert "is damaged" in caplog.text
    assert pl.read_parquet(out / "items.parquet").height == 3
    (out / "items.parquet").write_bytes(b"damaged")
    (mirror / "meta_Musical_Instruments.json.gz").write_bytes(gzip.compress(b"{'asin': 'other'}\n"))
    with overwriting(), pytest.raises(DataError, match=r"meta_Musical_Instruments.json.gz has SHA-256"):
        fetch_source("amazon-2014-musical-instruments", out)


def test_what_is_there_is_not_fetched_again(tmp_path, mirror):
    amazon_2014(mirror)
    out = fetch_source("amazon-2014-musical-instruments", tmp_path / "a")
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    for path in mirror.iterdir():
        path.unlink()
    assert fetch_source("amazon-2014-musical-instruments", out) == out
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_a_folder_with_something_else_is_left_alone(tmp_path, mirror):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"mine is a folder that genrec did not write[\s\S]*give another --out"):
        fetch_source("ml-100k", tmp_path / "mine")
    amazon_2014(mirror)
    out = fetch_source("amazon-2014-musical-instruments", tmp_path / "a")
    with pytest.raises(ConfigError, match="holds another data set"):
        fetch_source("ml-100k", out)


def test_an_archive_without_the_table(tmp_path, mirror, monkeypatch):
    pin(monkeypatch, "ml-1m", archive(mirror / "ml-1m.zip", {"other.txt": b""}))
    with pytest.raises(DataError, match=r"ml-1m/ratings.dat cannot be unpacked"):
        fetch_source("ml-1m", tmp_path / "ml")


def test_a_source_in_a_recipe_is_fetched_once_into_the_cache(tmp_path, mirror, monkeypatch, caplog):
    amazon_2014(mirror)
    monkeypatch.setenv("GENREC_CACHE", str(tmp_path / "cache"))
    config = DataConfig(source="amazon-2014-musical-instruments", k_core=0)
    with caplog.at_level(logging.INFO):
        first = prepare_dataset(config, tmp_path / "one")
        second = prepare_dataset(config, tmp_path / "two")
    assert first.fingerprint == second.fingerprint
    assert caplog.text.count("terms of use") == 1
    assert (tmp_path / "cache" / "amazon-2014-musical-instruments" / "LICENSE").is_file()


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("ml100k", "ml-100k"), ("amazon-2014-beuty", "amazon-2014-beauty"), ("amazon-2023-book", "amazon-2023-books")],
)
def test_an_unknown_name_names_the_nearest(tmp_path, name, nearest):
    with pytest.raises(ConfigError, match=rf"no public data set '{name}'[\s\S]*did you mean .*{nearest}"):
        fetch_source(name, tmp_path / "x")


def test_addresses_of_the_amazon_files():
    old, new = find_source("amazon-2014-beauty"), find_source("amazon-2023-All_Beauty")
    place = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
    assert old.mirrors[0].interactions.url == f"{place}/reviews_Beauty_5.json.gz"
    assert old.mirrors[0].items.url == f"{place}/meta_Beauty.json.gz"
    place = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw"
    assert new.mirrors[0].interactions.url == f"{place}/review_categories/All_Beauty.jsonl.gz"
    assert new.mirrors[0].items.url == f"{place}/meta_categories/meta_All_Beauty.jsonl.gz"
    assert len(old.mirrors) == len(new.mirrors) == 2


def test_the_index_is_asked_through_pip(tmp_path, monkeypatch):
    asked = []

    def pip(command, **_):
        asked.append(command)
        (tmp_path / "p-1.0-py3-none-any.whl").write_bytes(b"wheel")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    path = download.download("pypi:p==1.0/p-1.0-py3-none-any.whl", tmp_path)
    assert path.read_bytes() == b"wheel"
    assert asked[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--no-cache-dir", "p==1.0"} <= set(asked[0])


def test_the_reason_of_pip_is_passed_on(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: x\nERROR: No matching distribution found for p==1.0\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(DownloadError, match="No matching distribution found"):
        download.download("pypi:p==1.0/p-1.0-py3-none-any.whl", tmp_path)


def test_a_file_address_and_an_unreachable_one(tmp_path):
    (tmp_path / "source.bin").write_bytes(b"abc")
    (tmp_path / "to").mkdir()
    path = download.download((tmp_path / "source.bin").as_uri(), tmp_path / "to")
    assert path.read_bytes() == b"abc"
    with pytest.raises(DownloadError, match=r"gone.bin"):
        download.download((tmp_path / "gone.bin").as_uri(), tmp_path / "to")
    # Port 9 of this machine: no one listens there.
    with pytest.raises(DownloadError, match="refused"):
        download.download("https://127.0.0.1:9/x.zip", tmp_path / "to")


@pytest.mark.parametrize(
    ("size", "arrives"), [(1, False), (10_000, False), (30_000, True)], ids=["drips", "slow", "fast enough"]
)
def test_a_mirror_that_drips_is_given_up(monkeypatch, size, arrives):
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr(download, "monotonic", lambda: next(clock))
    pieces = iter([b"x" * size] * 20)
    response, stream = SimpleNamespace(read1=lambda _: next(pieces, b"")), io.BytesIO()
    if arrives:
        download.copy_unless_dripping(response, stream)
        assert len(stream.getvalue()) == 20 * size
        return
    with pytest.raises(TimeoutError, match=f"only {7 * size} bytes arrived in 70 seconds"):
        download.copy_unless_dripping(response, stream)
