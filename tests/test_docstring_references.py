"""What docstrings and comments of genrec name with :class:, :func:, :meth:, :data: or :attr: exists."""

import builtins
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROLE = re.compile(r":(?:class|func|meth|data|attr|mod|exc):`~?([A-Za-z_][\w.]*)`")
OWNER = re.compile(r"^class (\w+)", re.M)


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def resolves(name: str, module: str, classes: list[str]) -> bool:
    """Whether a name means something: absolute, in its module, or in a class of its module."""
    home = importlib.import_module(module)
    for cut in range(name.count(".") + 1, 0, -1) if name.startswith("genrec.") else ():
        parts = name.split(".")
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        return _has(found, parts[cut:])
    owners = [home, builtins, *(getattr(home, one) for one in classes if hasattr(home, one))]
    return any(_has(owner, name.split(".")) for owner in owners)


def _has(owner: object, names: list[str]) -> bool:
    for name in names:
        annotated = {field for cls in getattr(owner, "__mro__", ()) for field in getattr(cls, "__annotations__", {})}
        if not hasattr(owner, name) and name not in annotated:
            return False
        owner = getattr(owner, name, None)
    return True


@pytest.mark.parametrize("path", sorted((ROOT / "genrec").rglob("*.py")), ids=module_of)
def test_references_resolve(path):
    if path.name == "__main__.py":
        return
    text = path.read_text(encoding="utf-8")
    names = sorted(set(ROLE.findall(text)))
    wrong = [name for name in names if not resolves(name, module_of(path), OWNER.findall(text))]
    assert wrong == []


def test_a_stale_reference_is_found():
    assert resolves("GroupObjective", "genrec.alignment.objectives", [])
    assert not resolves("GroupLearner", "genrec.alignment.objectives", ["GroupObjective"])
    assert not resolves("genrec.alignment.learners.GroupObjective", "genrec.alignment.objectives", [])
