"""Vectors and semantic IDs that two processes make together: the bytes of one, each block done once."""

import subprocess
import sys
from pathlib import Path
from subprocess import PIPE, STDOUT

import numpy as np
import pytest
import shared_naming

from genrec.config import DataConfig
from genrec.data import make_dataset
from genrec.distributed.peers import share_blocks
from genrec.distributed.world import World
from genrec.errors import DataError, GenrecError
from genrec.features import build_features
from genrec.tokenizers import fit_tokenizer
from genrec.tokenizers.fit import _named_by_rows
from genrec.tokenizers.registry import tokenizer_class

HELPER = Path(shared_naming.__file__)


def test_two_processes_make_the_folders_of_one(tiny_interactions, tiny_items, tmp_path, monkeypatch):
    dataset = make_dataset(tiny_interactions, tiny_items, DataConfig(k_core=0), tmp_path / "dataset")
    model = shared_naming.in_small_blocks(monkeypatch)
    with subprocess.Popen(
        [sys.executable, str(HELPER), str(tmp_path)], stdout=PIPE, stderr=STDOUT, text=True
    ) as second:
        with shared_naming.together(tmp_path, 0) as world:
            shared_naming.share(tmp_path, world)
        output, _ = second.communicate(timeout=120)
    assert second.returncode == 0, output[-2000:]
    assert model.calls == [7, 7, 7]
    features = build_features(shared_naming.SENTENCE, dataset, tmp_path / "alone" / "features")
    fit_tokenizer(shared_naming.TOKENIZER, dataset, features, tmp_path / "alone" / "tokenizer")
    alone = {path.relative_to(tmp_path / "alone") for path in (tmp_path / "alone").rglob("*") if path.is_file()}
    assert len(alone) > 10
    for name in alone:
        if name.name != "manifest.json":
            assert (tmp_path / name).read_bytes() == (tmp_path / "alone" / name).read_bytes(), name


def test_a_failure_reaches_all_processes():
    class Two(World):
        def gather(self, value):
            return [value, None]

    with pytest.raises(GenrecError, match="process 1 could not do its share of the vectors"):
        share_blocks(Two(0, 2), [1, 2, 3], np.atleast_1d, "the vectors")

    def fails(block):
        raise DataError("mine")

    with pytest.raises(DataError, match="mine"):
        share_blocks(Two(0, 2), [1, 2, 3], fails, "the vectors")


@pytest.mark.parametrize(("name", "shared"), [("rqkmeans", True), ("rqvae", True), ("cid", False), ("title", False)])
def test_only_what_looks_at_one_row_is_shared(name, shared):
    assert _named_by_rows(tokenizer_class(name)) == shared
