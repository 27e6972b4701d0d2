"""The picture of the packages in docs/architecture.md is the one that the imports give."""

import re
import runpy
from graphlib import CycleError
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "draw_packages.py"))


def write_package(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / "shop" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder / "shop"


def test_the_picture_is_up_to_date():
    drawn = SCRIPT["draw"](ROOT / "genrec")
    saved = (ROOT / "docs" / "figures" / "packages.svg").read_text(encoding="utf-8")
    assert saved == drawn, "imports changed: run python scripts/draw_packages.py"
    assert "figures/packages.svg" in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_a_picture_worked_by_hand(tmp_path):
    package = write_package(
        tmp_path,
        {
            "__init__.py": "from shop.till import open_till\n",
            "errors.py": "import json\n",
            "stock/__init__.py": "",
            "stock/shelves/__init__.py": "def f():\n    import shop.errors\n",
            "till.py": "from shop import stock\nfrom shop.errors import Wrong\nfrom shopping.stock import x\n",
        },
    )
    assert SCRIPT["read_imports"](package) == {"errors": set(), "stock": {"errors"}, "till": {"stock", "errors"}}
    picture = ElementTree.fromstring(SCRIPT["draw"](package))
    space = "{http://www.w3.org/2000/svg}"
    # Rows from the top: errors, stock, till; the columns of the same packages are 34 apart.
    dots = [(int(dot.get("cx")), int(dot.get("cy"))) for dot in picture.iter(f"{space}circle")]
    assert dots == [(40, 120), (40, 154), (74, 154)]
    names = [span.text for span in picture.iter(f"{space}tspan")]
    assert names == ["errors", "stock", "shelves", "till"]
    assert picture.find(f"{space}desc").text == "errors: nothing; stock: errors; till: errors, stock"


def test_a_circle_of_packages_is_refused(tmp_path):
    package = write_package(tmp_path, {"a.py": "import shop.b\n", "b.py": "def f():\n    from shop.a import x\n"})
    with pytest.raises(CycleError):
        SCRIPT["draw"](package)


def test_every_package_is_in_the_table_of_the_page():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = {name for row in re.findall(r"^\| (`.*?) \|", page, re.M) for name in re.findall(r"`(\w+)`", row)}
    assert set(SCRIPT["read_imports"](ROOT / "genrec")) <= named
