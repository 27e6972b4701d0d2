"""What a stranger installs: pins for every Python, commands that use them, documents that lead somewhere."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from genrec import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
EXTRAS = {"test", "docs", "deepspeed", "minilm", "tracking"}
DOCUMENTS = [*sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*.md"))]


def pins() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def name_of(text: str) -> str:
    return re.sub(r"[-_.]+", "-", Requirement(text).name).lower()


def pinned(python: str) -> dict[str, str]:
    """Name to version for one Python; every line must be an exact pin and apply at most once."""
    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    found: dict[str, str] = {}
    for pin in pins():
        (specifier,) = pin.specifier
        assert specifier.operator == "==", pin
        if pin.marker is None or pin.marker.evaluate(environment):
            assert pin.name not in found, f"{pin.name} is pinned twice for Python {python}"
            found[pin.name] = specifier.version
    return found


def wanted() -> list[str]:
    project = PROJECT["project"]
    return [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]


@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_is_pinned_within_its_range(python):
    versions = pinned(python)
    for line in wanted():
        requirement = Requirement(line)
        assert requirement.specifier.contains(versions[name_of(line)], prereleases=True), line


def test_the_supported_pythons_are_stated_once_and_the_same():
    allowed = SpecifierSet(PROJECT["project"]["requires-python"])
    assert [python for python in ("3.9", *PYTHONS, "3.14") if allowed.contains(f"{python}.5")] == list(PYTHONS)
    classifiers = PROJECT["project"]["classifiers"]
    assert {f"Programming Language :: Python :: {python}" for python in PYTHONS} <= set(classifiers)


def test_extras_and_console_script():
    assert set(PROJECT["project"]["optional-dependencies"]) >= EXTRAS
    (script,) = (entry for entry in metadata.entry_points(group="console_scripts") if entry.name == "genrec")
    assert script.value == "genrec.cli:main"
    assert metadata.version("genrec") == __version__


def test_only_genrec_is_packaged():
    assert PROJECT["tool"]["setuptools"]["packages"]["find"]["include"] == ["genrec*"]


def test_every_install_of_this_package_uses_the_pins():
    texts = [ROOT / "Makefile", ROOT / ".ci" / "run", *DOCUMENTS]
    lines = [line for path in texts for line in path.read_text(encoding="utf-8").splitlines()]
    installs = [line for line in lines if "install" in line and re.search(r"\s-e ['\"]?\.", line)]
    assert len(installs) >= 2
    assert [line for line in installs if "-c constraints.txt" not in line] == []


def test_make_knows_the_promised_targets():
    for target in ("quickstart", "test", "docs"):
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
    planned = subprocess.run(["make", "-n", "quickstart"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "genrec fetch ml-100k" in planned
    assert "genrec run configs/quickstart.yaml" in planned


def test_ci_runs_exactly_make_test():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(r"^make test( |$)", script, re.M)
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100


def test_the_licence_is_apache_2():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["project"]["license"] == "Apache-2.0"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(path):
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text(encoding="utf-8"))
    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_every_page_is_in_the_navigation():
    pages = re.findall(r"[\w-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(pages) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_says_its_command_and_is_listed(path):
    assert f"genrec run configs/{path.name}" in path.read_text(encoding="utf-8")
    assert f"`configs/{path.name}`" in (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert yaml.safe_load(path.read_text(encoding="utf-8"))
