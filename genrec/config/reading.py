"""Recipes read from YAML and checked: what is wrong, where, and what would be accepted."""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from genrec.config.sections import Recipe, Section
from genrec.errors import ConfigError

MAX_RECIPE_BYTES = 1_000_000
# What a YAML reader raises on text that is no recipe: also dates that do not exist, numbers of thousands of digits,
# keys that are lists, and brackets nested too deeply.
UNREADABLE = (yaml.YAMLError, ValueError, TypeError, RecursionError)

SectionType = TypeVar("SectionType", bound=Section)


class _PlainLoader(yaml.SafeLoader):
    """Safe YAML without aliases (a few lines of nested aliases expand to gigabytes) and with 1e-3 read as a number."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not accepted in a recipe", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in mapping:
                raise yaml.MarkedYAMLError(problem=f"key {key!r} occurs twice", problem_mark=key_node.start_mark)
            mapping[key] = self.construct_object(value_node, deep=deep)
        return mapping


def _read_float(loader: yaml.SafeLoader, node: Any) -> float | str:
    try:
        return float(node.value)
    except ValueError:
        return str(node.value)


_PlainLoader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
for _first in "+-.0123456789":
    # YAML 1.1 reads "1e-3" as text.
    _PlainLoader.yaml_implicit_resolvers.setdefault(_first, []).append(
        ("!exponent", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"))
    )
_PlainLoader.add_constructor("!exponent", _read_float)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping.

    Raises:
        ConfigError: If the file is missing, too large, not YAML, uses aliases or is not a mapping.
    """
    if not path.is_file():
        raise ConfigError(f"there is no recipe {path}", fix="check the path; recipes are in configs/ and tokenizers/")
    if path.stat().st_size > MAX_RECIPE_BYTES:
        raise ConfigError("the recipe is too large", where=str(path), expected=f"at most {MAX_RECIPE_BYTES} bytes")
    try:
        values = _PlainLoader(path.read_text(encoding="utf-8-sig")).get_single_data()
    except UNREADABLE as error:
        problem = " ".join(str(error).split()) or "nested too deeply"
        raise ConfigError("the recipe is not readable YAML", where=f"{path}: {problem}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"the recipe is a {type(values).__name__}", where=str(path), expected="a mapping of sections")
    return values


def load_recipe(path: str | Path | None, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply ``section.key=value`` overrides.

    Args:
        path: YAML file, or None for the defaults.
        overrides: Assignments in the order given; values are read as YAML.

    Raises:
        ConfigError: If a key or a value is not accepted.
    """
    values = read_yaml(Path(path)) if path is not None else {}
    for assignment in overrides:
        _assign(values, assignment)
    return parse_settings(Recipe, values, where=str(path) if path is not None else "the command line")


def parse_settings(cls: type[SectionType], values: Mapping[str, Any], *, where: str) -> SectionType:
    """Validate a mapping as ``cls``.

    Args:
        cls: A section, or the ``Settings`` of a family.
        values: Keys and values as read from YAML.
        where: File or section that the message names.

    Raises:
        ConfigError: On the first unknown key (naming the nearest one) or unusable value.
    """
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        errors = error.errors(include_url=False)
    # Of a value that may be a number or a list, the branch is meant that got furthest.
    first = max((one for one in errors if one["loc"][:1] == errors[0]["loc"][:1]), key=_depth)
    location = _location(values, first["loc"])
    reason = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        raise ConfigError(reason, where=where, fix="change one of these settings")
    if first["type"] == "missing":
        raise ConfigError(f"{location} is missing", where=where, expected="a value", fix=f"set {location}")
    if first["type"] != "extra_forbidden":
        raise ConfigError(
            f"{location} = {_shown(first['input'])} cannot be used", where=where, expected=reason, fix=f"set {location}"
        )
    known = _keys_beside(cls, first["loc"])
    nearest = difflib.get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.5)
    raise ConfigError(
        f"unknown key {location}",
        where=where,
        expected=f"one of {', '.join(sorted(known))}",
        fix=f"did you mean {nearest[0]!r}?" if nearest else "remove it",
    )


def _depth(error: Any) -> tuple[int, bool]:
    return len(error["loc"]), not error["type"].endswith("_type")


def _location(values: Any, location: tuple[int | str, ...]) -> str:
    """Keys and positions that lead to a value, without the names that pydantic adds for the branches of a union."""
    parts = []
    for number, part in enumerate(location, 1):
        if isinstance(values, Mapping):
            named, inner = part in values or number == len(location), values.get(part)
        else:
            named, inner = isinstance(part, int), None
            if isinstance(part, int) and isinstance(values, Sequence):
                inner = values[part]
        if named:
            parts.append(str(part))
            values = inner
    return ".".join(parts)


def _shown(value: Any, longest: int = 200) -> str:
    try:
        text = repr(value)
    except ValueError:
        return "an integer of thousands of digits"
    return text if len(text) <= longest else f"{text[:longest]}..."


def _keys_beside(cls: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    for part in location[:-1]:
        field = cls.model_fields.get(str(part))
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return []
        cls = field.annotation
    return list(cls.model_fields)


def _assign(values: dict[str, Any], assignment: str) -> None:
    dotted, equals, text = assignment.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {assignment!r} is not an assignment", expected="section.key=value")
    try:
        value = _PlainLoader(text).get_single_data()
    except UNREADABLE as error:
        raise ConfigError(f"--set {assignment!r}: the value is not YAML", expected="section.key=value") from error
    for key in keys[:-1]:
        inner = values.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {assignment!r}: {key} is not a section", expected="section.key=value")
        values = inner
    values[keys[-1]] = value
