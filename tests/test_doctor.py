"""``genrec doctor``: packages that are absent or below their floor, and extras that are."""

from importlib import metadata

import pytest

from genrec.cli import main
from genrec.doctor import examine

REQUIRES = [
    "torch>=2.10",
    "numpy>=2.1",
    'tomli>=2; python_version < "3"',
    'peft>=0.18; extra == "peft"',
    'sentence-transformers>=6.0; extra == "sentence"',
]
VERSIONS = {"torch": "2.13.0+cpu", "numpy": "2.1.0", "peft": "0.18.0", "sentence-transformers": "6.0.1"}


@pytest.fixture
def installed(monkeypatch):
    """The versions that are installed; to be changed."""
    versions = dict(VERSIONS)

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr("genrec.doctor.metadata.version", version)
    monkeypatch.setattr("genrec.doctor.metadata.requires", lambda name: REQUIRES)
    return versions


def test_versions_at_or_above_their_floor_are_well(installed):
    report, healthy = examine()
    assert healthy
    assert "ok    packages: torch 2.13.0+cpu, numpy 2.1.0\n" in report
    assert "ok    extra peft: installed (low-rank" in report


@pytest.mark.parametrize(
    ("name", "version", "line"),
    [
        ("torch", "2.9.1", "FAIL  torch: 2.9.1, needs >=2.10"),
        ("numpy", "2.1.0rc1", "FAIL  numpy: 2.1.0rc1, needs >=2.1"),
        ("numpy", None, "FAIL  numpy: not installed"),
        ("peft", "0.17.1", "note  extra peft: peft 0.17.1, needs >=0.18"),
        ("sentence-transformers", "5.4.1", "note  extra sentence: sentence-transformers 5.4.1, needs >=6.0"),
    ],
)
def test_a_version_below_its_floor_is_named(name, version, line, installed):
    if version:
        installed[name] = version
    else:
        del installed[name]
    report, healthy = examine()
    assert f"{line}\n      -> pip install -c constraints.txt -e " in report
    assert healthy == line.startswith("note")


def test_a_missing_requirement_is_an_exit_code(installed, capsys):
    installed["torch"] = "1.0"
    assert main(["doctor"]) == 1
    assert "FAIL  torch: 1.0" in capsys.readouterr().out


def test_a_genrec_that_is_not_installed_says_that_nothing_was_compared(monkeypatch):
    def requires(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("genrec.doctor.metadata.requires", requires)
    report, healthy = examine()
    assert healthy
    assert "note  packages: not known, genrec is not installed" in report
