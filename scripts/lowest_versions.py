"""The lowest version of every dependency that pyproject.toml accepts, as constraints for pip: one line per package.

    python scripts/lowest_versions.py > lowest.txt && pip install -c lowest.txt -e '.[test]'

``make test-lowest`` runs the tests with them. What other packages need is not named, so pip takes its newest version.
"""

import sys
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def lowest_versions(project: dict[str, Any]) -> dict[str, str]:
    """The floor of every dependency, also of all extras.

    Args:
        project: The table ``project`` of pyproject.toml.

    Returns:
        Name to version, in the order of names.

    Raises:
        ValueError: If a dependency has no floor, or two.
    """
    extras = project["optional-dependencies"].values()
    floors: dict[str, str] = {}
    for line in [*project["dependencies"], *(line for extra in extras for line in extra)]:
        requirement = Requirement(line)
        versions = [part.version for part in requirement.specifier if part.operator in (">=", "==")]
        name = canonicalize_name(requirement.name)
        if len(versions) != 1 or floors.setdefault(name, versions[0]) != versions[0]:
            raise ValueError(f"{line}: one lower bound is needed, the same wherever {name} is named")
    return dict(sorted(floors.items()))


if __name__ == "__main__":
    floors = lowest_versions(tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"])
    print("\n".join(f"{name}=={version}" for name, version in floors.items()))
