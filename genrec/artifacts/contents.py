"""What is in a finished folder, compared with its manifest: entries that were added, files that were changed."""

import os
from pathlib import Path

from genrec.artifacts.files import file_sha256
from genrec.artifacts.manifest import CARD, MANIFEST, SEAL, Manifest
from genrec.artifacts.marks import has_stamp, is_as_stamped


def is_sealed(folder: Path) -> bool:
    """Whether a folder has a manifest in the form that genrec writes."""
    try:
        return SEAL.fullmatch((folder / MANIFEST).read_text(encoding="utf-8")) is not None
    except (OSError, UnicodeDecodeError):
        return False


def unlisted_entries(folder: Path, manifest: Manifest) -> list[str]:
    """Files, links and folders that the manifest does not list, as sorted relative names.

    The manifest itself, those of folders within it, and a model card with genrec's mark count as listed.
    """
    folders = {parent.as_posix() for name in manifest.files for parent in Path(name).parents}
    found = []
    for top, inner_folders, files in os.walk(folder):
        here = Path(top).relative_to(folder)
        for name in (*inner_folders, *files):
            path, relative = Path(top) / name, (here / name).as_posix()
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                found.append(relative)
            elif path.is_dir():
                if relative not in folders:
                    found.append(relative)
            elif relative not in manifest.files and not _belongs(path, here, folders):
                found.append(relative)
    return sorted(found)


def changed_files(folder: Path, manifest: Manifest) -> list[str]:
    """Listed files that are missing or have other bytes than genrec wrote, and the model card if it was edited."""
    changed = [name for name, record in manifest.files.items() if not _is_as_listed(folder / name, record.size)]
    whole = [name for name in manifest.files if name not in changed]
    changed += [name for name in whole if file_sha256(folder / name) != manifest.files[name].sha256]
    card = folder / CARD
    if CARD not in manifest.files and card.is_file() and not is_as_stamped(card):
        changed.append(CARD)
    return changed


def _belongs(path: Path, folder: Path, folders: set[str]) -> bool:
    if path.name == MANIFEST:
        return folder.as_posix() in folders or folder == Path()
    return folder == Path() and path.name == CARD and has_stamp(path)


def _is_as_listed(path: Path, size: int) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size == size
