"""What a run has done so far: what each stage was made from and what it left, so that fresh work is not repeated."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from genrec.artifacts import MANIFEST, file_sha256, read_json, verify_artifact, write_json
from genrec.artifacts.targets import check_file_target, is_overwriting
from genrec.errors import ArtifactError, ConfigError

LEDGER_FILE = "stages.json"


class StageRecord(BaseModel):
    """One finished stage.

    Attributes:
        key: Fingerprint of its settings and of everything that it read.
        outputs: Name of each file or folder that it left, and its fingerprint.
        seconds: How long it took.
        summary: One line on what came out.
    """

    model_config = ConfigDict(frozen=True)

    key: str
    outputs: dict[str, str]
    seconds: float = Field(ge=0, le=1e9)
    summary: str = ""


class StageCache:
    """The records of one run's folder, in ``stages.json``.

    Args:
        folder: The run's folder; a damaged ledger counts as none, so that its stages run again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records: dict[str, StageRecord] = {}
        try:
            known = read_json(folder / LEDGER_FILE)
            self.records = {name: StageRecord.model_validate(record) for name, record in known.items()}
        except (ArtifactError, ValidationError, AttributeError):
            self.records = {}

    def stale_reason(self, stage: str, key: str) -> str | None:
        """Why a stage must run, or None if what it left is still what would come out.

        Args:
            stage: Its name.
            key: Fingerprint of its settings and inputs now.
        """
        record = self.records.get(stage)
        if record is None:
            return "not made yet"
        if record.key != key:
            return "its settings or inputs changed"
        for name, expected in record.outputs.items():
            try:
                found = output_fingerprint(self.folder / name)
            except ArtifactError as error:
                return error.what
            if found != expected:
                return f"{name} was changed after it was written"
        return None

    def check_output(self, stage: str, name: str) -> None:
        """Refuse to run a stage that would replace a file which genrec did not write, or which was changed since.

        Args:
            stage: Its name.
            name: A file that it writes.

        Raises:
            ConfigError: Naming the file.
        """
        path, record = self.folder / name, self.records.get(stage)
        known = record.outputs.get(name) if record else None
        if known is None:
            check_file_target(path)
        elif path.is_file() and file_sha256(path) != known and not is_overwriting():
            raise ConfigError(
                f"{path} was changed since genrec wrote it",
                expected="the file as the stage left it, or no file",
                fix=f"move it away, or replace it with --force {stage}",
            )

    def check(self) -> None:
        """Refuse a ledger that could not be replaced, or that is a link: it would be written somewhere else.

        Raises:
            ConfigError: With what is there.
        """
        path = self.folder / LEDGER_FILE
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise ConfigError(
                f"{path} is {'a link' if path.is_symlink() else 'no file'}",
                expected="the file that an earlier run left, or nothing",
                fix="move it away, or give another --out",
            )

    def begin(self, stage: str) -> None:
        """Forget the record of a stage that runs again: what a killed one leaves is not what the record says."""
        if self.records.pop(stage, None) is not None:
            self._write()

    def finish(self, stage: str, record: StageRecord) -> None:
        """Write down that a stage is done.

        Raises:
            ArtifactError: If the folder cannot be written.
        """
        self.records[stage] = record
        self._write()

    def _write(self) -> None:
        write_json(self.folder / LEDGER_FILE, {name: value.model_dump() for name, value in self.records.items()})


def output_fingerprint(path: Path) -> str:
    """The fingerprint of a stage's folder, every file of it checked, or the SHA-256 of a single file.

    Raises:
        ArtifactError: If it is missing, incomplete or changed.
    """
    if (path / MANIFEST).is_file():
        return verify_artifact(path).fingerprint
    if path.is_file():
        return file_sha256(path)
    raise ArtifactError(f"{path.name} is missing", where=str(path.parent), fix="run the stage again")


def outputs_of(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Fingerprints of what a stage left in ``folder``."""
    return {name: output_fingerprint(folder / name) for name in names}
