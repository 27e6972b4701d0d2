"""The manifest of a folder: what it is, what it was made from, and the hash of every file, checked on reading."""

import hashlib
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from genrec.artifacts.files import file_sha256, fingerprint, parse_json, sync
from genrec.artifacts.reading import plain_files, reading
from genrec.errors import ArtifactError

MANIFEST = "manifest.json"
# The model card, which people may edit: the one file of a model folder that its manifest need not name.
CARD, CARD_STAGE = "README.md", "model"
# The last line of a manifest: the hash of all that is before it, so that damage of the manifest itself is found, too.
SEAL = re.compile(r'(?s)(.*),\n  "digest": "([0-9a-f]{64})"\n\}\n')


class FileRecord(BaseModel):
    """Size in bytes and SHA-256 of one file."""

    model_config = ConfigDict(extra="forbid")

    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


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
    """Read a folder's manifest without looking at its files.

    Args:
        folder: A folder written by :func:`~genrec.artifacts.folders.write_artifact`.
        stage: The stage that it must be, if that matters.

    Raises:
        ArtifactError: If the folder or its manifest is missing, unreadable, changed or of another stage, or the
            manifest names no files or files outside of the folder.
    """
    if not folder.is_dir():
        raise ArtifactError(
            f"there is no folder {folder}", expected=f"a {stage or 'stage'} folder", fix="check the path"
        )
    path = folder / MANIFEST
    if path.is_symlink() or not path.is_file():
        raise ArtifactError(
            f"{folder} has no {MANIFEST}",
            expected=f"a {stage or 'stage'} folder written by genrec",
            fix="check the path, or run the stage that writes it",
        )
    with reading(path):
        content = path.read_bytes()
    values = parse_json(content, path)
    seal = values.pop("digest", None) if isinstance(values, dict) else None
    if seal is not None and seal != _digest(content):
        raise _unproved(folder, f"{MANIFEST} was changed after it was written")
    try:
        manifest = Manifest.model_validate(values)
    except (ValidationError, RecursionError) as error:
        raise ArtifactError(f"{MANIFEST} is not a manifest", where=str(folder), fix="make the folder again") from error
    if seal is None:
        raise _unproved(folder, f"{MANIFEST} has no seal")
    _check_names(folder, manifest)
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
    """Read a folder's manifest, check the size and hash of every file it names, and that there are no others.

    Raises:
        ArtifactError: Naming the first file that is missing, changed, not named or no plain file.
    """
    manifest = read_manifest(folder, stage)
    check_files(folder, manifest)
    with reading(folder):
        for name, record in manifest.files.items():
            path = folder / name
            if path.stat().st_size != record.size or file_sha256(path) != record.sha256:
                raise ArtifactError(
                    f"{name} was changed after it was written",
                    where=str(folder),
                    expected=f"{record.size} bytes with SHA-256 {record.sha256[:16]}...",
                    fix="make the folder again, or restore the file",
                )
    return manifest


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compare the names of a folder's files with its manifest; no file is read but the manifests of inner folders.

    Args:
        folder: Where the manifest is.
        manifest: What :func:`read_manifest` gave.

    Raises:
        ArtifactError: Naming the first file that is missing, or that no manifest names: what nothing verifies must not
            be read, copied or uploaded. Also if there are links or other things that are no plain files.
    """
    found = plain_files(folder)
    known = {*manifest.files, MANIFEST, *([CARD] if manifest.stage == CARD_STAGE else [])}
    for name in found:
        inner, _, last = name.rpartition("/")
        if inner and last == MANIFEST:
            _check_inner(folder, inner, manifest)
        elif name not in known:
            raise ArtifactError(
                f"{name!r} is in the folder, and its manifest does not name it",
                where=str(folder),
                expected=f"the files that {MANIFEST} names, and nothing else",
                fix="move it out of the folder if it is yours, or make the folder again",
            )
    missing = sorted(manifest.files.keys() - set(found))
    if missing:
        raise ArtifactError(f"{missing[0]} is missing", where=str(folder), fix="make the folder again")


def _check_inner(folder: Path, inner: str, manifest: Manifest) -> None:
    """The manifest of a folder within a folder names the same files: both are read, by different verbs."""
    own, prefix = set(read_manifest(folder / inner).files), f"{inner}/"
    listed = {name.removeprefix(prefix) for name in manifest.files if name.startswith(prefix)} - {MANIFEST}
    if own != listed:
        raise ArtifactError(
            f"{prefix}{MANIFEST} and {MANIFEST} do not agree on {min(own ^ listed)!r}",
            where=str(folder),
            fix="make the folder again, or restore both files",
        )


def _unproved(folder: Path, what: str) -> ArtifactError:
    return ArtifactError(
        what,
        where=str(folder),
        expected="a last line with the SHA-256 of all that is before it",
        fix="make the folder again, or restore the file",
    )


def _check_names(folder: Path, manifest: Manifest) -> None:
    wrong = [name for name in manifest.files if not _is_inside(name)]
    if wrong or not manifest.files:
        raise ArtifactError(
            f"{MANIFEST} names {wrong[0]!r}" if wrong else f"{MANIFEST} names no files",
            where=str(folder),
            expected="names of files inside the folder",
            fix="make the folder again",
        )


def _is_inside(name: str) -> bool:
    parts = name.split("/")
    return name != MANIFEST and not any(part in ("", ".", "..") for part in parts) and not set(name) & set("\\\0")


def _digest(manifest: bytes) -> str | None:
    """The hash of a sealed manifest without its seal; None if the seal has another form."""
    found = SEAL.fullmatch(manifest.decode())
    return hashlib.sha256(f"{found[1]}\n}}".encode()).hexdigest() if found else None
