"""Every number of every settings class has a range, and what is outside it is refused under its key."""

import importlib
import math
import pkgutil
from collections.abc import Callable, Iterator
from typing import Annotated, Any, get_args, get_origin

import annotated_types
import pytest
from pydantic.fields import FieldInfo

import genrec
from genrec.config import EvaluationConfig, Section, TrainingConfig, load_recipe, parse_settings
from genrec.errors import ConfigError

# What classes need that have settings without a default.
REQUIRED: dict[str, Any] = {
    "path": "x",
    "parts": [{"encoder": "lexical"}],
    "split": "ratio",
    "part": "test",
    "catalogue": 1,
    "exclude_seen": True,
}
Wrap = Callable[[Any], Any]


def settings_classes() -> list[type[Section]]:
    for module in pkgutil.walk_packages(genrec.__path__, "genrec."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found: set[type[Section]] = set()
    waiting = [Section]
    while waiting:
        below = [cls for cls in waiting.pop().__subclasses__() if cls.__module__.startswith("genrec.")]
        waiting += below
        found |= set(below)
    return sorted(found, key=lambda cls: f"{cls.__module__}.{cls.__name__}")


def numbers_in(annotation: Any, metadata: list[Any], wrap: Wrap) -> Iterator[tuple[type, list[Any], Wrap]]:
    """Each integer or float that a value may hold: its type, its constraints, and how to put a number there."""
    if annotation in (int, float):
        yield annotation, metadata, wrap
        return
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner = [part for one in arguments[1:] for part in (one.metadata if isinstance(one, FieldInfo) else [one])]
        yield from numbers_in(arguments[0], metadata + inner, wrap)
    elif origin in (tuple, list):
        for place in range(1 if Ellipsis in arguments else len(arguments)):
            count = len(arguments) if Ellipsis not in arguments else 1
            yield from numbers_in(
                arguments[place],
                [],
                lambda value, at=place, n=count: wrap([value if here == at else 1 for here in range(n)]),
            )
    elif origin is dict:
        yield from numbers_in(arguments[1], [], lambda value: wrap({"a": value}))
    elif arguments:
        for branch in arguments:
            # The bounds of `Count | None = Field(None, ge=2)` are those of the field and of the branch.
            yield from numbers_in(branch, metadata, wrap)


def numeric_fields() -> list[Any]:
    cases = []
    for cls in settings_classes():
        for name, field in cls.model_fields.items():
            cases += [
                pytest.param(cls, name, kind, metadata, wrap, id=f"{cls.__module__[7:]}.{cls.__name__}.{name}")
                for kind, metadata, wrap in numbers_in(field.annotation, list(field.metadata), lambda value: value)
            ]
    return cases


def bounds_of(metadata: list[Any], kind: type) -> tuple[list[Any], list[Any]]:
    """Values just below and just above what is accepted."""

    def beyond(bound: float, towards: float) -> float:
        return bound + (1 if towards > 0 else -1) if kind is int else math.nextafter(bound, towards)

    low = [beyond(one.ge, -math.inf) for one in metadata if isinstance(one, annotated_types.Ge)]
    low += [one.gt for one in metadata if isinstance(one, annotated_types.Gt)]
    high = [beyond(one.le, math.inf) for one in metadata if isinstance(one, annotated_types.Le)]
    high += [one.lt for one in metadata if isinstance(one, annotated_types.Lt)]
    return low, high


def refusal(cls: type[Section], name: str, value: Any) -> str:
    needed = {key: filler for key, filler in REQUIRED.items() if key in cls.model_fields}
    with pytest.raises(ConfigError) as caught:
        parse_settings(cls, {**needed, name: value}, where="recipe")
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize(("cls", "name", "kind", "metadata", "wrap"), numeric_fields())
def test_every_number_has_a_range(cls, name, kind, metadata, wrap):
    low, high = bounds_of(metadata, kind)
    assert low, "no lower bound"
    assert high, "no upper bound"
    wrong = [*low, *high, 2**63, -(2**63) - 1, 10**30, True, "1"]
    wrong += [1.5] if kind is int else [math.nan, math.inf, -math.inf, 1e300]
    if type(None) in get_args(cls.model_fields[name].annotation) and str in get_args(cls.model_fields[name].annotation):
        wrong.remove("1")  # a name is accepted in its place
    for value in wrong:
        message = refusal(cls, name, wrap(value))
        assert message.startswith(name), (value, message)
        assert " cannot be used\n  where: recipe\n  expected: " in message


def test_the_walk_finds_the_settings_of_all_kinds():
    names = {f"{param.values[0].__name__}.{param.values[1]}" for param in numeric_fields()}
    assert len(names) > 250
    assert names >= {
        "EvaluationConfig.ks",
        "AlignmentConfig.rewards",
        "UltraGCNSettings.constraints",
        "CodebookSettings.codebook_size",
        "ResidualScalarSettings.grids",
        "SASRecSettings.num_layers",
        "Protocol.seeds",
    }


def test_a_number_without_a_range_would_be_found():
    class Loose(Section):
        size: int = 3

    ((kind, metadata, _wrap),) = numbers_in(Loose.model_fields["size"].annotation, [], lambda value: value)
    assert bounds_of(metadata, kind) == ([], [])


@pytest.mark.parametrize("ks", ["[]", "[-1]", "[0]", "[5, 0]", "[true]", "['5']", "[1.5]", "[100001]", "5", "null"])
def test_lengths_of_lists_are_refused_before_any_work(ks):
    with pytest.raises(ConfigError, match=r"evaluation\.ks"):
        load_recipe(None, [f"evaluation.ks={ks}"])


@pytest.mark.parametrize("metric", ["ndcg@0", "ndcg@-1", "ndcg@1.5", "recall@99999999999999999999", "ndcg@x", "mrr@²"])
@pytest.mark.parametrize("key", ["training.metric", "alignment.training.metric", "alignment.guard"])
def test_metrics_are_of_lists_of_some_length(key, metric):
    with pytest.raises(ConfigError, match=key):
        load_recipe(None, [f"{key}={metric}"])


def test_values_inside_the_ranges_are_accepted():
    assert parse_settings(EvaluationConfig, {"ks": [1, 100_000]}, where="x").ks == (1, 100_000)
    assert parse_settings(TrainingConfig, {"seed": 2_000_000_000, "epochs": 1e3}, where="x").epochs == 1000


def test_the_branch_of_a_value_that_may_be_a_list_is_not_part_of_its_name():
    from genrec.tokenizers.base import CodebookSettings

    message = refusal(CodebookSettings, "codebook_size", [4, 0])
    assert message.startswith("codebook_size.1 = 0 cannot be used")
    assert "greater than or equal to 1" in message


@pytest.mark.parametrize(
    "text",
    [
        "training.seed=" + "9" * 5000,
        "data.path=" + "[" * 5000,
        "data.path=2024-13-45",
        "data.columns={[1]: 2}",
        "data.path=!!int x",
    ],
)
def test_values_that_no_yaml_reader_survives_are_refused(text):
    with pytest.raises(ConfigError, match=r"the value is not YAML|cannot be used"):
        load_recipe(None, [text])


def test_a_grid_of_more_codes_than_fit_is_refused():
    from genrec.tokenizers.fsq import ScalarSettings
    from genrec.tokenizers.residual_fsq import ResidualScalarSettings

    assert "a grid of at most" in refusal(ScalarSettings, "grid", [1000, 1000, 1000])
    assert "a grid of at most" in refusal(ResidualScalarSettings, "grids", [[5000, 5000]])
