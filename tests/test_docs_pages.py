"""The pages of the documentation: links and anchors, navigation, a page per family, names of the glossary, lines."""

import re
import runpy
from collections import Counter
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from documents import FENCE, ROOT, page_name

from genrec.models.registry import FAMILIES, recommender_class
from genrec.tokenizers.registry import TOKENIZERS

DOCS = ROOT / "docs"
DOCUMENTS = [*sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("*.md"))]
LINK = re.compile(r"\]\((?!https?:)([^)]+)\)")
# Longest line of prose in pages that are wrapped, without links, which cannot be broken.
WIDTH = 100
WRAPPED = [*sorted(DOCS.glob("recommenders/*.md")), *sorted(DOCS.glob("tokenizers/*.md")), DOCS / "architecture.md"]
# Settings that several families share are explained once.
SHARED = [DOCS / "scale.md", DOCS / "recommenders" / "times-and-users.md"]


@cache
def anchors_of(page: Path) -> frozenset[str]:
    """The anchors of a page's headings, as Python-Markdown's ``toc`` makes them."""
    text, seen = FENCE.sub("", page.read_text(encoding="utf-8")), Counter[str]()
    anchors = set()
    for heading in re.findall(r"^#+ (.*)$", text, re.M):
        words = re.sub(r"[^\w\s-]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)).strip().lower()
        slug = re.sub(r"[\s-]+", "-", words)
        anchors.add(slug if not seen[slug] else f"{slug}_{seen[slug]}")
        seen[slug] += 1
    return frozenset(anchors)


@pytest.mark.parametrize("page", DOCUMENTS, ids=page_name)
def test_links_lead_to_files_and_headings(page):
    broken = []
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (anchor and anchor not in anchors_of(file.resolve())):
            broken.append(target)
    assert broken == []


def test_every_page_is_in_the_navigation_once():
    def pages(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [page for inner in (entry.values() if isinstance(entry, dict) else entry) for page in pages(inner)]

    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    assert sorted(pages(navigation)) == sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


@pytest.mark.parametrize(("folder", "families"), [("recommenders", FAMILIES), ("tokenizers", TOKENIZERS)])
def test_every_family_has_a_page_that_the_overview_links(folder, families):
    overview = (DOCS / folder / "index.md").read_text(encoding="utf-8")
    for name in families:
        assert (DOCS / folder / f"{name}.md").read_text(encoding="utf-8").startswith(f"# {name}\n")
        assert f"[`{name}`]({name}.md)" in overview


def explained(page: Path) -> set[str]:
    """Names in the first column of a page's tables, and of those of the family whose settings it takes over."""
    text = page.read_text(encoding="utf-8")
    cells = "\n".join(row.split("|")[1] for row in text.splitlines() if row.startswith("|"))
    named = set(re.findall(r"`([a-z_]+)`", cells))
    parents = re.findall(r"those of `(\w+)`", cells)
    return named.union(*(explained(page.parent / f"{parent}.md") for parent in parents))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_setting_of_a_recommender_is_explained(name):
    named = explained(DOCS / "recommenders" / f"{name}.md").union(*(explained(page) for page in SHARED))
    assert set(recommender_class(name).Settings.model_fields) - named == set()


def test_names_of_the_glossary_exist():
    rows = [row for row in (DOCS / "glossary.md").read_text(encoding="utf-8").splitlines() if row.count("|") == 5]
    names = {name for row in rows for name in re.findall(r"`(genrec[\w.]+)`", row)}
    assert len(names) > 25
    assert [name for name in sorted(names) if not exists(name)] == []


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute or field of what a module holds."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            value = import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            fields = {**getattr(value, "model_fields", {}), **getattr(value, "__dataclass_fields__", {})}
            if not hasattr(value, part) and part not in fields:
                return False
            value = getattr(value, part, None)
        return True
    return False


def test_a_name_that_does_not_exist_is_seen():
    assert exists("genrec.tokenizers.ItemIndex.codes")
    assert not exists("genrec.tokenizers.ItemIndex.letters")
    assert not exists("genrec.shelves.Shelf")


@pytest.mark.parametrize("page", WRAPPED, ids=page_name)
def test_prose_is_wrapped(page):
    prose = FENCE.sub("", page.read_text(encoding="utf-8")).splitlines()
    lines = [LINK.sub("](", line) for line in prose if not line.startswith(("|", "#", "!["))]
    assert [line for line in lines if len(line) > WIDTH + 4] == []


def test_tables_of_the_site_show_no_backslash_in_code():
    unescape = runpy.run_path(str(ROOT / "scripts" / "site_hooks.py"))["on_page_markdown"]
    assert unescape("| `a \\| b` | x \\| y |\n`c \\| d`") == "| `a | b` | x \\| y |\n`c \\| d`"
    hooks = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["hooks"]
    assert hooks == ["scripts/site_hooks.py"]
