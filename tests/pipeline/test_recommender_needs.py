"""What a recommender needs and does not get: said with the command that makes it, and before anything is made."""

import pytest
from tiny_run import tiny_home

from genrec.cli import main
from genrec.config import RecommenderConfig
from genrec.errors import ConfigError
from genrec.models import resolve_recommender
from genrec.pipeline.resolve import check_vectors

EMBED = "genrec embed --dataset DIR --out FOLDER"
COLLABORATIVE = ("reads collaborative vectors, and these are by lexical", f"{EMBED} --set encoder=lightgcn")
SMALL = "hidden_size: 16, num_layers: 1, num_heads: 1"


@pytest.fixture
def refused(tmp_path, capsys):
    """Run a command that must fail with a usage error; what it says in one line, and what it leaves."""

    def run(*command) -> tuple[str, set[str]]:
        capsys.readouterr()
        assert main([str(part) for part in command]) == 2
        shown = " ".join(capsys.readouterr().err.split())
        assert "error: " in shown
        assert "what to do: " in shown
        return shown, {path.name for path in (tmp_path / "out").glob("[!.]*")}

    return run


@pytest.mark.parametrize(
    ("recommender", "tokenizer", "words"),
    [
        ("depth", "set", ("'depth' cannot use these semantic IDs, which are sets", "tokenizer.name=rqkmeans")),
        ("setrec", "rqkmeans", ("'setrec' cannot use these semantic IDs, which are ordered", "set tokenizer.name=set")),
        ("colarec", "gid", COLLABORATIVE),
    ],
)
def test_a_recipe_whose_parts_do_not_fit_is_refused_before_any_work(recommender, tokenizer, words, refused, tmp_path):
    given = [f"recommender={{name: {recommender}}}", f"tokenizer={{name: {tokenizer}}}"]
    sets = [part for text in given for part in ("--set", text)]
    shown, left = refused("run", tiny_home() / "tiny.yaml", *sets, "--out", tmp_path / "out")
    assert [word for word in words if word not in shown] == []
    assert left == set()


@pytest.mark.parametrize("recommender", ["llm", "colarec"])
def test_items_without_words_are_refused_before_vectors_are_made(recommender, refused, tmp_path):
    table = tiny_home() / "data" / "interactions.csv"
    assert main(["prepare", "--interactions", str(table), "--out", str(tmp_path / "bare"), "--k-core", "0"]) == 0
    given = [
        f"recommender={{name: {recommender}}}",
        f"data={{path: {tmp_path / 'bare'}}}",
        "features={encoder: fastrp}",
    ]
    sets = [part for text in given for part in ("--set", text)]
    shown, left = refused("run", tiny_home() / "tiny.yaml", *sets, "--out", tmp_path / "out")
    assert f"the recommender '{recommender}' reads the texts of items and there are none" in shown
    assert "genrec prepare --items FILE" in shown
    assert "features" not in left


@pytest.mark.parametrize(
    ("recommender", "folders", "words"),
    [
        ("depth", ["tokenizer"], ("'depth' reads item features and none were given", f"{EMBED})", "--features")),
        ("colarec", ["tokenizer"], ("'colarec' reads item features", f"{EMBED} --set encoder=lightgcn)")),
        ("colarec", ["tokenizer", "features"], COLLABORATIVE),
        ("decoder", [], ("'decoder' reads semantic IDs and none were given", "genrec tokenize TOKENIZER.yaml")),
        ("setrec", ["tokenizer"], ("'rqkmeans' has no continuous tokens", "genrec tokenize")),
    ],
)
def test_the_verb_that_trains_names_the_verb_that_is_missing(recommender, folders, words, refused, tmp_path):
    run = tiny_home() / "run"
    (tmp_path / "recipe.yaml").write_text(f"recommender: {{name: {recommender}, {SMALL}}}\n", encoding="utf-8")
    given = [part for name in folders for part in (f"--{name}", run / name)]
    command = ["train", tmp_path / "recipe.yaml", "--dataset", run / "dataset", *given]
    shown, left = refused(*command, "--out", tmp_path / "out")
    assert [word for word in words if word not in shown] == []
    assert left == set()


@pytest.mark.parametrize(
    ("made", "fits"),
    [
        ({"encoder": "lightgcn"}, True),
        ({"encoder": "matrix"}, True),
        ({"encoder": "concat", "parts": [{"encoder": "lexical"}, {"encoder": "sasrec"}]}, True),
        ({"encoder": "concat", "parts": [{"encoder": "lexical"}, {"encoder": "sentence"}]}, False),
        ({"encoder": "metadata"}, False),
    ],
)
def test_vectors_are_collaborative_if_any_part_reads_interactions(made, fits):
    if fits:
        check_vectors(resolve_recommender(RecommenderConfig(name="colarec")), made)
        return
    with pytest.raises(ConfigError, match=r"or set recommender\.use_features=false"):
        check_vectors(resolve_recommender(RecommenderConfig(name="colarec")), made)
    check_vectors(resolve_recommender(RecommenderConfig(name="colarec", use_features=False)), made)
    check_vectors(resolve_recommender(RecommenderConfig(name="depth")), made)
