"""Draw which package of genrec imports which: ``python scripts/draw_packages.py`` writes ``docs/figures/packages.svg``.

The imports are read from the source, so nothing is drawn that is not there. Packages are listed from those that import
nothing of genrec to the command line; a package that imported one below it would make a circle, which is refused.
Price: imports made from strings are not seen.
"""

import ast
from collections.abc import Mapping
from graphlib import TopologicalSorter
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "figures" / "packages.svg"
STEP, LEFT, TOP = 34, 40, 86
STYLE = """
  text { font: 14px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: #1c2733; }
  .h { font-weight: 600; }
  .s { font-size: 12.5px; fill: #4a5a6a; }
  .card { fill: #fbfcfe; stroke: #c3ccd6; }
  .line { stroke: #dfe5ec; }
  .dot { fill: #2f6db3; }
"""


def read_imports(package: Path) -> dict[str, set[str]]:
    """Name of each direct part of a package (folder or module) to the names of the other parts that it imports.

    Imports inside functions count. ``__init__.py`` of the package itself is left out: it only passes on public names.
    """
    imports: dict[str, set[str]] = {}
    for path in sorted(package.rglob("*.py")):
        part = path.relative_to(package).parts[0].removesuffix(".py")
        if part == "__init__":
            continue
        imports.setdefault(part, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            imports[part] |= {name.split(".")[1] for name in names if name.startswith(f"{package.name}.")}
    return {part: (targets & set(imports)) - {part} for part, targets in imports.items()}


def sort_packages(imports: Mapping[str, set[str]]) -> list[str]:
    """Packages so that each comes after all that it imports; by name where the imports leave it open.

    Raises:
        graphlib.CycleError: Packages import each other in a circle.
    """
    depth: dict[str, int] = {}
    for name in TopologicalSorter(imports).static_order():
        depth[name] = max((depth[target] + 1 for target in imports[name]), default=0)
    return sorted(depth, key=lambda name: (depth[name], name))


def draw(package: Path) -> str:
    """The picture as SVG: one row per package, a dot in the column of each package that it imports."""
    imports = read_imports(package)
    order = sort_packages(imports)
    width, height = LEFT + STEP * len(order) + 160, TOP + STEP * len(order)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-labelledby="t d">',
        f'<title id="t">Which package of {escape(package.name)} imports which</title>',
        f'<desc id="d">{escape(describe(imports, order))}</desc>',
        f"<style>{STYLE}</style>",
        f'<rect class="card" x="1" y="1" width="{width - 2}" height="{height - 2}" rx="12"/>',
        '<text class="h" x="24" y="34">Imports between packages</text>',
        '<text class="s" x="24" y="54">A dot: the package of the row imports the package of the column.</text>',
    ]
    for row, name in enumerate(order):
        x, y = LEFT + STEP * row, TOP + STEP * row
        users = [place for place, other in enumerate(order) if name in imports[other]]
        if imports[name]:
            start = LEFT + STEP * min(order.index(target) for target in imports[name])
            lines.append(f'<path class="line" d="M{start} {y}H{x - 8}"/>')
        if users:
            lines.append(f'<path class="line" d="M{x} {y + 10}V{TOP + STEP * max(users)}"/>')
    for row, name in enumerate(order):
        x, y = LEFT + STEP * row, TOP + STEP * row
        for target in sorted(imports[name], key=order.index):
            lines.append(f'<circle class="dot" cx="{LEFT + STEP * order.index(target)}" cy="{y}" r="5"/>')
        folders = " · ".join(list_folders(package / name))
        inner = f'<tspan class="s" dx="10">{escape(folders)}</tspan>' if folders else ""
        lines.append(f'<text x="{x - 4}" y="{y + 5}"><tspan class="h">{escape(name)}</tspan>{inner}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def list_folders(package: Path) -> list[str]:
    """Names of the packages directly inside a package."""
    return sorted(path.parent.name for path in package.glob("*/__init__.py"))


def describe(imports: Mapping[str, set[str]], order: list[str]) -> str:
    """The picture in words."""
    return "; ".join(f"{name}: {', '.join(sorted(imports[name], key=order.index)) or 'nothing'}" for name in order)


if __name__ == "__main__":
    PICTURE.write_text(draw(ROOT / "genrec"), encoding="utf-8")
    print(PICTURE.relative_to(ROOT))
