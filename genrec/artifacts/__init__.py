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
from genrec.artifacts.locks import (
    open_work_folder,
    reserve_file,
    reserve_folder,
    reserve_work_folder,
)
from genrec.artifacts.manifest import (
    MANIFEST,
    FileRecord,
    Manifest,
    read_manifest,
    verify_artifact,
    write_manifest,
)
from genrec.artifacts.marks import MARK, stamped, write_result
from genrec.artifacts.removal import remove_work_folder
from genrec.artifacts.results import result_file, work_folder
from genrec.artifacts.targets import overwriting
from genrec.artifacts.versions import environment, git_commit

__all__ = [
    "MANIFEST",
    "MARK",
    "ArtifactFolder",
    "FileRecord",
    "Manifest",
    "environment",
    "file_sha256",
    "fingerprint",
    "git_commit",
    "open_work_folder",
    "overwriting",
    "read_json",
    "read_manifest",
    "remove_work_folder",
    "reporting_write_errors",
    "reserve_file",
    "reserve_folder",
    "reserve_work_folder",
    "result_file",
    "stamped",
    "verify_artifact",
    "work_folder",
    "write_artifact",
    "write_file",
    "write_json",
    "write_manifest",
    "write_result",
]
