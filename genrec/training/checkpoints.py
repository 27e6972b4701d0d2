"""The private checkpoints of one run: written whole or not at all, proved by hashes, the newest good one found again.

Layout of ``checkpoint-STEP/``: ``model.safetensors``, ``optimizer.safetensors``, ``random.safetensors``, ``state.json``
(what of the optimizer, scheduler and generators is no tensor, and the run's own state), ``manifest.json``. The folder
of the best step is kept as long as a kept checkpoint refers to it.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn

from genrec.artifacts import MANIFEST, read_json, verify_artifact, write_artifact, write_json
from genrec.artifacts.files import TEMPORARY
from genrec.artifacts.folders import recover
from genrec.artifacts.removal import remove_checkpoint
from genrec.errors import ArtifactError, ConfigError

STAGE = "checkpoint"
STATE_FILE = "state.json"
MODEL_FILE = "model.safetensors"
KEPT = 2
# Keys that may differ between the runs that write and continue a checkpoint: they choose no number of the training.
SAFE_KEYS = frozenset(
    f"{section}.{key}"
    for section in ("training", "alignment.training")
    for key in (
        "num_workers",
        "max_minutes",
        "patience",
        "save_steps",
        "skip_nonfinite",
        "gradient_checkpointing",
        "expert_parallel",
    )
)


class CheckpointStore:
    """The checkpoints below one folder.

    Args:
        folder: Private to the run.
        config: The settings that must be equal when a run continues, as flat ``section.key`` names.
        inputs: Fingerprints of the data set and the model.
        seed: For the manifest.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], inputs: Mapping[str, str], seed: int) -> None:
        self.folder, self.config, self.inputs, self.seed = folder, dict(config), dict(inputs), seed

    def path(self, step: int) -> Path:
        """Where the checkpoint of ``step`` is."""
        return self.folder / f"checkpoint-{step}"

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        found = (re.fullmatch(r"checkpoint-(\d+)", path.name) for path in self.folder.glob("checkpoint-*"))
        return sorted(int(match[1]) for match in found if match)

    def save(
        self, step: int, model: nn.Module, tensors: Mapping[str, dict[str, Tensor]], state: dict[str, Any]
    ) -> None:
        """Write the checkpoint of ``step``; where it verifies, delete those that nothing needs any more.

        Args:
            step: Optimizer updates done.
            model: Its parameters and buffers are saved; shared ones once.
            tensors: Further tensor files by name, without the suffix.
            state: For ``state.json``; holds ``run.best_step``.

        Raises:
            ArtifactError: If the disk is full or not writable, or what was written reads back otherwise; the older
                checkpoints are as they were.
        """
        with (
            write_artifact(self.path(step), STAGE, config=self.config, inputs=self.inputs, seed=self.seed) as folder,
            _as_os_errors(),
        ):
            save_model(model, str(folder.path / MODEL_FILE))
            for name, content in tensors.items():
                save_file(content, folder.path / f"{name}.safetensors")
            write_json(folder.path / STATE_FILE, state)
            folder.counts["step"] = step
        verify_artifact(self.path(step), STAGE)
        self._prune()

    def newest(self) -> tuple[int | None, list[str]]:
        """Find the newest checkpoint that verifies, with the best one that it refers to.

        Returns:
            Its step, or None, and one sentence for each checkpoint that was skipped.

        Raises:
            ConfigError: If it was written under other settings, naming them.
            ArtifactError: If it was written for another model or data set, or by another program.
        """
        self._tidy()
        skipped = []
        for step in reversed(self.steps()):
            try:
                manifest = verify_artifact(self.path(step), STAGE)
                best = self.state(step)["run"]["best_step"]
                if best not in (None, step):
                    verify_artifact(self.path(best), STAGE)
            except ArtifactError as error:
                self._refuse_foreign(self.path(step))
                skipped.append(f"skipped checkpoint-{step}: {error.what} ({error.where})")
                continue
            self._check_belongs(manifest.config, manifest.inputs)
            return step, skipped
        return None, skipped

    def discard_after(self, step: int) -> None:
        """Delete the checkpoints after ``step``: damaged ones must not count as the newest when others are deleted.

        Raises:
            ArtifactError: If one holds a file that genrec did not write; it is left whole.
        """
        for later in self.steps():
            if later > step:
                remove_checkpoint(self.path(later))

    def state(self, step: int) -> dict[str, Any]:
        """The content of ``state.json`` of ``step``."""
        content: dict[str, Any] = read_json(self.path(step) / STATE_FILE)
        return content

    def tensors(self, step: int, name: str) -> dict[str, Tensor]:
        """One of the tensor files of ``step``, on the CPU."""
        return load_file(self.path(step) / f"{name}.safetensors")

    def load_weights(self, step: int, model: nn.Module) -> None:
        """Put the weights of ``step`` into the model, on whatever device it is.

        Raises:
            ArtifactError: If they cannot be read or do not fit.
        """
        try:
            load_model(model, str(self.path(step) / MODEL_FILE))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ArtifactError(
                f"the weights of checkpoint-{step} cannot be loaded",
                where=f"{self.path(step)}: {error}",
                fix="delete this checkpoint and run the same command again",
            ) from error

    def _tidy(self) -> None:
        """Clear away what a kill while writing left."""
        left = {match[1] for path in self.folder.glob(".*") if (match := TEMPORARY.fullmatch(path.name))}
        for name in left:
            recover(self.folder / name)

    def _refuse_foreign(self, path: Path) -> None:
        found = {inner.name for inner in path.iterdir()} if path.is_dir() else set()
        if found and not found & {MANIFEST, STATE_FILE}:
            raise ArtifactError(
                f"{path.name} is no checkpoint of genrec",
                where=str(path),
                expected="the folder of this run, or an empty one",
                fix="give another --out",
            )

    def _prune(self) -> None:
        kept = set(self.steps()[-KEPT:])
        kept |= {self.state(step)["run"]["best_step"] for step in kept}
        for step in self.steps():
            if step not in kept:
                with suppress(ArtifactError):
                    remove_checkpoint(self.path(step))

    def _check_belongs(self, config: Mapping[str, Any], inputs: Mapping[str, str]) -> None:
        others = [name for name, value in self.inputs.items() if inputs.get(name) != value]
        if others:
            raise ArtifactError(
                f"the checkpoints belong to another {' and another '.join(others)}",
                where=str(self.folder),
                expected="the folder of this run, or an empty one",
                fix="give another --out, or delete the folder to train from the start",
            )
        changed = [
            f"{key}: {config.get(key)!r} -> {self.config.get(key)!r}"
            for key in sorted({*config, *self.config} - SAFE_KEYS)
            if config.get(key) != self.config.get(key)
        ]
        if changed:
            raise ConfigError(
                f"the settings changed since the checkpoints were written: {'; '.join(changed)}",
                where=str(self.folder),
                expected="the same settings; only " + ", ".join(sorted(SAFE_KEYS)) + " may change",
                fix="set them back, give another --out, or delete the folder to train from the start",
            )


@contextmanager
def _as_os_errors() -> Iterator[None]:
    """Safetensors wraps the operating system's refusals; give them back their number."""
    try:
        yield
    except SafetensorError as error:
        if found := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(found[1]), str(error)) from error
        raise
