"""Every call by which a library loads something pretrained says: no code of the folder, no pickle."""

import ast
from pathlib import Path

import pytest

import genrec

SOURCE = Path(genrec.__file__).parent
SCRIPTS = SOURCE.parent / "scripts"
# Ours, and the adapters of peft, which are read by the names that were checked before.
OWN = {"Recommender", "ItemTokenizer", "PeftModel"}
LOADERS = {"from_pretrained", "from_config", "SentenceTransformer", "CrossEncoder", "SparseEncoder", "pipeline"}
# What holds no weights.
WORDS = {"AutoTokenizer", "AutoConfig"}


def loading_calls(text: str) -> list[tuple[str, dict[str, object], int]]:
    """Receiver, constant keywords and line of every call that loads something pretrained."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        receiver = node.func.value if isinstance(node.func, ast.Attribute) else None
        owner = getattr(receiver, "attr", getattr(receiver, "id", ""))
        if name in LOADERS and owner not in OWN:
            values = {word.arg: word.value.value for word in node.keywords if isinstance(word.value, ast.Constant)}
            found.append((owner or name, {str(key): value for key, value in values.items()}, node.lineno))
    return found


def trusting(text: str) -> list[int]:
    """Lines of calls that leave it to a default whether code is run or pickles are read."""
    wrong = []
    for owner, keywords, line in loading_calls(text):
        pickles = owner not in WORDS | {"SentenceTransformer"}
        needs_safetensors = pickles and "from_config" not in text.splitlines()[line - 1]
        unpickles = needs_safetensors and keywords.get("use_safetensors") is not True
        if unpickles or keywords.get("trust_remote_code") is not False:
            wrong.append(line)
    return wrong


def test_no_call_trusts_what_it_loads():
    files = [*SOURCE.rglob("*.py"), *SCRIPTS.rglob("*.py")]
    calls = {path: loading_calls(path.read_text(encoding="utf-8")) for path in files}
    assert sum(map(len, calls.values())) >= 8
    wrong = [f"{path}:{line}" for path in files for line in trusting(path.read_text(encoding="utf-8"))]
    assert not wrong


def test_nothing_unpickles():
    for path in (*SOURCE.rglob("*.py"), *SCRIPTS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "np.load", "numpy.load"):
                safe = {word.arg: ast.literal_eval(word.value) for word in node.keywords if word.arg != "map_location"}
                assert safe.get("weights_only") is True or safe.get("allow_pickle") is False, f"{path}:{node.lineno}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert not names & {"pickle", "cPickle", "dill", "cloudpickle", "joblib"}, f"{path}:{node.lineno}"


@pytest.mark.parametrize(
    "call",
    [
        "AutoTokenizer.from_pretrained(folder)",
        "transformers.AutoModel.from_pretrained(folder, use_safetensors=True)",
        "AutoModel.from_pretrained(folder, trust_remote_code=False)",
        "AutoModel.from_pretrained(folder, trust_remote_code=True, use_safetensors=True)",
        "AutoModel.from_config(config)",
        "SentenceTransformer(name)",
        "family.from_pretrained(folder, trust_remote_code=trust)",
    ],
)
def test_the_scan_finds_what_it_is_for(call):
    assert trusting(call) == [1]
