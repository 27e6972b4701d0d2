"""Folders and files that stages write: whole or not at all, with a manifest that proves every byte."""

from genrec.artifacts.files import (
    file_sha256,
    fingerprint,
    read_json,
    reporting_write_errors,
    write_file,
    write_json,
)
from genrec.artifacts.folders import ArtifactFolder, write_artifact
from genrec.artifacts.manifest import (
    MANIFEST,
    FileRecord,
    Manifest,
    read_manifest,
    verify_artifact,
    write_manifest,
)
from genrec.artifacts.versions import environment, git_commit

__all__ = [
    "MANIFEST",
    "ArtifactFolder",
    "FileRecord",
    "Manifest",
    "environment",
    "file_sha256",
    "fingerprint",
    "git_commit",
    "read_json",
    "read_manifest",
    "reporting_write_errors",
    "verify_artifact",
    "write_artifact",
    "write_file",
    "write_json",
    "write_manifest",
]
