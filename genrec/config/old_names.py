"""Keys and names that earlier versions spelled the British way: accepted for one release, with a warning."""

import logging
from collections.abc import Container, Mapping
from typing import Any

STEMS = {"neighbour": "neighbor", "normalis": "normaliz", "regularis": "regulariz"}

logger = logging.getLogger(__name__)


def current_name(name: str, known: Container[str]) -> str:
    """The spelling of today of a key or of a family's name.

    Args:
        name: As given.
        known: What there is.

    Returns:
        ``name`` itself if it is known or no earlier spelling of something known.
    """
    current = name
    for old, new in STEMS.items():
        current = current.replace(old, new)
    if name in known or current not in known:
        return name
    logger.warning("%s is now spelled %s; the old spelling will be refused in the next release", name, current)
    return current


def current_keys(values: Mapping[str, Any], known: Container[str]) -> dict[str, Any]:
    """Settings under their keys of today.

    Raises:
        ValueError: If a setting is given in both spellings.
    """
    renamed: dict[str, Any] = {}
    for key, value in values.items():
        current = current_name(key, known) if isinstance(key, str) else key
        if current != key and current in values:
            raise ValueError(f"{current} is given twice, also as {key}: keep one of them")
        renamed[current] = value
    return renamed
