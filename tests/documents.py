"""What the documentation shows: its fenced blocks, and the commands and settings in them."""

import re
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.M | re.S)
SPAN = re.compile(r"`([^`\n]+)`")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")


def page_name(page: Path) -> str:
    """Where a page is in the repository, for a test's name and messages."""
    return page.relative_to(ROOT).as_posix()


@dataclass(frozen=True)
class CodeBlock:
    """One fenced block.

    Attributes:
        page: The file.
        line: Where it begins, from 1.
        language: What its fence says.
        text: What is inside, with its last newline.
    """

    page: Path
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        """Where it is, for a message."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command line as it is written.

    Attributes:
        place: Where it is.
        words: Program and arguments, without comment and without variables set before them.
        comment: What the comment after it says.
    """

    place: str
    words: tuple[str, ...]
    comment: str = ""

    @property
    def program(self) -> str:
        """The first word."""
        return self.words[0]

    @property
    def complete(self) -> bool:
        """Whether nothing is left out of it."""
        return "..." not in self.words


@cache
def blocks_of(page: Path, *languages: str) -> tuple[CodeBlock, ...]:
    """The fenced blocks of a page in their order; of all languages if none is named."""
    text = page.read_text(encoding="utf-8")
    found = (
        CodeBlock(page, text.count("\n", 0, match.start()) + 1, match[1], match[2]) for match in FENCE.finditer(text)
    )
    return tuple(block for block in found if not languages or block.language in languages)


def all_blocks(*languages: str) -> list[CodeBlock]:
    """The fenced blocks of all pages."""
    return [block for page in PAGES for block in blocks_of(page, *languages)]


def commands_of(block: CodeBlock) -> list[Command]:
    """The command lines of a block: continued lines joined, several on a line parted, ``bash -c`` looked into."""
    commands = []
    for line in block.text.replace("\\\n", " ").splitlines():
        words, _, comment = line.partition(" #") if not line.startswith("#") else ("", "", line)
        commands += [Command(block.place, part, comment.strip(" #")) for part in split_line(words)]
    return commands


def split_line(line: str) -> list[tuple[str, ...]]:
    """The commands of one line, ``[--option VALUE]`` read as given."""
    words, parts = shlex.split(re.sub(r"\[(--[^\]]*)\]", r"\1", line)), [[]]
    for word in words:
        if word == "&&":
            parts.append([])
        elif parts[-1] or not re.match(r"[A-Z_]+=", word):
            parts[-1].append(word)
    found = [tuple(part) for part in parts if part]
    return [inner for part in found for inner in (split_line(part[-1]) if part[-2:-1] == ("-c",) else [part])]


def spans_of(page: Path) -> list[str]:
    """The pieces of a page's prose and tables that are set as code."""
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    return [span.replace("\\|", "|") for span in SPAN.findall(prose)]
