"""What ``from genrec import ...`` gives, and that it costs nothing before it is used."""

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import genrec

ROOT = Path(__file__).resolve().parent.parent
PROMISED = {"Dataset", "ItemIndex", "ItemTokenizer", "Recommender", "load_recipe", "run", "train", "evaluate"}


def typed_imports() -> dict[str, tuple[str, str]]:
    """Name to module and name there, as type checkers read them."""
    tree = ast.parse((ROOT / "genrec" / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    return {
        alias.asname or alias.name: (str(node.module), alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_every_public_name_is_the_object_that_type_checkers_see():
    names = set(genrec.__all__) - {"__version__"}
    assert names >= PROMISED
    assert set(typed_imports()) == names
    for name, (module, attribute) in typed_imports().items():
        assert getattr(genrec, name) is getattr(importlib.import_module(module), attribute), name
    assert set(dir(genrec)) >= names


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'genrec' has no attribute 'Recomender'"):
        genrec.Recomender  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Recomender'"):
        from genrec import Recomender  # noqa: F401


def test_import_genrec_loads_no_library():
    program = (
        "import json, sys\nbefore = set(sys.modules)\nimport genrec\n"
        "names = sorted({name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))\n"
        "print(json.dumps([names, 'Recommender' in dir(genrec), 'Recommender' in vars(genrec)]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == [["genrec"], True, False]


@pytest.mark.parametrize("package", sorted(path.parent.name for path in (ROOT / "genrec").glob("*/__init__.py")))
def test_what_a_package_exports_exists_once_and_is_sorted(package):
    module = importlib.import_module(f"genrec.{package}")
    names = getattr(module, "__all__", [])
    assert len(set(names)) == len(names)
    for name in names:
        assert getattr(module, name) is not None, name


def imported_from_genrec(path: Path) -> list[tuple[str, str]]:
    return [
        (str(node.module), alias.name)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "genrec"
        for alias in node.names
    ]


def test_scripts_take_a_name_from_the_shortest_place_that_exports_it():
    wrong = []
    for path in sorted((ROOT / "scripts").rglob("*.py")):
        for module, name in imported_from_genrec(path):
            taken = getattr(importlib.import_module(module), name, None)
            parents = [importlib.import_module(module.rsplit(".", cut)[0]) for cut in range(1, module.count(".") + 1)]
            public = [one for one in parents if name in getattr(one, "__all__", [])]
            # A module of the same name (genrec.training.train) is another thing.
            shorter = [one.__name__ for one in public if getattr(one, name) is taken]
            if shorter or name.startswith("_"):
                wrong.append(f"{path.relative_to(ROOT)}: {name} from {module}, not {shorter}")
    assert wrong == []
