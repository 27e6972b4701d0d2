"""Model folders on the hub, which is a folder here: what goes up comes down and recommends the same."""

import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.utils import filter_repo_objects
from tiny_run import copy_run, tiny_home

from genrec import Recommender
from genrec.errors import ArtifactError, ConfigError
from genrec.pipeline import hub

LISTS = [["i00", "i01", "i02"], ["i39"]]


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A hub that keeps repositories as folders."""

    class Api:
        def __init__(self, token=None):
            self.token = token

        def create_repo(self, repository, private, exist_ok):
            (tmp_path / "hub" / repository).mkdir(parents=True, exist_ok=exist_ok)

        def upload_folder(self, repo_id, folder_path, commit_message, allow_patterns):
            target = tmp_path / "hub" / repo_id
            (target / ".gitattributes").write_text("*.safetensors filter=lfs")
            names = [path.relative_to(folder_path).as_posix() for path in Path(folder_path).rglob("*")]
            for name in filter_repo_objects(names, allow_patterns=allow_patterns):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(Path(folder_path) / name, target / name)
            return SimpleNamespace(commit_url=f"https://hub/{repo_id}#{commit_message}")

    def download(repository):
        """As the client does: a folder of links into its store."""
        if not (tmp_path / "hub" / repository).is_dir():
            raise OSError("404: no such repository")
        store = tmp_path / "cache" / "models--lab--tiny"
        (store / "blobs").mkdir(parents=True, exist_ok=True)
        snapshot = store / "snapshots" / ("c" * 40)
        for number, path in enumerate(sorted((tmp_path / "hub" / repository).rglob("*"))):
            link = snapshot / path.relative_to(tmp_path / "hub" / repository)
            link.parent.mkdir(parents=True, exist_ok=True)
            if path.is_file() and not link.is_symlink():
                shutil.copyfile(path, store / "blobs" / str(number))
                link.symlink_to(store / "blobs" / str(number))
        return str(snapshot)

    monkeypatch.setattr(hub, "HfApi", Api)
    monkeypatch.setattr(hub, "snapshot_download", download)
    monkeypatch.setattr(hub.constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def test_a_model_comes_back_from_the_hub(shelf):
    here = Recommender.from_pretrained(tiny_home() / "run" / "model")
    address = here.push_to_hub("lab/tiny")
    assert address.startswith("https://hub/lab/tiny#genrec model ")
    assert (shelf / "lab" / "tiny" / "README.md").is_file()
    there = Recommender.from_pretrained("lab/tiny")
    assert there.recommend(LISTS, k=5).ids == here.recommend(LISTS, k=5).ids
    files = [path for path in there.folder.rglob("*") if not path.is_dir()]
    assert not any(path.is_symlink() for path in files)
    assert {path.relative_to(there.folder) for path in files} == {
        path.relative_to(here.folder) for path in here.folder.rglob("*") if not path.is_dir()
    }


def test_a_folder_comes_before_a_repository_of_its_name(shelf, tmp_path):
    shutil.copytree(tiny_home() / "run" / "model", tmp_path / "lab" / "tiny")
    assert Recommender.from_pretrained("lab/tiny").folder == Path("lab/tiny")


def test_neither_folder_nor_repository_is_one_error(shelf):
    with pytest.raises(ArtifactError, match="there is no folder lab/tiny, and no model of that name") as caught:
        Recommender.from_pretrained("lab/tiny")
    assert "404: no such repository" in str(caught.value)


def test_a_damaged_folder_is_not_uploaded(shelf, tmp_path):
    model = copy_run(tmp_path / "run") / "model"
    recommender = Recommender.from_pretrained(model)
    (model / "decoding.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"decoding\.json"):
        recommender.push_to_hub("lab/tiny")
    assert not shelf.exists()


def test_a_hub_that_does_not_answer_is_one_error(tmp_path, monkeypatch):
    """The real client, sent to a port of this machine where no one listens."""
    nobody = {"endpoint": "http://127.0.0.1:9"}
    monkeypatch.setattr(hub, "HfApi", partial(huggingface_hub.HfApi, **nobody))
    monkeypatch.setattr(
        hub, "snapshot_download", partial(huggingface_hub.snapshot_download, cache_dir=tmp_path, **nobody)
    )
    monkeypatch.chdir(tmp_path)
    recommender = Recommender.from_pretrained(tiny_home() / "run" / "model")
    with pytest.raises(ArtifactError, match=r"the model was not uploaded\n  where: lab/tiny on the Hugging Face hub"):
        recommender.push_to_hub("lab/tiny", token="hf_none")
    with pytest.raises(ArtifactError, match="no model of that name"):
        Recommender.from_pretrained("lab/tiny")


def test_a_repository_has_an_owner_and_a_name():
    recommender = Recommender.from_pretrained(tiny_home() / "run" / "model")
    with pytest.raises(ConfigError, match="'tiny' is no name of a repository"):
        recommender.push_to_hub("tiny")
