"""The ranges of numbers in a recipe: every integer and every float of a settings class has one of these types.

A lower bound may be raised where it is used (``Width`` with ``Field(128, ge=8)``). Upper bounds are far above what is
useful, and low enough that the number is refused at once instead of failing after hours. Text and truth values are not
numbers; ``nan`` and infinities are refused by :class:`genrec.config.Section`.
"""

from collections.abc import Sequence
from math import prod
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

LONGEST_LIST = 100_000
MOST_CODES = 2**24


def check_product(sizes: Sequence[int]) -> None:
    """Refuse a grid of more codes than one level can have.

    Raises:
        ValueError: If so, for a validator of pydantic.
    """
    if prod(sizes) > MOST_CODES:
        raise ValueError(f"a grid of at most {MOST_CODES} codes in all, not {' x '.join(map(str, sizes))}")


def _is_number(value: Any) -> Any:
    if isinstance(value, bool | str):
        raise ValueError(f"Input should be a number, not {'text' if isinstance(value, str) else 'true or false'}")
    return value


def _is_metric(value: str) -> str:
    k = value.partition("@")[2]
    if k and not (k.isascii() and k.isdigit() and 1 <= int(k[:9]) <= LONGEST_LIST and len(k) < 9):
        raise ValueError(f"the name of a metric, @ and a length of list from 1 to {LONGEST_LIST}")
    return value


# Before the bounds: pydantic lets the later of two bounds of one kind win unless a validator is between them.
_NUMBER = BeforeValidator(_is_number)

# Seeds leave room for the small numbers that are added to them: faiss takes a signed integer of 32 bits.
Seed = Annotated[int, _NUMBER, Field(ge=0, le=2_000_000_000)]
Count = Annotated[int, _NUMBER, Field(ge=1, le=1_000_000_000)]
CountOrZero = Annotated[int, _NUMBER, Field(ge=0, le=1_000_000_000)]
BatchSize = Annotated[int, _NUMBER, Field(ge=1, le=1_000_000)]
Rounds = Annotated[int, _NUMBER, Field(ge=1, le=1_000_000)]
ListLength = Annotated[int, _NUMBER, Field(ge=1, le=LONGEST_LIST)]
Beams = Annotated[int, _NUMBER, Field(ge=1, le=100_000)]
HistoryLength = Annotated[int, _NUMBER, Field(ge=1, le=100_000)]
Width = Annotated[int, _NUMBER, Field(ge=1, le=65_536)]
WidthOrNone = Annotated[int, _NUMBER, Field(ge=0, le=65_536)]
Layers = Annotated[int, _NUMBER, Field(ge=1, le=512)]
LayersOrNone = Annotated[int, _NUMBER, Field(ge=0, le=512)]
Heads = Annotated[int, _NUMBER, Field(ge=1, le=1_024)]
Levels = Annotated[int, _NUMBER, Field(ge=1, le=32)]
Codes = Annotated[int, _NUMBER, Field(ge=1, le=MOST_CODES)]
Few = Annotated[int, _NUMBER, Field(ge=1, le=1_024)]
FewOrNone = Annotated[int, _NUMBER, Field(ge=0, le=1_024)]

Positive = Annotated[float, _NUMBER, Field(gt=0, le=1_000_000)]
Weight = Annotated[float, _NUMBER, Field(ge=0, le=1_000_000)]
Factor = Annotated[float, _NUMBER, Field(ge=-1_000_000, le=1_000_000)]
LearningRate = Annotated[float, _NUMBER, Field(gt=0, le=1_000_000)]
Share = Annotated[float, _NUMBER, Field(ge=0, le=1)]
Rate = Annotated[float, _NUMBER, Field(ge=0, lt=1)]
Minutes = Annotated[float, _NUMBER, Field(gt=0, le=10_000_000)]
# Feedback and other values of a user's own tables.
Value = Annotated[float, _NUMBER, Field(ge=-1e15, le=1e15)]

Metric = Annotated[str, AfterValidator(_is_metric)]
