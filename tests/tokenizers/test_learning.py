"""Early stopping, and that an interrupted fit ends where an uninterrupted one does."""

import os
import signal

import numpy as np
import pytest
import torch
from torch import nn

from genrec.artifacts import fingerprint
from genrec.config import TokenizerConfig
from genrec.errors import ArtifactError, ConfigError, InterruptedRun
from genrec.tokenizers import build_tokenizer, fit_tokenizer
from genrec.tokenizers.parts import learning
from genrec.tokenizers.parts.learning import Checkpoint, LearningSettings, TrainableTokenizer, learn

CONFIGS = {
    "rqvae": {"codebook_size": 6, "hidden_sizes": (12,), "latent_size": 6},
    "fsq": {"num_levels": 2, "grid": (3, 4), "num_heads": 2},
    "mpq": {"codebook_size": 6, "hidden_sizes": (12,), "latent_size": 6},
    "residual-fsq": {"grids": ((3, 3), (4, 2)), "hidden_sizes": (12,)},
}


class Line(TrainableTokenizer):
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
    # 38 rows in batches of 16: after each of the three and at the end of both epochs.
    assert paths == [tmp_path / ".tokenizer.progress.safetensors"] * 8
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer"]


@pytest.fixture
def stop_at(monkeypatch):
    """Let a signal come at these points of all fits, counted over their batches and ends of epochs; returns where."""
    places, train_epoch = [], learning._Run.train_epoch

    def go(points, number=signal.SIGTERM):
        def watched(run):
            for _ in train_epoch(run):
                places.append((run.epoch, run.place))
                if len(places) in points:
                    os.kill(os.getpid(), number)
                yield

        monkeypatch.setattr(learning._Run, "train_epoch", watched)
        return places

    return go


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_a_fit_stopped_anywhere_goes_on_to_the_same_bytes(name, tiny_dataset, tiny_features, tmp_path, stop_at):
    config = TokenizerConfig(name=name, epochs=3, patience=6, batch_size=16, **CONFIGS[name])

    def fit():
        tokenizer = build_tokenizer(config)
        tokenizer.checkpoint_path = tmp_path / "progress.safetensors"
        tokenizer.fit(tiny_dataset, tiny_features)
        return tokenizer.state()

    expected = fit()
    points = (1, 4, 6, 7, 11)
    places = stop_at(points)
    for point in points:
        with pytest.raises(InterruptedRun, match=f"fitting {name} was stopped by SIGTERM in epoch") as caught:
            fit()
        assert caught.value.exit_code == 143
        assert len(places) == point, "it stopped after the batch"
    state = fit()
    steps = [(epoch, place) for epoch in range(3) for place in (1, 2, 3)]
    assert [step for step in places if step[1]] == steps, "no batch was repeated or left out"
    assert state.keys() == expected.keys()
    for array, other in zip(state.values(), expected.values(), strict=True):
        np.testing.assert_array_equal(array, other)
    assert not list(tmp_path.iterdir()), "nothing is left of it"


def test_a_killed_fit_repeats_what_was_not_saved(vectors, tmp_path, monkeypatch):
    """Saved every so often without being asked; what came after the last save is done again."""

    class Killed(Exception):
        pass

    class Killing(Line):
        def error(self, vectors):
            if len(self.kept) == 2:
                raise Killed
            return super().error(vectors)

    monkeypatch.setattr(learning, "CHECKPOINT_SECONDS", 0.0)
    checkpoint = Checkpoint(tmp_path / "progress.safetensors", {"epochs": 4}, {})
    torch.manual_seed(1)
    whole = Line([4.0, 3.0, 2.0, 1.0])
    learn(whole, vectors, LearningSettings(epochs=4, batch_size=4), "test")
    torch.manual_seed(1)
    with pytest.raises(Killed):
        learn(Killing([4.0, 3.0]), vectors, LearningSettings(epochs=4, batch_size=4), "test", checkpoint)
    torch.manual_seed(1)
    again = Line([2.0, 1.0])
    learn(again, vectors, LearningSettings(epochs=4, batch_size=4), "test", checkpoint)
    assert torch.equal(again.map.weight, whole.map.weight)


def test_without_a_place_for_progress_signals_are_left_alone(vectors):
    seen = []

    class Asking(Line):
        def loss(self, vectors, rows):
            seen.append(signal.getsignal(signal.SIGTERM))
            return super().loss(vectors, rows)

    before = signal.getsignal(signal.SIGTERM)
    learn(Asking([1.0]), vectors, LearningSettings(epochs=1), "test")
    assert set(seen) == {before}


SETTINGS = {"name": "rqvae", "learning_rate": 0.1, "epochs": 5}
INPUTS = {"data set": "d", "features": "f"}


@pytest.fixture
def progress_file(tmp_path):
    """Progress of a fit, and the file it is in."""
    checkpoint = Checkpoint(tmp_path / "progress.safetensors", SETTINGS, INPUTS)
    assert checkpoint.load() is None
    checkpoint.save({"now.weight": torch.arange(4.0)}, {"epoch": 3})
    return checkpoint


def test_progress_comes_back_and_is_cleared(progress_file):
    tensors, numbers = progress_file.load()
    assert torch.equal(tensors["now.weight"], torch.arange(4.0))
    assert numbers == {"epoch": 3}
    progress_file.clear()
    progress_file.clear()
    assert not progress_file.path.exists()


def test_progress_of_which_any_bit_changed_is_skipped_and_said(progress_file, caplog):
    whole = progress_file.path.read_bytes()
    for place in range(len(whole)):
        changed = whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :]
        progress_file.path.write_bytes(changed)
        caplog.clear()
        assert progress_file.load() is None, place
        assert f"skipped {progress_file.path}" in caplog.text
        assert "fitting starts anew" in caplog.text
    for length in range(0, len(whole), 7):
        progress_file.path.write_bytes(whole[:length])
        assert progress_file.load() is None


def test_going_on_with_other_settings_is_refused_and_the_difference_shown(progress_file):
    other = Checkpoint(progress_file.path, {**SETTINGS, "learning_rate": 0.2, "name": "mpq"}, INPUTS)
    with pytest.raises(ConfigError, match=r"learning_rate: 0\.1 -> 0\.2; name: 'rqvae' -> 'mpq'") as caught:
        other.load()
    assert f"or delete {progress_file.path}" in caught.value.fix
    safe = Checkpoint(progress_file.path, {**SETTINGS, "epochs": 9}, INPUTS)
    assert safe.load()[1] == {"epoch": 3}


def test_going_on_with_other_features_is_refused(progress_file):
    other = Checkpoint(progress_file.path, SETTINGS, {**INPUTS, "features": "others"})
    with pytest.raises(ArtifactError, match="the fit that was interrupted was of another features") as caught:
        other.load()
    assert "give another --out" in caught.value.fix


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
        checkpoint = Checkpoint.of(tokenizer, tiny_dataset, features)
        keys.add(fingerprint([checkpoint.settings, checkpoint.inputs]))
    assert len(keys) == 4
