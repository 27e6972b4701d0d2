"""What a stranger installs: pins for every Python, commands that use them, documents that lead somewhere."""

import re
import runpy
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from genrec import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
lowest_versions = runpy.run_path(str(ROOT / "scripts" / "lowest_versions.py"))["lowest_versions"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
EXTRAS = {"test", "docs", "deepspeed", "minilm", "tracking"}
# Package, first version with the fix, fault. What genrec opens may come from strangers: models, vectors, tables.
SECURITY_FIXES = [
    ("jinja2", "3.1.6", "CVE-2025-27516: a template leaves the sandbox"),
    ("pyarrow", "14.0.1", "CVE-2023-47248: a Parquet or Arrow file runs code"),
    ("pyarrow", "23.0.1", "CVE-2026-25087: an Arrow file writes to freed memory"),
    ("pytest", "9.0.3", "CVE-2025-71176: a temporary folder that others can prepare"),
    ("sentence-transformers", "6.0", "modules.json of a local model runs code without trust_remote_code"),
    ("torch", "2.10", "CVE-2026-24747: torch.load with weights_only=True corrupts memory"),
    ("torch", "2.13", "CVE-2025-3000: torch.jit.script corrupts memory"),
    ("transformers", "5.3", "CVE-2026-4372: config.json runs code from the hub without trust_remote_code"),
    ("transformers", "5.5", "CVE-2026-5241: config.json switches trust_remote_code on"),
    ("transformers", "5.10", "CVE-2026-9856: a tokenizer that is saved again writes outside its folder"),
]
DOCUMENTS = [*sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*.md"))]


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


def test_the_lowest_versions_are_the_floors_of_the_project():
    floors = lowest_versions(PROJECT["project"])
    assert set(floors) == {name_of(line) for line in wanted()}
    for line in wanted():
        (bound,) = Requirement(line).specifier
        assert bound.operator == ">="
        assert floors[name_of(line)] == bound.version, line


@pytest.mark.parametrize("lines", [["polars"], ["polars<3"], ["polars>=1.36,>=1.37"], ["polars>=1.36", "polars>=1.37"]])
def test_a_dependency_without_one_floor_is_refused(lines):
    with pytest.raises(ValueError, match=r"polars.*one lower bound is needed"):
        lowest_versions({"dependencies": lines, "optional-dependencies": {}})


@pytest.mark.parametrize(("name", "fixed", "fault"), SECURITY_FIXES, ids=lambda value: str(value))
def test_no_floor_is_below_a_security_fix(name, fixed, fault):
    assert Version(lowest_versions(PROJECT["project"])[name]) >= Version(fixed), fault


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
    pinned_by = re.compile(r"-c (\$\(LOWEST\)/)?constraints\.txt ")
    assert [line for line in installs if not pinned_by.search(line)] == []


def test_make_knows_the_promised_targets():
    for target in ("quickstart", "test", "test-lowest", "docs"):
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
    planned = subprocess.run(["make", "-n", "quickstart"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "genrec fetch ml-100k" in planned
    assert "genrec run configs/quickstart.yaml" in planned


def test_ci_runs_exactly_make_test():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(r"^make test( |$)", script, re.M)
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100


def test_the_license_is_apache_2():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["project"]["license"] == "Apache-2.0"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_says_its_command_and_is_listed(path):
    assert f"genrec run configs/{path.name}" in path.read_text(encoding="utf-8")
    assert f"`configs/{path.name}`" in (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert yaml.safe_load(path.read_text(encoding="utf-8"))
