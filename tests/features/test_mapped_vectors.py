"""Vectors are mapped from their file: read when used, never written back, and refused when the file is broken."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from genrec.errors import ArtifactError
from genrec.features import ItemFeatures
from genrec.features.base import EMBEDDINGS_FILE, map_array


@pytest.fixture
def folder(tmp_path):
    values = np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)
    ItemFeatures(values, [str(i) for i in range(50)], {}).save(tmp_path)
    return tmp_path, values


def test_what_is_mapped_is_what_was_saved(folder):
    path, values = folder
    features = ItemFeatures.load(path)
    np.testing.assert_array_equal(features.values, values)
    assert isinstance(features.values.base, np.memmap), "no copy was made"
    assert features.fingerprint == ItemFeatures(values, features.item_ids, {}).fingerprint


def test_what_is_written_to_it_stays_out_of_the_file(folder):
    path, values = folder
    ItemFeatures.load(path).values[0] = 0
    np.testing.assert_array_equal(ItemFeatures.load(path).values, values)


def test_the_right_array_of_several_is_found(tmp_path):
    arrays = {name: np.full((2, 3), number, dtype=np.float32) for number, name in enumerate("abc")}
    save_file(arrays, str(tmp_path / "x.safetensors"))
    np.testing.assert_array_equal(map_array(tmp_path / "x.safetensors", "b"), arrays["b"])


def test_broken_files_are_refused(folder, tmp_path):
    path = folder[0] / EMBEDDINGS_FILE
    with pytest.raises(ArtifactError, match=r"nothing\.safetensors is missing"):
        map_array(tmp_path / "nothing.safetensors", "values")
    with pytest.raises(ArtifactError, match=r"(?s)lacks 'other'.*the float32 array other"):
        map_array(path, "other")
    save_file({"values": np.zeros((2, 2))}, str(tmp_path / "double.safetensors"))
    with pytest.raises(ArtifactError, match="lacks 'values'"):
        map_array(tmp_path / "double.safetensors", "values")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ArtifactError, match="is not a readable safetensors file"):
        map_array(path, "values")
