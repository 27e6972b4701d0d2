"""A stranger's model folder is refused with exit 4, or opened and harmless: no traceback, question, code or link."""

import json
import shutil
import sys
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from strangers_folders import (
    EVIL,
    OUTSIDE,
    adapted,
    arrays,
    disagreeing,
    edited,
    encoder,
    linked,
    manifested,
    named,
    pickled,
    plain_run,
    removed,
    setting,
    sharded,
    special,
    table,
    without,
    written,
)

from genrec import Recommender
from genrec.cli import main
from genrec.errors import ArtifactError
from genrec.inspection import describe
from genrec.pipeline.catalogue import add_new_items
from genrec.pipeline.model_folder import open_model

LISTS = [["i00", "i01"], ["i39"], []]
LONG, DEEP = "9" * 5000, "[" * 100_000


def swapped(names):
    """Two entries of an array change places."""

    def change(stored):
        stored[names][[0, -1]] = stored[names][[-1, 0]]

    return change


# Found by names, sizes, hashes and kinds of files, before anything is parsed.
UNPROVED = {
    "adapter that nothing lists": (written("adapter_config.json", "{}"), r"'adapter_config\.json' is in the folder"),
    "pickle that nothing lists": (written("pytorch_model.bin"), r"'pytorch_model\.bin' is in the folder"),
    "hidden file": (written(".hidden"), r"'\.hidden' is in the folder"),
    "file in the tokenizer": (written("tokenizer/evil.py", EVIL), r"'tokenizer/evil\.py' is in the folder"),
    "file in a new folder": (written("more/notes.txt"), r"'more/notes\.txt' is in the folder"),
    "card of a folder within": (written("encoder/README.md"), r"'encoder/README\.md' is in the folder"),
    "link to a file": (linked("encoder/notes.txt", lambda folder: folder.with_name("secret.txt")), "is a link"),
    "link to a folder": (linked("tokenizer/more", lambda folder: folder.parent), "is a link"),
    "link to nothing": (linked("gone.json", lambda folder: Path("nowhere")), "is a link"),
    "link to itself": (linked("loop", lambda folder: folder / "loop"), "is a link"),
    "link in place of a file": (linked("decoding.json", lambda folder: folder.with_name("moved")), "is a link"),
    "link in place of a folder": (linked("tokenizer", lambda folder: folder.with_name("moved")), "is a link"),
    "link in place of the card": (linked("README.md", lambda folder: folder.with_name("secret.txt")), "is a link"),
    "link in place of the manifest": (
        linked("manifest.json", lambda folder: folder.with_name("moved")),
        r"has no manifest\.json",
    ),
    "pipe": (special("pipe", "pipe"), "'pipe' is no plain file"),
    "socket": (special("socket", "socket"), "'socket' is no plain file"),
    "no files": (manifested(lambda values: values.update(files={})), "names no files"),
    "file above": (named("../secret.txt"), r"names '\.\./secret\.txt'"),
    "file above, hidden": (named("tokenizer/../../secret.txt"), "names 'tokenizer/"),
    "absolute name": (named("/etc/hostname"), "names '/etc/hostname'"),
    "name of Windows": (named("..\\secret.txt"), "names '"),
    "name with an empty part": (named("tokenizer//index.json"), "names 'tokenizer//"),
    "manifest that names itself": (named("manifest.json"), r"names 'manifest\.json'"),
    "file that is not there": (named("more.json"), r"more\.json is missing"),
    "negative size": (manifested(lambda values: values["files"]["config.json"].update(size=-1)), "is not a manifest"),
    "hash of another kind": (
        manifested(lambda values: values["files"]["config.json"].update(sha256="0")),
        "is not a manifest",
    ),
    "further field": (manifested(lambda values: values.update(run="evil")), "is not a manifest"),
    "another stage": (manifested(lambda values: values.update(stage="tokenizer")), "holds a tokenizer"),
    "manifests that disagree": (disagreeing, r"do not agree on 'index\.json'"),
    "inner manifest without a seal": (written("tokenizer/manifest.json", "{}"), "manifest"),
    "manifest without a seal": (written("manifest.json", '{"stage": "model"}'), "has no seal"),
    "deep manifest": (written("manifest.json", DEEP), "nested too deeply"),
    "manifest with a long number": (written("manifest.json", f'{{"seed": {LONG}}}'), "a number in it is too long"),
    "manifest in another encoding": (written("manifest.json", b"\xff\xfe{}"), "is not readable JSON"),
    "manifest that is a list": (written("manifest.json", "[]"), "is not a manifest"),
}

# All hashes fit: found in what the files say.
RESEALED = {
    "items as text": setting("config.json", "num_items", to="x"),
    "no items": setting("config.json", "num_items", to=0),
    "more items than numbers": setting("config.json", "num_items", to=2**70),
    "labels": setting("config.json", "id2label", to=[1]),
    "quantized": setting("config.json", "quantization_config", to={"quant_method": "gptq", "bits": 4}),
    "code": setting("config.json", "auto_map", to={"AutoModel": "evil.Evil"}),
    "kernels of the hub": setting("config.json", "attn_implementation", to="evil/kernels"),
    "other weights": setting("config.json", "transformers_weights", to="../outside.safetensors"),
    "no family": without("config.json", "family"),
    "unknown family": setting("config.json", "family", to="os:system"),
    "family as a list": setting("config.json", "family", to=["depth"]),
    "another family": setting("config.json", "family", to="decoder"),
    "unknown setting": setting("config.json", "settings", "evil", to=1),
    "no settings": setting("config.json", "settings", to=None),
    "negative width": setting("config.json", "settings", "hidden_size", to=-8),
    "another width": setting("config.json", "settings", "hidden_size", to=32),
    "ten million layers": setting("config.json", "settings", "num_layers", to=10**7),
    "two layers": setting("config.json", "settings", "num_layers", to=2),
    "levels that are not the tokenizer's": setting("config.json", "level_sizes", to=[4, 4]),
    "a level as text": setting("config.json", "level_sizes", to=["4", 4, 7]),
    "another type of numbers": setting("config.json", "dtype", to="pickle"),
    "configuration that is a list": edited("config.json", lambda values: [values]),
    "deep configuration": written("config.json", DEEP, resealed=True),
    "deep decoding": written("decoding.json", DEEP, resealed=True),
    "long number": written("decoding.json", f'{{"top_k": {LONG}}}', resealed=True),
    "not UTF-8": written("decoding.json", b"\xff\xfe{", resealed=True),
    "no decoding": removed("decoding.json", resealed=True),
    "beams as text": setting("decoding.json", "num_beams", to="many"),
    "no beams": setting("decoding.json", "num_beams", to=0),
    "decoding that is a list": edited("decoding.json", lambda values: [1]),
    "further decoding": setting("decoding.json", "function", to="os:system"),
    "sizes as a number": setting("tokenizer/index.json", "level_sizes", to=7),
    "another kind": setting("tokenizer/index.json", "kind", to="tree"),
    "another fingerprint": setting("tokenizer/index.json", "fingerprint", to="0" * 64),
    "fingerprint as a list": setting("tokenizer/index.json", "fingerprint", to=[]),
    "no index": removed("tokenizer/index.json", resealed=True),
    "no codes": removed("tokenizer/codes.parquet", resealed=True),
    "no weights": removed("model.safetensors", resealed=True),
    "no items table": removed("items.parquet", resealed=True),
    "weights that are a text": written("model.safetensors", OUTSIDE, resealed=True),
    "codes that are a text": written("tokenizer/codes.parquet", OUTSIDE, resealed=True),
    "trie that is a text": written("tokenizer/trie.safetensors", OUTSIDE, resealed=True),
    "pickle for weights": pickled,
    "shards elsewhere": sharded,
    "absent tensor": arrays("model.safetensors", lambda stored: stored.pop("start")),
    "further tensor": arrays("model.safetensors", lambda stored: stored.update(more=np.ones(2, dtype=np.float32))),
    "tensor of another shape": arrays("model.safetensors", lambda stored: stored.update(start=np.ones(3))),
    "codes of other items in the weights": arrays("model.safetensors", swapped("item_codes")),
    "codes of other items": table("tokenizer/codes.parquet", lambda codes: codes.reverse()),
    "codes beyond 32 bits": table(
        "tokenizer/codes.parquet", lambda codes: codes.with_columns(pl.col("code_0").cast(pl.Int64) + 2**32)
    ),
    "items of the trie in other places": arrays("tokenizer/trie.safetensors", swapped("leaf_items")),
    "leaves of the trie": arrays("tokenizer/trie.safetensors", lambda stored: stored["leaf_start"].fill(0)),
    "codes of the trie": arrays("tokenizer/trie.safetensors", lambda stored: stored["child_code_0"].fill(3)),
    "other names of items": table("items.parquet", lambda items: items.reverse()),
    "an item twice": table("items.parquet", lambda items: pl.concat([items[:1], items[:-1]])),
    "items as numbers": table("items.parquet", lambda items: items.with_columns(item_id=pl.int_range(pl.len()))),
    "no titles": table("items.parquet", lambda items: items.drop("title")),
    "manifest of another family": manifested(lambda values: values["config"]["recommender"].update(name="sasrec")),
    "manifest with a seed as text": manifested(lambda values: values["config"]["training"].update(seed="x")),
    "manifest with features as a list": manifested(lambda values: values["config"].update(features=[1])),
    "manifest without its settings": manifested(lambda values: values.update(config={})),
}

# Nothing of it is read: the lists are as before.
HARMLESS = {
    "listed adapter": adapted,
    "listed code": written("modeling_evil.py", EVIL, resealed=True),
    "listed code of the tokenizer": written("tokenizer/tokenizer.py", EVIL, resealed=True),
    "training that says nothing": edited("training.json", lambda values: {}),
    "switch of transformers": setting("config.json", "use_cache", to=True),
}


OPENED: list[str] = []


@cache
def watch_files():
    """From now on every file that Python opens is noted; such a hook stays until the process ends."""
    sys.addaudithook(lambda event, arguments: OPENED.append(str(arguments[0])) if event == "open" else None)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the model; code that runs, a question that is asked, and files read elsewhere are failures."""

    def ask(*_):
        raise AssertionError("a question was asked")

    monkeypatch.setattr("builtins.input", ask)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.txt").write_text(OUTSIDE)
    before = set(sys.modules)
    model = Path(shutil.copytree(plain_run() / "model", tmp_path / "model"))
    watch_files()
    OPENED.clear()
    yield model
    assert not {Path(name).name for name in OPENED} & {"secret.txt", "outside.safetensors", "hostname"}
    assert not list(tmp_path.rglob("PWNED"))
    assert not any("evil" in name for name in set(sys.modules) - before)
    assert (tmp_path / "secret.txt").read_text() == OUTSIDE


@pytest.mark.parametrize("damage", UNPROVED.values(), ids=UNPROVED)
def test_what_no_manifest_proves_is_refused(folder, damage):
    change, message = damage
    change(folder)
    for verify in (True, False):
        with pytest.raises(ArtifactError, match=message):
            open_model(folder, device="cpu", verify=verify)
    with pytest.raises(ArtifactError, match=message if "holds a" not in message else "manifest|KeyError|cannot"):
        describe(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "items.parquet", "encoder/encoder.json"])
def test_changed_and_missing_files_are_named(folder, name):
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ArtifactError, match=f"{name} was changed"):
        open_model(folder)
    (folder / name).unlink()
    for verify in (True, False):
        with pytest.raises(ArtifactError, match=f"{name} is missing"):
            open_model(folder, verify=verify)


@pytest.mark.parametrize("damage", RESEALED.values(), ids=RESEALED)
def test_contents_that_cannot_be_are_refused(folder, damage):
    damage(folder)
    with pytest.raises(ArtifactError) as caught:
        Recommender.from_pretrained(folder, device="cpu")
    assert OUTSIDE not in str(caught.value)
    assert caught.value.where


@pytest.mark.parametrize("damage", HARMLESS.values(), ids=HARMLESS)
def test_what_is_not_read_changes_nothing(folder, damage):
    expected = Recommender.from_pretrained(folder, device="cpu").recommend(LISTS, k=5)
    damage(folder)
    found = Recommender.from_pretrained(folder, device="cpu").recommend(LISTS, k=5)
    np.testing.assert_array_equal(found.items, expected.items)
    np.testing.assert_array_equal(found.scores, expected.scores)


REPORTS = {
    "empty": edited("training.json", lambda values: {}),
    "text for a number": setting("training.json", "best_metric", to="high"),
    "counts": manifested(lambda values: values["counts"].update(parameters="many")),
    "inputs": manifested(lambda values: values.update(inputs={"dataset": [1]})),
    "deep": written("training.json", DEEP, resealed=True),
    "long number": written("training.json", f'{{"best_metric": {LONG}}}', resealed=True),
    "alignment": written("alignment.json", '{"start": 3, "best": [], "rounds": 1}', resealed=True),
    "experts": written("experts.json", "[[]]", resealed=True),
}


@pytest.mark.parametrize("damage", REPORTS.values(), ids=REPORTS)
def test_inspect_refuses_reports_that_cannot_be(folder, damage, capsys):
    damage(folder)
    assert main(["inspect", str(folder)]) == 4
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "damage",
    [UNPROVED["link to a file"][0], UNPROVED["pipe"][0], RESEALED["shards elsewhere"], RESEALED["deep decoding"]],
    ids=["link", "pipe", "shards", "deep"],
)
def test_verbs_end_with_exit_4_and_write_nothing(folder, damage, tmp_path, capsys):
    damage(folder)
    (tmp_path / "log.csv").write_text("user_id,item_id\nu,i00\nu,i01\n")
    (tmp_path / "new.csv").write_text("item_id,title,genres\nx1,Lantern of space,space adventure\n")
    (tmp_path / "gone.txt").write_text("i00\n")
    before = sorted(tmp_path.rglob("*"))
    for arguments in (
        ["generate", "--model", "model", "--histories", "log.csv", "--out", "lists.parquet"],
        ["add-items", "--model", "model", "--items", "new.csv", "--out", "out"],
        ["remove-items", "--model", "model", "--items", "gone.txt", "--out", "out"],
    ):
        assert main(arguments) == 4, arguments
        assert "Traceback" not in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("stages.json", lambda values: [1]),
        ("stages.json", lambda values: values["model"].pop("summary")),
        ("stages.json", lambda values: values["model"].update(seconds="long")),
        ("metrics.json", lambda values: [values]),
        ("metrics.json", lambda values: values.pop("system")),
        ("metrics.json", lambda values: values.update(metrics=3)),
    ],
)
def test_inspect_refuses_runs_that_cannot_be(name, change, tmp_path, capsys):
    run = Path(shutil.copytree(plain_run(), tmp_path / "run"))
    values = json.loads((run / name).read_text())
    returned = change(values)
    (run / name).write_text(json.dumps(returned if isinstance(returned, list) else values))
    assert main(["inspect", str(run)]) == 4
    assert "Traceback" not in capsys.readouterr().err


ENCODERS = {
    "sentence model in the folder": encoder("sentence", model="model/encoder/st"),
    "sentence model by an absolute path": encoder("sentence", model="/tmp/st"),
    "sentence model above": encoder("sentence", model="../st"),
    "vectors elsewhere": encoder("matrix", path="secret.npy"),
    "ids elsewhere": encoder("matrix", path="a.npy", ids="secret.txt"),
    "model elsewhere": encoder("sasrec", path="model"),
    "part of several": encoder("concat", parts=[{"encoder": "sentence", "model": "model/encoder/st"}]),
}
BROKEN_ENCODERS = {
    "no settings": without("encoder/encoder.json", "settings"),
    "no state": without("encoder/encoder.json", "state"),
    "a list": edited("encoder/encoder.json", lambda values: [values]),
    "unknown": setting("encoder/encoder.json", "encoder", to="os:system"),
    "name as a list": setting("encoder/encoder.json", "encoder", to=["lexical"]),
    "another encoder": setting("encoder/encoder.json", "encoder", to="metadata"),
    "words as a number": setting("encoder/encoder.json", "state", "terms", to=3),
    "fewer words": edited("encoder/encoder.json", lambda values: values["state"].update(terms=["a", "b"])),
    "a word twice": edited("encoder/encoder.json", lambda values: values["state"].update(terms=["a"] * 41)),
    "no array": arrays("encoder/arrays.safetensors", lambda stored: stored.pop("components")),
    "another width": arrays("encoder/arrays.safetensors", lambda stored: stored.update(components=np.ones((3, 3)))),
    "tokenizer of another family": edited(
        "tokenizer/config.json", lambda values: values.update(tokenizer="rqvae", settings={})
    ),
    "unknown tokenizer": setting("tokenizer/config.json", "tokenizer", to="os:system"),
    "width as text": setting("tokenizer/config.json", "width", to="8"),
    "another width of the tokenizer": setting("tokenizer/config.json", "width", to=9),
    "levels as text": setting("tokenizer/config.json", "level_sizes", to="44"),
    "more levels": setting("tokenizer/config.json", "level_sizes", to=[4, 4, 4, 4]),
    "fewer levels": setting("tokenizer/config.json", "level_sizes", to=[4]),
    "no codebook": arrays("tokenizer/codebooks.safetensors", lambda stored: stored.pop("codebook_1")),
    "larger codebook": arrays(
        "tokenizer/codebooks.safetensors", lambda stored: stored.update(codebook_0=np.ones((9, 9)))
    ),
    "catalogue that grew by text": manifested(lambda values: values["config"].update(added_items="many")),
}


@pytest.fixture
def new_items(tmp_path):
    path = tmp_path / "new.csv"
    path.write_text("item_id,title,genres\nx1,Lantern of space,space adventure\n")
    return path


@pytest.mark.parametrize("damage", ENCODERS.values(), ids=ENCODERS)
def test_an_encoder_in_a_model_folder_reads_nothing_elsewhere(folder, new_items, damage, tmp_path):
    damage(folder)
    with pytest.raises(ArtifactError, match=r"which is not part of the folder(?s:.*)--features FOLDER"):
        add_new_items(folder, new_items, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", BROKEN_ENCODERS.values(), ids=BROKEN_ENCODERS)
def test_encoders_and_tokenizers_that_cannot_be_are_refused(folder, new_items, damage, tmp_path):
    damage(folder)
    with pytest.raises(ArtifactError):
        add_new_items(folder, new_items, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_name_of_the_hub_that_is_a_folder_here_is_a_path(folder, new_items, tmp_path):
    (tmp_path / "lab" / "st").mkdir(parents=True)
    encoder("sentence", model="lab/st")(folder)
    with pytest.raises(ArtifactError, match="reads 'lab/st'"):
        add_new_items(folder, new_items, tmp_path / "out")


def test_there_are_enough_of_them():
    assert len(UNPROVED) + len(RESEALED) + len(HARMLESS) + len(REPORTS) + len(ENCODERS) + len(BROKEN_ENCODERS) >= 120
