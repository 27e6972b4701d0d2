"""Early stopping, and that an interrupted fit ends where an uninterrupted one does."""

import numpy as np
import pytest
import torch
from torch import nn

from genrec.config import TokenizerConfig
from genrec.tokenizers import build_tokenizer, fit_tokenizer, learning
from genrec.tokenizers.learning import Checkpoint, Learner, LearningSettings, learn

CONFIGS = {
    "rqvae": {"codebook_size": 6, "hidden_sizes": (12,), "latent_size": 6},
    "fsq": {"num_levels": 2, "grid": (3, 4), "num_heads": 2},
    "mpq": {"codebook_size": 6, "hidden_sizes": (12,), "latent_size": 6},
    "residual-fsq": {"grids": ((3, 3), (4, 2)), "hidden_sizes": (12,)},
}


class Interrupted(Exception):
    """What stops a fit in these tests."""


class Line(Learner):
    """A linear map with errors that are given beforehand."""

    def __init__(self, errors: list[float]) -> None:
        super().__init__()
        self.map, self.errors, self.kept = nn.Linear(2, 1), iter(errors), []

    def loss(self, vectors, rows):
        assert not vectors[:, 0].eq(rows).logical_not().any(), "rows belong to the vectors"
        return self.map(vectors).square().mean()

    def error(self, vectors):
        self.kept.append(self.map.weight.detach().clone())
        return next(self.errors)


@pytest.fixture
def vectors() -> torch.Tensor:
    return torch.stack([torch.arange(20.0), torch.ones(20)], dim=1)


def test_it_stops_early_and_keeps_the_best(vectors):
    line = Line([5.0, 3.0, 4.0, 3.5, 1.0])
    learn(line, vectors, LearningSettings(epochs=9, patience=2, batch_size=4), "test")
    assert len(line.kept) == 4
    assert torch.equal(line.map.weight, line.kept[1])


def test_held_out_rows_are_never_learned_from(vectors):
    seen, asked = set(), set()

    class Watching(Line):
        def loss(self, vectors, rows):
            seen.update(rows.tolist())
            return super().loss(vectors, rows)

        def error(self, vectors):
            asked.update(vectors[:, 0].int().tolist())
            return super().error(vectors)

    learn(Watching([1.0, 0.5]), vectors, LearningSettings(epochs=2, held_out=0.25), "test")
    assert len(asked) == 5
    assert seen == set(range(20)) - asked


def test_progress_lies_beside_the_folder_and_is_cleared(tiny_dataset, tiny_features, tmp_path, monkeypatch):
    monkeypatch.setattr(learning, "CHECKPOINT_SECONDS", 0.0)
    paths, save = [], Checkpoint.save

    def watch(checkpoint, tensors, numbers):
        save(checkpoint, tensors, numbers)
        paths.append(checkpoint.path)

    monkeypatch.setattr(Checkpoint, "save", watch)
    config = TokenizerConfig(name="rqvae", epochs=2, batch_size=16, **CONFIGS["rqvae"])
    fit_tokenizer(config, tiny_dataset, tiny_features, tmp_path / "tokenizer")
    assert paths == [tmp_path / ".tokenizer.progress.safetensors"] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer"]


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_an_interrupted_fit_goes_on_to_the_same_bytes(name, tiny_dataset, tiny_features, tmp_path, monkeypatch):
    config = TokenizerConfig(name=name, epochs=6, patience=6, batch_size=16, **CONFIGS[name])

    def fit():
        tokenizer = build_tokenizer(config)
        tokenizer.checkpoint_path = tmp_path / "progress.safetensors"
        tokenizer.fit(tiny_dataset, tiny_features)
        return tokenizer.state()

    expected = fit()
    monkeypatch.setattr(learning, "CHECKPOINT_SECONDS", 0.0)
    epochs = []
    train_epoch = learning._Run.train_epoch

    def stop_in_the_fourth(run):
        epochs.append(run.epoch)
        if len(epochs) == 4:
            raise Interrupted
        train_epoch(run)

    monkeypatch.setattr(learning._Run, "train_epoch", stop_in_the_fourth)
    with pytest.raises(Interrupted):
        fit()
    state = fit()
    assert epochs == [0, 1, 2, 3, 3, 4, 5], "it went on with the fourth"
    assert state.keys() == expected.keys()
    for array, other in zip(state.values(), expected.values(), strict=True):
        np.testing.assert_array_equal(array, other)
    assert not list(tmp_path.iterdir()), "nothing is left of it"


def test_progress_of_other_settings_or_of_a_broken_file_is_ignored(tmp_path):
    path = tmp_path / "progress.safetensors"
    checkpoint = Checkpoint(path, "key")
    assert checkpoint.load() is None
    checkpoint.save({"now.weight": torch.ones(2)}, {"epoch": 3})
    tensors, numbers = checkpoint.load()
    assert torch.equal(tensors["now.weight"], torch.ones(2))
    assert numbers == {"epoch": 3}
    assert Checkpoint(path, "another").load() is None
    path.write_bytes(b"torn")
    assert checkpoint.load() is None
    checkpoint.clear()
    checkpoint.clear()
    assert not path.exists()


def test_the_key_tells_settings_and_inputs_apart(tiny_dataset, tiny_features, with_vectors, tmp_path):
    keys = set()
    for config, features in (
        (TokenizerConfig(name="rqvae"), tiny_features),
        (TokenizerConfig(name="rqvae", seed=1), tiny_features),
        (TokenizerConfig(name="rqvae"), with_vectors(np.ones((40, 12)))),
        (TokenizerConfig(name="matryoshka"), tiny_features),
    ):
        tokenizer = build_tokenizer(config)
        assert Checkpoint.of(tokenizer, tiny_dataset, features) is None
        tokenizer.checkpoint_path = tmp_path / "x"
        keys.add(Checkpoint.of(tokenizer, tiny_dataset, features).key)
    assert len(keys) == 4
