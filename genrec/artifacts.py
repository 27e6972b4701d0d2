"""Folders that stages write: whole or not at all, with a manifest that says what they are and proves it.

A stage writes into a temporary folder beside its target; every file is hashed and fsynced, ``manifest.json`` comes
last, and one rename puts the folder in place. A reader can check every byte against the manifest.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from errno import EACCES, ENOSPC, EPERM, EROFS
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from genrec.errors import ArtifactError

MANIFEST = "manifest.json"
# The last line of a manifest: the hash of all that is before it, so that damage of the manifest itself is found, too.
SEAL = re.compile(r'(?s)(.*),\n  "digest": "([0-9a-f]{64})"\n\}\n')
REPORTED_PACKAGES = ("genrec", "torch", "transformers", "numpy", "polars", "faiss-cpu", "vector-quantize-pytorch")


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


class ArtifactFolder:
    """The folder being written: put files under ``path``, numbers worth knowing into ``counts``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counts: dict[str, Any] = {}


def fingerprint(value: Any) -> str:
    """SHA-256 of a JSON-able value in canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def write_artifact(
    target: Path,
    stage: str,
    *,
    config: Mapping[str, Any] | None = None,
    inputs: Mapping[str, str] | None = None,
    seed: int | None = None,
) -> Iterator[ArtifactFolder]:
    """Write a stage's folder atomically; on any error the target is as it was.

    Args:
        target: Folder to create or replace.
        stage: What the folder is: ``dataset``, ``features``, ``tokenizer``, ``model`` ...
        config: The resolved settings it was made with.
        inputs: Fingerprints of what it was made from, by name.
        seed: The seed it was made with.

    Raises:
        ArtifactError: If the place cannot be written or the disk is full.
    """
    target = target.absolute()
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.part"
    with reporting_write_errors(target):
        temporary.mkdir(parents=True)
    try:
        folder = ArtifactFolder(temporary)
        with reporting_write_errors(target):
            yield folder
            _finish(folder, stage, dict(config or {}), dict(inputs or {}), seed)
            _replace_folder(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def write_file(target: Path) -> Iterator[Path]:
    """Write one file atomically: yields a temporary path beside it that replaces it on success.

    Raises:
        ArtifactError: If the place cannot be written or the disk is full.
    """
    target = target.absolute()
    temporary = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.part"
    try:
        with reporting_write_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _sync(temporary)
            os.replace(temporary, target)
            _sync(target.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(target: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; non-finite numbers become null."""
    with write_file(target) as temporary:
        temporary.write_text(json.dumps(_without_nan(value), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ArtifactError: If it is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path.name} is missing", where=str(path.parent), fix="make the folder again") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"{path.name} is not readable JSON", where=str(path), fix="make the folder again"
        ) from error


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
    _sync(folder / MANIFEST)


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


@contextmanager
def reporting_write_errors(target: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write into an :class:`ArtifactError` that names the target."""
    try:
        yield
    except OSError as error:
        if error.errno == ENOSPC:
            raise ArtifactError(
                f"the disk is full while writing {target}", fix="free some space and run the same command again"
            ) from error
        wrong_place = isinstance(error, NotADirectoryError | FileExistsError | IsADirectoryError)
        if wrong_place or error.errno in (EACCES, EPERM, EROFS):
            raise ArtifactError(
                f"{target} cannot be written: {error.strerror}", fix="choose another --out or change its permissions"
            ) from error
        raise


def environment() -> dict[str, Any]:
    """Versions of what computes, for ``env.json`` and manifests."""
    versions = {"python": platform.python_version()}
    for package in REPORTED_PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


@cache
def git_commit() -> str | None:
    """The commit of the source tree that runs, or None outside a checkout."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _finish(
    folder: ArtifactFolder, stage: str, config: dict[str, Any], inputs: dict[str, str], seed: int | None
) -> None:
    files = {}
    for path in sorted(folder.path.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            _sync(path)
            name = path.relative_to(folder.path).as_posix()
            files[name] = FileRecord(size=path.stat().st_size, sha256=file_sha256(path))
    manifest = Manifest(
        stage=stage,
        config=config,
        inputs=inputs,
        counts=folder.counts,
        seed=seed,
        versions=environment(),
        git_commit=git_commit(),
        files=files,
    )
    write_manifest(folder.path, manifest)
    # The names of the files must be as lasting as their bytes before the folder takes its place.
    for path in (*folder.path.rglob("*"), folder.path):
        if path.is_dir():
            _sync(path)


def _digest(manifest: Path) -> str | None:
    """The hash of a sealed manifest without its seal; None if the seal has another form."""
    found = SEAL.fullmatch(manifest.read_bytes().decode())
    return hashlib.sha256(f"{found[1]}\n}}".encode()).hexdigest() if found else None


def _replace_folder(temporary: Path, target: Path) -> None:
    aside = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.old"
    if target.exists():
        os.replace(target, aside)
    try:
        os.replace(temporary, target)
    except OSError:
        if aside.exists():
            os.replace(aside, target)
        raise
    _sync(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if (isinstance(value, float) and value != value) or value in (float("inf"), float("-inf")) else value
