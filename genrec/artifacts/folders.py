"""Folders that stages write: whole or not at all.

A stage writes into a temporary folder next to its target; every file is hashed and fsynced, ``manifest.json`` comes
last, and one rename puts the folder in place.
"""

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from genrec.artifacts import versions
from genrec.artifacts.files import file_sha256, reporting_write_errors, sync
from genrec.artifacts.manifest import MANIFEST, FileRecord, Manifest, write_manifest


class ArtifactFolder:
    """The folder being written: put files under ``path``, numbers worth knowing into ``counts``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counts: dict[str, Any] = {}


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


def _finish(
    folder: ArtifactFolder, stage: str, config: dict[str, Any], inputs: dict[str, str], seed: int | None
) -> None:
    files = {}
    for path in sorted(folder.path.rglob("*")):
        if path.is_file() and path.name != MANIFEST:
            sync(path)
            name = path.relative_to(folder.path).as_posix()
            files[name] = FileRecord(size=path.stat().st_size, sha256=file_sha256(path))
    manifest = Manifest(
        stage=stage,
        config=config,
        inputs=inputs,
        counts=folder.counts,
        seed=seed,
        versions=versions.environment(),
        git_commit=versions.git_commit(),
        files=files,
    )
    write_manifest(folder.path, manifest)
    # The names of the files must be as lasting as their bytes before the folder takes its place.
    for path in (*folder.path.rglob("*"), folder.path):
        if path.is_dir():
            sync(path)


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
    sync(target.parent)
    shutil.rmtree(aside, ignore_errors=True)
