"""Model folders on the Hugging Face hub: what the manifest names and the card go up, and come down as they were.

The hub's client keeps files once and snapshots as folders of links to them, next to files of the hub's own. A model
folder has no links and nothing that its manifest does not name, so a download is put together as plain files in
``genrec`` in the folder of the Hugging Face caches (``HF_HOME``), on the same disk blocks where the system can.
"""

import os
import re
import shutil
import uuid
from glob import escape
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token, snapshot_download

from genrec.artifacts import MANIFEST, Manifest, read_manifest, verify_artifact
from genrec.artifacts.manifest import CARD
from genrec.artifacts.reading import reading
from genrec.errors import ArtifactError, ConfigError
from genrec.pipeline.model_folder import STAGE

# What the hub's tokens look like.
TOKEN = re.compile(r"hf_[A-Za-z0-9]{4,}")
COMMIT = re.compile(r"[0-9a-f]{40}")
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def push_folder(folder: Path, repository: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload a model folder, made new where the hub has no such repository.

    Args:
        folder: A ``model`` folder; it is verified first.
        repository: ``owner/name``.
        private: For a new repository.
        token: Of the hub; the one that was logged in with if None.

    Returns:
        The address of the commit.

    Raises:
        ConfigError: If the repository has no such name.
        ArtifactError: If the folder is damaged, or the hub cannot be reached or refuses.
    """
    if not REPOSITORY.fullmatch(repository):
        raise ConfigError(f"{repository!r} is no name of a repository", expected="owner/name", fix="correct the name")
    manifest = verify_artifact(folder, STAGE)
    api = HfApi(token=token)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=f"genrec model {manifest.fingerprint[:16]}",
            allow_patterns=[escape(name) for name in _shared_files(folder, manifest)],
        )
    except Exception as error:
        # The client lets through what its HTTP library raises, and that library changes with its version.
        raise _unreachable("the model was not uploaded", repository, error, token) from _cause(error, token)
    return str(commit.commit_url)


def model_folder(path: str | Path) -> Path:
    """A folder as it is, or what the hub has by the name ``owner/name`` where there is no such folder.

    Raises:
        ArtifactError: If there is neither, or the repository holds no model folder.
    """
    folder = Path(path)
    if folder.exists() or not REPOSITORY.fullmatch(str(path)):
        return folder
    try:
        snapshot = Path(snapshot_download(str(path)))
    except Exception as error:
        what = f"there is no folder {path}, and no model of that name"
        raise _unreachable(what, str(path), error, None) from _cause(error, None)
    with reading(snapshot):
        return _as_model_folder(snapshot, Path(constants.HF_HOME) / "genrec" / str(path).replace("/", "--"))


def _as_model_folder(snapshot: Path, home: Path) -> Path:
    """A download as a folder of plain files, which is kept under the name of its commit."""
    place = home / snapshot.name
    if COMMIT.fullmatch(snapshot.name) and (place / MANIFEST).is_file():
        return place
    temporary = home / f".{snapshot.name}.{uuid.uuid4().hex[:8]}.part"
    try:
        _take_file(snapshot, MANIFEST, temporary)
        for name in _shared_files(snapshot, read_manifest(temporary, STAGE)):
            _take_file(snapshot, name, temporary)
        shutil.rmtree(place, ignore_errors=True)
        os.replace(temporary, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return place


def _shared_files(folder: Path, manifest: Manifest) -> list[str]:
    """The files of a model folder: those that its manifest names, all manifests, and the card."""
    inner = {parent / MANIFEST for name in manifest.files for parent in Path(name).parents}
    others = [path.as_posix() for path in (*inner, Path(CARD)) if (folder / path).is_file()]
    return sorted({*manifest.files, *others})


def _take_file(snapshot: Path, name: str, target: Path) -> None:
    """Put one file of a snapshot, which may be a link into the store of the client, into a folder as a plain file."""
    source, copy = (snapshot / name).resolve(), target / name
    allowed = (snapshot.resolve(), snapshot.resolve().parent.parent / "blobs")
    if not source.is_file() or not any(place in source.parents for place in allowed):
        raise ArtifactError(f"the repository has no file {name!r}", where=str(snapshot), expected="a model folder")
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.unlink(missing_ok=True)
    try:
        os.link(source, copy)
    except OSError:
        shutil.copyfile(source, copy)


def _unreachable(what: str, repository: str, error: BaseException, token: str | None) -> ArtifactError:
    said = _without_tokens((str(error) or type(error).__name__).splitlines()[0], token)
    return ArtifactError(
        what,
        where=f"{repository} on the Hugging Face hub: {said}",
        expected="a model folder, or the name of a repository that can be reached",
        fix="check the name, the connection, and `hf auth login`",
    )


def _cause(error: Exception, token: str | None) -> Exception | None:
    """The error, unless a traceback that shows it would show a token."""
    return error if _without_tokens(str(error), token) == str(error) else None


def _without_tokens(text: str, token: str | None) -> str:
    for secret in filter(None, (token, get_token())):
        text = text.replace(secret, "***")
    return TOKEN.sub("***", text)
