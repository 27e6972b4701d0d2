import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from genrec.errors import ArtifactError
from genrec.tokenizers import index as index_module
from genrec.tokenizers.index import ItemIndex


def make_index(num_items: int = 300, size: int = 300) -> ItemIndex:
    codes = np.random.default_rng(num_items).integers(0, size, (num_items, 3), dtype=np.int32)
    codes[codes[:, 0] < 30, 1:] = -1
    return ItemIndex(codes, (size,) * 3, [f"i{item}" for item in range(num_items)])


@pytest.mark.parametrize("size", [200, 300])
def test_a_loaded_trie_is_the_saved_one_and_is_not_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int):
    index = make_index(size=size)
    index.save(tmp_path)
    monkeypatch.delattr(index_module, "build_trie")
    trie = ItemIndex.load(tmp_path).trie
    for name in ("child_start", "child_code"):
        for one, other in zip(getattr(trie, name), getattr(index.trie, name), strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(trie.leaf_start, index.trie.leaf_start)
    np.testing.assert_array_equal(trie.leaf_items, index.trie.leaf_items)
    assert (trie.level_sizes, trie.variable_length) == (index.trie.level_sizes, True)
    # The library reads the same arrays.
    stored = load_file(tmp_path / "trie.safetensors")
    np.testing.assert_array_equal(stored["child_code_1"], index.trie.child_code[1])


def test_pages_are_private_and_become_tensors_without_a_warning(tmp_path: Path):
    make_index().save(tmp_path)
    before = (tmp_path / "trie.safetensors").read_bytes()
    trie = ItemIndex.load(tmp_path).trie
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.from_numpy(trie.leaf_items).zero_()
    assert (tmp_path / "trie.safetensors").read_bytes() == before
    assert not trie.leaf_items.flags.owndata


def test_equal_tries_are_equal_bytes(tmp_path: Path):
    files = []
    for name in ("a", "b", "c"):
        make_index().save(tmp_path / name)
        files.append((tmp_path / name / "trie.safetensors").read_bytes())
    assert files[0] == files[1] == files[2]


def test_a_folder_without_the_file_builds_its_trie(tmp_path: Path):
    index = make_index()
    index.save(tmp_path)
    (tmp_path / "trie.safetensors").unlink()
    np.testing.assert_array_equal(ItemIndex.load(tmp_path).trie.leaf_items, index.trie.leaf_items)


def test_sets_have_no_trie_file(tmp_path: Path):
    ItemIndex(np.array([[0, 1], [1, 0]]), (2, 2), ["a", "b"], "set").save(tmp_path)
    assert not (tmp_path / "trie.safetensors").exists()
    assert ItemIndex.load(tmp_path).kind == "set"


def test_the_trie_of_another_index_is_refused(tmp_path: Path):
    make_index(300).save(tmp_path / "a")
    make_index(301).save(tmp_path / "b")
    (tmp_path / "b" / "trie.safetensors").replace(tmp_path / "a" / "trie.safetensors")
    with pytest.raises(ArtifactError, match=r"trie\.safetensors does not belong to the item index next to it"):
        ItemIndex.load(tmp_path / "a")


@pytest.mark.parametrize("kept", [0, 5, 60, 700, -4])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: int):
    make_index().save(tmp_path)
    path = tmp_path / "trie.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ArtifactError, match=r"trie\.safetensors is not a readable trie"):
        ItemIndex.load(tmp_path)


def test_arrays_that_do_not_fit_together_are_refused(tmp_path: Path):
    index = make_index()
    index.save(tmp_path)
    path = tmp_path / "trie.safetensors"
    arrays = load_file(path)
    description = {"index": index.fingerprint, "level_sizes": list(index.level_sizes), "variable_length": True}
    arrays["leaf_items"] = arrays["leaf_items"][:-1]
    save_file(arrays, str(path), metadata={"trie": json.dumps(description)})
    with pytest.raises(ArtifactError, match="does not belong"):
        ItemIndex.load(tmp_path)
