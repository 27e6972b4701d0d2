"""Hooks of mkdocs (``mkdocs.yml``): what GitHub and mkdocs read differently."""

import re
from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Take away the backslash of bars inside code in tables.

    GitHub needs ``\\|`` there; Python-Markdown does not split cells inside code, and would show the backslash.
    """
    lines = markdown.split("\n")
    return "\n".join(unescape_bars(line) if line.startswith("|") else line for line in lines)


def unescape_bars(row: str) -> str:
    """A row of a table with plain bars in its code spans."""
    return re.sub(r"`[^`]*`", lambda span: span[0].replace(r"\|", "|"), row)
