"""Model folders on the Hugging Face hub: a whole folder goes up, and comes down as it was."""

import re
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from genrec.artifacts import read_manifest, verify_artifact
from genrec.errors import ArtifactError, ConfigError

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
    verify_artifact(folder, "model")
    api = HfApi(token=token)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        version = f"genrec model {read_manifest(folder).fingerprint[:16]}"
        commit = api.upload_folder(repo_id=repository, folder_path=folder, commit_message=version)
    except Exception as error:
        # The client lets through what its HTTP library raises, and that library changes with its version.
        raise _unreachable("the model was not uploaded", repository, error) from error
    return str(commit.commit_url)


def model_folder(path: str | Path) -> Path:
    """A folder as it is, or what the hub has by the name ``owner/name`` where there is no such folder.

    Raises:
        ArtifactError: If there is neither.
    """
    folder = Path(path)
    if folder.exists() or not REPOSITORY.fullmatch(str(path)):
        return folder
    try:
        return Path(snapshot_download(str(path)))
    except Exception as error:
        raise _unreachable(f"there is no folder {path}, and no model of that name", str(path), error) from error


def _unreachable(what: str, repository: str, error: BaseException) -> ArtifactError:
    said = (str(error) or type(error).__name__).splitlines()[0]
    return ArtifactError(
        what,
        where=f"{repository} on the Hugging Face hub: {said}",
        expected="a model folder, or the name of a repository that can be reached",
        fix="check the name, the connection, and `hf auth login`",
    )
