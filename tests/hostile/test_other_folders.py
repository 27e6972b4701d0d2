"""Data sets, features, tokenizers, words of language models and the hub, as a stranger may leave them."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from huggingface_hub.utils import filter_repo_objects
from safetensors.numpy import load_file, save_file
from strangers_folders import (
    EVIL,
    OUTSIDE,
    arrays,
    edited,
    linked,
    manifested,
    named,
    plain_run,
    removed,
    seal,
    setting,
    special,
    table,
    written,
)

from genrec import Recommender
from genrec.artifacts.reading import computing, copy_plain, plain_files, reading
from genrec.cli import main
from genrec.config import RecommenderConfig
from genrec.data import Dataset
from genrec.data.arrow import TABLE
from genrec.errors import ArtifactError, ConfigError, DataError
from genrec.features import ItemFeatures
from genrec.models import ItemTexts, build_recommender, load_recommender
from genrec.pipeline import hub
from genrec.tokenizers import ItemIndex


def columns(name, change):
    """Histories with one other column."""

    def damage(folder):
        path = folder / "histories" / TABLE
        stored = pa.ipc.open_stream(path.read_bytes()).read_all()
        place = stored.column_names.index(name)
        stored = stored.set_column(place, name, change(stored.column(name).combine_chunks()))
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, stored.schema) as writer:
            writer.write_table(stored)
        seal(folder)

    return damage


def items_of(change):
    return columns(
        "items", lambda lists: pa.LargeListArray.from_arrays(lists.offsets, pa.array(change(lists.values.to_numpy())))
    )


DATASETS = {
    "item beyond the catalogue": items_of(lambda items: items + 1),
    "negative item": items_of(lambda items: -items),
    "items of another type": items_of(lambda items: items.astype(np.int64)),
    "users of another order": columns("user", lambda users: users[::-1]),
    "empty user": columns("user", lambda users: pa.array([None] * len(users), pa.int64())),
    "training beyond the history": columns("train_end", lambda ends: pa.array(ends.to_numpy() + 1000)),
    "negative training": columns("train_end", lambda ends: pa.array(ends.to_numpy() * 0 - 1)),
    "validation before training": columns("valid_end", lambda ends: pa.array(ends.to_numpy() * 0)),
    "timestamps of other rows": columns(
        "timestamps",
        lambda lists: pa.LargeListArray.from_arrays(
            pa.array(np.append(0, np.full(len(lists), len(lists.values))), pa.int64()), lists.values
        ),
    ),
    "histories that are a text": written(f"histories/{TABLE}", OUTSIDE, resealed=True),
    "an item twice": table("items.parquet", lambda items: pl.concat([items[:1], items[:-1]])),
    "items as numbers": table("items.parquet", lambda items: items.with_columns(item_id=pl.int_range(pl.len()))),
    "fewer items": table("items.parquet", lambda items: items[:3]),
    "no items": removed("items.parquet", resealed=True),
    "no histories": removed(f"histories/{TABLE}", resealed=True),
    "unknown split": manifested(lambda values: values["config"].update(split="evil")),
    "no settings": manifested(lambda values: values.update(config={})),
    "statistics that are a list": edited("statistics.json", lambda values: [values]),
    "deep statistics": written("statistics.json", "[" * 100_000, resealed=True),
    "link": linked("more.parquet", lambda folder: folder.parent),
    "pipe": special("pipe", "pipe"),
    "file above": named("../secret.txt"),
    "file that nothing lists": written("histories/cache.arrow"),
}
FEATURES = {
    "ids that are no list": edited("item_ids.json", lambda values: {"a": 1}),
    "ids as numbers": edited("item_ids.json", lambda values: list(range(len(values)))),
    "fewer ids": edited("item_ids.json", lambda values: values[:3]),
    "description that is a number": edited("description.json", lambda values: 3),
    "no vectors": arrays("embeddings.safetensors", lambda stored: stored.pop("values")),
    "vectors of another type": arrays(
        "embeddings.safetensors", lambda stored: stored.update(values=stored["values"].astype(np.float64))
    ),
    "fewer dimensions": arrays("embeddings.safetensors", lambda stored: stored.update(values=stored["values"][0])),
    "vectors that are a text": written("embeddings.safetensors", OUTSIDE, resealed=True),
}
TOKENIZERS = {
    "levels as a number": setting("index.json", "level_sizes", to=3),
    "no levels": setting("index.json", "level_sizes", to=[]),
    "levels of another size": setting("index.json", "level_sizes", to=[4, 4, 2]),
    "fewer levels": setting("index.json", "level_sizes", to=[4, 4]),
    "huge levels": setting("index.json", "level_sizes", to=[2**70, 4, 7]),
    "kind as a list": setting("index.json", "kind", to=[]),
    "codes as text": table("codes.parquet", lambda codes: codes.with_columns(pl.col("code_0").cast(pl.String))),
    "empty cells": table(
        "codes.parquet", lambda codes: codes.with_columns(code_1=pl.lit(None, pl.Int32), code_2=pl.lit(None, pl.Int32))
    ),
    "an item twice": table("codes.parquet", lambda codes: pl.concat([codes[:1], codes[:-1]])),
    "trie with negative rows": arrays("trie.safetensors", lambda stored: stored["child_start_1"].fill(-1)),
    "trie with an item twice": arrays("trie.safetensors", lambda stored: stored["leaf_items"].fill(1)),
    "trie with items beyond the catalogue": arrays("trie.safetensors", lambda stored: stored["leaf_items"].fill(10**6)),
    "trie with wide codes": arrays(
        "trie.safetensors", lambda stored: stored.update(child_code_0=stored["child_code_0"].astype(np.uint32))
    ),
}


@pytest.mark.parametrize("damage", DATASETS.values(), ids=DATASETS)
def test_a_data_set_that_cannot_be_is_refused(damage, tmp_path):
    folder = Path(shutil.copytree(plain_run() / "dataset", tmp_path / "dataset"))
    (tmp_path / "secret.txt").write_text(OUTSIDE)
    damage(folder)
    for verify in (True, False):
        with pytest.raises(ArtifactError):
            Dataset.load(folder, verify=verify)
    arguments = ["evaluate", "--model", str(plain_run() / "model"), "--dataset", str(folder)]
    assert main([*arguments, "--out", str(tmp_path / "metrics.json")]) == 4
    assert not (tmp_path / "metrics.json").exists()


def test_other_users_than_histories_are_refused(tmp_path):
    folder = Path(shutil.copytree(plain_run() / "dataset", tmp_path / "dataset"))
    table("users.parquet", lambda users: users[:3])(folder)
    with pytest.raises(ArtifactError, match=r"users\.parquet has 3 users, the histories 60"):
        _ = Dataset.load(folder).user_ids


@pytest.mark.parametrize("damage", FEATURES.values(), ids=FEATURES)
def test_features_that_cannot_be_are_refused(damage, tmp_path):
    folder = Path(shutil.copytree(plain_run() / "features", tmp_path / "features"))
    damage(folder)
    with pytest.raises(ArtifactError):
        ItemFeatures.load(folder)


@pytest.mark.parametrize("damage", TOKENIZERS.values(), ids=TOKENIZERS)
def test_identifiers_that_cannot_be_are_refused(damage, tmp_path):
    folder = Path(shutil.copytree(plain_run() / "tokenizer", tmp_path / "tokenizer"))
    damage(folder)
    with pytest.raises(ArtifactError):
        ItemIndex.load(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "tokenizer_class": "Evil"}, "'auto_map'"),
        ({"tokenizer_file": "../../secret.txt"}, "'tokenizer_file'"),
        ({"vocab_file": "/etc/hostname"}, "'vocab_file'"),
        ({"tokenizer_class": "Evil"}, ""),
    ],
)
def test_words_run_no_code_and_read_nothing_elsewhere(settings, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    codes = np.array([[0, 1], [1, 0], [1, 1]], dtype=np.int32)
    config = RecommenderConfig(name="llm", hidden_size=8, num_layers=1, num_heads=1)
    texts = ItemTexts(["a", "b", "c"], ["a a", "b b", "c c"])
    index = ItemIndex(codes, (2, 2), ["x", "y", "z"])
    build_recommender(config, num_items=3, index=index, texts=texts).save_pretrained(tmp_path / "model")
    assert load_recommender(tmp_path / "model").words is not None
    (tmp_path / "model" / "words" / "evil.py").write_text(EVIL)
    path = tmp_path / "model" / "words" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    if message:
        with pytest.raises(ArtifactError, match=f"the words of the model cannot be loaded(?s:.*){message}"):
            load_recommender(tmp_path / "model")
    else:
        assert load_recommender(tmp_path / "model").words is not None
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize(
    "prompts", [{}, {"history": [[1]]}, {"history": [10**6]}, {"history": [-1]}, {"history": "text"}, [1]]
)
def test_prompts_that_are_no_words_are_refused(prompts, tmp_path):
    index = ItemIndex(np.array([[0, 1], [1, 0]], dtype=np.int32), (2, 2), ["x", "y"])
    config = RecommenderConfig(name="llm", hidden_size=8, num_layers=1, num_heads=1)
    texts = ItemTexts(["a", "b"], ["a a", "b b"])
    build_recommender(config, num_items=2, index=index, texts=texts).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    values["prompts"] = values["prompts"] | prompts if prompts and isinstance(prompts, dict) else prompts
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ArtifactError, match="prompt"):
        load_recommender(tmp_path)


@pytest.fixture
def uploads(monkeypatch):
    """What reaches the hub, name by name."""
    sent: list[str] = []

    class Api:
        def __init__(self, token=None):
            self.token = token

        def create_repo(self, repository, private, exist_ok):
            if self.token is not None:
                raise OSError(f"401 for Bearer {self.token}, hf_another0token, at https://user:{self.token}@hub")

        def upload_folder(self, repo_id, folder_path, commit_message, allow_patterns):
            names = [path.relative_to(folder_path).as_posix() for path in folder_path.rglob("*") if path.is_file()]
            sent.extend(filter_repo_objects(names, allow_patterns=allow_patterns))
            return SimpleNamespace(commit_url="https://hub/commit")

    monkeypatch.setattr(hub, "HfApi", Api)
    return sent


def test_only_what_manifests_name_is_uploaded(uploads, tmp_path):
    folder = Path(shutil.copytree(plain_run() / "model", tmp_path / "model"))
    (folder / "README.md").write_text("a card")
    written("a[b]*.json", "{}", resealed=True)(folder)
    recommender = Recommender.from_pretrained(folder)
    recommender.push_to_hub("lab/tiny")
    listed = json.loads((folder / "manifest.json").read_text())["files"].keys()
    assert set(uploads) == {*listed, "manifest.json", "tokenizer/manifest.json", "README.md"}
    uploads.clear()
    (folder / "encoder" / "notes.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(ArtifactError, match="is a link"):
        recommender.push_to_hub("lab/tiny")
    (folder / "encoder" / "notes.txt").unlink()
    (folder / "notes.txt").write_text(OUTSIDE)
    with pytest.raises(ArtifactError, match=r"'notes\.txt' is in the folder"):
        recommender.push_to_hub("lab/tiny")
    assert not uploads


def test_no_token_is_in_a_message(uploads, monkeypatch):
    monkeypatch.setattr(hub, "get_token", lambda: "own-secret")
    recommender = Recommender.from_pretrained(plain_run() / "model")
    with pytest.raises(ArtifactError, match="the model was not uploaded") as caught:
        recommender.push_to_hub("lab/tiny", token="plain-secret")
    assert "secret" not in str(caught.value)
    assert "another0token" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_download_leads_nowhere_else(tmp_path, monkeypatch):
    """A snapshot whose link leaves the store of the client."""
    snapshot = tmp_path / "cache" / "models--lab--tiny" / "snapshots" / ("a" * 40)
    shutil.copytree(plain_run() / "model", snapshot)
    (tmp_path / "secret.txt").write_bytes((snapshot / "decoding.json").read_bytes())
    (snapshot / "decoding.json").unlink()
    (snapshot / "decoding.json").symlink_to(tmp_path / "secret.txt")
    monkeypatch.setattr(hub, "snapshot_download", lambda repository: str(snapshot))
    monkeypatch.setattr(hub.constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match=r"the repository has no file 'decoding\.json'"):
        Recommender.from_pretrained("lab/tiny")
    assert [path.name for path in (tmp_path / "home").rglob("*")] == ["genrec", "lab--tiny"]


def test_copies_follow_no_links(tmp_path):
    (tmp_path / "a" / "inner").mkdir(parents=True)
    (tmp_path / "a" / "inner" / "x").write_text("x")
    (tmp_path / "a" / "y").write_text("y")
    copy_plain(tmp_path / "a", tmp_path / "b", leave_out={"y"})
    assert plain_files(tmp_path / "b") == ["inner/x"]
    (tmp_path / "link").symlink_to(tmp_path / "a" / "y")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a" / "z").symlink_to(tmp_path / "a" / "y")
    for source in ("link", "pipe", "a"):
        with pytest.raises(ArtifactError, match=r"is (a link|no plain file)"):
            copy_plain(tmp_path / source, tmp_path / "c")
    assert not (tmp_path / "c").exists() or plain_files(tmp_path / "c") == []


class PanicException(BaseException):
    """As libraries in Rust raise it."""


@pytest.mark.parametrize(
    "error",
    [KeyError("x"), RecursionError(), OverflowError("x"), ZeroDivisionError(), OSError(24, "Too many open files"),
     UnicodeDecodeError("utf-8", b"x", 0, 1, "x"), PanicException("x"), ImportError("x"), RuntimeError("x")],
)  # fmt: skip
def test_whatever_reading_raises_is_one_error_that_names_the_place(error, tmp_path):
    with pytest.raises(ArtifactError, match=r"where: .*place"), reading(tmp_path / "place"):
        raise error


def test_own_errors_and_those_of_memory_pass_where_they_are_no_damage(tmp_path):
    for error in (MemoryError(), RuntimeError("CUDA out of memory"), KeyboardInterrupt()):
        with pytest.raises(type(error)), reading(tmp_path):
            raise error
    with pytest.raises(DataError), computing(tmp_path):
        raise DataError("a table of the user")
    with pytest.raises(ArtifactError, match="settings"), reading(tmp_path):
        raise ConfigError("settings")
    with pytest.raises(ConfigError, match="not installed"), reading(tmp_path):
        raise ConfigError("peft is not installed") from ImportError("peft")


def test_the_helpers_that_damage_leave_a_whole_folder_whole(tmp_path):
    """Without a damage every seal fits, and files come back as they were written."""
    folder = Path(shutil.copytree(plain_run() / "model", tmp_path / "model"))
    seal(folder)
    save_file(load_file(folder / "encoder" / "arrays.safetensors"), folder / "encoder" / "arrays.safetensors")
    arrays("tokenizer/trie.safetensors", lambda stored: None)(folder)
    table("items.parquet", lambda items: items)(folder)
    assert Recommender.from_pretrained(folder).num_items == 40
