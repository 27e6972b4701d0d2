"""The plan of the house, enforced: who may import whom, and what nothing may be called."""

import ast
import importlib
import json
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from importlib import metadata
from pathlib import Path
from types import FunctionType, ModuleType
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "genrec").rglob("*.py"))
ORDER = [
    "distributed",
    "data",
    "features",
    "tokenizers",
    "models",
    "decoding",
    "evaluation",
    "training",
    "alignment",
    "reports",
    "pipeline",
]
FACES = ["recommender", "generation", "inspection", "doctor", "testing", "cli"]
FOR_ALL = {"errors", "terminal", "config", "artifacts", "signals"}
HEAVY = {
    "torch",
    "transformers",
    "faiss",
    "sklearn",
    "datasets",
    "matplotlib",
    "polars",
    "numpy",
    "scipy",
    "accelerate",
}


def room_of(path: Path) -> str:
    relative = path.relative_to(ROOT / "genrec")
    return relative.parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """First parts below ``genrec`` that a file imports, wherever in the file the import is."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names = [
                f"{node.module}.{alias.name}" if node.module == "genrec" else str(node.module) for alias in node.names
            ]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("genrec.")}
    return found


def test_rooms_import_only_from_rooms_to_their_left():
    ranks = {name: rank for rank, name in enumerate(ORDER)}
    ranks |= {name: len(ORDER) + rank for rank, name in enumerate(FACES)}
    wrong = []
    for path in SOURCES:
        room = room_of(path)
        if room in FOR_ALL:
            wrong += [f"{path}: {other}" for other in imported_rooms(path) - FOR_ALL]
        elif room in ranks:
            wrong += [
                f"{path.relative_to(ROOT)} imports genrec.{other}"
                for other in imported_rooms(path) - FOR_ALL - {room}
                if ranks.get(other, -1) > ranks[room]
            ]
    assert wrong == []


def imported_modules(path: Path, modules: set[str]) -> set[str]:
    """Modules of genrec that a file imports, wherever in the file, but for what only type checkers read."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    unread = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and getattr(block.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in unread:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules else str(node.module) for name in names}
        elif isinstance(node, ast.Import) and id(node) not in unread:
            found |= {alias.name for alias in node.names}
    return found & modules


def test_no_circle_of_imports():
    paths = {path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): path for path in SOURCES}
    paths = {name.removesuffix(".__init__"): path for name, path in paths.items()}
    graph = {name: imported_modules(path, set(paths)) - {name} for name, path in paths.items()}
    # Raises CycleError, which names the modules of a circle.
    order = list(TopologicalSorter(graph).static_order())
    assert len(order) == len(paths)


def test_the_circle_checker_sees_a_circle():
    with pytest.raises(CycleError):
        TopologicalSorter({"a": {"b"}, "b": {"c"}, "c": {"a"}}).prepare()


def test_every_room_has_its_place_in_the_order():
    rooms = {room_of(path) for path in SOURCES} - FOR_ALL - {"__init__", "cli"}
    assert rooms <= {*ORDER, *FACES}


def test_the_import_checker_sees_an_import_inside_a_function(tmp_path):
    path = tmp_path / "sample.py"
    path.write_text(
        "def f():\n    from genrec.cli import main\n    import genrec.training.train\n    from genrec import errors\n"
    )
    assert imported_rooms(path) == {"cli", "training", "errors"}


def test_libraries_that_need_care_have_one_place_each():
    # faiss ends the process over sizes that it does not like; figures need fonts for the letters of their texts.
    places = {
        r"^\s*(import|from) faiss\b|import_module\(.faiss": "tokenizers/parts/clustering.py",
        r"\.savefig\(|\bpyplot\b(?! would)|\bFigureCanvasAgg\b": "tokenizers/quality/canvas.py",
    }
    found = {
        (pattern, path.relative_to(ROOT / "genrec").as_posix())
        for path in SOURCES
        for pattern in places
        if re.search(pattern, path.read_text(encoding="utf-8"), re.M)
    }
    assert found == set(places.items())


def test_files_stay_short():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: length for name, length in lengths.items() if length > 500} == {}


def test_functions_stay_short():
    long = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef):
                continue
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            if length > 50:
                long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {length} lines")
    assert long == []


def test_nothing_is_called_utils():
    named = [path for folder in ("genrec", "tests", "scripts") for path in (ROOT / folder).rglob("*util*")]
    assert [path for path in named if "__pycache__" not in path.parts] == []


def test_the_recipe_folder_is_no_package():
    # With an __init__.py it would hide the Hugging Face wheel `tokenizers`, which transformers needs.
    assert not (ROOT / "tokenizers" / "__init__.py").exists()
    assert list((ROOT / "tokenizers").rglob("*.py")) == []
    import tokenizers

    assert "site-packages" in tokenizers.__file__


def test_no_script_is_named_after_a_dependency():
    installed = {name.lower() for name in metadata.packages_distributions()}
    scripts = {path.stem.lower() for path in (ROOT / "scripts").rglob("*.py")}
    assert scripts & (installed | set(sys.stdlib_module_names)) == set()


def test_nothing_is_run_as_a_module_of_the_recipe_folder():
    texts = [*ROOT.glob("docs/**/*.md"), *ROOT.glob("*.md"), ROOT / "Makefile", ROOT / ".ci" / "run", *SOURCES]
    wrong = [path for path in texts if re.search(r"-m\s+tokenizers\b", path.read_text(encoding="utf-8"))]
    assert wrong == []


def test_help_imports_nothing_heavy():
    program = (
        "import json, sys\nfrom genrec.cli import main\ncode = main(['--help'])\n"
        "print(json.dumps([code, sorted({name.split('.')[0] for name in sys.modules})]), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    code, modules = json.loads(done.stderr.splitlines()[-1])
    assert code == 0
    assert "Usage: genrec" in done.stdout
    assert HEAVY & set(modules) == set()


def test_no_pickle_and_no_unsafe_loading():
    forbidden = {
        "pickle": re.compile(r"^\s*(import|from) (pickle|dill|joblib|cloudpickle)\b", re.M),
        "torch.load": re.compile(r"\btorch\.load\((?![^)]*weights_only=True)"),
        "yaml.load": re.compile(r"\byaml\.load\("),
        "eval": re.compile(r"(?<![\w.])(eval|exec)\("),
    }
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in SOURCES
        for name, pattern in forbidden.items()
        if pattern.search(path.read_text(encoding="utf-8"))
    ]
    assert wrong == []


def overridden_private_methods(module: ModuleType) -> list[str]:
    """Private methods of other libraries that a class of a module replaces."""
    found = []
    for kind in vars(module).values():
        if not isinstance(kind, type) or kind.__module__ != module.__name__:
            continue
        bases = [base for base in kind.__mro__ if not base.__module__.startswith(("genrec.", "builtins", "tests"))]
        methods = [name for name, value in vars(kind).items() if isinstance(value, FunctionType)]
        private = [name for name in methods if name.startswith("_") and not name.endswith("_")]
        found += [f"{kind.__qualname__}.{name}" for name in private if any(name in vars(base) for base in bases)]
    return found


def test_no_private_method_of_another_library_is_overridden():
    names = [path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in SOURCES]
    modules = [importlib.import_module(name.removesuffix(".__init__")) for name in names if "__main__" not in name]
    found = {method for module in modules for method in overridden_private_methods(module)}
    # transformers documents this one as how a model of one's own is initialized.
    assert {method for method in found if not method.endswith("._init_weights")} == set()


def test_the_override_checker_sees_an_override():
    class Replaced(json.JSONDecoder):
        def _scan_once(self) -> None: ...

    class Loud(json.JSONEncoder):
        def default(self, o: object) -> None: ...

    class Replacing(ElementTree.XMLPullParser):
        def _close_and_return_root(self) -> None: ...

    module = ModuleType("genrec.sample")
    for kind in (Replaced, Loud, Replacing):
        kind.__module__ = module.__name__
        setattr(module, kind.__name__, kind)
    assert [method.split(".")[-1] for method in overridden_private_methods(module)] == ["_close_and_return_root"]
