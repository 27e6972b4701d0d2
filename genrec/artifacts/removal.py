"""Clearing away work in progress: what genrec wrote is removed, what people put next to it stays."""

import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from genrec.artifacts.files import TEMPORARY
from genrec.artifacts.manifest import MANIFEST, read_manifest
from genrec.artifacts.targets import WORK_MARKER
from genrec.errors import ArtifactError

logger = logging.getLogger(__name__)

# What genrec writes into folders of work in progress: checkpoints, blocks of lists, logs.
OWN_FILES = re.compile(
    rf"{re.escape(WORK_MARKER)}|{re.escape(MANIFEST)}|(model|optimizer|random(-\d+)?)\.safetensors|(trainer_)?state\.json"
    r"|metrics\.jsonl|diagnosis-step-\d+-rank-\d+\.json|events\.out\.tfevents\..+"
    r"|request\.json|commits-\d+\.jsonl|\d+\.parquet|\d+\.\d+\.part|joined\.(parquet|csv|tsv|jsonl)"
)
OWN_FOLDERS = re.compile(r"checkpoint-\d+|iteration-\d+(\.checkpoints)?|tensorboard")


def remove_work_folder(folder: Path) -> None:
    """Remove a folder that :func:`~genrec.artifacts.open_work_folder` made, but no file that genrec did not write.

    Any other folder is left as it is. Where files of somebody else are in it they stay, and a warning names one.
    """
    if not (folder / WORK_MARKER).is_file() or folder.is_symlink():
        return
    foreign = foreign_entries(folder)
    if foreign:
        logger.warning("%s is kept: it holds %r, which genrec did not write", folder, foreign[0])
    _remove(folder, keep_marker=bool(foreign))


def remove_checkpoint(folder: Path) -> None:
    """Remove a checkpoint; one with a file that genrec did not write is left whole.

    Raises:
        ArtifactError: Naming that file.
    """
    foreign = foreign_entries(folder)
    if foreign:
        raise ArtifactError(
            f"{folder.name} holds {foreign[0]!r}, which genrec did not write",
            where=str(folder),
            expected="a folder with nothing added",
            fix="move it out of the folder",
        )
    _remove(folder, keep_marker=False)


def foreign_entries(folder: Path) -> list[str]:
    """What genrec did not write into a folder of work in progress, as relative names."""
    return [path.relative_to(folder).as_posix() for path, own in _walk(folder) if not own]


def _walk(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Every entry, and whether genrec wrote it; folders after what is in them, foreign ones without it."""
    listed = _listed(folder)
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            yield path, False
        elif path.is_dir():
            if OWN_FOLDERS.fullmatch(path.name):
                yield from _walk(path)
            yield path, bool(OWN_FOLDERS.fullmatch(path.name) or TEMPORARY.fullmatch(path.name))
        else:
            known = path.name in listed or OWN_FILES.fullmatch(path.name) or TEMPORARY.fullmatch(path.name)
            yield path, path.is_file() and bool(known)


def _listed(folder: Path) -> set[str]:
    try:
        return set(read_manifest(folder).files)
    except ArtifactError:
        return set()


def _remove(folder: Path, *, keep_marker: bool) -> None:
    for path, own in list(_walk(folder)):
        if not own or (keep_marker and path == folder / WORK_MARKER):
            continue
        with suppress(OSError):
            if not path.is_dir():
                path.unlink()
            elif TEMPORARY.fullmatch(path.name):
                shutil.rmtree(path)
            else:
                path.rmdir()
    with suppress(OSError):
        os.rmdir(folder)
