"""The second of two processes that embed and tokenize together: ``python shared_naming.py FOLDER`` next to a test."""

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from torch import distributed

from genrec.config import FeaturesConfig, TokenizerConfig
from genrec.data import Dataset
from genrec.distributed.world import World
from genrec.features import ItemFeatures, sentence
from genrec.features.build import build_features_together
from genrec.tokenizers.fit import fit_together
from genrec.tokenizers.parts import sampling

SENTENCE = FeaturesConfig(encoder="sentence", columns=["title"])
TOKENIZER = TokenizerConfig(name="rqkmeans", codebook_size=5)


class HashModel:
    """Texts to vectors that depend on the text alone; remembers how many texts came at once."""

    max_seq_length = 8

    def __init__(self) -> None:
        self.calls: list[int] = []

    def encode(self, texts: list[str], **_: object) -> np.ndarray:
        """Float32 ``[n, 8]``."""
        self.calls.append(len(texts))
        digests = [hashlib.sha256(text.encode()).digest()[:8] for text in texts]
        return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 8).astype(np.float32)


def in_small_blocks(patch: pytest.MonkeyPatch) -> HashModel:
    """Make the blocks so small that two processes have several each."""
    model = HashModel()
    patch.setattr(sentence, "load_sentence_model", lambda name: model)
    patch.setattr(sentence, "BLOCK_TEXTS", 7)
    patch.setattr(sampling, "BLOCK_ROWS", 6)
    return model


@contextmanager
def together(folder: Path, rank: int) -> Iterator[World]:
    """Be one of two processes that meet through a file of the folder."""
    store = distributed.FileStore(str(folder / "meeting"), 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(minutes=2))
    try:
        yield World.current()
    finally:
        distributed.destroy_process_group()


def share(folder: Path, world: World) -> None:
    """Embed, then tokenize, into ``folder``, as one of the processes."""
    dataset = Dataset.load(folder / "dataset")
    build_features_together(SENTENCE, dataset, folder / "features", world)
    features = ItemFeatures.load(folder / "features")
    fit_together(TOKENIZER, dataset, features, folder / "tokenizer", world)


def main() -> None:
    """Join the other and do a share of the work."""
    folder = Path(sys.argv[1])
    with pytest.MonkeyPatch.context() as patch, together(folder, 1) as world:
        model = in_small_blocks(patch)
        share(folder, world)
    assert model.calls == [7, 7, 5], model.calls


if __name__ == "__main__":
    main()
