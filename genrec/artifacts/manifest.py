"""The manifest of a folder: what it is, what it was made from, and the hash of every file, checked on reading."""

import hashlib
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from genrec.artifacts.files import file_sha256, fingerprint, read_json, sync
from genrec.errors import ArtifactError

MANIFEST = "manifest.json"
# The last line of a manifest: the hash of all that is before it, so that damage of the manifest itself is found, too.
SEAL = re.compile(r'(?s)(.*),\n  "digest": "([0-9a-f]{64})"\n\}\n')


class FileRecord(BaseModel):
    """Size in bytes and SHA-256 of one file."""

    model_config = ConfigDict(extra="forbid")

    size: int
    sha256: str


class Manifest(BaseModel):
    """What a stage's folder is, what it was made from, and the hash of every file in it."""

    model_config = ConfigDict(protected_namespaces=(), extra="forbid")

    stage: str
    config: dict[str, Any] = Field(default_factory=dict)
    inputs: dict[str, str] = Field(default_factory=dict, description="name of an input: its fingerprint")
    counts: dict[str, Any] = Field(default_factory=dict)
    seed: int | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    git_commit: str | None = None
    files: dict[str, FileRecord] = Field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over stage, config, inputs and file hashes: equal folders have equal fingerprints."""
        files = {name: record.sha256 for name, record in self.files.items()}
        return fingerprint({"stage": self.stage, "config": self.config, "inputs": self.inputs, "files": files})


def read_manifest(folder: Path, stage: str | None = None) -> Manifest:
    """Read a folder's manifest without reading its files.

    Args:
        folder: A folder written by :func:`write_artifact`.
        stage: The stage that it must be, if that matters.

    Raises:
        ArtifactError: If the folder or its manifest is missing, unreadable or of another stage.
    """
    if not folder.is_dir():
        raise ArtifactError(
            f"there is no folder {folder}", expected=f"a {stage or 'stage'} folder", fix="check the path"
        )
    if not (folder / MANIFEST).is_file():
        raise ArtifactError(
            f"{folder} has no {MANIFEST}",
            expected=f"a {stage or 'stage'} folder written by genrec",
            fix="check the path, or run the stage that writes it",
        )
    content = read_json(folder / MANIFEST)
    if isinstance(content, dict) and "digest" in content and content.pop("digest") != _digest(folder / MANIFEST):
        raise ArtifactError(
            f"{MANIFEST} was changed after it was written",
            where=str(folder),
            fix="make the folder again, or restore the file",
        )
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        raise ArtifactError(f"{MANIFEST} is not a manifest", where=str(folder), fix="make the folder again") from error
    if stage is not None and manifest.stage != stage:
        raise ArtifactError(f"{folder} holds a {manifest.stage}", expected=f"a {stage}", fix=f"give a {stage} folder")
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a folder's manifest, sealed with a hash of itself, and fsync it."""
    body = manifest.model_dump_json(indent=2)
    digest = hashlib.sha256(body.encode()).hexdigest()
    sealed = f'{body.removesuffix(chr(10) + "}")},\n  "digest": "{digest}"\n}}\n'
    (folder / MANIFEST).write_bytes(sealed.encode())
    sync(folder / MANIFEST)


def verify_artifact(folder: Path, stage: str | None = None) -> Manifest:
    """Read a folder's manifest and check the size and hash of every file it names.

    Raises:
        ArtifactError: Naming the first file that is missing or changed.
    """
    manifest = read_manifest(folder, stage)
    for name, record in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise ArtifactError(f"{name} is missing", where=str(folder), fix="make the folder again")
        if path.stat().st_size != record.size or file_sha256(path) != record.sha256:
            raise ArtifactError(
                f"{name} was changed after it was written",
                where=str(folder),
                expected=f"{record.size} bytes with SHA-256 {record.sha256[:16]}...",
                fix="make the folder again, or restore the file",
            )
    return manifest


def _digest(manifest: Path) -> str | None:
    """The hash of a sealed manifest without its seal; None if the seal has another form."""
    found = SEAL.fullmatch(manifest.read_bytes().decode())
    return hashlib.sha256(f"{found[1]}\n}}".encode()).hexdigest() if found else None
